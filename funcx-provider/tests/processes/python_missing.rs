//! Interpreters that are not there or not fit.

use std::{os::unix::fs::PermissionsExt, path::PathBuf, sync::Arc};

use funcx_core::model::{Error, ErrorKind};
use funcx_provider::worker::{ProcessPool, ProcessPoolConfig};
use tempfile::TempDir;

async fn start(python: PathBuf, worker_init: Option<&str>) -> Error {
    let directory = tempfile::tempdir().unwrap();
    let config = ProcessPoolConfig {
        python,
        worker_init: worker_init.map(str::to_owned),
        ..ProcessPoolConfig::new(1, directory.path())
    };
    ProcessPool::start(config, Arc::new(|_| {})).await.map(drop).unwrap_err()
}

/// A program that stands in for an interpreter that is not on this machine.
fn fake(script: &str) -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("python3");
    std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    (directory, path)
}

#[tokio::test]
async fn a_missing_python_is_named_together_with_the_way_out() {
    for init in [None, Some("export SOMETHING=1")] {
        let error = start("/opt/nowhere/python3".into(), init).await;
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
        let text = error.to_string();
        assert!(
            text.contains("/opt/nowhere/python3") && text.contains("install Python 3.8 or newer"),
            "{text}"
        );
    }
}

#[tokio::test]
async fn a_python_that_knows_it_is_too_old_says_so() {
    let says = "echo 'funcx worker: needs Python 3.8 or newer, /usr/bin/python3 is 3.6.8' >&2; exit 3";
    let (_directory, python) = fake(says);
    let error = start(python.clone(), None).await;
    let text = error.to_string();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{text}");
    assert!(
        text.contains("3.8") && text.contains("3.6.8") && text.contains(python.to_str().unwrap()),
        "{text}"
    );
}

#[tokio::test]
async fn a_python_too_old_to_read_the_program_is_asked_for_its_version() {
    let answers = "case $1 in -c) printf 2.7.18;; *) echo 'SyntaxError: invalid syntax' >&2; exit 1;; esac";
    let (_directory, python) = fake(answers);
    let error = start(python, None).await;
    let text = error.to_string();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{text}");
    assert!(text.contains("3.8 or newer") && text.contains("2.7.18"), "{text}");
}

#[tokio::test]
async fn a_python_that_breaks_is_quoted() {
    let (_directory, python) =
        fake("case $1 in -c) printf 3.12.1;; *) echo 'no module named site' >&2; exit 9;; esac");
    let error = start(python, None).await;
    let text = error.to_string();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{text}");
    assert!(text.contains("no module named site") && text.contains("code 9"), "{text}");
}
