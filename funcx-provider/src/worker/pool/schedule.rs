//! Which worker gets which task.

use funcx_core::model::{Failure, OutcomeKind, limit};

use super::super::functions::PIPELINE_NANOS;
use super::super::protocol::{FrameWriter, TaskItem};
use super::{PoolOutput, PoolState};

impl PoolState {
    /// Gives waiting tasks to workers, and free slots to waiting commands, in order of arrival.
    pub(super) fn schedule(&mut self) {
        if let Some(reason) = &self.broken {
            let failure = Failure::new("NoWorker", format!("no worker process can be started: {reason}"));
            for commands in [false, true] {
                while let Some(key) = self.take_next(commands, |_, _| true) {
                    self.fail(key, OutcomeKind::Lost, &failure);
                }
            }
        }
        if self.calls.waiting + self.commands.waiting == 0 {
            return;
        }
        self.file_slots();
        let mut given = Vec::new();
        while self.fill_slot(&mut given) {}
        // What is left is spread evenly. A worker that is full leaves its share to the others, in another round.
        // While there are too many workers, pipelines run dry: the first one that has none ends.
        while self.calls.waiting > 0 && self.slots.roomy().len() > 0 && self.excess() == 0 {
            let share = self.calls.waiting.div_ceil(self.slots.roomy().len());
            let round: Vec<_> = self.slots.roomy().take(self.calls.waiting).collect();
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

    /// Gives a free slot to the task that came first, or to the first one of the other kind if that is all it is good for;
    /// false if there is no slot to give.
    fn fill_slot(&mut self, given: &mut Vec<usize>) -> bool {
        let command_is_first = self.first_arrival(true) < self.first_arrival(false);
        [command_is_first, !command_is_first].into_iter().any(|command| match command {
            true => self.start_next_command(command_is_first),
            false => {
                let slot = self.slots.next_idle(self.turn).filter(|slot| self.give(*slot, 1) > 0);
                given.extend(slot);
                slot.is_some()
            }
        })
    }

    /// Puts up to `share` waiting tasks into the pipeline of a ready slot; returns how many. Behind others it puts only what
    /// came before all waiting commands: they wait for the pipeline to end.
    fn give(&mut self, slot: usize, share: usize) -> usize {
        let first_command = self.first_arrival(true);
        let mut given = 0;
        while given < share
            && let Some(key) = self.take_next(false, |state, key| state.fits(slot, key, first_command))
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
                place.change_head(self.now);
            }
            place.cost += cost;
            place.bytes += entry.bytes();
            place.unsent += 1;
            place.pipeline.push_back(key);
        }
        self.file(slot);
        given
    }

    fn fits(&self, slot: usize, key: u32, first_command: u64) -> bool {
        let (place, entry) = (&self.slots[slot], &self.entries[key as usize]);
        place.pipeline.is_empty()
            || (place.cost + self.cost(key) <= PIPELINE_NANOS
                && place.bytes < limit::TARGET_BATCH_BYTES
                && !entry.is_urgent()
                && entry.arrival < first_command)
    }

    /// A head that takes longer than all of the pipeline should is not what the means have promised.
    fn is_stuck(&self, slot: usize) -> bool {
        self.now.tick.since(self.slots[slot].head_since.tick).as_nanos() > PIPELINE_NANOS.into()
    }

    /// Share of a pipeline that a task takes. A suspect has one for itself.
    fn cost(&self, key: u32) -> u64 {
        let entry = &self.entries[key as usize];
        match entry.suspect {
            true => PIPELINE_NANOS,
            false => self.functions.cost(entry.function, entry.task.spec.map),
        }
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
