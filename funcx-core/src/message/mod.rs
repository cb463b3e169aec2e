//! What crosses a link, and only that.
//!
//! A link joins an upstream node (service or endpoint) and a downstream node (endpoint or manager). The downstream
//! node dials. After `Hello` and `Welcome` it states what it still holds and opens with its first `Capacity`; then it
//! resends outcomes that were not acknowledged:
//!
//! ```text
//! down-stream node                     upstream node
//!   Hello ───────────────────────────▶
//!         ◀─────────────────────────── Welcome | Refused
//!   Held… Warm? Capacity ────────────▶   (open)
//!         ◀─────────────────────────── Functions Tasks Cancel Abandon OutcomesAcked Drain Ping
//!   Outcomes Capacity Warm TaskEvents GaveBack Report Pong Goodbye ─▶
//! ```
//!
//! These are wire types. A head is what a frame's header carries; payloads travel behind the header and are never
//! copied or decoded by a hop, so they are left out of serialization here and put back by the codec.

mod batch;

use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

pub use batch::{FunctionBatch, FunctionHead, OutcomeBatch, OutcomeHead, SpecHead, TaskBatch, TaskHead};

use crate::contract::Capacity;
use crate::model::{AttemptId, TaskEvent, TaskEventKind, TaskId, Timestamp, limit};

/// First field of every `Hello`.
pub const MAGIC: u32 = u32::from_be_bytes(*b"fnx1");

/// Versions of the link protocol that this build speaks.
pub const PROTOCOL: ProtocolRange = ProtocolRange { oldest: 1, newest: 1 };

/// A range of protocol versions, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProtocolRange {
    /// Oldest version.
    pub oldest: u16,
    /// Newest version.
    pub newest: u16,
}

impl ProtocolRange {
    /// The newest version that both ranges hold.
    pub fn common(self, other: Self) -> Option<u16> {
        let newest = self.newest.min(other.newest);
        (newest >= self.oldest.max(other.oldest)).then_some(newest)
    }
}

impl std::fmt::Display for ProtocolRange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}–{}", self.oldest, self.newest)
    }
}

/// Everything that crosses a link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// Up: who dials.
    Hello(Hello),
    /// Up: attempts still held, before the first `Capacity`.
    Held(Vec<WireAttempt>),
    /// Up: room for tasks. The first one opens the session.
    Capacity(WireCapacity),
    /// Up: which types of workers have how many of the slots. Only from nodes with workers of several types.
    Warm(Warm),
    /// Up: outcomes, kept until acknowledged.
    Outcomes(OutcomeBatch),
    /// Up: what happened to attempts that have not ended.
    TaskEvents(Vec<WireTaskEvent>),
    /// Up: figures for people.
    Report(Report),
    /// Up: answer to `Ping`.
    Pong(u64),
    /// Up: attempts that were not begun and go back; they are the node's above again.
    GaveBack(Vec<WireAttempt>),
    /// Up: leaving for good; what is still held is lost.
    Goodbye,
    /// Down: the peer is taken.
    Welcome(Welcome),
    /// Down: the peer is not taken; the connection closes.
    Refused(Refused),
    /// Down: bodies of functions, before the first task that names them.
    Functions(FunctionBatch),
    /// Down: tasks to run.
    Tasks(TaskBatch),
    /// Down: attempts to stop.
    Cancel(Vec<WireAttempt>),
    /// Down: attempts to stop because they have no place above any more: the task ended, or goes on elsewhere.
    Abandon(Vec<WireAttempt>),
    /// Down: outcomes up to and including this sequence number are safe and can be forgotten.
    OutcomesAcked(u64),
    /// Down: what calls have returned so far answers no equal ones any more, here or below.
    ForgetValues,
    /// Down: finish what you hold, then say goodbye.
    Drain,
    /// Down: are you there?
    Ping(u64),
}

/// Who dials, and what it speaks.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// [`MAGIC`].
    pub magic: u32,
    /// Versions it speaks.
    pub protocol: ProtocolRange,
    /// What it is.
    pub role: Role,
    /// Its lasting identity: an endpoint id, a manager id.
    pub node: Uuid,
    /// Names the session. The same epoch after a reconnect means that nothing was lost: the process goes on, or it has
    /// started anew from its journal.
    pub epoch: u64,
    /// How often a process has taken up this session. One that comes with a life that has been is a copy.
    pub life: u32,
    /// Drawn anew when the process starts.
    pub process: u64,
    /// Time until it will be gone, if that is known.
    pub ends_in: Option<Duration>,
    /// Secret that proves it; empty where the transport has proved it already.
    pub credential: String,
    /// Name for people.
    pub name: String,
    /// Software version, for people.
    pub software: String,
}

impl std::fmt::Debug for Hello {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hello")
            .field("protocol", &self.protocol)
            .field("role", &self.role)
            .field("node", &self.node)
            .field("epoch", &self.epoch)
            .field("life", &self.life)
            .field("name", &self.name)
            .field("software", &self.software)
            .finish_non_exhaustive()
    }
}

/// What a peer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Role {
    /// An endpoint dialling a service.
    Endpoint,
    /// A manager dialling an endpoint.
    Manager,
}

/// The answer to a `Hello` that is taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// Version spoken from now on.
    pub protocol: u16,
    /// Time between two `Ping`s.
    pub heartbeat: Duration,
    /// Silence after which either side gives the connection up.
    pub silence: Duration,
    /// Name and version of the upstream node, for people.
    pub software: String,
}

/// The answer to a `Hello` that is not taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// Why, for people.
    pub reason: String,
    /// Whether the same `Hello` may be taken later.
    pub retry: bool,
}

/// An attempt on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct WireAttempt {
    /// The task.
    pub task: TaskId,
    /// Its number.
    pub number: u32,
}

impl From<AttemptId> for WireAttempt {
    fn from(id: AttemptId) -> Self {
        Self { task: id.task, number: id.number }
    }
}

impl From<WireAttempt> for AttemptId {
    fn from(id: WireAttempt) -> Self {
        Self { task: id.task, number: id.number }
    }
}

/// Room for tasks on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct WireCapacity {
    /// Attempts that run at the same time.
    pub slots: u32,
    /// Attempts that may wait besides.
    pub prefetch: u32,
}

impl From<Capacity> for WireCapacity {
    fn from(capacity: Capacity) -> Self {
        Self { slots: capacity.slots, prefetch: capacity.prefetch }
    }
}

impl From<WireCapacity> for Capacity {
    fn from(capacity: WireCapacity) -> Self {
        Self { slots: capacity.slots, prefetch: capacity.prefetch }
    }
}

/// The types of workers of a node, and what became of its slots. How many slots of a type are idle is not said: who gives out
/// the tasks knows sooner than any message could tell.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Warm {
    /// Types that have slots; at most one for each environment that an endpoint may have, and one more.
    pub types: Vec<WarmType>,
    /// Slots in which a worker of another type than before was started, since the node was.
    pub cold_starts: u64,
    /// Those of them for which a worker of another type had to go.
    pub switches: u64,
    /// Slots that were given up because nobody had needed them for long.
    pub retired: u64,
}

/// Slots with workers of one type.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WarmType {
    /// The environment that its workers are in; `None` is the default one.
    pub environment: Option<String>,
    /// Slots, with and without a task.
    pub slots: u32,
}

/// A [`TaskEvent`] on the wire.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WireTaskEvent {
    attempt: WireAttempt,
    at: u64,
    kind: WireEventKind,
    actor: String,
    detail: String,
}

/// The kinds of events that cross a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum WireEventKind {
    Started,
    Lost,
    LeaseLost,
    CancelRequested,
}

impl From<TaskEvent> for WireTaskEvent {
    fn from(event: TaskEvent) -> Self {
        Self {
            attempt: event.attempt.into(),
            at: event.at.as_nanos(),
            kind: match event.kind {
                TaskEventKind::Started => WireEventKind::Started,
                TaskEventKind::Lost => WireEventKind::Lost,
                TaskEventKind::LeaseLost => WireEventKind::LeaseLost,
                TaskEventKind::CancelRequested => WireEventKind::CancelRequested,
            },
            actor: bounded(event.actor),
            detail: bounded(event.detail),
        }
    }
}

impl From<WireTaskEvent> for TaskEvent {
    fn from(event: WireTaskEvent) -> Self {
        Self {
            attempt: event.attempt.into(),
            at: Timestamp::from_nanos(event.at),
            kind: match event.kind {
                WireEventKind::Started => TaskEventKind::Started,
                WireEventKind::Lost => TaskEventKind::Lost,
                WireEventKind::LeaseLost => TaskEventKind::LeaseLost,
                WireEventKind::CancelRequested => TaskEventKind::CancelRequested,
            },
            actor: bounded(event.actor),
            detail: bounded(event.detail),
        }
    }
}

/// As much of a text as an event may carry.
fn bounded(mut text: String) -> String {
    text.truncate(text.floor_char_boundary(limit::MAX_EVENT_TEXT_BYTES));
    text
}

/// Figures about a node and what is below it, for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Report {
    /// Managers that are connected.
    pub managers: u32,
    /// Worker slots.
    pub workers: u32,
    /// Tasks that wait in this node.
    pub queued: u64,
    /// Attempts given out from this node.
    pub leased: u64,
}

impl Message {
    /// The word for this message in logs.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Hello(_) => "Hello",
            Self::Held(_) => "Held",
            Self::Capacity(_) => "Capacity",
            Self::Warm(_) => "Warm",
            Self::Outcomes(_) => "Outcomes",
            Self::TaskEvents(_) => "TaskEvents",
            Self::Report(_) => "Report",
            Self::Pong(_) => "Pong",
            Self::GaveBack(_) => "GaveBack",
            Self::Goodbye => "Goodbye",
            Self::Welcome(_) => "Welcome",
            Self::Refused(_) => "Refused",
            Self::Functions(_) => "Functions",
            Self::Tasks(_) => "Tasks",
            Self::Cancel(_) => "Cancel",
            Self::Abandon(_) => "Abandon",
            Self::OutcomesAcked(_) => "OutcomesAcked",
            Self::ForgetValues => "ForgetValues",
            Self::Drain => "Drain",
            Self::Ping(_) => "Ping",
        }
    }
}

/// Payloads of a batch in the order of its heads, as the codec takes them out of a frame.
pub type Payloads = Vec<Bytes>;
