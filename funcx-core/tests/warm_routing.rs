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

/// Published: 22 switches in 3,000 tasks, and at most 61 % less time than with random routing (see
/// [`funcx_core::conformance::warm_routing`]).
#[test]
fn tasks_that_go_where_workers_are_warm_end_sooner() {
    for (seconds, least_percent) in [(0, 61), (1, 61), (5, 40), (20, 20)] {
        let setup = setup(seconds, 3000);
        let (warm, random) = (setup.run(), random(setup).run());
        let percent = 100 - 100 * warm.completion.as_millis() / random.completion.as_millis();
        assert!(percent >= least_percent, "{seconds} s: {percent} % less, {warm:?} {random:?}");
        assert!(warm.slots.switches < 22, "{seconds} s: {warm:?}");
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
