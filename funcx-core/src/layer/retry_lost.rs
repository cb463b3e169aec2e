//! Which outcomes are worth another attempt.

use futures::future::{Ready, ready};
use tower::retry::Policy;

use crate::model::{Error, Outcome, OutcomeKind, Task};

/// A policy for `tower::retry`: a task whose infrastructure was lost is attempted again as often as its
/// specification allows, and so is a call that failed with an error that says a retry can help. A function that raised
/// is not called again.
///
/// The inner service decides about pauses; this policy makes none.
#[derive(Debug, Clone, Default)]
pub struct RetryLost;

impl Policy<Task, Outcome, Error> for RetryLost {
    type Future = Ready<()>;

    fn retry(&mut self, task: &mut Task, result: &mut Result<Outcome, Error>) -> Option<Ready<()>> {
        let again = match result {
            Ok(outcome) => outcome.kind == OutcomeKind::Lost,
            Err(error) => error.is_retryable(),
        };
        (again && task.attempt < task.spec.limits.max_attempts).then(|| {
            task.attempt += 1;
            ready(())
        })
    }

    fn clone_request(&mut self, task: &Task) -> Option<Task> {
        Some(task.clone())
    }
}
