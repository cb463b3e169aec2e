//! Writes what is recorded, and the thread that does what cannot be done at once.
//!
//! While nothing waits, records are written where they are recorded: that takes microseconds, and a hand-over to a
//! thread takes longer. The thread syncs for everybody, retries what failed, and compacts.

use std::{
    fs::File,
    io::{self, BufReader, IoSlice, Read, Seek, SeekFrom, Write},
    sync::Arc,
    time::Instant,
};

use bytes::Bytes;
use funcx_core::model::{AttemptId, Error};
use futures::channel::oneshot;
use parking_lot::{Condvar, Mutex, MutexGuard};
use tokio::sync::watch;

use super::directory::{Directory, failed};
use super::format::Header;
use super::queue::{Counts, Record, State, Step, compact_at};
use super::replay::{Replayed, Tail, replay_from};

/// Records up to this size are written at once; the copy of a larger one would hold up the caller. Batches are cut so
/// that only single large payloads are longer.
const AT_ONCE_BYTES: usize = 8 << 20;
/// A compaction ends with what was recorded meanwhile, which is copied while nobody records. Before that, it is copied
/// this many times while others record, so that the rest is short.
const CATCH_UPS: usize = 3;

/// What the callers and the thread share.
pub(super) struct Writer {
    state: Mutex<State>,
    changed: Condvar,
    problem: watch::Sender<Option<String>>,
    directory: Directory,
    header: Header,
    compact_above_bytes: u64,
    /// `File::sync_data`, unless a test wants to see it fail.
    sync: fn(&File) -> io::Result<()>,
}

impl Writer {
    pub(super) fn new(
        directory: Directory,
        header: Header,
        file: File,
        bytes: u64,
        compact_above_bytes: u64,
    ) -> Self {
        let state = State::new(file, bytes, compact_above_bytes);
        Self {
            state: Mutex::new(state),
            changed: Condvar::new(),
            problem: watch::Sender::new(None),
            directory,
            header,
            compact_above_bytes,
            sync: File::sync_data,
        }
    }

    pub(super) const fn epoch(&self) -> u64 {
        self.header.epoch
    }

    pub(super) fn problem(&self) -> watch::Receiver<Option<String>> {
        self.problem.subscribe()
    }

    /// About the bytes of memory that are taken by records because they are not on the disk yet.
    pub(super) fn backlog_bytes(&self) -> usize {
        let state = self.state.lock();
        state.held_bytes + state.waiting_bytes + state.unsynced_bytes
    }

    /// Queues a record of outcomes of these attempts. A long one is not written if the node above has them soon.
    pub(super) fn record_outcomes(
        &self,
        mut record: Record,
        attempts: Vec<AttemptId>,
    ) -> Option<oneshot::Receiver<()>> {
        let mut state = self.state.lock();
        if !state.may_hold(&record) {
            drop(state);
            return self.record(record);
        }
        let (done, counts) = oneshot::channel();
        record.done = Some(done);
        state.hold(record, attempts, Instant::now());
        self.changed.notify_one();
        Some(counts)
    }

    /// The node above has the outcomes through this number on its disk. Returns the attempts of those that are not written
    /// for that.
    pub(super) fn acknowledged(&self, through: u64) -> Vec<AttemptId> {
        self.state.lock().acknowledged(through)
    }

    /// Queues a record, and writes it at once if that is quick. Returns what resolves when it counts, unless it does
    /// already.
    pub(super) fn record(&self, mut record: Record) -> Option<oneshot::Receiver<()>> {
        let mut state = self.state.lock();
        let mut written = None;
        if state.waiting.is_empty() && record.bytes <= AT_ONCE_BYTES {
            match write(&state.file, &record.pieces) {
                Ok(()) if record.counts == Counts::Written => {
                    state.written(record, Instant::now());
                    if state.has_work() {
                        self.changed.notify_one();
                    }
                    return None;
                }
                result => written = Some(result),
            }
        }
        let (done, counts) = oneshot::channel();
        record.done = Some(done);
        match written {
            Some(Ok(())) => {
                let before = state.sync_at;
                state.written(record, Instant::now());
                if state.sync_at == before && !state.has_work() {
                    // The thread wakes up for it anyway.
                    return Some(counts);
                }
            }
            Some(Err(error)) => {
                state.torn = true;
                state.wait(record);
                self.failed(&mut state, failed("write the journal", error));
            }
            None => state.wait(record),
        }
        self.changed.notify_one();
        Some(counts)
    }

    /// Removes the file of a closed journal, for good once this returns.
    pub(super) fn remove(&self) -> io::Result<()> {
        // A compaction that is under way must not put another one in its place.
        let _state = self.state.lock();
        std::fs::remove_file(self.directory.journal())?;
        self.directory.sync()
    }

    /// Tells the thread to finish what it can and end.
    pub(super) fn close(&self) {
        self.state.lock().closed = true;
        self.changed.notify_one();
    }

    /// The thread.
    pub(super) fn run(&self) {
        loop {
            let (step, file) = self.next_step();
            let result = match step {
                Step::Write { records, cut } => self.write(&file, records, cut),
                Step::Sync { records, end, renamed } => self.sync(&file, records, end, renamed),
                Step::Compact => {
                    self.compact();
                    Ok(())
                }
                Step::Stop => return,
            };
            if let Err(error) = result {
                let mut state = self.state.lock();
                self.failed(&mut state, error);
                if state.closed {
                    let records = state.waiting.len() + state.unsynced.len();
                    tracing::error!(records, "the journal is closed although not everything is on the disk");
                    return;
                }
            }
        }
    }

    fn next_step(&self) -> (Step, Arc<File>) {
        let mut state = self.state.lock();
        loop {
            let now = Instant::now();
            state.let_go(now);
            if let Some(step) = state.step(now) {
                return (step, Arc::clone(&state.file));
            }
            match state.wakes_at(now) {
                Some(at) => drop(self.changed.wait_until(&mut state, at)),
                None => self.changed.wait(&mut state),
            }
        }
    }

    fn write(&self, file: &File, records: usize, cut: Option<u64>) -> Result<(), Error> {
        let pieces: Vec<Bytes> = {
            let state = self.state.lock();
            state.waiting.iter().take(records).flat_map(|record| record.pieces.iter().cloned()).collect()
        };
        // Nobody else writes while something waits.
        let result = cut.map_or(Ok(()), |end| file.set_len(end)).and_then(|()| write(file, &pieces));
        let mut state = self.state.lock();
        state.torn = result.is_err();
        result.map_err(|error| failed("write the journal", error))?;
        let now = Instant::now();
        for _ in 0..records {
            if let Some(record) = state.waiting.pop_front() {
                state.waiting_bytes -= record.memory();
                state.written(record, now);
            }
        }
        // What was written after a sync that failed counts when it is synced.
        if state.sync_at.is_none() {
            self.recovered(&mut state);
        }
        Ok(())
    }

    fn sync(&self, file: &File, records: usize, end: u64, renamed: bool) -> Result<(), Error> {
        let result = (self.sync)(file).and_then(|()| if renamed { self.directory.sync() } else { Ok(()) });
        let mut state = self.state.lock();
        match result {
            Ok(()) => {
                state.synced_end = end;
                state.renamed = false;
                state.synced(records);
                if state.waiting.is_empty() {
                    self.recovered(&mut state);
                }
                Ok(())
            }
            Err(error) => {
                state.write_again();
                Err(failed("sync the journal", error))
            }
        }
    }

    /// Replaces the file by one that holds only what still counts. What goes wrong here does no harm but to leave the
    /// file as long as it is.
    fn compact(&self) {
        let result = self.try_compact();
        let mut state = self.state.lock();
        match result {
            Ok(live) => {
                state.compact_at = compact_at(self.compact_above_bytes, live);
                tracing::debug!(live, bytes = state.end, "compacted the journal");
            }
            Err(error) => {
                state.compact_at = state.end.saturating_add(self.compact_above_bytes);
                self.directory.discard_draft();
                let error = failed("compact the journal", error);
                tracing::warn!(%error, bytes = state.end, "the journal stays as long as it is for now");
            }
        }
    }

    /// Returns the bytes that counted when it began.
    fn try_compact(&self) -> io::Result<u64> {
        let mut copied = self.state.lock().end;
        let mut old = File::open(self.directory.journal())?;
        let mut source = BufReader::with_capacity(1 << 20, &old).take(copied);
        let Replayed::Read { header, ledger, end, tail: Tail::Whole } = replay_from(&mut source)? else {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "what was written cannot be read"));
        };
        if header != self.header || end != copied {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "somebody else changed the journal"));
        }
        let (new, live) = self.directory.draft(header, &ledger, Some((&mut old, end)))?;
        let mut bytes = live;
        for _ in 0..CATCH_UPS {
            let end = self.state.lock().end;
            bytes += copy(&mut old, copied, end, &new)?;
            copied = end;
        }
        // All that was on the disk before is on it again, since only this thread syncs.
        new.sync_all()?;
        let synced = bytes;
        let mut state = self.state.lock();
        if state.closed {
            // Its file may be gone already.
            self.directory.discard_draft();
            return Ok(live);
        }
        bytes += copy(&mut old, copied, state.end, &new)?;
        self.directory.adopt_draft()?;
        state.end = bytes;
        state.synced_end = synced;
        state.file = Arc::new(new);
        state.renamed = true;
        Ok(live)
    }

    fn failed(&self, state: &mut MutexGuard<'_, State>, error: Error) {
        if self.problem.borrow().is_none() {
            tracing::error!(%error, "the journal waits for the disk; nothing is lost as long as this process runs");
        }
        self.problem.send_replace(Some(error.to_string()));
        state.rest(Instant::now());
    }

    fn recovered(&self, state: &mut MutexGuard<'_, State>) {
        if state.rested() {
            self.problem.send_replace(None);
            tracing::info!("the journal is written again");
        }
    }
}

/// Appends all of the pieces.
fn write(mut file: &File, pieces: &[Bytes]) -> io::Result<()> {
    let mut slices: Vec<_> = pieces.iter().map(|piece| IoSlice::new(piece)).collect();
    let mut slices = &mut slices[..];
    while !slices.is_empty() {
        match file.write_vectored(slices) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => IoSlice::advance_slices(&mut slices, written),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Appends these bytes of `from`, and says how many they are.
fn copy(from: &mut File, begin: u64, end: u64, mut to: &File) -> io::Result<u64> {
    from.seek(SeekFrom::Start(begin))?;
    let copied = io::copy(&mut from.take(end - begin), &mut to)?;
    if copied < end - begin {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(copied)
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::{
        fs,
        sync::atomic::{AtomicU32, Ordering},
        thread,
    };

    use funcx_core::model::TaskId;
    use funcx_core::state::{JournalEntry, Ledger};
    use futures::executor::block_on;

    use super::super::format::{Encoder, HEADER_BYTES};
    use super::super::replay::replay;

    const HEADER: Header = Header { epoch: 7, life: 1, boot: 0 };

    fn record(entry: &JournalEntry, durable: bool) -> Record {
        let mut encoder = Encoder::new(HEADER.epoch);
        encoder.push(entry.clone()).unwrap();
        Record::new(encoder.finish(), if durable { Counts::Synced } else { Counts::Written }, None)
    }

    /// Fails three times, and as systems do: what was not synced is gone, and the next sync knows nothing of it.
    fn forgetful(file: &File) -> io::Result<()> {
        static FAILURES: AtomicU32 = AtomicU32::new(0);
        if FAILURES.fetch_add(1, Ordering::Relaxed) < 3 {
            file.set_len(HEADER_BYTES as u64)?;
            return Err(io::Error::from_raw_os_error(nix::errno::Errno::EIO as i32));
        }
        file.sync_data()
    }

    #[test]
    fn what_a_failed_sync_may_have_dropped_is_written_again() {
        let place = tempfile::tempdir().unwrap();
        let directory = Directory::open(place.path()).unwrap();
        let (file, bytes) = directory.draft(HEADER, &Ledger::default(), None).unwrap();
        directory.adopt_draft().unwrap();
        let mut writer = Writer::new(directory, HEADER, file, bytes, u64::MAX);
        writer.sync = forgetful;

        let attempt = |task| AttemptId { task: TaskId::from_u128(task), number: 1 };
        let entries: Vec<_> = (1..6).map(|task| JournalEntry::Leased(vec![attempt(task)])).collect();
        let mut problem = writer.problem();
        thread::scope(|scope| {
            assert!(writer.record(record(&entries[0], false)).is_none(), "written at once");
            let durable = writer.record(record(&entries[1], true)).unwrap();
            scope.spawn(|| writer.run());
            block_on(problem.wait_for(Option::is_some)).unwrap();
            let told = problem.borrow().clone().unwrap();
            assert!(told.contains("sync the journal") && told.contains("Input/output error"), "{told}");
            let later = writer.record(record(&entries[2], false));
            block_on(durable).unwrap();
            if let Some(later) = later {
                block_on(later).unwrap();
            }
            assert_eq!(writer.record(record(&entries[3], false)).map(block_on), None);
            block_on(writer.record(record(&entries[4], true)).unwrap()).unwrap();
            assert_eq!((problem.borrow().clone(), writer.backlog_bytes()), (None, 0));
            writer.close();
        });

        let mut expected = Ledger::default();
        entries.iter().for_each(|entry| expected.apply(entry));
        let bytes = fs::read(place.path().join("journal")).unwrap();
        let Replayed::Read { ledger, tail: Tail::Whole, .. } = replay(&bytes) else { panic!("{bytes:?}") };
        assert_eq!(ledger, expected);
    }
}
