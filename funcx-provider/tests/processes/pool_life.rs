//! How a pool begins and ends, and what it leaves behind: nothing.

use std::{
    io::{BufRead, BufReader},
    process::{Command, Stdio},
    sync::Arc,
};

use funcx_core::contract::{Executor, ExecutorEvent};
use funcx_core::model::{Failure, OutcomeKind};
use funcx_provider::worker::{ProcessPool, ProcessPoolConfig};

use crate::support::{Bench, gone, value};

/// Set for the copy of this test program that is to be killed.
const VICTIM: &str = "FUNCX_TEST_VICTIM";

const PIDS: &str = "import os\ndef f():\n    return [os.getpid(), os.getppid()]";

/// Process ids of a worker and of the zygote.
async fn pids(bench: &mut Bench) -> [u32; 2] {
    let outcome = bench.run_source(PIDS, "").await;
    serde_json::from_str(value(&outcome)).unwrap()
}

#[tokio::test]
async fn draining_leaves_no_process() {
    let mut bench = Bench::new(3).await;
    let pids = pids(&mut bench).await;
    bench.finish().await;
    for pid in pids {
        gone(pid).await;
    }
}

#[tokio::test]
async fn stopping_and_dropping_end_commands() {
    for stops in [true, false] {
        let mut bench = Bench::new(2).await;
        let (task, pids) = bench.start_shell("sleep 3600 & echo [$$,$!] > {0}; wait").await;
        let pids: [u32; 2] = serde_json::from_str(pids.trim()).unwrap();
        if stops {
            bench.pool.stop(Failure::new("BlockEnded", "the block ends"));
            let failure = bench.outcome(task.attempt_id()).await.failure().unwrap();
            assert_eq!(failure.code, "BlockEnded");
            bench.finish().await;
        } else {
            drop(bench);
        }
        for pid in pids {
            gone(pid).await;
        }
    }
}

#[tokio::test]
async fn dropping_leaves_no_process_and_no_task_without_outcome() {
    let (sender, mut outcomes) = tokio::sync::mpsc::unbounded_channel();
    let sink = move |event| {
        if let ExecutorEvent::Outcomes(ended) = event {
            ended.into_iter().for_each(|outcome| drop(sender.send(outcome)));
        }
    };
    let mut bench = Bench::new(1).await;
    let directory = tempfile::tempdir().unwrap();
    let pool = ProcessPool::start(ProcessPoolConfig::new(2, directory.path()), Arc::new(sink)).await.unwrap();
    pool.start(vec![bench.task(PIDS, "")]);
    let [worker, zygote]: [u32; 2] = serde_json::from_str(value(&outcomes.recv().await.unwrap())).unwrap();
    let sleepers: Vec<_> =
        (0..5).map(|_| bench.task("import time\ndef f():\n    time.sleep(3600)", "")).collect();
    pool.start(sleepers.clone());
    drop(pool);
    for _ in &sleepers {
        assert_eq!(outcomes.recv().await.unwrap().kind, OutcomeKind::Lost);
    }
    assert!(outcomes.recv().await.is_none(), "a second outcome");
    gone(worker).await;
    gone(zygote).await;
    bench.finish().await;
}

#[test]
fn a_runtime_that_ends_takes_the_processes_along() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut bench = runtime.block_on(Bench::new(2));
    let pids = runtime.block_on(pids(&mut bench));
    drop(runtime);
    drop(bench);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    for pid in pids {
        runtime.block_on(gone(pid));
    }
}

/// Not a test by itself: the process that the next one kills. It has nothing to do when it is run with the others.
#[tokio::test]
async fn victim() {
    if std::env::var_os(VICTIM).is_none() {
        return;
    }
    let mut bench = Bench::new(2).await;
    println!("{VICTIM} {}", serde_json::to_string(&pids(&mut bench).await).unwrap());
    let child = "import subprocess\ndef f():\n    return [subprocess.Popen(['sleep', '3600']).pid, 1]";
    println!("{VICTIM} {}", value(&bench.run_source(child, "").await));
    let (_, pids) = bench.start_shell("sleep 3600 & echo [$$,$!] > {0}; wait").await;
    println!("{VICTIM} {}", pids.trim());
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn a_killed_manager_takes_the_processes_along() {
    // It cannot remove its private directory any more.
    let left_behind = tempfile::tempdir().unwrap();
    let mut victim = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "pool_life::victim", "--nocapture"])
        .env(VICTIM, "1")
        .env("TMPDIR", left_behind.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let lines = BufReader::new(victim.stdout.take().unwrap()).lines();
    let reports = lines.map_while(Result::ok).filter_map(|line| Some(line.split_once(VICTIM)?.1.to_owned()));
    let pids: Vec<u32> =
        reports.take(3).flat_map(|pids| serde_json::from_str::<[u32; 2]>(pids.trim()).unwrap()).collect();
    victim.kill().unwrap();
    victim.wait().unwrap();
    assert_eq!(pids.len(), 6, "the victim died early");
    for pid in pids.into_iter().filter(|pid| *pid > 1) {
        gone(pid).await;
    }
}

#[tokio::test]
async fn waiting_tasks_are_cancelled_at_once() {
    let mut bench = Bench::new(1).await;
    let source = "import time\ndef f():\n    time.sleep(3600)";
    let tasks: Vec<_> = (0..100).map(|_| bench.task(source, "")).collect();
    bench.pool.start(tasks.clone());
    let attempts: Vec<_> = tasks.iter().map(|task| task.attempt_id()).collect();
    bench.pool.cancel(&attempts);
    for outcome in bench.outcomes_of(&tasks).await {
        assert_eq!(outcome.kind, OutcomeKind::Cancelled);
    }
    bench.finish().await;
}

#[tokio::test]
async fn configurations_that_cannot_be_are_refused() {
    let start = async |config: ProcessPoolConfig| {
        ProcessPool::start(config, Arc::new(|_| {})).await.map(drop).unwrap_err().to_string()
    };
    assert!(start(ProcessPoolConfig::new(0, "/tmp")).await.contains("0 workers"));
    let huge = ProcessPoolConfig { max_result_bytes: usize::MAX, ..ProcessPoolConfig::new(1, "/tmp") };
    assert!(start(huge).await.contains("at most"));
}
