//! Native functions in this process, without any daemon: `cargo run --example in_process`.
//!
//! The same functions first as a `tower::Service`, one call at a time, then on the threads of an executor, in a batch.

use std::{
    sync::{Arc, mpsc},
    time::Instant,
};

use funcx_core::Result;
use funcx_core::contract::{Executor, ExecutorEvent};
use funcx_core::inproc::NativeFunctions;
use funcx_core::model::{Function, IdentityId, Task, TaskId, TaskSpec, Tick};
use tower::{Service, ServiceExt};

/// The first prime factors of a number.
fn factors(mut n: u64) -> Vec<u64> {
    let mut found = Vec::new();
    let mut divisor = 2;
    while divisor * divisor <= n {
        while n.is_multiple_of(divisor) {
            found.push(divisor);
            n /= divisor;
        }
        divisor += 1;
    }
    found.extend((n > 1).then_some(n));
    found
}

fn functions() -> Result<NativeFunctions> {
    let mut functions = NativeFunctions::new();
    functions.register("factors", factors)?;
    functions.register_async("greet", |name: String| async move { format!("hello, {name}") })?;
    Ok(functions)
}

fn task(number: u128, function: &str, arguments: String) -> Task {
    let spec = TaskSpec::new(Arc::new(Function::native(function)), IdentityId::from_u128(1));
    Task::new(TaskId::from_u128(number), Arc::new(spec), arguments)
}

#[tokio::main]
async fn main() -> Result<()> {
    let mut service = functions()?.into_service();
    let greeting = service.ready().await?.call(task(1, "greet", "\"world\"".into())).await?;
    println!("service: {}", String::from_utf8_lossy(&greeting.payload));
    assert_eq!(greeting.payload, "\"hello, world\"");

    // An executor takes batches and tells a sink what became of them, in any order.
    let (outcomes, ended) = mpsc::channel();
    let sink = move |event| {
        if let ExecutorEvent::Outcomes(batch) = event {
            // Nobody listens any more when the program ends.
            let _ = outcomes.send(batch);
        }
    };
    // It stops tasks whose time is over; by which clock, we say.
    let begin = Instant::now();
    let clock = move || Tick::ZERO + begin.elapsed();
    let executor = functions()?.into_executor(2, Arc::new(clock), Arc::new(sink))?;
    executor.start((1..=1000).map(|n: u128| task(n, "factors", n.to_string())).collect());
    let all: Vec<_> = ended.into_iter().flatten().take(1000).collect();
    // What had not begun would be given back.
    executor.drain().await;

    let primes = all.iter().filter(|outcome| !outcome.payload.contains(&b',') && outcome.payload.len() > 2);
    println!("executor: {} of the numbers up to {} are prime", primes.clone().count(), all.len());
    assert_eq!((all.len(), primes.count()), (1000, 168));
    Ok(())
}
