//! How many of its slots a pool may use: all of them, or fewer while pools share the slots of a manager.

use funcx_core::model::Now;

use super::super::protocol::FrameWriter;
use super::super::slot::{Cause, Ending, Stage};
use super::{PoolOutput, PoolState, Zygote};

impl PoolState {
    /// Begins without a zygote, and uses no slot before [`resize`](Self::resize). Called before anything else.
    pub(in super::super) fn start_empty(&mut self) {
        (self.allowed, self.zygote, self.is_shared) = (0, Zygote::NotWanted, true);
        self.advertised = self.capacity();
    }

    /// Uses at most so many slots from now on. Workers without tasks end at once, others when theirs have ended; the
    /// capacity says when that is so. The first slots start the zygote.
    pub(in super::super) fn resize(&mut self, slots: u32, now: Now) {
        self.touch(now);
        self.allowed = (slots as usize).min(self.slots.len());
        if self.allowed > 0 && self.zygote == Zygote::NotWanted && !self.draining {
            self.zygote = Zygote::Starting;
            self.outputs.push_back(PoolOutput::StartZygote);
        }
    }

    /// Slots with a worker or a command.
    pub(super) fn in_use(&self) -> usize {
        self.slots.len() - self.slots.vacant()
    }

    /// Slots that may get a worker or a command.
    pub(super) fn spare(&self) -> usize {
        self.allowed.saturating_sub(self.in_use())
    }

    /// Slots with something that stays, beyond those that it may use.
    pub(super) fn excess(&self) -> usize {
        (self.in_use() - self.slots.ending()).saturating_sub(self.allowed)
    }

    /// Ends workers that are too many and have nothing to do.
    pub(super) fn trim(&mut self) {
        if self.allowed == self.slots.len() {
            return;
        }
        self.file_slots();
        while self.excess() > 0 {
            match (self.slots.any_booting(), self.slots.next_idle(0)) {
                (Some(booting), _) => self.end(booting, Cause::Drained),
                (None, Some(idle)) => self.dismiss(idle),
                (None, None) => break,
            }
            self.file_slots();
        }
    }

    /// Lets an idle worker end by itself.
    pub(super) fn dismiss(&mut self, slot: usize) {
        let place = &mut self.slots[slot];
        let mut writer = FrameWriter::default();
        writer.exit();
        self.outputs.push_back(PoolOutput::Send { worker: place.worker, pieces: writer.finish() });
        let kill_at = Some(self.now.tick + self.settings.kill_grace);
        place.stage = Stage::Ending(Ending { cause: Cause::Drained, kill_at, settle_at: None });
    }
}
