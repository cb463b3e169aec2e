//! A client as a `tower::Service`.

use std::task::{Context, Poll};

use funcx_core::{Error, Result};
use futures::future::{BoxFuture, FutureExt};
use tower::Service;

use super::{Call, Client, TaskView};

/// Submits calls and resolves to how they ended. Layers of `tower` and of [`funcx_core::layer`] go around it.
///
/// It is always ready; a call waits inside its future while the client's queue is full. Put a
/// `tower::limit::ConcurrencyLimit` around it to bound how many calls are open.
///
/// **Cancellation.** Dropping the future of a call that is submitted does not stop the task.
///
/// ```no_run
/// # use funcx_net::client::{Arguments, Call, Client, Result};
/// # use tower::{Service, ServiceExt};
/// # async fn example(client: Client, call: Call) -> Result<()> {
/// let task = client.into_service().ready().await?.call(call).await?;
/// println!("{}: {:?}", task.task_id, task.outcome);
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct CallService {
    client: Client,
}

impl CallService {
    pub(super) fn new(client: Client) -> Self {
        Self { client }
    }
}

impl Service<Call> for CallService {
    type Response = TaskView;
    type Error = Error;
    type Future = BoxFuture<'static, Result<TaskView>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, call: Call) -> Self::Future {
        let client = self.client.clone();
        async move { client.submit(call).await?.await }.boxed()
    }
}
