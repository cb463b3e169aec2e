//! The session with the node above, seen from below. It outlives connections.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use uuid::Uuid;

use crate::contract::Capacity;
use crate::message::{
    Hello, MAGIC, Message, OutcomeBatch, PROTOCOL, Refused, Report, Role, Warm, WireAttempt, WireTaskEvent,
};
use crate::model::{
    AttemptId, Function, FunctionHash, IdMap, Now, Outcome, Task, TaskEvent, TaskEventKind, TaskId, Tick,
    limit,
};

/// Attempts at a task that are said to be lost when a connection opens.
const MOST_LOST: u32 = 256;

/// Who dials.
#[derive(Clone)]
pub struct UplinkIdentity {
    /// What it is.
    pub role: Role,
    /// Its lasting identity.
    pub node: Uuid,
    /// Names the session: drawn anew at process start, or kept in a journal.
    pub epoch: u64,
    /// How often the journal was opened; 0 without one.
    pub life: u32,
    /// Drawn anew at process start.
    pub process: u64,
    /// When the node will be gone, such as a manager in a block with a walltime; [`Tick::NEVER`] if that is not known.
    pub ends_at: Tick,
    /// Secret that proves it.
    pub credential: String,
    /// Name for people.
    pub name: String,
    /// Software version, for people.
    pub software: String,
}

impl std::fmt::Debug for UplinkIdentity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { role, node, epoch, life, name, .. } = self;
        write!(f, "UplinkIdentity({role:?} {node} `{name}` epoch {epoch:x} life {life})")
    }
}

/// What the node above wants, or what became of the connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UplinkEvent {
    /// The handshake is complete.
    Opened,
    /// Tasks to run.
    Tasks(Vec<Task>),
    /// Attempts to stop.
    Cancel(Vec<AttemptId>),
    /// Attempts to stop because they have no place above any more.
    Abandon(Vec<AttemptId>),
    /// Outcomes through this sequence number are safe above.
    Acknowledged(u64),
    /// Forget what calls have returned.
    ForgetValues,
    /// Finish what is held and leave.
    Drain,
    /// The node above does not take us.
    Refused(Refused),
    /// The connection is of no use any more; close it.
    Failed(String),
}

/// The session with the node above: handshake, what is held from it, outcomes until it acknowledges them.
///
/// A broken connection loses nothing: the next one states what is held and resends what was not acknowledged.
#[derive(Debug)]
pub struct Uplink {
    identity: UplinkIdentity,
    state: State,
    last_heard: Tick,
    silence: Duration,
    functions: IdMap<FunctionHash, Arc<Function>>,
    held: IdMap<TaskId, Held>,
    outbox: VecDeque<OutcomeBatch>,
    next_sequence: u64,
    capacity: Capacity,
    warm: Option<Warm>,
    messages: VecDeque<Message>,
    events: VecDeque<UplinkEvent>,
}

/// How a task is known above and here.
#[derive(Debug, Clone, Copy)]
struct Held {
    /// The number by which the node above gave us the attempt.
    given: u32,
    /// The number of the attempt that is made now; higher if attempts were lost here.
    current: u32,
    /// Those of the lost attempts that do not count.
    granted: u32,
}

impl Held {
    const fn new(given: u32) -> Self {
        Self { given, current: given, granted: 0 }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Closed,
    Greeting,
    Open,
}

impl Uplink {
    /// A session without a connection.
    pub fn new(identity: UplinkIdentity) -> Self {
        Self {
            identity,
            state: State::Closed,
            last_heard: Tick::ZERO,
            silence: Duration::from_millis(limit::HANDSHAKE_MILLIS),
            functions: IdMap::default(),
            held: IdMap::default(),
            outbox: VecDeque::new(),
            next_sequence: 1,
            capacity: Capacity::default(),
            warm: None,
            messages: VecDeque::new(),
            events: VecDeque::new(),
        }
    }

    /// Who we say we are.
    pub const fn identity(&self) -> &UplinkIdentity {
        &self.identity
    }

    /// Whether the handshake is complete.
    pub fn is_open(&self) -> bool {
        self.state == State::Open
    }

    /// Attempts taken whose outcomes are not acknowledged yet.
    pub fn held(&self) -> usize {
        self.held.len()
    }

    /// The number by which the node above gave us an attempt at this task.
    pub fn given(&self, task: TaskId) -> Option<u32> {
        self.held.get(&task).map(|held| held.given)
    }

    /// A connection to the node above is there.
    pub fn handle_connected(&mut self, now: Now) {
        self.state = State::Greeting;
        self.last_heard = now.tick;
        self.silence = Duration::from_millis(limit::HANDSHAKE_MILLIS);
        self.functions.clear();
        self.messages.clear();
        let UplinkIdentity { role, node, epoch, life, process, ends_at, credential, name, software } =
            self.identity.clone();
        self.messages.push_back(Message::Hello(Hello {
            magic: MAGIC,
            protocol: PROTOCOL,
            role,
            node,
            epoch,
            life,
            process,
            ends_in: (ends_at != Tick::NEVER).then(|| ends_at.since(now.tick)),
            credential,
            name,
            software,
        }));
    }

    /// The connection is gone.
    pub fn handle_closed(&mut self) {
        self.state = State::Closed;
        self.messages.clear();
        self.functions.clear();
    }

    /// The node above said something.
    pub fn handle_message(&mut self, message: Message, now: Now) {
        self.last_heard = now.tick;
        match (self.state, message) {
            (State::Closed, _) => {}
            (State::Greeting, Message::Welcome(welcome)) => {
                self.silence = welcome.silence;
                self.open(now);
            }
            (State::Greeting, Message::Refused(refused)) => {
                self.events.push_back(UplinkEvent::Refused(refused));
            }
            (State::Open, Message::Ping(token)) => self.messages.push_back(Message::Pong(token)),
            (State::Open, Message::OutcomesAcked(through)) => {
                self.acknowledged(through);
                self.events.push_back(UplinkEvent::Acknowledged(through));
            }
            (State::Open, Message::Cancel(attempts)) => {
                self.events
                    .push_back(UplinkEvent::Cancel(attempts.into_iter().map(AttemptId::from).collect()));
            }
            (State::Open, Message::Abandon(attempts)) => {
                self.events
                    .push_back(UplinkEvent::Abandon(attempts.into_iter().map(AttemptId::from).collect()));
            }
            (State::Open, Message::ForgetValues) => self.events.push_back(UplinkEvent::ForgetValues),
            (State::Open, Message::Drain) => self.events.push_back(UplinkEvent::Drain),
            (State::Open, Message::Functions(batch)) => {
                for hash in &batch.forget {
                    self.functions.remove(hash);
                }
                for function in batch.into_functions() {
                    self.functions.insert(function.hash(), Arc::new(function));
                }
                if self.functions.len() > 2 * limit::MAX_SESSION_FUNCTIONS {
                    self.fail("more functions than a session may hold");
                }
            }
            (State::Open, Message::Tasks(batch)) => {
                match batch.into_tasks(now.tick, |hash| self.functions.get(&hash).map(Arc::clone)) {
                    Ok(tasks) => {
                        for task in &tasks {
                            let held = self.held.entry(task.id).or_insert(Held::new(task.attempt));
                            (held.given, held.current) = (task.attempt, held.current.max(task.attempt));
                        }
                        self.events.push_back(UplinkEvent::Tasks(tasks));
                    }
                    Err(Some(hash)) => self.fail(&format!("task for function {hash}, which was not sent")),
                    Err(None) => self.fail("task head without a specification"),
                }
            }
            (_, other) => self.fail(&format!("unexpected {}", other.name())),
        }
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Now) {
        if self.poll_timeout().is_some_and(|(deadline, _)| deadline <= now.tick) {
            self.fail("the node above is silent");
        }
    }

    /// When to call [`handle_timeout`](Self::handle_timeout), and why.
    pub fn poll_timeout(&self) -> Option<(Tick, &'static str)> {
        (self.state != State::Closed).then(|| (self.last_heard + self.silence, "uplink silence"))
    }

    /// Room below changed.
    pub fn set_capacity(&mut self, capacity: Capacity) {
        if capacity != self.capacity {
            self.capacity = capacity;
            if self.is_open() {
                self.messages.push_back(Message::Capacity(capacity.into()));
            }
        }
    }

    /// The slots of the types of workers below changed. Never said by nodes with workers of one type.
    pub fn set_warm(&mut self, warm: Warm) {
        if self.warm.as_ref() != Some(&warm) {
            if self.is_open() {
                self.messages.push_back(Message::Warm(warm.clone()));
            }
            self.warm = Some(warm);
        }
    }

    /// Goes on with what an earlier life of this node has left: it holds what it has outcomes for.
    pub fn restore(&mut self, outbox: Vec<OutcomeBatch>, next_sequence: u64) {
        self.next_sequence = next_sequence.max(1);
        let heads = outbox.iter().flat_map(|batch| &batch.heads);
        self.held.extend(heads.map(|head| (head.task, Held::new(head.attempt))));
        self.outbox.extend(outbox);
    }

    /// Holds an attempt that came in an earlier life.
    pub fn hold(&mut self, attempt: AttemptId) {
        self.held.insert(attempt.task, Held::new(attempt.number));
    }

    /// Attempts ended here. Kept until acknowledged, in batches from the sequence number that is returned.
    pub fn finish(&mut self, outcomes: Vec<Outcome>) -> u64 {
        let first = self.next_sequence;
        let mut outcomes = outcomes.into_iter().peekable();
        while outcomes.peek().is_some() {
            let mut bytes = 0;
            let batch = OutcomeBatch::new(
                self.next_sequence,
                std::iter::from_fn(|| {
                    let fits = bytes < limit::TARGET_BATCH_BYTES;
                    outcomes.next_if(|_| fits).inspect(|outcome| bytes += 64 + outcome.payload_bytes())
                })
                .take(limit::MAX_BATCH_TASKS),
            );
            self.next_sequence += 1;
            if self.is_open() {
                self.messages.push_back(Message::Outcomes(batch.clone()));
            }
            self.outbox.push_back(batch);
        }
        first
    }

    /// Outcomes that the node above has not acknowledged, from this sequence number.
    pub fn unacknowledged(&self, from: u64) -> impl Iterator<Item = &OutcomeBatch> {
        let before = self.outbox.partition_point(|batch| batch.sequence < from);
        self.outbox.range(before..)
    }

    /// What happened to attempts that have not ended. Which of them were lost is said again by each connection, since the
    /// node above counts them; the rest is said once.
    pub fn tell(&mut self, events: Vec<TaskEvent>) {
        for TaskEvent { attempt, kind, .. } in &events {
            let next = attempt.number.saturating_add(1);
            if let TaskEventKind::Lost | TaskEventKind::LeaseLost = kind
                && let Some(held) = self.held.get_mut(&attempt.task)
                && next > held.current
            {
                held.current = next;
                held.granted += u32::from(*kind == TaskEventKind::LeaseLost);
            }
        }
        self.send_events(events);
    }

    fn send_events(&mut self, events: Vec<TaskEvent>) {
        if self.is_open() {
            let mut events = events.into_iter().map(WireTaskEvent::from).peekable();
            while events.peek().is_some() {
                let part = events.by_ref().take(limit::MAX_BATCH_TASKS).collect();
                self.messages.push_back(Message::TaskEvents(part));
            }
        }
    }

    /// Figures for people. Said once and not repeated.
    pub fn report(&mut self, report: Report) {
        if self.is_open() {
            self.messages.push_back(Message::Report(report));
        }
    }

    /// Gives back attempts that were not begun.
    pub fn give_back(&mut self, attempts: &[AttemptId]) {
        for attempt in attempts {
            self.held.remove(&attempt.task);
        }
        if self.is_open() {
            let chunks = attempts.chunks(limit::MAX_BATCH_TASKS);
            self.messages.extend(
                chunks.map(|chunk| Message::GaveBack(chunk.iter().copied().map(WireAttempt::from).collect())),
            );
        }
    }

    /// Leaves: what is held is lost, unless it was given back before.
    pub fn goodbye(&mut self) {
        if self.is_open() {
            self.messages.push_back(Message::Goodbye);
        }
    }

    /// The next message to send.
    pub fn poll_message(&mut self) -> Option<Message> {
        self.messages.pop_front()
    }

    /// The next thing to react to.
    pub fn poll_event(&mut self) -> Option<UplinkEvent> {
        self.events.pop_front()
    }

    /// States what is held and what was lost of it, resends what was not acknowledged, and opens.
    fn open(&mut self, now: Now) {
        self.state = State::Open;
        let held: Vec<_> =
            self.held.iter().map(|(task, held)| WireAttempt { task: *task, number: held.given }).collect();
        self.messages.extend(held.chunks(limit::MAX_BATCH_TASKS).map(|chunk| Message::Held(chunk.to_vec())));
        // Before it is given anything.
        self.messages.extend(self.warm.clone().map(Message::Warm));
        self.messages.push_back(Message::Capacity(self.capacity.into()));
        let lost = self.held.iter().flat_map(|(task, held)| {
            let Held { given, current, granted } = *held;
            // Only the last ones matter if a peer claims to have lost more attempts than there can be.
            (given.max(current.saturating_sub(MOST_LOST))..current).map(move |number| TaskEvent {
                attempt: AttemptId { task: *task, number },
                at: now.wall,
                kind: match number - given < granted {
                    true => TaskEventKind::LeaseLost,
                    false => TaskEventKind::Lost,
                },
                actor: String::new(),
                detail: "lost while the connection was down".to_owned(),
            })
        });
        let lost = lost.collect();
        self.send_events(lost);
        self.messages.extend(self.outbox.iter().cloned().map(Message::Outcomes));
        self.events.push_back(UplinkEvent::Opened);
    }

    fn acknowledged(&mut self, through: u64) {
        while let Some(batch) = self.outbox.pop_front_if(|batch| batch.sequence <= through) {
            for head in &batch.heads {
                // A later attempt may have come since.
                if self.held.get(&head.task).is_some_and(|held| held.given <= head.attempt) {
                    self.held.remove(&head.task);
                }
            }
        }
    }

    fn fail(&mut self, reason: &str) {
        self.state = State::Closed;
        self.events.push_back(UplinkEvent::Failed(reason.to_owned()));
    }
}
