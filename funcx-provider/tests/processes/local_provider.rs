//! Blocks that are processes.

use std::time::Duration;

use funcx_core::conformance::provider::{Samples, suite};
use funcx_core::contract::{BlockRequest, Command, JobState, JobStatus, Provider, Registry};
use funcx_core::model::{BlockId, ErrorKind, JobId};
use funcx_provider::local::LocalProvider;
use tempfile::TempDir;

use crate::support::{PATIENCE, gone};

fn shell(script: &str) -> Command {
    Command::new("/bin/sh").with_arguments(["-c", script])
}

fn block(id: u32, command: Command) -> BlockRequest {
    BlockRequest { block: BlockId(id), nodes: 1, walltime: None, command }
}

fn provider() -> (TempDir, LocalProvider) {
    let logs = tempfile::tempdir().unwrap();
    let provider = LocalProvider::new(logs.path().join("logs"), Duration::from_millis(200));
    (logs, provider)
}

async fn end_of(provider: &LocalProvider, job: &JobId) -> JobStatus {
    let wait = async {
        loop {
            let status = provider.status(std::slice::from_ref(job)).await.unwrap().remove(job).unwrap();
            if status.state.is_final() {
                return status;
            }
            provider.changed().await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.expect("the job does not end")
}

/// The process id that a block has written to a file.
async fn pid_in(path: &std::path::Path) -> u32 {
    let wait = async {
        loop {
            if let Ok(pid) = std::fs::read_to_string(path).unwrap_or_default().trim().parse() {
                return pid;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.expect("no process id")
}

#[tokio::test]
async fn it_keeps_the_contract() {
    let (_logs, provider) = provider();
    let samples = Samples { succeeds: shell("exit 0"), fails: shell("exit 3"), lasts: shell("sleep 3600") };
    tokio::time::timeout(PATIENCE, suite(&provider, &samples)).await.expect("a job does not end");
}

#[tokio::test]
async fn a_failure_tells_exit_code_and_last_lines() {
    let (logs, provider) = provider();
    let script = "for i in $(seq 100); do echo line $i; done; echo the reason >&2; exit 3";
    let job = provider.submit(&block(7, shell(script))).await.unwrap();
    let status = end_of(&provider, &job).await;
    let reason = status.reason.unwrap();
    assert_eq!(status.state, JobState::Failed);
    assert!(reason.contains("exit code 3") && reason.contains("line 100\nthe reason"), "{reason}");
    assert!(!reason.contains("line 50\n"), "{reason}");
    let log = std::fs::read_to_string(logs.path().join("logs/block-7.log")).unwrap();
    assert!(log.starts_with("line 1\n"), "{log}");
}

#[tokio::test]
async fn a_signal_is_named() {
    let (_logs, provider) = provider();
    let job = provider.submit(&block(1, shell("kill -9 $$"))).await.unwrap();
    assert!(end_of(&provider, &job).await.reason.unwrap().contains("signal 9"));
}

#[tokio::test]
async fn a_block_past_its_walltime_is_stopped() {
    let (_logs, provider) = provider();
    let request = BlockRequest { walltime: Some(Duration::from_millis(50)), ..block(1, shell("sleep 3600")) };
    let job = provider.submit(&request).await.unwrap();
    assert_eq!(end_of(&provider, &job).await.state, JobState::TimedOut);
}

#[tokio::test]
async fn cancelling_ends_the_whole_group_even_if_it_does_not_listen() {
    let (logs, provider) = provider();
    let pid_file = logs.path().join("pid");
    let script =
        format!("trap '' TERM; sleep 3600 & echo $! > {}; while :; do wait; done", pid_file.display());
    let job = provider.submit(&block(1, shell(&script))).await.unwrap();
    let pid = pid_in(&pid_file).await;
    provider.cancel(std::slice::from_ref(&job)).await.unwrap();
    assert_eq!(end_of(&provider, &job).await.state, JobState::Cancelled);
    gone(pid).await;
}

#[tokio::test]
async fn dropping_the_provider_ends_its_blocks() {
    let (logs, provider) = provider();
    let pid_file = logs.path().join("pid");
    let script = format!("sleep 3600 & echo $! > {}; wait", pid_file.display());
    provider.submit(&block(1, shell(&script))).await.unwrap();
    let pid = pid_in(&pid_file).await;
    drop(provider);
    gone(pid).await;
}

#[tokio::test]
async fn what_another_process_has_left_is_ended() {
    let directory = tempfile::tempdir().unwrap();
    let (pid_file, ledger) = (directory.path().join("pid"), directory.path().join("blocks"));
    assert_eq!(LocalProvider::end_leftovers(&ledger).await.unwrap(), 0);
    let provider = LocalProvider::new(directory.path(), Duration::from_secs(1)).with_ledger(&ledger);
    // Its child is in a group of its own, as workers are.
    let script = format!("setsid sleep 3600 & echo $! > {}; wait", pid_file.display());
    let job = provider.submit(&block(1, shell(&script))).await.unwrap();
    let pid = pid_in(&pid_file).await;
    assert_eq!(LocalProvider::end_leftovers(&ledger).await.unwrap(), 2);
    gone(pid).await;
    assert!(end_of(&provider, &job).await.reason.unwrap().contains("signal 9"));
    assert_eq!(LocalProvider::end_leftovers(&ledger).await.unwrap(), 0);
}

#[tokio::test]
async fn input_environment_and_directory_reach_the_block() {
    let (logs, provider) = provider();
    let mut command = shell("cat; echo $WORD; pwd").with_variable("WORD", "a variable");
    command.stdin = b"some input\n".to_vec();
    command.directory = Some(logs.path().into());
    let job = provider.submit(&block(1, command)).await.unwrap();
    assert_eq!(end_of(&provider, &job).await.state, JobState::Completed);
    let log = std::fs::read_to_string(logs.path().join("logs/block-1.log")).unwrap();
    let directory = logs.path().canonicalize().unwrap();
    assert_eq!(log, format!("some input\na variable\n{}\n", directory.display()));
}

#[tokio::test]
async fn a_missing_program_is_named() {
    let (_logs, provider) = provider();
    let error = provider.submit(&block(1, Command::new("/no/such/program"))).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert!(error.to_string().contains("/no/such/program"), "{error}");
}

#[tokio::test]
async fn it_is_found_by_name() {
    let (_logs, provider) = provider();
    let mut registry = Registry::new("provider");
    provider.register(&mut registry).unwrap();
    assert_eq!(registry.find("LocalProvider").unwrap().capability().max_nodes, 1);
}
