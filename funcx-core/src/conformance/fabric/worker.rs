//! The executor of a manager: workers that take time, crash, and stop when they are asked to, some of them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::agenda::{Event, Input};
use super::{Fabric, Place};
use crate::contract::{ExecutorEvent, PeerId};
use crate::model::{AttemptId, Failure, Outcome, OutcomeKind, Task, TaskId, Tick};

/// How an attempt ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Returns,
    Crashes,
    Stopped,
}

/// What ends when, by task and run.
pub(super) type Ends = BTreeMap<Tick, Vec<((TaskId, u64), End)>>;

#[derive(Debug)]
pub(super) struct Running {
    attempt: u32,
    /// Tells this run from others of the same attempt.
    run: u64,
    stopping: bool,
}

impl Fabric {
    /// An executor is given tasks.
    pub(super) fn take(&mut self, place: Place, tasks: Vec<Task>) {
        let capacity = self.capacity();
        let process = &mut self.processes[place];
        process.waiting.extend(tasks);
        let held = process.waiting.len() + process.running.len();
        if held > capacity.credits() as usize {
            self.broken(format!("the executor of p{place} holds {held}, more than {capacity:?}"));
        }
    }

    /// Free workers take what waits. Whether one did.
    pub(super) fn work(&mut self, place: Place) -> bool {
        let workers = self.config.workers as usize;
        let mut started = Vec::new();
        let wall = self.clock(place).wall;
        while self.processes[place].running.len() < workers {
            let Some(task) = self.processes[place].waiting.pop_front() else { break };
            let attempt = task.attempt_id();
            let run = self.figures.executions;
            let running = Running { attempt: attempt.number, run, stopping: false };
            if self.processes[place].running.insert(task.id, running).is_some() {
                self.broken(format!("p{place} runs {attempt:?} while it runs the task already"));
            }
            self.begins(place, &task);
            let draw = self.draw.of(attempt.task.as_u128() as u64, u64::from(attempt.number));
            let takes =
                Duration::from_nanos(draw % (1_000_000 * u64::from(self.config.longest_task_millis.max(1))));
            let crashes = (draw >> 40) % 1000 < u64::from(self.config.crashes_per_mille);
            self.ends(place, takes, (attempt.task, run), if crashes { End::Crashes } else { End::Returns });
            started.push((attempt, wall));
        }
        let some = !started.is_empty();
        // Some executors do not say when something began.
        let says = self.config.varied != 0 && !place.is_multiple_of(3);
        if let Some(executor) = self.processes[place].executor.filter(|_| some && says) {
            let now = self.clock(place);
            self.processes[place].node.handle_executor(executor, ExecutorEvent::Started(started), now);
        }
        some
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
        let process = &mut self.processes[place];
        let ends = process.ends.remove(&at).unwrap_or_default();
        let mut outcomes = Vec::with_capacity(ends.len());
        for ((task, run), end) in ends {
            let process = &mut self.processes[place];
            if process.running.get(&task).is_some_and(|running| running.run == run)
                && let Some(running) = process.running.remove(&task)
            {
                let attempt = AttemptId { task, number: running.attempt };
                outcomes.push(outcome(&self.spare, attempt, end));
            }
        }
        self.executor_says(place, outcomes);
    }

    fn executor_says(&mut self, place: Place, outcomes: Vec<Outcome>) {
        let now = self.clock(place);
        let process = &mut self.processes[place];
        if let Some(executor) = process.executor.filter(|_| !outcomes.is_empty()) {
            process.node.handle_executor(executor, ExecutorEvent::Outcomes(outcomes), now);
        }
    }

    /// An executor is asked to stop attempts: what waits never starts, what runs takes a while, and some of it cannot be
    /// stopped.
    pub(super) fn stop(&mut self, place: Place, _executor: PeerId, attempts: &[AttemptId]) {
        let mut stopped = Vec::new();
        for attempt in attempts {
            let process = &mut self.processes[place];
            if let Some(index) = process.waiting.iter().position(|task| task.id == attempt.task) {
                if let Some(task) = process.waiting.remove(index) {
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
        self.executor_says(place, stopped);
    }

    /// An executor is drained: it gives back what has not begun.
    pub(super) fn give_back(&mut self, place: Place, executor: PeerId) {
        let back: Vec<_> = self.processes[place].waiting.drain(..).map(|task| task.attempt_id()).collect();
        let now = self.clock(place);
        self.processes[place].node.handle_executor(executor, ExecutorEvent::GaveBack(back), now);
    }

    /// Every busy worker of a manager crashes.
    pub(super) fn crash(&mut self, place: Place) {
        let process = &mut self.processes[place];
        let mut crashed: Vec<_> = process
            .running
            .drain()
            .map(|(task, running)| AttemptId { task, number: running.attempt })
            .collect();
        crashed.sort_unstable();
        let outcomes =
            crashed.into_iter().map(|attempt| outcome(&self.spare, attempt, End::Crashes)).collect();
        self.executor_says(place, outcomes);
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
