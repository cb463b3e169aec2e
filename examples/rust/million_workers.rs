//! A million simulated workers run ten million tasks in one thread: a service, 16 endpoints with 64 managers each, 1,000
//! workers in each manager. The nodes are the real ones; connections, clocks and the tasks themselves are simulated.
//!
//! ```text
//! cargo run --release -p funcx-examples --example million_workers [tasks] [workers]
//! ```

use std::time::{Duration, Instant};

use funcx_core::conformance::fabric::{Fabric, FabricConfig, FabricReport, Plan};

const ENDPOINTS: u32 = 16;
const MANAGERS: u32 = 64;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let mut number = |default: u32| arguments.next().map_or(Ok(default), |argument| argument.parse());
    let tasks = number(10_000_000)?;
    let workers = number(1_000_000)?.div_ceil(ENDPOINTS * MANAGERS);
    let total = u64::from(workers * ENDPOINTS * MANAGERS);
    let config = FabricConfig {
        endpoints: ENDPOINTS,
        managers: MANAGERS,
        workers,
        prefetch: workers / 4,
        queue_tasks: 4096,
        // As many as an endpoint takes, and half of that to hand out before more is read from the store.
        window_tasks: 2 * workers * MANAGERS,
        tasks,
        submission_tasks: 20_000,
        submit_millis: 10_000,
        longest_task_millis: 10_000,
        grain_micros: 50_000,
        crashes_per_mille: 0,
        // Looking at every invariant takes time in proportion to the tasks: here at the end only.
        check_every: 0,
        ..FabricConfig::default()
    };
    println!("{total} workers, {tasks} tasks of up to 10 s");
    let started = Instant::now();
    let mut fabric = Fabric::new(&Plan::new(config, 1));
    fabric.start();
    let mut shown = Instant::now();
    while !fabric.advance(1_000)? {
        if shown.elapsed() > Duration::from_secs(5) {
            shown = Instant::now();
            show(&fabric.report(), started.elapsed());
        }
    }
    let report = fabric.report();
    show(&report, started.elapsed());
    let ended = report.ended();
    if ended != u64::from(tasks) || report.executions != ended {
        return Err(format!("{tasks} tasks, but {ended} ended after {} executions", report.executions).into());
    }
    println!("every task ended once; outcomes {:?}", report.outcomes);
    if let Some(kibibytes) = memory("VmHWM:") {
        println!("peak memory {} MB", kibibytes / 1000);
    }
    Ok(())
}

fn show(report: &FabricReport, real: Duration) {
    println!(
        "{:>6.1} s real {:>6.1} s virtual: {} ended, {:.0} tasks/s, {} messages, {} events, {} MB",
        real.as_secs_f64(),
        report.elapsed.as_secs_f64(),
        report.ended(),
        report.ended() as f64 / real.as_secs_f64(),
        report.messages,
        report.events,
        memory("VmRSS:").unwrap_or(0) / 1000,
    );
}

/// What Linux says about the memory of this process, in KiB.
fn memory(field: &str) -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    line.split_whitespace().next()?.parse().ok()
}
