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
use futures::channel::oneshot;

/// Bytes written in one go, and bytes in memory beyond which they are synced although nobody waits for it.
const GROUP_BYTES: usize = 8 << 20;
/// What a record takes in memory beside its bytes.
const RECORD_BYTES: usize = 128;
/// How long what is safe only on the disk may wait for it where nothing waits for that, so that others share the sync. Syncs
/// of one disk hold each other up, and that of the service above, on the same machine, is the one somebody waits for.
const LINGER: Duration = Duration::from_millis(2);
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
    pub(super) done: Option<oneshot::Sender<()>>,
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
    pub(super) synced: u64,
    /// Whether there may be more in the file than `end`.
    pub(super) torn: bool,
    /// Whether the file has been renamed since the directory was synced.
    pub(super) renamed: bool,
    pub(super) waiting: VecDeque<Record>,
    pub(super) waiting_bytes: usize,
    pub(super) unsynced: VecDeque<Record>,
    pub(super) unsynced_bytes: usize,
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
            synced: bytes,
            torn: false,
            renamed: false,
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            unsynced: VecDeque::new(),
            unsynced_bytes: 0,
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
        [self.retry, self.sync_at].into_iter().flatten().filter(|at| now < *at).min()
    }

    pub(super) fn wait(&mut self, record: Record) {
        self.waiting_bytes += record.memory();
        self.waiting.push_back(record);
    }

    /// A record is in the file since `now`.
    pub(super) fn written(&mut self, mut record: Record, now: Instant) {
        self.end += record.bytes as u64;
        match record.sync_by(now) {
            Some(by) => self.sync_at = Some(self.sync_at.map_or(by, |at| at.min(by))),
            None => record.finish(),
        }
        self.unsynced_bytes += record.memory();
        self.unsynced.push_back(record);
    }

    /// What is not on the disk may never get there by itself, so it waits to be written once more.
    pub(super) fn write_again(&mut self) {
        self.end = self.synced;
        self.torn = true;
        self.sync_at = None;
        self.waiting_bytes += mem::take(&mut self.unsynced_bytes);
        for record in mem::take(&mut self.unsynced).into_iter().rev() {
            self.waiting.push_front(record);
        }
    }
}

impl Record {
    pub(super) fn new(pieces: Vec<Bytes>, counts: Counts) -> Self {
        Self { bytes: pieces.iter().map(Bytes::len).sum(), pieces, counts, done: None }
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
