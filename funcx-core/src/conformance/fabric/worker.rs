//! The executors of a manager: workers that take time, crash, and stop when they are asked to, some of them. A manager with
//! several environments has a crew for each, and they share its slots.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::agenda::{Event, Input};
use super::process::Process;
use super::{Fabric, Place, note};
use crate::contract::{ExecutorEvent, PeerId};
use crate::model::{AttemptId, Failure, Outcome, OutcomeKind, Task, TaskId, Tick};
use crate::state::LaneId;

/// How an attempt ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Returns,
    Crashes,
    Stopped,
}

/// What ends when, by task and run.
pub(super) type Ends = BTreeMap<Tick, Vec<((TaskId, u64), End)>>;

/// Longest time that a worker takes to go when its slot is wanted for another environment.
const GOING: Duration = Duration::from_millis(200);

/// The workers of one environment.
#[derive(Debug)]
pub(super) struct Crew {
    environment: u32,
    pub(super) executor: PeerId,
    /// How many there should be.
    allowed: u32,
    /// How many there are, those that have still to go among them.
    workers: u32,
    running: u32,
    pub(super) waiting: VecDeque<Task>,
    /// Workers that were started because there should be more.
    started: u64,
}

impl Crew {
    pub(super) const fn new(environment: u32, executor: PeerId, workers: u32) -> Self {
        let waiting = VecDeque::new();
        Self { environment, executor, allowed: workers, workers, running: 0, waiting, started: 0 }
    }

    /// Workers without a task go at once. How many are left.
    pub(super) const fn dismiss_idle(&mut self) -> u32 {
        self.workers = self.running;
        self.workers
    }
}

#[derive(Debug)]
pub(super) struct Running {
    crew: usize,
    attempt: u32,
    /// Tells this run from others of the same attempt.
    run: u64,
    stopping: bool,
}

impl Fabric {
    fn crew_of(&self, place: Place, executor: PeerId) -> Option<usize> {
        self.processes[place].crews.iter().position(|crew| crew.executor == executor)
    }

    /// An executor is given tasks.
    pub(super) fn take(&mut self, place: Place, executor: PeerId, tasks: Vec<Task>) {
        let most = self.capacity(self.config.workers).credits() as usize;
        let Some(index) = self.crew_of(place, executor) else { return };
        let crew = &mut self.processes[place].crews[index];
        crew.waiting.extend(tasks);
        let held = crew.waiting.len() + crew.running as usize;
        if held > most {
            self.broken(format!("the executor of p{place} holds {held}, more than {most}"));
        }
    }

    /// A crew should have so many workers: new ones are there at once, others go when they have nothing to do.
    pub(super) fn resize(&mut self, place: Place, lane: LaneId, slots: u32) {
        let index = lane.0 as usize;
        note!(self, "p{place} has {slots} slots for its crew {index}");
        let Some(crew) = self.processes[place].crews.get_mut(index) else { return };
        crew.started += u64::from(slots.saturating_sub(crew.allowed));
        crew.allowed = slots;
        if slots < crew.workers {
            self.let_go(place, index);
        } else if slots > crew.workers {
            crew.workers = slots;
            self.say_capacity(place, index);
        }
        self.audit_slots(place);
    }

    /// Workers that are too many go soon, unless they are busy.
    fn let_go(&mut self, place: Place, crew: usize) {
        let process = &self.processes[place];
        let draw = self.draw.of(place as u64, 0x60e5_0000 + u64::from(process.inputs));
        let after = Duration::from_nanos(draw % GOING.as_nanos() as u64);
        self.agenda.add(self.now + after, Event::At(place, process.life, Input::Gone(crew)));
    }

    /// Workers that were too many have gone, those that are busy by now and those that are wanted again excepted.
    pub(super) fn gone(&mut self, place: Place, index: usize) {
        let Some(crew) = self.processes[place].crews.get_mut(index) else { return };
        let left = crew.allowed.max(crew.running);
        if left < crew.workers {
            crew.workers = left;
            self.say_capacity(place, index);
        }
    }

    fn say_capacity(&mut self, place: Place, index: usize) {
        let now = self.clock(place);
        let crew = &self.processes[place].crews[index];
        let (executor, capacity) = (crew.executor, self.capacity(crew.workers));
        self.processes[place].node.handle_executor(executor, ExecutorEvent::Capacity(capacity), now);
    }

    /// Free workers take what waits. Whether one did.
    pub(super) fn work(&mut self, place: Place) -> bool {
        let before = self.figures.executions;
        (0..self.processes[place].crews.len()).for_each(|crew| self.work_of(place, crew));
        self.figures.executions > before
    }

    fn work_of(&mut self, place: Place, index: usize) {
        let mut started = Vec::new();
        let wall = self.clock(place).wall;
        loop {
            let crew = &mut self.processes[place].crews[index];
            // One that is to go takes nothing.
            if crew.running >= crew.workers.min(crew.allowed) {
                break;
            }
            let Some(task) = crew.waiting.pop_front() else { break };
            crew.running += 1;
            let environment = crew.environment;
            let attempt = task.attempt_id();
            let run = self.figures.executions;
            let running = Running { crew: index, attempt: attempt.number, run, stopping: false };
            if self.processes[place].running.insert(task.id, running).is_some() {
                self.broken(format!("p{place} runs {attempt:?} while it runs the task already"));
            }
            self.begins(place, environment, &task);
            let draw = self.draw.of(attempt.task.as_u128() as u64, u64::from(attempt.number));
            let takes =
                Duration::from_nanos(draw % (1_000_000 * u64::from(self.config.longest_task_millis.max(1))));
            let crashes = (draw >> 40) % 1000 < u64::from(self.config.crashes_per_mille);
            self.ends(place, takes, (attempt.task, run), if crashes { End::Crashes } else { End::Returns });
            started.push((attempt, wall));
        }
        // Some executors do not say when something began.
        let says = self.config.varied != 0 && !place.is_multiple_of(3);
        if says && !started.is_empty() {
            let now = self.clock(place);
            let Process { node, crews, .. } = &mut self.processes[place];
            node.handle_executor(crews[index].executor, ExecutorEvent::Started(started), now);
        }
    }

    fn ends(&mut self, place: Place, after: Duration, run: (TaskId, u64), end: End) {
        let grain = 1000 * u64::from(self.config.grain_micros.max(1));
        let at = Tick::from_nanos((self.now + after).as_nanos().div_ceil(grain) * grain);
        let process = &mut self.processes[place];
        let slot = process.ends.entry(at).or_default();
        slot.push((run, end));
        if slot.len() == 1 {
            let life = process.life;
            self.agenda.add(at, Event::At(place, life, Input::Ended(at)));
        }
    }

    /// It is time for attempts to end; they may have ended otherwise meanwhile.
    pub(super) fn ended(&mut self, place: Place, at: Tick) {
        let ends = self.processes[place].ends.remove(&at).unwrap_or_default();
        let mut ended = Vec::with_capacity(ends.len());
        for ((task, run), end) in ends {
            let process = &mut self.processes[place];
            if process.running.get(&task).is_some_and(|running| running.run == run)
                && let Some(running) = process.running.remove(&task)
            {
                ended.push((running.crew, AttemptId { task, number: running.attempt }, end));
            }
        }
        self.free(place, ended);
    }

    /// Workers have ended these attempts.
    fn free(&mut self, place: Place, ended: Vec<(usize, AttemptId, End)>) {
        let mut outcomes: BTreeMap<usize, Vec<Outcome>> = BTreeMap::new();
        for (crew, attempt, end) in ended {
            self.processes[place].crews[crew].running -= 1;
            outcomes.entry(crew).or_default().push(outcome(&self.spare, attempt, end));
        }
        for (index, outcomes) in outcomes {
            self.executor_says(place, index, outcomes);
            let crew = &self.processes[place].crews[index];
            if crew.workers > crew.allowed {
                self.let_go(place, index);
            }
        }
    }

    fn executor_says(&mut self, place: Place, crew: usize, outcomes: Vec<Outcome>) {
        if !outcomes.is_empty() {
            let now = self.clock(place);
            let Process { node, crews, .. } = &mut self.processes[place];
            node.handle_executor(crews[crew].executor, ExecutorEvent::Outcomes(outcomes), now);
        }
    }

    /// An executor is asked to stop attempts: what waits never starts, what runs takes a while, and some of it cannot be
    /// stopped.
    pub(super) fn stop(&mut self, place: Place, executor: PeerId, attempts: &[AttemptId]) {
        let Some(crew) = self.crew_of(place, executor) else { return };
        let mut stopped = Vec::new();
        for attempt in attempts {
            let process = &mut self.processes[place];
            let waiting = &mut process.crews[crew].waiting;
            if let Some(index) = waiting.iter().position(|task| task.id == attempt.task) {
                if let Some(task) = waiting.remove(index) {
                    stopped.push(outcome(&self.spare, task.attempt_id(), End::Stopped));
                }
                continue;
            }
            let Some(running) = process.running.get_mut(&attempt.task) else { continue };
            let draw = self.draw.of(attempt.task.as_u128() as u64, 0x57_0b);
            let stubborn = self.config.varied != 0 && draw.is_multiple_of(8);
            if !std::mem::replace(&mut running.stopping, true) && !stubborn {
                let run = (attempt.task, running.run);
                self.ends(place, Duration::from_micros(draw % 500_000), run, End::Stopped);
            }
        }
        self.executor_says(place, crew, stopped);
    }

    /// An executor is drained: it gives back what has not begun.
    pub(super) fn give_back(&mut self, place: Place, executor: PeerId) {
        let Some(index) = self.crew_of(place, executor) else { return };
        let now = self.clock(place);
        let Process { node, crews, .. } = &mut self.processes[place];
        let back = crews[index].waiting.drain(..).map(|task| task.attempt_id()).collect();
        node.handle_executor(executor, ExecutorEvent::GaveBack(back), now);
    }

    /// Every busy worker of a manager crashes.
    pub(super) fn crash(&mut self, place: Place) {
        let running = self.processes[place].running.drain();
        let mut crashed: Vec<_> = running
            .map(|(task, running)| (running.crew, AttemptId { task, number: running.attempt }, End::Crashes))
            .collect();
        crashed.sort_unstable_by_key(|(_, attempt, _)| *attempt);
        self.free(place, crashed);
    }

    /// No slot has two workers, and every worker that was started was counted.
    fn audit_slots(&mut self, place: Place) {
        let Process { node, crews, .. } = &self.processes[place];
        let workers: u32 = crews.iter().map(|crew| crew.workers).sum();
        let started: u64 = crews.iter().map(|crew| crew.started).sum();
        let counted = node.warm_counters();
        if workers > self.config.workers {
            let crews: Vec<_> = crews.iter().map(|crew| crew.workers).collect();
            self.broken(format!("p{place} has {crews:?} workers in {} slots", self.config.workers));
        } else if counted.cold_starts < started || counted.switches > counted.cold_starts {
            self.broken(format!("p{place} has started {started} workers, and counts {counted:?}"));
        }
    }
}

fn outcome(spare: &Task, AttemptId { task, number }: AttemptId, end: End) -> Outcome {
    let task = Task { id: task, attempt: number, spec: Arc::clone(&spare.spec), ..spare.clone() };
    match end {
        End::Returns => Outcome::returned(&task, "value"),
        End::Crashes => Outcome::failed(&task, OutcomeKind::Lost, &Failure::new("WorkerLost", "it crashed")),
        End::Stopped => {
            Outcome::failed(&task, OutcomeKind::Cancelled, &Failure::new("Cancelled", "it was stopped"))
        }
    }
}
