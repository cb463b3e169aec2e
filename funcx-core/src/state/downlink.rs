//! The session with a node below, seen from above. One for each connection.

use std::{collections::VecDeque, time::Duration};

use crate::contract::Capacity;
use crate::message::{
    FunctionBatch, Hello, MAGIC, Message, OutcomeBatch, PROTOCOL, Refused, Report, TaskBatch, Warm, Welcome,
    WireAttempt,
};
use crate::model::{AttemptId, FunctionHash, IdMap, Now, Task, TaskEvent, Tick, limit};

/// Times of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinkPolicy {
    /// Time between pings.
    pub heartbeat: Duration,
    /// Silence after which a connection is given up.
    pub silence: Duration,
    /// Time from connection to the end of the handshake.
    pub handshake: Duration,
}

impl Default for LinkPolicy {
    fn default() -> Self {
        Self::with_heartbeat(Duration::from_millis(limit::HEARTBEAT_MILLIS))
    }
}

impl LinkPolicy {
    /// The policy for this time between pings.
    pub const fn with_heartbeat(heartbeat: Duration) -> Self {
        Self {
            heartbeat,
            silence: heartbeat.saturating_mul(limit::HEARTBEATS_MISSED),
            handshake: Duration::from_millis(limit::HANDSHAKE_MILLIS),
        }
    }
}

/// What the node below said, or what became of the connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DownlinkEvent {
    /// Somebody wants in: [`Downlink::welcome`] or [`Downlink::refuse`] it.
    Hello(Hello),
    /// The handshake is complete.
    Opened {
        /// Attempts that it holds from before.
        held: Vec<AttemptId>,
        /// Its room.
        capacity: Capacity,
    },
    /// Its room changed.
    Capacity(Capacity),
    /// The slots of its types of workers changed.
    Warm(Warm),
    /// Attempts ended.
    Outcomes(OutcomeBatch),
    /// What happened to attempts that have not ended.
    Events(Vec<TaskEvent>),
    /// Attempts that it did not begin and gives back.
    GaveBack(Vec<AttemptId>),
    /// Figures for people.
    Report(Report),
    /// It leaves for good.
    Goodbye,
    /// The connection is of no use any more; close it.
    Failed(String),
}

/// One connection from a node below: handshake, functions sent once, heartbeats.
#[derive(Debug)]
pub struct Downlink {
    policy: LinkPolicy,
    software: String,
    state: State,
    deadline: Tick,
    last_heard: Tick,
    next_ping: Tick,
    pings: u64,
    held: Vec<AttemptId>,
    /// What it said about its types of workers before it opened.
    warm: Option<Warm>,
    sent: IdMap<FunctionHash, ()>,
    sent_bytes: usize,
    messages: VecDeque<Message>,
    events: VecDeque<DownlinkEvent>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Fresh,
    Authorizing { protocol: u16 },
    Welcomed,
    Open,
    Closed,
}

impl Downlink {
    /// A connection that was just accepted. `software` is what the peer is told about us.
    pub fn new(policy: LinkPolicy, software: impl Into<String>, now: Now) -> Self {
        Self {
            policy,
            software: software.into(),
            state: State::Fresh,
            deadline: now.tick + policy.handshake,
            last_heard: now.tick,
            next_ping: now.tick + policy.heartbeat,
            pings: 0,
            held: Vec::new(),
            warm: None,
            sent: IdMap::default(),
            sent_bytes: 0,
            messages: VecDeque::new(),
            events: VecDeque::new(),
        }
    }

    /// Whether the handshake is complete.
    pub fn is_open(&self) -> bool {
        self.state == State::Open
    }

    /// The node below said something.
    pub fn handle_message(&mut self, message: Message, now: Now) {
        self.last_heard = now.tick;
        match (self.state, message) {
            (State::Closed, _) => {}
            (State::Fresh, Message::Hello(hello)) => self.greet(hello),
            (State::Welcomed, Message::Held(attempts)) => {
                self.held.extend(attempts.into_iter().map(AttemptId::from));
                if self.held.len() > 2 * limit::MAX_PEER_CREDITS as usize {
                    self.fail("it claims to hold more than any peer may");
                }
            }
            (State::Welcomed, Message::Warm(warm)) => self.warm = Some(warm),
            (State::Welcomed, Message::Capacity(capacity)) => {
                self.state = State::Open;
                let held = std::mem::take(&mut self.held);
                self.events.push_back(DownlinkEvent::Opened { held, capacity: bounded(capacity.into()) });
                self.events.extend(self.warm.take().map(DownlinkEvent::Warm));
            }
            (State::Open, Message::Capacity(capacity)) => {
                self.events.push_back(DownlinkEvent::Capacity(bounded(capacity.into())));
            }
            (State::Open, Message::Warm(warm)) => self.events.push_back(DownlinkEvent::Warm(warm)),
            (State::Open, Message::Outcomes(batch)) => self.events.push_back(DownlinkEvent::Outcomes(batch)),
            (State::Open, Message::TaskEvents(events)) => {
                let events = events.into_iter().map(TaskEvent::from).collect();
                self.events.push_back(DownlinkEvent::Events(events));
            }
            (State::Open, Message::Report(report)) => self.events.push_back(DownlinkEvent::Report(report)),
            (State::Open, Message::GaveBack(attempts)) => {
                let attempts = attempts.into_iter().map(AttemptId::from).collect();
                self.events.push_back(DownlinkEvent::GaveBack(attempts));
            }
            (State::Open, Message::Pong(_)) => {}
            (State::Open, Message::Goodbye) => {
                self.state = State::Closed;
                self.events.push_back(DownlinkEvent::Goodbye);
            }
            (_, other) => self.fail(&format!("unexpected {}", other.name())),
        }
    }

    /// Takes the node that said hello.
    pub fn welcome(&mut self) {
        if let State::Authorizing { protocol } = self.state {
            self.state = State::Welcomed;
            self.messages.push_back(Message::Welcome(Welcome {
                protocol,
                heartbeat: self.policy.heartbeat,
                silence: self.policy.silence,
                software: self.software.clone(),
            }));
        }
    }

    /// Turns away the node that said hello; the connection is closed after this message.
    pub fn refuse(&mut self, reason: impl Into<String>, retry: bool) {
        let reason = reason.into();
        self.messages.push_back(Message::Refused(Refused { reason: reason.clone(), retry }));
        self.fail(&reason);
    }

    /// Sends tasks, and before them the functions that this connection has not carried yet.
    pub fn send_tasks(&mut self, tasks: Vec<Task>, now: Tick) {
        let mut functions = FunctionBatch::default();
        let mut bytes = 0;
        let mut last = None;
        for task in &tasks {
            let function = &task.spec.function;
            let hash = function.hash();
            if last == Some(hash) || self.sent.contains_key(&hash) {
                last = Some(hash);
                continue;
            }
            last = Some(hash);
            bytes += function.size_bytes();
            functions.push(function);
            self.sent.insert(hash, ());
            self.sent_bytes += function.size_bytes();
            if bytes > limit::TARGET_BATCH_BYTES {
                self.messages.push_back(Message::Functions(std::mem::take(&mut functions)));
                bytes = 0;
            }
        }
        if !functions.heads.is_empty() {
            self.messages.push_back(Message::Functions(functions));
        }
        self.messages.push_back(Message::Tasks(TaskBatch::new(tasks, now)));
        if self.sent.len() > limit::MAX_SESSION_FUNCTIONS
            || self.sent_bytes > limit::MAX_SESSION_FUNCTION_BYTES
        {
            // Tasks in flight keep their function alive below; what is needed again is sent again.
            let forget = self.sent.drain().map(|(hash, ())| hash).collect();
            self.sent_bytes = 0;
            self.messages.push_back(Message::Functions(FunctionBatch { forget, ..FunctionBatch::default() }));
        }
    }

    /// Asks to stop attempts.
    pub fn send_cancel(&mut self, attempts: &[AttemptId]) {
        for chunk in attempts.chunks(limit::MAX_BATCH_TASKS) {
            self.messages.push_back(Message::Cancel(chunk.iter().copied().map(WireAttempt::from).collect()));
        }
    }

    /// Asks to stop attempts that have no place here any more.
    pub fn send_abandon(&mut self, attempts: &[AttemptId]) {
        for chunk in attempts.chunks(limit::MAX_BATCH_TASKS) {
            self.messages.push_back(Message::Abandon(chunk.iter().copied().map(WireAttempt::from).collect()));
        }
    }

    /// Outcomes up to this batch are safe here.
    pub fn acknowledge(&mut self, sequence: u64) {
        if self.is_open() {
            self.messages.push_back(Message::OutcomesAcked(sequence));
        }
    }

    /// Has the node forget what calls have returned.
    pub fn forget_values(&mut self) {
        if self.is_open() {
            self.messages.push_back(Message::ForgetValues);
        }
    }

    /// Asks the node to finish and leave.
    pub fn drain(&mut self) {
        if self.is_open() {
            self.messages.push_back(Message::Drain);
        }
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Now) {
        match self.state {
            State::Closed => {}
            State::Open => {
                if self.last_heard + self.policy.silence <= now.tick {
                    self.fail("it is silent");
                } else if self.next_ping <= now.tick {
                    self.pings += 1;
                    self.next_ping = now.tick + self.policy.heartbeat;
                    self.messages.push_back(Message::Ping(self.pings));
                }
            }
            State::Fresh | State::Authorizing { .. } | State::Welcomed => {
                if self.deadline <= now.tick {
                    self.fail("the handshake took too long");
                }
            }
        }
    }

    /// When to call [`handle_timeout`](Self::handle_timeout), and why.
    pub fn poll_timeout(&self) -> Option<(Tick, &'static str)> {
        match self.state {
            State::Closed => None,
            State::Open => {
                Some((self.next_ping.min(self.last_heard + self.policy.silence), "downlink heartbeat"))
            }
            State::Fresh | State::Authorizing { .. } | State::Welcomed => {
                Some((self.deadline, "downlink handshake"))
            }
        }
    }

    /// The next message to send.
    pub fn poll_message(&mut self) -> Option<Message> {
        self.messages.pop_front()
    }

    /// The next thing to react to.
    pub fn poll_event(&mut self) -> Option<DownlinkEvent> {
        self.events.pop_front()
    }

    fn greet(&mut self, hello: Hello) {
        let long = [&hello.name, &hello.software, &hello.credential]
            .iter()
            .any(|text| text.len() > limit::MAX_TEXT_BYTES);
        if hello.magic != MAGIC || long {
            self.refuse("this is not the hello of a funcx node", false);
        } else if let Some(protocol) = PROTOCOL.common(hello.protocol) {
            self.state = State::Authorizing { protocol };
            self.events.push_back(DownlinkEvent::Hello(hello));
        } else {
            let reason = format!(
                "no common protocol version: {} `{}` speaks {}, {} speaks {PROTOCOL}",
                hello.software, hello.name, hello.protocol, self.software
            );
            self.refuse(reason, false);
        }
    }

    fn fail(&mut self, reason: &str) {
        self.state = State::Closed;
        self.events.push_back(DownlinkEvent::Failed(reason.to_owned()));
    }
}

/// A peer that advertises more than the limit gets the limit.
fn bounded(capacity: Capacity) -> Capacity {
    let slots = capacity.slots.min(limit::MAX_PEER_CREDITS);
    Capacity { slots, prefetch: capacity.prefetch.min(limit::MAX_PEER_CREDITS - slots) }
}
