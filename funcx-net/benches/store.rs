//! Durable commits of the embedded store, in tasks or outcomes per second, and what durability costs: the same commits
//! to a store that keeps everything in memory.
//!
//! `cargo bench -p funcx-net --bench store`. Each row is the median of five runs on a store that has the tasks of all rows
//! before it; the figures are those of the disk that holds the temporary directory (`TMPDIR`). "CPU µs" is processor time
//! of the whole process per task, which depends less than the rate on what else the machine does.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use funcx_core::conformance::task_store::MemoryStore;
use funcx_core::contract::{OutcomeRecord, QueueKey, Submission, TaskStore, Write};
use funcx_core::model::{
    EndpointId, Function, FunctionId, IdentityId, Outcome, Task, TaskGroupId, TaskId, TaskSpec, Timestamp,
};
use funcx_net::store::EmbeddedStore;
use nix::sys::{
    resource::{UsageWho, getrusage},
    time::TimeValLike,
};

const RUNS: usize = 5;
const RUN: Duration = Duration::from_secs(1);
const PAYLOAD_BYTES: usize = 100;
/// Tasks of a queue that the service has read before they end, as in its default configuration.
const WINDOW_TASKS: u64 = 100_000;
const ENDPOINT: EndpointId = EndpointId::from_u128(1);
const QUEUE: QueueKey = QueueKey { owner: IdentityId::from_u128(2), priority: 0 };

fn main() {
    // The test runner starts benches with `--test` to see whether they work; one short run shows that.
    let run =
        if std::env::args().any(|argument| argument == "--test") { Duration::from_millis(1) } else { RUN };
    let directory = tempfile::tempdir().expect("a temporary directory");
    let open = || EmbeddedStore::open(directory.path().join("store")).expect("a store");
    let bench = Bench::new(Arc::new(open()), run);
    println!(
        "{:<8} {:>6} {:>11} {:>12} {:>12} {:>8}",
        "writes", "batch", "committers", "per second", "ms a commit", "CPU µs"
    );
    for committers in [1, 64] {
        for batch in [1, 128, 1000] {
            let write = move |first| Write::Submit(submission(first, batch));
            bench.report("accept", batch, committers, |_| {}, write);
        }
    }
    for committers in [1, 64] {
        for batch in [1, 128, 1000] {
            // A short run on a store of its own: what it accepts fills the memory.
            let memory = Bench::new(Arc::new(MemoryStore::new()), run / 10);
            let write = move |first| Write::Submit(submission(first, batch));
            memory.report("memory", batch, committers, |_| {}, write);
        }
    }
    bench.page_row();
    bench.finish_rows();
}

struct Bench {
    runtime: tokio::runtime::Runtime,
    store: Arc<dyn TaskStore>,
    run: Duration,
    next: Arc<AtomicU64>,
}

impl Bench {
    fn new(store: Arc<dyn TaskStore>, run: Duration) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().expect("a runtime");
        Self { runtime, store, run, next: Arc::new(AtomicU64::new(1)) }
    }

    /// Commits from `committers` tasks at once, each as soon as its last one is durable.
    fn report(
        &self,
        what: &str,
        batch: u64,
        committers: usize,
        prepare: impl Fn(u64),
        write: impl Fn(u64) -> Write + Clone + Send + Sync + 'static,
    ) {
        let mut runs: Vec<_> = (0..RUNS)
            .map(|_| {
                let first = self.next.load(Ordering::Relaxed);
                prepare(first);
                let cpu = cpu_seconds();
                let begin = Instant::now();
                let lanes = (0..committers).map(|_| {
                    let (store, next, run) = (Arc::clone(&self.store), Arc::clone(&self.next), self.run);
                    let write = write.clone();
                    self.runtime.spawn(async move {
                        while begin.elapsed() < run {
                            let first = next.fetch_add(batch, Ordering::Relaxed);
                            store.commit(vec![write(first)]).await.expect("a commit");
                        }
                    })
                });
                self.runtime.block_on(futures::future::join_all(lanes.collect::<Vec<_>>()));
                let done = self.next.load(Ordering::Relaxed) - first;
                let rate = done as f64 / begin.elapsed().as_secs_f64();
                (rate, (cpu_seconds() - cpu) * 1e6 / done as f64)
            })
            .collect();
        runs.sort_by(|(one, _), (other, _)| one.total_cmp(other));
        let (rate, cpu) = runs[RUNS / 2];
        let millis = (batch as usize * committers) as f64 / rate * 1e3;
        println!("{what:<8} {batch:>6} {committers:>11} {rate:>12.0} {millis:>12.2} {cpu:>8.1}");
    }

    /// Gives an outcome to the tasks that were accepted, oldest first, once they have been read as the service does before
    /// it hands them out.
    fn finish_rows(&self) {
        self.next.store(1, Ordering::Relaxed);
        for committers in [1, 64] {
            for batch in [1, 128, 1000] {
                let write = move |first| Write::Finish((first..first + batch).map(outcome).collect());
                self.report("finish", batch, committers, |first| self.load_window(first), write);
            }
        }
    }

    /// Reads a window of the queue from this task on.
    fn load_window(&self, first: u64) {
        let (mut after, end) = (first - 1, first + WINDOW_TASKS);
        while after < end {
            let page = self.runtime.block_on(self.store.pending(ENDPOINT, QUEUE, after, 1000, usize::MAX));
            let Some(last) = page.expect("a page").last().map(|task| task.sequence) else { break };
            after = last;
        }
    }

    /// Reads the queue page by page, from the beginning again when it comes to the end.
    fn page_row(&self) {
        let begin = Instant::now();
        let (mut after, mut read) = (0, 0);
        while begin.elapsed() < self.run {
            let page =
                self.runtime.block_on(self.store.pending(ENDPOINT, QUEUE, after, usize::MAX, usize::MAX));
            let page = page.expect("a page");
            read += page.len();
            after = page.last().map_or(0, |task| task.sequence);
        }
        let rate = read as f64 / begin.elapsed().as_secs_f64();
        println!("{:<8} {:>6} {:>11} {rate:>12.0}", "pending", 1000, 1);
    }
}

/// Processor time that this process has used.
fn cpu_seconds() -> f64 {
    let usage = getrusage(UsageWho::RUSAGE_SELF).expect("the usage of this process");
    [usage.user_time(), usage.system_time()].map(|time| time.num_microseconds() as f64 / 1e6).iter().sum()
}

/// Ids spread like random ones do: the order in which they come is not their own order.
fn task_id(number: u64) -> TaskId {
    let spread = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    TaskId::from_u128(u128::from(spread) << 64 | u128::from(number))
}

fn spec() -> Arc<TaskSpec> {
    Arc::new(TaskSpec::new(Arc::new(Function::native("noop")), IdentityId::from_u128(2)))
}

fn submission(first: u64, batch: u64) -> Submission {
    let payload = Bytes::from(vec![b'x'; PAYLOAD_BYTES]);
    Submission {
        endpoint: ENDPOINT,
        group: TaskGroupId::from_u128(3),
        function: FunctionId::from_u128(4),
        spec: spec(),
        accepted: Timestamp::from_nanos(first),
        first_sequence: first,
        tasks: (first..first + batch).map(|number| (task_id(number), payload.clone())).collect(),
    }
}

fn outcome(number: u64) -> OutcomeRecord {
    let task = Task::new(task_id(number), spec(), "");
    OutcomeRecord {
        outcome: Outcome::returned(&task, vec![b'y'; PAYLOAD_BYTES]),
        completed: Timestamp::from_nanos(1),
    }
}
