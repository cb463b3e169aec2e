//! The durable store of a service that fits on one machine.
//!
//! [`EmbeddedStore`] keeps everything in one directory, in a log-structured tree, with one thread that makes the
//! writes of all callers durable together.
//!
//! | File | Holds |
//! | --- | --- |
//! | `directory` | the directory: its mode, who has it open, which version made it |
//! | `base` | the database, which is opened again when it has failed |
//! | `table` | the tables and the keys in them |
//! | `record` | what the values look like |
//! | `change` | how a [`Write`] becomes changes of tables |
//! | `commit` | the thread that commits for everybody |
//! | `queues` | which queues have something in them |
//! | `placed` | where tasks are that are about to end |
//! | `query` | how questions are answered from one snapshot |
//! | `failure` | what went wrong, in our words |

mod base;
mod change;
mod commit;
mod directory;
mod failure;
mod placed;
mod query;
mod queues;
mod record;
mod table;

use std::{fmt, path::Path, sync::Arc};

use bytes::Bytes;
use funcx_core::contract::{
    Backlog, Due, EndpointRecord, FunctionRecord, PendingTask, QueueKey, TaskCursor, TaskQuery, TaskRecord,
    TaskStore, Write,
};
use funcx_core::memo::MemoKey;
use funcx_core::model::{
    EndpointId, Error, ErrorKind, FunctionId, IdentityId, Result, TaskEvent, TaskGroupId, TaskId, Timestamp,
};
use futures::future::{BoxFuture, FutureExt, ready};

use base::Base;
use commit::Committer;
use query::{FunctionCache, View};

/// Reads of up to this many tasks are done where they are asked for; they take microseconds. Longer ones go to a
/// thread on which blocking does no harm.
const INLINE_TASKS: usize = 16;

/// A [`TaskStore`] in a directory of this machine.
///
/// **Durability.** A commit has reached the disk (`fdatasync`) when it resolves. Commits that wait at the same time
/// share one write and one sync, so the more callers there are, the cheaper each commit is.
///
/// **Space.** A commit that would leave less than [`StoreOptions::reserve_bytes`] of the file system free is refused
/// with `Unavailable` and can be tried again once there is room. If the disk itself fails in the middle of a commit
/// (full, an I/O error, a quota), later ones are refused and reads go on until the disk takes writes; then the store opens
/// its database again by itself. Whether the commit that was cut short counts is decided by whether its last byte reached
/// the disk, never by half; its caller waits for that answer.
///
/// **Not here.** What many tasks share, such as the code of functions, stays until the directory is deleted, also when no
/// task calls it any more.
pub struct EmbeddedStore {
    // Dropped first: it waits for the commits that have been called.
    committer: Committer,
    base: Arc<Base>,
    functions: Arc<FunctionCache>,
}

/// What an operator can choose about an [`EmbeddedStore`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreOptions {
    /// Bytes of the file system that commits leave free, so that the store can always reorganise itself.
    pub reserve_bytes: u64,
}

impl Default for StoreOptions {
    fn default() -> Self {
        // As much as the memory tables and the journal may need at once when they are written out.
        Self { reserve_bytes: 256 << 20 }
    }
}

impl EmbeddedStore {
    /// Opens the store in this directory, which is created (mode 0700) if there is none.
    ///
    /// # Errors
    /// `Conflict` if another process has it open, `Unsupported` if a newer version made it, `InvalidInput` if the
    /// directory holds something else, `Unavailable` if the disk is full or read-only, else `Io`.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::open_with(path, &StoreOptions::default())
    }

    /// Opens the store in this directory with other options than the usual ones.
    ///
    /// # Errors
    /// As for [`EmbeddedStore::open`].
    pub fn open_with(path: impl AsRef<Path>, options: &StoreOptions) -> Result<Self> {
        let base = Arc::new(Base::open(path.as_ref())?);
        let committer = Committer::start(Arc::clone(&base), options.reserve_bytes)?;
        Ok(Self { committer, base, functions: Arc::new(FunctionCache::default()) })
    }

    fn view(&self) -> Result<View> {
        Ok(View::new(self.base.current()?, Arc::clone(&self.functions)))
    }

    /// Answers a long question on a thread that may block.
    async fn long<T: Send + 'static>(
        &self,
        ask: impl FnOnce(&View) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let view = self.view()?;
        tokio::task::spawn_blocking(move || ask(&view)).await.map_err(|stopped| {
            Error::new(ErrorKind::Internal, "read the store", "the reader stopped").with_source(stopped)
        })?
    }
}

impl TaskStore for EmbeddedStore {
    fn commit(&self, writes: Vec<Write>) -> BoxFuture<'static, Result<()>> {
        // Queued now and not when the future is first polled: the order of calls is the order of commits.
        self.committer.commit(writes).boxed()
    }

    fn function(&self, id: FunctionId) -> BoxFuture<'_, Result<Option<Arc<FunctionRecord>>>> {
        async move { self.view()?.function(id) }.boxed()
    }

    fn functions(
        &self,
        owner: IdentityId,
        after: Option<FunctionId>,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<Arc<FunctionRecord>>>> {
        self.long(move |view| view.functions(owner, after, limit)).boxed()
    }

    fn endpoint(&self, id: EndpointId) -> BoxFuture<'_, Result<Option<Arc<EndpointRecord>>>> {
        async move { self.view()?.endpoint(id) }.boxed()
    }

    fn endpoints(&self) -> BoxFuture<'_, Result<Vec<Arc<EndpointRecord>>>> {
        self.long(View::endpoints).boxed()
    }

    fn tasks<'a>(&'a self, ids: &'a [TaskId]) -> BoxFuture<'a, Result<Vec<Option<TaskRecord>>>> {
        async move {
            if ids.len() <= INLINE_TASKS {
                return self.view()?.tasks(ids);
            }
            let ids = ids.to_vec();
            self.long(move |view| view.tasks(&ids)).await
        }
        .boxed()
    }

    fn task_ids<'a>(
        &'a self,
        query: TaskQuery,
        after: Option<TaskCursor>,
        limit: usize,
    ) -> BoxFuture<'a, Result<(Vec<TaskId>, Option<TaskCursor>)>> {
        self.long(move |view| view.task_ids(query, after.as_ref(), limit)).boxed()
    }

    fn ended(
        &self,
        group: TaskGroupId,
        after: Timestamp,
        through: Timestamp,
        limit: usize,
    ) -> BoxFuture<'_, Result<(Vec<TaskId>, Timestamp)>> {
        self.long(move |view| view.ended(group, after, through, limit)).boxed()
    }

    fn remembered<'a>(
        &'a self,
        keys: &'a [MemoKey],
        max_bytes: usize,
    ) -> BoxFuture<'a, Result<Vec<Option<Bytes>>>> {
        async move {
            if keys.len() <= INLINE_TASKS {
                return self.view()?.remembered(keys, max_bytes);
            }
            let keys = keys.to_vec();
            self.long(move |view| view.remembered(&keys, max_bytes)).await
        }
        .boxed()
    }

    fn task_events(&self, task: TaskId) -> BoxFuture<'_, Result<Vec<TaskEvent>>> {
        async move { self.view()?.task_events(task) }.boxed()
    }

    fn pending(
        &self,
        endpoint: EndpointId,
        queue: QueueKey,
        after: u64,
        limit: usize,
        max_bytes: usize,
    ) -> BoxFuture<'_, Result<Vec<PendingTask>>> {
        self.long(move |view| view.pending(endpoint, queue, after, limit, max_bytes)).boxed()
    }

    fn queues(
        &self,
        endpoint: EndpointId,
        after: Option<QueueKey>,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<(QueueKey, Backlog)>>> {
        ready(self.base.current().map(|opened| opened.queues.page(endpoint, after, limit))).boxed()
    }

    fn backlog(&self, endpoint: EndpointId) -> BoxFuture<'_, Result<Backlog>> {
        ready(self.base.current().map(|opened| opened.queues.backlog(endpoint))).boxed()
    }

    fn due(&self, after: Option<(Timestamp, TaskId)>, limit: usize) -> BoxFuture<'_, Result<Vec<Due>>> {
        self.long(move |view| view.due(after, limit)).boxed()
    }

    fn oldest_ended(&self) -> BoxFuture<'_, Result<Option<Timestamp>>> {
        async move { self.view()?.oldest_ended() }.boxed()
    }
}

impl fmt::Debug for EmbeddedStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EmbeddedStore")
            .field("directory", &self.base.directory.path())
            .finish_non_exhaustive()
    }
}
