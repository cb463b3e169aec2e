//! How writes become changes of tables.

use std::collections::HashMap;

use bytes::Bytes;
use fjall::PersistMode;
use funcx_core::contract::{FunctionRecord, OutcomeRecord, Submission, Write};
use funcx_core::model::{EndpointId, FunctionId, IdMap, TaskId};

use super::commit::Counts;
use super::failure::Failure;
use super::record::{self, Chunk, StoredFunction, StoredPending, StoredTask};
use super::table::{CHUNK_TASKS, Place, Table, Tables, key};

/// The changes of a group of commits, on top of what the tables hold.
///
/// Each key is changed once: a later write sees the earlier ones of its group, and the last one counts.
pub(super) struct Changes<'a> {
    tables: &'a Tables,
    counts: &'a Counts,
    changed: [HashMap<Bytes, Option<Bytes>>; Table::ALL.len()],
    recounted: IdMap<EndpointId, u64>,
    next_chunk: u64,
    bytes: usize,
}

impl<'a> Changes<'a> {
    /// No changes yet. `next_chunk` is the first chunk number that is free.
    pub(super) fn new(tables: &'a Tables, counts: &'a Counts, next_chunk: u64) -> Self {
        Self {
            tables,
            counts,
            changed: Default::default(),
            recounted: IdMap::default(),
            next_chunk,
            bytes: 0,
        }
    }

    /// Bytes of the keys and values that have changed.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
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
            Write::Finish(outcomes) => outcomes.iter().try_for_each(|outcome| self.finish(outcome)),
        }
    }

    /// Makes all changes durable at once, and gives the first chunk number that is free then.
    pub(super) fn commit(mut self) -> Result<u64, Failure> {
        for (endpoint, count) in self.recounted.clone() {
            self.put(Table::Registered, &key::count(endpoint), Bytes::copy_from_slice(&count.to_be_bytes()));
        }
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
        batch.commit().map_err(|error| Failure::write(&error))?;
        self.counts.replace(self.recounted);
        Ok(self.next_chunk)
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
        let Submission { endpoint, group, spec, accepted, .. } = submission;
        let (hash, encoded) = record::encode_spec(spec);
        self.share(&key::spec(hash), || encoded)?;
        self.share(&key::body(spec.function.hash()), || record::encode_body(spec.function.body()))?;

        let mut sequence = submission.first_sequence;
        for tasks in submission.tasks.chunks(CHUNK_TASKS) {
            let chunk = self.next_chunk;
            self.next_chunk += 1;
            self.put(Table::Chunks, &key::chunk(chunk), Chunk::encode(submission, hash, tasks));
            for list in [key::owner_list(spec.owner), key::group_list(*group)] {
                self.put(Table::Lists, &key::listed(list, *accepted, chunk), Bytes::new());
            }
            for (index, (id, payload)) in (0..).zip(tasks) {
                self.add_task(
                    StoredTask { place: Place { chunk, index }, endpoint: *endpoint, sequence },
                    *id,
                    payload,
                );
                sequence += 1;
            }
        }
        *self.count(*endpoint) += submission.tasks.len() as u64;
        Ok(())
    }

    fn add_task(&mut self, stored: StoredTask, task: TaskId, payload: &Bytes) {
        let StoredTask { place, endpoint, sequence } = stored;
        self.put(Table::Tasks, &key::task(task), stored.encode());
        self.put(Table::Arguments, &key::arguments(place), payload.clone());
        self.put(Table::Pending, &key::pending(endpoint, sequence), StoredPending { task, place }.encode());
    }

    fn finish(&mut self, record: &OutcomeRecord) -> Result<(), Failure> {
        let task = record.outcome.task;
        let Some(stored) = self.find(Table::Tasks, &key::task(task))? else { return Ok(()) };
        let StoredTask { endpoint, sequence, .. } = StoredTask::decode(stored)?;
        // A task waits until it has an outcome. What waits is few and lies close together, so asking that is quicker
        // than looking for the outcome among all there ever were.
        let queued = key::pending(endpoint, sequence);
        let Some(waiting) = self.find(Table::Pending, &queued)? else { return Ok(()) };
        if StoredPending::decode(waiting)?.task != task {
            return Ok(());
        }
        self.remove(Table::Pending, &queued);
        self.put(Table::Outcomes, &key::task(task), record::encode_outcome(record));
        let count = self.count(endpoint);
        *count = count.saturating_sub(1);
        Ok(())
    }

    fn count(&mut self, endpoint: EndpointId) -> &mut u64 {
        self.recounted.entry(endpoint).or_insert_with(|| self.counts.of(endpoint))
    }

    /// Puts a value that is named by its hash, unless it is there.
    fn share(&mut self, key: &[u8], value: impl FnOnce() -> Bytes) -> Result<(), Failure> {
        if !self.contains(Table::Shared, key)? {
            self.put(Table::Shared, key, value());
        }
        Ok(())
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
