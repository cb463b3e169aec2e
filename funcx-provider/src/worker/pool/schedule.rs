//! Which worker gets which task.

use funcx_core::model::{Failure, OutcomeKind, limit};

use super::super::functions::PIPELINE_NANOS;
use super::super::protocol::{FrameWriter, TaskItem};
use super::{PoolOutput, PoolState};

impl PoolState {
    /// Gives waiting tasks to workers as far as they have room, in order of arrival.
    pub(super) fn schedule(&mut self) {
        if let Some(reason) = &self.broken {
            let failure = Failure::new("NoWorker", format!("no worker process can be started: {reason}"));
            while let Some(key) = self.take_next(|_, _| true) {
                self.fail(key, OutcomeKind::Lost, &failure);
            }
        }
        if self.waiting == 0 {
            return;
        }
        self.file_slots();
        let mut given = Vec::new();
        while let Some(slot) = self.slots.next_idle(self.turn)
            && self.give(slot, 1) > 0
        {
            given.push(slot);
        }
        // What is left is spread evenly. A worker that is full leaves its share to the others, in another round.
        while self.waiting > 0 && self.slots.roomy().len() > 0 {
            let share = self.waiting.div_ceil(self.slots.roomy().len());
            let round: Vec<_> = self.slots.roomy().take(self.waiting).collect();
            let mut is_full = false;
            for slot in round {
                if self.is_stuck(slot) {
                    // It is not looked at again before its head has ended.
                    self.slots[slot].is_stuck = true;
                    self.file(slot);
                } else if self.give(slot, share) > 0 {
                    given.push(slot);
                } else {
                    // Those that follow have no shorter pipelines.
                    is_full = true;
                    break;
                }
            }
            if is_full {
                break;
            }
        }
        self.turn = (self.turn + 1) % self.slots.len();
        given.into_iter().for_each(|slot| self.send_tasks(slot));
    }

    /// Puts up to `share` waiting tasks into the pipeline of a ready slot; returns how many.
    fn give(&mut self, slot: usize, share: usize) -> usize {
        let mut given = 0;
        while given < share
            && let Some(key) = self.take_next(|state, key| state.fits(slot, key))
        {
            given += 1;
            self.renew_tag(key);
            let cost = self.cost(key);
            let place = &mut self.slots[slot];
            let last_announced =
                place.pipeline.back().is_some_and(|last| self.entries[*last as usize].announced);
            let entry = &mut self.entries[key as usize];
            entry.announced = entry.task.walltime().is_some()
                || entry.at_most_once()
                || entry.suspect
                || entry.is_urgent()
                || last_announced;
            (entry.slot, entry.cost) = (Some(slot as u32), cost);
            if place.pipeline.is_empty() {
                (place.head_since, place.reported, place.is_stuck) = (self.now, false, false);
                place.recalled = false;
            }
            place.cost += cost;
            place.bytes += entry.bytes();
            place.unsent += 1;
            place.pipeline.push_back(key);
        }
        self.file(slot);
        given
    }

    fn fits(&self, slot: usize, key: u32) -> bool {
        let place = &self.slots[slot];
        place.pipeline.is_empty()
            || (place.cost + self.cost(key) <= PIPELINE_NANOS
                && place.bytes < limit::TARGET_BATCH_BYTES
                && !self.entries[key as usize].is_urgent())
    }

    /// A head that takes longer than all of the pipeline should is not what the means have promised.
    fn is_stuck(&self, slot: usize) -> bool {
        self.now.tick.since(self.slots[slot].head_since.tick).as_nanos() > PIPELINE_NANOS.into()
    }

    /// Share of a pipeline that a task takes. A suspect has one for itself.
    fn cost(&self, key: u32) -> u64 {
        let entry = &self.entries[key as usize];
        if entry.suspect { PIPELINE_NANOS } else { self.functions.cost(entry.function) }
    }

    /// Writes the new tasks at the end of a pipeline, and the functions that they need.
    fn send_tasks(&mut self, slot: usize) {
        let place = &mut self.slots[slot];
        let unsent = std::mem::take(&mut place.unsent);
        if unsent == 0 {
            return;
        }
        let mut writer = FrameWriter::default();
        let new = place.pipeline.len() - unsent;
        for at in new..place.pipeline.len() {
            let function = self.entries[place.pipeline[at] as usize].function;
            if !place.learn(function) {
                writer.function(function, self.functions.function(function));
            }
        }
        // The bytes of a pipeline are bounded, but for its last task: a frame may hold that one alone.
        let split = place.pipeline.len() - 1;
        let entries = &self.entries;
        let items = |range: std::ops::Range<usize>| {
            place.pipeline.range(range).map(|key| {
                let entry = &entries[*key as usize];
                TaskItem {
                    tag: entry.tag,
                    function: entry.function,
                    announce: entry.announced,
                    task: &entry.task,
                }
            })
        };
        if entries[place.pipeline[split] as usize].bytes() > limit::TARGET_BATCH_BYTES && split > new {
            writer.tasks(items(new..split));
            writer.tasks(items(split..split + 1));
        } else {
            writer.tasks(items(new..split + 1));
        }
        self.outputs.push_back(PoolOutput::Send { worker: place.worker, pieces: writer.finish() });
    }
}
