//! The tables, and the keys in them.
//!
//! | Table | Key | Value |
//! | --- | --- | --- |
//! | `registered` | `f` function · `e` endpoint | its record (JSON) |
//! | | `F` owner, function | nothing: which functions somebody has |
//! | | `q` endpoint, owner, priority | number of the queue, how much waits in it; only while something does |
//! | | `n` | the numbers that are free next |
//! | `shared` | `b` hash | the code of a function |
//! | | `s` hash | what the tasks of a submission share |
//! | `chunks` | number | up to [`CHUNK_TASKS`] ids of a submission, in order, and what they have in common |
//! | `lists` | `o` owner or `g` group, time, chunk | nothing: whose chunks these are, oldest first |
//! | | `r` group, chunk, time, place | when some of its tasks ended, up to this time; the first of them has this place |
//! | `tasks` | task | its chunk and place in it, and where it is queued |
//! | `arguments` | chunk, place in it | what the task was called with |
//! | `pending` | queue, sequence number | the task; removed when it has an outcome |
//! | `outcomes` | chunk, place in it | how it ended |
//! | `events` | task | what happened to it before |
//! | `memo` | `k` memo key | the task whose value answers equal calls, and its place |
//! | | `t` task | the memo key under which that is kept |
//! | `times` | `d` time, task | where it is queued: it has to end by then |
//! | | `l` chunk | how many of its tasks have no outcome; not for chunks of one task |
//! | | `e` time, chunk | nothing: when the last of its tasks ended |
//!
//! Numbers in keys are big-endian, so that the order of keys is the order of numbers. What many records would
//! repeat lies in `shared` under its hash, once: a task costs three short writes, a submission a few more. Arguments and
//! outcomes lie in the order in which tasks were accepted, which is the order in which a queue is read, and about that in
//! which outcomes come and are asked for. Queues have numbers because
//! their names would be longer than all the rest of a queued task.

use fjall::{Database, Keyspace, KeyspaceCreateOptions, KvSeparationOptions};
use funcx_core::contract::QueueKey;
use funcx_core::memo::MemoKey;
use funcx_core::model::{
    EndpointId, FunctionHash, FunctionId, IdentityId, Result, TaskGroupId, TaskId, Timestamp,
};

use super::directory::Directory;
use super::failure::Failure;

/// Task ids in one record of `chunks`: a page of a listing reads one or two of them.
pub(super) const CHUNK_TASKS: usize = 1024;
/// Memory for blocks read from disk.
const CACHE_BYTES: u64 = 64 << 20;
/// Keys and values in memory before a table is written out, for tables whose keys only grow: their parts do not overlap, so
/// that many small ones cost nothing. (For the others four times as much is usual.) What is in memory takes about three
/// times this.
const ORDERED_MEMTABLE_BYTES: u64 = 16 << 20;
/// Journal after which tables are written out, and so a bound on what is read again after a crash.
const JOURNAL_BYTES: u64 = 256 << 20;

/// One of the tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub(super) enum Table {
    Registered,
    Shared,
    Chunks,
    Lists,
    Tasks,
    Arguments,
    Pending,
    Outcomes,
    Events,
    Times,
    Memo,
}

impl Table {
    pub(super) const ALL: [Self; 11] = [
        Self::Registered,
        Self::Shared,
        Self::Chunks,
        Self::Lists,
        Self::Tasks,
        Self::Arguments,
        Self::Pending,
        Self::Outcomes,
        Self::Events,
        Self::Times,
        Self::Memo,
    ];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Registered => "registered",
            Self::Shared => "shared",
            Self::Chunks => "chunks",
            Self::Lists => "lists",
            Self::Tasks => "tasks",
            Self::Arguments => "arguments",
            Self::Pending => "pending",
            Self::Outcomes => "outcomes",
            Self::Events => "events",
            Self::Times => "times",
            Self::Memo => "memo",
        }
    }

    fn options(self) -> KeyspaceCreateOptions {
        let mut options = KeyspaceCreateOptions::default();
        if matches!(
            self,
            Self::Chunks | Self::Lists | Self::Arguments | Self::Pending | Self::Outcomes | Self::Times
        ) {
            options = options.max_memtable_size(ORDERED_MEMTABLE_BYTES);
        }
        match self {
            // Long values are kept out of the tree, which would copy them each time it reorganises itself.
            Self::Shared | Self::Arguments | Self::Outcomes => {
                options.with_kv_separation(Some(KvSeparationOptions::default()))
            }
            _ => options,
        }
    }
}

/// Where among all accepted tasks one is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) chunk: u64,
    pub(super) index: u32,
}

/// An open database.
pub(super) struct Tables {
    pub(super) database: Database,
    keyspaces: Vec<Keyspace>,
}

impl Tables {
    pub(super) fn open(directory: &Directory) -> Result<Self> {
        let failed = |error| {
            Failure::read(&error)
                .into_error("open store")
                .with_context("directory", directory.path().display())
        };
        let database = Database::builder(directory.database())
            .cache_size(CACHE_BYTES)
            .max_journaling_size(JOURNAL_BYTES)
            // One does nothing but write tables out. While a single other one reorganises a table, the first would go round
            // and round with what else there is to reorganise; a second takes that up, and mostly finds nothing to do.
            .worker_threads(3)
            // The committer syncs each batch itself.
            .manual_journal_persist(true)
            .open()
            .map_err(failed)?;
        let keyspaces = Table::ALL
            .into_iter()
            .map(|table| database.keyspace(table.name(), || table.options()))
            .collect::<Result<_, _>>()
            .map_err(failed)?;
        Ok(Self { database, keyspaces })
    }

    pub(super) fn keyspace(&self, table: Table) -> &Keyspace {
        &self.keyspaces[table as usize]
    }
}

/// Keys.
pub(super) mod key {
    use super::*;

    pub(in super::super) const FUNCTION: u8 = b'f';
    pub(in super::super) const ENDPOINT: u8 = b'e';
    pub(in super::super) const QUEUE: u8 = b'q';
    pub(in super::super) const NUMBERS: [u8; 1] = *b"n";
    pub(in super::super) const DUE: u8 = b'd';
    pub(in super::super) const ENDED: u8 = b'e';

    pub(in super::super) fn function(id: FunctionId) -> [u8; 17] {
        join([&[FUNCTION], id.uuid().as_bytes()])
    }

    pub(in super::super) fn endpoint(id: EndpointId) -> [u8; 17] {
        join([&[ENDPOINT], id.uuid().as_bytes()])
    }

    pub(in super::super) fn owned_functions(owner: IdentityId) -> [u8; 17] {
        join([b"F", owner.uuid().as_bytes()])
    }

    pub(in super::super) fn owned_function(owner: IdentityId, id: FunctionId) -> [u8; 33] {
        join([&owned_functions(owner), id.uuid().as_bytes()])
    }

    pub(in super::super) fn queue(endpoint: EndpointId, queue: QueueKey) -> [u8; 34] {
        let priority = queue.priority.to_be_bytes();
        join([&[QUEUE], endpoint.uuid().as_bytes(), queue.owner.uuid().as_bytes(), &priority])
    }

    pub(in super::super) fn body(hash: FunctionHash) -> [u8; 33] {
        join([b"b", &hash.0])
    }

    pub(in super::super) fn spec(hash: [u8; 32]) -> [u8; 33] {
        join([b"s", &hash])
    }

    pub(in super::super) fn chunk(number: u64) -> [u8; 8] {
        number.to_be_bytes()
    }

    /// Of the arguments and the outcome of a task.
    pub(in super::super) fn place(place: Place) -> [u8; 12] {
        join([&place.chunk.to_be_bytes(), &place.index.to_be_bytes()])
    }

    pub(in super::super) fn owner_list(owner: IdentityId) -> [u8; 17] {
        join([b"o", owner.uuid().as_bytes()])
    }

    pub(in super::super) fn group_list(group: TaskGroupId) -> [u8; 17] {
        join([b"g", group.uuid().as_bytes()])
    }

    /// An entry of the list that starts with `list`.
    pub(in super::super) fn listed(list: [u8; 17], accepted: Timestamp, chunk: u64) -> [u8; 33] {
        join([&list, &accepted.as_nanos().to_be_bytes(), &chunk.to_be_bytes()])
    }

    pub(in super::super) fn group_runs(group: TaskGroupId) -> [u8; 17] {
        join([b"r", group.uuid().as_bytes()])
    }

    pub(in super::super) fn chunk_runs(group: TaskGroupId, chunk: u64) -> [u8; 25] {
        join([&group_runs(group), &chunk.to_be_bytes()])
    }

    pub(in super::super) fn run(group: TaskGroupId, chunk: u64, last: Timestamp, index: u32) -> [u8; 37] {
        join([&chunk_runs(group, chunk), &last.as_nanos().to_be_bytes(), &index.to_be_bytes()])
    }

    pub(in super::super) fn task(id: TaskId) -> [u8; 16] {
        id.as_u128().to_be_bytes()
    }

    pub(in super::super) fn memo(memo: MemoKey) -> [u8; 33] {
        join([b"k", &memo.0])
    }

    pub(in super::super) fn remembered(task: TaskId) -> [u8; 17] {
        join([b"t", task.uuid().as_bytes()])
    }

    pub(in super::super) fn pending(queue: u64, sequence: u64) -> [u8; 16] {
        join([&queue.to_be_bytes(), &sequence.to_be_bytes()])
    }

    pub(in super::super) fn due(at: Timestamp, task: TaskId) -> [u8; 25] {
        join([&[DUE], &at.as_nanos().to_be_bytes(), task.uuid().as_bytes()])
    }

    pub(in super::super) fn left(chunk: u64) -> [u8; 9] {
        join([b"l", &chunk.to_be_bytes()])
    }

    pub(in super::super) fn ended(at: Timestamp, chunk: u64) -> [u8; 17] {
        join([&[ENDED], &at.as_nanos().to_be_bytes(), &chunk.to_be_bytes()])
    }

    /// The parts one after the other; their lengths add up to `N`.
    pub(in super::super) fn join<const N: usize, const P: usize>(parts: [&[u8]; P]) -> [u8; N] {
        let mut whole = [0; N];
        let mut at = 0;
        for part in parts {
            whole[at..at + part.len()].copy_from_slice(part);
            at += part.len();
        }
        debug_assert_eq!(at, N, "the parts fill the key");
        whole
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_later_and_higher_things_are_greater() {
        assert!(key::pending(7, 255) < key::pending(7, 256));
        assert!(key::pending(7, u64::MAX) < key::pending(8, 0));
        let due = |nanos, task| key::due(Timestamp::from_nanos(nanos), TaskId::from_u128(task));
        assert!(due(255, 9) < due(256, 1) && due(256, 1) < due(256, 2));
        let list = key::group_list(TaskGroupId::from_u128(1));
        let at = |nanos, chunk| key::listed(list, Timestamp::from_nanos(nanos), chunk);
        assert!(at(255, 9) < at(256, 1));
        assert!(at(256, 1) < at(256, 2));
    }

    #[test]
    fn each_table_stands_at_its_own_place() {
        for (place, table) in Table::ALL.into_iter().enumerate() {
            assert_eq!(table as usize, place);
        }
    }
}
