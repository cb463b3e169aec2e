//! The dispatcher against its reference model, over random sequences of inputs.

use funcx_core::conformance::dispatcher_model::{DispatcherModel, Step};
use proptest::prelude::*;

fn step() -> impl Strategy<Value = Step> {
    let byte = any::<u8>;
    prop_oneof![
        4 => (byte(), byte(), byte(), byte(), any::<i8>(), byte()).prop_map(
            |(lane, tasks, max_attempts, owner, priority, left)| {
                Step::Submit { lane, tasks, max_attempts, owner, priority, left }
            }
        ),
        1 => (byte(), byte()).prop_map(|(task, later)| Step::Resubmit { task, later }),
        2 => byte().prop_map(|task| Step::Cancel { task }),
        2 => (byte(), byte(), byte()).prop_map(|(lane, slots, prefetch)| Step::AddPeer { lane, slots, prefetch }),
        1 => (byte(), byte(), byte()).prop_map(|(peer, slots, prefetch)| Step::SetCapacity { peer, slots, prefetch }),
        1 => byte().prop_map(|peer| Step::Begin { peer }),
        1 => (byte(), any::<bool>()).prop_map(|(peer, dead)| Step::RemovePeer { peer, dead }),
        6 => (byte(), byte(), prop::bool::weighted(0.3)).prop_map(|(peer, attempts, lost)| Step::Finish { peer, attempts, lost }),
        1 => (byte(), byte()).prop_map(|(peer, task)| Step::Stray { peer, task }),
        1 => (byte(), byte(), byte(), any::<bool>())
            .prop_map(|(peer, keep, extra, older)| Step::Reconcile { peer, keep, extra, older }),
        1 => (byte(), byte()).prop_map(|(peer, keep)| Step::GiveBack { peer, keep }),
        1 => Just(Step::HandBack),
        1 => (byte(), any::<bool>()).prop_map(|(peer, present)| Step::Connect { peer, present }),
        1 => byte().prop_map(|ticks| Step::Pass { ticks }),
        1 => (byte(), byte()).prop_map(|(owner, weight)| Step::Weigh { owner, weight }),
        2 => (byte(), byte()).prop_map(|(peer, slots)| Step::SetWarm { peer, slots }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn dispatcher_and_model_agree(steps in prop::collection::vec(step(), 1..120)) {
        let mut model = DispatcherModel::default();
        for step in steps {
            model.step(step);
        }
    }
}

/// Two peers come and go under three tasks that allow two attempts.
fn ended_after(begin: bool, dead: bool) -> usize {
    let mut model = DispatcherModel::default();
    model.step(Step::Submit { lane: 0, tasks: 3, max_attempts: 2, owner: 0, priority: 0, left: 2 });
    for _ in 0..2 {
        model.step(Step::AddPeer { lane: 0, slots: 4, prefetch: 0 });
        if begin {
            model.step(Step::Begin { peer: 0 });
        }
        model.step(Step::RemovePeer { peer: 0, dead });
    }
    model.finished()
}

#[test]
fn attempts_count_unless_nobody_said_that_they_had_begun() {
    assert_eq!(ended_after(false, false), 3, "who is given up may still run them");
    assert_eq!(ended_after(false, true), 0);
    assert_eq!(ended_after(true, true), 1, "the one at the front had begun, twice");
}
