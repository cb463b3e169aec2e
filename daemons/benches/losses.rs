//! What the loss of a manager and of an endpoint costs, with real processes, set up as in the papers on funcX.
//!
//! ```text
//! cargo bench -p funcx-daemons --bench losses                 both, once each; the second takes a minute
//! cargo bench -p funcx-daemons --bench losses -- manager 5    the first, five times; medians are printed
//! ```
//!
//! *Manager*: two managers of four workers; 300 tasks of 100 ms, 8 every 0.15 s (53/s); one manager is killed with
//! SIGKILL 2 s after the first, in the middle of a batch. That is the committed script behind figure 7 of *Serverless Supercomputing* (Chard et
//! al., arXiv 1908.04907), and its figures are those of the committed log.
//!
//! *Endpoint*: a task every 4 s; the endpoint is killed with SIGKILL just after one, and started again 42 s later. That is
//! the outage of the HPDC 2020 paper.

#![expect(clippy::unwrap_used, reason = "a benchmark that cannot go on panics")]

#[path = "../tests/fabric/mod.rs"]
#[expect(dead_code, reason = "the tests use the rest of it")]
mod fabric;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use fabric::{Fabric, kill};
use funcx_core::model::{FunctionId, Hop, OutcomeKind};
use funcx_net::client::{Arguments, Call, Client, FunctionRegistration, TaskView};
use funcx_net::driver::wall_clock;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

/// Notes when it begins and when it ends, so that what ran twice can be counted.
const WORK: &str = "\
def work(n, log):
    import os, time
    def note(word):
        with open(log, 'a') as file:
            file.write(f'{word} {n}\\n')
    note('begin')
    time.sleep(0.1)
    note('end')
";

const TASKS: u32 = 300;
const BATCH: u32 = 8;
const BATCH_EVERY: Duration = Duration::from_millis(150);
const MANAGER_DIES: Duration = Duration::from_millis(2000);
/// The papers' means are over so much time.
const BIN: Duration = Duration::from_millis(500);

const TASK_EVERY: Duration = Duration::from_secs(4);
const TASKS_OF_OUTAGE: u32 = 18;
/// 50 ms after the third task, which runs then.
const ENDPOINT_DIES: Duration = Duration::from_millis(8050);
const OUTAGE: Duration = Duration::from_secs(42);

/// One task and what became of it.
struct Ended {
    n: u32,
    submitted: Duration,
    latency: Duration,
    task: TaskView,
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with("--")).collect();
    let has = |which: &str| words.is_empty() || words[0] == which;
    let runs = words.get(1).map_or(1, |runs| runs.parse().unwrap());
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    if has("manager") {
        let figures: Vec<_> = (0..runs).map(|_| runtime.block_on(lose_manager())).collect();
        print("manager killed, 300 tasks of 100 ms at 53/s", "funcX, committed log", &figures);
    }
    if has("endpoint") {
        let figures: Vec<_> = (0..runs).map(|_| runtime.block_on(lose_endpoint())).collect();
        print("endpoint away for 42 s, a task every 4 s", "funcX, HPDC 2020", &figures);
    }
}

/// A figure, its value here, and the paper's.
type Figure = (&'static str, f64, &'static str);

/// Medians of the figures of all runs, beside the paper's.
fn print(what: &str, paper: &str, runs: &[Vec<Figure>]) {
    println!("\n{what}; medians of {} runs\n{:<52}{:>12}  {paper}", runs.len(), "", "here");
    for (row, (name, _, theirs)) in runs[0].iter().enumerate() {
        let mut values: Vec<f64> = runs.iter().map(|run| run[row].1).collect();
        values.sort_by(f64::total_cmp);
        println!("{name:<52}{:>12.1}  {theirs}", values[values.len() / 2]);
    }
}

async fn lose_manager() -> Vec<Figure> {
    let engine = "max_workers_per_node: 4\n  provider: {init_blocks: 2, min_blocks: 2, max_blocks: 2}";
    let fabric = Fabric::start_engine(engine, 8, &[]).await;
    let log = tempfile::NamedTempFile::new().unwrap();
    let begun = warm(&fabric, log.path()).await;
    let killing = async {
        let manager = fabric.manager().await;
        sleep_until(begun + MANAGER_DIES).await;
        kill(manager);
        wall_clock().as_nanos()
    };
    let due = |n: u32| BATCH_EVERY * (n / BATCH);
    let (killed, ended) = tokio::join!(killing, load(&fabric, log.path(), begun, TASKS, due));
    // What began and ended with the manager was back in the queue before the endpoint gave it out again.
    let twice = more_than_once(log.path(), "begin ");
    let mut again: Vec<f64> = ended
        .iter()
        .filter(|ended| twice.contains(&ended.n))
        .map(|ended| ended.task.stamps[Hop::EndpointSent.as_str()].saturating_sub(killed) as f64 / 1e6)
        .collect();
    again.sort_by(f64::total_cmp);
    let quiet = |ended: &&Ended| ended.submitted < MANAGER_DIES - Duration::from_millis(500);
    let base = median(ended.iter().filter(quiet).map(|ended| ended.latency));
    // Means of the tasks submitted in each half second from the loss on; the batch that it interrupts is in the first.
    let bin = |number: u32| {
        let from = MANAGER_DIES + BIN * number;
        let inside = |ended: &&Ended| (from..from + BIN).contains(&(ended.submitted + BATCH_EVERY));
        mean(ended.iter().filter(inside).map(|ended| ended.latency))
    };
    let slow = (0..7).rev().find(|number| bin(*number) > 1.5 * base);
    let recovered = slow.map_or(Duration::ZERO, |number| BIN * (number + 1));
    let mut figures = vec![
        ("in-flight tasks given out again: first, ms", again.first().copied().unwrap_or_default(), "-"),
        (
            "in-flight tasks given out again: last, ms",
            again.last().copied().unwrap_or_default(),
            "2,000, its threshold",
        ),
        ("median latency before, ms", base, "120 to 130"),
        ("worst latency, ms", worst(&ended), "2,150"),
        ("mean latency, half second of the loss, ms", bin(0), "580"),
        ("mean latency, the half second after, ms", bin(1), "350"),
        ("mean latency below 1.5 medians again after, ms", recovered.as_secs_f64() * 1e3, "1,500"),
    ];
    figures.extend(audit(&ended, TASKS, log.path(), "5"));
    fabric.stop().await;
    figures
}

async fn lose_endpoint() -> Vec<Figure> {
    let mut fabric = Fabric::start(4).await;
    let log = tempfile::NamedTempFile::new().unwrap();
    let begun = warm(&fabric, log.path()).await;
    let client = fabric.client();
    let outage = async {
        sleep_until(begun + ENDPOINT_DIES).await;
        fabric.kill_endpoint().await;
        sleep_until(begun + ENDPOINT_DIES + OUTAGE).await;
        fabric.start_endpoint();
        fabric.online(4).await;
        begun.elapsed()
    };
    let load = load_with(client, log.path(), begun, TASKS_OF_OUTAGE, |n| TASK_EVERY * n);
    let (online, ended) = tokio::join!(outage, load);
    let back = ENDPOINT_DIES + OUTAGE;
    let waited = ended
        .iter()
        .filter(|ended| (ENDPOINT_DIES - Duration::from_millis(100)..back).contains(&ended.submitted));
    let late = waited.map(|ended| (ended.submitted + ended.latency).saturating_sub(back));
    let after = ended.iter().filter(|ended| ended.submitted > online).map(|ended| ended.latency);
    let mut figures = vec![
        (
            "endpoint started to last waiting outcome, ms",
            late.max().unwrap_or_default().as_secs_f64() * 1e3,
            "-",
        ),
        ("worst latency, ms", worst(&ended), "42,000"),
        ("median latency after, ms", median(after), "1,200 to 1,500 for 80 s"),
    ];
    figures.extend(audit(&ended, TASKS_OF_OUTAGE, log.path(), "-"));
    fabric.stop().await;
    figures
}

/// Runs a few tasks until everything is warm; the time from which the experiment counts.
async fn warm(fabric: &Fabric, log: &Path) -> Instant {
    load(fabric, log, Instant::now(), 16, |_| Duration::ZERO).await;
    std::fs::write(log, "").unwrap();
    Instant::now() + Duration::from_millis(500)
}

async fn load(
    fabric: &Fabric,
    log: &Path,
    begun: Instant,
    tasks: u32,
    due: impl Fn(u32) -> Duration,
) -> Vec<Ended> {
    load_with(fabric.client(), log, begun, tasks, due).await
}

/// Submits so many tasks, each when it is due, whatever became of those before.
async fn load_with(
    client: Client,
    log: &Path,
    begun: Instant,
    tasks: u32,
    due: impl Fn(u32) -> Duration,
) -> Vec<Ended> {
    let endpoint = client.endpoint_named("faulty").await.unwrap().endpoint_id;
    let function: FunctionId =
        client.register(&FunctionRegistration::python("work", WORK)).await.unwrap().function_id;
    let mut running = JoinSet::new();
    for n in 0..tasks {
        let arguments =
            Arguments::python(&(n, log.to_str().unwrap()), &BTreeMap::<String, ()>::new()).unwrap();
        let (client, call, submitted) = (client.clone(), Call::new(endpoint, function, arguments), due(n));
        sleep_until(begun + submitted).await;
        running.spawn(async move {
            let started = Instant::now();
            let task = client.submit(call).await.unwrap().await.unwrap();
            Ended { n, submitted, latency: started.elapsed(), task }
        });
    }
    running.join_all().await
}

/// What was lost, and what ran twice.
fn audit(ended: &[Ended], tasks: u32, log: &Path, begun_twice: &'static str) -> [Figure; 3] {
    let returned = ended.iter().filter(|ended| ended.task.outcome == Some(OutcomeKind::Returned)).count();
    [
        ("tasks lost", f64::from(tasks) - returned as f64, "0"),
        ("tasks begun twice", more_than_once(log, "begin ").len() as f64, begun_twice),
        ("tasks run to their end twice", more_than_once(log, "end ").len() as f64, "-"),
    ]
}

/// The tasks that noted this word more than once.
fn more_than_once(log: &Path, word: &str) -> Vec<u32> {
    let mut counts = BTreeMap::new();
    for line in std::fs::read_to_string(log).unwrap().lines() {
        if let Some(n) = line.strip_prefix(word) {
            *counts.entry(n.parse().unwrap()).or_insert(0) += 1;
        }
    }
    counts.into_iter().filter(|(_, count)| *count > 1).map(|(n, _)| n).collect()
}

fn worst(ended: &[Ended]) -> f64 {
    ended.iter().map(|ended| ended.latency).max().unwrap_or_default().as_secs_f64() * 1e3
}

fn mean(times: impl Iterator<Item = Duration>) -> f64 {
    let times: Vec<_> = times.map(|time| time.as_secs_f64() * 1e3).collect();
    times.iter().sum::<f64>() / times.len().max(1) as f64
}

fn median(times: impl Iterator<Item = Duration>) -> f64 {
    let mut times: Vec<_> = times.collect();
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default().as_secs_f64() * 1e3
}
