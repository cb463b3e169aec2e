//! Who is served next: owners by weight, priorities of each owner, and nothing that would outlive its peer.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use funcx_core::contract::{Capacity, PeerId};
use funcx_core::model::{
    Function, Hop, IdentityId, Now, Outcome, OutcomeKind, Task, TaskId, TaskSpec, Tick, Timestamp,
};
use funcx_core::state::{Dispatcher, DispatcherLimits, DispatcherOutput, LaneId};

const LANE: LaneId = LaneId(0);

fn at(seconds: u64) -> Now {
    let tick = Tick::ZERO + Duration::from_secs(seconds);
    Now { tick, wall: Timestamp::from_nanos(1 + tick.as_nanos()) }
}

struct Bench {
    dispatcher: Dispatcher,
    next: u128,
    owners: BTreeMap<TaskId, u128>,
}

impl Bench {
    fn new() -> Self {
        let mut dispatcher = Dispatcher::new(DispatcherLimits::default(), Hop::EndpointSent);
        dispatcher.open_lane();
        Self { dispatcher, next: 1, owners: BTreeMap::new() }
    }

    fn submit(&mut self, owner: u128, count: u32, change: impl Fn(&mut TaskSpec)) -> Vec<TaskId> {
        let mut spec = TaskSpec::new(Arc::new(Function::native("f")), IdentityId::from_u128(owner));
        change(&mut spec);
        let spec = Arc::new(spec);
        let ids: Vec<_> = (0..u128::from(count)).map(|n| TaskId::from_u128(self.next + n)).collect();
        self.next += u128::from(count);
        self.owners.extend(ids.iter().map(|id| (*id, owner)));
        let tasks = ids.iter().map(|id| Task::new(*id, Arc::clone(&spec), "")).collect();
        assert!(self.dispatcher.submit(LANE, tasks, at(0)).is_empty());
        ids
    }

    /// What is given out, task by task.
    fn given(&mut self) -> Vec<(PeerId, TaskId)> {
        let mut given = Vec::new();
        while let Some(output) = self.dispatcher.poll_output() {
            if let DispatcherOutput::Dispatch { peer, tasks } = output {
                given.extend(tasks.iter().map(|task| (peer, task.id)));
            }
        }
        given
    }

    /// Owners of the tasks that are given to `slots` slots.
    fn served(&mut self, slots: u32) -> Vec<u128> {
        self.dispatcher.add_peer(LANE, Capacity { slots, prefetch: 0 });
        self.given().iter().map(|(_, task)| self.owners[task]).collect()
    }
}

#[test]
fn a_single_task_does_not_wait_behind_the_backlog_of_another_owner() {
    let mut bench = Bench::new();
    bench.submit(1, 100_000, |_| {});
    assert_eq!(bench.served(10), [1; 10]);
    bench.submit(2, 1, |_| {});
    assert_eq!(bench.served(2), [1, 2], "the next turn but one is the new owner's");
    assert_eq!(bench.served(2), [1, 1]);
}

#[test]
fn owners_get_parts_by_their_weights_whatever_they_have_submitted() {
    let mut bench = Bench::new();
    bench.dispatcher.set_weight(IdentityId::from_u128(2), 3);
    bench.submit(1, 50_000, |_| {});
    bench.submit(2, 1_000, |_| {});
    let served = bench.served(800);
    let second = served.iter().filter(|owner| **owner == 2).count();
    assert!((598..=602).contains(&second), "three quarters of 800, not {second}");
    // Nobody saves up turns while there is nothing to do for them.
    let rest = bench.served(50_200 + 1);
    assert_eq!(rest.len(), 50_200);
    bench.submit(1, 100, |_| {});
    bench.submit(2, 100, |_| {});
    let again = bench.served(100);
    let second = again.iter().filter(|owner| **owner == 2).count();
    assert!((73..=77).contains(&second), "{second}");
}

#[test]
fn a_wide_task_counts_for_the_cores_that_it_asks_for() {
    let mut bench = Bench::new();
    bench.submit(1, 100, |spec| spec.shape.milli_cores = 4_000);
    bench.submit(2, 100, |_| {});
    let narrow = bench.served(50).iter().filter(|owner| **owner == 2).count();
    assert!((38..=42).contains(&narrow), "four of five turns, not {narrow} of 50");
}

#[test]
fn higher_priorities_of_an_owner_go_first_and_say_nothing_about_others() {
    let mut bench = Bench::new();
    let low = bench.submit(1, 2, |spec| spec.limits.priority = -1);
    let normal = bench.submit(1, 2, |_| {});
    let high = bench.submit(1, 2, |spec| spec.limits.priority = 100);
    let other = bench.submit(2, 3, |spec| spec.limits.priority = -128);
    bench.dispatcher.add_peer(LANE, Capacity { slots: 100, prefetch: 0 });
    let order: Vec<_> = bench.given().into_iter().map(|(_, task)| task).collect();
    let own: Vec<_> = order.iter().copied().filter(|task| !other.contains(task)).collect();
    assert_eq!(own, [high, normal, low].concat());
    assert!(
        order.iter().take(6).filter(|task| other.contains(task)).count() == 3,
        "every other turn: {order:?}"
    );
}

#[test]
fn nothing_is_given_to_a_peer_that_ends_before_it_would() {
    let hours =
        |hours: u64| move |spec: &mut TaskSpec| spec.shape.walltime = Some(Duration::from_secs(3600 * hours));
    let mut bench = Bench::new();
    let long = bench.submit(1, 1, hours(2));
    let short = bench.submit(1, 1, hours(1));
    let open = bench.submit(1, 1, |_| {});
    let ending = bench.dispatcher.add_peer(LANE, Capacity::default());
    bench.dispatcher.set_ends_at(ending, at(5400).tick);
    bench.dispatcher.set_capacity(ending, Capacity { slots: 4, prefetch: 4 });
    let given = bench.given();
    assert_eq!(given, [(ending, short[0]), (ending, open[0])], "shorter tasks do not wait for the long one");
    let lasting = bench.dispatcher.add_peer(LANE, Capacity { slots: 1, prefetch: 0 });
    assert_eq!(bench.given(), [(lasting, long[0])]);

    // What fits now does not fit later.
    let later = bench.submit(1, 1, hours(1));
    bench.dispatcher.advance(at(3600));
    assert_eq!(bench.given(), []);
    bench.dispatcher.handle_outcomes(
        lasting,
        vec![Outcome::returned(&Task::new(long[0], spec(), ""), "")],
        at(3600),
    );
    assert_eq!(bench.given(), [(lasting, later[0])]);
}

fn spec() -> Arc<TaskSpec> {
    Arc::new(TaskSpec::new(Arc::new(Function::native("f")), IdentityId::from_u128(1)))
}

#[test]
fn who_waits_too_long_ends_and_who_has_begun_only_at_its_deadline() {
    let mut dispatcher: Dispatcher = Dispatcher::new(DispatcherLimits::default(), Hop::EndpointSent);
    dispatcher.open_lane();
    let task = |id, start_by, end_by| {
        let mut task = Task::new(TaskId::from_u128(id), spec(), "");
        (task.start_by, task.end_by) = (start_by, end_by);
        task
    };
    let (soon, late) = (at(10).tick, at(20).tick);
    let tasks = vec![task(1, soon, Tick::NEVER), task(2, soon, late), task(3, soon, Tick::NEVER)];
    assert!(dispatcher.submit(LANE, tasks, at(0)).is_empty());
    let peer = dispatcher.add_peer(LANE, Capacity { slots: 2, prefetch: 0 });
    while dispatcher.poll_output().is_some() {}
    for id in [1, 2] {
        let attempt = task(id, soon, late).attempt_id();
        dispatcher.handle_started(peer, attempt, at(1).wall);
    }
    assert_eq!(dispatcher.poll_timeout(), Some(soon));
    dispatcher.handle_timeout(at(10));
    let Some(DispatcherOutput::Deliver(ended)) = dispatcher.poll_output() else {
        panic!("one has waited too long")
    };
    let [outcome] = &ended[..] else { panic!("{ended:?}") };
    assert_eq!((outcome.task.as_u128(), outcome.kind), (3, OutcomeKind::TimedOut));
    assert_eq!(outcome.failure().expect("it failed").code, "TaskExpired");
    assert_eq!(dispatcher.poll_output(), None, "the others have begun");

    dispatcher.handle_timeout(at(20));
    let stop = task(2, soon, late).attempt_id();
    assert_eq!(dispatcher.poll_output(), Some(DispatcherOutput::Cancel { peer, attempts: vec![stop] }));
    let stopped = Outcome { kind: OutcomeKind::Cancelled, ..Outcome::returned(&task(2, soon, late), "") };
    dispatcher.handle_outcomes(peer, vec![stopped], at(21));
    let Some(DispatcherOutput::Deliver(ended)) = dispatcher.poll_output() else { panic!("it was stopped") };
    assert_eq!(ended[0].kind, OutcomeKind::TimedOut);
    assert_eq!(ended[0].failure().expect("it failed").code, "DeadlinePassed");
    assert_eq!(dispatcher.poll_timeout(), None);
}
