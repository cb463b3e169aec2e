//! Cost of a memoized call in a dispatcher, from its submission to its outcome: one that runs, one that waits for an equal one,
//! and one whose value is known; and of one that is not memoized. Keys are found before, as they are in a service.

use std::sync::Arc;

use divan::{Bencher, counter::ItemsCount};
use funcx_core::contract::Capacity;
use funcx_core::memo::MemoKey;
use funcx_core::model::{
    Function, Hop, IdentityId, Memoize, Now, Outcome, Task, TaskId, TaskSpec, Tick, Timestamp,
};
use funcx_core::state::{Dispatcher, DispatcherLimits, DispatcherOutput, LaneId};

const CALLS: u32 = 10_000;
const CACHE_BYTES: usize = 64 << 20;

fn main() {
    divan::main();
}

fn calls(memoize: Memoize, different: u32) -> Vec<Task> {
    let spec = TaskSpec::new(Arc::new(Function::native("f")), IdentityId::from_u128(1));
    let spec = Arc::new(TaskSpec { memoize, ..spec });
    let call = |number: u32| {
        let id = u128::from(number + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
        let arguments = (number % different).to_string();
        let mut task = Task::new(TaskId::from_u128(id), Arc::clone(&spec), arguments);
        let key = || Arc::new(MemoKey::own(&task.spec, &task.payload));
        task.memo = (memoize != Memoize::Never).then(key);
        task
    };
    (0..CALLS).map(call).collect()
}

fn dispatcher(cache_bytes: usize) -> Dispatcher {
    let mut dispatcher = Dispatcher::new(DispatcherLimits::default(), Hop::EndpointSent);
    let lane = dispatcher.open_lane();
    dispatcher.memoize(cache_bytes);
    dispatcher.add_peer(lane, Capacity { slots: CALLS, prefetch: 0 });
    dispatcher
}

/// Submits calls, lets those return that run, and gives the number of outcomes.
fn run(dispatcher: &mut Dispatcher, calls: Vec<Task>) -> usize {
    let now = Now { tick: Tick::from_nanos(1), wall: Timestamp::from_nanos(1) };
    assert!(dispatcher.submit(LaneId(0), calls, now).is_empty());
    let mut ended = 0;
    while let Some(output) = dispatcher.poll_output() {
        match output {
            DispatcherOutput::Dispatch { peer, tasks } => {
                let outcomes = tasks.iter().map(|task| Outcome::returned(task, "value")).collect();
                dispatcher.handle_outcomes(peer, outcomes, now);
            }
            DispatcherOutput::Deliver(outcomes) => ended += outcomes.len(),
            _ => {}
        }
    }
    ended
}

fn measure(bencher: Bencher<'_, '_>, memoize: Memoize, different: u32, cache_bytes: usize) {
    bencher
        .counter(ItemsCount::new(CALLS))
        .with_inputs(|| (dispatcher(cache_bytes), calls(memoize, different)))
        .bench_local_values(|(mut dispatcher, calls)| {
            assert_eq!(run(&mut dispatcher, calls), CALLS as usize);
            dispatcher
        });
}

#[divan::bench]
fn not_memoized(bencher: Bencher<'_, '_>) {
    measure(bencher, Memoize::Never, CALLS, CACHE_BYTES);
}

#[divan::bench]
fn all_different(bencher: Bencher<'_, '_>) {
    measure(bencher, Memoize::Own, CALLS, CACHE_BYTES);
}

#[divan::bench]
fn each_a_hundred_times(bencher: Bencher<'_, '_>) {
    measure(bencher, Memoize::Own, CALLS / 100, CACHE_BYTES);
}

#[divan::bench]
fn values_known(bencher: Bencher<'_, '_>) {
    bencher
        .counter(ItemsCount::new(CALLS))
        .with_inputs(|| {
            let mut known = dispatcher(CACHE_BYTES);
            run(&mut known, calls(Memoize::Own, CALLS / 100));
            (known, calls(Memoize::Own, CALLS / 100))
        })
        .bench_local_values(|(mut dispatcher, calls)| {
            assert_eq!(run(&mut dispatcher, calls), CALLS as usize);
            dispatcher
        });
}
