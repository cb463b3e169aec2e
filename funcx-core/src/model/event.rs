//! What happens to a task between its acceptance and its outcome, for people who ask why.

use super::{AttemptId, Timestamp};

/// Something that happened to an attempt at a task.
///
/// The hops that an attempt passes are stamps of its outcome, which costs nothing per task; an event is for what is rare.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskEvent {
    /// The attempt that it happened to.
    pub attempt: AttemptId,
    /// When, by the clock of the node that noticed it.
    pub at: Timestamp,
    /// What.
    pub kind: TaskEventKind,
    /// The node or the person that did it, in words for people; empty if unknown.
    pub actor: String,
    /// Why, in words for people; empty if there is nothing to say.
    pub detail: String,
}

/// What can happen to an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum TaskEventKind {
    /// It began to run.
    Started,
    /// It was lost with the infrastructure under it; the task goes on as the next attempt.
    Lost,
    /// Whoever had it was lost before anybody said that it had begun. The task goes on as the next attempt, and this one
    /// does not count against `max_attempts`.
    LeaseLost,
    /// Somebody asked to stop the task.
    CancelRequested,
}

impl TaskEventKind {
    /// The word for it in records, timelines and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Started => "started",
            Self::Lost => "attempt-lost",
            Self::LeaseLost => "lease-lost",
            Self::CancelRequested => "cancel-requested",
        }
    }
}
