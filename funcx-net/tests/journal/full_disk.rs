//! A disk without room: everything waits, and goes on when there is room again.

use std::{env, fs, io::Write as _, path::Path, process::Command};

use funcx_core::ErrorKind;
use funcx_core::state::JournalEntry;
use funcx_net::journal::{Journal, JournalOptions, Repair};
use futures::{FutureExt, executor::block_on};

use super::super::{attempt, batch, open, recovered};

const DISK: &str = "FUNCX_TEST_FULL_JOURNAL";
const NOT_PERMITTED: i32 = 77;

/// Runs itself once more in a mount namespace of its own, with a disk of one megabyte.
#[test]
fn a_full_disk_delays_and_loses_nothing() {
    if let Ok(path) = env::var(DISK) {
        return fill_and_free(Path::new(&path));
    }
    let directory = tempfile::tempdir().unwrap();
    let mount =
        format!("mount -t tmpfs -o size=1m,mode=700 journal \"$0\" || exit {NOT_PERMITTED}; exec \"$@\"");
    let status = Command::new("unshare")
        .args(["--mount", "sh", "-c", &mount])
        .arg(directory.path())
        .arg(env::current_exe().unwrap())
        .args(["--exact", "journal::full_disk::a_full_disk_delays_and_loses_nothing", "--nocapture"])
        .env(DISK, directory.path())
        .status();
    match status.map(|status| status.code()) {
        Ok(Some(0)) => {}
        Ok(Some(101)) | Ok(None) => panic!("the other process saw what it should not"),
        Ok(Some(code)) => {
            println!("skipped: a mount namespace or a mount is not permitted (exit code {code})");
        }
        Err(error) => println!("skipped: there is no `unshare` ({error})"),
    }
}

fn fill_and_free(disk: &Path) {
    let path = disk.join("journal");
    let (journal, first) = open(&path);
    let mut problem = journal.problem();
    let leased = JournalEntry::Leased((1..=40).map(|task| attempt(task, 1)).collect());
    block_on(journal.record(vec![leased.clone()]));
    let filler = disk.join("filler");
    let mut free = fill(&filler);
    // The first record of these ends in the middle of what room there is.
    free -= free.min(3000);
    fs::OpenOptions::new().write(true).open(&filler).unwrap().set_len(free).unwrap();

    let mut entries = vec![leased];
    let mut waiting = Vec::new();
    for task in 1..=20 {
        let outcomes = JournalEntry::Outcomes(batch(task, &[attempt(task, 1)], 10_000));
        waiting.push(journal.record(vec![outcomes.clone()]).boxed());
        let started = JournalEntry::Started(vec![attempt(20 + task, 1)]);
        waiting.push(journal.record(vec![started.clone()]).boxed());
        entries.extend([outcomes, started]);
    }
    block_on(problem.wait_for(Option::is_some)).unwrap();
    let told = problem.borrow().clone().unwrap();
    assert!(told.contains("the disk is full; free some space"), "{told}");
    assert!(journal.backlog_bytes() > 20 * 10_000, "all of it is kept");
    assert!(waiting.pop().unwrap().now_or_never().is_none(), "what is not written is not said to be");
    let whole = fs::metadata(path.join("journal")).unwrap().len();

    fs::remove_file(&filler).unwrap();
    block_on(futures::future::join_all(waiting));
    block_on(problem.wait_for(Option::is_none)).unwrap();
    assert!(fs::metadata(path.join("journal")).unwrap().len() > whole);
    drop(journal);
    let (journal, again) = open(&path);
    assert_eq!(again, recovered(&entries, first.epoch, 2));
    assert_eq!(journal.repair(), &Repair::default(), "nothing was left by halves");
    drop(journal);

    // There is no room to begin the next life, so it does not begin.
    fill(&filler);
    let before = fs::read(path.join("journal")).unwrap();
    let error = Journal::open(&path, &JournalOptions::default()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.is_retryable() && error.to_string().contains("free some space"), "{error}");
    assert_eq!(fs::read(path.join("journal")).unwrap(), before);
    fs::remove_file(&filler).unwrap();
    assert_eq!(open(&path).1, recovered(&entries, first.epoch, 3));
}

/// Fills the disk to the last byte and returns the length of the file that does.
fn fill(path: &Path) -> u64 {
    let mut file = fs::File::create(path).unwrap();
    let chunk = [b'x'; 4096];
    while file.write_all(&chunk).is_ok() {}
    file.metadata().unwrap().len()
}
