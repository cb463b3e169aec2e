//! How long it takes until all processes of many running commands are gone once they are cancelled in one call.
//!
//!     cargo bench -p funcx-provider --bench cancel -- 1000
//!
//! Each command is one process, which leads a process group.

use std::{
    fs,
    sync::Arc,
    time::{Duration, Instant},
};

use funcx_core::contract::{Executor, ExecutorEvent};
use funcx_core::model::{Function, IdentityId, OutcomeKind, Task, TaskId, TaskSpec};
use funcx_provider::worker::{ProcessPool, ProcessPoolConfig};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::{runtime::Runtime, sync::mpsc::unbounded_channel};

/// Commands if no number is given.
const COMMANDS: u32 = 1000;

/// Processes of this machine that run this command. Those that have ended and are not collected have none any more.
fn running(command: &str) -> Vec<i32> {
    let command = command.replace(' ', "\0") + "\0";
    let processes = fs::read_dir("/proc").expect("the processes of this machine").filter_map(Result::ok);
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid| fs::read_to_string(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line == command))
        .collect()
}

/// Memory that only this process has, and what it has with others, in KiB.
fn memory(pid: i32) -> (u64, u64) {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let sum = |names: &[&str]| {
        let lines = text.lines().filter(|line| names.iter().any(|name| line.starts_with(name)));
        lines.filter_map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok()).sum()
    };
    (sum(&["Private_Clean:", "Private_Dirty:"]), sum(&["Rss:"]))
}

async fn cancel_all(count: u32) {
    let (sender, mut events) = unbounded_channel();
    let sink = move |event| drop(sender.send(event));
    let directory = tempfile::tempdir().expect("a directory");
    let config = ProcessPoolConfig::new(count, directory.path());
    let pool = ProcessPool::start(config, Arc::new(sink)).await.expect("python3 is in PATH");
    // No other process of this machine sleeps as long.
    let command = format!("sleep {}", 1_000_000 + std::process::id());
    let spec = Arc::new(TaskSpec::new(Arc::new(Function::shell(command.clone())), IdentityId::from_u128(1)));
    let tasks: Vec<_> =
        (0..count).map(|id| Task::new(TaskId::from_u128(id.into()), Arc::clone(&spec), "")).collect();
    let attempts: Vec<_> = tasks.iter().map(Task::attempt_id).collect();
    let begin = Instant::now();
    pool.start(tasks);
    let mut waiting = count as usize;
    while waiting > 0 {
        match events.recv().await.expect("the pool lives") {
            ExecutorEvent::Started(started) => waiting -= started.len(),
            ExecutorEvent::Outcomes(outcomes) => panic!("{:?}", outcomes[0].failure()),
            ExecutorEvent::Capacity(_) | ExecutorEvent::GaveBack(_) => {}
        }
    }
    println!("{count} commands started after {:.1?}", begin.elapsed());
    let mut pids = running(&command);
    while pids.len() < count as usize {
        tokio::time::sleep(Duration::from_millis(100)).await;
        pids = running(&command);
    }
    let (private, rss) =
        pids.iter().map(|pid| memory(*pid)).fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
    let count_u64 = u64::from(count);
    println!("  each: {} KiB of its own, {} KiB resident", private / count_u64, rss / count_u64);

    let begin = Instant::now();
    pool.cancel(&attempts);
    let mut left = count as usize;
    while left > 0 {
        if let ExecutorEvent::Outcomes(outcomes) = events.recv().await.expect("the pool lives") {
            assert!(outcomes.iter().all(|outcome| outcome.kind == OutcomeKind::Cancelled));
            left -= outcomes.len();
        }
    }
    let answered = begin.elapsed();
    let alive = running(&command).len();
    while !running(&command).is_empty() {}
    println!(
        "  last outcome after {answered:.2?}; {alive} processes were still there then; all gone at most {:.2?} after",
        begin.elapsed()
    );
    let begin = Instant::now();
    pool.drain().await;
    println!("  drained in {:.1?}", begin.elapsed());
}

fn main() {
    // `cargo test --benches` runs this too and wants it to be short; it has nothing to check.
    let arguments: Vec<_> = std::env::args().collect();
    if !arguments.iter().any(|argument| argument == "--bench") {
        return;
    }
    let count = arguments.iter().find_map(|argument| argument.parse().ok()).unwrap_or(COMMANDS);
    // Each command could be a worker, which has a socket.
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
    Runtime::new().expect("a runtime").block_on(cancel_all(count));
}
