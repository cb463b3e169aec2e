//! The words of a batch system: how to render its commands, how to read what they print.

use std::collections::BTreeMap;

use super::{BlockRequest, Command, JobStatus};
use crate::model::{JobId, Result};

/// Renders the commands of one batch system and parses what they print. Pure, so that it can be tested without a
/// cluster; the runner that executes the commands is the same for all of them.
///
/// **Errors.** `InvalidInput` (the block cannot be expressed), `Protocol` (output not understood; the context
/// carries the line), `Unavailable` and `Forbidden` as far as the output tells.
pub trait BatchSystem: Send + Sync + 'static {
    /// What it can do.
    fn capability(&self) -> BatchCapability;

    /// The command that submits `block`.
    fn submit_command(&self, block: &BlockRequest) -> Result<Command>;

    /// The job that the submit command made.
    fn parse_submit(&self, output: &CommandOutput) -> Result<JobId>;

    /// The command that reports these jobs; at most [`BatchCapability::max_status_batch`] of them.
    fn status_command(&self, jobs: &[JobId]) -> Result<Command>;

    /// State of every job in `jobs`; those the output does not list are `Unlisted`.
    fn parse_status(&self, jobs: &[JobId], output: &CommandOutput) -> Result<BTreeMap<JobId, JobStatus>>;

    /// The command that cancels these jobs.
    fn cancel_command(&self, jobs: &[JobId]) -> Result<Command>;
}

/// What a [`BatchSystem`] can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchCapability {
    /// The word for it in configuration.
    pub name: &'static str,
    /// Jobs in one status command.
    pub max_status_batch: usize,
}

/// What a command left behind.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CommandOutput {
    /// Exit code; `None` if a signal ended it.
    pub exit_code: Option<i32>,
    /// Standard output.
    pub stdout: Vec<u8>,
    /// Standard error.
    pub stderr: Vec<u8>,
}
