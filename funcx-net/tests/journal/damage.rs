//! A journal that was cut, overwritten or is not one.

use std::{fs, path::Path};

use funcx_core::state::{JournalEntry, Ledger};
use funcx_net::journal::{Journal, JournalOptions, Replayed, Tail, replay};
use futures::executor::block_on;
use proptest::prelude::*;

use super::super::{attempt, batch, open, recovered, story};

/// Bytes of a journal with these entries, and where each of them ends.
fn written(entries: &[JournalEntry]) -> (Vec<u8>, Vec<usize>) {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("journal");
    let (journal, _) = open(directory.path());
    let mut ends = vec![fs::metadata(&file).unwrap().len() as usize];
    for entry in entries {
        block_on(journal.record(vec![entry.clone()]));
        ends.push(fs::metadata(&file).unwrap().len() as usize);
    }
    (fs::read(file).unwrap(), ends)
}

fn ledger(entries: &[JournalEntry]) -> Ledger {
    let mut ledger = Ledger::default();
    entries.iter().for_each(|entry| ledger.apply(entry));
    ledger
}

/// The bytes, once changed, hold exactly the first so many entries, and `tail` after them.
#[track_caller]
fn check(bytes: &[u8], entries: &[JournalEntry], ends: &[usize], sound: usize, tail: Tail) {
    let Replayed::Read { ledger: found, end, tail: found_tail, .. } = replay(bytes) else {
        panic!("the header is sound");
    };
    assert_eq!(found, ledger(&entries[..sound]), "what comes before the damage, all of it, and nothing else");
    assert_eq!((end, found_tail), (ends[sound] as u64, tail));
}

fn attempts() -> impl Strategy<Value = Vec<funcx_core::model::AttemptId>> {
    prop::collection::vec((1..12_u64, 1..4_u32).prop_map(|(task, number)| attempt(task, number)), 0..5)
}

fn entries() -> impl Strategy<Value = Vec<JournalEntry>> {
    let entry = prop_oneof![
        attempts().prop_map(JournalEntry::Leased),
        attempts().prop_map(JournalEntry::Started),
        attempts().prop_map(JournalEntry::Returned),
        (1..9_u64, attempts(), prop_oneof![0..40_usize, 1000..3000_usize]).prop_map(
            |(sequence, attempts, bytes)| JournalEntry::Outcomes(batch(sequence, &attempts, bytes))
        ),
        (0..9_u64).prop_map(JournalEntry::Acknowledged),
    ];
    prop::collection::vec(entry, 1..12)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn a_cut_anywhere_costs_only_what_was_cut(entries in entries()) {
        let (bytes, ends) = written(&entries);
        for cut in bytes.len().saturating_sub(2000).max(ends[0])..=bytes.len() {
            let sound = ends.iter().rposition(|end| *end <= cut).unwrap();
            // Entries without attempts take no bytes; all that end here are there.
            let left = (cut - ends[sound]) as u64;
            check(&bytes[..cut], &entries, &ends, sound, if left == 0 { Tail::Whole } else { Tail::Torn(left) });
        }
    }

    #[test]
    fn a_changed_byte_is_noticed_wherever_it_is(
        entries in entries(),
        places in prop::collection::vec((any::<prop::sample::Index>(), 1..=255_u8), 40),
    ) {
        let (bytes, ends) = written(&entries);
        prop_assume!(bytes.len() > ends[0]);
        for (place, change) in places {
            let at = ends[0] + place.index(bytes.len() - ends[0]);
            let mut bytes = bytes.clone();
            bytes[at] ^= change;
            let sound = ends.iter().rposition(|end| *end <= at).unwrap();
            check(&bytes, &entries, &ends, sound, Tail::Damaged((bytes.len() - ends[sound]) as u64));
        }
    }

    #[test]
    fn nothing_that_is_appended_becomes_an_entry(
        entries in entries(),
        garbage in prop::collection::vec(any::<u8>(), 16..300),
        zeros in 1..5000_usize,
    ) {
        let (bytes, ends) = written(&entries);
        let with = |end: &[u8]| [&bytes[..], end].concat();
        check(&with(&vec![0; zeros]), &entries, &ends, entries.len(), Tail::Torn(zeros as u64));
        prop_assume!(garbage.iter().any(|byte| *byte != 0));
        check(&with(&garbage), &entries, &ends, entries.len(), Tail::Damaged(garbage.len() as u64));
    }

    #[test]
    fn any_bytes_are_read_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert_eq!(replay(&bytes), Replayed::Unreadable);
    }
}

/// Names of the files of a journal, apart from its lock.
fn files(path: &Path) -> Vec<String> {
    let names = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.filter(|name| name != "lock").collect();
    names.sort();
    names
}

#[test]
fn a_torn_end_is_cut_and_counted() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("journal");
    let (bytes, ends) = written(&story());
    let cut = ends[5] - 3;
    fs::write(&file, &bytes[..cut]).unwrap();

    let (journal, found) = open(directory.path());
    assert_eq!(found, recovered(&story()[..4], found.epoch, 2));
    assert_eq!((journal.repair().cut_bytes, &journal.repair().put_aside), ((cut - ends[4]) as u64, &None));
    block_on(journal.record(story()[4..].to_vec()));
    drop(journal);
    let (journal, again) = open(directory.path());
    assert_eq!(again, recovered(&story(), found.epoch, 3), "it goes on where it was cut");
    assert_eq!(journal.repair().cut_bytes, 0);
    assert_eq!(files(directory.path()), ["journal"]);
}

#[test]
fn a_damaged_journal_is_kept_and_what_comes_before_the_damage_counts() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("journal");
    let (mut bytes, ends) = written(&story());
    bytes[ends[2] + 20] ^= 1;
    fs::write(&file, &bytes).unwrap();

    let (journal, found) = open(directory.path());
    assert!(!found.complete, "a lease may be missing");
    assert_eq!(found.leased, recovered(&story()[..2], found.epoch, 2).leased);
    let kept = directory.path().join("journal.damaged-2");
    assert_eq!(journal.repair().cut_bytes, (bytes.len() - ends[2]) as u64);
    assert_eq!(journal.repair().put_aside.as_ref(), Some(&kept));
    assert_eq!(fs::read(&kept).unwrap(), bytes, "as it was found");
    drop(journal);

    let (journal, again) = open(directory.path());
    assert_eq!(
        (again.epoch, again.life, again.complete),
        (found.epoch, 3, false),
        "nor does the next life know"
    );
    assert_eq!((again.leased, &journal.repair().put_aside), (found.leased, &None));
}

#[test]
fn without_a_header_a_new_epoch_begins() {
    let (bytes, _) = written(&story());
    let Replayed::Read { header, .. } = replay(&bytes) else { panic!("it is sound") };
    let mut flipped = bytes.clone();
    flipped[17] ^= 4;
    for unreadable in [&flipped[..], &bytes[..30], b"", b"something else"] {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("journal"), unreadable).unwrap();
        let (_journal, found) = open(directory.path());
        assert_ne!(found.epoch, header.epoch);
        assert_eq!((found.life, found.outbox.len(), found.leased.len()), (1, 0, 0));
        assert!(!found.complete);
        assert_eq!(fs::read(directory.path().join("journal.damaged-1")).unwrap(), unreadable);
    }
}

#[test]
fn only_so_many_damaged_journals_are_kept() {
    let directory = tempfile::tempdir().unwrap();
    for _ in 0..20 {
        fs::write(directory.path().join("journal"), "nonsense").unwrap();
        drop(open(directory.path()));
    }
    let kept = files(directory.path());
    assert_eq!(kept.len(), 1 + 8, "{kept:?}");
    assert!(kept.contains(&"journal.damaged-20".to_owned()), "the last ones: {kept:?}");
}

#[test]
fn after_the_machine_was_restarted_leases_may_be_missing() {
    let directory = tempfile::tempdir().unwrap();
    let (mut bytes, _) = written(&story());
    // The header as another boot of the machine would have written it.
    bytes[28..36].fill(7);
    let check = xxhash_rust::xxh3::xxh3_64(&bytes[..36]);
    bytes[36..44].copy_from_slice(&check.to_le_bytes());
    fs::write(directory.path().join("journal"), &bytes).unwrap();
    let (_journal, found) = open(directory.path());
    assert!(!found.complete);
    assert_eq!(found.leased, recovered(&story(), 0, 1).leased);
}

#[test]
fn a_journal_of_a_later_version_is_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let (mut bytes, _) = written(&story());
    bytes[8..12].copy_from_slice(&2_u32.to_le_bytes());
    let check = xxhash_rust::xxh3::xxh3_64(&bytes[..12]) as u32;
    bytes[12..16].copy_from_slice(&check.to_le_bytes());
    fs::write(directory.path().join("journal"), &bytes).unwrap();

    let error = Journal::open(directory.path(), &JournalOptions::default()).unwrap_err();
    assert_eq!(error.kind(), funcx_core::ErrorKind::Unsupported);
    let text = error.to_string();
    assert!(
        text.contains("version 2") && text.contains("version 1") && text.contains("newer program"),
        "{text}"
    );
    assert_eq!(fs::read(directory.path().join("journal")).unwrap(), bytes);
    assert_eq!(files(directory.path()), ["journal"]);
}
