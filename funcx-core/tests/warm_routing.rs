//! The experiment on warm routing. Under a virtual clock its figures are the same on every machine.

use std::time::Duration;

use funcx_core::conformance::warm_routing::{Routing, WarmRouting};

fn setup(seconds: u64, tasks: u32) -> WarmRouting {
    WarmRouting { duration: Duration::from_secs(seconds), tasks, ..WarmRouting::default() }
}

fn random(setup: WarmRouting) -> WarmRouting {
    WarmRouting { routing: Routing::Random, ..setup }
}

#[test]
fn the_same_run_has_the_same_figures() {
    for setup in [setup(1, 300), random(setup(1, 300))] {
        assert_eq!(setup.run(), setup.run());
    }
}

/// Random routing is over the same managers, which give an idle slot to another type at once and so switch some 2,600 times; the
/// published ones keep it, and switched 99 times. So the published gain of 61 % over random is no measure for ours. What needs no
/// baseline is held against what is possible: 22 switches were published, and no routing ends before every slot has started
/// once and all have shared the work.
#[test]
fn tasks_that_go_where_workers_are_warm_end_almost_as_soon_as_they_can() {
    for seconds in [0, 1, 5, 20] {
        let setup = setup(seconds, 3000);
        let (warm, random) = (setup.run(), random(setup).run());
        let work = setup.duration * setup.tasks / (setup.managers * setup.slots);
        let possible = setup.cold_start + work;
        assert!(warm.completion >= possible, "{seconds} s: sooner than it can be: {warm:?}");
        assert!(warm.completion < possible.mul_f64(1.1), "{seconds} s: {possible:?} would do: {warm:?}");
        assert!(warm.slots.switches < 22, "{seconds} s: {warm:?}");
        assert!(warm.completion < random.completion, "{seconds} s: {warm:?} {random:?}");
    }
}

/// Nothing but the order in which types come differs from one seed to the next.
#[test]
fn no_seed_makes_warm_routing_worse_than_random() {
    for seed in 1..=10 {
        for prefetch in [0, 10] {
            let setup = WarmRouting { seed, prefetch, ..setup(1, 1000) };
            let (warm, random) = (setup.run(), random(setup).run());
            assert!(warm.completion <= random.completion, "{setup:?}: {warm:?} {random:?}");
            assert!(warm.slots.switches <= random.slots.switches, "{setup:?}: {warm:?} {random:?}");
        }
    }
}
