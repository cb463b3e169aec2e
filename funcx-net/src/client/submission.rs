//! What a submission looks like to the service, and how large it may be.

use funcx_core::model::{TaskGroupId, TaskId};
use funcx_core::{Error, ErrorKind, Result};

use super::api::{Api, Repeat};
use super::call::{Arguments, CallTarget};
use super::chunks::Part;
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
    let count = arguments.len();
    let calls = Calls {
        function_id: target.function,
        arguments: arguments.into_iter().map(Arguments::into_raw).collect(),
        chunk: None,
    };
    post(api, group, target, vec![calls], count).await
}

/// As [`submit`], of calls that many at a time make a task; gives the ids of all `tasks`.
pub(super) async fn submit_parts(
    api: &Api,
    group: TaskGroupId,
    target: &CallTarget,
    parts: Vec<Part>,
    tasks: usize,
) -> Result<Vec<TaskId>> {
    let calls = parts.into_iter().map(|Part { chunk, arguments }| Calls {
        function_id: target.function,
        arguments: arguments.into_iter().map(Arguments::into_raw).collect(),
        chunk: u32::try_from(chunk).ok(),
    });
    post(api, group, target, calls.collect(), tasks).await
}

async fn post(
    api: &Api,
    group: TaskGroupId,
    target: &CallTarget,
    calls: Vec<Calls>,
    tasks: usize,
) -> Result<Vec<TaskId>> {
    let CallTarget { endpoint, function: _, how } = target;
    let request = SubmitRequest {
        endpoint_id: *endpoint,
        task_group_id: Some(group),
        tasks: calls,
        memoize: how.memoize,
        how: how.resources(),
        options: (!how.worker.is_empty()).then(|| how.worker.clone()),
    };
    let repeat = if how.max_attempts == Some(1) { Repeat::Never } else { Repeat::IfRecognised };
    let answer: SubmitAnswer = api.post(OPERATION, "/v1/submit", &request, repeat).await?;
    let ids: Vec<_> = answer.task_ids.into_iter().flatten().collect();
    if ids.len() != tasks {
        let message = "the service does not give one id for each task";
        return Err(Error::new(ErrorKind::Protocol, OPERATION, message).with_context("tasks", tasks));
    }
    Ok(ids)
}
