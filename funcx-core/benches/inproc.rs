//! A call of a native function in this process, through `tower::Service`. Budget: at most 2 µs.

use std::sync::Arc;

use divan::Bencher;
use funcx_core::inproc::{NativeFunctions, NativeService};
use funcx_core::layer::MemoizeLayer;
use funcx_core::model::{Function, IdentityId, Outcome, Task, TaskId, TaskSpec};
use tower::{Layer, Service};

fn main() {
    divan::main();
}

fn service() -> NativeService {
    let mut functions = NativeFunctions::new();
    functions.register_raw("noop", |bytes| Ok(bytes.clone())).expect("the first name is free");
    functions.register("add", |(a, b): (i64, i64)| a + b).expect("the second name is free");
    functions.into_service()
}

fn task(name: &str, arguments: &'static str) -> Task {
    let spec = TaskSpec::new(Arc::new(Function::native(name)), IdentityId::from_u128(1));
    Task::new(TaskId::from_u128(1), Arc::new(spec), arguments)
}

fn call<S: Service<Task, Response = Outcome>>(service: &mut S, task: &Task) -> Outcome {
    match futures::executor::block_on(service.call(task.clone())) {
        Ok(outcome) => outcome,
        Err(_) => panic!("a native service does not fail"),
    }
}

#[divan::bench(args = [("noop", ""), ("add", "[1,2]")])]
fn native(bencher: Bencher<'_, '_>, (name, arguments): (&str, &'static str)) {
    let (mut service, task) = (service(), task(name, arguments));
    bencher.bench_local(|| call(&mut service, &task));
}

#[divan::bench]
fn memoized(bencher: Bencher<'_, '_>) {
    let (mut service, task) =
        (MemoizeLayer::with_capacity_bytes(1 << 20).layer(service()), task("add", "[1,2]"));
    bencher.bench_local(|| call(&mut service, &task));
}
