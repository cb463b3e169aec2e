//! Who may open a directory.

use std::{
    env, fs,
    io::{BufRead, BufReader, Read},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use funcx_core::contract::{TaskStore, Write};
use funcx_core::model::ErrorKind;
use funcx_net::store::EmbeddedStore;

use super::super::{payload, submission, task_id};

const HOLDER: &str = "FUNCX_TEST_HOLD_STORE";

fn refusal(path: &Path) -> (ErrorKind, String) {
    let error = EmbeddedStore::open(path).expect_err("it must be refused");
    (error.kind(), error.to_string())
}

#[test]
fn a_new_directory_is_for_its_owner_only() {
    let parent = tempfile::tempdir().unwrap();
    let path = parent.path().join("a/b/store");
    let _store = EmbeddedStore::open(&path).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
}

#[test]
fn the_same_process_cannot_open_it_twice() {
    let parent = tempfile::tempdir().unwrap();
    let store = EmbeddedStore::open(parent.path()).unwrap();
    assert_eq!(refusal(parent.path()).0, ErrorKind::Conflict);
    drop(store);
    EmbeddedStore::open(parent.path()).expect("it is free again");
}

/// Runs itself once more as the process that holds the store.
#[test]
fn a_second_process_is_told_that_the_store_is_open() {
    if let Ok(path) = env::var(HOLDER) {
        let _store = EmbeddedStore::open(path).unwrap();
        println!("\nopen");
        // Until the other process closes the pipe.
        let _ = std::io::stdin().read(&mut [0]);
        return;
    }
    let parent = tempfile::tempdir().unwrap();
    let mut holder = Command::new(env::current_exe().unwrap())
        .args(["--exact", "store::directory::a_second_process_is_told_that_the_store_is_open", "--nocapture"])
        .env(HOLDER, parent.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(holder.stdout.take().unwrap()).lines();
    assert!(lines.by_ref().any(|line| line.unwrap() == "open"), "the holder opened it");

    let (kind, text) = refusal(parent.path());
    assert_eq!(kind, ErrorKind::Conflict);
    assert!(
        text.contains(&parent.path().display().to_string()) && text.contains("another process"),
        "{text}"
    );

    drop(holder.stdin.take());
    lines.for_each(drop);
    assert!(holder.wait().unwrap().success());
    EmbeddedStore::open(parent.path()).expect("it is free again");
}

#[test]
fn a_store_of_another_version_is_refused_with_both_versions_and_the_way_out() {
    let parent = tempfile::tempdir().unwrap();
    drop(EmbeddedStore::open(parent.path()).unwrap());
    for (version, way_out) in [(7, "newer program"), (2, "new directory")] {
        fs::write(parent.path().join("version"), format!("funcx-store {version}\n")).unwrap();
        let (kind, text) = refusal(parent.path());
        assert_eq!(kind, ErrorKind::Unsupported);
        for part in [&*format!("version {version}"), "version 3", way_out] {
            assert!(text.contains(part), "{text}");
        }
    }
    fs::write(parent.path().join("version"), "funcx-store 3\n").unwrap();
    EmbeddedStore::open(parent.path()).expect("nothing was changed by the refusals");
}

#[test]
fn a_directory_with_other_files_in_it_is_left_alone() {
    let parent = tempfile::tempdir().unwrap();
    fs::write(parent.path().join("thesis.tex"), "").unwrap();
    let (kind, text) = refusal(parent.path());
    assert_eq!(kind, ErrorKind::InvalidInput);
    assert!(text.contains("thesis.tex"), "{text}");
    assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 1, "nothing was added");
}

#[test]
fn a_file_in_the_place_of_the_directory_is_named() {
    let parent = tempfile::tempdir().unwrap();
    let path = parent.path().join("store");
    fs::write(&path, "").unwrap();
    let (kind, text) = refusal(&path);
    assert_eq!(kind, ErrorKind::Io);
    assert!(text.contains(&path.display().to_string()), "{text}");
}

#[tokio::test]
async fn a_damaged_store_is_refused_and_left_as_it_is() {
    let parent = tempfile::tempdir().unwrap();
    let store = EmbeddedStore::open(parent.path()).unwrap();
    for number in 1..=3 {
        store.commit(vec![Write::Submit(submission(number, 1, 3000))]).await.unwrap();
    }
    drop(store);
    // One byte in the middle of what was committed, as a failing disk would change it.
    let (file, place) = find(&parent.path().join("db"), &payload(2, 3000));
    let flip = || {
        let mut bytes = fs::read(&file).unwrap();
        bytes[place + 1500] ^= 1;
        fs::write(&file, bytes).unwrap();
    };
    flip();
    let (kind, text) = refusal(parent.path());
    assert_eq!(kind, ErrorKind::Internal);
    for part in ["damaged", "restore", &*parent.path().display().to_string()] {
        assert!(text.contains(part), "{text}");
    }
    flip();
    let store = EmbeddedStore::open(parent.path()).expect("what is not damaged can be read");
    let tasks = store.tasks(&[1, 2, 3].map(task_id)).await.unwrap();
    assert!(tasks.iter().all(Option::is_some), "the refusal has changed nothing");
}

/// The file below a directory that holds these bytes, and where.
fn find(directory: &Path, bytes: &[u8]) -> (PathBuf, usize) {
    let mut directories = vec![directory.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
                continue;
            }
            let held = fs::read(&path).unwrap();
            if let Some(place) = held.windows(bytes.len()).position(|window| window == bytes) {
                return (path, place);
            }
        }
    }
    panic!("the bytes are in no file");
}
