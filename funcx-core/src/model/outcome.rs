//! How a task ended.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{AttemptId, HopStamps, Task, TaskId};

/// The five ways a task can end. A task that failed is not an [`Error`](super::Error) of the fabric.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OutcomeKind {
    /// The function returned; the payload is its value.
    Returned,
    /// The function, or the worker on its behalf, raised; the payload is a [`Failure`].
    Raised,
    /// It ran past its walltime or its deadline and was stopped, or it had not begun when its time to live was over.
    TimedOut,
    /// Somebody cancelled it.
    Cancelled,
    /// Infrastructure was lost under it and no attempts are left.
    Lost,
}

impl OutcomeKind {
    /// The word for this kind in HTTP bodies and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Returned => "returned",
            Self::Raised => "raised",
            Self::TimedOut => "timed-out",
            Self::Cancelled => "cancelled",
            Self::Lost => "lost",
        }
    }
}

impl OutcomeKind {
    /// Every kind, in order of declaration.
    pub const ALL: [Self; 5] = [Self::Returned, Self::Raised, Self::TimedOut, Self::Cancelled, Self::Lost];
}

impl std::fmt::Display for OutcomeKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a task did not return, as it stands (in JSON) in the payload of its outcome.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// A word that programs can test, such as `RemoteExecutionError` or `MaxResultSizeExceeded`.
    pub code: String,
    /// One line for people.
    pub message: String,
    /// What the user's code printed about it, such as a Python traceback; empty if there is none.
    #[serde(default)]
    pub traceback: String,
}

impl Failure {
    /// Code of a `Lost` outcome when nobody said that the attempt had begun: it is made again without counting.
    pub const LEASE_LOST: &str = "LeaseLost";

    /// Code of a `Cancelled` outcome when no node that may have had the task was connected: one that has it stops it when
    /// it comes back. Until then it may begin there and run on.
    pub const CANCELLED_AWAY: &str = "CancelledAway";

    /// The reason of a task that was cancelled while nobody was there to confirm it.
    pub fn cancelled_away() -> Self {
        Self::new(
            Self::CANCELLED_AWAY,
            "cancelled while no node that may have it was connected; one that has it stops it when it comes back",
        )
    }

    /// A failure without a traceback.
    pub fn new(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self { code: code.into(), message: message.into(), traceback: String::new() }
    }
}

/// What stands for the worker where none was needed.
const MEMOIZED: &[u8] = br#"{"memoized":true}"#;

/// The end of one attempt, as it travels up the tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// The task.
    pub task: TaskId,
    /// The attempt that ended.
    pub attempt: u32,
    /// How.
    pub kind: OutcomeKind,
    /// The value if it returned, else a [`Failure`] in JSON. Opaque to every hop.
    pub payload: Bytes,
    /// End of what it wrote to standard output, bounded by [`MAX_OUTPUT_BYTES`](super::limit::MAX_OUTPUT_BYTES).
    pub stdout: Bytes,
    /// End of what it wrote to standard error, bounded likewise.
    pub stderr: Bytes,
    /// A JSON object about the worker (operating system, Python version, …); empty if unknown.
    pub worker: Bytes,
    /// When it passed where.
    pub stamps: HopStamps,
}

impl Outcome {
    /// The outcome of a task that returned `value`.
    pub fn returned(task: &Task, value: impl Into<Bytes>) -> Self {
        Self::of(task, OutcomeKind::Returned, value.into())
    }

    /// The outcome of a task that did not run, because an equal one has returned this value.
    pub fn remembered(task: &Task, value: Bytes) -> Self {
        Self { worker: Bytes::from_static(MEMOIZED), ..Self::returned(task, value) }
    }

    /// Whether it is one of those that [`remembered`](Self::remembered) makes, here or elsewhere.
    pub fn is_remembered(&self) -> bool {
        self.worker == MEMOIZED
    }

    /// The outcome of a task that ended as `kind` for the reason given.
    pub fn failed(task: &Task, kind: OutcomeKind, failure: &Failure) -> Self {
        // A struct of three strings always has a JSON form.
        let payload = serde_json::to_vec(failure).unwrap_or_default();
        Self::of(task, kind, payload.into())
    }

    /// Turns the outcome of an attempt into another one, without what it carried.
    pub fn become_failure(&mut self, kind: OutcomeKind, failure: &Failure) {
        self.kind = kind;
        // A struct of three strings always has a JSON form.
        self.payload = serde_json::to_vec(failure).unwrap_or_default().into();
        self.stdout = Bytes::new();
        self.stderr = Bytes::new();
    }

    fn of(task: &Task, kind: OutcomeKind, payload: Bytes) -> Self {
        Self {
            task: task.id,
            attempt: task.attempt,
            kind,
            payload,
            stdout: Bytes::new(),
            stderr: Bytes::new(),
            worker: Bytes::new(),
            stamps: task.stamps,
        }
    }

    /// Task and attempt number.
    pub const fn attempt_id(&self) -> AttemptId {
        AttemptId { task: self.task, number: self.attempt }
    }

    /// The reason, unless the task returned. A payload that holds no [`Failure`] is quoted in one.
    pub fn failure(&self) -> Option<Failure> {
        (self.kind != OutcomeKind::Returned).then(|| {
            serde_json::from_slice(&self.payload).unwrap_or_else(|_| {
                Failure::new(self.kind.as_str(), String::from_utf8_lossy(&self.payload).into_owned())
            })
        })
    }

    /// Bytes of payload, captured streams and worker details.
    pub fn payload_bytes(&self) -> usize {
        self.payload.len() + self.stdout.len() + self.stderr.len() + self.worker.len()
    }
}
