//! What a submission looks like to the service, and how large it may be.

use funcx_core::model::{TaskGroupId, TaskId};
use funcx_core::{Error, ErrorKind, Result};

use super::api::{Api, Repeat};
use super::call::{Arguments, CallTarget};
use crate::http::wire::{Calls, SubmitAnswer, SubmitRequest};

/// Bytes of calls that the service has not accepted yet, per client. Each call counts its arguments and one KiB.
pub const QUEUE_BYTES: usize = 256 << 20;

const _: () = assert!(QUEUE_BYTES <= u32::MAX as usize, "permits of a semaphore are counted in 32 bits");

/// What a waiting call costs besides its arguments, rounded up; so no more than a quarter of a million calls wait.
pub(super) const CALL_BYTES: usize = 1 << 10;

const OPERATION: &str = "submit call";

/// Tasks that were submitted together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Submitted {
    /// The group that holds these tasks and no others.
    pub group: TaskGroupId,
    /// Their ids, in the order of the arguments.
    pub tasks: Vec<TaskId>,
}

/// Submits calls of one target in one request and gives the ids of the tasks, in the same order.
///
/// When the connection breaks before the answer, nobody knows whether the service has accepted the calls. It
/// recognises the repeated request and answers it as the first one, unless it has crashed in between; then the tasks run
/// twice. That is no different from a worker that crashes after its work is done, so it is left to those who may run
/// more than once.
pub(super) async fn submit(
    api: &Api,
    group: TaskGroupId,
    target: &CallTarget,
    arguments: Vec<Arguments>,
) -> Result<Vec<TaskId>> {
    let CallTarget { endpoint, function, how } = target;
    let arguments: Vec<_> = arguments.into_iter().map(Arguments::into_raw).collect();
    let count = arguments.len();
    let request = SubmitRequest {
        endpoint_id: *endpoint,
        task_group_id: Some(group),
        tasks: vec![Calls { function_id: *function, arguments, chunk: None }],
        memoize: how.memoize,
        how: how.resources(),
        options: (!how.worker.is_empty()).then(|| how.worker.clone()),
    };
    let repeat = if how.max_attempts == Some(1) { Repeat::Never } else { Repeat::IfRecognised };
    let answer: SubmitAnswer = api.post(OPERATION, "/v1/submit", &request, repeat).await?;
    match <[_; 1]>::try_from(answer.task_ids) {
        Ok([ids]) if ids.len() == count => Ok(ids),
        _ => {
            Err(Error::new(ErrorKind::Protocol, OPERATION, "the service does not give one id for each call")
                .with_context("calls", count))
        }
    }
}
