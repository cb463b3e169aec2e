//! How writes become changes of tables.

use bytes::Bytes;
use fjall::PersistMode;
use funcx_core::contract::{
    Backlog, Due, DueReason, FunctionRecord, OutcomeRecord, QueueKey, Submission, Write,
};
use funcx_core::memo::MemoKey;
use funcx_core::model::{
    EndpointId, FunctionId, TaskEvent, TaskEventKind, TaskId, TaskSpec, Timestamp, limit::MAX_PAGE_TASKS,
};
use hashbrown::{HashMap, hash_map::Entry};

use super::base::Opened;
use super::failure::Failure;
use super::placed::{Placed, PlacedTasks};
use super::queues::{Queue, Queues};
use super::record::{
    self, Chunk, Numbers, StoredDue, StoredFunction, StoredPending, StoredQueue, StoredTask,
};
use super::table::{CHUNK_TASKS, Place, Table, Tables, key};

/// Number of the queue of tasks that were never in one.
const NO_QUEUE: u64 = 0;

/// The changes of a group of commits, on top of what the tables hold.
///
/// Each key is changed once: a later write sees the earlier ones of its group, and the last one counts.
pub(super) struct Changes<'a> {
    tables: &'a Tables,
    known: &'a Queues,
    changed: [HashMap<Bytes, Option<Bytes>>; Table::ALL.len()],
    /// Queues that have changed, by number.
    queues: HashMap<u64, Queue>,
    /// Numbers of queues that tasks were put into.
    filled: HashMap<(EndpointId, QueueKey), u64>,
    placed: &'a PlacedTasks,
    /// Tasks that these changes accept, and those that they end.
    fresh: Vec<(TaskId, Placed)>,
    ended: Vec<TaskId>,
    /// By chunk, which of its tasks have ended, and when.
    runs: HashMap<u64, Vec<(u32, Timestamp)>>,
    numbers: Numbers,
    bytes: usize,
}

/// What an outcome takes away.
struct ToEnd {
    /// Bytes of the arguments.
    bytes: u32,
    /// When the task had to begin or end.
    times: [Option<Timestamp>; 2],
}

impl<'a> Changes<'a> {
    /// No changes yet. `numbers` are those that are free.
    pub(super) fn new(opened: &'a Opened, numbers: Numbers) -> Self {
        let Opened { tables, queues: known, placed } = opened;
        let numbers = Numbers { group: numbers.group + 1, ..numbers };
        Self {
            tables,
            known,
            changed: Default::default(),
            queues: HashMap::new(),
            filled: HashMap::new(),
            placed,
            fresh: Vec::new(),
            ended: Vec::new(),
            runs: HashMap::new(),
            numbers,
            bytes: 0,
        }
    }

    /// Bytes of the keys and values that have changed.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The numbers that are free once this is committed.
    pub(super) fn numbers(&self) -> Numbers {
        self.numbers
    }

    /// Adds one write.
    pub(super) fn apply(&mut self, write: &Write) -> Result<(), Failure> {
        match write {
            Write::PutFunction(function) => self.put_function(function),
            Write::DeleteFunction(id) => self.delete_function(*id),
            Write::PutEndpoint(endpoint) => {
                self.put(Table::Registered, &key::endpoint(endpoint.id), record::encode_endpoint(endpoint));
                Ok(())
            }
            Write::DeleteEndpoint(id) => {
                self.remove(Table::Registered, &key::endpoint(*id));
                Ok(())
            }
            Write::Submit(submission) => self.submit(submission),
            Write::Answer(submission, outcomes) => self.answer(submission, outcomes),
            Write::Remember(tasks) => tasks.iter().try_for_each(|(memo, task)| self.remember(*memo, *task)),
            Write::Finish(outcomes) => self.finish(outcomes),
            Write::Record(events) => events.iter().try_for_each(|event| self.record(event)),
            Write::Forget(tasks) => self.forget(tasks.iter().copied()),
            Write::Expire { ended_before } => self.expire(*ended_before),
        }
    }

    /// Adds what follows from all writes together; none may be added after it.
    pub(super) fn conclude(&mut self) -> Result<(), Failure> {
        for (number, ended) in std::mem::take(&mut self.runs) {
            // Its tasks may have been forgotten at once.
            let Some(chunk) = self.find(Table::Chunks, &key::chunk(number))? else { continue };
            let group = Chunk::decode(chunk)?.group;
            let last = ended.iter().map(|(_, at)| *at).max().unwrap_or_default();
            let first = ended.first().map_or(0, |(index, _)| *index);
            self.put(Table::Lists, &key::run(group, number, last, first), record::encode_run(&ended));
            self.shrink(number, ended.len() as u32, last)?;
        }
        Ok(())
    }

    /// Makes all changes durable at once. If that fails, only the disk knows whether it has.
    pub(super) fn commit(mut self) -> Result<(), fjall::Error> {
        for (number, Queue { endpoint, key: queue, backlog }) in self.queues.clone() {
            let name = key::queue(endpoint, queue);
            match backlog.tasks {
                0 => self.remove(Table::Registered, &name),
                _ => self.put(Table::Registered, &name, StoredQueue { number, backlog }.encode()),
            }
        }
        self.put(Table::Registered, &key::NUMBERS, self.numbers.encode());
        let mut batch = self.tables.database.batch().durability(Some(PersistMode::SyncData));
        for (table, changed) in Table::ALL.into_iter().zip(std::mem::take(&mut self.changed)) {
            let keyspace = self.tables.keyspace(table);
            // Neighbours are put in next to each other, so that what was touched for one is at hand for the next.
            let mut changed: Vec<_> = changed.into_iter().collect();
            changed.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
            for (key, value) in changed {
                match value {
                    Some(value) => batch.insert(keyspace, key, value),
                    None => batch.remove(keyspace, key),
                }
            }
        }
        batch.commit()?;
        self.known.replace(self.queues);
        self.placed.committed(&self.fresh, &self.ended);
        Ok(())
    }

    fn put_function(&mut self, function: &FunctionRecord) -> Result<(), Failure> {
        // It may have belonged to somebody else before.
        self.delete_function(function.id)?;
        let code = function.function.hash();
        self.share(&key::body(code), || record::encode_body(function.function.body()))?;
        self.put(Table::Registered, &key::function(function.id), StoredFunction::encode(function));
        self.put(Table::Registered, &key::owned_function(function.owner, function.id), Bytes::new());
        Ok(())
    }

    fn delete_function(&mut self, id: FunctionId) -> Result<(), Failure> {
        if let Some(stored) = self.find(Table::Registered, &key::function(id))? {
            let owner = StoredFunction::decode(&stored)?.owner;
            self.remove(Table::Registered, &key::function(id));
            self.remove(Table::Registered, &key::owned_function(owner, id));
        }
        Ok(())
    }

    fn submit(&mut self, submission: &Submission) -> Result<(), Failure> {
        let Submission { endpoint, spec, accepted, .. } = submission;
        let hash = self.share_spec(spec)?;
        let times = Due::times(spec, *accepted);
        let at = |wanted| move |(at, reason): (Timestamp, DueReason)| (reason == wanted).then_some(at);
        let times: Vec<_> = times.collect();
        let ttl = times.iter().copied().find_map(at(DueReason::TimeToLive));
        let deadline = times.iter().copied().find_map(at(DueReason::Deadline));
        let queue = self.fill(*endpoint, QueueKey::of(spec), &submission.tasks);
        self.reserve([Table::Tasks, Table::Arguments, Table::Pending], submission.tasks.len());
        let mut sequence = submission.first_sequence;
        for tasks in submission.tasks.chunks(CHUNK_TASKS) {
            let chunk = self.add_chunk(submission, hash, tasks);
            if tasks.len() > 1 {
                self.put(Table::Times, &key::left(chunk), record::encode_left(tasks.len() as u32));
            }
            for (index, (task, payload)) in (0..).zip(tasks) {
                let place = Place { chunk, index };
                let bytes = u32::try_from(payload.len()).unwrap_or(u32::MAX);
                let waiting = StoredPending {
                    task: *task,
                    place,
                    bytes,
                    attempt: 1,
                    granted: 0,
                    begun: false,
                    ttl,
                    deadline,
                };
                let stored = StoredTask { place, queue, sequence };
                let is_timeless = times.is_empty();
                self.fresh.push((*task, Placed { stored, bytes: is_timeless.then_some(bytes) }));
                self.put(Table::Tasks, &key::task(*task), stored.encode());
                self.put(Table::Arguments, &key::place(place), payload.clone());
                self.put(Table::Pending, &key::pending(queue, sequence), waiting.encode());
                for (at, reason) in &times {
                    let due = StoredDue { queue, sequence, reason: *reason };
                    self.put(Table::Times, &key::due(*at, *task), due.encode());
                }
                sequence += 1;
            }
        }
        Ok(())
    }

    /// Tasks that are added with their outcomes, and so never wait.
    fn answer(&mut self, submission: &Submission, outcomes: &[OutcomeRecord]) -> Result<(), Failure> {
        let hash = self.share_spec(&submission.spec)?;
        self.reserve([Table::Tasks, Table::Outcomes], submission.tasks.len());
        let tasks = submission.tasks.chunks(CHUNK_TASKS);
        for (tasks, outcomes) in tasks.zip(outcomes.chunks(CHUNK_TASKS)) {
            let chunk = self.add_chunk(submission, hash, tasks);
            let ended = (0..).zip(outcomes).map(|(index, outcome)| (index, outcome.completed));
            self.runs.insert(chunk, ended.collect());
            // Nobody will run them, so nobody will ask for their arguments.
            for (index, ((task, _), outcome)) in (0..).zip(tasks.iter().zip(outcomes)) {
                let place = Place { chunk, index };
                let stored = StoredTask { place, queue: NO_QUEUE, sequence: 0 };
                self.put(Table::Tasks, &key::task(*task), stored.encode());
                self.put(Table::Outcomes, &key::place(place), record::encode_outcome(outcome));
            }
        }
        Ok(())
    }

    fn share_spec(&mut self, spec: &TaskSpec) -> Result<[u8; 32], Failure> {
        let (hash, encoded) = record::encode_spec(spec);
        self.share(&key::spec(hash), || encoded)?;
        self.share(&key::body(spec.function.hash()), || record::encode_body(spec.function.body()))?;
        Ok(hash)
    }

    /// Adds what some tasks of a submission have in common, and returns its number.
    fn add_chunk(&mut self, submission: &Submission, spec: [u8; 32], tasks: &[(TaskId, Bytes)]) -> u64 {
        let chunk = self.numbers.chunk;
        self.numbers.chunk += 1;
        self.put(Table::Chunks, &key::chunk(chunk), Chunk::encode(submission, spec, tasks));
        for list in [key::owner_list(submission.spec.owner), key::group_list(submission.group)] {
            self.put(Table::Lists, &key::listed(list, submission.accepted, chunk), Bytes::new());
        }
        chunk
    }

    /// A task that has been forgotten meanwhile leaves no trace.
    fn remember(&mut self, memo: MemoKey, task: TaskId) -> Result<(), Failure> {
        let Some(stored) = self.find(Table::Tasks, &key::task(task))? else { return Ok(()) };
        let place = StoredTask::decode(stored)?.place;
        self.put(Table::Memo, &key::memo(memo), record::encode_memo(task, place));
        self.put(Table::Memo, &key::remembered(task), memo.0.to_vec().into());
        Ok(())
    }

    /// The value of a task answers no more calls, if it did.
    fn unremember(&mut self, task: TaskId) -> Result<(), Failure> {
        let Some(memo) = self.find(Table::Memo, &key::remembered(task))? else { return Ok(()) };
        self.remove(Table::Memo, &key::remembered(task));
        let memo = memo[..].try_into().map_err(|_| record::damaged("remembered value"))?;
        let memo = key::memo(MemoKey(memo));
        // A later task may have taken its place.
        let kept = self.find(Table::Memo, &memo)?.map(record::decode_memo).transpose()?;
        if kept.is_some_and(|(other, _)| other == task) {
            self.remove(Table::Memo, &memo);
        }
        Ok(())
    }

    /// The number of the queue that these tasks are put into.
    fn fill(&mut self, endpoint: EndpointId, key: QueueKey, tasks: &[(TaskId, Bytes)]) -> u64 {
        let known = self.filled.get(&(endpoint, key)).copied().or_else(|| self.known.number(endpoint, key));
        // One that has run empty within this group may be used again.
        let number = known.unwrap_or_else(|| {
            self.numbers.queue += 1;
            self.numbers.queue
        });
        self.filled.insert((endpoint, key), number);
        let empty = || Queue { endpoint, key, backlog: Backlog::default() };
        let known = self.known;
        let queue = self.queues.entry(number).or_insert_with(|| known.find(number).unwrap_or_else(empty));
        queue.backlog.tasks += tasks.len() as u64;
        queue.backlog.bytes += tasks.iter().map(|(_, payload)| payload.len() as u64).sum::<u64>();
        number
    }

    fn finish(&mut self, outcomes: &[OutcomeRecord]) -> Result<(), Failure> {
        self.reserve([Table::Pending, Table::Outcomes], outcomes.len());
        let placed = self.placed.find(outcomes.iter().map(|record| record.outcome.task));
        outcomes.iter().zip(placed).try_for_each(|(record, placed)| self.finish_one(record, placed))
    }

    fn finish_one(&mut self, record: &OutcomeRecord, placed: Option<Placed>) -> Result<(), Failure> {
        let task = record.outcome.task;
        let Some((stored, waiting)) = self.to_end(task, placed)? else { return Ok(()) };
        let StoredTask { queue, sequence, place } = stored;
        self.remove(Table::Pending, &key::pending(queue, sequence));
        for at in waiting.times.into_iter().flatten() {
            self.remove(Table::Times, &key::due(at, task));
        }
        self.put(Table::Outcomes, &key::place(place), record::encode_outcome(record));
        let known = self.known;
        if let Some(queue) = match self.queues.entry(queue) {
            Entry::Occupied(changed) => Some(changed.into_mut()),
            Entry::Vacant(unchanged) => known.find(queue).map(|queue| unchanged.insert(queue)),
        } {
            queue.backlog.tasks = queue.backlog.tasks.saturating_sub(1);
            queue.backlog.bytes = queue.backlog.bytes.saturating_sub(waiting.bytes.into());
        }
        self.ended.push(task);
        self.runs.entry(place.chunk).or_default().push((place.index, record.completed));
        Ok(())
    }

    /// Some of the tasks of a chunk have ended.
    fn shrink(&mut self, chunk: u64, tasks: u32, last: Timestamp) -> Result<(), Failure> {
        let counted = key::left(chunk);
        // One task is not counted.
        if let Some(left) = self.find(Table::Times, &counted)? {
            let left = record::decode_left(&left)?.saturating_sub(tasks);
            if left > 0 {
                self.put(Table::Times, &counted, record::encode_left(left));
                return Ok(());
            }
            self.remove(Table::Times, &counted);
        }
        self.put(Table::Times, &key::ended(last, chunk), Bytes::new());
        Ok(())
    }

    /// Where a task waits and what of it has to go when it ends; nothing if it has an outcome.
    fn to_end(&self, task: TaskId, placed: Option<Placed>) -> Result<Option<(StoredTask, ToEnd)>, Failure> {
        // A task waits until it has an outcome. What waits is few and lies close together, so asking that is quicker
        // than looking for the outcome among all there ever were.
        let waiting = match placed {
            Some(Placed { stored, bytes: Some(bytes) }) if !self.is_changed(stored) => {
                return Ok(Some((stored, ToEnd { bytes, times: [None; 2] })));
            }
            Some(Placed { stored, .. }) => self.waiting_at(task, stored)?,
            None => self.waiting(task)?,
        };
        let to_end = |(stored, waiting): (_, StoredPending)| {
            (stored, ToEnd { bytes: waiting.bytes, times: [waiting.ttl, waiting.deadline] })
        };
        Ok(waiting.map(to_end))
    }

    /// Whether a task that waited has been touched by these changes.
    fn is_changed(&self, StoredTask { queue, sequence, .. }: StoredTask) -> bool {
        self.changed[Table::Pending as usize].contains_key(&key::pending(queue, sequence)[..])
    }

    /// A task that has no outcome.
    fn waiting(&self, task: TaskId) -> Result<Option<(StoredTask, StoredPending)>, Failure> {
        let Some(stored) = self.find(Table::Tasks, &key::task(task))? else { return Ok(None) };
        self.waiting_at(task, StoredTask::decode(stored)?)
    }

    /// The same for a task whose place is known.
    fn waiting_at(
        &self,
        task: TaskId,
        stored: StoredTask,
    ) -> Result<Option<(StoredTask, StoredPending)>, Failure> {
        let waiting = self.find(Table::Pending, &key::pending(stored.queue, stored.sequence))?;
        let Some(waiting) = waiting else { return Ok(None) };
        let waiting = StoredPending::decode(waiting)?;
        // A number can stand for another queue than when the task ended.
        Ok((waiting.task == task).then_some((stored, waiting)))
    }

    fn record(&mut self, event: &TaskEvent) -> Result<(), Failure> {
        let task = event.attempt.task;
        if !self.contains(Table::Tasks, &key::task(task))? {
            return Ok(());
        }
        let stored = self.find(Table::Events, &key::task(task))?;
        let mut events = stored.map_or(Ok(Vec::new()), |stored| record::decode_events(task, stored))?;
        record::push_event(&mut events, event);
        self.put(Table::Events, &key::task(task), record::encode_events(&events));

        let Some((stored, before)) = self.waiting(task)? else { return Ok(()) };
        let mut waiting = before;
        match event.kind {
            TaskEventKind::Lost | TaskEventKind::LeaseLost if event.attempt.number >= waiting.attempt => {
                waiting.attempt = event.attempt.number.saturating_add(1);
                waiting.granted += u32::from(event.kind == TaskEventKind::LeaseLost);
            }
            TaskEventKind::Started => {
                waiting.begun = true;
                if let Some(at) = waiting.ttl.take() {
                    self.remove(Table::Times, &key::due(at, task));
                }
            }
            _ => {}
        }
        if waiting != before {
            self.put(Table::Pending, &key::pending(stored.queue, stored.sequence), waiting.encode());
        }
        Ok(())
    }

    fn forget(&mut self, tasks: impl IntoIterator<Item = TaskId>) -> Result<(), Failure> {
        let mut holes: HashMap<u64, Vec<u32>> = HashMap::new();
        for task in tasks {
            let Some(stored) = self.find(Table::Tasks, &key::task(task))? else { continue };
            if self.waiting(task)?.is_some() {
                continue;
            }
            let place = StoredTask::decode(stored)?.place;
            self.unremember(task)?;
            for table in [Table::Tasks, Table::Events] {
                self.remove(table, &key::task(task));
            }
            for table in [Table::Arguments, Table::Outcomes] {
                self.remove(table, &key::place(place));
            }
            holes.entry(place.chunk).or_default().push(place.index);
        }
        for (number, places) in holes {
            let stored = self.find(Table::Chunks, &key::chunk(number))?;
            let stored = stored.ok_or_else(|| record::damaged("chunk of a submission"))?;
            let (rest, some) = Chunk::without(&stored, &places)?;
            if some {
                self.put(Table::Chunks, &key::chunk(number), rest);
                continue;
            }
            let Chunk { owner, group, accepted, .. } = Chunk::decode(stored)?;
            self.remove(Table::Chunks, &key::chunk(number));
            for list in [key::owner_list(owner), key::group_list(group)] {
                self.remove(Table::Lists, &key::listed(list, accepted, number));
            }
            for run in self.tables.keyspace(Table::Lists).prefix(key::chunk_runs(group, number)) {
                let run = run.key().map_err(|error| Failure::read(&error))?;
                self.remove(Table::Lists, &run);
            }
        }
        Ok(())
    }

    fn expire(&mut self, before: Timestamp) -> Result<(), Failure> {
        let range = key::ended(Timestamp::UNSET, 0)..key::ended(before, 0);
        let mut tasks = 0;
        for entry in self.tables.keyspace(Table::Times).range(range).take(MAX_PAGE_TASKS) {
            let name = entry.key().map_err(|error| Failure::read(&error))?;
            self.remove(Table::Times, &name);
            let number = *name.last_chunk().ok_or_else(|| record::damaged("end of a chunk"))?;
            // Its tasks may have been forgotten before.
            let Some(chunk) = self.find(Table::Chunks, &key::chunk(u64::from_be_bytes(number)))? else {
                continue;
            };
            let ids: Vec<TaskId> = Chunk::decode(chunk)?.ids().flatten().collect();
            tasks += ids.len();
            self.forget(ids)?;
            if tasks >= MAX_PAGE_TASKS {
                break;
            }
        }
        Ok(())
    }

    /// Puts a value that is named by its hash, unless it is there.
    fn share(&mut self, key: &[u8], value: impl FnOnce() -> Bytes) -> Result<(), Failure> {
        if !self.contains(Table::Shared, key)? {
            self.put(Table::Shared, key, value());
        }
        Ok(())
    }

    /// Makes room for so many more changes of each of these tables.
    fn reserve(&mut self, tables: impl IntoIterator<Item = Table>, changes: usize) {
        tables.into_iter().for_each(|table| self.changed[table as usize].reserve(changes));
    }

    fn put(&mut self, table: Table, key: &[u8], value: Bytes) {
        self.bytes += key.len() + value.len();
        self.changed[table as usize].insert(Bytes::copy_from_slice(key), Some(value));
    }

    fn remove(&mut self, table: Table, key: &[u8]) {
        self.bytes += key.len();
        self.changed[table as usize].insert(Bytes::copy_from_slice(key), None);
    }

    fn find(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, Failure> {
        match self.changed[table as usize].get(key) {
            Some(changed) => Ok(changed.clone()),
            None => match self.tables.keyspace(table).get(key) {
                Ok(value) => Ok(value.map(Bytes::from)),
                Err(error) => Err(Failure::read(&error)),
            },
        }
    }

    fn contains(&self, table: Table, key: &[u8]) -> Result<bool, Failure> {
        match self.changed[table as usize].get(key) {
            Some(changed) => Ok(changed.is_some()),
            None => self.tables.keyspace(table).contains_key(key).map_err(|error| Failure::read(&error)),
        }
    }
}
