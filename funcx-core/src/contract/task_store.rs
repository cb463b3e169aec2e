//! What outlives the service process.

use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;

use super::Access;
use crate::model::{
    EndpointId, Function, FunctionId, IdentityId, Outcome, Result, TaskGroupId, TaskId, TaskSpec, Timestamp,
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

    /// Tasks of `endpoint` without an outcome whose sequence number is greater than `after`, in order, at most
    /// `limit` of them and about `max_bytes` of payload (but at least one if there is one).
    fn pending(
        &self,
        endpoint: EndpointId,
        after: u64,
        limit: usize,
        max_bytes: usize,
    ) -> BoxFuture<'_, Result<Vec<PendingTask>>>;

    /// Number of tasks of `endpoint` without an outcome.
    fn pending_count(&self, endpoint: EndpointId) -> BoxFuture<'_, Result<u64>>;
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
    /// Gives tasks their outcome. A task that has one keeps it.
    Finish(Vec<OutcomeRecord>),
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
    /// Its arguments.
    pub payload: Bytes,
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
    /// What it shares with its siblings.
    pub spec: Arc<TaskSpec>,
    /// When it was accepted.
    pub accepted: Timestamp,
    /// Its arguments.
    pub payload: Bytes,
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
