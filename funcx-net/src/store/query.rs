//! How questions are answered from one snapshot.

use std::{
    collections::{BinaryHeap, HashMap, hash_map},
    ops::Bound,
    sync::Arc,
};

use bytes::Bytes;
use fjall::{Keyspace, Readable, Snapshot};
use funcx_core::contract::{
    Due, EndpointRecord, FunctionRecord, OutcomeRecord, PendingTask, QueueKey, TaskCursor, TaskQuery,
    TaskRecord,
};
use funcx_core::memo::MemoKey;
use funcx_core::model::{
    EndpointId, Error, ErrorKind, Function, FunctionHash, FunctionId, IdentityId, OutcomeKind, Result,
    TaskEvent, TaskGroupId, TaskId, TaskSpec, Timestamp, TraceContext, limit::MAX_PAGE_TASKS,
};
use parking_lot::Mutex;

use super::base::Opened;
use super::failure::Failure;
use super::queues::Queue;
use super::record::{self, Chunk, StoredDue, StoredFunction, StoredPending, StoredTask};
use super::table::{Place, Table, key};

const OPERATION: &str = "read the store";
/// Values of this size and more do not lie in blocks.
const COPIED_BYTES: usize = 1024;

/// The tables at one moment, whatever is committed meanwhile.
pub(super) struct View {
    // Dropped before the database.
    snapshot: Snapshot,
    opened: Arc<Opened>,
    functions: Arc<FunctionCache>,
}

/// Code that has been read, so that it is read, hashed and held once.
#[derive(Debug, Default)]
pub(super) struct FunctionCache {
    functions: Mutex<HashMap<FunctionHash, Arc<Function>>>,
}

impl FunctionCache {
    /// Bytes of code kept that nobody else holds; what others hold costs nothing to keep.
    const MAX_IDLE_BYTES: usize = 64 << 20;

    fn find(&self, hash: FunctionHash) -> Option<Arc<Function>> {
        self.functions.lock().get(&hash).cloned()
    }

    fn keep(&self, function: &Arc<Function>) {
        let mut functions = self.functions.lock();
        let idle = |function: &Arc<Function>| Arc::strong_count(function) == 1;
        let idle_bytes: usize = functions.values().filter(|f| idle(f)).map(|f| f.size_bytes()).sum();
        if idle_bytes > Self::MAX_IDLE_BYTES {
            functions.retain(|_, function| !idle(function));
        }
        functions.insert(function.hash(), Arc::clone(function));
    }
}

/// What has been read of the submissions that the tasks of one page belong to.
#[derive(Default)]
struct Page {
    chunks: HashMap<u64, Arc<Chunk>>,
    specs: HashMap<([u8; 32], u128, u64, u8), Arc<TaskSpec>>,
}

impl View {
    pub(super) fn new(opened: Arc<Opened>, functions: Arc<FunctionCache>) -> Self {
        let snapshot = opened.tables.database.snapshot();
        Self { snapshot, opened, functions }
    }

    fn keyspace(&self, table: Table) -> &Keyspace {
        self.opened.tables.keyspace(table)
    }

    pub(super) fn function(&self, id: FunctionId) -> Result<Option<Arc<FunctionRecord>>> {
        let Some(stored) = self.find(Table::Registered, &key::function(id))? else { return Ok(None) };
        let stored = StoredFunction::decode(&stored)?;
        let function = self.code(stored.hash)?;
        Ok(Some(Arc::new(stored.into_record(id, function))))
    }

    pub(super) fn functions(
        &self,
        owner: IdentityId,
        after: Option<FunctionId>,
        limit: usize,
    ) -> Result<Vec<Arc<FunctionRecord>>> {
        let list = key::owned_functions(owner);
        let keys = self.keys_after(&list, after.map(|id| key::owned_function(owner, id)));
        keys.take(limit.min(MAX_PAGE_TASKS))
            .map(|entry| {
                let id = entry?[list.len()..].try_into().map_err(|_| record::damaged("list of functions"))?;
                let id = FunctionId::from_u128(u128::from_be_bytes(id));
                self.function(id)?.ok_or_else(|| record::damaged("list of functions"))
            })
            .collect()
    }

    pub(super) fn endpoint(&self, id: EndpointId) -> Result<Option<Arc<EndpointRecord>>> {
        let Some(stored) = self.find(Table::Registered, &key::endpoint(id))? else { return Ok(None) };
        record::decode_endpoint(id, &stored).map(|record| Some(Arc::new(record)))
    }

    pub(super) fn endpoints(&self) -> Result<Vec<Arc<EndpointRecord>>> {
        let entries = self.snapshot.prefix(self.keyspace(Table::Registered), [key::ENDPOINT]);
        entries
            .map(|entry| {
                let (key, stored) = entry.into_inner().map_err(failed)?;
                let id = key[1..].try_into().map_err(|_| record::damaged("endpoint"))?;
                record::decode_endpoint(EndpointId::from_u128(u128::from_be_bytes(id)), &stored).map(Arc::new)
            })
            .collect()
    }

    pub(super) fn tasks(&self, ids: &[TaskId]) -> Result<Vec<Option<TaskRecord>>> {
        let mut page = Page::default();
        ids.iter().map(|id| self.task(*id, &mut page)).collect()
    }

    pub(super) fn remembered(&self, keys: &[MemoKey], max_bytes: usize) -> Result<Vec<Option<Bytes>>> {
        let mut bytes = 0;
        let bounded = |memo: &MemoKey| {
            let value = if bytes < max_bytes { self.value(*memo)? } else { None };
            bytes += value.as_ref().map_or(0, Bytes::len);
            Ok(value)
        };
        keys.iter().map(bounded).collect()
    }

    fn value(&self, memo: MemoKey) -> Result<Option<Bytes>> {
        let Some(remembered) = self.find(Table::Memo, &key::memo(memo))? else { return Ok(None) };
        let (task, place) = record::decode_memo(remembered)?;
        let Some(outcome) = self.find(Table::Outcomes, &key::place(place))? else { return Ok(None) };
        let OutcomeRecord { outcome, .. } = record::decode_outcome(task, outcome)?;
        Ok((outcome.kind == OutcomeKind::Returned).then_some(outcome.payload))
    }

    fn task(&self, id: TaskId, page: &mut Page) -> Result<Option<TaskRecord>> {
        let Some(stored) = self.find(Table::Tasks, &key::task(id))? else { return Ok(None) };
        let StoredTask { place, queue, sequence } = StoredTask::decode(stored)?;
        let chunk = self.chunk(place.chunk, page)?;
        let outcome = self.find(Table::Outcomes, &key::place(place))?;
        let outcome = outcome.map(|outcome| record::decode_outcome(id, outcome)).transpose()?;
        let (attempt, payload) = match &outcome {
            Some(outcome) => (outcome.outcome.attempt, Bytes::new()),
            None => {
                let waiting = self.find(Table::Pending, &key::pending(queue, sequence))?;
                let waiting = waiting.ok_or_else(|| record::damaged("queued task"))?;
                (StoredPending::decode(waiting)?.attempt, self.arguments(place)?)
            }
        };
        Ok(Some(TaskRecord {
            id,
            endpoint: chunk.endpoint,
            group: chunk.group,
            function: chunk.function,
            spec: self.spec(&chunk, page)?,
            accepted: chunk.accepted,
            sequence,
            payload,
            attempt,
            outcome,
        }))
    }

    pub(super) fn task_events(&self, task: TaskId) -> Result<Vec<TaskEvent>> {
        let stored = self.find(Table::Events, &key::task(task))?;
        stored.map_or(Ok(Vec::new()), |stored| record::decode_events(task, stored))
    }

    pub(super) fn due(&self, after: Option<(Timestamp, TaskId)>, limit: usize) -> Result<Vec<Due>> {
        let first = match after {
            None => Bound::Included(key::due(Timestamp::UNSET, TaskId::from_u128(0))),
            Some((at, task)) => Bound::Excluded(key::due(at, task)),
        };
        let last = Bound::Included(key::due(Timestamp::from_nanos(u64::MAX), TaskId::from_u128(u128::MAX)));
        let entries = self.snapshot.range(self.keyspace(Table::Times), (first, last));
        let mut due = Vec::new();
        for entry in entries.take(limit.min(MAX_PAGE_TASKS)) {
            let (name, stored) = entry.into_inner().map_err(failed)?;
            let (Some(at), Some(task)) = (name.get(1..).and_then(<[u8]>::first_chunk), name.last_chunk())
            else {
                return Err(record::damaged("time of a task"));
            };
            let StoredDue { queue, sequence, reason } = StoredDue::decode(stored.into())?;
            // One that has run empty since the snapshot was taken has no task that is still due.
            let Some(Queue { endpoint, key, .. }) = self.opened.queues.find(queue) else { continue };
            let at = Timestamp::from_nanos(u64::from_be_bytes(*at));
            let task = TaskId::from_u128(u128::from_be_bytes(*task));
            due.push(Due { at, task, endpoint, queue: key, sequence, reason });
        }
        Ok(due)
    }

    pub(super) fn oldest_ended(&self) -> Result<Option<Timestamp>> {
        let mut entries = self.snapshot.prefix(self.keyspace(Table::Times), [key::ENDED]);
        let Some(entry) = entries.next() else { return Ok(None) };
        let name = entry.key().map_err(failed)?;
        let at =
            name.get(1..).and_then(<[u8]>::first_chunk).ok_or_else(|| record::damaged("end of a chunk"))?;
        Ok(Some(Timestamp::from_nanos(u64::from_be_bytes(*at))))
    }

    pub(super) fn pending(
        &self,
        endpoint: EndpointId,
        queue: QueueKey,
        after: u64,
        limit: usize,
        max_bytes: usize,
    ) -> Result<Vec<PendingTask>> {
        let Some(first) = after.checked_add(1) else { return Ok(Vec::new()) };
        // What was put into it since the snapshot was taken is not seen, whichever number it has.
        let Some(queue) = self.opened.queues.number(endpoint, queue) else { return Ok(Vec::new()) };
        let range = key::pending(queue, first)..=key::pending(queue, u64::MAX);
        let mut page = Page::default();
        let (mut tasks, mut placed) = (Vec::new(), Vec::new());
        let mut bytes = 0;
        let entries = self.snapshot.range(self.keyspace(Table::Pending), range);
        for entry in entries.take(limit.min(MAX_PAGE_TASKS)) {
            let (key, stored) = entry.into_inner().map_err(failed)?;
            let sequence = *key.last_chunk().ok_or_else(|| record::damaged("queued task"))?;
            let StoredPending { task: id, place, attempt, granted, begun, .. } =
                StoredPending::decode(stored.into())?;
            let payload = self.arguments(place)?;
            bytes += payload.len();
            if bytes > max_bytes && !tasks.is_empty() {
                break;
            }
            let chunk = self.chunk(place.chunk, &mut page)?;
            let spec = self.spec(&chunk, &mut page)?;
            let (sequence, accepted) = (u64::from_be_bytes(sequence), chunk.accepted);
            placed.push((id, StoredTask { place, queue, sequence }));
            let Chunk { group, function, .. } = *chunk;
            tasks.push(PendingTask {
                id,
                sequence,
                group,
                function,
                spec,
                accepted,
                payload,
                attempt,
                granted,
                begun,
            });
        }
        self.opened.placed.read(placed.into_iter());
        Ok(tasks)
    }

    pub(super) fn task_ids(
        &self,
        query: TaskQuery,
        after: Option<&TaskCursor>,
        limit: usize,
    ) -> Result<(Vec<TaskId>, Option<TaskCursor>)> {
        let limit = limit.clamp(1, MAX_PAGE_TASKS);
        let list = match query {
            TaskQuery::Owner(owner) => key::owner_list(owner),
            TaskQuery::Group(group) => key::group_list(group),
        };
        let mut mark = after.map(Mark::from_cursor).transpose()?.unwrap_or_default();
        let range = key::listed(list, mark.accepted, mark.chunk)
            ..=key::listed(list, Timestamp::from_nanos(u64::MAX), u64::MAX);
        let mut ids = Vec::new();
        for entry in self.snapshot.range(self.keyspace(Table::Lists), range) {
            let here = Mark::from_key(&entry.key().map_err(failed)?[list.len()..])?;
            if here.chunk != mark.chunk || here.accepted != mark.accepted {
                mark = here;
            }
            let chunk = self.read_chunk(mark.chunk)?;
            for id in chunk.ids().skip(mark.passed as usize) {
                // One more than asked for shows that there is another page.
                if ids.len() == limit && id.is_some() {
                    return Ok((ids, Some(mark.into_cursor())));
                }
                ids.extend(id);
                mark.passed += 1;
            }
        }
        Ok((ids, None))
    }

    pub(super) fn ended(
        &self,
        group: TaskGroupId,
        after: Timestamp,
        through: Timestamp,
        limit: usize,
    ) -> Result<(Vec<TaskId>, Timestamp)> {
        // Those that ended first; the last of them gives way.
        let mut first: BinaryHeap<(Timestamp, u64, u32)> = BinaryHeap::new();
        let mut found_through = through;
        for entry in self.snapshot.prefix(self.keyspace(Table::Lists), key::group_runs(group)) {
            let (name, run) = entry.into_inner().map_err(failed)?;
            let chunk = name.get(17..).and_then(<[u8]>::first_chunk);
            let chunk = u64::from_be_bytes(*chunk.ok_or_else(|| record::damaged("ends of tasks"))?);
            let new = record::decode_run(&run)?.filter(|(_, at)| *at > after && *at <= through);
            for (index, at) in new {
                first.push((at, chunk, index));
                if first.len() > limit {
                    first.pop();
                    found_through = first.peek().map_or(after, |(last, ..)| *last);
                }
            }
        }
        Ok((self.ids(first.into_vec())?, found_through))
    }

    /// The tasks at these places that have not been forgotten, in the order of time.
    fn ids(&self, mut ended: Vec<(Timestamp, u64, u32)>) -> Result<Vec<TaskId>> {
        ended.sort_unstable_by_key(|(_, chunk, index)| (*chunk, *index));
        let mut ids = Vec::with_capacity(ended.len());
        for places in ended.chunk_by(|(_, one, _), (_, other, _)| one == other) {
            let chunk = self.read_chunk(places[0].1)?;
            let known = places.iter().filter_map(|(at, _, index)| Some((*at, chunk.id(*index)?)));
            ids.extend(known);
        }
        ids.sort_unstable();
        Ok(ids.into_iter().map(|(_, id)| id).collect())
    }

    fn chunk(&self, number: u64, page: &mut Page) -> Result<Arc<Chunk>> {
        match page.chunks.entry(number) {
            hash_map::Entry::Occupied(known) => Ok(Arc::clone(known.get())),
            hash_map::Entry::Vacant(unknown) => {
                Ok(Arc::clone(unknown.insert(Arc::new(self.read_chunk(number)?))))
            }
        }
    }

    fn read_chunk(&self, number: u64) -> Result<Chunk> {
        let stored = self.find(Table::Chunks, &key::chunk(number))?;
        Chunk::decode(stored.ok_or_else(|| record::damaged("chunk of a submission"))?)
    }

    fn spec(&self, chunk: &Chunk, page: &mut Page) -> Result<Arc<TaskSpec>> {
        let TraceContext { trace_id, span_id, flags } = chunk.trace;
        match page.specs.entry((chunk.spec, trace_id, span_id, flags)) {
            hash_map::Entry::Occupied(known) => Ok(Arc::clone(known.get())),
            hash_map::Entry::Vacant(unknown) => {
                let stored = self.find(Table::Shared, &key::spec(chunk.spec))?;
                let stored = stored.ok_or_else(|| record::damaged("task specification"))?;
                let spec = record::decode_spec(stored, chunk.trace, |hash| self.code(hash))?;
                Ok(Arc::clone(unknown.insert(Arc::new(spec))))
            }
        }
    }

    fn code(&self, hash: FunctionHash) -> Result<Arc<Function>> {
        if let Some(function) = self.functions.find(hash) {
            return Ok(function);
        }
        let stored = self.find(Table::Shared, &key::body(hash))?;
        let stored = stored.ok_or_else(|| record::damaged("function body"))?;
        let function = Arc::new(record::decode_body(hash, stored)?);
        self.functions.keep(&function);
        Ok(function)
    }

    fn arguments(&self, place: Place) -> Result<Bytes> {
        let stored = self.find(Table::Arguments, &key::place(place))?;
        let stored = stored.ok_or_else(|| record::damaged("arguments"))?;
        // Queued tasks live long, and a short slice would keep the whole block that it was read from in memory.
        Ok(if stored.len() < COPIED_BYTES { Bytes::copy_from_slice(&stored) } else { stored })
    }

    fn find(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>> {
        let value = self.snapshot.get(self.keyspace(table), key).map_err(failed)?;
        Ok(value.map(Bytes::from))
    }

    /// Keys of the registered things that start with `prefix`, after `after`.
    fn keys_after(&self, prefix: &[u8], after: Option<[u8; 33]>) -> impl Iterator<Item = Result<Bytes>> {
        let mut first = prefix.to_vec();
        first.resize(33, 0);
        let mut last = prefix.to_vec();
        last.resize(33, u8::MAX);
        let after = after.map(Vec::from);
        let entries =
            self.snapshot.range(self.keyspace(Table::Registered), after.clone().unwrap_or(first)..=last);
        entries
            .map(|entry| entry.key().map(Bytes::from).map_err(failed))
            .skip_while(move |key| key.as_ref().is_ok_and(|key| after.as_deref() == Some(key.as_ref())))
    }
}

/// Where a listing is: the chunk, and how many of its tasks have been passed.
#[derive(Debug, Clone, Copy, Default)]
struct Mark {
    accepted: Timestamp,
    chunk: u64,
    passed: u32,
}

impl Mark {
    fn from_key(key: &[u8]) -> Result<Self> {
        let (Some(accepted), Some(chunk)) = (key.first_chunk(), key.last_chunk()) else {
            return Err(record::damaged("list of tasks"));
        };
        let accepted = Timestamp::from_nanos(u64::from_be_bytes(*accepted));
        Ok(Self { accepted, chunk: u64::from_be_bytes(*chunk), passed: 0 })
    }

    fn from_cursor(cursor: &TaskCursor) -> Result<Self> {
        match (cursor.0.get(..16), cursor.0.get(16..).map(<[u8; 4]>::try_from)) {
            (Some(key), Some(Ok(passed))) => {
                Ok(Self { passed: u32::from_be_bytes(passed), ..Self::from_key(key)? })
            }
            _ => {
                Err(Error::new(ErrorKind::InvalidInput, "list tasks", "the cursor is not one of this store"))
            }
        }
    }

    fn into_cursor(self) -> TaskCursor {
        let accepted = self.accepted.as_nanos().to_be_bytes();
        TaskCursor([&accepted[..], &self.chunk.to_be_bytes(), &self.passed.to_be_bytes()].concat())
    }
}

fn failed(error: fjall::Error) -> Error {
    Failure::read(&error).into_error(OPERATION)
}
