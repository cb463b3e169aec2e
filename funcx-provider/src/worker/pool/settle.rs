//! What becomes of the tasks of a worker that is gone.

use std::time::Duration;

use funcx_core::model::{Failure, OutcomeKind, Tick};

use super::super::slot::{Cause, Exit, Slot, Stage};
use super::{PoolOutput, PoolState, Zygote, cancelled, pause};

/// Deaths of a worker that a task may be near to without being blamed, before it is given up.
pub(super) const MAX_RESTARTS: u8 = 8;
/// Processes in a row that end before their hello; then the zygote is at fault.
pub(super) const MAX_UNBORN: u32 = 8;
/// The first workers that die are replaced at once, the next ones after pauses from this one to that one.
const PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

impl PoolState {
    /// Decides about every task of a slot whose process is gone, and makes room for the next process.
    pub(super) fn settle(&mut self, slot: usize) {
        let place = &mut self.slots[slot];
        let next = place.worker + self.settings.workers as u64;
        let gone = std::mem::replace(place, Slot::vacant(next, self.now.tick));
        self.outputs.push_back(PoolOutput::Close(gone.worker));
        let Stage::Ending(ending) = &gone.stage else { return };
        let exit = gone.exit.clone().unwrap_or_default();
        tracing::debug!(worker = gone.worker, pid = gone.pid, cause = ?ending.cause, %exit, "a worker is gone");

        let due = self.now.tick + self.pause_after(&ending.cause, &exit);
        self.slots[slot].stage = Stage::Vacant { due };

        let begun = gone.begun(|key| self.entries[key as usize].announced);
        // From the last to the first, as each goes to the front of the queue.
        for (position, key) in gone.pipeline.iter().enumerate().rev() {
            self.settle_task(*key, position, begun, &ending.cause, &exit);
        }
    }

    fn settle_task(&mut self, key: u32, position: usize, begun: usize, cause: &Cause, exit: &Exit) {
        let entry = &mut self.entries[key as usize];
        let has_begun = position < begun;
        if entry.cancelled {
            return self.fail(key, OutcomeKind::Cancelled, &cancelled());
        }
        if *cause == Cause::TimedOut(entry.tag) {
            let walltime = entry.task.walltime().unwrap_or_default();
            let message = format!("the task ran longer than its walltime of {walltime:?} and was stopped");
            return self.fail(key, OutcomeKind::TimedOut, &Failure::new("TaskTimedOut", message));
        }
        if *cause == Cause::DeadlinePassed(entry.tag) {
            let failure = Failure::new("DeadlinePassed", "the task was stopped when its deadline passed");
            return self.fail(key, OutcomeKind::TimedOut, &failure);
        }
        if has_begun && let Some(failure) = self.stopped.clone() {
            return self.fail(key, OutcomeKind::Lost, &failure);
        }
        let lost = |what: String| {
            let mut failure = Failure::new("WorkerLost", what);
            failure.traceback = exit.stderr.clone();
            failure
        };
        let is_own_fault = matches!(cause, Cause::Died | Cause::Violation(_));
        if has_begun && begun == 1 && is_own_fault {
            let failure = match cause {
                Cause::Violation(violation) => {
                    lost(format!("the worker process broke the protocol: {violation}"))
                }
                _ => lost(format!("the worker process {exit} while it ran this task")),
            };
            return self.fail(key, OutcomeKind::Lost, &failure);
        }
        if has_begun && entry.announced && entry.at_most_once() {
            let failure =
                lost("the worker process was stopped for another reason while it ran this task".to_owned());
            return self.fail(key, OutcomeKind::Lost, &failure);
        }
        // Each death with a culprit ends a task, and each kill of ours too; only others could go on for ever.
        if (is_own_fault && begun != 1) || *cause == Cause::ZygoteLost {
            entry.suspect |= has_begun && is_own_fault;
            entry.restarts += 1;
            if entry.restarts > MAX_RESTARTS {
                let failure =
                    lost(format!("{} worker processes were lost before they ran this task", entry.restarts));
                return self.fail(key, OutcomeKind::Lost, &failure);
            }
        }
        (entry.slot, entry.announced) = (None, false);
        if self.draining && !has_begun {
            return self.give_back(key);
        }
        if has_begun {
            // It has begun once, and that was in time.
            entry.task.start_by = Tick::NEVER;
        }
        let tag = self.enqueue(key);
        self.queue.push_front(tag);
    }

    /// Time before the next process of a slot is asked for.
    fn pause_after(&mut self, cause: &Cause, exit: &Exit) -> Duration {
        match cause {
            Cause::Died | Cause::Violation(_) => {
                self.deaths = self.deaths.saturating_add(1);
                tracing::warn!(%exit, in_a_row = self.deaths, "a worker process died");
                pause(self.deaths.checked_sub(3), PAUSE, LONGEST_PAUSE)
            }
            Cause::Unborn(reason) => {
                self.unborn = self.unborn.saturating_add(1);
                tracing::warn!(
                    reason,
                    stderr = exit.stderr,
                    in_a_row = self.unborn,
                    "a worker process did not start"
                );
                self.last_unborn = format!("{reason} {}", exit.stderr).trim_end().to_owned();
                if self.unborn >= MAX_UNBORN && self.zygote == Zygote::Ready {
                    self.zygote = Zygote::Stopping;
                    self.outputs.push_back(PoolOutput::StopZygote);
                }
                pause(self.unborn.checked_sub(3), PAUSE, LONGEST_PAUSE)
            }
            Cause::Cancelled(_)
            | Cause::TimedOut(_)
            | Cause::DeadlinePassed(_)
            | Cause::Stopped
            | Cause::ZygoteLost
            | Cause::Drained => Duration::ZERO,
        }
    }
}
