//! The reference implementation: everything in memory, nothing durable.

use std::{collections::BTreeMap, ops::Bound, sync::Arc};

use futures::future::{self, BoxFuture, FutureExt};
use parking_lot::Mutex;

use crate::contract::{
    EndpointRecord, FunctionRecord, OutcomeRecord, PendingTask, Submission, TaskCursor, TaskQuery,
    TaskRecord, TaskStore, Write,
};
use crate::model::{
    EndpointId, Error, ErrorKind, FunctionId, IdMap, IdentityId, Result, TaskId, Timestamp,
    limit::MAX_PAGE_TASKS,
};

/// A [`TaskStore`] that forgets everything when it is dropped. For tests and simulations, and as the plainest
/// description of what a store does.
#[derive(Debug, Default)]
pub struct MemoryStore {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    functions: BTreeMap<FunctionId, Arc<FunctionRecord>>,
    endpoints: BTreeMap<EndpointId, Arc<EndpointRecord>>,
    tasks: IdMap<TaskId, TaskRecord>,
    pending: BTreeMap<EndpointId, BTreeMap<u64, TaskId>>,
    lists: BTreeMap<List, BTreeMap<Place, TaskId>>,
    listed: u64,
}

/// What is listed: all of an owner, or all of a group.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum List {
    Owner(u128),
    Group(u128),
}

/// Place in a list: when the task was accepted, and how many had been before it.
type Place = (Timestamp, u64);

impl From<TaskQuery> for List {
    fn from(query: TaskQuery) -> Self {
        match query {
            TaskQuery::Owner(owner) => Self::Owner(owner.as_u128()),
            TaskQuery::Group(group) => Self::Group(group.as_u128()),
        }
    }
}

impl MemoryStore {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }
}

impl State {
    fn apply(&mut self, write: Write) {
        match write {
            Write::PutFunction(function) => {
                self.functions.insert(function.id, function);
            }
            Write::DeleteFunction(id) => {
                self.functions.remove(&id);
            }
            Write::PutEndpoint(endpoint) => {
                self.endpoints.insert(endpoint.id, endpoint);
            }
            Write::DeleteEndpoint(id) => {
                self.endpoints.remove(&id);
            }
            Write::Submit(submission) => self.submit(submission),
            Write::Finish(outcomes) => outcomes.into_iter().for_each(|outcome| self.finish(outcome)),
        }
    }

    fn submit(&mut self, submission: Submission) {
        let Submission { endpoint, group, function, spec, accepted, first_sequence, tasks } = submission;
        for (sequence, (id, payload)) in (first_sequence..).zip(tasks) {
            self.pending.entry(endpoint).or_default().insert(sequence, id);
            for query in [TaskQuery::Owner(spec.owner), TaskQuery::Group(group)] {
                self.lists.entry(query.into()).or_default().insert((accepted, self.listed), id);
            }
            self.listed += 1;
            let spec = Arc::clone(&spec);
            let outcome = None;
            self.tasks.insert(
                id,
                TaskRecord { id, endpoint, group, function, spec, accepted, sequence, payload, outcome },
            );
        }
    }

    fn finish(&mut self, outcome: OutcomeRecord) {
        let Some(task) = self.tasks.get_mut(&outcome.outcome.task) else { return };
        if task.outcome.is_none() {
            if let Some(pending) = self.pending.get_mut(&task.endpoint) {
                pending.remove(&task.sequence);
            }
            task.outcome = Some(outcome);
        }
    }

    fn pending(&self, endpoint: EndpointId, after: u64, limit: usize, max_bytes: usize) -> Vec<PendingTask> {
        let mut bytes = 0;
        let sequences = self.pending.get(&endpoint).into_iter();
        sequences
            .flat_map(|pending| pending.range((Bound::Excluded(after), Bound::Unbounded)))
            .filter_map(|(_, id)| self.tasks.get(id))
            .take(limit.min(MAX_PAGE_TASKS))
            .enumerate()
            .take_while(|(place, task)| {
                bytes += task.payload.len();
                *place == 0 || bytes <= max_bytes
            })
            .map(|(_, task)| PendingTask {
                id: task.id,
                sequence: task.sequence,
                spec: Arc::clone(&task.spec),
                accepted: task.accepted,
                payload: task.payload.clone(),
            })
            .collect()
    }

    fn task_ids(
        &self,
        query: TaskQuery,
        after: Option<Place>,
        limit: usize,
    ) -> (Vec<TaskId>, Option<TaskCursor>) {
        let limit = limit.clamp(1, MAX_PAGE_TASKS);
        let first = after.map_or(Bound::Unbounded, Bound::Excluded);
        let Some(list) = self.lists.get(&query.into()) else { return (Vec::new(), None) };
        let mut rest = list.range((first, Bound::Unbounded));
        let page: Vec<_> = rest.by_ref().take(limit).collect();
        let next = rest.next().and(page.last()).map(|(place, _)| to_cursor(**place));
        (page.into_iter().map(|(_, id)| *id).collect(), next)
    }
}

fn to_cursor((accepted, listed): Place) -> TaskCursor {
    TaskCursor([accepted.as_nanos().to_be_bytes(), listed.to_be_bytes()].concat())
}

fn from_cursor(cursor: &TaskCursor) -> Result<Place> {
    match cursor.0.as_chunks() {
        ([accepted, listed], []) => {
            Ok((Timestamp::from_nanos(u64::from_be_bytes(*accepted)), u64::from_be_bytes(*listed)))
        }
        _ => Err(Error::new(ErrorKind::InvalidInput, "list tasks", "the cursor is not one of this store")),
    }
}

impl TaskStore for MemoryStore {
    fn commit(&self, writes: Vec<Write>) -> BoxFuture<'static, Result<()>> {
        let mut state = self.state.lock();
        writes.into_iter().for_each(|write| state.apply(write));
        future::ready(Ok(())).boxed()
    }

    fn function(&self, id: FunctionId) -> BoxFuture<'_, Result<Option<Arc<FunctionRecord>>>> {
        future::ready(Ok(self.state.lock().functions.get(&id).cloned())).boxed()
    }

    fn functions(
        &self,
        owner: IdentityId,
        after: Option<FunctionId>,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<Arc<FunctionRecord>>>> {
        let state = self.state.lock();
        let first = after.map_or(Bound::Unbounded, Bound::Excluded);
        let page = state
            .functions
            .range((first, Bound::Unbounded))
            .map(|(_, function)| function)
            .filter(|function| function.owner == owner)
            .take(limit.min(MAX_PAGE_TASKS))
            .cloned()
            .collect();
        future::ready(Ok(page)).boxed()
    }

    fn endpoint(&self, id: EndpointId) -> BoxFuture<'_, Result<Option<Arc<EndpointRecord>>>> {
        future::ready(Ok(self.state.lock().endpoints.get(&id).cloned())).boxed()
    }

    fn endpoints(&self) -> BoxFuture<'_, Result<Vec<Arc<EndpointRecord>>>> {
        future::ready(Ok(self.state.lock().endpoints.values().cloned().collect())).boxed()
    }

    fn tasks<'a>(&'a self, ids: &'a [TaskId]) -> BoxFuture<'a, Result<Vec<Option<TaskRecord>>>> {
        let state = self.state.lock();
        let tasks = ids.iter().map(|id| state.tasks.get(id).cloned()).collect();
        future::ready(Ok(tasks)).boxed()
    }

    fn task_ids<'a>(
        &'a self,
        query: TaskQuery,
        after: Option<TaskCursor>,
        limit: usize,
    ) -> BoxFuture<'a, Result<(Vec<TaskId>, Option<TaskCursor>)>> {
        let after = after.as_ref().map(from_cursor).transpose();
        future::ready(after.map(|after| self.state.lock().task_ids(query, after, limit))).boxed()
    }

    fn pending(
        &self,
        endpoint: EndpointId,
        after: u64,
        limit: usize,
        max_bytes: usize,
    ) -> BoxFuture<'_, Result<Vec<PendingTask>>> {
        future::ready(Ok(self.state.lock().pending(endpoint, after, limit, max_bytes))).boxed()
    }

    fn pending_count(&self, endpoint: EndpointId) -> BoxFuture<'_, Result<u64>> {
        let count = self.state.lock().pending.get(&endpoint).map_or(0, BTreeMap::len);
        future::ready(Ok(count as u64)).boxed()
    }
}
