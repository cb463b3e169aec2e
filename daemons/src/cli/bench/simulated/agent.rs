//! The thread of the endpoint's node.

use std::time::Duration;

use anyhow::{Context, Result};
use nix::time::{ClockId, clock_gettime};
use tokio::runtime::{Builder, Runtime};

/// One thread for the node of the endpoint, its connections and nothing else, so that what the agent costs can be told from what
/// the managers cost that are simulated beside it.
#[derive(Debug)]
pub(super) struct Agent(Option<Runtime>);

impl Agent {
    pub(super) fn start() -> Result<Self> {
        let mut builder = Builder::new_multi_thread();
        let runtime = builder.worker_threads(1).thread_name("agent").enable_all().build();
        Ok(Self(Some(runtime.context("cannot start the thread of the endpoint")?)))
    }

    /// Runs this in the thread.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Result<T> {
        let runtime = self.0.as_ref().context("the thread of the endpoint has ended")?;
        runtime.spawn(work).await.context("the thread of the endpoint failed")
    }

    /// Time that the thread has had on a processor.
    pub(super) async fn processor_time(&self) -> Result<Duration> {
        let time = self.run(async { clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID) }).await?;
        Ok(time.context("cannot tell the processor time of a thread")?.into())
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // A runtime that waits for its threads must not be dropped in another one.
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}
