//! The reference model of the dispatcher: the same promises in the plainest way, and the two compared step by step.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use crate::contract::{Capacity, IdleFirst, PeerId};
use crate::model::{
    AttemptId, Failure, Function, Hop, IdentityId, Now, Outcome, OutcomeKind, Task, TaskEvent, TaskId,
    TaskSpec, Tick, Timestamp, limit,
};
use crate::state::{Dispatcher, DispatcherLimits, DispatcherOutput, LaneId, TaskState};

/// Lanes of the dispatcher under test. The second one prefers peers that are warm for a task.
const LANES: u32 = 2;
const WARM_LANE: LaneId = LaneId(1);

/// How long a task of the second lane waits for a warm slot while others are idle.
const COLD_AFTER: u8 = 40;

/// Environments of tasks, and of slots in the second lane.
const ENVIRONMENTS: [Option<&str>; 3] = [None, Some("a"), Some("b")];

/// Bound on tasks in each lane; small, so that it is reached.
const LANE_TASKS: usize = 24;

/// One input. Numbers are taken modulo what there is, so that every value is meaningful.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are what the sentence above each variant says")]
pub enum Step {
    /// New tasks of one owner (modulo three; the rest says which environment they want) with one priority, of which a lost
    /// attempt is made again up to `max_attempts`. `left` says
    /// how much time they have: to begin if it is odd, to end if it is a multiple of four, else as much as they like.
    Submit { lane: u8, tasks: u8, max_attempts: u8, owner: u8, priority: i8, left: u8 },
    /// A task that was submitted before, again, `later` attempts later.
    Resubmit { task: u8, later: u8 },
    /// Cancel one task.
    Cancel { task: u8 },
    /// A new peer.
    AddPeer { lane: u8, slots: u8, prefetch: u8 },
    /// A peer changes its mind about its capacity.
    SetCapacity { peer: u8, slots: u8, prefetch: u8 },
    /// A peer says that the oldest of its attempts has begun.
    Begin { peer: u8 },
    /// A peer is given up, or known to be dead.
    RemovePeer { peer: u8, dead: bool },
    /// The oldest attempts of a peer end.
    Finish { peer: u8, attempts: u8, lost: bool },
    /// An outcome that nobody waits for.
    Stray { peer: u8, task: u8 },
    /// A peer comes back and holds only every `keep`-th of its leases, of these every second one as an earlier attempt if
    /// `older`, and one task that it was never given.
    Reconcile { peer: u8, keep: u8, extra: u8, older: bool },
    /// A peer gives back every `keep`-th of its leases.
    GiveBack { peer: u8, keep: u8 },
    /// The node leaves; what waits goes back to the node above.
    HandBack,
    /// A peer loses its connection, or is back.
    Connect { peer: u8, present: bool },
    /// Time passes.
    Pass { ticks: u8 },
    /// An owner gets another part.
    Weigh { owner: u8, weight: u8 },
    /// A peer says how many of its slots are warm for each environment: two bits for each of them.
    SetWarm { peer: u8, slots: u8 },
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct ModelTask {
    lane: LaneId,
    attempt: u32,
    leased_as: u32,
    max_attempts: u32,
    granted: u32,
    owner: u8,
    environment: u8,
    priority: i8,
    start_by: Option<u64>,
    end_by: Option<u64>,
    /// It was asked to end, as what.
    stop: Option<OutcomeKind>,
    again: bool,
    begun: bool,
    place: Place,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    Queued,
    Leased(PeerId),
    Finished(OutcomeKind),
}

#[derive(Debug)]
struct ModelPeer {
    lane: LaneId,
    capacity: Capacity,
    held: Vec<TaskId>,
    present: bool,
}

/// Waiting tasks by owner, priority, and environment if that matters.
type Queues = BTreeMap<(u8, i8, u8), VecDeque<TaskId>>;

/// A dispatcher and its reference model side by side.
#[derive(Debug)]
pub struct DispatcherModel {
    real: Dispatcher<IdleFirst>,
    tasks: BTreeMap<TaskId, ModelTask>,
    queues: Vec<Queues>,
    peers: BTreeMap<PeerId, ModelPeer>,
    ids: Vec<TaskId>,
    next_id: u128,
    clock: u64,
    /// Whether peers of the second lane tell environments apart.
    is_warm: bool,
}

impl Default for DispatcherModel {
    fn default() -> Self {
        let mut real = Dispatcher::new(
            DispatcherLimits { lane_tasks: LANE_TASKS, lane_bytes: 1 << 20 },
            Hop::EndpointSent,
        );
        real.open_lane();
        real.open_warm_lane(Duration::from_nanos(COLD_AFTER.into()));
        let queues = (0..LANES).map(|_| Queues::new()).collect();
        Self {
            real,
            tasks: BTreeMap::new(),
            queues,
            peers: BTreeMap::new(),
            ids: Vec::new(),
            next_id: 1,
            clock: 0,
            is_warm: false,
        }
    }
}

impl DispatcherModel {
    /// Applies one input to both, compares what comes out, and checks every invariant.
    ///
    /// # Panics
    /// If they differ, or an invariant is broken.
    pub fn step(&mut self, step: Step) {
        self.clock += 1;
        let now = Now { tick: Tick::from_nanos(self.clock), wall: Timestamp::from_nanos(self.clock) };
        match step {
            Step::Submit { lane, tasks, max_attempts, owner, priority, left } => {
                let new = self.model_task(lane, max_attempts, owner, priority, left);
                self.submit(&new, tasks % 12, now);
            }
            Step::Resubmit { task, later } => self.resubmit(task, later, now),
            Step::Cancel { task } => self.cancel(task, now),
            Step::AddPeer { lane, slots, prefetch } => {
                let capacity = Capacity { slots: u32::from(slots % 5), prefetch: u32::from(prefetch % 5) };
                let lane = LaneId(u32::from(lane) % LANES);
                let peer = self.real.add_peer(lane, capacity);
                assert!(
                    self.peers
                        .insert(peer, ModelPeer { lane, capacity, held: Vec::new(), present: true })
                        .is_none(),
                    "{peer:?} is new"
                );
            }
            Step::SetCapacity { peer, slots, prefetch } => {
                if let Some(peer) = self.peer(peer) {
                    let capacity =
                        Capacity { slots: u32::from(slots % 5), prefetch: u32::from(prefetch % 5) };
                    self.real.set_capacity(peer, capacity);
                    self.known(peer).capacity = capacity;
                }
            }
            Step::Begin { peer } => self.begin(peer),
            Step::RemovePeer { peer, dead } => self.remove(peer, dead, now),
            Step::Finish { peer, attempts, lost } => self.finish(peer, attempts, lost, now),
            Step::Stray { peer, task } => self.stray(peer, task, now),
            Step::Reconcile { peer, keep, extra, older } => self.reconcile(peer, keep, extra, older, now),
            Step::GiveBack { peer, keep } => self.give_back(peer, keep, now),
            Step::HandBack => self.hand_back(),
            Step::Connect { peer, present } => self.connect(peer, present, now),
            Step::Pass { ticks } => self.pass_on(ticks),
            Step::SetWarm { peer, slots } => self.set_warm(peer, slots),
            Step::Weigh { owner, weight } => {
                self.real.set_weight(IdentityId::from_u128(u128::from(owner % 3)), u32::from(weight));
            }
        }
        self.drain();
        self.compare();
    }

    /// Outcomes seen so far, for each task at most one.
    pub fn finished(&self) -> usize {
        self.tasks.values().filter(|task| matches!(task.place, Place::Finished(_))).count()
    }

    fn peer(&self, choice: u8) -> Option<PeerId> {
        self.peers.keys().nth(usize::from(choice) % self.peers.len().max(1)).copied()
    }

    fn task(&self, choice: u8) -> Option<TaskId> {
        self.ids.get(usize::from(choice) % self.ids.len().max(1)).copied()
    }

    fn known(&mut self, peer: PeerId) -> &mut ModelPeer {
        self.peers.get_mut(&peer).expect("the model knows every peer it chose")
    }

    fn model_task(&self, lane: u8, max_attempts: u8, owner: u8, priority: i8, left: u8) -> ModelTask {
        let due = |given: bool| given.then(|| self.clock + u64::from(left));
        ModelTask {
            lane: LaneId(u32::from(lane) % LANES),
            attempt: 1,
            leased_as: 0,
            max_attempts: u32::from(max_attempts % 4).max(1),
            granted: 0,
            owner: owner % 3,
            environment: owner / 3 % 3,
            priority: priority % 2,
            start_by: due(left % 2 == 1),
            end_by: due(left.is_multiple_of(4)),
            stop: None,
            again: false,
            begun: false,
            place: Place::Queued,
        }
    }

    fn new_task(id: TaskId, model: &ModelTask) -> Task {
        let owner = IdentityId::from_u128(u128::from(model.owner));
        let mut spec = TaskSpec::new(Arc::new(Function::native("f")), owner);
        spec.limits.max_attempts = model.max_attempts;
        spec.limits.priority = model.priority;
        spec.shape.environment = ENVIRONMENTS[usize::from(model.environment)].map(str::to_owned);
        let mut task = Task::new(id, Arc::new(spec), "arguments");
        task.start_by = model.start_by.map_or(Tick::NEVER, Tick::from_nanos);
        task.end_by = model.end_by.map_or(Tick::NEVER, Tick::from_nanos);
        task
    }

    fn queue_of(&mut self, id: TaskId) -> &mut VecDeque<TaskId> {
        let task = &self.tasks[&id];
        let environment = if task.lane == WARM_LANE && self.is_warm { task.environment } else { 0 };
        self.queues[task.lane.0 as usize].entry((task.owner, task.priority, environment)).or_default()
    }

    fn submit(&mut self, new: &ModelTask, count: u8, now: Now) {
        let lane = new.lane;
        let first = self.next_id;
        self.next_id += u128::from(count);
        let ids: Vec<_> = (0..u128::from(count)).map(|n| TaskId::from_u128(first + n)).collect();
        let unfinished = self
            .tasks
            .values()
            .filter(|task| task.lane == lane && !matches!(task.place, Place::Finished(_)))
            .count();
        let room = LANE_TASKS.saturating_sub(unfinished);
        let refused = self.real.submit(lane, ids.iter().map(|id| Self::new_task(*id, new)).collect(), now);
        let taken = ids.len().min(room);
        assert_eq!(
            refused.iter().map(|task| task.id).collect::<Vec<_>>(),
            ids[taken..],
            "what is over the bound is refused"
        );
        for id in &ids[..taken] {
            self.tasks.insert(*id, new.clone());
            self.queue_of(*id).push_back(*id);
            self.ids.push(*id);
        }
    }

    fn resubmit(&mut self, task: u8, later: u8, now: Now) {
        let Some(id) = self.task(task) else { return };
        let known = self.tasks.get_mut(&id).expect("chosen from the known");
        if matches!(known.place, Place::Finished(_)) {
            return;
        }
        let mut again = Self::new_task(id, known);
        again.attempt = known.attempt + u32::from(later % 3);
        // The node above knows how many of them count.
        again.granted = u32::from(later / 3 % 3).min(again.attempt - 1);
        if again.attempt > known.attempt {
            (known.attempt, known.granted) = (again.attempt, again.granted);
            known.again = known.stop.is_some();
        }
        assert!(
            self.real.submit(known.lane, vec![again], now).is_empty(),
            "it is here, however full the lane"
        );
    }

    fn cancel(&mut self, task: u8, now: Now) {
        let Some(id) = self.task(task) else { return };
        let found = self.real.cancel([id], now);
        let known = self.tasks.get_mut(&id).expect("chosen from the known");
        assert_eq!(
            found,
            usize::from(!matches!(known.place, Place::Finished(_))),
            "found as long as it is not finished"
        );
        match known.place {
            Place::Queued => self.end_now(&[(id, OutcomeKind::Cancelled)]),
            Place::Leased(peer) if !self.peers[&peer].present => {
                self.end_now(&[(id, OutcomeKind::Cancelled)]);
            }
            Place::Leased(_) if known.stop.is_some() => known.again = false,
            Place::Leased(_) => known.stop = Some(OutcomeKind::Cancelled),
            Place::Finished(_) => {}
        }
    }

    /// These tasks end, wherever they are, and are delivered in some order.
    fn end_now(&mut self, ended: &[(TaskId, OutcomeKind)]) {
        for (id, kind) in ended {
            match self.tasks[id].place {
                Place::Queued => self.queue_of(*id).retain(|queued| queued != id),
                Place::Leased(peer) => self.known(peer).held.retain(|held| held != id),
                Place::Finished(_) => panic!("{id} ends twice"),
            }
            self.tasks.get_mut(id).expect("ended tasks are known").place = Place::Finished(*kind);
        }
        self.expect_delivery(ended);
    }

    fn connect(&mut self, peer: u8, present: bool, now: Now) {
        let Some(peer) = self.peer(peer) else { return };
        self.real.advance(now);
        self.real.set_present(peer, present);
        self.known(peer).present = present;
        if !present {
            let now = self.clock;
            let late = |id: &TaskId| {
                let task = &self.tasks[id];
                task.end_by.is_some_and(|due| due <= now) || task.start_by.is_some_and(|due| due <= now)
            };
            let asked = |id: &TaskId| {
                let task = &self.tasks[id];
                task.stop == Some(OutcomeKind::Cancelled) && !task.again
            };
            let ended: Vec<_> = self.peers[&peer]
                .held
                .iter()
                .filter_map(|id| match (late(id), asked(id)) {
                    (true, _) => Some((*id, OutcomeKind::TimedOut)),
                    (false, true) => Some((*id, OutcomeKind::Cancelled)),
                    (false, false) => None,
                })
                .collect();
            self.end_now(&ended);
        }
    }

    /// Time passes. If it is long, what waits for warm slots while others are idle gets those.
    fn pass_on(&mut self, ticks: u8) {
        self.pass(ticks);
        self.drain();
        if ticks < 4 * COLD_AFTER {
            return;
        }
        for _ in 0..2 * LANE_TASKS {
            if !self.waits_beside_idle_slots() {
                return;
            }
            self.pass(COLD_AFTER);
            self.drain();
        }
        assert!(!self.waits_beside_idle_slots(), "tasks wait for ever although slots are idle");
    }

    fn waits_beside_idle_slots(&self) -> bool {
        let queued: usize = self.queues[WARM_LANE.0 as usize].values().map(VecDeque::len).sum();
        let is_idle =
            |peer: &ModelPeer| peer.lane == WARM_LANE && peer.held.len() < peer.capacity.slots as usize;
        queued > 0 && self.peers.values().any(is_idle)
    }

    fn set_warm(&mut self, peer: u8, slots: u8) {
        let Some(peer) = self.peer(peer) else { return };
        let warm = (0..).step_by(2).zip(ENVIRONMENTS).map(|(bit, name)| (name, u32::from(slots >> bit & 3)));
        self.real.set_warm(peer, warm);
        if self.known(peer).lane == WARM_LANE && !std::mem::replace(&mut self.is_warm, true) {
            let mixed = std::mem::take(&mut self.queues[WARM_LANE.0 as usize]);
            for id in mixed.into_values().flatten() {
                self.queue_of(id).push_back(id);
            }
        }
    }

    fn pass(&mut self, ticks: u8) {
        self.clock += u64::from(ticks);
        let now = self.clock;
        self.real.handle_timeout(Now { tick: Tick::from_nanos(now), wall: Timestamp::from_nanos(now) });
        let mut ended = Vec::new();
        for (id, task) in &mut self.tasks {
            let absent = |peer: &PeerId| !self.peers[peer].present;
            let late = task.end_by.is_some_and(|due| due <= now);
            let expired = task.start_by.is_some_and(|due| due <= now);
            match &task.place {
                Place::Queued if late || expired => ended.push((*id, OutcomeKind::TimedOut)),
                Place::Leased(peer) if late && absent(peer) => ended.push((*id, OutcomeKind::TimedOut)),
                Place::Leased(_) if late && task.stop.is_none() => task.stop = Some(OutcomeKind::TimedOut),
                Place::Leased(peer) if expired && !late && absent(peer) && !task.begun => {
                    ended.push((*id, OutcomeKind::TimedOut));
                }
                Place::Queued | Place::Leased(_) | Place::Finished(_) => {}
            }
        }
        self.end_now(&ended);
    }

    fn begin(&mut self, peer: u8) {
        let Some(peer) = self.peer(peer) else { return };
        let Some(id) = self.known(peer).held.first().copied() else { return };
        let task = self.tasks.get_mut(&id).expect("leased tasks are known");
        task.begun = true;
        task.start_by = None;
        let attempt = AttemptId { task: id, number: task.leased_as };
        self.real.handle_started(peer, attempt, Timestamp::from_nanos(self.clock));
    }

    fn remove(&mut self, peer: u8, dead: bool, now: Now) {
        let Some(peer) = self.peer(peer) else { return };
        match dead {
            true => self.real.bury_peer(peer, "killed", now),
            false => self.real.remove_peer(peer, "silent", now),
        }
        let held = self.known(peer).held.clone();
        let mut delivered = Vec::new();
        for id in held.into_iter().rev() {
            let begun = !dead || self.tasks[&id].begun;
            delivered.extend(self.lose(id, begun).map(|kind| (id, kind)));
        }
        self.peers.remove(&peer);
        self.expect_delivery(&delivered);
    }

    /// A lease is lost: back to the front of the queue, or finished.
    fn lose(&mut self, id: TaskId, begun: bool) -> Option<OutcomeKind> {
        let task = self.tasks.get_mut(&id).expect("leased tasks are known");
        let granted = !begun && task.max_attempts > 1 && task.granted < limit::MAX_GRANTED;
        if task.again || (task.stop.is_none() && (granted || task.attempt < task.max_attempts + task.granted))
        {
            task.attempt += u32::from(!task.again);
            task.granted += u32::from(!task.again && granted);
            task.place = Place::Queued;
            (task.stop, task.again) = (None, false);
            self.queue_of(id).push_front(id);
            return None;
        }
        let kind = task.stop.unwrap_or(OutcomeKind::Lost);
        task.place = Place::Finished(kind);
        Some(kind)
    }

    fn outcome(id: TaskId, attempt: u32, lost: bool) -> Outcome {
        let spec = TaskSpec::new(Arc::new(Function::native("f")), IdentityId::from_u128(0));
        let mut task = Task::new(id, Arc::new(spec), "");
        task.attempt = attempt;
        match lost {
            true => Outcome::failed(&task, OutcomeKind::Lost, &Failure::new("WorkerLost", "it crashed")),
            false => Outcome::returned(&task, "value"),
        }
    }

    fn finish(&mut self, peer: u8, attempts: u8, lost: bool, now: Now) {
        let Some(peer) = self.peer(peer) else { return };
        let count = (usize::from(attempts) % 6).min(self.known(peer).held.len());
        let ended: Vec<_> = self.known(peer).held.drain(..count).collect();
        let outcomes = ended.iter().map(|id| Self::outcome(*id, self.tasks[id].leased_as, lost)).collect();
        self.real.handle_outcomes(peer, outcomes, now);
        let mut delivered = Vec::new();
        for id in ended {
            if lost {
                delivered.extend(self.lose(id, true).map(|kind| (id, kind)));
            } else {
                self.tasks.get_mut(&id).expect("leased tasks are known").place =
                    Place::Finished(OutcomeKind::Returned);
                delivered.push((id, OutcomeKind::Returned));
            }
        }
        self.expect_delivery(&delivered);
    }

    fn stray(&mut self, peer: u8, task: u8, now: Now) {
        let (Some(peer), Some(id)) = (self.peer(peer), self.task(task)) else { return };
        if self.tasks[&id].place != Place::Leased(peer) {
            let late = self.real.counters().late;
            self.real.handle_outcomes(peer, vec![Self::outcome(id, 9, false)], now);
            assert_eq!(self.real.counters().late, late + 1, "an outcome without a lease is late");
        }
    }

    fn reconcile(&mut self, peer: u8, keep: u8, extra: u8, older: bool, now: Now) {
        let Some(peer) = self.peer(peer) else { return };
        let lane = self.known(peer).lane;
        let keep = usize::from(keep % 4) + 1;
        let old = self.known(peer).held.clone();
        let mut held: Vec<AttemptId> = old
            .iter()
            .step_by(keep)
            .map(|id| AttemptId { task: *id, number: self.tasks[id].leased_as })
            .collect();
        let mut stale = Vec::new();
        if older {
            // Only attempts after the first have an earlier one.
            for attempt in held.iter_mut().step_by(2).filter(|attempt| attempt.number > 1) {
                attempt.number -= 1;
                stale.push(*attempt);
            }
        }
        let mut adopted = None;
        if let Some(id) = self.task(extra).filter(|id| !old.contains(id)) {
            let task = &self.tasks[&id];
            // It may know the task as an earlier attempt than we do, or as a later one.
            let attempt = AttemptId { task: id, number: 1 + keep as u32 };
            held.push(attempt);
            match task.place {
                Place::Queued if task.lane == lane => adopted = Some(id),
                _ => stale.push(attempt),
            }
        }
        assert_eq!(
            self.real.reconcile(peer, &held, now),
            stale,
            "attempts that have no place here are stale"
        );
        if let Some(id) = adopted {
            self.queue_of(id).retain(|queued| *queued != id);
            let task = self.tasks.get_mut(&id).expect("chosen from the known");
            task.place = Place::Leased(peer);
            task.begun = false;
            task.leased_as = 1 + keep as u32;
            task.attempt = task.attempt.max(task.leased_as);
            self.known(peer).held.push(id);
        }
        let mut delivered = Vec::new();
        let confirmed: Vec<TaskId> =
            held.iter().filter(|attempt| !stale.contains(attempt)).map(|attempt| attempt.task).collect();
        for id in old.into_iter().rev().filter(|id| !confirmed.contains(id)) {
            delivered.extend(self.unlease(peer, id).map(|kind| (id, kind)));
        }
        self.expect_delivery(&delivered);
    }

    fn give_back(&mut self, peer: u8, keep: u8, now: Now) {
        let Some(peer) = self.peer(peer) else { return };
        let given: Vec<AttemptId> = self
            .known(peer)
            .held
            .clone()
            .into_iter()
            .step_by(usize::from(keep % 4) + 1)
            .map(|id| AttemptId { task: id, number: self.tasks[&id].leased_as })
            .collect();
        self.real.handle_given_back(peer, &given, now);
        let mut delivered = Vec::new();
        for attempt in given.iter().rev() {
            delivered.extend(self.unlease(peer, attempt.task).map(|kind| (attempt.task, kind)));
        }
        self.expect_delivery(&delivered);
    }

    fn hand_back(&mut self) {
        let queues = self.queues.iter_mut().flat_map(|queues| queues.values_mut());
        let waiting: BTreeSet<TaskId> = queues.flat_map(|queue| queue.drain(..)).collect();
        let given: BTreeSet<TaskId> = self.real.hand_back().iter().map(|attempt| attempt.task).collect();
        assert_eq!(given, waiting, "all that waits");
        for id in waiting {
            self.tasks.remove(&id);
            self.ids.retain(|known| *known != id);
        }
    }

    /// A lease came to nothing: queued as it was, or ended if it was to be stopped.
    fn unlease(&mut self, peer: PeerId, id: TaskId) -> Option<OutcomeKind> {
        self.known(peer).held.retain(|kept| *kept != id);
        let task = self.tasks.get_mut(&id).expect("leased tasks are known");
        if let Some(kind) = task.stop.filter(|_| !task.again) {
            task.place = Place::Finished(kind);
            return Some(kind);
        }
        task.place = Place::Queued;
        (task.stop, task.again) = (None, false);
        self.queue_of(id).push_front(id);
        None
    }

    /// The next output delivers exactly these, in whatever order.
    fn expect_delivery(&mut self, expected: &[(TaskId, OutcomeKind)]) {
        if expected.is_empty() {
            return;
        }
        let outcomes = loop {
            match self.real.poll_output() {
                Some(DispatcherOutput::Lost(events)) => self.expect_later(&events),
                Some(DispatcherOutput::Deliver(outcomes)) => break outcomes,
                other => panic!("{expected:?} should have been delivered, not {other:?}"),
            }
        };
        let delivered: BTreeMap<_, _> = outcomes.iter().map(|outcome| (outcome.task, outcome.kind)).collect();
        assert_eq!(delivered, expected.iter().copied().collect());
        assert_eq!(outcomes.len(), expected.len(), "each of them once");
    }

    /// What was lost goes on as a later attempt.
    fn expect_later(&self, events: &[TaskEvent]) {
        let known = |event: &TaskEvent| self.tasks[&event.attempt.task].attempt;
        assert!(events.iter().all(|event| event.attempt.number < known(event)), "{events:?}");
    }

    /// Takes what comes out, and finds it allowed.
    fn drain(&mut self) {
        while let Some(output) = self.real.poll_output() {
            match output {
                DispatcherOutput::Deliver(outcomes) => panic!("nothing else was due, but {outcomes:?} came"),
                DispatcherOutput::Lost(events) => self.expect_later(&events),
                DispatcherOutput::Abandon { .. } => panic!("nobody has abandoned anything"),
                DispatcherOutput::Cancel { peer, attempts } => {
                    for attempt in attempts {
                        let task = &self.tasks[&attempt.task];
                        assert!(
                            task.stop.is_some() && task.place == Place::Leased(peer),
                            "{attempt:?} was not to be stopped"
                        );
                        assert_eq!(
                            attempt.number, task.leased_as,
                            "the peer knows it by the number of its lease"
                        );
                    }
                }
                DispatcherOutput::Dispatch { peer, tasks } => {
                    assert!(!tasks.is_empty(), "a batch holds tasks");
                    for task in tasks {
                        let (owner, priority) = (self.tasks[&task.id].owner, self.tasks[&task.id].priority);
                        let lane = self.peers[&peer].lane;
                        assert_eq!(self.tasks[&task.id].lane, lane);
                        let tells_apart = lane == WARM_LANE && self.is_warm;
                        let environment = self.tasks[&task.id].environment;
                        let higher = self.queues[lane.0 as usize].iter().any(|((of, at, wants), queue)| {
                            *of == owner
                                && *at > priority
                                && (!tells_apart || *wants == environment)
                                && !queue.is_empty()
                        });
                        assert!(!higher, "higher priorities of an owner go first");
                        assert_eq!(
                            self.queue_of(task.id).pop_front(),
                            Some(task.id),
                            "first come, first served"
                        );
                        let known = self.tasks.get_mut(&task.id).expect("queued tasks are known");
                        assert_eq!((known.attempt, &known.place), (task.attempt, &Place::Queued));
                        known.place = Place::Leased(peer);
                        known.leased_as = known.attempt;
                        known.begun = false;
                        let peer = self.known(peer);
                        peer.held.push(task.id);
                        assert!(
                            peer.held.len() <= peer.capacity.credits() as usize,
                            "no more than its credits"
                        );
                    }
                }
            }
        }
    }

    fn compare(&self) {
        if let Err(violation) = self.real.check() {
            panic!("{violation}");
        }
        for (id, task) in &self.tasks {
            match (&task.place, self.real.state(*id)) {
                (Place::Queued, Some(TaskState::Queued)) | (Place::Finished(_), None) => {}
                (Place::Leased(peer), Some(TaskState::Leased { peer: leased, .. })) if *peer == leased => {}
                (place, state) => panic!("{id}: the model says {place:?}, the dispatcher {state:?}"),
            }
        }
        for (lane, queues) in self.queues.iter().enumerate() {
            let queued: usize = queues.values().map(VecDeque::len).sum();
            let lane = LaneId(lane as u32);
            let idle = self
                .peers
                .values()
                .any(|peer| peer.lane == lane && (peer.held.len() as u32) < peer.capacity.credits());
            let may_wait = lane == WARM_LANE && self.is_warm;
            assert!(queued == 0 || !idle || may_wait, "tasks wait in {lane:?} although a peer has room");
            assert_eq!(self.real.load(lane).queued, queued);
        }
    }
}
