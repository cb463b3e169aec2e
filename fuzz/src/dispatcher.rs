//! Bytes as inputs of the dispatcher, which does what its reference model does and breaks no invariant.

use funcx_core::conformance::dispatcher_model::{DispatcherModel, Step};

/// Inputs in one run; what more would find, fewer find sooner.
const MAX_STEPS: usize = 400;

/// Each byte that begins a step says which; the bytes that follow are its fields. What is missing at the end is zero.
pub fn check(data: &[u8]) {
    let mut model = DispatcherModel::default();
    let mut bytes = data.iter().copied();
    for _ in 0..MAX_STEPS {
        let Some(step) = decode(&mut bytes) else { break };
        let mut written = Vec::new();
        encode(step, &mut written);
        assert_eq!(decode(&mut written.into_iter()), Some(step), "a step is written as it is read");
        // Compares the two and looks at every invariant.
        model.step(step);
    }
}

fn decode(bytes: &mut impl Iterator<Item = u8>) -> Option<Step> {
    let kind = bytes.next()?;
    let mut next = || bytes.next().unwrap_or_default();
    Some(match kind % 16 {
        0 => Step::Submit {
            lane: next(),
            tasks: next(),
            max_attempts: next(),
            owner: next(),
            priority: next().cast_signed(),
            left: next(),
        },
        1 => Step::Resubmit { task: next(), later: next() },
        2 => Step::Cancel { task: next() },
        3 => Step::AddPeer { lane: next(), slots: next(), prefetch: next() },
        4 => Step::SetCapacity { peer: next(), slots: next(), prefetch: next() },
        5 => Step::Begin { peer: next() },
        6 => Step::RemovePeer { peer: next(), dead: next() & 1 == 1 },
        7 => Step::Finish { peer: next(), attempts: next(), lost: next() & 1 == 1 },
        8 => Step::Stray { peer: next(), task: next() },
        9 => Step::Reconcile { peer: next(), keep: next(), extra: next(), older: next() & 1 == 1 },
        10 => Step::GiveBack { peer: next(), keep: next() },
        11 => Step::HandBack,
        12 => Step::Connect { peer: next(), present: next() & 1 == 1 },
        13 => Step::Pass { ticks: next() },
        14 => Step::Weigh { owner: next(), weight: next() },
        _ => Step::SetWarm { peer: next(), slots: next() },
    })
}

/// The bytes of a step. A step that the model learns and this function does not know is an error of the compiler.
fn encode(step: Step, bytes: &mut Vec<u8>) {
    match step {
        Step::Submit { lane, tasks, max_attempts, owner, priority, left } => {
            bytes.extend([0, lane, tasks, max_attempts, owner, priority.cast_unsigned(), left]);
        }
        Step::Resubmit { task, later } => bytes.extend([1, task, later]),
        Step::Cancel { task } => bytes.extend([2, task]),
        Step::AddPeer { lane, slots, prefetch } => bytes.extend([3, lane, slots, prefetch]),
        Step::SetCapacity { peer, slots, prefetch } => bytes.extend([4, peer, slots, prefetch]),
        Step::Begin { peer } => bytes.extend([5, peer]),
        Step::RemovePeer { peer, dead } => bytes.extend([6, peer, u8::from(dead)]),
        Step::Finish { peer, attempts, lost } => bytes.extend([7, peer, attempts, u8::from(lost)]),
        Step::Stray { peer, task } => bytes.extend([8, peer, task]),
        Step::Reconcile { peer, keep, extra, older } => {
            bytes.extend([9, peer, keep, extra, u8::from(older)]);
        }
        Step::GiveBack { peer, keep } => bytes.extend([10, peer, keep]),
        Step::HandBack => bytes.push(11),
        Step::Connect { peer, present } => bytes.extend([12, peer, u8::from(present)]),
        Step::Pass { ticks } => bytes.extend([13, ticks]),
        Step::Weigh { owner, weight } => bytes.extend([14, owner, weight]),
        Step::SetWarm { peer, slots } => bytes.extend([15, peer, slots]),
    }
}
