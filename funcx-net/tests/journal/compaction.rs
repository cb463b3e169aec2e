//! A journal does not grow with what it no longer needs.

use std::{fs, sync::Arc, thread};

use funcx_core::state::JournalEntry;
use funcx_net::journal::{Journal, JournalOptions, Repair};
use futures::executor::block_on;

use super::super::{attempt, batch};

const COMPACT_ABOVE: u64 = 64 << 10;
const LANES: u64 = 4;
const ROUNDS: u64 = 400;
const PAYLOAD_BYTES: usize = 600;

/// Each lane leases and finishes its own tasks while others do the same, and keeps every hundredth.
fn work(journal: &Journal, lane: u64) -> Vec<u64> {
    let mut kept = Vec::new();
    for round in 0..ROUNDS {
        let task = lane * 1_000_000 + round;
        block_on(journal.record(vec![JournalEntry::Leased(vec![attempt(task, 1)])]));
        block_on(journal.record(vec![JournalEntry::Started(vec![attempt(task, 1)])]));
        if round % 100 == 99 {
            kept.push(task);
        } else {
            block_on(journal.record(vec![JournalEntry::Returned(vec![attempt(task, 1)])]));
        }
    }
    kept
}

#[test]
fn what_counts_survives_many_compactions_under_load() {
    let directory = tempfile::tempdir().unwrap();
    let options = JournalOptions { compact_above_bytes: COMPACT_ABOVE };
    let (journal, first) = Journal::open(directory.path(), &options).unwrap();
    let journal = Arc::new(journal);
    let lanes: Vec<_> = (1..=LANES)
        .map(|lane| {
            let journal = Arc::clone(&journal);
            thread::spawn(move || work(&journal, lane))
        })
        .collect();
    // Outcomes are acknowledged some time later; the last ones stay.
    for sequence in 1..ROUNDS {
        let outcomes = batch(sequence, &[attempt(sequence, 1)], PAYLOAD_BYTES);
        block_on(journal.record(vec![JournalEntry::Outcomes(outcomes)]));
        block_on(journal.record(vec![JournalEntry::Acknowledged(sequence.saturating_sub(9))]));
    }
    let mut kept: Vec<_> = lanes.into_iter().flat_map(|lane| lane.join().unwrap()).collect();
    kept.sort_unstable();
    // What is too long is compacted before the next sync.
    let outcomes = batch(ROUNDS, &[attempt(ROUNDS, 1)], PAYLOAD_BYTES);
    block_on(journal.record(vec![JournalEntry::Outcomes(outcomes)]));
    let bytes = fs::metadata(directory.path().join("journal")).unwrap().len();
    let written = ROUNDS * PAYLOAD_BYTES as u64 + LANES * ROUNDS * 3 * 37;
    assert!(written > 5 * COMPACT_ABOVE && bytes < COMPACT_ABOVE + 2000, "{bytes} of {written} bytes");
    drop(journal);

    let (journal, again) = Journal::open(directory.path(), &options).unwrap();
    assert_eq!((again.epoch, again.life, again.complete), (first.epoch, 2, true));
    assert_eq!(journal.repair(), &Repair::default());
    let outbox: Vec<_> = (ROUNDS - 9..=ROUNDS)
        .map(|sequence| batch(sequence, &[attempt(sequence, 1)], PAYLOAD_BYTES))
        .collect();
    assert_eq!(again.outbox, outbox);
    assert_eq!(again.leased, kept.iter().map(|task| (attempt(*task, 1), true)).collect::<Vec<_>>());
}

#[test]
fn what_counts_may_be_longer_than_the_bound() {
    let directory = tempfile::tempdir().unwrap();
    let options = JournalOptions { compact_above_bytes: 1024 };
    let (journal, _) = Journal::open(directory.path(), &options).unwrap();
    let batches: Vec<_> = (1..=100).map(|sequence| batch(sequence, &[attempt(sequence, 1)], 500)).collect();
    for batch in &batches {
        block_on(journal.record(vec![JournalEntry::Outcomes(batch.clone())]));
    }
    drop(journal);
    let (_journal, again) = Journal::open(directory.path(), &options).unwrap();
    assert_eq!(again.outbox, batches);
}
