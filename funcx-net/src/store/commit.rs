//! The thread that commits for everybody.
//!
//! A sync takes as long for a thousand tasks as for one. So callers only queue their writes; one thread takes all
//! that wait, makes one batch of them, syncs once, and answers everybody. While it syncs, the next group gathers.

use std::{
    collections::VecDeque,
    future::Future,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use funcx_core::contract::{OutcomeRecord, Submission, Write};
use funcx_core::model::{Error, ErrorKind, Result};
use futures::channel::oneshot;
use parking_lot::{Condvar, Mutex};

use super::base::Base;
use super::change::Changes;
use super::failure::{FULL, Failure};
use super::record::Numbers;

const OPERATION: &str = "commit to the store";
/// Bytes that may wait to be committed; a caller beyond that is told to come back.
const MAX_WAITING_BYTES: usize = 256 << 20;
/// Commits that may wait.
const MAX_WAITING_COMMITS: usize = 16_384;
/// A group ends with the commit that passes this size, so that the first of it does not wait long for the last.
const MAX_GROUP_BYTES: usize = 8 << 20;
/// Largest commit. Far above what one HTTP request or one frame can bring.
const MAX_COMMIT_BYTES: usize = 1 << 30;
/// First pause before a broken database is opened again; doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// Longest pause between two tries.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// What a task or an outcome takes beside its payload.
const RECORD_BYTES: usize = 128;

/// Handle of the thread. Dropping it waits for the commits that have been called.
pub(super) struct Committer {
    queue: Arc<Queue>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Committer {
    pub(super) fn start(base: Arc<Base>, reserve_bytes: u64) -> Result<Self> {
        let numbers = base.current()?.numbers()?;
        let queue = Arc::new(Queue::default());
        let group = Group { base, reserve_bytes, numbers, broken: None };
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

    /// The commits of the next group in the order they were called, and whether there may be more of them. None come once
    /// the queue is closed and empty, and when `patience` is over.
    fn take(&self, patience: Option<Duration>) -> (Vec<Commit>, bool) {
        let mut waiting = self.waiting.lock();
        while waiting.commits.is_empty() && !waiting.closed {
            match patience {
                None => self.changed.wait(&mut waiting),
                Some(patience) => {
                    if self.changed.wait_for(&mut waiting, patience).timed_out() {
                        break;
                    }
                }
            }
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
        (group, !waiting.closed)
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
    base: Arc<Base>,
    reserve_bytes: u64,
    numbers: Numbers,
    broken: Option<Broken>,
}

/// The database takes no writes until it has been opened again.
struct Broken {
    failure: Failure,
    /// Commits of which only the disk knows whether they count, and the number of their group. They are answered when the
    /// database has been opened again: nobody is told of a failure whose writes are there afterwards.
    undecided: Option<(u64, Vec<Commit>)>,
    /// Whether it is opened again at once, to know what became of these commits: a full disk stands in the way of writes
    /// only.
    at_once: bool,
    pause: Duration,
    next_try: Instant,
}

/// How a group of commits went.
enum Committed {
    /// This is the answer.
    Known(Result<(), Failure>),
    /// The database broke while it wrote.
    Undecided(Failure),
}

impl Group {
    fn run(mut self, queue: &Queue) {
        loop {
            let patience = self.broken.as_ref().map(|broken| broken.pause);
            let (group, open) = queue.take(patience);
            self.mend(!open);
            if !group.is_empty() {
                self.handle(group);
            } else if !open {
                return;
            }
        }
    }

    fn handle(&mut self, group: Vec<Commit>) {
        let result = match &self.broken {
            Some(broken) => Committed::Known(Err(broken.failure.clone())),
            None => self.commit(&group),
        };
        match result {
            Committed::Known(result) => answer(group, &result),
            Committed::Undecided(failure) => {
                self.broke(failure, Some((self.numbers.group + 1, group)));
                self.mend(false);
            }
        }
    }

    fn commit(&mut self, group: &[Commit]) -> Committed {
        let opened = match self.base.current() {
            Ok(opened) => opened,
            Err(error) => return Committed::Known(Err(error.into())),
        };
        let mut changes = Changes::new(&opened, self.numbers);
        let ready = group
            .iter()
            .flat_map(|commit| &commit.writes)
            .try_for_each(|write| changes.apply(write))
            .and_then(|()| changes.conclude())
            .and_then(|()| self.require_space(changes.bytes() as u64));
        if let Err(failure) = ready {
            return Committed::Known(Err(failure));
        }
        let numbers = changes.numbers();
        match changes.commit() {
            Ok(()) => {
                self.numbers = numbers;
                Committed::Known(Ok(()))
            }
            // It had broken before, while it reorganised itself, and has written nothing.
            Err(fjall::Error::Poisoned) => {
                let failure = Failure::write(&fjall::Error::Poisoned);
                self.broke(failure.clone(), None);
                Committed::Known(Err(failure))
            }
            Err(error) => Committed::Undecided(Failure::write(&error)),
        }
    }

    fn broke(&mut self, failure: Failure, undecided: Option<(u64, Vec<Commit>)>) {
        tracing::error!(?failure, "the store takes no writes until it has been opened again");
        let at_once = undecided.is_some() && failure.is_full();
        let next_try = Instant::now();
        self.broken = Some(Broken { failure, undecided, at_once, pause: FIRST_PAUSE, next_try });
    }

    /// Opens the database again if it is broken and the disk takes writes; not too often, unless it is the last time.
    fn mend(&mut self, last: bool) {
        let Some(mut broken) = self.broken.take() else { return };
        if !last && Instant::now() < broken.next_try {
            self.broken = Some(broken);
            return;
        }
        // As long as nothing can be written, the broken database can be read at least.
        let ready = match std::mem::take(&mut broken.at_once) {
            true => Ok(()),
            false => self
                .require_space(0)
                .and_then(|()| self.base.directory.probe().map_err(|error| Failure::io(&error))),
        };
        let mended = ready.and_then(|()| {
            let opened = self.base.reopen().and_then(|opened| opened.numbers());
            opened.map_err(|error| Failure::reopening(&error))
        });
        match mended {
            Ok(numbers) => {
                tracing::info!("the store has been opened again and takes writes");
                self.numbers = numbers;
                if let Some((group, commits)) = broken.undecided {
                    let counts = numbers.group >= group;
                    answer(commits, &if counts { Ok(()) } else { Err(broken.failure) });
                }
            }
            Err(failure) => {
                tracing::warn!(?failure, "the store cannot be opened again yet");
                broken.failure = failure;
                broken.pause = (broken.pause * 2).min(LONGEST_PAUSE);
                broken.next_try = Instant::now() + broken.pause;
                self.broken = Some(broken);
            }
        }
    }

    /// Refuses before anything is written what would not leave enough space.
    ///
    /// The database could find out by itself, but then it takes no more writes until it is opened again.
    fn require_space(&self, bytes: u64) -> Result<(), Failure> {
        let path = self.base.directory.path();
        let disk = nix::sys::statvfs::statvfs(path).map_err(|error| Failure::io(&error.into()))?;
        #[expect(clippy::useless_conversion, reason = "these numbers are 64 bits wide on some systems only")]
        let free = u64::from(disk.blocks_available()).saturating_mul(u64::from(disk.fragment_size()));
        // Once in the journal and once in a table.
        let wanted = self.reserve_bytes.saturating_add(bytes.saturating_mul(2));
        if free < wanted {
            let detail = format!("{free} bytes are free at {}, {wanted} are wanted", path.display());
            return Err(Failure::new(ErrorKind::Unavailable, FULL, detail));
        }
        Ok(())
    }
}

/// Tells everybody how it went. Nobody may be waiting any more; the writes count all the same.
fn answer(commits: Vec<Commit>, result: &Result<(), Failure>) {
    for commit in commits {
        let _ = commit.done.send(result.clone());
    }
}

fn closed() -> Error {
    Error::new(ErrorKind::Unavailable, OPERATION, "the store is closed")
}

fn write_bytes(write: &Write) -> usize {
    RECORD_BYTES
        + match write {
            Write::PutFunction(function) => function.function.size_bytes() + function.metadata.len(),
            Write::PutEndpoint(endpoint) => endpoint.metadata.len(),
            Write::DeleteFunction(_) | Write::DeleteEndpoint(_) | Write::Expire { .. } => 0,
            Write::Forget(tasks) => RECORD_BYTES * tasks.len(),
            Write::Record(events) => {
                events.iter().map(|event| RECORD_BYTES + event.actor.len() + event.detail.len()).sum()
            }
            Write::Submit(submission) => submission_bytes(submission),
            Write::Answer(submission, outcomes) => submission_bytes(submission) + outcome_bytes(outcomes),
            Write::Finish(outcomes) => outcome_bytes(outcomes),
            Write::Remember(tasks) => RECORD_BYTES * tasks.len(),
        }
}

fn submission_bytes(submission: &Submission) -> usize {
    submission.tasks.iter().map(|(_, payload)| RECORD_BYTES + payload.len()).sum()
}

fn outcome_bytes(outcomes: &[OutcomeRecord]) -> usize {
    outcomes.iter().map(|outcome| RECORD_BYTES + outcome.outcome.payload_bytes()).sum()
}
