//! One node of the tree: a dispatcher with its links and its executors.
//!
//! Here are its types, its commands and its inputs; `react` holds what it does about them, `speak` what it says.

mod react;
mod speak;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use uuid::Uuid;

use super::dispatcher::{Counters, Dispatcher, DispatcherLimits, LaneId, LaneLoad, TaskState};
use super::downlink::{Downlink, LinkPolicy};
use super::invariant::Violation;
use super::uplink::{Uplink, UplinkIdentity};
use crate::contract::{Capacity, ExecutorEvent, IdleFirst, PeerId, PlacementPolicy};
use crate::message::{Hello, Message, Refused, Report, StartedEvent};
use crate::model::{AttemptId, FunctionKind, Hop, Now, Outcome, Task, TaskId, Tick};

/// A connection, numbered by the driver; never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId(pub u64);

/// A batch of outcomes that the driver was asked to make safe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeliveryId(pub u64);

/// How a node is set up.
#[derive(Debug, Clone)]
pub struct NodeConfig {
    /// Who it is to the node above; `None` for a service, which has none.
    pub uplink: Option<UplinkIdentity>,
    /// Times of the links below.
    pub link: LinkPolicy,
    /// Bounds of its queues.
    pub limits: DispatcherLimits,
    /// How long a peer whose connection broke may take to come back; as long as it likes if `None`.
    pub lease_grace: Option<Duration>,
    /// Tasks that it takes from above besides those its peers have room for.
    pub queue_tasks: u32,
    /// Stamp of a task that goes down from here.
    pub sent: Hop,
    /// Stamp of an outcome that arrives here; a service has none, its record says when.
    pub returned: Option<Hop>,
    /// Name and version told to peers.
    pub software: String,
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
}

/// A node of the tree, without I/O: what a service, an endpoint and a manager have in common.
///
/// Tasks come in through [`submit`](Self::submit) or from the node above, go through the [`Dispatcher`] to nodes below
/// or to local executors, and outcomes go back the same way.
#[derive(Debug)]
pub struct Node<P = IdleFirst> {
    config: NodeConfig,
    dispatcher: Dispatcher<P>,
    routes: Vec<(FunctionKind, LaneId)>,
    uplink: Option<Uplink>,
    links: BTreeMap<LinkId, Link>,
    peers: BTreeMap<PeerId, Peer>,
    by_node: BTreeMap<Uuid, PeerId>,
    timers: BTreeSet<(Tick, Timer)>,
    uncommitted: VecDeque<(DeliveryId, Option<(PeerId, u64)>)>,
    next_delivery: u64,
    arrived: Option<(PeerId, u64)>,
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
    pending: Option<(Hello, LaneId)>,
    armed: Option<Tick>,
}

#[derive(Debug)]
enum Peer {
    Executor { capacity: Capacity },
    Remote { info: PeerInfo, epoch: u64, link: Option<LinkId>, given_up_at: Option<Tick> },
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
        Self {
            dispatcher: Dispatcher::new(config.limits, config.sent),
            uplink: config.uplink.clone().map(Uplink::new),
            config,
            routes: Vec::new(),
            links: BTreeMap::new(),
            peers: BTreeMap::new(),
            by_node: BTreeMap::new(),
            timers: BTreeSet::new(),
            uncommitted: VecDeque::new(),
            next_delivery: 1,
            arrived: None,
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
        self.dispatcher.open_lane()
    }

    /// Tasks of this kind that come from above go to this lane.
    pub fn route(&mut self, kind: FunctionKind, lane: LaneId) {
        self.routes.retain(|(routed, _)| *routed != kind);
        self.routes.push((kind, lane));
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

    /// What happened so far.
    pub const fn counters(&self) -> Counters {
        self.dispatcher.counters()
    }

    /// The nodes below, connected or expected back.
    pub fn peers(&self) -> impl Iterator<Item = &PeerInfo> {
        self.peers.values().filter_map(|peer| match peer {
            Peer::Remote { info, .. } => Some(info),
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

    /// Takes no more from above; finishes what is here, then says goodbye and outputs [`NodeOutput::Drained`].
    pub fn drain(&mut self) {
        self.draining = true;
        for link in self.links.values_mut() {
            link.session.drain();
        }
        self.pump();
    }

    /// Leaves at once: what waits here goes back to the node above as it was, what runs below is lost there.
    pub fn leave(&mut self) {
        (self.draining, self.left) = (true, true);
        self.advertise();
        let waiting = self.dispatcher.hand_back();
        if let Some(uplink) = &mut self.uplink {
            uplink.give_back(&waiting);
            uplink.goodbye();
        }
        self.pump();
    }

    /// A node below has connected.
    pub fn handle_accepted(&mut self, link: LinkId, now: Now) {
        let session = Downlink::new(self.config.link, self.config.software.clone(), now);
        self.links.insert(link, Link { session, peer: None, pending: None, armed: None });
        self.arm(link);
    }

    /// The node that said hello on this connection may serve a lane.
    pub fn admit(&mut self, link: LinkId, lane: LaneId, now: Now) {
        let Some(entry) = self.links.get_mut(&link) else { return };
        let Some((hello, _)) = &entry.pending else { return };
        // One identity, one process: another one is turned away while the first is there.
        if let Some(Peer::Remote { info, epoch, link: Some(_), .. }) =
            self.by_node.get(&hello.node).and_then(|peer| self.peers.get(peer))
            && *epoch != hello.epoch
        {
            let reason = format!("another process already serves as `{}` ({})", info.name, info.node);
            entry.session.refuse(reason, true);
        } else {
            entry.pending = entry.pending.take().map(|(hello, _)| (hello, lane));
            entry.session.welcome();
        }
        self.pump_link(link, now);
        self.pump();
    }

    /// The node that said hello on this connection may not serve.
    pub fn refuse(&mut self, link: LinkId, reason: impl Into<String>, retry: bool, now: Now) {
        if let Some(entry) = self.links.get_mut(&link) {
            entry.session.refuse(reason, retry);
        }
        self.pump_link(link, now);
        self.pump();
    }

    /// A node below said something.
    pub fn handle_message(&mut self, link: LinkId, message: Message, now: Now) {
        if let Some(entry) = self.links.get_mut(&link) {
            entry.session.handle_message(message, now);
        }
        self.pump_link(link, now);
        self.pump();
    }

    /// The connection from a node below is gone.
    pub fn handle_closed(&mut self, link: LinkId, now: Now) {
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
        match event {
            ExecutorEvent::Started(started) => {
                let events = started
                    .into_iter()
                    .map(|(id, at)| StartedEvent { attempt: id.into(), at: at.as_nanos() });
                self.started(peer, events.collect());
            }
            ExecutorEvent::GaveBack(attempts) => self.dispatcher.handle_given_back(peer, &attempts, now),
            ExecutorEvent::Outcomes(outcomes) => self.outcomes(peer, outcomes, None, now),
            ExecutorEvent::Capacity(new) => {
                if let Some(Peer::Executor { capacity }) = self.peers.get_mut(&peer) {
                    let old = std::mem::replace(capacity, new);
                    self.dispatcher.set_capacity(peer, new);
                    self.capacity_changed(old, new);
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
        self.pump();
    }

    /// When to call [`handle_timeout`](Self::handle_timeout), and why.
    pub fn poll_timeout(&self) -> Option<(Tick, &'static str)> {
        let own = self.timers.first().map(|(deadline, timer)| {
            (*deadline, if matches!(timer, Timer::Link(_)) { "downlink" } else { "lease grace" })
        });
        own.into_iter().chain(self.uplink.as_ref().and_then(Uplink::poll_timeout)).min()
    }

    /// What to do next; `None` when there is nothing until the next input.
    pub fn poll_output(&mut self) -> Option<NodeOutput> {
        self.outputs.pop_front()
    }

    /// Sends figures about this node to the node above.
    pub fn report(&mut self, workers: u32) {
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
