//! What happens when the disk has no room, or fails.

use std::{env, process::Command};

use funcx_core::contract::{TaskStore, Write};
use funcx_core::model::ErrorKind;
use funcx_net::store::{EmbeddedStore, StoreOptions};
use nix::sys::resource::{Resource, setrlimit};

use super::super::{ENDPOINT, submission, task_id};

const LIMITED: &str = "FUNCX_TEST_LIMITED_STORE";
const MIB: u64 = 1 << 20;

#[tokio::test]
async fn a_commit_that_would_fill_the_disk_is_refused_and_can_be_tried_again() {
    let directory = tempfile::tempdir().unwrap();
    // A reserve that no disk has is as good as a full disk.
    let full = EmbeddedStore::open_with(directory.path(), &StoreOptions { reserve_bytes: u64::MAX }).unwrap();
    let error = full.commit(vec![Write::Submit(submission(1, 1, 10))]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.is_retryable() && error.to_string().contains("the disk is full"), "{error}");
    assert!(full.tasks(&[task_id(1)]).await.unwrap()[0].is_none(), "nothing is visible");
    assert_eq!(full.pending_count(ENDPOINT).await.unwrap(), 0);
    drop(full);

    let roomy = EmbeddedStore::open(directory.path()).unwrap();
    assert!(roomy.tasks(&[task_id(1)]).await.unwrap()[0].is_none(), "nothing was written");
    roomy.commit(vec![Write::Submit(submission(1, 1, 10))]).await.unwrap();
    assert_eq!(roomy.pending_count(ENDPOINT).await.unwrap(), 1);
}

/// Runs itself once more as a process whose files may not grow any more.
#[tokio::test]
async fn a_disk_that_fails_takes_no_commit_and_keeps_what_it_has() {
    if let Ok(path) = env::var(LIMITED) {
        return commit_until_the_disk_fails(&path).await;
    }
    let directory = tempfile::tempdir().unwrap();
    // The shell has the child ignore the signal that would otherwise end it at the limit.
    let status = Command::new("sh")
        .args(["-c", "trap '' XFSZ; exec \"$@\"", "sh"])
        .arg(env::current_exe().unwrap())
        .args([
            "--exact",
            "store::space::a_disk_that_fails_takes_no_commit_and_keeps_what_it_has",
            "--nocapture",
        ])
        .env(LIMITED, directory.path())
        .status()
        .unwrap();
    assert!(status.success(), "the other process saw what it should");

    let store = EmbeddedStore::open(directory.path()).unwrap();
    let tasks = store.tasks(&[task_id(1), task_id(2)]).await.unwrap();
    assert!(tasks[0].is_some(), "what was committed is there");
    assert!(tasks[1].is_none(), "what was refused is not");
    store.commit(vec![Write::Submit(submission(2, 1, 10))]).await.expect("it works again");
}

async fn commit_until_the_disk_fails(path: &str) {
    let store = EmbeddedStore::open(path).unwrap();
    store.commit(vec![Write::Submit(submission(1, 1, 10))]).await.unwrap();
    setrlimit(Resource::RLIMIT_FSIZE, MIB, MIB).unwrap();

    let error = store.commit(vec![Write::Submit(submission(2, 3, 2 * MIB as usize))]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.to_string().contains("limit"), "{error}");
    assert!(store.tasks(&[task_id(2)]).await.unwrap()[0].is_none(), "nothing is visible");
    assert_eq!(store.pending_count(ENDPOINT).await.unwrap(), 1);

    let error = store.commit(vec![Write::Submit(submission(9, 1, 10))]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "no commit after that");
    assert!(error.to_string().contains("restart"), "{error}");
    assert!(store.tasks(&[task_id(1)]).await.unwrap()[0].is_some(), "reads go on");
}
