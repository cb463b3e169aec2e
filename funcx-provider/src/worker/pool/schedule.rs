//! Which worker gets which task.

use funcx_core::model::{Failure, OutcomeKind, limit};

use super::super::functions::PIPELINE_NANOS;
use super::super::protocol::{FrameWriter, TaskItem};
use super::{PoolOutput, PoolState, key_of};

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
        let slots = self.slots.len();
        let order = (self.turn..slots).chain(0..self.turn);
        for slot in order.clone() {
            if self.slots[slot].is_ready() && self.slots[slot].pipeline.is_empty() {
                self.give(slot, 1);
            }
        }
        // What is left is spread evenly. A worker that is full leaves its share to the others, in another round.
        loop {
            let before = self.waiting;
            let ready = self.slots.iter().filter(|slot| slot.is_ready()).count();
            if before == 0 || ready == 0 {
                break;
            }
            let share = before.div_ceil(ready);
            order.clone().for_each(|slot| self.give(slot, share));
            if self.waiting == before {
                break;
            }
        }
        self.turn = (self.turn + 1) % slots;
        (0..slots).for_each(|slot| self.send_tasks(slot));
    }

    /// Puts up to `share` waiting tasks into the pipeline of a slot.
    fn give(&mut self, slot: usize, share: usize) {
        if !self.slots[slot].is_ready() {
            return;
        }
        for _ in 0..share {
            let Some(key) = self.take_next(|state, key| state.fits(slot, key)) else { break };
            self.renew_tag(key);
            let cost = self.cost(key);
            let place = &mut self.slots[slot];
            let last_announced =
                place.pipeline.back().is_some_and(|last| self.entries[*last as usize].announced);
            let entry = &mut self.entries[key as usize];
            entry.announced =
                entry.task.walltime().is_some() || entry.at_most_once() || entry.suspect || last_announced;
            (entry.slot, entry.cost) = (Some(slot as u32), cost);
            if place.pipeline.is_empty() {
                (place.head_since, place.reported) = (self.now, false);
            }
            place.cost += cost;
            place.bytes += entry.bytes();
            place.unsent += 1;
            place.pipeline.push_back(key);
        }
    }

    /// The first waiting task, if it is `wanted`.
    fn take_next(&mut self, wanted: impl Fn(&Self, u32) -> bool) -> Option<u32> {
        loop {
            let tag = *self.queue.front()?;
            let key = key_of(tag);
            if self.entries.get(key).is_some_and(|entry| entry.tag == tag) {
                if !wanted(self, key as u32) {
                    return None;
                }
                self.waiting -= 1;
                self.queue.pop_front();
                return Some(key as u32);
            }
            self.queue.pop_front();
        }
    }

    fn fits(&self, slot: usize, key: u32) -> bool {
        let place = &self.slots[slot];
        // A head that takes longer than all of the pipeline should is not what the means have promised.
        let is_stuck = || self.now.tick.since(place.head_since.tick).as_nanos() > PIPELINE_NANOS.into();
        place.pipeline.is_empty()
            || (place.cost + self.cost(key) <= PIPELINE_NANOS
                && place.bytes < limit::TARGET_BATCH_BYTES
                && !is_stuck())
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
