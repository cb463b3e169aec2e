//! No-op tasks per second from one node through a link to native workers: endpoint ⇄ manager ⇄ executor, in batches.
//!
//! Budget: at least 500,000 tasks/s over TCP. Prints the median of several runs for each transport.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use funcx_core::contract::{Address, IdleFirst};
use funcx_core::inproc::NativeFunctions;
use funcx_core::message::{Hello, Refused, Role};
use funcx_core::model::{Function, FunctionKind, Hop, IdentityId, Outcome, Task, TaskId, TaskSpec, Tick};
use funcx_core::state::{
    DispatcherLimits, JournalEntry, LaneId, LinkPolicy, Node, NodeConfig, UplinkIdentity,
};
use funcx_net::driver::{self, Above, Clock, NodeHost, NodeNotice};
use funcx_net::transport::Transports;
use futures::future::{BoxFuture, FutureExt, ready};
use tokio::sync::Notify;
use uuid::Uuid;

const TASKS: usize = 1_000_000;
const RUNS: usize = 5;

/// Counts outcomes.
#[derive(Default)]
struct Counter {
    outcomes: AtomicUsize,
    all: Notify,
}

impl NodeHost for Counter {
    fn authorize(&self, _: Hello) -> BoxFuture<'static, Result<LaneId, Refused>> {
        ready(Ok(LaneId(0))).boxed()
    }

    fn deliver(&self, outcomes: Vec<Outcome>) -> BoxFuture<'static, ()> {
        let before = self.outcomes.fetch_add(outcomes.len(), Ordering::Relaxed);
        if (before + outcomes.len()).is_multiple_of(TASKS) && !outcomes.is_empty() {
            self.all.notify_one();
        }
        ready(()).boxed()
    }

    fn record(&self, _: Vec<JournalEntry>) -> BoxFuture<'static, ()> {
        ready(()).boxed()
    }

    fn notice(&self, _: NodeNotice) {}
}

fn config(uplink: bool) -> NodeConfig {
    NodeConfig {
        uplink: uplink.then(|| UplinkIdentity {
            role: Role::Manager,
            node: Uuid::from_u128(1),
            epoch: 1,
            life: 0,
            process: 1,
            ends_at: Tick::NEVER,
            credential: String::new(),
            name: "bench".to_owned(),
            software: "bench".to_owned(),
        }),
        link: LinkPolicy::with_heartbeat(Duration::from_secs(10)),
        limits: DispatcherLimits { lane_tasks: 2 * TASKS, ..DispatcherLimits::default() },
        retries: true,
        ..NodeConfig::new(Hop::EndpointSent, "bench")
    }
}

async fn measure(address: &str) -> Result<(), funcx_core::Error> {
    let transports = Arc::new(Transports::standard());
    let mut listener = transports.listen(&address.parse()?).await?;
    let bound: Address = listener.address();
    let counter = Arc::new(Counter::default());
    let (upper, _) =
        driver::start(config(false), Arc::clone(&counter) as _, None, |node: &mut Node<IdleFirst>| {
            node.open_lane();
        });
    let above = Above { transports, address: bound };
    let (lower, _) =
        driver::start::<IdleFirst>(config(true), Arc::new(Counter::default()), Some(above), |_| {});
    upper.accept(listener.accept().await?);
    let (token, sink) = lower.executor_sink();
    let mut functions = NativeFunctions::new();
    functions.register_raw("noop", |_| Ok(bytes::Bytes::new()))?;
    let clock = Clock::default();
    let executor = functions.into_executor(1, Arc::new(move || clock.now().tick), sink)?;
    lower.attach(token, Arc::new(executor), None);

    let function = Arc::new(Function::native("noop"));
    assert_eq!(function.kind(), FunctionKind::Native);
    let spec = Arc::new(TaskSpec::new(function, IdentityId::from_u128(1)));
    let mut rates = Vec::new();
    for run in 0..RUNS {
        let id = |n: usize| {
            TaskId::from_u128(
                ((run * TASKS + n) as u128 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835),
            )
        };
        let tasks: Vec<_> = (0..TASKS).map(|n| Task::new(id(n), Arc::clone(&spec), "")).collect();
        let began = Instant::now();
        let refused = upper.submit(LaneId(0), tasks).await?;
        assert!(refused.is_empty());
        counter.all.notified().await;
        rates.push(TASKS as f64 / began.elapsed().as_secs_f64());
    }
    rates.sort_by(f64::total_cmp);
    println!("{:<10} {:>12.0} tasks/s  [{:.0}–{:.0}]", address, rates[RUNS / 2], rates[0], rates[RUNS - 1]);
    upper.stop();
    lower.stop();
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), funcx_core::Error> {
    let directory = tempfile::tempdir().expect("a temporary directory");
    println!("{TASKS} no-op tasks through a link to one native worker, median of {RUNS} [min–max]");
    for address in ["mem:bench", &format!("unix:{}/bench", directory.path().display()), "tcp:127.0.0.1:0"] {
        measure(address).await?;
    }
    Ok(())
}
