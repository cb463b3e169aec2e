//! Cost of one decision: an attempt ends at a peer, and the next waiting task is leased to it.
//!
//! Budget: at most 0.5 µs, the same from 1 to 131,072 workers, with a million tasks queued. And the memory that a queued
//! task takes; budget: at most 300 bytes.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use divan::{Bencher, counter::ItemsCount};
use funcx_core::contract::Capacity;
use funcx_core::model::{Function, Hop, IdentityId, Now, Outcome, Task, TaskId, TaskSpec, Tick, Timestamp};
use funcx_core::state::{Dispatcher, DispatcherLimits, DispatcherOutput, LaneId};

const DECISIONS: usize = 200_000;

fn main() {
    let before = resident_bytes();
    let held = filled(0, 1_000_000);
    println!("memory: {} bytes per queued task", resident_bytes().saturating_sub(before) / 1_000_000);
    drop(held);
    divan::main();
}

/// Memory of this process, as Linux tells it; 0 elsewhere.
fn resident_bytes() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    pages.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0) * 4096
}

fn now() -> Now {
    Now { tick: Tick::from_nanos(1), wall: Timestamp::from_nanos(1) }
}

fn filled(workers: usize, tasks: usize) -> (Dispatcher, Vec<DispatcherOutput>) {
    let limits = DispatcherLimits { lane_tasks: 2_000_000, ..DispatcherLimits::default() };
    let mut dispatcher = Dispatcher::new(limits, Hop::EndpointSent);
    let lane = dispatcher.open_lane();
    let spec = Arc::new(TaskSpec::new(Arc::new(Function::native("noop")), IdentityId::from_u128(1)));
    // Ids as they come: random bits (here from a multiplier), not counted.
    let id =
        |n: usize| TaskId::from_u128((n as u128 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835));
    for batch in 0..tasks.div_ceil(1000) {
        let numbers = batch * 1000..tasks.min((batch + 1) * 1000);
        let queued = numbers.map(|n| Task::new(id(n), Arc::clone(&spec), "")).collect();
        assert!(dispatcher.submit(lane, queued, now()).is_empty());
    }
    for _ in 0..workers {
        dispatcher.add_peer(LaneId(0), Capacity { slots: 1, prefetch: 0 });
    }
    let mut running = Vec::new();
    while let Some(output) = dispatcher.poll_output() {
        running.push(output);
    }
    (dispatcher, running)
}

/// One slot for each worker: every decision is a batch of one, the worst case.
#[divan::bench(args = [1, 1_000, 131_072], sample_count = 5, sample_size = 1)]
fn one_by_one(bencher: Bencher<'_, '_>, workers: usize) {
    bencher.counter(ItemsCount::new(DECISIONS)).with_inputs(|| filled(workers, 1_000_000)).bench_local_refs(
        |(dispatcher, running)| {
            let mut turn = std::mem::take(running).into_iter().collect::<VecDeque<_>>();
            for _ in 0..DECISIONS {
                let Some(DispatcherOutput::Dispatch { peer, tasks }) = turn.pop_front() else { break };
                dispatcher.handle_outcomes(peer, vec![Outcome::returned(&tasks[0], "")], now());
                while let Some(output) = dispatcher.poll_output() {
                    if matches!(output, DispatcherOutput::Dispatch { .. }) {
                        turn.push_back(output);
                    }
                }
            }
        },
    );
}

/// Batches of 1,000 between few peers, as on a link between two nodes.
#[divan::bench(args = [1, 16, 1_024], sample_count = 5, sample_size = 1)]
fn in_batches(bencher: Bencher<'_, '_>, peers: usize) {
    bencher
        .counter(ItemsCount::new(DECISIONS))
        .with_inputs(|| {
            let (mut dispatcher, _) = filled(0, 1_000_000);
            let capacity = Capacity { slots: 1_000, prefetch: 0 };
            for _ in 0..peers {
                dispatcher.add_peer(LaneId(0), capacity);
            }
            dispatcher
        })
        .bench_local_refs(|dispatcher| {
            let mut done = 0;
            while done < DECISIONS {
                if let Some(DispatcherOutput::Dispatch { peer, tasks }) = dispatcher.poll_output() {
                    done += tasks.len();
                    let outcomes = tasks.iter().map(|task| Outcome::returned(task, "")).collect();
                    dispatcher.handle_outcomes(peer, outcomes, now());
                }
            }
        });
}

/// Ten types of tasks, and peers that are each warm for one of them: every decision is a batch of one.
#[divan::bench(args = [10, 1_000], sample_count = 5, sample_size = 1)]
fn ten_types_one_by_one(bencher: Bencher<'_, '_>, workers: usize) {
    bencher.counter(ItemsCount::new(DECISIONS)).with_inputs(|| filled_with_types(workers)).bench_local_refs(
        |(dispatcher, running)| {
            for _ in 0..DECISIONS {
                let Some(DispatcherOutput::Dispatch { peer, tasks }) = running.pop_front() else { break };
                dispatcher.handle_outcomes(peer, vec![Outcome::returned(&tasks[0], "")], now());
                while let Some(output) = dispatcher.poll_output() {
                    if matches!(output, DispatcherOutput::Dispatch { .. }) {
                        running.push_back(output);
                    }
                }
            }
        },
    );
}

fn filled_with_types(workers: usize) -> (Dispatcher, VecDeque<DispatcherOutput>) {
    const TYPES: usize = 10;
    let mut dispatcher = Dispatcher::new(DispatcherLimits::default(), Hop::EndpointSent);
    let lane = dispatcher.open_warm_lane(Duration::from_millis(100));
    let names: Vec<_> = (0..TYPES).map(|index| format!("type-{index}")).collect();
    let specs: Vec<_> = names
        .iter()
        .map(|name| {
            let mut spec = TaskSpec::new(Arc::new(Function::native("noop")), IdentityId::from_u128(1));
            spec.shape.environment = Some(name.clone());
            Arc::new(spec)
        })
        .collect();
    let tasks = |n: usize| Task::new(TaskId::from_u128(n as u128 + 1), Arc::clone(&specs[n * 7 % TYPES]), "");
    assert!(dispatcher.submit(lane, (0..2 * DECISIONS).map(tasks).collect(), now()).is_empty());
    for worker in 0..workers {
        let peer = dispatcher.add_peer(lane, Capacity::default());
        dispatcher.set_warm(peer, [(Some(names[worker % TYPES].as_str()), 1)]);
        dispatcher.set_capacity(peer, Capacity { slots: 1, prefetch: 0 });
    }
    let mut running = VecDeque::new();
    while let Some(output) = dispatcher.poll_output() {
        running.push_back(output);
    }
    (dispatcher, running)
}
