//! What the process pool costs over the least that a Python process could do, and how long processes take.
//!
//!     cargo bench -p funcx-provider --bench process_pool [-- map]
//!
//! The floor is a bare Python loop over a Unix socket with buffered frames: unpickle the arguments, call, pickle the
//! value. Floor and pool take turns, so that both see the same machine; figures are medians over the rounds.
//!
//! A map is many calls in one task; its floor is a Python loop that calls the function and keeps the values, with nothing
//! to read or write.

use std::{
    collections::VecDeque,
    io::{Read, Write},
    os::{fd::OwnedFd, unix::net::UnixStream},
    process::{Command, Stdio},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use funcx_core::contract::{Executor, ExecutorEvent};
use funcx_core::model::{Function, IdentityId, OutcomeKind, Task, TaskId, TaskSpec};
use funcx_provider::worker::{ProcessPool, ProcessPoolConfig};
use nix::sys::resource::{UsageWho, getrusage};
use tokio::{
    runtime::Runtime,
    sync::mpsc::{UnboundedReceiver, unbounded_channel},
};

const ROUNDS: usize = 5;
const TASKS: usize = 200_000;
const COMMANDS: usize = 1000;
/// Calls in one task of a map, and about how many calls are made with each.
const CHUNKS: [usize; 7] = [1, 4, 16, 64, 256, 1024, 4096];
const MAP_CALLS: usize = 2_000_000;
const ROUND_TRIPS: usize = 2000;

const NOOP: &str = "def f():\n    return None";

const BARE_LOOP: &str = r#"
import pickle, socket, struct
head = struct.Struct("<I")
def f():
    return None
connection = socket.socket(fileno=0)
rest = b""
while True:
    data = connection.recv(1 << 20)
    if not data:
        break
    data = rest + data
    replies, position, size = [], 0, len(data)
    while size - position >= 4:
        end = position + 4 + head.unpack_from(data, position)[0]
        if end > size:
            break
        args, kwargs = pickle.loads(data[position + 4:end])
        result = pickle.dumps(f(*args, **kwargs), 5)
        replies.append(head.pack(len(result)))
        replies.append(result)
        position = end
    rest = data[position:]
    connection.sendall(b"".join(replies))
"#;

const BARE_CALLS: &str = r#"
import sys, time
def f():
    return None
def run(calls):
    values = []
    add = values.append
    for args, kwargs in calls:
        add(f(*args, **kwargs))
    return values
calls = [((), {})] * 4096
begin = time.perf_counter()
for _ in range(1000):
    run(calls)
print(4096 * 1000 / (time.perf_counter() - begin))
"#;

/// Calls per second that Python makes in a loop.
fn bare_calls() -> f64 {
    let output = Command::new("python3").args(["-c", BARE_CALLS]).output().expect("python3 is in PATH");
    String::from_utf8_lossy(&output.stdout).trim().parse().expect("a number")
}

/// Calls per second of the bare loop.
fn bare_loop() -> f64 {
    // pickle.dumps(((), {}), 5), and pickle.dumps(None, 5) behind its length.
    const CALL: &[u8] = b"\x80\x05)}\x86.";
    const REPLY_BYTES: usize = 4 + 4;
    let (mut ours, theirs) = UnixStream::pair().expect("a socket pair");
    let mut python = Command::new("python3")
        .args(["-c", BARE_LOOP])
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .spawn()
        .expect("python3 is in PATH");
    let mut frame = (CALL.len() as u32).to_le_bytes().to_vec();
    frame.extend(CALL);

    let call = |socket: &mut UnixStream, count: usize| {
        let mut writer = socket.try_clone().expect("a second handle");
        let all = frame.repeat(count);
        let writes = thread::spawn(move || writer.write_all(&all).expect("the loop reads"));
        let (mut replies, mut buffer) = (0, vec![0; 1 << 20]);
        while replies < count * REPLY_BYTES {
            replies += socket.read(&mut buffer).expect("the loop writes");
        }
        writes.join().expect("the writer is done");
    };
    call(&mut ours, 1000);
    let begin = Instant::now();
    call(&mut ours, TASKS);
    let rate = TASKS as f64 / begin.elapsed().as_secs_f64();
    drop(ours);
    python.wait().expect("the loop ends");
    rate
}

struct Pool {
    pool: ProcessPool,
    events: UnboundedReceiver<ExecutorEvent>,
    next_id: u128,
    credits: usize,
}

impl Pool {
    async fn start(workers: u32) -> Self {
        let (sender, events) = unbounded_channel();
        let sink = move |event| drop(sender.send(event));
        let config = ProcessPoolConfig::new(workers, std::env::temp_dir());
        let pool = ProcessPool::start(config, Arc::new(sink)).await.expect("python3 is in PATH");
        let credits = pool.capability().capacity.credits() as usize;
        Self { pool, events, next_id: 0, credits }
    }

    fn tasks(&mut self, function: Function, count: usize) -> VecDeque<Task> {
        let spec = Arc::new(TaskSpec::new(Arc::new(function), IdentityId::from_u128(1)));
        let first = self.next_id;
        self.next_id += count as u128;
        (first..self.next_id).map(|id| Task::new(TaskId::from_u128(id), Arc::clone(&spec), "")).collect()
    }

    /// Runs all tasks, never holding more than the pool takes.
    async fn run(&mut self, mut tasks: VecDeque<Task>) {
        let (mut running, mut left) = (0, tasks.len());
        while left > 0 {
            let share = self.credits.saturating_sub(running).min(tasks.len());
            if share > 0 {
                running += share;
                self.pool.start(tasks.drain(..share).collect());
            }
            match self.events.recv().await.expect("the pool lives") {
                ExecutorEvent::Outcomes(outcomes) => {
                    running -= outcomes.len();
                    left -= outcomes.len();
                }
                ExecutorEvent::Capacity(capacity) => self.credits = capacity.credits() as usize,
                ExecutorEvent::Started(_) | ExecutorEvent::GaveBack(_) => {}
            }
        }
    }

    async fn run_one(&mut self, function: Function) -> OutcomeKind {
        let tasks = self.tasks(function, 1);
        self.pool.start(tasks.into());
        loop {
            if let ExecutorEvent::Outcomes(outcomes) = self.events.recv().await.expect("the pool lives") {
                return outcomes[0].kind;
            }
        }
    }

    async fn tasks_per_second(&mut self, function: Function, count: usize) -> f64 {
        let tasks = self.tasks(function, count);
        let begin = Instant::now();
        self.run(tasks).await;
        count as f64 / begin.elapsed().as_secs_f64()
    }
}

/// No-op tasks per second of a pool, warmed up, and what each of them costs this process.
async fn pool_rate(workers: u32) -> (f64, Duration) {
    let mut pool = Pool::start(workers).await;
    pool.tasks_per_second(Function::python("f", NOOP), 1000).await;
    let before = processor_time();
    let rate = pool.tasks_per_second(Function::python("f", NOOP), TASKS).await;
    let cost = (processor_time() - before) / TASKS as u32;
    pool.pool.drain().await;
    (rate, cost)
}

/// Processor time of this process so far.
fn processor_time() -> Duration {
    let usage = getrusage(UsageWho::RUSAGE_SELF).expect("the system tells");
    let micros = |time: nix::sys::time::TimeVal| time.tv_sec() as u64 * 1_000_000 + time.tv_usec() as u64;
    Duration::from_micros(micros(usage.user_time()) + micros(usage.system_time()))
}

/// Calls per second of a pool that maps a no-op over chunks, whose elements are this text.
async fn map_rate(workers: u32, chunk: usize, element: &str) -> f64 {
    let mut pool = Pool::start(workers).await;
    let function = Function::python("f", "def f(*args):\n    return None");
    let mut spec = TaskSpec::new(Arc::new(function), IdentityId::from_u128(1));
    spec.map = true;
    let (spec, payload) = (Arc::new(spec), format!("[{}]", vec![element; chunk].join(",")));
    let payload = bytes::Bytes::from(payload);
    let count = (MAP_CALLS / chunk).min(TASKS / 4);
    let tasks = |first: usize, count: usize| {
        let task = |id| Task::new(TaskId::from_u128(id as u128), Arc::clone(&spec), payload.clone());
        (first..first + count).map(task).collect::<VecDeque<_>>()
    };
    pool.run(tasks(0, 100)).await;
    let all = tasks(100, count);
    let begin = Instant::now();
    pool.run(all).await;
    let rate = (count * chunk) as f64 / begin.elapsed().as_secs_f64();
    pool.pool.drain().await;
    rate
}

async fn shell_rate(workers: u32) -> f64 {
    let mut pool = Pool::start(workers).await;
    let rate = pool.tasks_per_second(Function::shell("true"), COMMANDS).await;
    pool.pool.drain().await;
    rate
}

/// From nothing to the first outcome, and the part of it until the pool can fork.
async fn cold_start() -> (Duration, Duration) {
    let begin = Instant::now();
    let mut pool = Pool::start(1).await;
    let ready = begin.elapsed();
    pool.run_one(Function::python("f", NOOP)).await;
    let first = begin.elapsed();
    pool.pool.drain().await;
    (ready, first)
}

/// From the loss of the only worker to the first outcome of its successor.
async fn fork_to_first_outcome(count: usize) -> Vec<Duration> {
    let mut pool = Pool::start(1).await;
    let mut times = Vec::new();
    for _ in 0..count {
        assert_eq!(
            pool.run_one(Function::python("f", "import os\ndef f():\n    os._exit(1)")).await,
            OutcomeKind::Lost
        );
        let begin = Instant::now();
        assert_eq!(pool.run_one(Function::python("f", NOOP)).await, OutcomeKind::Returned);
        times.push(begin.elapsed());
    }
    pool.pool.drain().await;
    times
}

async fn round_trips() -> Vec<Duration> {
    let mut pool = Pool::start(1).await;
    let mut times = Vec::new();
    for _ in 0..ROUND_TRIPS {
        let begin = Instant::now();
        pool.run_one(Function::python("f", NOOP)).await;
        times.push(begin.elapsed());
    }
    pool.pool.drain().await;
    times
}

fn median<T: Copy + PartialOrd>(values: &[T]) -> T {
    percentile(values, 50)
}

fn percentile<T: Copy + PartialOrd>(values: &[T], percent: usize) -> T {
    let mut sorted = values.to_vec();
    sorted.sort_by(|a, b| a.partial_cmp(b).expect("no NaN"));
    sorted[(sorted.len() - 1) * percent / 100]
}

fn map_rates(runtime: &Runtime) {
    let loops: Vec<_> = (0..ROUNDS).map(|_| bare_calls()).collect();
    println!("mapped no-op calls/s, medians of 3 rounds; a Python loop makes {:.0}", median(&loops));
    for (name, element) in [("no arguments", "{}"), ("an argument", r#"{"args":[1]}"#)] {
        for chunk in CHUNKS {
            let rates = [1, 2].map(|workers| {
                let rates: Vec<_> =
                    (0..3).map(|_| runtime.block_on(map_rate(workers, chunk, element))).collect();
                median(&rates)
            });
            println!(
                "  {name}, {chunk:>4} in a task   1 worker {:>9.0}   2 workers {:>9.0}",
                rates[0], rates[1]
            );
        }
    }
}

fn main() {
    // `cargo test --benches` runs this too and wants it to be short; it has nothing to check.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let runtime = Runtime::new().expect("a runtime");
    if std::env::args().any(|argument| argument == "map") {
        return map_rates(&runtime);
    }
    let mut costs = Vec::new();
    let mut pool_rate = |workers| {
        let (rate, cost) = runtime.block_on(pool_rate(workers));
        costs.push(cost);
        rate
    };
    let rounds: Vec<[f64; 3]> = (0..ROUNDS).map(|_| [bare_loop(), pool_rate(1), pool_rate(2)]).collect();
    let column = |index: usize| rounds.iter().map(|round| round[index]).collect::<Vec<_>>();
    let ratio =
        |index: usize| median(&rounds.iter().map(|round| round[index] / round[0]).collect::<Vec<_>>());
    println!("no-op tasks/s, medians of {ROUNDS} rounds of {TASKS}");
    println!("  bare Python loop   {:>10.0}", median(&column(0)));
    println!("  pool of 1 worker   {:>10.0}   {:.2} of the bare loop", median(&column(1)), ratio(1));
    println!("  pool of 2 workers  {:>10.0}   {:.2} of the bare loop", median(&column(2)), ratio(2));

    println!("  processor time of the manager: {:?} per task", median(&costs));

    map_rates(&runtime);

    for workers in [1, 2] {
        let rates: Vec<_> = (0..ROUNDS).map(|_| runtime.block_on(shell_rate(workers))).collect();
        println!("shell commands/s, {workers} worker(s): {:.0}", median(&rates));
    }

    let trips = runtime.block_on(round_trips());
    println!("round trip: p50 {:?}, p99 {:?}", median(&trips), percentile(&trips, 99));
    let forks = runtime.block_on(fork_to_first_outcome(3));
    println!("lost worker to first outcome of its successor: median {:?}", median(&forks));
    let starts: Vec<_> = (0..2 * ROUNDS).map(|_| runtime.block_on(cold_start())).collect();
    let (ready, first): (Vec<_>, Vec<_>) = starts.into_iter().unzip();
    println!("cold start: ready to fork {:?}, first outcome {:?} (medians)", median(&ready), median(&first));
}
