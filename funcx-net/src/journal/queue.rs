//! What waits to be written, what waits for the disk, and what to do next. No I/O.
//!
//! A record goes through two queues:
//!
//! ```text
//! record ──▶ waiting ──write──▶ unsynced ──fdatasync──▶ gone
//!    └────────write at once───────▲  │
//!               ▲                    └── the sync failed: cut the file, write all of it again
//! ```
//!
//! Large outcomes are held back before that: what the node above acknowledges meanwhile is never written.
//!
//! Records stay in memory until they are synced, because the system may drop what it could not write back and then
//! report the next sync as a success.

use std::{
    collections::VecDeque,
    fs::File,
    mem,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use funcx_core::model::AttemptId;
use futures::channel::oneshot;

/// Bytes written in one go, and bytes in memory beyond which they are synced although nobody waits for it.
const GROUP_BYTES: usize = 8 << 20;
/// What a record takes in memory beside its bytes.
const RECORD_BYTES: usize = 128;
/// How long what is safe only on a disk may wait for it where nothing waits for that. Others share the sync, and mostly there
/// is none: the node above has the outcomes on its disk by then. Syncs of one disk hold each other up, and that of a service
/// on the same machine is the one somebody waits for.
const LINGER: Duration = Duration::from_millis(10);
/// Outcomes of this size and more are held back. To write them costs about as much as all else that is done for them here.
const HELD_FROM_BYTES: usize = 256 << 10;
/// For so long. A service commits in much less.
const HOLD: Duration = Duration::from_millis(100);
/// Bytes that may be held back at once.
const MAX_HELD_BYTES: usize = 256 << 20;
/// Pause before the first retry; it doubles up to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// A journal is compacted when it is this many times as long as it was after the last time.
const GROWTH: u64 = 4;

/// What one call recorded.
pub(super) struct Record {
    pub(super) pieces: Vec<Bytes>,
    pub(super) bytes: usize,
    pub(super) counts: Counts,
    /// The last sequence number of its outcomes, if it holds nothing else.
    pub(super) through: Option<u64>,
    pub(super) done: Option<oneshot::Sender<()>>,
}

/// Outcomes that are written unless the node above acknowledges them before.
struct Held {
    attempts: Vec<AttemptId>,
    until: Instant,
    record: Record,
}

/// A record in the file that counts when it is on the disk, or when the node above has acknowledged it.
struct Counting {
    /// Its place among all records that were written.
    number: u64,
    through: Option<u64>,
    sync_by: Instant,
}

/// When a record counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Counts {
    /// When it is written.
    Written,
    /// When it is on the disk, soon.
    Synced,
    /// When it is on the disk, and something waits for that.
    SyncedAtOnce,
}

/// The queues, and the file as far as it is known to be good.
pub(super) struct State {
    pub(super) file: Arc<File>,
    /// Bytes of the file that are whole records.
    pub(super) end: u64,
    /// Bytes of the file that are on the disk.
    pub(super) synced_end: u64,
    /// Whether there may be more in the file than `end`.
    pub(super) torn: bool,
    /// Whether the file has been renamed since the directory was synced.
    pub(super) renamed: bool,
    held: VecDeque<Held>,
    pub(super) held_bytes: usize,
    pub(super) waiting: VecDeque<Record>,
    pub(super) waiting_bytes: usize,
    pub(super) unsynced: VecDeque<Record>,
    pub(super) unsynced_bytes: usize,
    /// Number of the first of them.
    first_unsynced: u64,
    counting: VecDeque<Counting>,
    /// When to sync what counts only then.
    pub(super) sync_at: Option<Instant>,
    /// When to try again what failed.
    pub(super) retry: Option<Instant>,
    pause: Duration,
    pub(super) compact_at: u64,
    pub(super) closed: bool,
}

/// What the thread does next.
pub(super) enum Step {
    /// Write so many of the records that wait, after the file was cut back to this length if it has to be.
    Write {
        records: usize,
        cut: Option<u64>,
    },
    /// Sync so many records.
    Sync {
        records: usize,
        end: u64,
        renamed: bool,
    },
    Compact,
    Stop,
}

impl State {
    /// The queues of a journal with so many bytes, all of them on the disk.
    pub(super) fn new(file: File, bytes: u64, compact_above_bytes: u64) -> Self {
        Self {
            file: Arc::new(file),
            end: bytes,
            synced_end: bytes,
            torn: false,
            renamed: false,
            held: VecDeque::new(),
            held_bytes: 0,
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            unsynced: VecDeque::new(),
            unsynced_bytes: 0,
            first_unsynced: 0,
            counting: VecDeque::new(),
            sync_at: None,
            retry: None,
            pause: FIRST_PAUSE,
            compact_at: compact_at(compact_above_bytes, bytes),
            closed: false,
        }
    }

    /// Something failed: nothing is done for a while, a longer one each time.
    pub(super) fn rest(&mut self, now: Instant) {
        self.retry = Some(now + self.pause);
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
    }

    /// All went well. Whether something had failed before.
    pub(super) fn rested(&mut self) -> bool {
        self.pause = FIRST_PAUSE;
        self.retry.take().is_some()
    }

    /// What the thread should do now.
    pub(super) fn step(&self, now: Instant) -> Option<Step> {
        if !self.closed && self.retry.is_some_and(|retry| now < retry) {
            None
        } else if self.end >= self.compact_at && self.retry.is_none() && !self.closed {
            // Before anything else: there is always somebody who waits for a sync when there is much to do.
            Some(Step::Compact)
        } else if self.sync_at.is_some_and(|at| at <= now)
            || self.renamed
            || self.unsynced_bytes >= GROUP_BYTES
        {
            // Before anything more is written: a disk that takes no more may still sync what it has.
            Some(self.sync())
        } else if !self.waiting.is_empty() {
            let mut bytes = 0;
            let fits = |record: &&Record| {
                let fits = bytes < GROUP_BYTES;
                bytes += record.bytes;
                fits
            };
            let records = self.waiting.iter().take_while(fits).count();
            Some(Step::Write { records, cut: self.torn.then_some(self.end) })
        } else if self.closed {
            Some(if self.unsynced.is_empty() { Step::Stop } else { self.sync() })
        } else {
            None
        }
    }

    fn sync(&self) -> Step {
        Step::Sync { records: self.unsynced.len(), end: self.end, renamed: self.renamed }
    }

    pub(super) fn has_work(&self) -> bool {
        self.unsynced_bytes >= GROUP_BYTES || self.end >= self.compact_at
    }

    /// When, after `now`, there may be something to do although nothing happens before.
    pub(super) fn wakes_at(&self, now: Instant) -> Option<Instant> {
        let let_go = self.held.front().map(|held| held.until);
        [self.retry, self.sync_at, let_go].into_iter().flatten().filter(|at| now < *at).min()
    }

    /// Whether a record is worth being held back, and may be.
    pub(super) fn may_hold(&self, record: &Record) -> bool {
        let fits = self.held_bytes + record.memory() <= MAX_HELD_BYTES;
        record.bytes >= HELD_FROM_BYTES && fits && !self.closed
    }

    /// Holds the outcomes of these attempts back.
    pub(super) fn hold(&mut self, record: Record, attempts: Vec<AttemptId>, now: Instant) {
        self.held_bytes += record.memory();
        self.held.push_back(Held { attempts, until: now + HOLD, record });
    }

    /// What was held back for too long is written after all, and everything is when the journal is closed.
    pub(super) fn let_go(&mut self, now: Instant) {
        let closed = self.closed;
        while let Some(held) = self.held.pop_front_if(|held| closed || held.until <= now) {
            self.held_bytes -= held.record.memory();
            self.wait(held.record);
        }
    }

    /// The node above has the outcomes through this number on its disk. Returns the attempts of those that need not be
    /// written any more.
    pub(super) fn acknowledged(&mut self, through: u64) -> Vec<AttemptId> {
        let is_above = |outcomes: Option<u64>| outcomes.is_some_and(|last| last <= through);
        self.counting.retain(|counting| {
            let is_above = is_above(counting.through);
            if is_above
                && let Some(record) = self.unsynced.get_mut((counting.number - self.first_unsynced) as usize)
            {
                record.counts = Counts::Written;
                record.finish();
            }
            !is_above
        });
        self.sync_at = self.counting.iter().map(|counting| counting.sync_by).min();
        let mut attempts = Vec::new();
        while let Some(mut held) = self.held.pop_front_if(|held| is_above(held.record.through)) {
            self.held_bytes -= held.record.memory();
            attempts.append(&mut held.attempts);
            held.record.finish();
        }
        attempts
    }

    pub(super) fn wait(&mut self, record: Record) {
        self.waiting_bytes += record.memory();
        self.waiting.push_back(record);
    }

    /// A record is in the file since `now`.
    pub(super) fn written(&mut self, mut record: Record, now: Instant) {
        self.end += record.bytes as u64;
        match record.sync_by(now) {
            Some(sync_by) => {
                let number = self.first_unsynced + self.unsynced.len() as u64;
                self.counting.push_back(Counting { number, through: record.through, sync_by });
                self.sync_at = Some(self.sync_at.map_or(sync_by, |at| at.min(sync_by)));
            }
            None => record.finish(),
        }
        self.unsynced_bytes += record.memory();
        self.unsynced.push_back(record);
    }

    /// So many records are on the disk.
    pub(super) fn synced(&mut self, records: usize) {
        for mut record in self.unsynced.drain(..records) {
            self.unsynced_bytes -= record.memory();
            record.finish();
        }
        self.first_unsynced += records as u64;
        self.counting.retain(|counting| counting.number >= self.first_unsynced);
        self.sync_at = self.counting.iter().map(|counting| counting.sync_by).min();
    }

    /// What is not on the disk may never get there by itself, so it waits to be written once more.
    pub(super) fn write_again(&mut self) {
        self.end = self.synced_end;
        self.torn = true;
        self.sync_at = None;
        self.counting.clear();
        self.waiting_bytes += mem::take(&mut self.unsynced_bytes);
        for record in mem::take(&mut self.unsynced).into_iter().rev() {
            self.waiting.push_front(record);
        }
    }
}

impl Record {
    pub(super) fn new(pieces: Vec<Bytes>, counts: Counts, through: Option<u64>) -> Self {
        Self { bytes: pieces.iter().map(Bytes::len).sum(), pieces, counts, through, done: None }
    }

    /// When it has to be synced if it has been written at `now`.
    pub(super) fn sync_by(&self, now: Instant) -> Option<Instant> {
        match self.counts {
            Counts::Written => None,
            Counts::Synced => Some(now + LINGER),
            Counts::SyncedAtOnce => Some(now),
        }
    }

    /// About what it takes in memory.
    pub(super) const fn memory(&self) -> usize {
        RECORD_BYTES + self.bytes
    }

    pub(super) fn finish(&mut self) {
        if let Some(done) = self.done.take() {
            // Nobody may be waiting any more; the record counts all the same.
            let _ = done.send(());
        }
    }
}

/// Length at which a journal is compacted that had so many bytes when only what counted was in it.
pub(super) fn compact_at(compact_above_bytes: u64, live: u64) -> u64 {
    compact_above_bytes.max(live.saturating_mul(GROWTH))
}

#[cfg(test)]
mod tests {
    use super::*;

    use funcx_core::model::TaskId;

    fn outcomes(through: u64, bytes: usize) -> Record {
        Record::new(vec![vec![0; bytes].into()], Counts::Synced, Some(through))
    }

    const fn attempt(task: u128) -> AttemptId {
        AttemptId { task: TaskId::from_u128(task), number: 1 }
    }

    #[test]
    fn what_is_acknowledged_while_it_is_held_back_is_never_written() {
        let mut state = State::new(tempfile::tempfile().unwrap(), 44, u64::MAX);
        let now = Instant::now();
        assert!(!state.may_hold(&outcomes(9, HELD_FROM_BYTES - 1)), "it is short");
        for task in 1..=3 {
            assert!(state.may_hold(&outcomes(9, HELD_FROM_BYTES)));
            let mut record = outcomes(task, HELD_FROM_BYTES);
            let (done, mut counts) = oneshot::channel();
            record.done = Some(done);
            state.hold(record, vec![attempt(task.into())], now);
            if task == 1 {
                assert_eq!(state.acknowledged(0), []);
                assert_eq!(counts.try_recv(), Ok(None), "it counts nowhere yet");
                assert_eq!(state.acknowledged(1), [attempt(1)]);
                assert_eq!(counts.try_recv(), Ok(Some(())));
            }
        }
        assert_eq!(state.wakes_at(now), Some(now + HOLD));
        state.let_go(now + HOLD / 2);
        assert!(state.step(now + HOLD / 2).is_none(), "nothing is written before its time");
        state.let_go(now + HOLD);
        assert!(matches!(state.step(now + HOLD), Some(Step::Write { records: 2, cut: None })));
        assert_eq!((state.held_bytes, state.acknowledged(u64::MAX)), (0, vec![]));
    }

    #[test]
    fn what_is_acknowledged_before_it_is_synced_is_not_synced_for_itself() {
        let mut state = State::new(tempfile::tempfile().unwrap(), 44, u64::MAX);
        let now = Instant::now();
        let mut told = Vec::new();
        for through in 1..=3 {
            let mut record = outcomes(through, 100);
            let (done, counts) = oneshot::channel();
            record.done = Some(done);
            told.push(counts);
            state.written(record, now + Duration::from_millis(through));
        }
        let at = |sequence| Some(now + Duration::from_millis(sequence) + LINGER);
        assert_eq!(state.sync_at, at(1));
        assert_eq!(state.acknowledged(2), [], "they are written");
        assert_eq!(
            (told[0].try_recv(), told[1].try_recv(), told[2].try_recv()),
            (Ok(Some(())), Ok(Some(())), Ok(None))
        );
        assert_eq!(state.sync_at, at(3));
        state.synced(1);
        assert_eq!(state.sync_at, at(3), "the last is not on the disk yet");
        assert_eq!(state.acknowledged(3), []);
        assert_eq!(
            (told[2].try_recv(), state.sync_at),
            (Ok(Some(())), None),
            "it is found behind those that were"
        );
        assert_eq!(state.unsynced.len(), 2, "they get to the disk with others");
    }

    #[test]
    fn only_so_much_is_held_back_and_nothing_once_the_journal_is_closed() {
        let mut state = State::new(tempfile::tempfile().unwrap(), 44, u64::MAX);
        let now = Instant::now();
        state.hold(outcomes(1, MAX_HELD_BYTES - HELD_FROM_BYTES), vec![attempt(1)], now);
        assert!(!state.may_hold(&outcomes(9, HELD_FROM_BYTES)), "there is no room for what it takes besides");
        state.closed = true;
        state.let_go(now);
        assert_eq!((state.waiting.len(), state.held_bytes), (1, 0));
        assert!(!state.may_hold(&outcomes(9, HELD_FROM_BYTES)), "nobody would write it");
    }
}
