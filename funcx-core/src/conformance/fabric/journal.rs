//! The journals of endpoints, on disks that outlive the processes.
//!
//! What is written survives the process; what is synced survives the loss of power too. Outcomes wait for a sync, and so
//! do leases that count as begun; it makes everything safe that was written before.

use std::collections::VecDeque;
use std::time::Duration;

use super::agenda::{Event, Input};
use super::{Fabric, Place, note};
use crate::model::Tick;
use crate::state::{JournalEntry, Ledger, RecordId, Recovered};

/// Longest time between a write, or a sync, and the word of it.
const WORD_MICROS: u64 = 100;
/// Longest time that a sync takes.
const SYNC_MICROS: u64 = 20_000;
/// Pause after which a full disk is tried again.
const AGAIN: Duration = Duration::from_millis(250);

#[derive(Debug)]
pub(super) struct Journal {
    epoch: u64,
    life: u32,
    synced: Ledger,
    synced_records: u64,
    /// Written since, in order.
    written: VecDeque<Vec<JournalEntry>>,
    /// In the memory of the process, because the disk is full.
    waiting: VecDeque<(RecordId, Vec<JournalEntry>)>,
    pub(super) full_until: Tick,
    /// The power was lost.
    cut: bool,
    /// Nothing is written any more until it is opened.
    ended: bool,
}

impl Journal {
    pub(super) fn new(epoch: u64) -> Self {
        Self {
            epoch,
            life: 0,
            synced: Ledger::default(),
            synced_records: 0,
            written: VecDeque::new(),
            waiting: VecDeque::new(),
            full_until: Tick::ZERO,
            cut: false,
            ended: false,
        }
    }

    /// A process opens it.
    pub(super) fn open(&mut self) -> Recovered {
        self.sync(u64::MAX);
        self.life += 1;
        self.ended = false;
        let complete = !std::mem::take(&mut self.cut);
        self.synced.clone().into_recovered(self.epoch, self.life, complete)
    }

    /// Everything up to this record is on the disk.
    fn sync(&mut self, through: u64) {
        while self.synced_records < through
            && let Some(entries) = self.written.pop_front()
        {
            self.synced_records += 1;
            entries.iter().for_each(|entry| self.synced.apply(entry));
        }
    }

    /// The session ends in good order: the next process begins another one.
    fn end_session(&mut self) {
        let next = Self::new(self.epoch + (1 << 20));
        *self = Self { full_until: self.full_until, ended: true, ..next };
    }

    /// The process is gone; with the power goes some of what was written. How many records that was.
    pub(super) fn close(&mut self, power_loss: bool, draw: u64) -> usize {
        self.waiting.clear();
        let written = self.written.len();
        let kept = if power_loss { draw as usize % (written + 1) } else { written };
        self.written.truncate(kept);
        // Whoever opens it cannot know whether something is missing.
        self.cut |= power_loss;
        written - kept
    }
}

impl Fabric {
    /// An endpoint wants something written down.
    pub(super) fn record(&mut self, place: Place, record: RecordId, entries: Vec<JournalEntry>) {
        let Some(journal) = self.journals.get_mut(place - 1) else { return };
        if journal.ended {
            return;
        }
        if self.now < journal.full_until || !journal.waiting.is_empty() {
            if journal.waiting.is_empty() {
                let life = self.processes[place].life;
                self.agenda.add(journal.full_until + AGAIN, Event::At(place, life, Input::Retry));
            }
            journal.waiting.push_back((record, entries));
        } else {
            self.write_down(place, record, entries);
        }
    }

    /// The disk of an endpoint is tried again.
    pub(super) fn retry(&mut self, place: Place) {
        let journal = &mut self.journals[place - 1];
        if self.now < journal.full_until {
            let life = self.processes[place].life;
            self.agenda.add(journal.full_until + AGAIN, Event::At(place, life, Input::Retry));
            return;
        }
        for (record, entries) in std::mem::take(&mut journal.waiting) {
            self.write_down(place, record, entries);
        }
    }

    fn write_down(&mut self, place: Place, record: RecordId, entries: Vec<JournalEntry>) {
        note!(self, "p{place} writes {}", entries.iter().map(words).collect::<Vec<_>>().join(", "));
        let life = self.processes[place].life;
        let draw = self.draw.of((place as u64) << 32 | u64::from(life), 0x10_0000_0000 + record.0);
        let durable = is_durable(&entries);
        let journal = &mut self.journals[place - 1];
        journal.written.push_back(entries);
        let through = if durable { journal.synced_records + journal.written.len() as u64 } else { 0 };
        let longest = if durable { SYNC_MICROS } else { WORD_MICROS };
        let told = self.now + Duration::from_micros(1 + draw % longest);
        self.agenda.add(told, Event::At(place, life, Input::Recorded(record, through)));
    }

    /// A process has finished everything.
    pub(super) fn end_session(&mut self, place: Place) {
        if let Some(journal) = place.checked_sub(1).and_then(|index| self.journals.get_mut(index)) {
            journal.end_session();
        }
    }

    /// An endpoint is told that something is written down, and everything up to a record is on the disk.
    pub(super) fn recorded(&mut self, place: Place, record: RecordId, through: u64) {
        self.journals[place - 1].sync(through);
        self.processes[place].node.recorded(record);
    }
}

/// Whether the word of a record waits until it is on the disk: outcomes, and leases that count as begun.
fn is_durable(entries: &[JournalEntry]) -> bool {
    let leases = entries.iter().any(|entry| matches!(entry, JournalEntry::Leased(_)));
    entries.iter().any(|entry| match entry {
        JournalEntry::Outcomes(_) => true,
        JournalEntry::Started(_) => leases,
        _ => false,
    })
}

fn words(entry: &JournalEntry) -> String {
    match entry {
        JournalEntry::Leased(attempts) => format!("{} leased", attempts.len()),
        JournalEntry::Started(attempts) => format!("{} started", attempts.len()),
        JournalEntry::Returned(attempts) => format!("{} returned", attempts.len()),
        JournalEntry::Outcomes(batch) => format!("outcomes {:x}", batch.sequence),
        JournalEntry::Acknowledged(through) => format!("acknowledged {through:x}"),
    }
}
