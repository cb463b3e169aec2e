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
/// **Cancellation.** Dropping the future of a call that is submitted does not stop the task, unless the service was made
/// with [`CallService::cancel_on_drop`]; then a `tower::timeout::Timeout` around it stops what it gives up.
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
    cancels: bool,
}

impl CallService {
    pub(super) fn new(client: Client) -> Self {
        Self { client, cancels: false }
    }

    /// The same service, which stops the tasks of futures that are dropped
    /// ([`TaskHandle::cancel_on_drop`](super::TaskHandle::cancel_on_drop)).
    #[must_use]
    pub fn cancel_on_drop(mut self) -> Self {
        self.cancels = true;
        self
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
        let Self { client, cancels } = self.clone();
        async move {
            let handle = client.submit(call).await?;
            if cancels { handle.cancel_on_drop().await } else { handle.await }
        }
        .boxed()
    }
}
