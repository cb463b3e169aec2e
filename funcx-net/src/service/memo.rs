//! Values of calls that were made before. A call that finds one is accepted with its outcome: it needs no queue, no endpoint
//! and no worker.
//!
//! Equal calls that are under way wait for each other in the dispatcher. Here is what comes after: values at hand in
//! memory, and behind it those in the store, which a restart does not forget.

use std::{collections::HashMap, iter, sync::Arc};

use bytes::Bytes;
use funcx_core::Result;
use funcx_core::contract::{FunctionRecord, OutcomeRecord, PendingTask, Write};
use funcx_core::memo::{MemoKey, MemoKeys, lasting_value};
use funcx_core::model::{EndpointId, Memoize, Outcome, TaskId, TaskSpec};

use super::publish::{Finished, Ticket};
use super::submit::{Batch, Numbered, submission};
use super::{Service, finish};
use crate::driver::wall_clock;

/// Bytes of values with which the calls of one request may be answered.
pub(super) const MAX_ANSWER_BYTES: usize = 32 << 20;

/// Bytes of values that the node keeps itself. Large ones are no loss: a call that just misses one runs again.
pub(super) const LANDED_BYTES: usize = 8 << 20;

/// A call by its key, if it wants to be remembered, and the value of an equal one.
pub(super) type Known = (Option<Arc<MemoKey>>, Option<Bytes>);

/// The keys of tasks that were read from the store, one for each.
pub(super) fn pending_keys(page: &[PendingTask], endpoint: EndpointId) -> Vec<Option<Arc<MemoKey>>> {
    let key = |task: &PendingTask| {
        let keys = MemoKeys::wanted(&task.spec, task.function, endpoint)?;
        Some(Arc::new(keys.of(&task.payload)))
    };
    page.iter().map(key).collect()
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

    /// Keys and values of equal calls, one entry for each of the arguments; empty if no value will do. The values take no
    /// more than `room` bytes, which is less by them: calls with larger ones go their ordinary way.
    pub(super) async fn known_values(
        &self,
        spec: &TaskSpec,
        endpoint: EndpointId,
        batch: &Batch,
        room: &mut usize,
    ) -> Result<Vec<Known>> {
        let Some(keys) = MemoKeys::wanted(spec, batch.function, endpoint) else { return Ok(Vec::new()) };
        let keys: Vec<MemoKey> = batch.arguments.iter().map(|arguments| keys.of(arguments)).collect();
        let mut known: HashMap<MemoKey, Option<Bytes>> = HashMap::new();
        let times_cleared = {
            let mut memo = self.memo.lock();
            for key in &keys {
                known.entry(*key).or_insert_with(|| memo.find(key));
            }
            memo.times_cleared()
        };
        let missing = known.iter().filter(|(_, value)| value.is_none());
        let missing: Vec<MemoKey> = missing.map(|(key, _)| *key).collect();
        if !missing.is_empty() {
            let found = self.store.remembered(&missing, *room).await?;
            let mut memo = self.memo.lock();
            // A purge may have come between.
            let is_current = memo.times_cleared() == times_cleared;
            for (key, value) in missing.into_iter().zip(found) {
                value.iter().filter(|_| is_current).for_each(|value| memo.insert(key, value));
                known.insert(key, value);
            }
        }
        let mut fitting = |key: &MemoKey| {
            let value = known.get(key)?.as_ref()?;
            *room = room.checked_sub(value.len())?;
            Some(value.clone())
        };
        Ok(keys.into_iter().map(|key| (Some(Arc::new(key)), fitting(&key))).collect())
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

    /// Tasks were forgotten: what they have returned is not at hand any more either.
    pub(super) async fn forget_values(&self) {
        self.memo.lock().clear();
        // A node that has stopped remembers nothing.
        let _ = self.node.with(|node, _| node.forget_values()).await;
    }
}

/// What to remember of an outcome. One that was remembered itself adds nothing.
pub(super) fn returned(key: MemoKey, map: bool, record: &OutcomeRecord) -> Option<(MemoKey, TaskId, Bytes)> {
    let outcome = &record.outcome;
    let value = lasting_value(map, outcome).filter(|_| !outcome.is_remembered())?;
    Some((key, outcome.task, value.clone()))
}
