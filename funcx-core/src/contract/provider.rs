//! Blocks: asking for them, watching them, giving them back.

use std::{collections::BTreeMap, time::Duration};

use futures::future::BoxFuture;

use super::Command;
use crate::model::{BlockId, JobId, Result};

/// Asks one resource for blocks and reports what became of them.
///
/// Called by the scaling driver, per block and per poll interval, never per task.
///
/// **Cancellation.** Dropping a future may leave a scheduler command running. A dropped `submit` may still have
/// made a job; it will show up with the block's name.
///
/// **Errors.** `Unavailable` (busy or down; retry later), `Forbidden`, `InvalidInput` (the request can never be
/// met; the message is the scheduler's), `LimitExceeded`.
///
/// **Suite.** `funcx_core::conformance::provider`.
pub trait Provider: Send + Sync + 'static {
    /// What it can do.
    fn capability(&self) -> ProviderCapability;

    /// Asks for one block. On return the job exists; it may not have started.
    fn submit<'a>(&'a self, block: &'a BlockRequest) -> BoxFuture<'a, Result<JobId>>;

    /// State of every job in `jobs`, in one query where possible.
    ///
    /// **Shape.** Exactly one entry per requested job. A job that the resource no longer knows is
    /// [`JobState::Unlisted`], which is an answer, not an error.
    /// **Bounds.** At most [`ProviderCapability::max_status_batch`] jobs; callers split larger sets.
    fn status<'a>(&'a self, jobs: &'a [JobId]) -> BoxFuture<'a, Result<BTreeMap<JobId, JobStatus>>>;

    /// Gives jobs back. Idempotent; jobs that have ended are not an error. Resolves when the resource has taken
    /// the request; `status` tells when the job is gone.
    fn cancel<'a>(&'a self, jobs: &'a [JobId]) -> BoxFuture<'a, Result<()>>;

    /// Resolves soon after any job has ended, if the resource can tell; else after its poll interval.
    ///
    /// A hint to call `status`; spurious wake-ups are allowed.
    fn changed(&self) -> BoxFuture<'_, ()>;
}

/// What a [`Provider`] can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProviderCapability {
    /// The word for it in configuration.
    pub name: &'static str,
    /// Jobs it takes in one [`Provider::status`] call.
    pub max_status_batch: usize,
    /// Nodes one block may have.
    pub max_nodes: u32,
}

/// One block to ask for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockRequest {
    /// Our name for it.
    pub block: BlockId,
    /// Nodes.
    pub nodes: u32,
    /// How long it lives; forever if `None`.
    pub walltime: Option<Duration>,
    /// What runs on its first node: the launcher's command.
    pub command: Command,
}

/// Where a job is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum JobState {
    /// Accepted, not started.
    Pending,
    /// Running.
    Running,
    /// Ended with exit code 0.
    Completed,
    /// Ended otherwise.
    Failed,
    /// Ended because somebody asked.
    Cancelled,
    /// Ended because its walltime was over; expected, not a failure.
    TimedOut,
    /// Held by a person or the scheduler.
    Held,
    /// The resource no longer lists it.
    Unlisted,
    /// The resource used a word that we do not know.
    Unknown,
}

impl JobState {
    /// Whether it can run no more.
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Completed | Self::Failed | Self::Cancelled | Self::TimedOut | Self::Unlisted)
    }
}

/// State of a job and what is known about the reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobStatus {
    /// The state.
    pub state: JobState,
    /// For people: exit code, signal, last lines of its standard error, the scheduler's reason.
    pub reason: Option<String>,
}
