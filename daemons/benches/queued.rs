//! What a queue of a million tasks costs: memory of the service when the endpoint is away, and of both when the endpoint has
//! as many of them as the service gives out of one queue.
//!
//! ```text
//! cargo bench -p funcx-daemons --bench queued            1,000,000 tasks
//! cargo bench -p funcx-daemons --bench queued -- 100000
//! ```
//!
//! Real processes, a durable store, Python tasks with a few bytes of arguments that wait behind one that does not end.

#![expect(clippy::unwrap_used, reason = "a benchmark that cannot go on panics")]

#[path = "../tests/fabric/mod.rs"]
#[expect(dead_code, reason = "the tests use the rest of it")]
mod fabric;

use std::collections::BTreeMap;
use std::time::Duration;

use fabric::{Fabric, children};
use funcx_net::client::{Arguments, Call, CallOptions, FunctionRegistration};
use futures::stream::{self, StreamExt};
use tokio::time::Instant;

/// Tasks of one request, and requests at a time.
const BATCH: u32 = 1000;
const AT_ONCE: usize = 4;

/// Tasks of one queue that the service gives out at a time, `ServiceConfig::window_tasks`.
const WINDOW: u32 = 100_000;

fn main() {
    // `cargo test --benches` runs this too and wants it to be short; it has nothing to check.
    let words: Vec<String> = std::env::args().skip(1).collect();
    if words.iter().any(|word| word == "--bench") {
        let tasks = words.iter().find_map(|word| word.parse().ok()).unwrap_or(1_000_000);
        tokio::runtime::Runtime::new().unwrap().block_on(measure(tasks));
    }
}

async fn measure(tasks: u32) {
    let engine = "max_workers_per_node: 1\nqueue_tasks: 1000000";
    let mut fabric = Fabric::start_engine(engine, 1, &[]).await;
    let client = fabric.client();
    let endpoint = client.endpoint_named("faulty").await.unwrap().endpoint_id;
    let source = "import time\ndef wait(seconds):\n    time.sleep(seconds)";
    let function = client.register(&FunctionRegistration::python("wait", source)).await.unwrap().function_id;
    let arguments = |seconds: u32| Arguments::python(&(seconds,), &BTreeMap::<String, ()>::new()).unwrap();
    let mut long = client.submit(Call::new(endpoint, function, arguments(3600))).await.unwrap();
    long.id().await.unwrap();
    let family = children(std::process::id());
    let service = family[0];
    let before = mebibytes(family[1]);
    println!("idle: service {:.1} MiB, endpoint {before:.1} MiB", mebibytes(service));

    fabric.kill_endpoint().await;
    let empty = mebibytes(service);
    let begun = Instant::now();
    stream::iter((0..tasks).step_by(BATCH as usize))
        .map(|first| {
            let calls = (first..tasks.min(first + BATCH)).map(|_| arguments(0)).collect();
            client.submit_many(endpoint, function, CallOptions::default(), calls)
        })
        .buffer_unordered(AT_ONCE)
        .for_each(|submitted| async { drop(submitted.unwrap()) })
        .await;
    let took = begun.elapsed();
    let away = mebibytes(service);
    let each = |more: f64| more * f64::from(1 << 20) / f64::from(tasks);
    println!("{tasks} tasks accepted in {took:.1?}: {:.0} per s", f64::from(tasks) / took.as_secs_f64());
    println!("endpoint away: service {away:.1} MiB, {:.0} bytes for each task", each(away - empty));

    let begun = Instant::now();
    fabric.start_endpoint();
    fabric.online(1).await;
    let new = *children(std::process::id()).last().unwrap();
    let given = tasks.min(WINDOW);
    // One of them runs.
    while client.endpoint(endpoint).await.unwrap().leased < u64::from(given) {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // They are given out, and arrive.
    let mut at_endpoint = 0.0;
    while mebibytes(new) > at_endpoint {
        at_endpoint = mebibytes(new);
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let at_service = mebibytes(service);
    println!("{given} of them at the endpoint after {:.1?}", begun.elapsed());
    println!("  service {at_service:.1} MiB, {:.0} bytes for each task", each(at_service - empty));
    let more = (at_endpoint - before) * f64::from(1 << 20) / f64::from(given);
    println!("  endpoint {at_endpoint:.1} MiB, {more:.0} bytes for each task");

    drop(long);
    fabric.stop_all().await;
}

/// Memory of a process that is not on disk only.
fn mebibytes(pid: u32) -> f64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<f64>().unwrap() / 1024.0
}
