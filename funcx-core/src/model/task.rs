//! One call of a function.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{Function, IdentityId, Shape, Target, TaskId, Tick, Timestamp, limit};
use crate::memo::MemoKey;

/// One attempt at one task. A retry is a new attempt of the same task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AttemptId {
    /// The task.
    pub task: TaskId,
    /// 1 for the first attempt.
    pub number: u32,
}

/// What many tasks share: the function they call, the shape they ask for, whose they are.
///
/// All tasks of one submission for one function point to the same specification, in memory and in a frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskSpec {
    /// The code to call.
    pub function: Arc<Function>,
    /// Resources and place.
    pub shape: Shape,
    /// Bounds on attempts.
    pub limits: TaskLimits,
    /// Whose task it is.
    pub owner: IdentityId,
    /// A JSON object that only the worker reads (`result_serializers`, `resource_specification`, `env`,
    /// `sandbox`); empty for none.
    pub options: Bytes,
    /// Whether each task calls the function many times: its arguments are a JSON array with those of each call, and its
    /// value says what became of each.
    pub map: bool,
    /// Whether a value that the same call has returned before will do.
    pub memoize: Memoize,
    /// Trace that the submission belongs to.
    pub trace: TraceContext,
}

impl TaskSpec {
    /// A specification with default shape and limits.
    pub fn new(function: Arc<Function>, owner: IdentityId) -> Self {
        Self {
            function,
            shape: Shape::default(),
            limits: TaskLimits::default(),
            owner,
            options: Bytes::new(),
            map: false,
            memoize: Memoize::default(),
            trace: TraceContext::default(),
        }
    }
}

impl TaskSpec {
    /// Bytes of its texts, which travel in the header of a frame.
    pub fn text_bytes(&self) -> usize {
        let Shape { accelerators, environment, container, target, .. } = &self.shape;
        let labels = match target {
            Target::Anywhere => 0,
            Target::Labels(labels) => labels.iter().map(|label| size_of::<String>() + label.len()).sum(),
        };
        let length = |text: &Option<String>| text.as_ref().map_or(0, String::len);
        self.options.len() + length(environment) + length(container) + length(&accelerators.kind) + labels
    }
}

/// Whether a call may be answered with the value of an equal one: same function by hash, same arguments byte by byte, same
/// options. Only values are remembered, never failures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Memoize {
    /// It runs.
    #[default]
    Never,
    /// With the value of an equal call of the same owner.
    Own,
    /// With the value of an equal call of anybody at the same endpoint. For functions whose owner has said that whoever may
    /// call them may see each other's values.
    Shared,
}

/// How hard, how soon and how long the fabric tries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TaskLimits {
    /// Attempts in all when infrastructure is lost; 1 means "at most once". A function that raises is not retried.
    ///
    /// An attempt counts if somebody said that it had begun before it was lost. Others are made again without counting
    /// (see [`Task::granted`]), but for tasks with one attempt, for which every doubt counts.
    pub max_attempts: u32,
    /// Place among the tasks of one owner that wait for the same endpoint: higher ones go first, equal ones in order of
    /// acceptance. It says nothing about the tasks of others.
    pub priority: i8,
    /// Longest time from acceptance until the task begins to run; if it still waits then, it ends as `TimedOut`.
    pub ttl: Option<Duration>,
    /// Longest time from acceptance until the task has ended; it is stopped then, wherever it is, and ends as `TimedOut`.
    pub deadline: Option<Duration>,
}

impl Default for TaskLimits {
    fn default() -> Self {
        Self { max_attempts: limit::DEFAULT_MAX_ATTEMPTS, priority: 0, ttl: None, deadline: None }
    }
}

/// One call of a function with arguments, as it travels down the tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Task {
    /// Name of the task in every process.
    pub id: TaskId,
    /// Number of this attempt, from 1. A task has begun to run at most this many times.
    pub attempt: u32,
    /// Earlier attempts that do not count against `max_attempts`: they were lost before anybody said that they had begun.
    pub granted: u32,
    /// What it shares with its siblings.
    pub spec: Arc<TaskSpec>,
    /// The arguments, opaque to every hop.
    pub payload: Bytes,
    /// What it has in common with equal calls, if it is memoized and somebody in this process has found out. It does not
    /// cross links: whoever shares values by it must be sure of it.
    pub memo: Option<Arc<MemoKey>>,
    /// When it passed where.
    pub stamps: HopStamps,
    /// It ends as `TimedOut` if it has not begun by then; [`Tick::NEVER`] if it may wait for ever. A tick of this process:
    /// what crosses a link is the time that is left, so that clocks need not agree.
    pub start_by: Tick,
    /// It is stopped if it has not ended by then; [`Tick::NEVER`] if it may take for ever.
    pub end_by: Tick,
}

impl Task {
    /// The first attempt at a new task.
    pub fn new(id: TaskId, spec: Arc<TaskSpec>, payload: impl Into<Bytes>) -> Self {
        Self {
            id,
            attempt: 1,
            granted: 0,
            spec,
            payload: payload.into(),
            memo: None,
            stamps: HopStamps::default(),
            start_by: Tick::NEVER,
            end_by: Tick::NEVER,
        }
    }

    /// Task and attempt number.
    pub const fn attempt_id(&self) -> AttemptId {
        AttemptId { task: self.id, number: self.attempt }
    }

    /// Walltime of the task, if it has one.
    pub fn walltime(&self) -> Option<Duration> {
        self.spec.shape.walltime
    }
}

/// W3C trace context (level 1, "traceparent") of the request that made the task; all zero if there is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TraceContext {
    /// 16-byte trace id.
    pub trace_id: u128,
    /// 8-byte id of the parent span.
    pub span_id: u64,
    /// Trace flags; bit 0 is "sampled".
    pub flags: u8,
}

/// A place where a task gets a time stamp on its way down or its outcome on the way up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Hop {
    /// The service took the submission in.
    Accepted,
    /// The service sent it down.
    ServiceSent,
    /// The endpoint sent it down.
    EndpointSent,
    /// The manager gave it to an executor.
    ManagerSent,
    /// The worker began.
    Started,
    /// The worker ended.
    Ended,
    /// The manager had the outcome.
    ManagerReturned,
    /// The endpoint had the outcome.
    EndpointReturned,
}

impl Hop {
    /// Every hop in the order a task passes them.
    pub const ALL: [Self; 8] = [
        Self::Accepted,
        Self::ServiceSent,
        Self::EndpointSent,
        Self::ManagerSent,
        Self::Started,
        Self::Ended,
        Self::ManagerReturned,
        Self::EndpointReturned,
    ];

    /// The word for this hop in records and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::ServiceSent => "service-sent",
            Self::EndpointSent => "endpoint-sent",
            Self::ManagerSent => "manager-sent",
            Self::Started => "started",
            Self::Ended => "ended",
            Self::ManagerReturned => "manager-returned",
            Self::EndpointReturned => "endpoint-returned",
        }
    }
}

/// When a task passed each [`Hop`]. Stamps of different machines are as comparable as their clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HopStamps([Timestamp; Hop::ALL.len()]);

impl HopStamps {
    /// The time at `hop`; [`Timestamp::UNSET`] if it has not passed there.
    pub const fn at(&self, hop: Hop) -> Timestamp {
        self.0[hop as usize]
    }

    /// Records that the task passes `hop` now.
    pub const fn set(&mut self, hop: Hop, time: Timestamp) {
        self.0[hop as usize] = time;
    }

    /// All stamps in the order of [`Hop::ALL`], in nanoseconds since the Unix epoch.
    pub fn to_nanos(self) -> [u64; Hop::ALL.len()] {
        self.0.map(Timestamp::as_nanos)
    }

    /// The stamps that [`HopStamps::to_nanos`] gave.
    pub fn from_nanos(nanos: [u64; Hop::ALL.len()]) -> Self {
        Self(nanos.map(Timestamp::from_nanos))
    }
}
