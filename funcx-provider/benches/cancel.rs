//! How long it takes until all processes of many running commands are gone once they are cancelled in one call.
//!
//!     cargo bench -p funcx-provider --bench cancel -- 1000
//!
//! Each command is a process of its own in the process group of its worker, so twice as many processes end.

use std::{
    collections::HashSet,
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

/// Processes of this machine that are alive, by process group: those that have ended and are not collected do not count.
fn alive_in(groups: &HashSet<i32>) -> Vec<i32> {
    let numbers = |text: String| -> Option<(i32, char)> {
        let mut rest = text.rsplit(')').next()?.split_whitespace();
        let state = rest.next()?.chars().next()?;
        Some((rest.nth(1)?.parse().ok()?, state))
    };
    let processes = fs::read_dir("/proc").expect("the processes of this machine").filter_map(Result::ok);
    processes
        .filter_map(|entry| {
            let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
            let (group, state) = numbers(fs::read_to_string(entry.path().join("stat")).ok()?)?;
            (groups.contains(&group) && !matches!(state, 'Z' | 'X')).then_some(pid)
        })
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
    let begin = Instant::now();
    let pool = ProcessPool::start(config, Arc::new(sink)).await.expect("python3 is in PATH");
    // Each says in which group it runs.
    let command =
        "echo $$ > \"$FUNCX_TASK_ID.new\"; mv \"$FUNCX_TASK_ID.new\" \"$FUNCX_TASK_ID\"; exec sleep 1000";
    let spec = Arc::new(TaskSpec::new(Arc::new(Function::shell(command)), IdentityId::from_u128(1)));
    let tasks: Vec<_> =
        (0..count).map(|id| Task::new(TaskId::from_u128(id.into()), Arc::clone(&spec), "")).collect();
    let attempts: Vec<_> = tasks.iter().map(Task::attempt_id).collect();
    pool.start(tasks);
    let sleeping = || {
        let entries = fs::read_dir(directory.path()).expect("our directory");
        entries.filter_map(Result::ok).filter(|entry| entry.path().extension().is_none()).count()
    };
    while sleeping() < count as usize {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    println!("{count} commands run after {:.1?}", begin.elapsed());

    let mut groups = HashSet::new();
    let mut totals = [(0, 0); 2];
    for attempt in &attempts {
        let pid = fs::read_to_string(directory.path().join(attempt.task.to_string())).expect("its pid");
        let pid: i32 = pid.trim().parse().expect("a number");
        let group = nix::unistd::getpgid(Some(nix::unistd::Pid::from_raw(pid))).expect("it runs").as_raw();
        groups.insert(group);
        for (total, pid) in totals.iter_mut().zip([group, pid]) {
            let (private, rss) = memory(pid);
            *total = (total.0 + private, total.1 + rss);
        }
    }
    assert_eq!((groups.len(), alive_in(&groups).len()), (count as usize, 2 * count as usize));
    for (name, (private, rss)) in ["worker", "command"].into_iter().zip(totals) {
        println!(
            "  each {name}: {} KiB of its own, {} KiB resident",
            private / u64::from(count),
            rss / u64::from(count)
        );
    }

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
    let alive = alive_in(&groups).len();
    while !alive_in(&groups).is_empty() {}
    println!(
        "  last outcome after {answered:.0?}; {alive} processes were still there then; all gone at most {:.0?} after",
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
    // Each worker has a socket.
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
    Runtime::new().expect("a runtime").block_on(cancel_all(count));
}
