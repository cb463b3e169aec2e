//! Lanes that prefer peers that are warm for a task: who gets what, and who waits for how long.

use std::sync::Arc;
use std::time::Duration;

use funcx_core::contract::{Capacity, PeerId};
use funcx_core::model::{
    Function, Hop, IdentityId, Now, Outcome, Task, TaskId, TaskSpec, Tick, Timestamp, limit,
};
use funcx_core::state::{Dispatcher, DispatcherLimits, DispatcherOutput, LaneId};

const COLD_AFTER: Duration = Duration::from_millis(100);
const LANE: LaneId = LaneId(0);

fn at(millis: u64) -> Now {
    let nanos = millis * 1_000_000;
    Now { tick: Tick::from_nanos(nanos), wall: Timestamp::from_nanos(nanos + 1) }
}

struct Site {
    dispatcher: Dispatcher,
    next: u128,
}

impl Site {
    fn new() -> Self {
        let mut dispatcher = Dispatcher::new(DispatcherLimits::default(), Hop::EndpointSent);
        dispatcher.open_warm_lane(COLD_AFTER);
        Self { dispatcher, next: 0 }
    }

    /// A peer with so many slots, and so many of them for each environment.
    fn peer(&mut self, slots: u32, prefetch: u32, warm: &[(&str, u32)]) -> PeerId {
        let peer = self.dispatcher.add_peer(LANE, Capacity::default());
        self.warm(peer, warm);
        self.dispatcher.set_capacity(peer, Capacity { slots, prefetch });
        peer
    }

    fn warm(&mut self, peer: PeerId, warm: &[(&str, u32)]) {
        self.dispatcher.set_warm(peer, warm.iter().map(|(name, slots)| (Some(*name), *slots)));
    }

    fn submit(&mut self, environment: &str, owner: u128, count: usize, millis: u64) {
        let mut spec = TaskSpec::new(Arc::new(Function::python("f", "")), IdentityId::from_u128(owner));
        spec.shape.environment = Some(environment.to_owned());
        self.submit_all(spec, count, millis);
    }

    /// Tasks that take so long.
    fn submit_for(&mut self, environment: &str, walltime: Option<Duration>, count: usize, millis: u64) {
        let mut spec = TaskSpec::new(Arc::new(Function::python("f", "")), IdentityId::from_u128(1));
        spec.shape.environment = Some(environment.to_owned());
        spec.shape.walltime = walltime;
        self.submit_all(spec, count, millis);
    }

    fn submit_all(&mut self, spec: TaskSpec, count: usize, millis: u64) {
        let spec = Arc::new(spec);
        let tasks = (0..count)
            .map(|_| {
                self.next += 1;
                Task::new(TaskId::from_u128(self.next), Arc::clone(&spec), "")
            })
            .collect();
        assert!(self.dispatcher.submit(LANE, tasks, at(millis)).is_empty());
    }

    /// What is given out: peer, environment, tasks.
    fn given(&mut self) -> Vec<(PeerId, String, Vec<Task>)> {
        let mut given = Vec::new();
        while let Some(output) = self.dispatcher.poll_output() {
            if let DispatcherOutput::Dispatch { peer, tasks } = output {
                let environment = tasks[0].spec.shape.environment.clone().expect("they have one");
                assert!(tasks.iter().all(|task| task.spec.shape.environment.as_ref() == Some(&environment)));
                given.push((peer, environment, tasks));
            }
        }
        self.dispatcher.check().expect("every promise is kept");
        given
    }

    fn counts(&mut self) -> Vec<(u32, String, usize)> {
        self.given()
            .into_iter()
            .map(|(peer, environment, tasks)| (peer.0, environment, tasks.len()))
            .collect()
    }

    fn end(&mut self, peer: PeerId, tasks: &[Task], millis: u64) {
        let outcomes = tasks.iter().map(|task| Outcome::returned(task, "")).collect();
        self.dispatcher.handle_outcomes(peer, outcomes, at(millis));
    }

    fn pass(&mut self, millis: u64) {
        self.dispatcher.handle_timeout(at(millis));
    }
}

fn counts(expected: &[(u32, &str, usize)]) -> Vec<(u32, String, usize)> {
    expected.iter().map(|(peer, environment, tasks)| (*peer, (*environment).to_owned(), *tasks)).collect()
}

#[test]
fn the_peer_with_most_idle_warm_slots_comes_first() {
    let mut site = Site::new();
    site.peer(4, 0, &[("a", 1), ("b", 3)]);
    site.peer(4, 0, &[("a", 3), ("b", 1)]);
    site.submit("b", 1, 1, 0);
    site.submit("a", 1, 2, 0);
    assert_eq!(site.counts(), counts(&[(0, "b", 1), (1, "a", 1), (1, "a", 1)]));
    // Tasks of another type that came first are passed over.
    site.submit("b", 1, 9, 1);
    site.submit("a", 1, 1, 1);
    let given = site.counts();
    assert_eq!(
        given.iter().map(|(_, of, tasks)| (of.as_str(), *tasks)).next_back(),
        Some(("a", 1)),
        "{given:?}"
    );
}

#[test]
fn idle_slots_of_other_types_are_taken_by_who_has_waited() {
    let mut site = Site::new();
    let peer = site.peer(2, 0, &[("a", 1), ("b", 1)]);
    site.submit("a", 1, 3, 0);
    assert_eq!(site.counts(), counts(&[(0, "a", 1)]));
    assert_eq!(site.dispatcher.poll_timeout(), Some(at(100).tick));
    site.pass(99);
    assert_eq!(site.counts(), []);
    site.pass(100);
    assert_eq!(site.counts(), counts(&[(0, "a", 1)]));
    // What is warm and comes free is taken at once.
    site.warm(peer, &[("a", 2)]);
    let held = site.dispatcher.held(peer);
    assert_eq!(held, 2);
}

#[test]
fn a_type_that_has_no_slot_anywhere_takes_its_turn() {
    let mut site = Site::new();
    let peer = site.peer(2, 0, &[("a", 2)]);
    site.submit("a", 1, 2, 0);
    let busy = site.given().remove(0).2;
    site.submit("b", 1, 2, 1);
    site.submit("a", 1, 5, 1);
    site.end(peer, &busy[..1], 2);
    // It came before those for which the slot is warm. The second one waits for the slot of the first.
    assert_eq!(site.counts(), counts(&[(0, "b", 1)]));
    site.end(peer, &busy[1..], 3);
    assert_eq!(site.counts(), counts(&[(0, "a", 1)]));
}

#[test]
fn nobody_is_passed_over_for_ever() {
    let mut site = Site::new();
    let (one, two) = (site.peer(1, 0, &[("a", 1)]), site.peer(1, 0, &[("b", 1)]));
    site.submit("a", 1, 2, 0);
    site.submit("b", 1, 1000, 0);
    let mut running = site.given();
    assert_eq!(running.iter().filter(|(peer, ..)| *peer == one).count(), 1);
    // The slot for `a` is busy for long. Those for `b` follow one another, until it is the turn of `a`.
    let mut passed = 0;
    let cold = loop {
        let (peer, of, tasks) = running.pop().unwrap();
        if peer == one {
            continue;
        }
        if of == "a" {
            break peer;
        }
        passed += 1;
        site.end(peer, &tasks, passed);
        running.extend(site.given());
    };
    assert_eq!((cold, passed), (two, 64), "one for each of 64 that were given out before it");
}

#[test]
fn owners_share_also_if_their_tasks_are_of_different_types() {
    let mut site = Site::new();
    let peers = [site.peer(8, 0, &[("a", 7), ("b", 1)]), site.peer(8, 0, &[("a", 7), ("b", 1)])];
    site.submit("a", 1, 4000, 0);
    site.submit("b", 2, 4000, 0);
    let (mut served, mut slots) = ([0, 0], [1, 1]);
    let mut running = site.given();
    for round in 1..=1000 {
        let (peer, of, tasks) = running.remove(0);
        served[usize::from(of == "b")] += tasks.len();
        site.end(peer, &tasks, round);
        running.extend(site.given());
        // Managers give a slot to `b` for each task of it that they are sent.
        for (peer, slots) in peers.into_iter().zip(&mut slots) {
            let of_b = running.iter().filter(|(at, of, _)| *at == peer && of == "b");
            *slots = of_b.map(|(.., tasks)| tasks.len() as u32).sum::<u32>().max(*slots);
            site.warm(peer, &[("a", 8 - *slots), ("b", *slots)]);
        }
    }
    assert!(slots.iter().sum::<u32>() >= 6, "slots go to who has had less: {slots:?} {served:?}");
}

#[test]
fn tasks_are_sent_ahead_to_who_is_warm_when_no_slot_is_idle() {
    let mut site = Site::new();
    site.peer(2, 4, &[("a", 2)]);
    site.peer(2, 4, &[("b", 2)]);
    site.submit("a", 1, 10, 0);
    site.submit("b", 1, 10, 0);
    let mut ahead = [0, 0];
    for (peer, of, tasks) in site.counts() {
        assert_eq!(peer == 0, of == "a");
        ahead[peer as usize] += tasks;
    }
    assert_eq!(ahead, [6, 6]);
}

#[test]
fn a_peer_of_one_type_is_warm_for_the_default_environment() {
    let mut site = Site::new();
    site.peer(1, 0, &[("a", 1)]);
    let plain = site.dispatcher.add_peer(LANE, Capacity { slots: 1, prefetch: 0 });
    let task = |id: u128| {
        let spec = TaskSpec::new(Arc::new(Function::python("f", "")), IdentityId::from_u128(1));
        Task::new(TaskId::from_u128(id), Arc::new(spec), "")
    };
    assert!(site.dispatcher.submit(LANE, vec![task(1000)], at(0)).is_empty());
    let Some(DispatcherOutput::Dispatch { peer, .. }) = site.dispatcher.poll_output() else {
        panic!("it waits")
    };
    assert_eq!(peer, plain);
}

#[test]
fn names_that_nobody_uses_any_more_make_room_for_others() {
    let mut site = Site::new();
    let peer = site.peer(1, 0, &[]);
    for round in 0..4 * limit::MAX_ENVIRONMENTS {
        site.submit(&format!("e{round}"), 1, 1, round as u64);
        let given = site.given();
        assert_eq!(given.len(), 1, "{round}");
        site.end(peer, &given[0].2, round as u64);
    }
    // More at once than there can be share what is left.
    for name in 0..2 * limit::MAX_ENVIRONMENTS {
        site.submit(&format!("f{name}"), 1, 1, 1000);
    }
    for ended in 0..2 * limit::MAX_ENVIRONMENTS {
        site.pass(2000 + 1000 * ended as u64);
        let given = site.given();
        assert_eq!(given.len(), 1, "{ended}");
        site.end(peer, &given[0].2, 2000 + 1000 * ended as u64);
    }
}

/// A peer of one slot, warm for one environment, that is gone at the given time.
fn ending(site: &mut Site, environment: &str, millis: u64) -> PeerId {
    let peer = site.peer(1, 1, &[(environment, 1)]);
    site.dispatcher.set_ends_at(peer, at(millis).tick);
    peer
}

/// Takes minutes, where the peers that end stay for seconds.
const LONG: Option<Duration> = Some(Duration::from_secs(600));

#[test]
fn a_long_task_finds_its_peer_however_many_end_too_soon() {
    for environment in ["a", "b"] {
        let mut site = Site::new();
        (0..200).for_each(|_| _ = ending(&mut site, "a", 5_000));
        // It has least of all that peers are ranked by.
        let lasting = ending(&mut site, "a", 900_000);
        (0..200).for_each(|_| _ = ending(&mut site, "a", 5_000));
        site.submit_for(environment, LONG, 1, 0);
        site.pass(100);
        let given = site.given();
        assert_eq!(given.iter().map(|(peer, ..)| *peer).collect::<Vec<_>>(), [lasting], "{environment}");
    }
}

#[test]
fn a_long_task_is_sent_ahead_to_the_peer_that_stays() {
    let mut site = Site::new();
    (0..200).for_each(|_| _ = ending(&mut site, "a", 5_000));
    let lasting = ending(&mut site, "a", 900_000);
    site.submit("a", 1, 201, 0);
    assert_eq!(site.given().iter().map(|(.., tasks)| tasks.len()).sum::<usize>(), 201);
    site.submit_for("a", LONG, 1, 1);
    assert_eq!(site.given().iter().map(|(peer, ..)| *peer).collect::<Vec<_>>(), [lasting]);
}
