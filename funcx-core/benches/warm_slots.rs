//! Cost of dividing the slots of a manager among types of workers: a turn in which the load of one type changes, and the
//! answers to it are asked for and followed.

use std::time::Duration;

use divan::Bencher;
use funcx_core::model::{Now, Tick, Timestamp};
use funcx_core::state::{KeepAlive, WarmSlots};

const SLOTS: u32 = 128;

fn main() {
    divan::main();
}

fn at(turn: u64) -> Now {
    let nanos = 1 + turn * Duration::from_millis(1).as_nanos() as u64;
    Now { tick: Tick::from_nanos(nanos), wall: Timestamp::from_nanos(nanos) }
}

/// Workers begin and end at once, as they are asked to.
fn follow(slots: &mut WarmSlots, now: Now) {
    while let Some((index, wanted)) = slots.poll_output() {
        slots.handle_size(index, wanted, now);
    }
}

/// Every type has the same load, and one after the other has a task more or less: nothing is to be moved.
#[divan::bench(args = [1, 4, 16])]
fn steady(bencher: Bencher<'_, '_>, types: usize) {
    let mut slots = WarmSlots::new(SLOTS, KeepAlive::Learned);
    let load = 2 * SLOTS as usize / types;
    for index in 0..types {
        slots.add_type();
        slots.handle_tasks(index, load, at(0));
    }
    follow(&mut slots, at(0));
    let mut turn = 0;
    bencher.bench_local(|| {
        turn += 1;
        slots.handle_tasks(turn as usize % types, load + (turn % 2) as usize, at(turn));
        follow(&mut slots, at(turn));
    });
}

/// The whole load goes from one type to the next: every slot is moved.
#[divan::bench(args = [2, 4, 16])]
fn all_slots_move(bencher: Bencher<'_, '_>, types: usize) {
    let mut slots = WarmSlots::new(SLOTS, KeepAlive::Learned);
    (0..types).for_each(|_| {
        slots.add_type();
    });
    let mut turn = 0;
    bencher.bench_local(|| {
        slots.handle_tasks(turn as usize % types, 0, at(turn));
        turn += 1;
        slots.handle_tasks(turn as usize % types, SLOTS as usize, at(turn));
        follow(&mut slots, at(turn));
    });
}
