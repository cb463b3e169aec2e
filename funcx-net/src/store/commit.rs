//! The thread that commits for everybody.
//!
//! A sync takes as long for a thousand tasks as for one. So callers only queue their writes; one thread takes all
//! that wait, makes one batch of them, syncs once, and answers everybody. While it syncs, the next group gathers.

use std::{collections::VecDeque, future::Future, sync::Arc, thread};

use funcx_core::contract::Write;
use funcx_core::model::{EndpointId, Error, ErrorKind, IdMap, Result};
use futures::channel::oneshot;
use parking_lot::{Condvar, Mutex};

use super::change::Changes;
use super::failure::Failure;
use super::record;
use super::table::{Table, Tables, key};

const OPERATION: &str = "commit to the store";
/// Bytes that may wait to be committed; a caller beyond that is told to come back.
const MAX_WAITING_BYTES: usize = 256 << 20;
/// Commits that may wait.
const MAX_WAITING_COMMITS: usize = 16_384;
/// A group ends with the commit that passes this size, so that the first of it does not wait long for the last.
const MAX_GROUP_BYTES: usize = 8 << 20;
/// Largest commit. Far above what one HTTP request or one frame can bring.
const MAX_COMMIT_BYTES: usize = 1 << 30;
/// What a task or an outcome takes beside its payload.
const RECORD_BYTES: usize = 128;

/// Number of tasks without an outcome of each endpoint, as of the last commit.
#[derive(Debug)]
pub(super) struct Counts(Mutex<IdMap<EndpointId, u64>>);

impl Counts {
    pub(super) fn load(tables: &Tables) -> Result<Self> {
        let failed = |error| Failure::read(&error).into_error("open store");
        let mut counts = IdMap::default();
        for entry in tables.keyspace(Table::Registered).prefix([key::COUNT]) {
            let (id, count) = entry.into_inner().map_err(failed)?;
            let (Some(id), Some(count)) = (id.get(1..).and_then(<[u8]>::first_chunk), count.first_chunk())
            else {
                return Err(record::damaged("count"));
            };
            counts.insert(EndpointId::from_u128(u128::from_be_bytes(*id)), u64::from_be_bytes(*count));
        }
        Ok(Self(Mutex::new(counts)))
    }

    pub(super) fn of(&self, endpoint: EndpointId) -> u64 {
        self.0.lock().get(&endpoint).copied().unwrap_or(0)
    }

    /// Replaces the counts of these endpoints.
    pub(super) fn replace(&self, counts: IdMap<EndpointId, u64>) {
        self.0.lock().extend(counts);
    }
}

/// Handle of the thread. Dropping it waits for the commits that have been called.
pub(super) struct Committer {
    queue: Arc<Queue>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Committer {
    pub(super) fn start(tables: Arc<Tables>, counts: Arc<Counts>, reserve_bytes: u64) -> Result<Self> {
        let next_chunk = first_free_chunk(&tables)?;
        let queue = Arc::new(Queue::default());
        let group = Group { tables, counts, reserve_bytes, next_chunk };
        let thread = thread::Builder::new()
            .name("funcx-store".into())
            .spawn({
                let queue = Closing(Arc::clone(&queue));
                move || group.run(&queue.0)
            })
            .map_err(|error| Failure::io(&error).into_error("open store"))?;
        Ok(Self { queue, thread: Some(thread) })
    }

    /// Queues the writes before it returns; what it returns waits until they are durable.
    pub(super) fn commit(&self, writes: Vec<Write>) -> impl Future<Output = Result<()>> + Send + 'static {
        let (done, answer) = oneshot::channel();
        let bytes = writes.iter().map(write_bytes).sum();
        let queued = self.queue.push(Commit { writes, bytes, done });
        async move {
            queued?;
            match answer.await {
                Ok(answer) => answer.map_err(|failure| failure.into_error(OPERATION)),
                Err(oneshot::Canceled) => Err(closed()),
            }
        }
    }
}

impl Drop for Committer {
    fn drop(&mut self) {
        self.queue.close();
        if let Some(thread) = self.thread.take() {
            // A panic in it has been reported by the panic hook, and to those who waited.
            let _ = thread.join();
        }
    }
}

/// Writes that one caller wants to be durable.
struct Commit {
    writes: Vec<Write>,
    bytes: usize,
    done: oneshot::Sender<Result<(), Failure>>,
}

#[derive(Default)]
struct Queue {
    waiting: Mutex<Waiting>,
    changed: Condvar,
}

#[derive(Default)]
struct Waiting {
    commits: VecDeque<Commit>,
    bytes: usize,
    closed: bool,
}

impl Queue {
    fn push(&self, commit: Commit) -> Result<()> {
        let refused = |kind, message| Err(Error::new(kind, OPERATION, message));
        if commit.bytes > MAX_COMMIT_BYTES {
            return refused(ErrorKind::LimitExceeded, "one commit may hold at most 1 GiB; split it");
        }
        let mut waiting = self.waiting.lock();
        if waiting.closed {
            return Err(closed());
        }
        // A large commit on its own is let in: it could never be otherwise.
        let room =
            waiting.bytes + commit.bytes <= MAX_WAITING_BYTES && waiting.commits.len() < MAX_WAITING_COMMITS;
        if !room && !waiting.commits.is_empty() {
            return refused(
                ErrorKind::Unavailable,
                "too many commits wait for the disk; try again in a moment",
            );
        }
        waiting.bytes += commit.bytes;
        waiting.commits.push_back(commit);
        drop(waiting);
        self.changed.notify_one();
        Ok(())
    }

    /// The commits of the next group in the order they were called; none once the queue is closed and empty.
    fn take(&self) -> Vec<Commit> {
        let mut waiting = self.waiting.lock();
        while waiting.commits.is_empty() && !waiting.closed {
            self.changed.wait(&mut waiting);
        }
        let mut group = Vec::new();
        let mut bytes = 0;
        while bytes < MAX_GROUP_BYTES
            && let Some(commit) = waiting.commits.pop_front()
        {
            bytes += commit.bytes;
            group.push(commit);
        }
        waiting.bytes -= bytes;
        group
    }

    fn close(&self) {
        self.waiting.lock().closed = true;
        self.changed.notify_all();
    }
}

/// Closes the queue when the thread ends, however it ends; those who still wait learn it at once.
struct Closing(Arc<Queue>);

impl Drop for Closing {
    fn drop(&mut self) {
        self.0.close();
        self.0.waiting.lock().commits.clear();
    }
}

/// What the thread works on.
struct Group {
    tables: Arc<Tables>,
    counts: Arc<Counts>,
    reserve_bytes: u64,
    next_chunk: u64,
}

impl Group {
    fn run(mut self, queue: &Queue) {
        loop {
            let group = queue.take();
            if group.is_empty() {
                return;
            }
            let result = self.commit(&group);
            for commit in group {
                // Nobody may be waiting any more; the writes count all the same.
                let _ = commit.done.send(result.clone());
            }
        }
    }

    fn commit(&mut self, group: &[Commit]) -> Result<(), Failure> {
        let mut changes = Changes::new(&self.tables, &self.counts, self.next_chunk);
        group.iter().flat_map(|commit| &commit.writes).try_for_each(|write| changes.apply(write))?;
        self.require_space(changes.bytes() as u64)?;
        self.next_chunk = changes.commit()?;
        Ok(())
    }

    /// Refuses before anything is written what would not leave enough space.
    ///
    /// The database could find out by itself, but then it takes no more writes until it is opened again.
    fn require_space(&self, bytes: u64) -> Result<(), Failure> {
        let path = self.tables.directory.path();
        let disk = nix::sys::statvfs::statvfs(path).map_err(|error| Failure::io(&error.into()))?;
        #[expect(clippy::useless_conversion, reason = "these numbers are 64 bits wide on some systems only")]
        let free = u64::from(disk.blocks_available()).saturating_mul(u64::from(disk.fragment_size()));
        // Once in the journal and once in a table.
        let wanted = self.reserve_bytes.saturating_add(bytes.saturating_mul(2));
        if free < wanted {
            let detail = format!("{free} bytes are free at {}, {wanted} are wanted", path.display());
            return Err(Failure::new(ErrorKind::Unavailable, "the disk is full; free some space", detail));
        }
        Ok(())
    }
}

fn first_free_chunk(tables: &Tables) -> Result<u64> {
    let Some(last) = tables.keyspace(Table::Chunks).last_key_value() else { return Ok(0) };
    let key = last.key().map_err(|error| Failure::read(&error).into_error("open store"))?;
    let last = key.first_chunk().ok_or_else(|| record::damaged("chunk of a submission"))?;
    Ok(u64::from_be_bytes(*last) + 1)
}

fn closed() -> Error {
    Error::new(ErrorKind::Unavailable, OPERATION, "the store is closed")
}

fn write_bytes(write: &Write) -> usize {
    RECORD_BYTES
        + match write {
            Write::PutFunction(function) => function.function.size_bytes() + function.metadata.len(),
            Write::PutEndpoint(endpoint) => endpoint.metadata.len(),
            Write::DeleteFunction(_) | Write::DeleteEndpoint(_) => 0,
            Write::Submit(submission) => {
                submission.tasks.iter().map(|(_, payload)| RECORD_BYTES + payload.len()).sum()
            }
            Write::Finish(outcomes) => {
                outcomes.iter().map(|outcome| RECORD_BYTES + outcome.outcome.payload_bytes()).sum()
            }
        }
}
