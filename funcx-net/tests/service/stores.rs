//! Stores that do what a test tells them to.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use bytes::Bytes;
use funcx_core::contract::{
    Backlog, Due, EndpointRecord, FunctionRecord, PendingTask, QueueKey, TaskCursor, TaskQuery, TaskRecord,
    TaskStore, Write,
};
use funcx_core::memo::MemoKey;
use funcx_core::model::{EndpointId, FunctionId, IdentityId, TaskEvent, TaskGroupId, TaskId, Timestamp};
use funcx_core::{Error, ErrorKind, Result};
use futures::future::{BoxFuture, FutureExt};
use tokio::sync::{Notify, Semaphore};

/// A store whose commits wait for permits, and fail as often as they are told to.
pub(crate) struct Gated {
    inner: Arc<dyn TaskStore>,
    pub(crate) permits: Arc<Semaphore>,
    pub(crate) failures: AtomicU32,
    asked: Arc<Notify>,
}

impl Gated {
    /// A store with its gate open.
    pub(crate) fn new(inner: Arc<dyn TaskStore>) -> Arc<Self> {
        let permits = Arc::new(Semaphore::new(Semaphore::MAX_PERMITS / 2));
        Arc::new(Self { inner, permits, failures: AtomicU32::new(0), asked: Arc::default() })
    }

    /// Closes the gate.
    pub(crate) fn close(&self) {
        self.permits.forget_permits(usize::MAX);
    }

    /// Resolves when the next commit has been asked for.
    pub(crate) fn waiting(&self) -> impl Future<Output = ()> + use<> {
        let asked = Arc::clone(&self.asked).notified_owned();
        // Counts from here on, not from its first poll.
        let mut asked = Box::pin(asked);
        asked.as_mut().enable();
        asked
    }

    /// Opens it again.
    pub(crate) fn open(&self) {
        self.permits.add_permits(Semaphore::MAX_PERMITS / 2);
    }
}

impl TaskStore for Gated {
    fn commit(&self, writes: Vec<Write>) -> BoxFuture<'static, Result<()>> {
        let failing =
            self.failures.try_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok();
        if failing {
            return async { Err(Error::new(ErrorKind::Unavailable, "commit", "told to fail")) }.boxed();
        }
        let committed = self.inner.commit(writes);
        self.asked.notify_waiters();
        let permits = Arc::clone(&self.permits);
        async move {
            let _permit = permits.acquire_owned().await.expect("never closed");
            committed.await
        }
        .boxed()
    }

    fn function(&self, id: FunctionId) -> BoxFuture<'_, Result<Option<Arc<FunctionRecord>>>> {
        self.inner.function(id)
    }

    fn functions(
        &self,
        owner: IdentityId,
        after: Option<FunctionId>,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<Arc<FunctionRecord>>>> {
        self.inner.functions(owner, after, limit)
    }

    fn endpoint(&self, id: EndpointId) -> BoxFuture<'_, Result<Option<Arc<EndpointRecord>>>> {
        self.inner.endpoint(id)
    }

    fn endpoints(&self) -> BoxFuture<'_, Result<Vec<Arc<EndpointRecord>>>> {
        self.inner.endpoints()
    }

    fn tasks<'a>(&'a self, ids: &'a [TaskId]) -> BoxFuture<'a, Result<Vec<Option<TaskRecord>>>> {
        self.inner.tasks(ids)
    }

    fn task_ids<'a>(
        &'a self,
        query: TaskQuery,
        after: Option<TaskCursor>,
        limit: usize,
    ) -> BoxFuture<'a, Result<(Vec<TaskId>, Option<TaskCursor>)>> {
        self.inner.task_ids(query, after, limit)
    }

    fn ended(
        &self,
        group: TaskGroupId,
        after: Timestamp,
        through: Timestamp,
        limit: usize,
    ) -> BoxFuture<'_, Result<(Vec<TaskId>, Timestamp)>> {
        self.inner.ended(group, after, through, limit)
    }

    fn remembered<'a>(
        &'a self,
        keys: &'a [MemoKey],
        max_bytes: usize,
    ) -> BoxFuture<'a, Result<Vec<Option<Bytes>>>> {
        self.inner.remembered(keys, max_bytes)
    }

    fn task_events(&self, task: TaskId) -> BoxFuture<'_, Result<Vec<TaskEvent>>> {
        self.inner.task_events(task)
    }

    fn pending(
        &self,
        endpoint: EndpointId,
        queue: QueueKey,
        after: u64,
        limit: usize,
        max_bytes: usize,
    ) -> BoxFuture<'_, Result<Vec<PendingTask>>> {
        self.inner.pending(endpoint, queue, after, limit, max_bytes)
    }

    fn queues(
        &self,
        endpoint: EndpointId,
        after: Option<QueueKey>,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<(QueueKey, Backlog)>>> {
        self.inner.queues(endpoint, after, limit)
    }

    fn backlog(&self, endpoint: EndpointId) -> BoxFuture<'_, Result<Backlog>> {
        self.inner.backlog(endpoint)
    }

    fn due(&self, after: Option<(Timestamp, TaskId)>, limit: usize) -> BoxFuture<'_, Result<Vec<Due>>> {
        self.inner.due(after, limit)
    }

    fn oldest_ended(&self) -> BoxFuture<'_, Result<Option<Timestamp>>> {
        self.inner.oldest_ended()
    }
}
