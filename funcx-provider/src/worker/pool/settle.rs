//! What becomes of the tasks of a worker that is gone.

use std::time::Duration;

use funcx_core::model::{Failure, OutcomeKind};

use super::super::slot::{Cause, Exit, Slot, Stage};
use super::{PoolOutput, PoolState, Zygote, cancelled, pause};

/// Workers in whose pipelines a task may be the next one when they are lost, before it is given up.
pub(super) const MAX_SETBACKS: u8 = 8;
/// Processes in a row that end before their hello; then the zygote is at fault.
pub(super) const MAX_UNBORN: u32 = 8;
/// The first workers that die are replaced at once, the next ones after pauses from this one to that one.
pub(super) const PAUSE: Duration = Duration::from_millis(10);
pub(super) const LONGEST_PAUSE: Duration = Duration::from_secs(1);

impl PoolState {
    /// Decides about every task of a slot whose process is gone, and makes room for the next process.
    pub(super) fn settle(&mut self, slot: usize) {
        let place = &mut self.slots[slot];
        let next = place.worker + self.settings.workers as u64;
        let command = place.command.take();
        let gone = std::mem::replace(place, Slot { command, ..Slot::vacant(next, self.now.tick) });
        self.outputs.push_back(PoolOutput::Close(gone.worker));
        let Stage::Ending(ending) = &gone.stage else { return };
        let exit = gone.exit.clone().unwrap_or_default();
        tracing::debug!(worker = gone.worker, pid = gone.pid, cause = ?ending.cause, %exit, "a worker is gone");

        let due = self.now.tick + self.pause_after(&ending.cause, &exit);
        self.slots[slot].stage = Stage::Vacant { due };

        let begun = gone.begun(|key| self.entries[key as usize].announced);
        // From the last to the first, as each goes to the front of the queue.
        for (position, key) in gone.pipeline.iter().enumerate().rev() {
            if self.settle_stopped(*key, &ending.cause) {
                continue;
            }
            // If a worker broke the protocol, what it has not said is no proof of anything.
            match position < begun || gone.lied {
                true => self.settle_begun(*key, position == 0 && begun <= 1, &ending.cause, &exit),
                false => self.settle_unbegun(*key, position == 0),
            }
        }
    }

    /// Ends a task that was to be stopped, whether or not the worker was for that reason.
    pub(super) fn settle_stopped(&mut self, key: u32, cause: &Cause) -> bool {
        let entry = &self.entries[key as usize];
        let (kind, failure) = if entry.cancelled {
            (OutcomeKind::Cancelled, cancelled())
        } else if *cause == Cause::TimedOut(entry.tag) {
            let walltime = entry.task.walltime().unwrap_or_default();
            let message = format!("the task ran longer than its walltime of {walltime:?} and was stopped");
            (OutcomeKind::TimedOut, Failure::new("TaskTimedOut", message))
        } else if *cause == Cause::DeadlinePassed(entry.tag) {
            let message = "the task was stopped when its deadline passed";
            (OutcomeKind::TimedOut, Failure::new("DeadlinePassed", message))
        } else {
            return false;
        };
        self.fail(key, kind, &failure);
        true
    }

    /// A task that may have begun never goes back to the queue: it ends. `alone` says that no other one can have begun
    /// there.
    fn settle_begun(&mut self, key: u32, alone: bool, cause: &Cause, exit: &Exit) {
        let is_own_fault = matches!(cause, Cause::Died | Cause::Violation(_));
        let is_known =
            alone && (is_own_fault || self.stopped.is_some() || self.entries[key as usize].announced);
        let mut failure = match (&self.stopped, cause) {
            (Some(stopped), _) => stopped.clone(),
            (None, Cause::Violation(violation)) => {
                Failure::new("WorkerLost", format!("the worker process broke the protocol: {violation}"))
            }
            (None, Cause::Died) if is_known => {
                Failure::new("WorkerLost", format!("the worker process {exit} while it ran this task"))
            }
            (None, Cause::Died) => {
                Failure::new("WorkerLost", format!("the worker process {exit}, maybe while it ran this task"))
            }
            (None, _) => Failure::new(
                "WorkerLost",
                "the worker process was stopped for another reason, maybe while it ran this task",
            ),
        };
        match is_known {
            true if self.stopped.is_none() => failure.traceback.clone_from(&exit.stderr),
            true => {}
            false => Failure::LEASE_LOST.clone_into(&mut failure.code),
        }
        self.fail(key, OutcomeKind::Lost, &failure);
    }

    /// A task that has not begun is given to another worker, or back if the pool drains. `first` says that it was the next
    /// one there: it may be what workers die of before they can say that they begin it.
    fn settle_unbegun(&mut self, key: u32, first: bool) {
        let entry = &mut self.entries[key as usize];
        entry.setbacks += u8::from(first);
        if entry.setbacks > MAX_SETBACKS && !self.draining {
            let message =
                format!("{} worker processes were lost before they began this task", entry.setbacks);
            return self.fail(key, OutcomeKind::Lost, &Failure::new("WorkerLost", message));
        }
        self.take_back(key);
    }

    /// A task that was in a pipeline and has not begun is the next one for another worker, or goes back if the pool drains.
    pub(super) fn take_back(&mut self, key: u32) {
        if self.draining {
            return self.give_back(key);
        }
        let entry = &mut self.entries[key as usize];
        (entry.slot, entry.announced) = (None, false);
        self.enqueue(key, true);
    }

    /// The zygote forks nothing that lives: another one may.
    pub(super) fn replace_zygote(&mut self, reason: &str) {
        self.last_unborn = reason.to_owned();
        if self.zygote == Zygote::Ready {
            self.zygote = Zygote::Stopping;
            self.outputs.push_back(PoolOutput::StopZygote);
        }
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
                if self.unborn >= MAX_UNBORN {
                    self.replace_zygote(format!("{reason} {}", exit.stderr).trim_end());
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
