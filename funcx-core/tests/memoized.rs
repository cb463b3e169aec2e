//! Memoized calls in a dispatcher: equal ones run once, nobody gets what is not theirs, nothing is lost with the one that
//! runs.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use funcx_core::contract::{Capacity, IdleFirst, PeerId};
use funcx_core::memo::MemoKey;
use funcx_core::model::{
    AttemptId, Failure, Function, Hop, IdentityId, Memoize, Now, Outcome, OutcomeKind, Task, TaskId,
    TaskSpec, Tick, Timestamp,
};
use funcx_core::state::{Dispatcher, DispatcherLimits, DispatcherOutput, LaneId};
use proptest::prelude::*;

const CACHE_BYTES: usize = 1 << 16;

/// A dispatcher with two lanes, and what came out of it.
struct Bench {
    real: Dispatcher<IdleFirst>,
    at: BTreeMap<PeerId, Vec<Task>>,
    ended: BTreeMap<TaskId, Outcome>,
    /// Every attempt that was given out.
    given: Vec<Task>,
    next: u128,
    clock: u64,
}

impl Bench {
    fn new(cache_bytes: usize) -> Self {
        let mut real = Dispatcher::new(DispatcherLimits::default(), Hop::EndpointSent);
        real.open_lane();
        real.open_lane();
        real.memoize(cache_bytes);
        let (at, ended, given) = (BTreeMap::new(), BTreeMap::new(), Vec::new());
        Self { real, at, ended, given, next: 0, clock: 0 }
    }

    fn now(&mut self) -> Now {
        self.clock += 1;
        Now { tick: Tick::from_nanos(self.clock), wall: Timestamp::from_nanos(self.clock) }
    }

    fn submit(&mut self, lane: u32, spec: &Arc<TaskSpec>, arguments: &str) -> TaskId {
        self.next += 1;
        let (id, now) = (TaskId::from_u128(self.next), self.now());
        let task = Task::new(id, Arc::clone(spec), arguments.to_owned());
        assert!(self.real.submit(LaneId(lane), vec![task], now).is_empty());
        self.drain();
        id
    }

    fn peer(&mut self, lane: u32, slots: u32) -> PeerId {
        let peer = self.real.add_peer(LaneId(lane), Capacity { slots, prefetch: 0 });
        self.drain();
        peer
    }

    /// The oldest attempt of a peer ends as this kind; a value is what was called.
    fn end(&mut self, peer: PeerId, kind: OutcomeKind) -> Option<TaskId> {
        let held = self.at.get_mut(&peer).filter(|held| !held.is_empty())?;
        let task = held.remove(0);
        let outcome = match kind {
            OutcomeKind::Returned => Outcome::returned(&task, value(&task)),
            kind => Outcome::failed(&task, kind, &Failure::new("Failed", "as was asked")),
        };
        let now = self.now();
        self.real.handle_outcomes(peer, vec![outcome], now);
        self.drain();
        Some(task.id)
    }

    fn drain(&mut self) {
        while let Some(output) = self.real.poll_output() {
            match output {
                DispatcherOutput::Dispatch { peer, tasks } => {
                    self.given.extend(tasks.iter().cloned());
                    self.at.entry(peer).or_default().extend(tasks);
                }
                DispatcherOutput::Deliver(outcomes) => {
                    for outcome in outcomes {
                        let id = outcome.task;
                        assert!(self.ended.insert(id, outcome).is_none(), "{id} ended twice");
                    }
                }
                _ => {}
            }
        }
        self.real.check().expect("every promise holds");
    }

    fn runs(&self) -> Vec<TaskId> {
        self.given.iter().map(|task| task.id).collect()
    }

    fn kind(&self, task: TaskId) -> Option<OutcomeKind> {
        self.ended.get(&task).map(|outcome| outcome.kind)
    }
}

/// What a call returns: who called what.
fn value(task: &Task) -> Vec<u8> {
    [task.spec.owner.uuid().as_bytes(), &task.payload[..]].concat()
}

fn spec(owner: u128, memoize: Memoize, priority: i8) -> Arc<TaskSpec> {
    let mut spec = TaskSpec::new(Arc::new(Function::native("f")), IdentityId::from_u128(owner));
    (spec.memoize, spec.limits.priority) = (memoize, priority);
    Arc::new(spec)
}

#[test]
fn equal_calls_run_once_and_all_have_the_value() {
    let mut bench = Bench::new(CACHE_BYTES);
    let (spec, peer) = (spec(1, Memoize::Own, 0), bench.peer(0, 8));
    let [first, second, third] = [(); 3].map(|()| bench.submit(0, &spec, "x"));
    let other = bench.submit(0, &spec, "y");
    assert_eq!(bench.runs(), [first, other]);
    let load = bench.real.load(LaneId(0));
    assert_eq!((load.queued, load.leased, load.waiting), (0, 2, 2));

    assert_eq!(bench.end(peer, OutcomeKind::Returned), Some(first));
    let later = bench.submit(0, &spec, "x");
    for id in [first, second, third, later] {
        let outcome = &bench.ended[&id];
        assert_eq!((outcome.kind, &outcome.payload), (OutcomeKind::Returned, &bench.ended[&first].payload));
        assert_eq!(!outcome.worker.is_empty(), id != first, "who did not run says so");
    }
    assert_eq!((bench.runs(), bench.real.counters().memoized), (vec![first, other], 3));
}

#[test]
fn calls_that_come_with_the_same_key_share_a_value_but_wait_only_for_what_is_given_out() {
    let mut bench = Bench::new(CACHE_BYTES);
    let [mine, theirs] = [1, 2].map(|owner| spec(owner, Memoize::Shared, 0));
    let keyed = |id: u128, spec: &Arc<TaskSpec>| {
        let mut task = Task::new(TaskId::from_u128(id), Arc::clone(spec), "x");
        task.memo = Some(Arc::new(MemoKey([7; 32])));
        task
    };
    let submit = |bench: &mut Bench, task| {
        let now = bench.now();
        assert!(bench.real.submit(LaneId(0), vec![task], now).is_empty());
        bench.drain();
    };
    submit(&mut bench, keyed(1, &mine));
    submit(&mut bench, keyed(2, &theirs));
    assert_eq!(bench.real.load(LaneId(0)).waiting, 0, "another owner's turn may come first");
    let peer = bench.peer(0, 1);
    submit(&mut bench, keyed(3, &theirs));
    assert_eq!(bench.real.load(LaneId(0)).waiting, 1);
    bench.end(peer, OutcomeKind::Returned);
    submit(&mut bench, keyed(4, &theirs));
    let ended: Vec<u128> = bench.ended.keys().map(|id| id.as_u128()).collect();
    assert_eq!(ended, [1, 3, 4], "the one that was queued already runs");
    bench.real.forget_values();
    submit(&mut bench, keyed(5, &mine));
    assert_eq!(bench.kind(TaskId::from_u128(5)), None, "what is forgotten answers no more");
}

#[test]
fn a_call_that_fails_is_not_remembered_and_the_next_one_runs() {
    for kind in [OutcomeKind::Raised, OutcomeKind::TimedOut] {
        let mut bench = Bench::new(CACHE_BYTES);
        let (spec, peer) = (spec(1, Memoize::Own, 0), bench.peer(0, 8));
        let [first, second, third] = [(); 3].map(|()| bench.submit(0, &spec, "x"));
        bench.end(peer, kind);
        assert_eq!((bench.kind(first), bench.kind(second)), (Some(kind), None));
        assert_eq!(bench.runs(), [first, second]);
        bench.end(peer, OutcomeKind::Returned);
        assert_eq!(bench.kind(third), Some(OutcomeKind::Returned));
    }
}

#[test]
fn a_lost_attempt_is_made_again_and_those_that_wait_go_on_waiting() {
    let mut bench = Bench::new(CACHE_BYTES);
    let (spec, peer) = (spec(1, Memoize::Own, 0), bench.peer(0, 8));
    let [first, second] = [(); 2].map(|()| bench.submit(0, &spec, "x"));
    let now = bench.now();
    bench.real.remove_peer(peer, "it is gone", now);
    bench.at.clear();
    let next = bench.peer(0, 8);
    assert_eq!(bench.runs(), [first, first]);
    bench.end(next, OutcomeKind::Returned);
    assert_eq!(bench.kind(second), Some(OutcomeKind::Returned));
}

#[test]
fn cancelling_the_one_that_runs_lets_the_next_one_run() {
    let mut bench = Bench::new(CACHE_BYTES);
    let (spec, peer) = (spec(1, Memoize::Own, 0), bench.peer(0, 8));
    let [first, second, third] = [(); 3].map(|()| bench.submit(0, &spec, "x"));
    let now = bench.now();
    assert_eq!(bench.real.cancel([first, third], now), 2);
    bench.drain();
    assert_eq!(bench.kind(third), Some(OutcomeKind::Cancelled), "it ran nowhere");
    bench.end(peer, OutcomeKind::Cancelled);
    assert_eq!((bench.runs(), bench.kind(second)), (vec![first, second], None));
}

#[test]
fn one_who_waits_ends_when_its_own_time_is_over() {
    let mut bench = Bench::new(CACHE_BYTES);
    let (spec, peer) = (spec(1, Memoize::Own, 0), bench.peer(0, 8));
    let first = bench.submit(0, &spec, "x");
    let mut hurried = Task::new(TaskId::from_u128(100), Arc::clone(&spec), "x");
    hurried.end_by = Tick::from_nanos(50);
    let now = bench.now();
    assert!(bench.real.submit(LaneId(0), vec![hurried], now).is_empty());
    bench.clock = 60;
    let now = bench.now();
    bench.real.handle_timeout(now);
    bench.drain();
    assert_eq!(bench.kind(TaskId::from_u128(100)), Some(OutcomeKind::TimedOut));
    bench.end(peer, OutcomeKind::Returned);
    assert_eq!(bench.runs(), [first]);
}

#[test]
fn a_call_that_has_to_begin_in_time_runs() {
    let mut bench = Bench::new(CACHE_BYTES);
    let (spec, _) = (spec(1, Memoize::Own, 0), bench.peer(0, 8));
    let first = bench.submit(0, &spec, "x");
    let mut hurried = Task::new(TaskId::from_u128(100), Arc::clone(&spec), "x");
    hurried.start_by = Tick::from_nanos(50);
    let now = bench.now();
    assert!(bench.real.submit(LaneId(0), vec![hurried], now).is_empty());
    bench.drain();
    assert_eq!(bench.runs(), [first, TaskId::from_u128(100)]);
}

#[test]
fn values_do_not_cross_owners() {
    let mut bench = Bench::new(CACHE_BYTES);
    let (peer, _) = (bench.peer(0, 8), bench.peer(1, 8));
    for memoize in [Memoize::Own, Memoize::Shared] {
        let arguments = format!("{memoize:?}");
        let (mine, theirs) = (spec(1, memoize, 0), spec(2, memoize, 0));
        bench.submit(0, &mine, &arguments);
        let waiting = bench.submit(0, &theirs, &arguments);
        bench.end(peer, OutcomeKind::Returned);
        assert_eq!(bench.kind(waiting), None);
        assert_eq!(bench.end(peer, OutcomeKind::Returned), Some(waiting));
        let elsewhere = bench.submit(1, &mine, &arguments);
        assert!(bench.kind(elsewhere).is_some(), "one's own value is as good elsewhere");
    }
    let wants_to_run = bench.submit(0, &spec(1, Memoize::Never, 0), "Own");
    assert_eq!(bench.end(peer, OutcomeKind::Returned), Some(wants_to_run));
}

#[test]
fn a_call_does_not_wait_behind_one_that_asks_for_what_is_not_there() {
    let mut bench = Bench::new(CACHE_BYTES);
    let mut long = (*spec(1, Memoize::Own, 0)).clone();
    long.shape.walltime = Some(std::time::Duration::from_secs(3600));
    let peer = bench.real.add_peer(LaneId(0), Capacity { slots: 1, prefetch: 0 });
    bench.real.set_ends_at(peer, Tick::from_nanos(1_000_000_000));
    let blocked = bench.submit(0, &Arc::new(long), "x");
    let short = bench.submit(0, &spec(1, Memoize::Own, 0), "x");
    assert_eq!(bench.runs(), [short]);
    bench.end(peer, OutcomeKind::Returned);
    assert_eq!(bench.kind(short), Some(OutcomeKind::Returned));
    // It could not run, but its value is known now; it has it when it is given out at last, or waits for its own.
    assert_eq!(bench.kind(blocked), None);
}

#[test]
fn an_urgent_call_does_not_wait_behind_one_that_is_not() {
    let mut bench = Bench::new(CACHE_BYTES);
    let (low, high) = (spec(1, Memoize::Own, -5), spec(1, Memoize::Own, 5));
    let (first, urgent) = (bench.submit(0, &low, "x"), bench.submit(0, &high, "x"));
    let peer = bench.peer(0, 1);
    assert_eq!(bench.runs(), [urgent]);
    bench.end(peer, OutcomeKind::Returned);
    bench.end(peer, OutcomeKind::Returned);
    assert_eq!(bench.kind(first), Some(OutcomeKind::Returned));
}

#[test]
fn without_room_for_values_calls_still_run_one_at_a_time() {
    let mut bench = Bench::new(0);
    let (spec, peer) = (spec(1, Memoize::Own, 0), bench.peer(0, 8));
    let [first, second] = [(); 2].map(|()| bench.submit(0, &spec, "x"));
    bench.end(peer, OutcomeKind::Returned);
    let third = bench.submit(0, &spec, "x");
    assert_eq!((bench.runs(), bench.kind(second)), (vec![first, third], Some(OutcomeKind::Returned)));
}

#[test]
fn a_node_that_leaves_gives_back_those_that_wait_too() {
    let mut bench = Bench::new(CACHE_BYTES);
    let spec = spec(1, Memoize::Own, 0);
    let ids = [(); 3].map(|()| bench.submit(0, &spec, "x"));
    let back: BTreeSet<TaskId> = bench.real.hand_back().iter().map(|attempt| attempt.task).collect();
    bench.drain();
    assert_eq!(back, ids.into());
    assert!(bench.ended.is_empty());
}

#[test]
fn a_peer_that_comes_back_with_one_that_waits_goes_on_with_it() {
    let mut bench = Bench::new(CACHE_BYTES);
    let spec = spec(1, Memoize::Own, 0);
    let [first, second] = [(); 2].map(|()| bench.submit(0, &spec, "x"));
    let peer = bench.real.add_peer(LaneId(0), Capacity::default());
    let now = bench.now();
    let stale = bench.real.reconcile(peer, &[AttemptId { task: second, number: 1 }], now);
    bench.drain();
    assert_eq!((stale, bench.real.load(LaneId(0)).leased), (vec![], 1));
    let outcome = Outcome::returned(&Task::new(second, spec, "x"), "value");
    let now = bench.now();
    bench.real.handle_outcomes(peer, vec![outcome], now);
    bench.drain();
    assert_eq!(bench.kind(second), Some(OutcomeKind::Returned));
    assert_eq!(bench.kind(first), None, "it stands in its queue and runs when its turn comes");
}

/// One input of the random test; numbers are taken modulo what there is.
#[derive(Debug, Clone)]
enum Step {
    Submit { lane: u32, owner: u128, memoize: u8, priority: i8, call: u8 },
    AddPeer { lane: u32, slots: u32 },
    End { peer: usize, kind: u8 },
    Lose { peer: usize },
    Cancel { task: u128 },
    HandBack,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let submit =
        (0..2u32, 1..3u128, 0..3u8, 0..2i8, 0..3u8).prop_map(|(lane, owner, memoize, priority, call)| {
            Step::Submit { lane, owner, memoize, priority, call }
        });
    let step = prop_oneof![
        8 => submit,
        2 => (0..2u32, 0..4u32).prop_map(|(lane, slots)| Step::AddPeer { lane, slots }),
        6 => (any::<usize>(), 0..5u8).prop_map(|(peer, kind)| Step::End { peer, kind }),
        1 => any::<usize>().prop_map(|peer| Step::Lose { peer }),
        1 => (1..60u128).prop_map(|task| Step::Cancel { task }),
        1 => Just(Step::HandBack),
    ];
    prop::collection::vec(step, 1..120)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever happens, every task ends once, with its own value or an equal one that it may see, and at the end nothing
    /// is left behind.
    #[test]
    fn nothing_is_lost_and_nothing_leaks(steps in steps()) {
        let mut bench = Bench::new(CACHE_BYTES);
        let mut called: BTreeMap<TaskId, (u128, String)> = BTreeMap::new();
        let mut back = BTreeSet::new();
        for step in steps {
            let peers: Vec<PeerId> = bench.at.keys().copied().collect();
            let choose = |peer: usize| peers.get(peer % peers.len().max(1)).copied();
            match step {
                Step::Submit { lane, owner, memoize, priority, call } => {
                    let kind = [Memoize::Never, Memoize::Own, Memoize::Shared][usize::from(memoize)];
                    let spec = spec(owner, kind, priority);
                    let id = bench.submit(lane, &spec, &call.to_string());
                    called.insert(id, (owner, call.to_string()));
                }
                Step::AddPeer { lane, slots } => {
                    let peer = bench.peer(lane, slots);
                    bench.at.entry(peer).or_default();
                }
                Step::End { peer, kind } => {
                    let kind = if kind < 3 { OutcomeKind::Returned } else { OutcomeKind::Raised };
                    choose(peer).and_then(|peer| bench.end(peer, kind));
                }
                Step::Lose { peer } => {
                    if let Some(peer) = choose(peer) {
                        bench.at.remove(&peer);
                        let now = bench.now();
                        bench.real.bury_peer(peer, "dead", now);
                        bench.drain();
                    }
                }
                Step::Cancel { task } => {
                    let now = bench.now();
                    bench.real.cancel([TaskId::from_u128(task)], now);
                    bench.drain();
                }
                Step::HandBack => {
                    back.extend(bench.real.hand_back().into_iter().map(|attempt| attempt.task));
                    bench.drain();
                }
            }
        }
        for lane in 0..2 {
            bench.peer(lane, 100);
        }
        while let Some(peer) = bench.at.iter().find(|(_, held)| !held.is_empty()).map(|(peer, _)| *peer) {
            bench.end(peer, OutcomeKind::Returned);
        }
        for (id, (owner, call)) in &called {
            let Some(outcome) = bench.ended.get(id) else {
                prop_assert!(back.contains(id), "{id} has no outcome");
                continue;
            };
            if outcome.kind == OutcomeKind::Returned {
                let (whose, what) = outcome.payload.split_at(16);
                prop_assert_eq!(what, call.as_bytes());
                let own = whose == IdentityId::from_u128(*owner).uuid().as_bytes();
                prop_assert!(own, "a value of somebody else");
            }
        }
        for lane in 0..2 {
            let load = bench.real.load(LaneId(lane));
            prop_assert_eq!((load.queued, load.leased, load.waiting), (0, 0, 0));
        }
    }
}
