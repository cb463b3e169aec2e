//! The life of the zygote and of worker processes: when they begin, when they must end.

use std::time::Duration;

use bytes::Bytes;
use funcx_core::model::{Now, Tick};

use super::super::protocol::FrameWriter;
use super::super::slot::{Cause, Ending, Exit, Stage};
use super::{PoolOutput, PoolState, Signal, Step, Zygote, pause};

/// A task that shares a pipeline was expected to end in less than this. A worker is not killed for the rest of a short task
/// that was cancelled, and not asked for those behind one.
pub(super) const PATIENCE: Duration = Duration::from_millis(50);
/// Pauses between requests for what stands behind a head double up to this.
const LONGEST_RECALL_PAUSE: Duration = Duration::from_secs(10);
/// A head without news for so long is reported as started, for the eyes of people.
const REPORT_AFTER: Duration = Duration::from_millis(200);
/// Workers that are forked before tasks wait for them: twice as many as a large machine has cores. More of them are
/// forked for tasks that wait; a pool of ten thousand slots may only ever run commands.
pub(super) const WARM_WORKERS: usize = 256;
/// Workers, and commands, that are asked for at a time. Forking takes a millisecond or two, and the hello follows at once.
pub(super) const MAX_BOOTING: usize = 64;
/// From the request for a process to its hello. Importing packages from a busy file system can take long.
pub(super) const BOOT_TIME: Duration = Duration::from_secs(60);
/// From the end of a connection to SIGKILL: the process is expected to end by itself.
const LEAVE_TIME: Duration = Duration::from_secs(1);
/// From SIGKILL to the moment when its tasks are settled although nobody has seen the process end.
pub(super) const REAP_TIME: Duration = Duration::from_secs(5);
/// From the end of a process to the moment when its tasks are settled although its connection is still open, because
/// a process that it left behind holds it.
const READ_TIME: Duration = Duration::from_secs(1);
/// Zygotes in a row that bring no worker to life; then tasks are no longer kept waiting for one.
pub(super) const MAX_ZYGOTES: u32 = 5;
/// The first lost zygote is replaced at once, the next ones after pauses from this one to that one.
const ZYGOTE_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_ZYGOTE_PAUSE: Duration = Duration::from_secs(30);

impl PoolState {
    /// The zygote forks from now on. `details` are what it says about its Python, which is that of the workers.
    pub(in super::super) fn handle_zygote_ready(&mut self, details: Bytes, now: Now) {
        self.touch(now);
        (self.zygote, self.details) = (Zygote::Ready, details);
    }

    /// The zygote is gone or could not be started. Its workers and commands end with it.
    pub(in super::super) fn handle_zygote_lost(&mut self, reason: String, now: Now) {
        self.touch(now);
        // One that was stopped because its workers did not start is replaced, even if what is left is all there will be.
        if self.zygote == Zygote::Stopping && !self.needs_workers() {
            self.zygote = Zygote::Gone;
            return;
        }
        self.zygotes_lost = self.zygotes_lost.saturating_add(1);
        // If it was stopped, that was because its workers did not start.
        let reason =
            if self.zygote == Zygote::Stopping { std::mem::take(&mut self.last_unborn) } else { reason };
        self.unborn = 0;
        let wait = pause(self.zygotes_lost.checked_sub(2), ZYGOTE_PAUSE, LONGEST_ZYGOTE_PAUSE);
        self.zygote = Zygote::Waiting { until: now.tick + wait };
        tracing::warn!(reason, in_a_row = self.zygotes_lost, "lost the process that forks workers");
        if self.zygotes_lost >= MAX_ZYGOTES {
            self.broken = Some(reason);
        }
        for slot in 0..self.slots.len() {
            self.lose_command(slot);
            if self.slots[slot].is_taken() {
                if !matches!(self.slots[slot].stage, Stage::Ending(_)) {
                    self.end(slot, Cause::ZygoteLost);
                }
                self.note_exit(slot, Exit::default());
            }
        }
    }

    pub(in super::super) fn handle_forked(&mut self, worker: u64, pid: u32, now: Now) {
        self.touch(now);
        let Some(slot) = self.slot_of(worker) else { return };
        self.slots[slot].pid = Some(pid);
        // It was given up before its process id was known.
        if matches!(self.slots[slot].stage, Stage::Ending(_)) {
            self.outputs.push_back(PoolOutput::Signal { pid, signal: Signal::Kill });
        }
    }

    /// A worker says hello. Whether this is the one that was asked for; if not, the connection is of no use.
    pub(in super::super) fn handle_hello(&mut self, worker: u64, pid: u32, details: Bytes, now: Now) -> bool {
        self.touch(now);
        let Some(slot) = self.slot_of(worker) else { return false };
        let place = &mut self.slots[slot];
        let is_expected =
            matches!(place.stage, Stage::Booting { .. }) && place.pid.is_none_or(|forked| forked == pid);
        if !is_expected {
            return false;
        }
        (place.pid, place.connected, place.details, place.stage) = (Some(pid), true, details, Stage::Ready);
        (self.unborn, self.zygotes_lost) = (0, 0);
        if self.broken.take().is_some() {
            tracing::info!("workers can be started again");
        }
        let mut writer = FrameWriter::default();
        writer.welcome(&self.settings.welcome);
        self.outputs.push_back(PoolOutput::Send { worker, pieces: writer.finish() });
        true
    }

    /// The connection of a worker is closed, or of no more use for the reason given.
    pub(in super::super) fn handle_disconnected(&mut self, worker: u64, violation: Option<String>, now: Now) {
        self.touch(now);
        let Some(slot) = self.slot_of(worker) else { return };
        self.slots[slot].connected = false;
        if let Some(violation) = violation {
            self.on_violation(slot, violation);
        }
        if self.slots[slot].exit.is_some() {
            self.settle(slot);
        } else if self.slots[slot].is_ready() {
            let kill_at = Some(now.tick + LEAVE_TIME);
            self.slots[slot].stage = Stage::Ending(Ending { cause: Cause::Died, kill_at, settle_at: None });
        }
    }

    /// The process of a worker is gone.
    pub(in super::super) fn handle_exited(&mut self, worker: u64, exit: Exit, now: Now) {
        self.touch(now);
        let Some(slot) = self.slot_of(worker) else { return };
        let cause = match self.slots[slot].stage {
            Stage::Booting { .. } => {
                Some(Cause::Unborn(format!("a worker process {exit} before it said hello")))
            }
            Stage::Ready => Some(Cause::Died),
            Stage::Vacant { .. } | Stage::Ending(_) => None,
        };
        if let Some(cause) = cause {
            self.slots[slot].stage = Stage::Ending(Ending { cause, kill_at: None, settle_at: None });
        }
        self.note_exit(slot, exit);
    }

    pub(super) fn plan(&self, slot: usize) -> Option<(Tick, Step)> {
        let command = self.command_due(slot).map(|due| (due, Step::Command));
        command.into_iter().chain(self.plan_worker(slot)).min_by_key(|(due, _)| *due)
    }

    fn plan_worker(&self, slot: usize) -> Option<(Tick, Step)> {
        let place = &self.slots[slot];
        match &place.stage {
            Stage::Vacant { .. } => None,
            Stage::Booting { deadline } => Some((*deadline, Step::GiveUpBooting)),
            Stage::Ready => {
                let entry = &self.entries[*place.pipeline.front()? as usize];
                let since = place.head_since.tick;
                let stop = entry.cancelled.then_some((since + PATIENCE, Step::StopCancelled));
                let walltime = place.started.zip(entry.task.walltime());
                let expiry = walltime.map(|(started, walltime)| (started + walltime, Step::StopTimedOut));
                let deadline = entry.task.end_by;
                let deadline = (deadline != Tick::NEVER).then_some((deadline, Step::StopAtDeadline));
                // Who was between tasks did not hear it, so it is asked again.
                let recall_due = match place.recalled {
                    None => since + PATIENCE,
                    Some(at) => at + at.since(since).clamp(PATIENCE, LONGEST_RECALL_PAUSE),
                };
                let recall = (place.pipeline.len() > 1).then_some((recall_due, Step::Recall));
                let report = (!place.reported).then_some((since + REPORT_AFTER, Step::ReportStart));
                [stop, expiry, deadline, recall, report].into_iter().flatten().min_by_key(|(due, _)| *due)
            }
            Stage::Ending(ending) => {
                let kill = ending.kill_at.map(|due| (due, Step::Kill));
                let settle = ending.settle_at.map(|due| (due, Step::Settle));
                kill.into_iter().chain(settle).min_by_key(|(due, _)| *due)
            }
        }
    }

    pub(super) fn take_step(&mut self, slot: usize, step: Step) {
        match step {
            Step::GiveUpBooting => {
                self.end(slot, Cause::Unborn(format!("a worker process said nothing for {BOOT_TIME:?}")));
            }
            Step::ReportStart => self.report_start(slot),
            Step::Recall => {
                let place = &mut self.slots[slot];
                place.recalled = Some(self.now.tick);
                self.outputs.extend(place.pid.map(PoolOutput::Recall));
            }
            Step::StopCancelled => self.stop_head(slot, Cause::Cancelled),
            Step::StopTimedOut => self.stop_head(slot, Cause::TimedOut),
            Step::StopAtDeadline => self.stop_head(slot, Cause::DeadlinePassed),
            Step::Kill => {
                let pid = self.slots[slot].pid;
                self.outputs.extend(pid.map(|pid| PoolOutput::Signal { pid, signal: Signal::Kill }));
                if let Stage::Ending(ending) = &mut self.slots[slot].stage {
                    (ending.kill_at, ending.settle_at) = (None, Some(self.now.tick + REAP_TIME));
                    // It had time to end by itself and did not.
                    if ending.cause == Cause::Died {
                        ending.cause = Cause::Violation("it closed its connection".to_owned());
                        self.slots[slot].lied = true;
                    }
                }
            }
            Step::Settle => self.settle(slot),
            Step::Command => self.advance_command(slot),
        }
    }

    fn stop_head(&mut self, slot: usize, cause: fn(u64) -> Cause) {
        if let Some(key) = self.slots[slot].pipeline.front() {
            let tag = self.entries[*key as usize].tag;
            self.end(slot, cause(tag));
        }
    }

    /// The slot that gets a process next, if it may. Few are asked for at a time, so that a zygote with a thousand requests
    /// still hears of those that end; and none before those that are ending have gone, unless tasks wait for them.
    pub(super) fn next_fork(&self) -> Option<(Tick, usize)> {
        let may_fork = self.zygote == Zygote::Ready
            && self.needs_workers()
            && self.slots.booting() < MAX_BOOTING
            && self.spare() > 0
            && (self.calls.waiting > 0 || self.slots.ending() == 0)
            && (self.slots.workers() < WARM_WORKERS || self.calls.waiting > self.slots.booting());
        if may_fork { self.slots.next_vacant() } else { None }
    }

    pub(super) fn fork_workers(&mut self) {
        while let Some((due, slot)) = self.next_fork()
            && due <= self.now.tick
        {
            let place = &mut self.slots[slot];
            place.stage = Stage::Booting { deadline: self.now.tick + BOOT_TIME };
            self.outputs.push_back(PoolOutput::Fork(place.worker));
            self.file_slots();
        }
    }

    /// Ends the process of a slot: gently if its task was cancelled or the pool is stopped, else at once.
    pub(super) fn end(&mut self, slot: usize, cause: Cause) {
        let (signal, ending) = self.ending(cause);
        let place = &mut self.slots[slot];
        tracing::debug!(worker = place.worker, pid = place.pid, cause = ?ending.cause, "ending a worker");
        self.outputs.extend(place.pid.map(|pid| PoolOutput::Signal { pid, signal }));
        place.stage = Stage::Ending(ending);
    }

    /// How a process that must end is made to.
    pub(super) fn ending(&self, cause: Cause) -> (Signal, Ending) {
        let (signal, kill_at, settle_at) = match cause {
            Cause::Cancelled(_) | Cause::Stopped => {
                (Signal::Terminate, Some(self.now.tick + self.settings.kill_grace), None)
            }
            _ => (Signal::Kill, None, Some(self.now.tick + REAP_TIME)),
        };
        (signal, Ending { cause, kill_at, settle_at })
    }

    /// The process is gone; what it sent may still have to be read.
    pub(super) fn note_exit(&mut self, slot: usize, exit: Exit) {
        let place = &mut self.slots[slot];
        place.exit = Some(exit);
        if !place.connected {
            return self.settle(slot);
        }
        if let Stage::Ending(ending) = &mut place.stage {
            (ending.kill_at, ending.settle_at) = (None, Some(self.now.tick + READ_TIME));
        }
    }
}
