//! What outlives the service process.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures::future::BoxFuture;

use super::Access;
use crate::memo::MemoKey;
use crate::model::{
    EndpointId, Function, FunctionId, IdentityId, Memoize, Outcome, Result, TaskEvent, TaskGroupId, TaskId,
    TaskSpec, Timestamp,
};

/// Durable functions, endpoints, tasks and outcomes.
///
/// Called by the service: writes in batches (many callers' writes may share one commit), reads by key or by
/// page. Also the place where the tail of a long queue lies, so [`pending`](Self::pending) is a hot path.
///
/// **What holds.** When [`commit`](Self::commit) resolves with `Ok`, all its writes are durable; with `Err`, none is
/// visible. Commits are applied in the order in which they were called. A read sees every commit that resolved
/// before it was called.
///
/// **Cancellation.** Dropping a `commit` future does not undo it.
///
/// **Errors.** `Unavailable` (full, read-only or closed; nothing was written), `Io`, `Internal` (a record cannot be
/// read). A missing record is `None`, not an error.
///
/// **Bounds.** At most [`MAX_PAGE_TASKS`](crate::model::limit::MAX_PAGE_TASKS) tasks per page unless the caller asks
/// for fewer.
///
/// **Suite.** `funcx_core::conformance::task_store`.
pub trait TaskStore: Send + Sync + 'static {
    /// Makes all writes durable, or none.
    fn commit(&self, writes: Vec<Write>) -> BoxFuture<'static, Result<()>>;

    /// The function with this id.
    fn function(&self, id: FunctionId) -> BoxFuture<'_, Result<Option<Arc<FunctionRecord>>>>;

    /// Functions of `owner` in order of id, after `after`, at most `limit`.
    fn functions(
        &self,
        owner: IdentityId,
        after: Option<FunctionId>,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<Arc<FunctionRecord>>>>;

    /// The endpoint with this id.
    fn endpoint(&self, id: EndpointId) -> BoxFuture<'_, Result<Option<Arc<EndpointRecord>>>>;

    /// Every endpoint, in order of id.
    fn endpoints(&self) -> BoxFuture<'_, Result<Vec<Arc<EndpointRecord>>>>;

    /// The tasks with these ids.
    ///
    /// **Shape.** One entry per id, in the same order.
    fn tasks<'a>(&'a self, ids: &'a [TaskId]) -> BoxFuture<'a, Result<Vec<Option<TaskRecord>>>>;

    /// One page of the ids of the tasks that match, oldest first. The second value is the cursor of the next page,
    /// `None` after the last one.
    fn task_ids<'a>(
        &'a self,
        query: TaskQuery,
        after: Option<TaskCursor>,
        limit: usize,
    ) -> BoxFuture<'a, Result<(Vec<TaskId>, Option<TaskCursor>)>>;

    /// The tasks of a group that ended after one time and up to another, those first that ended first, at most `limit`.
    ///
    /// **Shape.** The second value is the time up to which these are all: `through`, or where to go on for more. Outcomes with
    /// the same time can be told apart only if all of them fit.
    /// **Cost.** One question looks at all that ended in the group, but only at when; so ask for many.
    fn ended(
        &self,
        group: TaskGroupId,
        after: Timestamp,
        through: Timestamp,
        limit: usize,
    ) -> BoxFuture<'_, Result<(Vec<TaskId>, Timestamp)>>;

    /// Values that tasks have returned which were remembered under these keys.
    ///
    /// **Shape.** One entry per key, in the same order; `None` if nothing was remembered, or its task is forgotten.
    /// **Bounds.** What comes after about `max_bytes` of values is left out as well.
    fn remembered<'a>(
        &'a self,
        keys: &'a [MemoKey],
        max_bytes: usize,
    ) -> BoxFuture<'a, Result<Vec<Option<Bytes>>>>;

    /// What is known to have happened to a task before its outcome, in the order in which it was recorded; nothing for an
    /// unknown task. Of many events the last [`MAX_TASK_EVENTS`](crate::model::limit::MAX_TASK_EVENTS) are kept.
    fn task_events(&self, task: TaskId) -> BoxFuture<'_, Result<Vec<TaskEvent>>>;

    /// Tasks of one queue of `endpoint` without an outcome whose sequence number is greater than `after`, in order, at
    /// most `limit` of them and about `max_bytes` of payload (but at least one if there is one).
    fn pending(
        &self,
        endpoint: EndpointId,
        queue: QueueKey,
        after: u64,
        limit: usize,
        max_bytes: usize,
    ) -> BoxFuture<'_, Result<Vec<PendingTask>>>;

    /// The queues of `endpoint` that have tasks without an outcome, in order, after `after`, at most `limit`.
    fn queues(
        &self,
        endpoint: EndpointId,
        after: Option<QueueKey>,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<(QueueKey, Backlog)>>>;

    /// Tasks of all queues of `endpoint` without an outcome.
    fn backlog(&self, endpoint: EndpointId) -> BoxFuture<'_, Result<Backlog>>;

    /// Times at which tasks without an outcome have to end (see [`Due`]), earliest first, after `after`, at most `limit`.
    fn due(&self, after: Option<(Timestamp, TaskId)>, limit: usize) -> BoxFuture<'_, Result<Vec<Due>>>;

    /// The `ended_before` after which [`Write::Expire`] would find something to remove: the end of the tasks that ended
    /// first. `None` if nothing has ended.
    fn oldest_ended(&self) -> BoxFuture<'_, Result<Option<Timestamp>>>;
}

/// One change.
#[derive(Debug, Clone)]
pub enum Write {
    /// Adds a function, or replaces the one with this id.
    PutFunction(Arc<FunctionRecord>),
    /// Removes a function; tasks already accepted keep its code.
    DeleteFunction(FunctionId),
    /// Adds an endpoint, or replaces the one with this id.
    PutEndpoint(Arc<EndpointRecord>),
    /// Removes an endpoint.
    DeleteEndpoint(EndpointId),
    /// Adds tasks. Their sequence numbers are greater than all earlier ones of the endpoint.
    Submit(Submission),
    /// Adds tasks that have ended already, because their outcomes were known: one for each, in the same order. They were
    /// never in a queue, so their sequence numbers mean nothing.
    Answer(Submission, Vec<OutcomeRecord>),
    /// Gives tasks their outcome. A task that has one keeps it.
    Finish(Vec<OutcomeRecord>),
    /// Keeps under these keys that the outcomes of these tasks answer equal calls, for as long as the tasks are kept. The last
    /// one counts.
    Remember(Vec<(MemoKey, TaskId)>),
    /// Keeps events of tasks, with what follows from them: after [`Lost`](crate::model::TaskEventKind::Lost) the task goes
    /// on as the next attempt, after [`Started`](crate::model::TaskEventKind::Started) its time to live does not matter
    /// any more. Events of unknown tasks leave no trace.
    Record(Vec<TaskEvent>),
    /// Removes finished tasks and all there is about them. Those without an outcome stay.
    Forget(Vec<TaskId>),
    /// Removes tasks that ended before this time: one step, which removes about
    /// [`MAX_PAGE_TASKS`](crate::model::limit::MAX_PAGE_TASKS) tasks, those first that ended first. Tasks accepted
    /// together go together, once the last of them has ended that long ago. Functions and their code stay.
    Expire {
        /// What ended before is removed.
        ended_before: Timestamp,
    },
}

/// Which of the queues of an endpoint: each owner has one for each priority, so that nobody's task has to be looked for
/// behind other people's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QueueKey {
    /// Whose tasks.
    pub owner: IdentityId,
    /// Of which priority.
    pub priority: i8,
}

impl QueueKey {
    /// The queue in which tasks with this specification wait.
    pub fn of(spec: &TaskSpec) -> Self {
        Self { owner: spec.owner, priority: spec.limits.priority }
    }
}

/// How much waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Backlog {
    /// Tasks without an outcome.
    pub tasks: u64,
    /// Bytes of their arguments.
    pub bytes: u64,
}

/// A time at which a task has to end if it has no outcome by then. A task may have two of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Due {
    /// When.
    pub at: Timestamp,
    /// Which task.
    pub task: TaskId,
    /// Where it waits.
    pub endpoint: EndpointId,
    /// In which queue.
    pub queue: QueueKey,
    /// Its sequence number at the endpoint.
    pub sequence: u64,
    /// Why.
    pub reason: DueReason,
}

/// Why a task has to end at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DueReason {
    /// It has not begun within its time to live.
    TimeToLive,
    /// Its deadline has passed.
    Deadline,
}

/// A registered function.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FunctionRecord {
    /// Its id.
    pub id: FunctionId,
    /// Its code.
    pub function: Arc<Function>,
    /// Name for people.
    pub name: String,
    /// Description for people.
    pub description: String,
    /// Whose it is.
    pub owner: IdentityId,
    /// Who else may use it.
    pub access: Access,
    /// Whether its calls may be answered with values of equal ones, unless they say so themselves.
    pub memoize: Memoize,
    /// What the client said about it, a JSON object.
    pub metadata: String,
    /// When it was registered.
    pub created: Timestamp,
}

/// A registered endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointRecord {
    /// Its id.
    pub id: EndpointId,
    /// Name for people.
    pub name: String,
    /// Whose it is.
    pub owner: IdentityId,
    /// Who else may run on it.
    pub access: Access,
    /// The only functions that may run on it; any if `None`.
    pub allowed_functions: Option<Vec<FunctionId>>,
    /// What the endpoint says about itself, a JSON object.
    pub metadata: String,
    /// When it was registered.
    pub created: Timestamp,
}

/// Tasks accepted together that call one function.
#[derive(Debug, Clone)]
pub struct Submission {
    /// Where they run.
    pub endpoint: EndpointId,
    /// The group they belong to.
    pub group: TaskGroupId,
    /// The function as the user named it.
    pub function: FunctionId,
    /// What they share; its owner owns the tasks.
    pub spec: Arc<TaskSpec>,
    /// When they were accepted.
    pub accepted: Timestamp,
    /// Sequence number of the first task; the others follow without a gap.
    pub first_sequence: u64,
    /// Ids and arguments.
    pub tasks: Vec<(TaskId, Bytes)>,
}

/// A task as it is stored.
#[derive(Debug, Clone)]
pub struct TaskRecord {
    /// Its id.
    pub id: TaskId,
    /// Where it runs.
    pub endpoint: EndpointId,
    /// The group it belongs to.
    pub group: TaskGroupId,
    /// The function as the user named it.
    pub function: FunctionId,
    /// What it shares with its siblings.
    pub spec: Arc<TaskSpec>,
    /// When it was accepted.
    pub accepted: Timestamp,
    /// Its sequence number at the endpoint.
    pub sequence: u64,
    /// Its arguments; they may be missing once it has an outcome, because nobody runs it any more.
    pub payload: Bytes,
    /// Number of its attempt, from 1.
    pub attempt: u32,
    /// How it ended, once it has.
    pub outcome: Option<OutcomeRecord>,
}

/// An outcome as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutcomeRecord {
    /// The outcome.
    pub outcome: Outcome,
    /// When the service had it.
    pub completed: Timestamp,
}

/// A task that has no outcome yet.
#[derive(Debug, Clone)]
pub struct PendingTask {
    /// Its id.
    pub id: TaskId,
    /// Its sequence number at the endpoint.
    pub sequence: u64,
    /// The group that it belongs to.
    pub group: TaskGroupId,
    /// The registered function that it calls.
    pub function: FunctionId,
    /// What it shares with its siblings.
    pub spec: Arc<TaskSpec>,
    /// When it was accepted.
    pub accepted: Timestamp,
    /// Its arguments.
    pub payload: Bytes,
    /// Number of its next attempt, from 1.
    pub attempt: u32,
    /// Earlier attempts that do not count: after [`LeaseLost`](crate::model::TaskEventKind::LeaseLost).
    pub granted: u32,
    /// Whether an attempt has been recorded as begun, so that its time to live does not matter.
    pub begun: bool,
}

/// Which tasks to list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TaskQuery {
    /// All of one owner.
    Owner(IdentityId),
    /// All of one group.
    Group(TaskGroupId),
}

/// Where a page ended: opaque bytes that only the store that made them understands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskCursor(pub Vec<u8>);

impl Due {
    /// The times at which a task that was accepted at `accepted` has to end, with why. A time to live that ends after the
    /// deadline does not matter.
    pub fn times(spec: &TaskSpec, accepted: Timestamp) -> impl Iterator<Item = (Timestamp, DueReason)> {
        let after = |limit: Option<Duration>| {
            let nanos = u64::try_from(limit?.as_nanos()).unwrap_or(u64::MAX);
            Some(Timestamp::from_nanos(accepted.as_nanos().saturating_add(nanos)))
        };
        let deadline = after(spec.limits.deadline);
        let ttl = after(spec.limits.ttl).filter(|ttl| deadline.is_none_or(|deadline| *ttl < deadline));
        let ttl = ttl.map(|at| (at, DueReason::TimeToLive));
        ttl.into_iter().chain(deadline.map(|at| (at, DueReason::Deadline)))
    }
}
