//! One node of the tree: a dispatcher with its links and its executors.
//!
//! Here are its types, its commands and its inputs; `react` holds what it does about them, `speak` what it says, and
//! `record` what it writes down before it goes on.

mod react;
mod record;
mod sharing;
mod speak;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use self::record::Recorder;
use self::sharing::{Environments, Route, Sharing};
use super::dispatcher::{Counters, Dispatcher, DispatcherLimits, LaneId, LaneLoad, TaskState};
use super::downlink::{Downlink, LinkPolicy};
use super::invariant::Violation;
use super::ledger::JournalEntry;
use super::uplink::{Uplink, UplinkIdentity};
use super::warm_slots::WarmCounters;
use crate::contract::{Capacity, ExecutorEvent, IdleFirst, PeerId, PlacementPolicy};
use crate::message::{Hello, Message, Refused, Report, Warm};
use crate::model::{
    AttemptId, FunctionKind, Hop, HopStamps, IdentityId, Now, Outcome, Task, TaskEvent, TaskEventKind,
    TaskId, Tick,
};

/// A connection, numbered by the driver; never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId(pub u64);

/// A batch of outcomes that the driver was asked to make safe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeliveryId(pub u64);

/// Something that the driver was asked to write down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RecordId(pub u64);

/// How a node is set up.
///
/// ```
/// use funcx_core::model::Hop;
/// use funcx_core::state::NodeConfig;
/// let config = NodeConfig { queue_tasks: 8, ..NodeConfig::new(Hop::EndpointSent, "mine/1.0") };
/// assert_eq!(config.returned, Some(Hop::EndpointReturned));
/// ```
#[derive(Debug, Clone)]
pub struct NodeConfig {
    /// Who it is to the node above; `None` for a service, which has none. Default: `None`.
    pub uplink: Option<UplinkIdentity>,
    /// Times of the links below. Default: those of [`LinkPolicy::default`].
    pub link: LinkPolicy,
    /// Bounds of its queues. Default: those of [`DispatcherLimits::default`].
    pub limits: DispatcherLimits,
    /// How long a peer whose connection broke may take to come back; as long as it likes if `None`. Default: `None`.
    pub lease_grace: Option<Duration>,
    /// Whether it makes lost attempts again itself; else the node above does. Only for nodes that remember how many there
    /// were: in a journal or a store. Default: no.
    pub retries: bool,
    /// Whether it writes down what it holds, so that a later life goes on with it. Default: no.
    pub journal: bool,
    /// Tasks that it takes from above besides those its peers have room for. Default: 0.
    pub queue_tasks: u32,
    /// Tasks that may wait below besides those that run; what its peers ask for if `None`. Default: `None`.
    pub prefetch: Option<u32>,
    /// How long a task waits for a worker of its type while workers of other types are idle, which should be about as long as
    /// a worker takes to start; if `None`, the node does not look at types. Default: `None`.
    pub cold_after: Option<Duration>,
    /// Stamp of a task that goes down from here.
    pub sent: Hop,
    /// Stamp of an outcome that arrives here; a service has none, its record says when. Default: the one that goes with `sent`.
    pub returned: Option<Hop>,
    /// Name and version told to peers.
    pub software: String,
}

impl NodeConfig {
    /// The defaults of the fields, for a node that stamps what it sends with `sent`.
    pub fn new(sent: Hop, software: impl Into<String>) -> Self {
        let returned = match sent {
            Hop::EndpointSent => Some(Hop::EndpointReturned),
            Hop::ManagerSent => Some(Hop::ManagerReturned),
            Hop::Accepted
            | Hop::ServiceSent
            | Hop::Started
            | Hop::Ended
            | Hop::ManagerReturned
            | Hop::EndpointReturned => None,
        };
        Self {
            uplink: None,
            link: LinkPolicy::default(),
            limits: DispatcherLimits::default(),
            lease_grace: None,
            retries: false,
            journal: false,
            queue_tasks: 0,
            prefetch: None,
            cold_after: None,
            sent,
            returned,
            software: software.into(),
        }
    }
}

/// What the driver of a [`Node`] should do next.
#[derive(Debug, Clone, PartialEq)]
pub enum NodeOutput {
    /// Send to a node below.
    Send(LinkId, Message),
    /// Send to the node above.
    SendUp(Message),
    /// Close a connection from below, after what was sent. The reason is for the log.
    Close(LinkId, String),
    /// Close the connection to the node above. The reason is for the log.
    CloseUp(String),
    /// The node above does not take us.
    RefusedAbove(Refused),
    /// The session with the node above is open.
    OpenedAbove,
    /// Decide whether this node may serve, and answer with [`Node::admit`] or [`Node::refuse`].
    Authorize(LinkId, Hello),
    /// Let the executor run these.
    Run(PeerId, Vec<Task>),
    /// Let the executor stop these.
    Stop(PeerId, Vec<AttemptId>),
    /// Let the executor of this lane have so many of the shared slots (see [`Node::share_lane`]).
    Resize(LaneId, u32),
    /// Let the executor finish what has begun, and give back the rest.
    DrainExecutor(PeerId),
    /// Write this down, then say [`Node::recorded`]. Entries are written in the order of these outputs.
    Record(RecordId, Vec<JournalEntry>),
    /// These things happened to attempts here or below. `Started` is said only by nodes without a node above.
    Events(Vec<TaskEvent>),
    /// Make these outcomes safe, then say [`Node::committed`]. Deliveries are committed in order. May be empty, when
    /// only late outcomes came. Not for nodes with a node above: they keep outcomes until that one has them.
    Deliver(DeliveryId, Vec<Outcome>),
    /// A node below is ready for tasks.
    PeerUp(PeerInfo),
    /// A node below is not connected any more.
    PeerDown(PeerInfo),
    /// A node below is given up: it is dead, or did not come back in time.
    PeerLost(PeerInfo),
    /// Everything is finished after [`Node::drain`], and said above.
    Drained,
}

/// What is known about a node below.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerInfo {
    /// Its place in the dispatcher.
    pub peer: PeerId,
    /// Its lasting identity.
    pub node: Uuid,
    /// The lane that it serves.
    pub lane: LaneId,
    /// Name for people.
    pub name: String,
    /// Software version.
    pub software: String,
    /// Whether it is connected.
    pub connected: bool,
    /// Its room.
    pub capacity: Capacity,
    /// What it last said about itself.
    pub report: Report,
    /// What it last said about its types of workers; empty if they are all of one.
    pub warm: Arc<Warm>,
}

/// What happened to the links of a node since it was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LinkCounters {
    /// Sessions opened with nodes below, by connection.
    pub opened: u64,
    /// Those of them that went on with an earlier session.
    pub resumed: u64,
    /// Nodes below that were refused.
    pub refused: u64,
    /// Nodes below that were given up, or are dead.
    pub lost: u64,
    /// Sessions opened with the node above, by connection.
    pub opened_above: u64,
}

/// A node of the tree, without I/O: what a service, an endpoint and a manager have in common.
///
/// Tasks come in through [`submit`](Self::submit) or from the node above, go through the [`Dispatcher`] to nodes below
/// or to local executors, and outcomes go back the same way.
#[derive(Debug)]
pub struct Node<P = IdleFirst> {
    config: NodeConfig,
    dispatcher: Dispatcher<P>,
    routes: Vec<Route>,
    sharing: Option<Sharing>,
    /// What happened to the shared slots of nodes below.
    warm_below: WarmCounters,
    uplink: Option<Uplink>,
    links: BTreeMap<LinkId, Link>,
    peers: BTreeMap<PeerId, Peer>,
    by_node: BTreeMap<Uuid, PeerId>,
    timers: BTreeSet<(Tick, Timer)>,
    uncommitted: VecDeque<(DeliveryId, Option<(PeerId, u64)>)>,
    next_delivery: u64,
    arrived: Option<(PeerId, u64)>,
    recorder: Option<Recorder>,
    link_counters: LinkCounters,
    total_slots: u64,
    total_prefetch: u64,
    full: bool,
    draining: bool,
    left: bool,
    outputs: VecDeque<NodeOutput>,
}

#[derive(Debug)]
struct Link {
    session: Downlink,
    peer: Option<PeerId>,
    pending: Option<Applicant>,
    armed: Option<Tick>,
}

/// A node below that has said hello.
#[derive(Debug)]
struct Applicant {
    hello: Hello,
    lane: LaneId,
    /// When it will be gone.
    ends_at: Tick,
}

#[derive(Debug)]
enum Peer {
    Executor { capacity: Capacity },
    Remote { info: Box<PeerInfo>, session: Session, link: Option<LinkId>, given_up_at: Option<Tick> },
}

/// Which session a node below goes on with, and which process it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Session {
    epoch: u64,
    life: u32,
    process: u64,
}

impl From<&Hello> for Session {
    fn from(hello: &Hello) -> Self {
        Self { epoch: hello.epoch, life: hello.life, process: hello.process }
    }
}

/// How a node below is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// Its process is no more.
    Dead,
    /// It may still run, and come back.
    GivenUp,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    Link(LinkId),
    Lease(PeerId),
}

impl<P: PlacementPolicy + Default> Node<P> {
    /// A node without lanes, links and executors.
    pub fn new(config: NodeConfig) -> Self {
        let mut dispatcher = Dispatcher::new(config.limits, config.sent);
        if !config.retries {
            dispatcher.pass_losses_on();
        }
        Self {
            dispatcher,
            uplink: config.uplink.clone().map(Uplink::new),
            recorder: config.journal.then(Recorder::default),
            config,
            routes: Vec::new(),
            sharing: None,
            warm_below: WarmCounters::default(),
            links: BTreeMap::new(),
            peers: BTreeMap::new(),
            by_node: BTreeMap::new(),
            timers: BTreeSet::new(),
            uncommitted: VecDeque::new(),
            next_delivery: 1,
            arrived: None,
            link_counters: LinkCounters::default(),
            total_slots: 0,
            total_prefetch: 0,
            full: false,
            draining: false,
            left: false,
            outputs: VecDeque::new(),
        }
    }

    /// Adds a lane.
    pub fn open_lane(&mut self) -> LaneId {
        match self.config.cold_after {
            Some(cold_after) => self.dispatcher.open_warm_lane(cold_after),
            None => self.dispatcher.open_lane(),
        }
    }

    /// Tasks of this kind that come from above go to this lane, whatever their environment: nodes below see to that.
    pub fn route(&mut self, kind: FunctionKind, lane: LaneId) {
        self.set_route(kind, Environments::Any, lane);
    }

    /// Tasks of this kind that come from above and ask for this environment go to this lane. `None` is the default one.
    pub fn route_environment(&mut self, kind: FunctionKind, environment: Option<&str>, lane: LaneId) {
        self.set_route(kind, Environments::One(environment.map(str::to_owned)), lane);
    }

    fn set_route(&mut self, kind: FunctionKind, environments: Environments, lane: LaneId) {
        self.routes.retain(|route| route.kind != kind || route.environments != environments);
        self.routes.push(Route { kind, environments, lane });
    }

    /// How full a lane is.
    pub fn load(&self, lane: LaneId) -> LaneLoad {
        self.dispatcher.load(lane)
    }

    /// Tasks that fit into a lane.
    pub fn room(&self, lane: LaneId) -> usize {
        self.dispatcher.room(lane)
    }

    /// Where a task is.
    pub fn state(&self, task: TaskId) -> Option<TaskState> {
        self.dispatcher.state(task)
    }

    /// Number of the current attempt at a task, and where it passed when, as far as this node knows.
    pub fn progress(&self, task: TaskId) -> Option<(u32, HopStamps)> {
        self.dispatcher.progress(task)
    }

    /// What happened so far.
    pub const fn counters(&self) -> Counters {
        self.dispatcher.counters()
    }

    /// What happened to its links so far.
    pub const fn link_counters(&self) -> LinkCounters {
        self.link_counters
    }

    /// From now on equal memoized calls run once at a time, and up to `capacity_bytes` of their values are remembered.
    /// Without this, every call runs.
    pub fn memoize(&mut self, capacity_bytes: usize) {
        self.dispatcher.memoize(capacity_bytes);
    }

    /// Forgets the values that are remembered here and below: those of calls that are forgotten themselves must answer no
    /// more. Nodes that are away forget when they are back.
    pub fn forget_values(&mut self) {
        self.dispatcher.forget_values();
        let links: Vec<LinkId> = self.links.keys().copied().collect();
        for link in links {
            self.links.get_mut(&link).into_iter().for_each(|entry| entry.session.forget_values());
            self.flush(link);
        }
    }

    /// Whether it looks at which memoized calls are equal.
    pub const fn memoizes(&self) -> bool {
        self.dispatcher.memoizes()
    }

    /// The part of an owner, against those of others: with weight 2 it gets twice as much as one with weight 1, which is
    /// what everybody has. What nobody wants goes to those who do.
    pub fn set_weight(&mut self, owner: IdentityId, weight: u32) {
        self.dispatcher.set_weight(owner, weight);
    }

    /// The nodes below, connected or expected back.
    pub fn peers(&self) -> impl Iterator<Item = &PeerInfo> {
        self.peers.values().filter_map(|peer| match peer {
            Peer::Remote { info, .. } => Some(&**info),
            Peer::Executor { .. } => None,
        })
    }

    /// The session with the node above.
    pub const fn uplink(&self) -> Option<&Uplink> {
        self.uplink.as_ref()
    }

    /// Adds a local executor.
    pub fn attach_executor(&mut self, lane: LaneId, capacity: Capacity) -> PeerId {
        let peer = self.dispatcher.add_peer(lane, capacity);
        self.peers.insert(peer, Peer::Executor { capacity });
        self.capacity_changed(Capacity::default(), capacity);
        self.pump();
        peer
    }

    /// Takes tasks into a lane. Returns those that do not fit.
    #[must_use = "tasks that are refused must not be lost"]
    pub fn submit(&mut self, lane: LaneId, tasks: Vec<Task>, now: Now) -> Vec<Task> {
        let refused = self.dispatcher.submit(lane, tasks, now);
        self.pump();
        refused
    }

    /// Cancels tasks, wherever below they are. Returns how many were here.
    pub fn cancel(&mut self, tasks: impl IntoIterator<Item = TaskId>, now: Now) -> usize {
        let found = self.dispatcher.cancel(tasks, now);
        self.pump();
        found
    }

    /// Outcomes up to this delivery are safe; those who sent them are told.
    pub fn committed(&mut self, delivery: DeliveryId) {
        let mut through: BTreeMap<PeerId, u64> = BTreeMap::new();
        while let Some((_, source)) = self.uncommitted.pop_front_if(|(id, _)| *id <= delivery) {
            through.extend(source);
        }
        for (peer, sequence) in through {
            self.acknowledge(peer, sequence);
        }
        self.pump();
    }

    /// Takes no more from above: what waits here or below goes back as it was. When what runs has finished, it says
    /// goodbye and outputs [`NodeOutput::Drained`].
    pub fn drain(&mut self, now: Now) {
        self.dispatcher.advance(now);
        if !std::mem::replace(&mut self.draining, true) {
            self.dispatcher.pause();
            for link in self.links.values_mut() {
                link.session.drain();
            }
            let links: Vec<LinkId> = self.links.keys().copied().collect();
            links.into_iter().for_each(|link| self.flush(link));
            let executors = self.peers.iter().filter(|(_, peer)| matches!(peer, Peer::Executor { .. }));
            self.outputs.extend(executors.map(|(peer, _)| NodeOutput::DrainExecutor(*peer)));
        }
        self.pump();
    }

    /// Whether it is being drained, or has left.
    pub const fn is_draining(&self) -> bool {
        self.draining
    }

    /// Leaves at once: what waits here goes back to the node above as it was, what runs below is lost there.
    pub fn leave(&mut self) {
        (self.draining, self.left) = (true, true);
        self.dispatcher.pause();
        self.advertise();
        self.hand_back();
        if let Some(uplink) = &mut self.uplink {
            uplink.goodbye();
        }
        self.pump();
    }

    /// A node below has connected.
    pub fn handle_accepted(&mut self, link: LinkId, now: Now) {
        self.dispatcher.advance(now);
        let session = Downlink::new(self.config.link, self.config.software.clone(), now);
        self.links.insert(link, Link { session, peer: None, pending: None, armed: None });
        self.arm(link);
    }

    /// The node that said hello on this connection may serve a lane.
    pub fn admit(&mut self, link: LinkId, lane: LaneId, now: Now) {
        let Some(entry) = self.links.get_mut(&link) else { return };
        let Some(Applicant { hello, .. }) = &entry.pending else { return };
        let known = self.by_node.get(&hello.node).and_then(|peer| self.peers.get(peer));
        match known.and_then(|known| conflict(known, hello)) {
            Some((reason, retry)) => {
                self.link_counters.refused += 1;
                entry.session.refuse(reason, retry);
            }
            None => {
                if let Some(applicant) = &mut entry.pending {
                    applicant.lane = lane;
                }
                entry.session.welcome();
            }
        }
        self.pump_link(link, now);
        self.pump();
    }

    /// The node that said hello on this connection may not serve.
    pub fn refuse(&mut self, link: LinkId, reason: impl Into<String>, retry: bool, now: Now) {
        if let Some(entry) = self.links.get_mut(&link) {
            self.link_counters.refused += 1;
            entry.session.refuse(reason, retry);
        }
        self.pump_link(link, now);
        self.pump();
    }

    /// A node below said something.
    pub fn handle_message(&mut self, link: LinkId, message: Message, now: Now) {
        self.dispatcher.advance(now);
        if let Some(entry) = self.links.get_mut(&link) {
            entry.session.handle_message(message, now);
        }
        self.pump_link(link, now);
        self.pump();
    }

    /// The connection from a node below is gone.
    pub fn handle_closed(&mut self, link: LinkId, now: Now) {
        self.dispatcher.advance(now);
        self.detach(link, now);
        self.pump();
    }

    /// A node below is known to be dead: its leases are lost now, whether or not its connection is.
    pub fn handle_dead(&mut self, node: Uuid, reason: &str, now: Now) {
        if let Some(peer) = self.by_node.get(&node).copied() {
            self.lose(peer, End::Dead, reason, now);
        }
        self.pump();
    }

    /// A local executor said something.
    pub fn handle_executor(&mut self, peer: PeerId, event: ExecutorEvent, now: Now) {
        self.dispatcher.advance(now);
        match event {
            ExecutorEvent::Started(started) => {
                let events = started.into_iter().map(|(attempt, at)| TaskEvent {
                    attempt,
                    at,
                    kind: TaskEventKind::Started,
                    actor: String::new(),
                    detail: String::new(),
                });
                self.events(peer, events.collect());
            }
            ExecutorEvent::GaveBack(attempts) => self.dispatcher.handle_given_back(peer, &attempts, now),
            ExecutorEvent::Outcomes(outcomes) => self.outcomes(peer, outcomes, None, now),
            ExecutorEvent::Capacity(new) => {
                if let Some(Peer::Executor { capacity }) = self.peers.get_mut(&peer) {
                    let old = std::mem::replace(capacity, new);
                    self.capacity_changed(old, new);
                    let usable = self.executor_resized(peer, new, now);
                    self.dispatcher.set_capacity(peer, usable);
                }
            }
        }
        self.pump();
    }

    /// The node above is connected.
    pub fn handle_connected_above(&mut self, now: Now) {
        if let Some(uplink) = &mut self.uplink {
            uplink.handle_connected(now);
        }
        self.pump();
    }

    /// The node above said something.
    pub fn handle_message_above(&mut self, message: Message, now: Now) {
        self.dispatcher.advance(now);
        let Some(uplink) = &mut self.uplink else { return };
        uplink.handle_message(message, now);
        self.pump_uplink(now);
        self.pump();
    }

    /// The connection to the node above is gone.
    pub fn handle_closed_above(&mut self) {
        if let Some(uplink) = &mut self.uplink {
            uplink.handle_closed();
        }
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Now) {
        while let Some(&(deadline, timer)) = self.timers.first()
            && deadline <= now.tick
        {
            self.timers.pop_first();
            match timer {
                Timer::Link(link) => {
                    if let Some(entry) = self.links.get_mut(&link) {
                        entry.armed = None;
                        entry.session.handle_timeout(now);
                    }
                    self.pump_link(link, now);
                }
                Timer::Lease(peer) => {
                    // It may have come back and gone again since, which is another wait.
                    let due = Some(deadline);
                    if matches!(self.peers.get(&peer), Some(Peer::Remote { given_up_at, .. }) if *given_up_at == due)
                    {
                        let reason = "its connection broke and it did not come back in time";
                        self.lose(peer, End::GivenUp, reason, now);
                    }
                }
            }
        }
        if let Some(uplink) = &mut self.uplink {
            uplink.handle_timeout(now);
            self.pump_uplink(now);
        }
        self.dispatcher.handle_timeout(now);
        if let Some(sharing) = &mut self.sharing {
            sharing.handle_timeout(now);
        }
        self.pump();
    }

    /// When to call [`handle_timeout`](Self::handle_timeout), and why.
    pub fn poll_timeout(&self) -> Option<(Tick, &'static str)> {
        let own = self.timers.first().map(|(deadline, timer)| {
            (*deadline, if matches!(timer, Timer::Link(_)) { "downlink" } else { "lease grace" })
        });
        let task = self.dispatcher.poll_timeout().map(|due| (due, "time to live or deadline of a task"));
        let shared = self.sharing.as_ref().and_then(Sharing::poll_timeout).map(|due| (due, "shared slots"));
        own.into_iter()
            .chain(task)
            .chain(shared)
            .chain(self.uplink.as_ref().and_then(Uplink::poll_timeout))
            .min()
    }

    /// What to do next; `None` when there is nothing until the next input.
    pub fn poll_output(&mut self) -> Option<NodeOutput> {
        self.outputs.pop_front()
    }

    /// Sends figures about this node to the node above.
    pub fn report(&mut self, workers: u32) {
        self.say_warm_below();
        let mut report = Report { workers, ..Report::default() };
        for peer in self.peers.values() {
            if let Peer::Remote { info, link: Some(_), .. } = peer {
                report.managers += 1;
                report.workers = report.workers.saturating_add(info.capacity.slots);
            }
        }
        for lane in 0..self.dispatcher.lanes() {
            let load = self.dispatcher.load(LaneId(lane));
            report.queued += load.queued as u64;
            report.leased += load.leased as u64;
        }
        if let Some(uplink) = &mut self.uplink {
            uplink.report(report);
        }
        self.pump();
    }

    /// Looks at every invariant that can be seen from here. For tests.
    ///
    /// # Errors
    /// The first one that is broken.
    pub fn check(&self) -> Result<(), Violation> {
        self.dispatcher.check()
    }
}

/// Why a node that says hello cannot take the place of the one that is known, and whether that may pass.
fn conflict(known: &Peer, hello: &Hello) -> Option<(String, bool)> {
    let Peer::Remote { info, session, link, .. } = known else { return None };
    if session.process == hello.process {
        return None;
    }
    if session.epoch == hello.epoch && hello.life <= session.life {
        let reason = format!(
            "`{}` ({}) comes with life {} of a session that is in its life {}: its journal was copied, or restored from \
             a backup; delete the copy of the journal to start a new session",
            info.name, info.node, hello.life, session.life
        );
        return Some((reason, false));
    }
    // One identity, one process: another one is turned away while the first is there.
    link.map(|_| (format!("another process already serves as `{}` ({})", info.name, info.node), true))
}
