//! What workers say about their tasks, and whether it can be believed.

use bytes::Bytes;
use funcx_core::model::{Hop, Now, Outcome, OutcomeKind, Task};

use super::super::protocol::{FRAME_SPARE_BYTES, FrameWriter, FromWorker, OUTPUT_SPARE_BYTES, TaskEnd};
use super::super::slot::Cause;
use super::{Entry, PoolOutput, PoolState, cancelled};

impl PoolState {
    pub(in super::super) fn handle_frame(&mut self, worker: u64, frame: FromWorker, now: Now) {
        self.touch(now);
        let Some(slot) = self.slot_of(worker) else { return };
        let seen = match frame {
            FromWorker::Hello(_) => Err("a second hello".to_owned()),
            FromWorker::Started(tag) => self.on_started(slot, tag),
            FromWorker::Outcomes(ends) => self.on_outcomes(slot, ends),
            FromWorker::GaveBack(tag) => self.on_gave_back(slot, tag),
        };
        if let Err(violation) = seen {
            self.on_violation(slot, violation);
        }
    }

    pub(super) fn on_violation(&mut self, slot: usize, violation: String) {
        self.slots[slot].lied = true;
        if self.slots[slot].is_ready() {
            tracing::warn!(worker = self.slots[slot].worker, violation, "a worker broke the protocol");
            self.end(slot, Cause::Violation(violation));
        }
    }

    pub(super) fn on_started(&mut self, slot: usize, tag: u64) -> Result<(), String> {
        let place = &mut self.slots[slot];
        let head = place.pipeline.front().map(|key| &self.entries[*key as usize]);
        if place.started.is_some() || head.is_none_or(|entry| entry.tag != tag || !entry.announced) {
            return Err(format!("task {tag} begins out of turn"));
        }
        (place.started, place.head_since) = (Some(self.now.tick), self.now);
        self.report_start(slot);
        Ok(())
    }

    pub(super) fn on_outcomes(&mut self, slot: usize, ends: Vec<TaskEnd>) -> Result<(), String> {
        for end in ends {
            self.check_sizes(&end)?;
            let place = &mut self.slots[slot];
            let head =
                place.pipeline.front().copied().filter(|key| self.entries[*key as usize].tag == end.tag);
            let Some(key) = head else {
                return Err(format!("an outcome of task {}, which is not its next", end.tag));
            };
            let entry = &self.entries[key as usize];
            if entry.announced && place.started.is_none() {
                return Err(format!("task {} ended and had not begun", end.tag));
            }
            place.pipeline.pop_front();
            place.cost -= entry.cost;
            place.bytes -= entry.bytes();
            place.change_head(self.now);
            let worker = place.details.clone();
            let nanos = end.ended.as_nanos().saturating_sub(end.started.as_nanos());
            self.functions.mean_mut(entry.function, entry.task.spec.map).record(nanos);
            self.mean.record(nanos);
            let outcome = match entry.cancelled {
                true => Outcome::failed(&entry.task, OutcomeKind::Cancelled, &cancelled()),
                false => ended(&entry.task, end, worker),
            };
            self.deaths = 0;
            self.finish(key, outcome);
        }
        Ok(())
    }

    /// A worker runs this task, and has the others no more. They go to workers that have nothing to do.
    fn on_gave_back(&mut self, slot: usize, tag: u64) -> Result<(), String> {
        let place = &self.slots[slot];
        let head = place.pipeline.front().map(|key| &self.entries[*key as usize]);
        let runs = |entry: &Entry| entry.tag == tag && (!entry.announced || place.started.is_some());
        if place.lied || !head.is_some_and(runs) {
            return Err(format!("it gives back what stands behind task {tag}"));
        }
        let back = self.slots[slot].pipeline.split_off(1);
        for key in back.into_iter().rev() {
            let entry = &mut self.entries[key as usize];
            let place = &mut self.slots[slot];
            place.cost -= entry.cost;
            place.bytes -= entry.bytes();
            match entry.cancelled {
                true => self.fail(key, OutcomeKind::Cancelled, &cancelled()),
                false => self.take_back(key),
            }
        }
        let place = &mut self.slots[slot];
        place.is_stuck = true;
        let mut writer = FrameWriter::default();
        writer.resume();
        self.outputs.push_back(PoolOutput::Send { worker: place.worker, pieces: writer.finish() });
        Ok(())
    }

    /// A worker keeps what it sends within the bounds of its welcome; what a task writes into its connection may not.
    fn check_sizes(&self, end: &TaskEnd) -> Result<(), String> {
        let welcome = &self.settings.welcome;
        let (what, most) = match end.returned {
            true => ("a result", welcome.max_result_bytes),
            false => ("a failure", FRAME_SPARE_BYTES),
        };
        let output = welcome.max_output_bytes + OUTPUT_SPARE_BYTES;
        let parts =
            [(what, &end.payload, most), ("output", &end.stdout, output), ("output", &end.stderr, output)];
        match parts.into_iter().find(|(_, bytes, most)| bytes.len() > *most) {
            Some((what, bytes, most)) => {
                Err(format!("{what} of {} bytes; at most {most} are allowed", bytes.len()))
            }
            None => Ok(()),
        }
    }

    pub(super) fn report_start(&mut self, slot: usize) {
        let place = &mut self.slots[slot];
        if let Some(key) = place.pipeline.front()
            && !std::mem::replace(&mut place.reported, true)
        {
            let attempt = self.entries[*key as usize].task.attempt_id();
            self.started.push((attempt, place.head_since.wall));
        }
    }
}

fn ended(task: &Task, end: TaskEnd, worker: Bytes) -> Outcome {
    let mut stamps = task.stamps;
    stamps.set(Hop::Started, end.started);
    stamps.set(Hop::Ended, end.ended);
    Outcome {
        task: task.id,
        attempt: task.attempt,
        kind: if end.returned { OutcomeKind::Returned } else { OutcomeKind::Raised },
        payload: end.payload,
        stdout: end.stdout,
        stderr: end.stderr,
        worker,
        stamps,
    }
}
