//! Many calls of one function, many of them in each task.

use std::{
    collections::VecDeque,
    fmt, future,
    pin::{Pin, pin},
    sync::Arc,
};

use funcx_core::model::{EndpointId, FunctionId, IdMap, MapValue, OutcomeKind, TaskGroupId, TaskId};
use funcx_core::{Error, ErrorKind, Result};
use futures::{Stream, StreamExt, future::poll_immediate, stream};
use serde_json::value::RawValue;

use super::api::Api;
use super::builder::new_group;
use super::call::CallTarget;
use super::chunks::{Cut, next_request};
use super::submission::submit_parts;
use super::{Arguments, CallOptions, Chunk, Client, FailureView, Outcomes, TaskView};

/// Bytes of results that are kept because an earlier chunk has not ended. Others are asked for again when it is their turn.
const EARLY_BYTES: usize = 64 << 20;

/// How a function is mapped.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct MapOptions {
    /// Calls in one task.
    pub chunk: Chunk,
    /// What each task asks for. Walltime, attempts and times hold for all its calls together.
    pub call: CallOptions,
    /// The group of the tasks, which should hold no others; a new one if not given. It names them while they are still being
    /// submitted.
    pub group: Option<TaskGroupId>,
}

/// What became of one call: its value, as JSON (a string with the serialized value for globus-compute functions).
pub type CallResult = std::result::Result<Box<RawValue>, CallFailure>;

/// Why a call has no value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallFailure {
    /// `Raised` if it failed alone; otherwise, and if its function cannot be called at all, how its task ended.
    pub outcome: OutcomeKind,
    /// The reason.
    pub failure: FailureView,
}

impl fmt::Display for CallFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.outcome, self.failure.code, self.failure.message)
    }
}

impl std::error::Error for CallFailure {}

/// One task of a map that has ended.
#[derive(Debug)]
pub struct MapChunk {
    /// Place of its first call among all calls.
    pub first: usize,
    /// What became of its calls, in order.
    pub results: Vec<CallResult>,
    /// The task: what it wrote, where and when it ran. Its `result` has moved into `results`.
    pub task: TaskView,
}

/// The calls of [`Client::map`], on their way.
///
/// **Cancellation.** Dropping it stops nothing; [`MapRun::cancel`] does.
pub struct MapRun {
    client: Client,
    group: TaskGroupId,
    /// Tasks without a told end, and the calls of each, in order.
    left: VecDeque<(TaskId, usize)>,
    /// Calls whose results were told.
    told: usize,
    outcomes: Outcomes,
    /// What is known of each of them.
    known: IdMap<TaskId, Known>,
    kept_bytes: usize,
}

/// What is known of a task whose end was not told.
enum Known {
    Nothing,
    /// It has ended before its turn.
    Outcome(Box<TaskView>),
    /// It has, and its outcome is to be asked for again.
    Ended,
}

impl Client {
    /// Calls a function with each of many arguments, many calls in one task: for short calls, of which a task of their own
    /// would cost more than they do. All are durable when this resolves, in as few requests as they fit into. Python,
    /// native and globus-compute functions can be mapped, commands cannot.
    ///
    /// A call that fails does so alone. A task that is cancelled, lost or out of time takes all its calls with it; those of a
    /// lost task that is attempted again run again, all of them.
    ///
    /// **Cancellation.** If the future is dropped, what was accepted goes on, and a request that was on its way may be accepted
    /// a moment later. See [`Client::map_until`].
    ///
    /// # Errors
    /// Those of all methods, and `InvalidInput` or `LimitExceeded` if the chunk is too small or too large. What was accepted
    /// before the error is cancelled.
    pub async fn map(
        &self,
        endpoint: EndpointId,
        function: FunctionId,
        arguments: Vec<Arguments>,
        options: MapOptions,
    ) -> Result<MapRun> {
        self.map_until(endpoint, function, arguments, options, future::pending()).await
    }

    /// As [`Client::map`], but when `stop` resolves before all calls are submitted, no more are, and those that were are
    /// cancelled: that is an error, too. A request that is on its way is waited for, so nothing is left behind.
    ///
    /// # Errors
    /// Those of [`Client::map`], and `Unavailable` if it was stopped.
    pub async fn map_until(
        &self,
        endpoint: EndpointId,
        function: FunctionId,
        arguments: Vec<Arguments>,
        options: MapOptions,
        stop: impl Future<Output = ()> + Send,
    ) -> Result<MapRun> {
        let workers = match options.chunk {
            Chunk::Auto => self.endpoint(endpoint).await?.workers,
            Chunk::Fixed(_) => 0,
        };
        let cut = Cut::new(options.chunk, arguments.len(), workers)?;
        let target = CallTarget { endpoint, function, how: options.call };
        let group = options.group.map_or_else(new_group, Ok)?;
        let mut left = VecDeque::new();
        let mut stop = pin!(stop);
        let submitted = submit_all(self.api(), group, &target, arguments, cut, &mut left, stop.as_mut());
        if let Err(error) = submitted.await {
            if !left.is_empty()
                && let Err(error) = self.cancel_group(group).await
            {
                tracing::warn!(%group, %error, "cannot cancel what was accepted of a map");
            }
            return Err(error);
        }
        Ok(MapRun {
            client: self.clone(),
            group,
            known: left.iter().map(|(id, _)| (*id, Known::Nothing)).collect(),
            left,
            told: 0,
            outcomes: self.outcomes(group, None),
            kept_bytes: 0,
        })
    }
}

async fn submit_all(
    api: &Arc<Api>,
    group: TaskGroupId,
    target: &CallTarget,
    arguments: Vec<Arguments>,
    cut: Cut,
    accepted: &mut VecDeque<(TaskId, usize)>,
    mut stop: Pin<&mut (impl Future<Output = ()> + Send)>,
) -> Result<()> {
    let stopped = || Error::new(ErrorKind::Unavailable, "submit calls", "it was stopped");
    let mut arguments = arguments.into_iter().peekable();
    while arguments.peek().is_some() {
        let request = next_request(&mut arguments, cut)?;
        let ids = submit_parts(api, group, target, request.parts, request.tasks.len()).await?;
        accepted.extend(ids.into_iter().zip(request.tasks));
        if poll_immediate(&mut stop).await.is_some() {
            return Err(stopped());
        }
    }
    Ok(())
}

impl MapRun {
    /// The group that holds the tasks of this map and no others.
    pub fn group(&self) -> TaskGroupId {
        self.group
    }

    /// Calls whose results were not told yet.
    pub fn calls_left(&self) -> usize {
        self.left.iter().map(|(_, calls)| calls).sum()
    }

    /// Tasks whose results were not told yet.
    pub fn tasks_left(&self) -> usize {
        self.left.len()
    }

    /// Stops all tasks, wherever they are. Their ends still come.
    ///
    /// # Errors
    /// Those of all methods of [`Client`].
    pub async fn cancel(&self) -> Result<()> {
        self.client.cancel_group(self.group).await.map(drop)
    }

    /// The results of the next task, in the order of the arguments; `None` when all were told.
    ///
    /// **Cancellation.** Dropping the future loses nothing.
    ///
    /// # Errors
    /// Those of [`Outcomes`], after which this may be called again.
    pub async fn next_chunk(&mut self) -> Option<Result<MapChunk>> {
        let (id, calls) = *self.left.front()?;
        Some(self.outcome(id).await.map(|mut task| {
            self.left.pop_front();
            let first = self.told;
            self.told += calls;
            MapChunk { first, results: results(&mut task, calls), task }
        }))
    }

    /// The result of each call, in the order of the arguments. After an `Err` the stream can be polled on.
    pub fn results(self) -> impl Stream<Item = Result<CallResult>> + Send {
        let chunks = stream::unfold(self, |mut run| async move {
            let chunk = run.next_chunk().await?;
            Some((chunk, run))
        });
        chunks.flat_map(|chunk| {
            stream::iter(match chunk {
                Ok(chunk) => chunk.results.into_iter().map(Ok).collect::<Vec<_>>(),
                Err(error) => vec![Err(error)],
            })
        })
    }

    async fn outcome(&mut self, id: TaskId) -> Result<TaskView> {
        loop {
            match self.known.get(&id) {
                Some(Known::Outcome(_)) => {
                    if let Some(Known::Outcome(task)) = self.known.remove(&id) {
                        self.kept_bytes -= size(&task);
                        return Ok(*task);
                    }
                }
                Some(Known::Ended) => {
                    let task = self.client.task(id).await?;
                    self.known.remove(&id);
                    return Ok(task);
                }
                Some(Known::Nothing) | None => {}
            }
            let Some(outcome) = self.outcomes.next().await else { continue };
            let task = outcome?;
            if task.task_id == id {
                self.known.remove(&id);
                return Ok(task);
            }
            self.keep(task);
        }
    }

    /// Keeps the outcome of a task whose turn has not come. Outcomes may be told again after a connection broke.
    fn keep(&mut self, task: TaskView) {
        let Some(known @ Known::Nothing) = self.known.get_mut(&task.task_id) else { return };
        let bytes = size(&task);
        if self.kept_bytes + bytes <= EARLY_BYTES {
            self.kept_bytes += bytes;
            *known = Known::Outcome(Box::new(task));
        } else {
            *known = Known::Ended;
        }
    }
}

impl fmt::Debug for MapRun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MapRun")
            .field("group", &self.group)
            .field("tasks_left", &self.tasks_left())
            .finish_non_exhaustive()
    }
}

fn size(task: &TaskView) -> usize {
    task.result.as_ref().map_or(0, |result| result.get().len()) + task.stdout.len() + task.stderr.len()
}

/// What became of the calls of a task.
fn results(task: &mut TaskView, calls: usize) -> Vec<CallResult> {
    let value = task.result.take().map(|result| serde_json::from_str::<MapValue>(result.get()));
    let (outcome, failure) = match (task.outcome, value) {
        (Some(OutcomeKind::Returned), Some(Ok(value))) if value.values.len() == calls => {
            return value.into_results().map(|result| result.map_err(raised)).collect();
        }
        (Some(outcome), _) if outcome != OutcomeKind::Returned => (
            outcome,
            task.failure.clone().unwrap_or_else(|| failure(outcome.as_str(), "no reason was given")),
        ),
        _ => {
            let message = format!("the worker did not say of each of {calls} calls what became of it");
            (OutcomeKind::Raised, failure("MalformedMapValue", &message))
        }
    };
    vec![Err(CallFailure { outcome, failure }); calls]
}

fn raised(failure: funcx_core::model::Failure) -> CallFailure {
    let funcx_core::model::Failure { code, message, traceback } = failure;
    CallFailure { outcome: OutcomeKind::Raised, failure: FailureView { code, message, traceback } }
}

fn failure(code: &str, message: &str) -> FailureView {
    FailureView { code: code.to_owned(), message: message.to_owned(), traceback: String::new() }
}
