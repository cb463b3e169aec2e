//! The reference implementation: everything in memory, nothing durable.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
    sync::Arc,
};

use bytes::Bytes;
use futures::future::{self, BoxFuture, FutureExt};
use parking_lot::Mutex;

use crate::contract::{
    Backlog, Due, DueReason, EndpointRecord, FunctionRecord, OutcomeRecord, PendingTask, QueueKey,
    Submission, TaskCursor, TaskQuery, TaskRecord, TaskStore, Write,
};
use crate::memo::MemoKey;
use crate::model::{
    EndpointId, Error, ErrorKind, FunctionId, IdMap, IdentityId, OutcomeKind, Result, TaskEvent,
    TaskEventKind, TaskGroupId, TaskId, Timestamp,
    limit::{MAX_PAGE_TASKS, MAX_TASK_EVENTS},
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
    tasks: IdMap<TaskId, Entry>,
    pending: BTreeMap<EndpointId, BTreeMap<QueueKey, BTreeMap<u64, TaskId>>>,
    lists: BTreeMap<List, BTreeMap<Place, TaskId>>,
    listed: u64,
    remembered: BTreeMap<MemoKey, TaskId>,
    submissions: BTreeMap<u64, Accepted>,
    submitted: u64,
    due: BTreeMap<(Timestamp, TaskId), DueReason>,
    /// Submissions of which every task has ended, by when the last one did.
    ended: BTreeSet<(Timestamp, u64)>,
}

#[derive(Debug)]
struct Entry {
    record: TaskRecord,
    events: Vec<TaskEvent>,
    begun: bool,
    granted: u32,
    submission: u64,
    listed: u64,
}

/// What is left of a submission.
#[derive(Debug)]
struct Accepted {
    tasks: Vec<TaskId>,
    unfinished: usize,
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
            Write::Answer(submission, outcomes) => {
                self.submit(submission);
                outcomes.into_iter().for_each(|outcome| self.finish(outcome));
            }
            Write::Remember(tasks) => {
                let there = tasks.into_iter().filter(|(_, task)| self.tasks.contains_key(task));
                self.remembered.extend(there);
            }
            Write::Finish(outcomes) => outcomes.into_iter().for_each(|outcome| self.finish(outcome)),
            Write::Record(events) => events.into_iter().for_each(|event| self.record(event)),
            Write::Forget(tasks) => tasks.into_iter().for_each(|task| self.forget(task)),
            Write::Expire { ended_before } => self.expire(ended_before),
        }
    }

    fn submit(&mut self, submission: Submission) {
        let Submission { endpoint, group, function, spec, accepted, first_sequence, tasks } = submission;
        if tasks.is_empty() {
            return;
        }
        let of = self.submitted;
        self.submitted += 1;
        let ids: Vec<TaskId> = tasks.iter().map(|(id, _)| *id).collect();
        self.submissions.insert(of, Accepted { unfinished: ids.len(), tasks: ids });
        let pending = self.pending.entry(endpoint).or_default().entry(QueueKey::of(&spec)).or_default();
        for (sequence, (id, payload)) in (first_sequence..).zip(tasks) {
            pending.insert(sequence, id);
            for query in [TaskQuery::Owner(spec.owner), TaskQuery::Group(group)] {
                self.lists.entry(query.into()).or_default().insert((accepted, self.listed), id);
            }
            self.due.extend(Due::times(&spec, accepted).map(|(at, reason)| ((at, id), reason)));
            let (spec, attempt, outcome) = (Arc::clone(&spec), 1, None);
            let record = TaskRecord {
                id,
                endpoint,
                group,
                function,
                spec,
                accepted,
                sequence,
                payload,
                attempt,
                outcome,
            };
            let listed = self.listed;
            self.listed += 1;
            self.tasks.insert(
                id,
                Entry { record, events: Vec::new(), begun: false, granted: 0, submission: of, listed },
            );
        }
    }

    fn finish(&mut self, outcome: OutcomeRecord) {
        let id = outcome.outcome.task;
        let Some(Entry { record: task, submission, .. }) = self.tasks.get_mut(&id) else { return };
        if task.outcome.is_some() {
            return;
        }
        if let Some(queues) = self.pending.get_mut(&task.endpoint)
            && let Some(pending) = queues.get_mut(&QueueKey::of(&task.spec))
        {
            pending.remove(&task.sequence);
            queues.retain(|_, pending| !pending.is_empty());
        }
        for (at, _) in Due::times(&task.spec, task.accepted) {
            self.due.remove(&(at, id));
        }
        task.attempt = outcome.outcome.attempt;
        if let Some(accepted) = self.submissions.get_mut(submission) {
            accepted.unfinished -= 1;
            if accepted.unfinished == 0 {
                self.ended.insert((outcome.completed, *submission));
            }
        }
        task.outcome = Some(outcome);
    }

    fn record(&mut self, event: TaskEvent) {
        let Some(entry) = self.tasks.get_mut(&event.attempt.task) else { return };
        let task = &mut entry.record;
        if task.outcome.is_none() {
            match event.kind {
                TaskEventKind::Lost | TaskEventKind::LeaseLost => {
                    if event.attempt.number >= task.attempt {
                        task.attempt = event.attempt.number.saturating_add(1);
                        entry.granted += u32::from(event.kind == TaskEventKind::LeaseLost);
                    }
                }
                TaskEventKind::Started => {
                    entry.begun = true;
                    for (at, _) in Due::times(&task.spec, task.accepted)
                        .filter(|(_, reason)| *reason == DueReason::TimeToLive)
                    {
                        self.due.remove(&(at, task.id));
                    }
                }
                TaskEventKind::CancelRequested => {}
            }
        }
        entry.events.push(event);
        if entry.events.len() > MAX_TASK_EVENTS {
            entry.events.remove(0);
        }
    }

    fn forget(&mut self, id: TaskId) {
        if self.tasks.get(&id).is_none_or(|entry| entry.record.outcome.is_none()) {
            return;
        }
        let Some(Entry { record, submission, listed, .. }) = self.tasks.remove(&id) else { return };
        self.remembered.retain(|_, task| *task != id);
        for query in [TaskQuery::Owner(record.spec.owner), TaskQuery::Group(record.group)] {
            if let Some(list) = self.lists.get_mut(&query.into()) {
                list.remove(&(record.accepted, listed));
            }
        }
        if let Some(accepted) = self.submissions.get_mut(&submission) {
            accepted.tasks.retain(|task| *task != id);
            if accepted.tasks.is_empty() {
                self.submissions.remove(&submission);
                self.ended.retain(|(_, ended)| *ended != submission);
            }
        }
    }

    fn expire(&mut self, before: Timestamp) {
        let mut removed = 0;
        while removed < MAX_PAGE_TASKS
            && let Some((_, submission)) = self.ended.first().copied().filter(|(at, _)| *at < before)
        {
            let tasks = self.submissions.get(&submission).map_or_else(Vec::new, |all| all.tasks.clone());
            removed += tasks.len();
            tasks.into_iter().for_each(|task| self.forget(task));
        }
    }

    fn pending(
        &self,
        endpoint: EndpointId,
        queue: QueueKey,
        after: u64,
        limit: usize,
        max_bytes: usize,
    ) -> Vec<PendingTask> {
        let mut bytes = 0;
        let sequences = self.pending.get(&endpoint).and_then(|queues| queues.get(&queue)).into_iter();
        sequences
            .flat_map(|pending| pending.range((Bound::Excluded(after), Bound::Unbounded)))
            .filter_map(|(_, id)| self.tasks.get(id))
            .take(limit.min(MAX_PAGE_TASKS))
            .enumerate()
            .take_while(|(place, entry)| {
                bytes += entry.record.payload.len();
                *place == 0 || bytes <= max_bytes
            })
            .map(|(_, Entry { record: task, begun, granted, .. })| PendingTask {
                id: task.id,
                sequence: task.sequence,
                group: task.group,
                function: task.function,
                spec: Arc::clone(&task.spec),
                accepted: task.accepted,
                payload: task.payload.clone(),
                attempt: task.attempt,
                granted: *granted,
                begun: *begun,
            })
            .collect()
    }

    fn backlog(&self, pending: &BTreeMap<u64, TaskId>) -> Backlog {
        let tasks = pending.values().filter_map(|id| self.tasks.get(id));
        let bytes = tasks.map(|entry| entry.record.payload.len() as u64).sum();
        Backlog { tasks: pending.len() as u64, bytes }
    }

    fn due(&self, after: Option<(Timestamp, TaskId)>, limit: usize) -> Vec<Due> {
        let first = after.map_or(Bound::Unbounded, Bound::Excluded);
        let entries = self.due.range((first, Bound::Unbounded)).take(limit.min(MAX_PAGE_TASKS));
        entries
            .filter_map(|((at, id), reason)| {
                let task = &self.tasks.get(id)?.record;
                let (endpoint, queue) = (task.endpoint, QueueKey::of(&task.spec));
                Some(Due { at: *at, task: *id, endpoint, queue, sequence: task.sequence, reason: *reason })
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
        let tasks = ids.iter().map(|id| state.tasks.get(id).map(|entry| entry.record.clone())).collect();
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

    fn ended(
        &self,
        group: TaskGroupId,
        after: Timestamp,
        through: Timestamp,
        limit: usize,
    ) -> BoxFuture<'_, Result<(Vec<TaskId>, Timestamp)>> {
        let state = self.state.lock();
        let listed = state.lists.get(&TaskQuery::Group(group).into()).into_iter().flat_map(BTreeMap::values);
        let ended = listed.filter_map(|id| {
            let at = state.tasks.get(id)?.record.outcome.as_ref()?.completed;
            (at > after && at <= through).then_some((at, *id))
        });
        let ended: BTreeSet<(Timestamp, TaskId)> = ended.collect();
        let next = ended.iter().nth(limit);
        let last = next.and_then(|next| ended.range(..next).next_back()).map(|(at, _)| *at);
        let ids = ended.iter().map(|(_, id)| *id).take(limit).collect();
        future::ready(Ok((ids, last.unwrap_or(through)))).boxed()
    }

    fn remembered<'a>(
        &'a self,
        keys: &'a [MemoKey],
        max_bytes: usize,
    ) -> BoxFuture<'a, Result<Vec<Option<Bytes>>>> {
        let state = self.state.lock();
        let value = |key| {
            let task = state.tasks.get(state.remembered.get(key)?)?;
            let outcome = &task.record.outcome.as_ref()?.outcome;
            (outcome.kind == OutcomeKind::Returned).then(|| outcome.payload.clone())
        };
        let mut bytes = 0;
        let bounded = |key| {
            let value: Option<Bytes> = if bytes < max_bytes { value(key) } else { None };
            bytes += value.as_ref().map_or(0, Bytes::len);
            value
        };
        future::ready(Ok(keys.iter().map(bounded).collect())).boxed()
    }

    fn task_events(&self, task: TaskId) -> BoxFuture<'_, Result<Vec<TaskEvent>>> {
        let events = self.state.lock().tasks.get(&task).map(|entry| entry.events.clone());
        future::ready(Ok(events.unwrap_or_default())).boxed()
    }

    fn pending(
        &self,
        endpoint: EndpointId,
        queue: QueueKey,
        after: u64,
        limit: usize,
        max_bytes: usize,
    ) -> BoxFuture<'_, Result<Vec<PendingTask>>> {
        future::ready(Ok(self.state.lock().pending(endpoint, queue, after, limit, max_bytes))).boxed()
    }

    fn queues(
        &self,
        endpoint: EndpointId,
        after: Option<QueueKey>,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<(QueueKey, Backlog)>>> {
        let state = self.state.lock();
        let first = after.map_or(Bound::Unbounded, Bound::Excluded);
        let queues = state.pending.get(&endpoint).into_iter();
        let page = queues
            .flat_map(|queues| queues.range((first, Bound::Unbounded)))
            .take(limit)
            .map(|(queue, pending)| (*queue, state.backlog(pending)))
            .collect();
        future::ready(Ok(page)).boxed()
    }

    fn backlog(&self, endpoint: EndpointId) -> BoxFuture<'_, Result<Backlog>> {
        let state = self.state.lock();
        let queues = state.pending.get(&endpoint).into_iter().flat_map(BTreeMap::values);
        let sum = queues.fold(Backlog::default(), |sum, pending| {
            let queue = state.backlog(pending);
            Backlog { tasks: sum.tasks + queue.tasks, bytes: sum.bytes + queue.bytes }
        });
        future::ready(Ok(sum)).boxed()
    }

    fn due(&self, after: Option<(Timestamp, TaskId)>, limit: usize) -> BoxFuture<'_, Result<Vec<Due>>> {
        future::ready(Ok(self.state.lock().due(after, limit))).boxed()
    }

    fn oldest_ended(&self) -> BoxFuture<'_, Result<Option<Timestamp>>> {
        future::ready(Ok(self.state.lock().ended.first().map(|(at, _)| *at))).boxed()
    }
}
