//! The driver: runs one [`Node`] over real connections, a real clock and real executors.
//!
//! One task owns the node; every connection has a task that decodes what comes in and encodes what goes out. The
//! node's task never waits for a connection: what it has to send is bounded by the credits of the peer.

mod connection;
mod transitions;
mod uplink;

use std::{
    collections::HashMap,
    fmt,
    future::pending,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use funcx_core::contract::{
    Connection, Executor, ExecutorEvent, ExecutorSink, IdleFirst, PeerId, PlacementPolicy,
};
use funcx_core::message::{Hello, Message, Refused};
use funcx_core::model::{AttemptId, FunctionKind, Now, Outcome, Task, TaskEvent, TaskId, Tick, Timestamp};
use funcx_core::state::{
    DeliveryId, JournalEntry, LaneId, LinkId, Node, NodeConfig, NodeOutput, PeerInfo, RecordId,
};
use funcx_core::{Error, ErrorKind, Result};
use futures::{
    FutureExt, StreamExt,
    future::BoxFuture,
    stream::{FuturesOrdered, FuturesUnordered},
};
use tokio::{
    sync::{mpsc, oneshot},
    task::{JoinHandle, JoinSet},
};
use tokio_util::sync::{CancellationToken, DropGuard};

pub use uplink::Above;

/// Messages from all links that wait for the node. When they are this many, connections are read more slowly.
const INBOX_MESSAGES: usize = 1024;

/// Time that a connection has to send what was put into it when it is closed or the node stops.
const FAREWELL: Duration = Duration::from_secs(1);

/// As far ahead as anybody sleeps.
const FAR: Duration = Duration::from_secs(86_400 * 365);

/// Inputs handled before outputs are looked at, so that a flood is answered in large batches.
const INPUTS_PER_TURN: usize = 256;

/// What surrounds a node: a service answers with its store and its authority, an endpoint with its blocks.
pub trait NodeHost: Send + Sync + 'static {
    /// Whether the node that said `hello` may serve, and which lane.
    fn authorize(&self, hello: Hello) -> BoxFuture<'static, std::result::Result<LaneId, Refused>>;

    /// Makes outcomes safe; resolves when they are. Called in order, and what has to be in order must be put in
    /// order before this returns. Only for nodes without a node above.
    fn deliver(&self, outcomes: Vec<Outcome>) -> BoxFuture<'static, ()>;

    /// Writes this down; resolves when that is done. Called in order, and what has to be in order must be put in order
    /// before this returns. Only for nodes that keep a journal.
    fn record(&self, entries: Vec<JournalEntry>) -> BoxFuture<'static, ()>;

    /// Something happened that the host may want to know. Must not block.
    fn notice(&self, notice: NodeNotice);
}

/// What a [`NodeHost`] is told.
#[derive(Debug, Clone)]
pub enum NodeNotice {
    /// A node below is ready for tasks.
    PeerUp(PeerInfo),
    /// A node below is not connected any more.
    PeerDown(PeerInfo),
    /// A node below is given up: it is dead, or did not come back in time.
    PeerLost(PeerInfo),
    /// The executor of this lane has so many of the shared slots from now on. Said before it is given tasks for them.
    Resize(LaneId, u32),
    /// The session with the node above is open.
    OpenedAbove,
    /// The node above does not take us.
    RefusedAbove(Refused),
    /// For a while the operating system has said that nobody listens where the node above should: its process is gone. Said
    /// once, until it is there again. A network that is cut does not say so.
    AbsentAbove,
    /// These things happened to attempts that have not ended.
    Events(Vec<TaskEvent>),
    /// Everything is finished after a drain.
    Drained,
}

type Command<P> = Box<dyn FnOnce(&mut Node<P>, Now) + Send>;

/// Input of the node's task.
enum Input<P> {
    Accepted(Box<dyn Connection>),
    Attach { token: u64, kinds: Vec<FunctionKind>, executor: Arc<dyn Executor>, lane: Option<LaneId> },
    Executor(u64, ExecutorEvent),
    Command(Command<P>),
}

/// What is to be sent on a connection. When it is dropped the connection sends what it has, if that goes quickly, and
/// closes.
struct Outgoing {
    messages: mpsc::UnboundedSender<Message>,
    _closing: DropGuard,
}

/// The end of an [`Outgoing`] that a connection has.
struct ToSend {
    messages: mpsc::UnboundedReceiver<Message>,
    closing: CancellationToken,
}

fn outgoing() -> (Outgoing, ToSend) {
    let (sender, messages) = mpsc::unbounded_channel();
    let closing = CancellationToken::new();
    (Outgoing { messages: sender, _closing: closing.clone().drop_guard() }, ToSend { messages, closing })
}

/// What connections tell, each in its order.
enum Received {
    Message(LinkId, Message),
    Closed(LinkId, String),
    ConnectedAbove(Outgoing),
    Above(Message),
    ClosedAbove,
    AbsentAbove,
}

/// A running node. Cheap to clone; the node stops when [`NodeHandle::stop`] is called.
pub struct NodeHandle<P = IdleFirst> {
    inputs: mpsc::UnboundedSender<Input<P>>,
    tokens: Arc<AtomicU64>,
    stop: CancellationToken,
}

impl<P> Clone for NodeHandle<P> {
    fn clone(&self) -> Self {
        Self { inputs: self.inputs.clone(), tokens: Arc::clone(&self.tokens), stop: self.stop.clone() }
    }
}

impl<P> fmt::Debug for NodeHandle<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeHandle").field("running", &!self.inputs.is_closed()).finish()
    }
}

/// A place for an executor that is not attached yet.
#[derive(Debug)]
pub struct ExecutorToken(u64);

/// Starts a node. It runs on the current tokio runtime until it is stopped.
///
/// `setup` opens the node's first lanes. `above` says where the node above is, if there is one.
pub fn start<P: PlacementPolicy + Default>(
    config: NodeConfig,
    host: Arc<dyn NodeHost>,
    above: Option<Above>,
    setup: impl FnOnce(&mut Node<P>),
) -> (NodeHandle<P>, JoinHandle<()>) {
    let (inputs, waiting) = mpsc::unbounded_channel();
    let (received_by, received) = mpsc::channel(INBOX_MESSAGES);
    let stop = CancellationToken::new();
    let mut node = Node::new(config);
    setup(&mut node);
    let uplink =
        above.map(|above| tokio::spawn(above.run(node.memoizes(), received_by.clone(), stop.clone())));
    let driver = Driver {
        node,
        host,
        clock: Clock::default(),
        links: HashMap::new(),
        connections: JoinSet::new(),
        next_link: 0,
        above: None,
        executors: HashMap::new(),
        peer_of_token: HashMap::new(),
        received_by,
        deliveries: FuturesOrdered::new(),
        records: FuturesUnordered::new(),
        drains: JoinSet::new(),
        authorizations: FuturesUnordered::new(),
    };
    let handle = NodeHandle { inputs, tokens: Arc::default(), stop: stop.clone() };
    let running = tokio::spawn(async move {
        driver.run(waiting, received, stop.clone()).await;
        stop.cancel();
        if let Some(uplink) = uplink {
            // It ends by the same token.
            let _ = uplink.await;
        }
    });
    (handle, running)
}

impl<P: PlacementPolicy + Default> NodeHandle<P> {
    /// Whether the node's task is there to do what it is asked.
    pub fn is_running(&self) -> bool {
        !self.inputs.is_closed()
    }

    /// Gives the node a connection that a node below has opened.
    pub fn accept(&self, connection: Box<dyn Connection>) {
        let _ = self.inputs.send(Input::Accepted(connection));
    }

    /// Runs something on the node, between two of its inputs. It must be quick.
    ///
    /// # Errors
    /// `Unavailable` if the node has stopped.
    pub async fn with<R: Send + 'static>(
        &self,
        action: impl FnOnce(&mut Node<P>, Now) -> R + Send + 'static,
    ) -> Result<R> {
        let (answer, answered) = oneshot::channel();
        let command: Command<P> = Box::new(move |node, now| {
            // Nobody waits for the answer if the caller's future was dropped.
            let _ = answer.send(action(node, now));
        });
        let _ = self.inputs.send(Input::Command(command));
        answered.await.map_err(|_| Error::new(ErrorKind::Unavailable, "ask the node", "it has stopped"))
    }

    /// Takes tasks into a lane; returns those that do not fit.
    ///
    /// # Errors
    /// `Unavailable` if the node has stopped.
    pub async fn submit(&self, lane: LaneId, tasks: Vec<Task>) -> Result<Vec<Task>> {
        self.with(move |node, now| node.submit(lane, tasks, now)).await
    }

    /// Cancels tasks; returns how many were not finished yet.
    ///
    /// # Errors
    /// `Unavailable` if the node has stopped.
    pub async fn cancel(&self, tasks: Vec<TaskId>) -> Result<usize> {
        self.with(move |node, now| node.cancel(tasks, now)).await
    }

    /// A sink for an executor that is about to be built, and the token to attach it with.
    pub fn executor_sink(&self) -> (ExecutorToken, Arc<dyn ExecutorSink>) {
        let token = self.tokens.fetch_add(1, Ordering::Relaxed);
        let inputs = self.inputs.clone();
        let sink = move |event| {
            let _ = inputs.send(Input::Executor(token, event));
        };
        (ExecutorToken(token), Arc::new(sink))
    }

    /// Attaches an executor that was built with the sink of this token. It serves `lane`, or a new lane to which tasks
    /// of its kinds are routed that ask for the default environment.
    pub fn attach(&self, token: ExecutorToken, executor: Arc<dyn Executor>, lane: Option<LaneId>) {
        let kinds = executor.capability().kinds;
        let _ = self.inputs.send(Input::Attach { token: token.0, kinds, executor, lane });
    }

    /// Stops the node at once: connections close, what is here stays with the node above or in the store.
    pub fn stop(&self) {
        self.stop.cancel();
    }
}

/// Readings of the process's clocks. Ticks are those of the operating system's monotonic clock, so that all clocks of a
/// process agree.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    origin: Instant,
    origin_nanos: u64,
}

impl Default for Clock {
    fn default() -> Self {
        Self { origin: Instant::now(), origin_nanos: monotonic_nanos() }
    }
}

/// Nanoseconds of CLOCK_MONOTONIC (clock_gettime(2)); it cannot fail with this clock.
fn monotonic_nanos() -> u64 {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).map(Duration::from);
    now.map_or(0, |now| now.as_nanos() as u64)
}

impl Clock {
    /// Both clocks now.
    pub fn now(&self) -> Now {
        let nanos = self.origin_nanos + self.origin.elapsed().as_nanos() as u64;
        Now { tick: Tick::from_nanos(nanos), wall: wall_clock() }
    }

    /// The instant of a tick of this clock.
    pub fn instant(&self, tick: Tick) -> Instant {
        let since = Duration::from_nanos(tick.as_nanos().saturating_sub(self.origin_nanos));
        // Ticks of deadlines may lie beyond what the clock can show.
        self.origin.checked_add(since).unwrap_or_else(|| self.origin + FAR)
    }
}

/// The wall clock now.
pub fn wall_clock() -> Timestamp {
    Timestamp::from_nanos(
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64),
    )
}

struct Driver<P> {
    node: Node<P>,
    host: Arc<dyn NodeHost>,
    clock: Clock,
    links: HashMap<LinkId, Outgoing>,
    connections: JoinSet<()>,
    next_link: u64,
    above: Option<Outgoing>,
    executors: HashMap<PeerId, Arc<dyn Executor>>,
    peer_of_token: HashMap<u64, PeerId>,
    received_by: mpsc::Sender<Received>,
    deliveries: FuturesOrdered<BoxFuture<'static, DeliveryId>>,
    records: FuturesUnordered<BoxFuture<'static, RecordId>>,
    /// Executors that finish what has begun; they end by themselves.
    drains: JoinSet<()>,
    authorizations: FuturesUnordered<BoxFuture<'static, (LinkId, std::result::Result<LaneId, Refused>)>>,
}

impl<P: PlacementPolicy + Default> Driver<P> {
    async fn run(
        mut self,
        mut inputs: mpsc::UnboundedReceiver<Input<P>>,
        mut received: mpsc::Receiver<Received>,
        stop: CancellationToken,
    ) {
        loop {
            let deadline = self.node.poll_timeout();
            let timer = async {
                match deadline {
                    Some((tick, _)) => tokio::time::sleep_until(self.clock.instant(tick).into()).await,
                    None => pending().await,
                }
            };
            tokio::select! {
                Some(input) = inputs.recv() => {
                    self.handle_input(input);
                    for _ in 1..INPUTS_PER_TURN {
                        let Ok(input) = inputs.try_recv() else { break };
                        self.handle_input(input);
                    }
                }
                Some(message) = received.recv() => {
                    self.handle_received(message);
                    for _ in 1..INPUTS_PER_TURN {
                        let Ok(message) = received.try_recv() else { break };
                        self.handle_received(message);
                    }
                }
                Some(delivery) = self.deliveries.next() => self.node.committed(delivery),
                Some(record) = self.records.next() => self.node.recorded(record),
                Some((link, answer)) = self.authorizations.next() => {
                    let now = self.clock.now();
                    match answer {
                        Ok(lane) => self.node.admit(link, lane, now),
                        Err(refused) => self.node.refuse(link, refused.reason, refused.retry, now),
                    }
                }
                Some(_) = self.connections.join_next() => continue,
                Some(_) = self.drains.join_next() => continue,
                () = timer => {
                    // What has come counts as heard, also if this process itself was what stood still.
                    while let Ok(message) = received.try_recv() {
                        self.handle_received(message);
                    }
                    let now = self.clock.now();
                    self.node.handle_timeout(now);
                }
                () = stop.cancelled() => break,
            }
            self.act();
        }
        self.finish_deliveries().await;
        // With their senders gone, connections send what they have and close.
        self.links.clear();
        self.above = None;
        drop(received);
        let _ = tokio::time::timeout(FAREWELL, self.connections.join_all()).await;
    }

    /// Outcomes that are being made safe when the node stops are acknowledged if that comes about soon, so that nobody
    /// has to send them again.
    async fn finish_deliveries(&mut self) {
        let deliveries = std::mem::take(&mut self.deliveries);
        let mut safe = std::pin::pin!(deliveries.take_until(tokio::time::sleep(FAREWELL)));
        while let Some(delivery) = safe.next().await {
            self.node.committed(delivery);
            while let Some(output) = self.node.poll_output() {
                if let NodeOutput::Send(link, message) = output
                    && let Some(outgoing) = self.links.get(&link)
                {
                    let _ = outgoing.messages.send(message);
                }
            }
        }
    }

    fn handle_input(&mut self, input: Input<P>) {
        let now = self.clock.now();
        match input {
            Input::Accepted(connection) => {
                let link = LinkId(self.next_link);
                self.next_link += 1;
                let (outgoing, to_send) = outgoing();
                self.links.insert(link, outgoing);
                self.connections.spawn(connection::run_below(
                    connection,
                    link,
                    to_send,
                    self.received_by.clone(),
                ));
                self.node.handle_accepted(link, now);
            }
            Input::Attach { token, kinds, executor, lane } => {
                let lane = lane.unwrap_or_else(|| {
                    let lane = self.node.open_lane();
                    kinds.iter().for_each(|kind| self.node.route_environment(*kind, None, lane));
                    lane
                });
                let peer = self.node.attach_executor(lane, executor.capability().capacity);
                self.executors.insert(peer, executor);
                self.peer_of_token.insert(token, peer);
            }
            Input::Executor(token, event) => {
                if let Some(peer) = self.peer_of_token.get(&token) {
                    transitions::executor(&event);
                    self.node.handle_executor(*peer, event, now);
                }
            }
            Input::Command(command) => command(&mut self.node, now),
        }
    }

    fn handle_received(&mut self, received: Received) {
        let now = self.clock.now();
        match received {
            Received::Message(link, message) => {
                transitions::up(&message);
                self.node.handle_message(link, message, now);
            }
            Received::Closed(link, reason) => {
                tracing::debug!(link = link.0, reason, "connection from below closed");
                self.links.remove(&link);
                self.node.handle_closed(link, now);
            }
            Received::ConnectedAbove(outgoing) => {
                self.above = Some(outgoing);
                self.node.handle_connected_above(now);
            }
            Received::Above(message) => {
                transitions::down(&message, "received", "told to stop it");
                self.node.handle_message_above(message, now);
            }
            Received::ClosedAbove => {
                self.above = None;
                self.node.handle_closed_above();
            }
            Received::AbsentAbove => self.host.notice(NodeNotice::AbsentAbove),
        }
    }

    /// Does what the node wants, until it wants no more.
    fn act(&mut self) {
        while let Some(output) = self.node.poll_output() {
            match output {
                NodeOutput::Send(link, message) => {
                    if let Some(outgoing) = self.links.get(&link) {
                        transitions::down(&message, "sent down", "peer is told to stop it");
                        // A connection that is closing says so through `Received::Closed`.
                        let _ = outgoing.messages.send(message);
                    }
                }
                NodeOutput::SendUp(message) => {
                    if let Some(outgoing) = &self.above {
                        let _ = outgoing.messages.send(message);
                    }
                }
                NodeOutput::Close(link, reason) => {
                    tracing::info!(link = link.0, reason, "closing connection from below");
                    self.links.remove(&link);
                }
                NodeOutput::CloseUp(reason) => {
                    tracing::warn!(reason, "closing connection to the node above");
                    self.above = None;
                }
                NodeOutput::Authorize(link, hello) => {
                    let decision = self.host.authorize(hello);
                    self.authorizations.push(Box::pin(async move { (link, decision.await) }));
                }
                NodeOutput::Deliver(delivery, outcomes) => {
                    transitions::deliver(&outcomes);
                    let safe = self.host.deliver(outcomes);
                    self.deliveries.push_back(Box::pin(async move {
                        safe.await;
                        delivery
                    }));
                }
                NodeOutput::Record(record, entries) => self.record(record, entries),
                NodeOutput::Resize(lane, slots) => self.host.notice(NodeNotice::Resize(lane, slots)),
                NodeOutput::DrainExecutor(peer) => {
                    if let Some(executor) = self.executors.get(&peer) {
                        self.drains.spawn(executor.drain());
                    }
                }
                NodeOutput::Events(events) => {
                    transitions::lost(&events);
                    self.host.notice(NodeNotice::Events(events));
                }
                NodeOutput::Run(peer, tasks) => {
                    transitions::run(&tasks);
                    self.with_executor(peer, |executor| executor.start(tasks));
                }
                NodeOutput::Stop(peer, attempts) => self.stop_attempts(peer, &attempts),
                NodeOutput::PeerUp(info) => self.host.notice(NodeNotice::PeerUp(info)),
                NodeOutput::PeerDown(info) => self.host.notice(NodeNotice::PeerDown(info)),
                NodeOutput::PeerLost(info) => self.host.notice(NodeNotice::PeerLost(info)),
                NodeOutput::OpenedAbove => self.host.notice(NodeNotice::OpenedAbove),
                NodeOutput::RefusedAbove(refused) => {
                    self.above = None;
                    self.host.notice(NodeNotice::RefusedAbove(refused));
                }
                NodeOutput::Drained => self.host.notice(NodeNotice::Drained),
            }
        }
    }

    /// Most of what is written down is there at once; the rest is waited for.
    fn record(&mut self, record: RecordId, entries: Vec<JournalEntry>) {
        let mut written = self.host.record(entries);
        match (&mut written).now_or_never() {
            Some(()) => self.node.recorded(record),
            None => self.records.push(Box::pin(async move {
                written.await;
                record
            })),
        }
    }

    fn stop_attempts(&self, peer: PeerId, attempts: &[AttemptId]) {
        transitions::stop(attempts);
        self.with_executor(peer, |executor| executor.cancel(attempts));
    }

    fn with_executor(&self, peer: PeerId, action: impl FnOnce(&dyn Executor)) {
        if let Some(executor) = self.executors.get(&peer) {
            action(&**executor);
        }
    }
}
