//! Who may open a journal, and who may read it.

use std::{fs, os::unix::fs::PermissionsExt};

use funcx_core::ErrorKind;
use funcx_net::journal::{Journal, JournalOptions};

use super::super::open;

#[test]
fn one_at_a_time() {
    let directory = tempfile::tempdir().unwrap();
    let (journal, first) = open(directory.path());
    let error = Journal::open(directory.path(), &JournalOptions::default()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert!(error.to_string().contains(&directory.path().display().to_string()), "{error}");
    drop(journal);
    let (_journal, second) = open(directory.path());
    assert_eq!((second.epoch, second.life), (first.epoch, 2), "a refused opener takes no life");
}

#[test]
fn only_the_owner_may_read_it() {
    let parent = tempfile::tempdir().unwrap();
    let path = parent.path().join("endpoint/journal");
    let (_journal, _) = open(&path);
    let mode = |path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(path.clone()), 0o700);
    for entry in fs::read_dir(&path).unwrap() {
        assert_eq!(mode(entry.unwrap().path()), 0o600);
    }
}

#[test]
fn a_directory_that_cannot_be_made_is_named() {
    let parent = tempfile::tempdir().unwrap();
    let path = parent.path().join("file");
    fs::write(&path, "").unwrap();
    let error = Journal::open(path.join("journal"), &JournalOptions::default()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io);
    assert!(error.to_string().contains(&path.display().to_string()), "{error}");
}
