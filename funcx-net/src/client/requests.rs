//! The client and its requests.

use std::{fmt, sync::Arc, time::Duration};

use funcx_core::model::{EndpointId, FunctionId, TaskGroupId, TaskId, limit};
use funcx_core::{Error, ErrorKind, Result};
use tokio::sync::{Semaphore, mpsc, oneshot};

use super::api::{Api, Repeat};
use super::builder::new_group;
use super::call::{CallOptions, CallTarget};
use super::dropped::{self, Dropped};
use super::handle::session_ended;
use super::lanes::Lanes;
use super::session::Queued;
use super::submission::{CALL_BYTES, Submitted, submit};
use super::{
    Arguments, Call, CallService, CancelAnswer, ClientBuilder, EndpointView, FunctionPage,
    FunctionRegistered, FunctionRegistration, FunctionView, Outcomes, PurgeAnswer, TaskHandle, TaskPage,
    TaskView, TimelineView,
};
use crate::http::wire::{CancelRequest, EndpointList};

/// How long the service is asked to hold back one answer of [`Client::wait`].
const WAIT: Duration = Duration::from_secs(30);

/// A connection to a service, in the name of one person. Cheap to clone; see the [module](super) for an example.
///
/// **Errors.** All methods give: `Unauthenticated` and `Forbidden` from the service's authority; `NotFound`,
/// `InvalidInput`, `Conflict` for what was asked; `LimitExceeded` (429, 413), `Unavailable` (503, no connection) and
/// `TimedOut` after the attempts of the [`RetryPolicy`](super::RetryPolicy); `Internal` if the service failed; and
/// `Protocol` if the other side is no funcx service.
///
/// **Cancellation.** Dropping a future of a method gives the request up; the service may have done it nevertheless.
#[derive(Clone)]
pub struct Client(Arc<Inner>);

pub(super) struct Inner {
    pub(super) api: Arc<Api>,
    pub(super) group: TaskGroupId,
    pub(super) calls: mpsc::Sender<Queued>,
    /// Handles whose tasks are to be stopped. There are no more of them than calls were made.
    pub(super) dropped: mpsc::UnboundedSender<Dropped>,
    pub(super) room: Arc<Semaphore>,
    pub(super) queue_bytes: usize,
}

impl Client {
    pub(super) fn new(inner: Inner) -> Self {
        Self(Arc::new(inner))
    }

    /// Begins to make a client.
    pub fn builder() -> ClientBuilder {
        ClientBuilder::default()
    }

    pub(super) fn api(&self) -> &Arc<Api> {
        &self.0.api
    }

    /// Address of the service.
    pub fn service(&self) -> &str {
        self.0.api.service()
    }

    /// The group of the tasks that [`Client::submit`] makes; no other client has it.
    pub fn task_group(&self) -> TaskGroupId {
        self.0.group
    }

    /// The client as a `tower::Service`.
    pub fn into_service(self) -> CallService {
        CallService::new(self)
    }
}

/// Functions.
impl Client {
    /// Registers a function. The same code may be registered again; it gets another id.
    pub async fn register(&self, function: &FunctionRegistration) -> Result<FunctionRegistered> {
        self.0.api.post("register function", "/v1/functions", function, Repeat::Freely).await
    }

    /// The function with this id.
    pub async fn function(&self, id: FunctionId) -> Result<FunctionView> {
        self.0.api.fetch("find function", &format!("/v1/functions/{id}"), &[]).await
    }

    /// One page of the functions that the caller owns, in order of id; `after` is where the last page ended.
    pub async fn functions(&self, after: Option<&str>, limit: usize) -> Result<FunctionPage> {
        self.0.api.fetch("list functions", "/v1/functions", &page(after, limit)).await
    }
}

/// Endpoints.
impl Client {
    /// The endpoint with this id.
    pub async fn endpoint(&self, id: EndpointId) -> Result<EndpointView> {
        self.0.api.fetch("find endpoint", &format!("/v1/endpoints/{id}"), &[]).await
    }

    /// The endpoints that the caller owns.
    pub async fn endpoints(&self) -> Result<Vec<EndpointView>> {
        let EndpointList { endpoints } = self.0.api.fetch("list endpoints", "/v1/endpoints", &[]).await?;
        Ok(endpoints)
    }

    /// The endpoint with this name, if the caller owns exactly one of that name.
    ///
    /// # Errors
    /// Besides those of all methods: `NotFound` if there is none, `Conflict` if there are several.
    pub async fn endpoint_named(&self, name: &str) -> Result<EndpointView> {
        let mut named: Vec<_> =
            self.endpoints().await?.into_iter().filter(|endpoint| endpoint.name == name).collect();
        let failed = |kind, message: &'static str| {
            Err(Error::new(kind, "find endpoint", message).with_context("name", name))
        };
        match named.len() {
            0 => failed(ErrorKind::NotFound, "you own no endpoint of this name"),
            1 => Ok(named.remove(0)),
            _ => failed(ErrorKind::Conflict, "you own several endpoints of this name; say the id"),
        }
    }
}

/// Tasks.
impl Client {
    /// Submits one call. Resolves as soon as the call is on its way, which takes long only while the client's queue is
    /// full; whether the service accepts it, and how the task ends, comes through the handle.
    ///
    /// # Errors
    /// `Unavailable` if the runtime of the client has ended.
    ///
    /// **Cancellation.** A call whose future is dropped before it resolves is not submitted.
    pub async fn submit(&self, call: Call) -> Result<TaskHandle> {
        let bytes = (call.arguments.size_bytes() + CALL_BYTES).min(self.0.queue_bytes);
        let bytes = u32::try_from(bytes).expect("QUEUE_BYTES fits");
        let ended = || session_ended("submit call");
        let room = Arc::clone(&self.0.room).acquire_many_owned(bytes).await.map_err(|_| ended())?;
        let (accepted, handle) = oneshot::channel();
        self.0.calls.send(Queued { call, accepted, room }).await.map_err(|_| ended())?;
        Ok(TaskHandle::new(Arc::clone(&self.0), handle))
    }

    /// Submits many calls of one function as a task group of their own, in as few requests as they fit into. All are
    /// durable when this resolves. Their outcomes come from [`Client::outcomes`].
    ///
    /// # Errors
    /// Those of all methods. The error names the group, which holds what was accepted before it.
    pub async fn submit_many(
        &self,
        endpoint: EndpointId,
        function: FunctionId,
        options: CallOptions,
        arguments: Vec<Arguments>,
    ) -> Result<Submitted> {
        let target = CallTarget { endpoint, function, how: options };
        let group = new_group()?;
        let mut lanes = Lanes::new();
        for arguments in arguments {
            let bytes = arguments.size_bytes();
            lanes.handle_call((), arguments, bytes);
        }
        let mut tasks = Vec::new();
        while let Some(((), arguments)) = lanes.poll_request() {
            let accepted = submit(&self.0.api, group, &target, arguments).await.map_err(|error| {
                error.with_context("task group", group).with_context("accepted", tasks.len())
            })?;
            tasks.extend(accepted);
            lanes.handle_answer(&());
        }
        Ok(Submitted { group, tasks })
    }

    /// The outcomes of a task group, those that are there and those to come, from the beginning or after a
    /// [cursor](Outcomes::cursor). The connection is opened when the stream is polled.
    pub fn outcomes(&self, group: TaskGroupId, after: Option<&str>) -> Outcomes {
        Outcomes::new(Arc::clone(&self.0.api), group, after.map(str::to_owned))
    }

    /// The task as it is now.
    pub async fn task(&self, id: TaskId) -> Result<TaskView> {
        self.0.api.fetch("find task", &format!("/v1/tasks/{id}"), &[]).await
    }

    /// What happened to the task so far: when, and who did it.
    pub async fn timeline(&self, id: TaskId) -> Result<TimelineView> {
        self.0.api.fetch("find task", &format!("/v1/tasks/{id}/timeline"), &[]).await
    }

    /// The task once it has ended. For one task that was submitted by somebody else or earlier; a
    /// [`TaskHandle`] is the cheaper way for one's own.
    ///
    /// **Cancellation.** Dropping the future changes nothing; it waits without end otherwise.
    pub async fn wait(&self, id: TaskId) -> Result<TaskView> {
        let path = format!("/v1/tasks/{id}");
        let query = [("wait", WAIT.as_secs().to_string())];
        loop {
            let task: TaskView = self.0.api.fetch_waiting("wait for task", &path, &query, WAIT).await?;
            if task.outcome.is_some() {
                return Ok(task);
            }
        }
    }

    /// One page of the tasks of a group, or of all tasks of the caller; `after` is where the last page ended.
    pub async fn tasks(
        &self,
        group: Option<TaskGroupId>,
        after: Option<&str>,
        limit: usize,
    ) -> Result<TaskPage> {
        let mut query = page(after, limit);
        query.extend(group.map(|group| ("task_group_id", group.to_string())));
        self.0.api.fetch("list tasks", "/v1/tasks", &query).await
    }

    /// Stops tasks, wherever they are, in as few requests as they fit into. Says of each what was done: one that waited has
    /// ended, one that is at its endpoint is being stopped there, and its outcome says whether that came in time.
    pub async fn cancel(&self, tasks: &[TaskId]) -> Result<CancelAnswer> {
        self.0.cancel(tasks).await
    }

    /// Stops every task of a group.
    pub async fn cancel_group(&self, group: TaskGroupId) -> Result<CancelAnswer> {
        let body = CancelRequest { task_ids: None, task_group_id: Some(group) };
        self.0.api.post("cancel task group", "/v1/cancel", &body, Repeat::Freely).await
    }
}

/// Forgetting tasks.
impl Client {
    /// Forgets tasks that have ended, with their arguments and results. Those that have not ended stay.
    pub async fn purge(&self, tasks: &[TaskId]) -> Result<PurgeAnswer> {
        let mut all = PurgeAnswer::default();
        for part in tasks.chunks(limit::MAX_SUBMIT_TASKS) {
            let body = CancelRequest { task_ids: Some(part.to_vec()), task_group_id: None };
            let answer: PurgeAnswer =
                self.0.api.post("purge tasks", "/v1/purge", &body, Repeat::Freely).await?;
            all.purged += answer.purged;
            all.unfinished += answer.unfinished;
            all.unknown += answer.unknown;
        }
        Ok(all)
    }

    /// Forgets every task of a group that has ended.
    pub async fn purge_group(&self, group: TaskGroupId) -> Result<PurgeAnswer> {
        let body = CancelRequest { task_ids: None, task_group_id: Some(group) };
        self.0.api.post("purge task group", "/v1/purge", &body, Repeat::Freely).await
    }
}

impl Inner {
    pub(super) async fn cancel(&self, tasks: &[TaskId]) -> Result<CancelAnswer> {
        dropped::cancel(&self.api, tasks.to_vec()).await
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("service", &self.service())
            .field("task_group", &self.task_group())
            .finish_non_exhaustive()
    }
}

fn page(after: Option<&str>, limit: usize) -> Vec<(&'static str, String)> {
    let mut query = vec![("limit", limit.clamp(1, limit::MAX_PAGE_TASKS).to_string())];
    query.extend(after.map(|after| ("after", after.to_owned())));
    query
}
