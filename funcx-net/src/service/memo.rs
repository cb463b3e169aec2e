//! Values of calls that were made before. A call that finds one is accepted with its outcome: it needs no queue, no endpoint
//! and no worker.
//!
//! Equal calls that are under way wait for each other in the dispatcher. Here is what comes after: values at hand in
//! memory, and behind it those in the store, which a restart does not forget.

use std::{iter, sync::Arc};

use bytes::Bytes;
use funcx_core::Result;
use funcx_core::contract::{FunctionRecord, OutcomeRecord, Write};
use funcx_core::memo::{MemoKey, lasting_value};
use funcx_core::model::{EndpointId, Memoize, Outcome, TaskId, TaskSpec};

use super::publish::{Finished, Ticket};
use super::submit::{Batch, Numbered, submission};
use super::{Service, finish};
use crate::driver::wall_clock;

/// How a task in the dispatcher is remembered when it returns.
#[derive(Debug)]
pub(super) struct Memoized {
    key: MemoKey,
    map: bool,
}

impl Memoized {
    pub(super) fn of(spec: &TaskSpec, arguments: &[u8], endpoint: EndpointId) -> Option<Box<Self>> {
        let key = MemoKey::of(spec, arguments, endpoint.as_u128())?;
        Some(Box::new(Self { key, map: spec.map }))
    }
}

/// What becomes of what the function and a call of it want.
pub(super) fn wanted(function: &FunctionRecord, call: Option<bool>) -> Memoize {
    match (call, function.memoize) {
        (Some(false), _) => Memoize::Never,
        (Some(true), Memoize::Never) => Memoize::Own,
        (_, wanted) => wanted,
    }
}

/// Tasks that are being accepted with their outcomes.
#[derive(Debug)]
pub(super) struct Answered {
    ticket: Ticket,
    finished: Vec<Finished>,
}

impl Service {
    /// Adds what makes tasks durable together with their outcomes. What comes of it has to be told with
    /// [`answered`](Self::answered).
    pub(super) fn answer(
        &self,
        answers: Vec<(Numbered, Vec<Outcome>)>,
        writes: &mut Vec<Write>,
    ) -> Option<Answered> {
        if answers.is_empty() {
            return None;
        }
        let (mut origins, mut outcomes) = (Vec::new(), Vec::new());
        let mut submissions = Vec::with_capacity(answers.len());
        for (numbered, known) in answers {
            origins.extend(iter::repeat_n(Arc::clone(&numbered.0), known.len()));
            submissions.push((known.len(), numbered));
            outcomes.extend(known);
        }
        let (ticket, records) = self.publisher.stamp(outcomes, wall_clock());
        let mut rest = &records[..];
        for (count, numbered) in submissions {
            let (own, others) = rest.split_at(count);
            writes.push(Write::Answer(submission(numbered, 0), own.to_vec()));
            rest = others;
        }
        let finished = records.into_iter().zip(origins);
        let finished = finished.map(|(outcome, origin)| Finished { outcome, origin: Some(origin) });
        Some(Answered { ticket, finished: finished.collect() })
    }

    /// Tasks were accepted with their outcomes, or never will be.
    pub(super) fn answered(&self, answered: Answered, committed: bool) {
        let Answered { ticket, finished } = answered;
        if !committed {
            self.publisher.publish(ticket, Vec::new());
            return;
        }
        let records: Vec<_> = finished.iter().map(|finished| finished.outcome.clone()).collect();
        self.metrics.finished(&records);
        self.metrics.answered(records.len());
        finish::log(&records);
        self.publisher.publish(ticket, finished);
    }

    /// Values of equal calls, one entry for each of the arguments; empty if no value will do.
    pub(super) async fn known_values(
        &self,
        spec: &TaskSpec,
        endpoint: EndpointId,
        batch: &Batch,
    ) -> Result<Vec<Option<Bytes>>> {
        let key = |arguments: &Bytes| MemoKey::of(spec, arguments, endpoint.as_u128());
        let keys: Vec<MemoKey> = batch.arguments.iter().filter_map(key).collect();
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        let mut values: Vec<Option<Bytes>> = {
            let mut memo = self.memo.lock();
            keys.iter().map(|key| memo.find(key)).collect()
        };
        let missing: Vec<usize> = (0..keys.len()).filter(|index| values[*index].is_none()).collect();
        if !missing.is_empty() {
            let asked: Vec<MemoKey> = missing.iter().map(|index| keys[*index]).collect();
            let found = self.store.remembered(&asked).await?;
            let mut memo = self.memo.lock();
            for (index, value) in missing.into_iter().zip(found) {
                value.iter().for_each(|value| memo.insert(keys[index], value));
                values[index] = value;
            }
        }
        Ok(values)
    }

    /// Keeps what tasks have returned for equal calls. If the store does not take it, a restart forgets it, and no more
    /// than that.
    pub(super) fn remember(&self, returned: Vec<(MemoKey, TaskId, Bytes)>) {
        if returned.is_empty() {
            return;
        }
        let mut memo = self.memo.lock();
        let kept = returned.into_iter().map(|(key, task, value)| {
            memo.insert(key, &value);
            (key, task)
        });
        let kept = kept.collect();
        drop(memo);
        // Committed in its order whether or not somebody waits for it.
        drop(self.store.commit(vec![Write::Remember(kept)]));
    }
}

/// What to remember of an outcome. One that was remembered itself adds nothing.
pub(super) fn returned(memoized: &Memoized, record: &OutcomeRecord) -> Option<(MemoKey, TaskId, Bytes)> {
    let outcome = &record.outcome;
    let value = lasting_value(memoized.map, outcome).filter(|_| !outcome.is_remembered())?;
    Some((memoized.key, outcome.task, value.clone()))
}
