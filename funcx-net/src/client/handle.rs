//! A submitted call, seen from the one who made it.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use funcx_core::model::TaskId;
use funcx_core::{Error, ErrorKind, Result};
use tokio::sync::oneshot;

use super::TaskView;
use super::dropped::Dropped;
use super::requests::Inner;

/// What the session answers to a call: the id of the task, and where its end will be told.
pub(super) type Accepted = Result<(TaskId, oneshot::Receiver<Result<TaskView>>)>;

/// A call that is on its way. As a future it resolves when the task has an outcome.
///
/// An outcome of any kind is `Ok`: look at [`TaskView`] for how the task ended. `Err` is for submissions that were
/// refused and for results that cannot be had.
///
/// **Cancellation.** Dropping the handle does not stop the task; [`TaskHandle::cancel`] does, and so does dropping one that
/// was told to with [`TaskHandle::cancel_on_drop`].
pub struct TaskHandle {
    client: Arc<Inner>,
    stage: Stage,
    cancels: bool,
}

enum Stage {
    Submitting(oneshot::Receiver<Accepted>),
    Accepted(TaskId, oneshot::Receiver<Result<TaskView>>),
    Told(Option<TaskId>),
}

impl TaskHandle {
    pub(super) fn new(client: Arc<Inner>, accepted: oneshot::Receiver<Accepted>) -> Self {
        Self { client, stage: Stage::Submitting(accepted), cancels: false }
    }

    /// The same handle, which stops the task when it is dropped before it has told the outcome: for those who use it in a
    /// `select!` or under a timeout, and want nothing to go on that nobody waits for.
    ///
    /// The request is made by the client in the background, together with those of other handles. It is not made if the
    /// runtime ends first.
    #[must_use]
    pub fn cancel_on_drop(mut self) -> Self {
        self.cancels = true;
        self
    }

    /// The id of the task, once the service has accepted it; from then on the task is durable.
    ///
    /// **Cancellation.** Dropping this future loses nothing.
    ///
    /// # Errors
    /// Why the service, or the way to it, refused the call; that is told once.
    pub async fn id(&mut self) -> Result<TaskId> {
        std::future::poll_fn(|context| self.poll_id(context)).await
    }

    /// Stops the task, wherever it is. The outcome still comes: `Cancelled`, or how the task ended before.
    ///
    /// # Errors
    /// As for [`TaskHandle::id`] and [`Client::cancel`](super::Client::cancel).
    pub async fn cancel(&mut self) -> Result<()> {
        let id = self.id().await?;
        self.client.cancel(&[id]).await.map(drop)
    }

    fn poll_id(&mut self, context: &mut Context<'_>) -> Poll<Result<TaskId>> {
        match &mut self.stage {
            Stage::Submitting(accepted) => match ready!(Pin::new(accepted).poll(context)) {
                Ok(Ok((id, outcome))) => {
                    self.stage = Stage::Accepted(id, outcome);
                    Poll::Ready(Ok(id))
                }
                Ok(Err(error)) => {
                    self.stage = Stage::Told(None);
                    Poll::Ready(Err(error))
                }
                Err(_) => {
                    self.stage = Stage::Told(None);
                    Poll::Ready(Err(session_ended("submit call")))
                }
            },
            Stage::Accepted(id, _) | Stage::Told(Some(id)) => Poll::Ready(Ok(*id)),
            Stage::Told(None) => Poll::Ready(Err(told("submit call"))),
        }
    }
}

impl Future for TaskHandle {
    type Output = Result<TaskView>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<TaskView>> {
        ready!(self.poll_id(context))?;
        let Stage::Accepted(id, outcome) = &mut self.stage else {
            return Poll::Ready(Err(told("wait for task")));
        };
        let id = *id;
        let told = ready!(Pin::new(outcome).poll(context));
        self.stage = Stage::Told(Some(id));
        Poll::Ready(told.unwrap_or_else(|_| Err(session_ended("wait for task").with_context("task", id))))
    }
}

impl Drop for TaskHandle {
    fn drop(&mut self) {
        if !self.cancels {
            return;
        }
        let dropped = match std::mem::replace(&mut self.stage, Stage::Told(None)) {
            Stage::Submitting(accepted) => Dropped::Submitting(accepted),
            Stage::Accepted(id, _) => Dropped::Accepted(id),
            Stage::Told(_) => return,
        };
        // With the runtime gone there is nobody to make the request.
        let _ = self.client.dropped.send(dropped);
    }
}

impl fmt::Debug for TaskHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("TaskHandle");
        match &self.stage {
            Stage::Submitting(_) => shown.field("stage", &"submitting"),
            Stage::Accepted(id, _) => shown.field("stage", &"accepted").field("task", id),
            Stage::Told(id) => shown.field("stage", &"told").field("task", id),
        };
        shown.finish_non_exhaustive()
    }
}

/// The session lives as long as a client or a handle, unless the runtime it runs on is shut down.
pub(super) fn session_ended(operation: &'static str) -> Error {
    Error::new(ErrorKind::Unavailable, operation, "the runtime that the client was built on has ended")
        .with_retry(funcx_core::model::Retry::Never)
}

fn told(operation: &'static str) -> Error {
    Error::new(ErrorKind::Conflict, operation, "this handle has told its end already")
}
