//! The endpoint's journal: what comes back after a crash, a full disk, or damage.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod journal {
    mod compaction;
    mod crash;
    mod damage;
    mod directory;
    mod full_disk;
}

use std::{path::Path, sync::Arc};

use funcx_core::message::OutcomeBatch;
use funcx_core::model::{AttemptId, Function, IdentityId, Outcome, Task, TaskId, TaskSpec};
use funcx_core::state::{JournalEntry, Ledger, Recovered, first_sequence};
use funcx_net::journal::{Journal, JournalOptions, Repair};
use futures::{FutureExt, executor::block_on};

fn attempt(task: u64, number: u32) -> AttemptId {
    AttemptId { task: TaskId::from_u128(task.into()), number }
}

/// A batch of outcomes of these attempts, each with so many bytes.
fn batch(sequence: u64, attempts: &[AttemptId], payload_bytes: usize) -> OutcomeBatch {
    let spec = Arc::new(TaskSpec::new(Arc::new(Function::native("f")), IdentityId::from_u128(9)));
    OutcomeBatch::new(
        sequence,
        attempts.iter().map(|attempt| {
            let task = Task::new(attempt.task, Arc::clone(&spec), "");
            let mut outcome = Outcome::returned(&task, vec![attempt.task.as_u128() as u8; payload_bytes]);
            outcome.attempt = attempt.number;
            outcome.stdout = "printed".into();
            outcome.worker = "{}".into();
            outcome
        }),
    )
}

fn open(path: &Path) -> (Journal, Recovered) {
    Journal::open(path, &JournalOptions::default()).unwrap()
}

/// What a ledger of these entries is when life `life` of this epoch begins.
fn recovered(entries: &[JournalEntry], epoch: u64, life: u32) -> Recovered {
    let mut ledger = Ledger::default();
    entries.iter().for_each(|entry| ledger.apply(entry));
    ledger.into_recovered(epoch, life, true)
}

/// Some of everything.
fn story() -> Vec<JournalEntry> {
    vec![
        JournalEntry::Leased((1..=6).map(|task| attempt(task, 1)).collect()),
        JournalEntry::Started(vec![attempt(1, 1), attempt(2, 1)]),
        JournalEntry::Returned(vec![attempt(3, 1)]),
        JournalEntry::Outcomes(batch(first_sequence(1), &[attempt(1, 1)], 10)),
        JournalEntry::Outcomes(batch(first_sequence(1) + 1, &[attempt(4, 1), attempt(5, 1)], 5000)),
        JournalEntry::Acknowledged(first_sequence(1)),
        JournalEntry::Leased(vec![attempt(7, 3)]),
    ]
}

#[test]
fn what_was_recorded_is_there_in_the_next_life() {
    let directory = tempfile::tempdir().unwrap();
    let (journal, first) = open(directory.path());
    assert_eq!((first.life, first.next_sequence, first.complete), (1, first_sequence(1), true));
    assert_eq!((first.outbox.len(), first.leased.len()), (0, 0));
    // Some one by one, some together; nobody waits for the last.
    let mut story = story();
    let last = story.split_off(5);
    for entry in story.iter().cloned() {
        block_on(journal.record(vec![entry]));
    }
    drop(journal.record(last.clone()));
    story.extend(last);
    drop(journal);

    for life in 2..5 {
        let (journal, again) = open(directory.path());
        assert_eq!(again, recovered(&story, first.epoch, life));
        assert_eq!(again.outbox[0].heads.len(), 2, "with all that belongs to an outcome");
        assert_eq!(journal.repair(), &Repair::default());
    }
}

#[test]
fn leases_are_written_when_record_returns_and_outcomes_when_the_future_resolves() {
    let directory = tempfile::tempdir().unwrap();
    let (journal, _) = open(directory.path());
    let leased = journal.record(vec![JournalEntry::Leased(vec![attempt(1, 1)])]);
    assert!(leased.now_or_never().is_some(), "nothing to wait for");
    assert!(journal.record(Vec::new()).now_or_never().is_some());
    block_on(journal.record(vec![JournalEntry::Outcomes(batch(1, &[attempt(1, 1)], 1 << 20))]));
    assert_eq!(journal.backlog_bytes(), 0, "all of it is on the disk");
    assert_eq!(*journal.problem().borrow(), None);
}

#[test]
fn large_outcomes_are_safe_above_or_on_the_disk() {
    let directory = tempfile::tempdir().unwrap();
    let (journal, _) = open(directory.path());
    block_on(journal.record(vec![JournalEntry::Leased((1..=4).map(|task| attempt(task, 1)).collect())]));
    let large =
        |task| journal.record(vec![JournalEntry::Outcomes(batch(task, &[attempt(task, 1)], 1 << 20))]);
    let (acknowledged, written) = (large(1), large(2));
    block_on(journal.record(vec![JournalEntry::Acknowledged(1)]));
    block_on(acknowledged);
    block_on(written);
    // Nobody waits for this one, and the journal is closed before its time is over.
    drop(large(3));
    drop(journal);

    let (_, again) = open(directory.path());
    assert_eq!(again.outbox, [batch(2, &[attempt(2, 1)], 1 << 20), batch(3, &[attempt(3, 1)], 1 << 20)]);
    assert_eq!(again.leased, [(attempt(4, 1), false)], "the lease of the first has ended too");
}

#[test]
fn a_list_that_no_record_can_hold_becomes_several() {
    let directory = tempfile::tempdir().unwrap();
    let many: Vec<_> = (1..=10_000).map(|task| attempt(task, 1)).collect();
    let (journal, _) = open(directory.path());
    drop(journal.record(vec![JournalEntry::Leased(many.clone()), JournalEntry::Started(many.clone())]));
    drop(journal);
    let (_, again) = open(directory.path());
    assert_eq!(again.leased, many.iter().map(|attempt| (*attempt, true)).collect::<Vec<_>>());
}
