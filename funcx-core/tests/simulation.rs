//! A whole fabric under a virtual clock, over many seeds.

use std::time::Duration;

use funcx_core::conformance::fabric::{FabricConfig, simulate};
use funcx_core::model::OutcomeKind;

const CALM: FabricConfig = FabricConfig {
    endpoints: 2,
    managers: 2,
    workers: 3,
    tasks: 200,
    longest_task: Duration::from_millis(300),
    faults: 0,
    kills: true,
    max_attempts: 3,
};

#[test]
fn the_same_seed_gives_the_same_bytes() {
    let stormy = FabricConfig { faults: 20, ..CALM };
    let first = simulate(stormy, 7).unwrap();
    assert_eq!(simulate(stormy, 7).unwrap(), first);
    assert_ne!(simulate(stormy, 8).unwrap().trace, first.trace, "another seed is another history");
}

#[test]
fn without_faults_every_task_returns_or_crashes_too_often() {
    let report = simulate(CALM, 1).unwrap();
    assert_eq!(report.outcomes.values().sum::<u32>(), CALM.tasks);
    assert!(
        report.outcomes.keys().all(|kind| matches!(kind, OutcomeKind::Returned | OutcomeKind::Lost)),
        "{report:?}"
    );
    assert!(report.executions >= CALM.tasks);
}

#[test]
fn whatever_dies_every_task_has_exactly_one_outcome() {
    for seed in 0..300 {
        let config = FabricConfig {
            endpoints: 1 + (seed % 3) as u32,
            managers: 1 + (seed % 4) as u32,
            workers: 1 + (seed % 5) as u32,
            tasks: 60,
            longest_task: Duration::from_millis(50 + 40 * (seed % 30)),
            faults: (seed % 12) as u32,
            kills: true,
            max_attempts: 3,
        };
        let report = simulate(config, seed).unwrap_or_else(|wrong| panic!("{wrong}"));
        assert_eq!(report.outcomes.values().sum::<u32>(), config.tasks, "seed {seed}");
    }
}

#[test]
fn a_cut_cable_makes_nothing_run_twice() {
    for seed in 0..200 {
        let config = FabricConfig {
            endpoints: 1 + (seed % 3) as u32,
            managers: 1 + (seed % 4) as u32,
            workers: 1 + (seed % 5) as u32,
            tasks: 80,
            longest_task: Duration::from_millis(50 + 40 * (seed % 30)),
            faults: 5 + (seed % 40) as u32,
            kills: false,
            max_attempts: 1,
        };
        let report = simulate(config, seed).unwrap_or_else(|wrong| panic!("{wrong}"));
        assert!(report.executions <= config.tasks, "seed {seed}: {} executions", report.executions);
    }
}
