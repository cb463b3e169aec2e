//! How a pool ends.

use funcx_core::model::{Failure, Now, OutcomeKind};

use super::super::protocol::FrameWriter;
use super::super::slot::{Cause, Ending, Stage};
use super::{PoolOutput, PoolState, Zygote, key_of};

impl PoolState {
    /// Takes no more tasks and gives back those that no worker was sent; ends the workers when the others are done.
    pub(in super::super) fn drain(&mut self, now: Now) {
        self.touch(now);
        self.draining = true;
        for tag in std::mem::take(&mut self.queue) {
            let key = key_of(tag);
            if self.entries.get(key).is_some_and(|entry| entry.tag == tag) {
                self.dequeue(key as u32);
                self.give_back(key as u32);
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
        }
    }

    /// Ends everything with an outcome because the pool goes away.
    pub(in super::super) fn abandon(&mut self, now: Now) {
        self.touch(now);
        self.draining = true;
        let failure = Failure::new("ExecutorDropped", "the executor was dropped before the task ended");
        let keys: Vec<_> = self.entries.iter().map(|(key, _)| key as u32).collect();
        keys.into_iter().for_each(|key| self.fail(key, OutcomeKind::Lost, &failure));
        (0..self.slots.len()).for_each(|slot| self.slots[slot].pipeline.clear());
        self.expiries.clear();
        (self.waiting, self.broken) = (0, Some(failure.message));
    }

    /// Ends workers and zygote once a draining pool has no tasks left.
    pub(super) fn advance_drain(&mut self) {
        if self.needs_workers() || self.drained {
            return;
        }
        self.file_slots();
        while let Some(slot) = self.slots.next_idle(0) {
            let place = &mut self.slots[slot];
            let mut writer = FrameWriter::default();
            writer.exit();
            self.outputs.push_back(PoolOutput::Send { worker: place.worker, pieces: writer.finish() });
            let kill_at = Some(self.now.tick + self.settings.kill_grace);
            place.stage = Stage::Ending(Ending { cause: Cause::Drained, kill_at, settle_at: None });
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
            Zygote::Waiting { .. } | Zygote::Gone => self.drained = true,
            Zygote::Starting | Zygote::Stopping => {}
        }
    }
}
