//! Whole fabrics under a virtual clock, over many seeds. `examples/rust/simulate.rs` runs as many as one likes.

use std::time::Duration;

use funcx_core::conformance::fabric::{FabricConfig, FaultKind, Plan, Step, explain, simulate};
use funcx_core::model::OutcomeKind;

/// Runs a seed; a failure shows the smallest plan that goes wrong.
fn holds(config: FabricConfig, seed: u64) -> funcx_core::conformance::fabric::FabricReport {
    simulate(config, seed).unwrap_or_else(|wrong| panic!("{wrong}"))
}

#[test]
fn the_same_plan_gives_the_same_bytes() {
    let stormy = FabricConfig { faults: 20, varied: 1, ..FabricConfig::default() };
    let first = Plan::new(stormy, 7).trace();
    assert_eq!(Plan::new(stormy, 7).trace(), first);
    assert_ne!(Plan::new(stormy, 8).trace().1, first.1, "another seed is another history");
}

#[test]
fn a_plan_is_what_its_text_says() {
    for seed in 0..200 {
        let plan = Plan::new(FabricConfig { faults: 30, ..FabricConfig::of_seed(seed) }, seed);
        assert_eq!(plan.to_string().parse(), Ok(plan));
    }
    assert!("seed=1; 5us explode 1".parse::<Plan>().is_err());
    assert!("workers=many seed=1".parse::<Plan>().is_err());
    assert!("wrokers=1 seed=1".parse::<Plan>().is_err());
}

#[test]
fn without_faults_every_task_returns_or_crashes_too_often() {
    let calm = FabricConfig { tasks: 200, ..FabricConfig::default() };
    let report = holds(calm, 1);
    assert_eq!(report.ended(), 200);
    let lost = report.outcomes.get(&OutcomeKind::Lost).copied().unwrap_or(0);
    assert_eq!(report.outcomes[&OutcomeKind::Returned] + lost, 200);
    assert!(report.executions > 200, "some workers crash");
}

#[test]
fn whatever_happens_every_promise_holds() {
    for seed in 0..1000 {
        holds(FabricConfig::of_seed(seed), seed);
    }
}

#[test]
fn no_task_is_given_to_a_block_that_ends_before_it() {
    let blocks = FabricConfig {
        block_millis: 30_000,
        longest_task_millis: 9_000,
        submit_millis: 60_000,
        varied: 1,
        ..FabricConfig::default()
    };
    let reports: Vec<_> = (0..20).map(|seed| holds(blocks, seed)).collect();
    assert!(reports.iter().all(|report| report.ended() == 60));
    let beyond = reports.iter().filter(|report| report.elapsed > Duration::from_secs(30)).count();
    assert!(beyond > 10, "first blocks have ended in {beyond} runs");
}

#[test]
fn more_environments_than_slots_share_them_and_none_starves() {
    let mut refused = 0;
    for seed in 0..50 {
        let config = FabricConfig {
            workers: 1 + (seed % 2) as u32,
            environments: 4,
            crashes_per_mille: 0,
            ..FabricConfig::default()
        };
        let report = holds(config, seed);
        assert_eq!(report.ended(), 60);
        let raised = report.outcomes.get(&OutcomeKind::Raised).copied().unwrap_or(0);
        assert_eq!(report.outcomes[&OutcomeKind::Returned] + raised, 60, "{:?}", report.outcomes);
        refused += raised;
    }
    assert!(refused > 0, "some managers lack an environment, and say so");
}

#[test]
fn every_kind_of_fault_comes_and_is_survived() {
    for kind in FaultKind::ALL {
        let mut faults = 0;
        for seed in 0..10 {
            let shape = FabricConfig::of_seed(seed);
            let config =
                FabricConfig { faults: 6, fault_kinds: FaultKind::mask(&[kind]), max_attempts: 1, ..shape };
            let steps = holds(config, seed).steps;
            faults +=
                steps.iter().filter(|(verb, _)| **verb != "submit").map(|(_, count)| count).sum::<u64>();
        }
        assert_eq!(faults, 60, "{kind:?}");
    }
}

#[test]
fn a_cut_cable_makes_nothing_run_twice() {
    let kinds =
        FaultKind::mask(&[FaultKind::Cut, FaultKind::Cancel, FaultKind::FullStore, FaultKind::SlowStore]);
    for seed in 0..200 {
        let config = FabricConfig {
            faults: 5 + (seed % 40) as u32,
            fault_kinds: kinds,
            max_attempts: 1,
            ..FabricConfig::of_seed(seed)
        };
        let report = holds(config, seed);
        assert!(report.executions <= config.tasks.into(), "seed {seed}: {} executions", report.executions);
    }
}

#[test]
fn a_full_store_accepts_nothing_and_recovers() {
    let full = |at: u64, millis| (Duration::from_millis(at), Step::FullStore { millis });
    let submit =
        |at: u64, first| (Duration::from_millis(at), Step::Submit { first, count: 20, lane: 0, variant: 0 });
    let steps = vec![submit(10, 0), full(100, 5_000), submit(200, 20), submit(6_000, 40)];
    let plan =
        Plan { config: FabricConfig { crashes_per_mille: 0, ..FabricConfig::default() }, seed: 1, steps };
    let report = plan.run().unwrap_or_else(|wrong| panic!("{}", explain(plan.clone(), &wrong)));
    assert_eq!(report.ended(), 40, "what came while it was full was refused");
    assert_eq!(report.executions, 40);
}

#[test]
fn equal_memoized_tasks_run_once_through_all_nodes() {
    let memoized = |at: u64, first| {
        (Duration::from_millis(at), Step::Submit { first, count: 20, lane: 0, variant: 128 })
    };
    // The second ones come when the first have long ended: the endpoint remembers.
    let steps = vec![memoized(10, 0), memoized(60_000, 20), memoized(60_000, 40)];
    let config = FabricConfig { crashes_per_mille: 0, longest_task_millis: 1000, ..FabricConfig::default() };
    let plan = Plan { config, seed: 1, steps };
    let report = plan.run().unwrap_or_else(|wrong| panic!("{}", explain(plan.clone(), &wrong)));
    assert_eq!((report.ended(), report.executions), (60, 5), "there are five different calls");
}

#[test]
fn a_cancelled_task_ends_whatever_it_does() {
    let steps = vec![
        (Duration::from_millis(1), Step::Submit { first: 0, count: 60, lane: 0, variant: 0 }),
        (Duration::from_secs(5), Step::Storm { times: 3 }),
    ];
    // Tasks that would run for up to five days.
    let config =
        FabricConfig { longest_task_millis: 500_000_000, crashes_per_mille: 0, ..FabricConfig::default() };
    let report = Plan { config, seed: 3, steps }.run().unwrap();
    assert!(report.outcomes[&OutcomeKind::Cancelled] > 50, "{report:?}");
    assert!(report.elapsed < Duration::from_secs(60), "{report:?}");
}

#[test]
fn a_planted_bug_is_found_and_shrunk_to_the_steps_that_matter() {
    let found = (0..100).find_map(|seed| {
        let shape = FabricConfig::of_seed(seed);
        let config = FabricConfig { forgetful_store: 1, faults: 12, max_attempts: 1, ..shape };
        let plan = Plan::new(config, seed);
        plan.run().is_err().then_some(plan)
    });
    let plan = found.expect("a store that forgets an outcome is noticed");
    let small = plan.clone().shrink();
    let wrong = small.run().unwrap_err();
    assert!(wrong.contains("runs twice") || wrong.contains("after it ended as"), "{wrong}");
    // A task ends, and the service starts again.
    assert!(small.steps.len() <= 3 && small.steps.len() < plan.steps.len(), "{small}");
    let again: Plan = small.to_string().parse().unwrap();
    assert_eq!(again.trace(), small.trace());
    let text = explain(plan, &wrong);
    assert!(text.contains(&small.to_string()) && text.contains("boot p0 life 1"), "{text}");
}
