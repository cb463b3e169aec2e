//! How a pool ends.

use funcx_core::model::{Failure, Now, OutcomeKind};

use super::super::slot::Cause;
use super::{PoolOutput, PoolState, Zygote, waiting::Queue};

impl PoolState {
    /// Takes no more tasks and gives back those that wait; ends the workers when the others are done.
    pub(in super::super) fn drain(&mut self, now: Now) {
        self.touch(now);
        self.draining = true;
        for commands in [false, true] {
            while let Some(key) = self.take_next(commands, |_, _| true) {
                self.give_back(key);
            }
        }
    }

    /// Drains, and stops what runs: SIGTERM, then SIGKILL after the grace. What had begun is `Lost` for this reason, unless
    /// it ends by itself before its process does.
    pub(in super::super) fn stop(&mut self, failure: Failure, now: Now) {
        self.drain(now);
        self.stopped = Some(failure);
        for slot in 0..self.slots.len() {
            if self.slots[slot].is_ready() && !self.slots[slot].pipeline.is_empty() {
                self.end(slot, Cause::Stopped);
            }
            self.stop_command(slot, Cause::Stopped);
        }
    }

    /// Ends everything with an outcome because the pool goes away.
    pub(in super::super) fn abandon(&mut self, now: Now) {
        self.touch(now);
        self.draining = true;
        let failure = Failure::new("ExecutorDropped", "the executor was dropped before the task ended");
        let keys: Vec<_> = self.entries.iter().map(|(key, _)| key as u32).collect();
        keys.into_iter().for_each(|key| self.fail(key, OutcomeKind::Lost, &failure));
        for slot in 0..self.slots.len() {
            self.slots[slot].pipeline.clear();
            self.slots[slot].command = None;
        }
        self.expiries.clear();
        (self.calls, self.commands, self.broken) =
            (Queue::default(), Queue::default(), Some(failure.message));
    }

    /// Ends workers and zygote once a draining pool has no tasks left.
    pub(super) fn advance_drain(&mut self) {
        if self.needs_workers() || self.drained {
            return;
        }
        self.file_slots();
        while let Some(slot) = self.slots.next_idle(0) {
            self.dismiss(slot);
            self.file_slots();
        }
        while let Some(slot) = self.slots.any_booting() {
            self.end(slot, Cause::Drained);
            self.file_slots();
        }
        if !self.slots.are_vacant() {
            return;
        }
        match self.zygote {
            Zygote::Ready => {
                self.zygote = Zygote::Stopping;
                self.outputs.push_back(PoolOutput::StopZygote);
            }
            Zygote::NotWanted | Zygote::Waiting { .. } | Zygote::Gone => self.drained = true,
            Zygote::Starting | Zygote::Stopping => {}
        }
    }
}
