//! Outcomes: committed, then acknowledged downstream, then told to those who wait.

use std::{collections::BTreeSet, sync::Arc};

use funcx_core::Result;
use funcx_core::contract::{Backlog, OutcomeRecord, Write};
use funcx_core::model::{Outcome, OutcomeKind, TaskEvent, TaskEventKind, TaskId, limit};

use super::lane::{FIRST_PAUSE, LONGEST_PAUSE};
use super::publish::{Finished, Origin};
use super::queue::Queue;
use super::tasks::READ_TASKS;
use super::{Service, memo};
use crate::driver::wall_clock;

/// Commits of events, numbered in the order in which they were called.
#[derive(Debug, Default)]
pub(super) struct Recording {
    next: u64,
    under_way: BTreeSet<u64>,
}

impl Recording {
    fn begin(&mut self) -> u64 {
        let number = self.next;
        self.next += 1;
        self.under_way.insert(number);
        number
    }

    fn is_done_before(&self, number: u64) -> bool {
        self.under_way.first().is_none_or(|first| *first >= number)
    }
}

impl Service {
    /// Makes outcomes of the dispatcher safe, however long that takes. The commit is called before this returns.
    pub(super) fn finish(
        self: Arc<Self>,
        outcomes: Vec<Outcome>,
    ) -> impl Future<Output = ()> + Send + 'static {
        let recorded = self.recording.borrow().next;
        let begun = parts(outcomes).into_iter().map(|outcomes| {
            let (ticket, records) = self.publisher.stamp(outcomes, wall_clock());
            let committed = self.store.commit(vec![Write::Finish(records.clone())]);
            (ticket, records, committed)
        });
        let begun: Vec<_> = begun.collect();
        async move {
            for (ticket, records, mut committed) in begun {
                let mut pause = FIRST_PAUSE;
                while let Err(error) = committed.await {
                    self.say_failed(&error);
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                    committed = self.store.commit(vec![Write::Finish(records.clone())]);
                }
                self.say_worked();
                self.metrics.finished(&records);
                log(&records);
                let origins = self.untrack(&records);
                let origins = self.find_origins(&records, origins).await;
                self.publisher.publish(ticket, finished(records, origins));
            }
            // Attempts that were lost with these outcomes must be counted before their sender forgets them.
            self.recorded_through(recorded).await;
        }
    }

    /// Waits until events that were given out before this number are durable.
    async fn recorded_through(&self, number: u64) {
        let mut recording = self.recording.subscribe();
        // The sender is in the service, which is here.
        let _ = recording.wait_for(|commits| commits.is_done_before(number)).await;
    }

    /// Makes outcomes of tasks safe that are not in the dispatcher; tried once.
    pub(super) async fn finish_unloaded(
        &self,
        outcomes: Vec<Outcome>,
        origins: Vec<Option<Arc<Origin>>>,
    ) -> Result<()> {
        let (ticket, records) = self.publisher.stamp(outcomes, wall_clock());
        let committed = self.store.commit(vec![Write::Finish(records.clone())]);
        let committed = committed.await;
        let told = match committed {
            Ok(()) => {
                self.metrics.finished(&records);
                log(&records);
                finished(records, origins)
            }
            Err(_) => Vec::new(),
        };
        self.publisher.publish(ticket, told);
        committed
    }

    /// Keeps what the node tells about attempts: those that were lost, so that they count after a restart too, and the
    /// beginning of those with a time to live, which does not matter from then on. The commit is called before this returns;
    /// it is tried until it is done or the service stops.
    pub fn keep_events(self: &Arc<Self>, events: Vec<TaskEvent>) -> impl Future<Output = ()> + Send + use<> {
        let kept: Vec<TaskEvent> = {
            let tracked = self.tracked.lock();
            let expires =
                |event: &TaskEvent| tracked.get(&event.attempt.task).is_some_and(|task| task.expires);
            let matters = |event: &TaskEvent| event.kind != TaskEventKind::Started || expires(event);
            events.into_iter().filter(matters).collect()
        };
        let begun = (!kept.is_empty()).then(|| {
            let mut number = 0;
            self.recording.send_modify(|commits| number = commits.begin());
            (number, self.store.commit(vec![Write::Record(kept.clone())]))
        });
        let service = Arc::clone(self);
        async move {
            let Some((number, mut committed)) = begun else { return };
            let mut pause = FIRST_PAUSE;
            while let Err(error) = committed.await {
                service.say_failed(&error);
                tokio::select! {
                    () = tokio::time::sleep(pause) => pause = (pause * 2).min(LONGEST_PAUSE),
                    () = service.stopping.cancelled() => return,
                }
                committed = service.store.commit(vec![Write::Record(kept.clone())]);
            }
            service.recording.send_modify(|commits| {
                commits.under_way.remove(&number);
            });
            service.say_worked();
        }
    }

    fn say_failed(&self, error: &funcx_core::Error) {
        if let Some(commits) = self.trouble.failed() {
            tracing::error!(commits, %error, "cannot store outcomes and events of tasks; trying again until it can be done");
        }
    }

    fn say_worked(&self) {
        if let Some(lasted) = self.trouble.worked() {
            tracing::info!(?lasted, "outcomes and events of tasks are stored again");
        }
    }

    /// Tasks have left the dispatcher and their outcomes are durable: their queues have room for others.
    fn untrack(self: &Arc<Self>, records: &[OutcomeRecord]) -> Vec<Option<Arc<Origin>>> {
        let mut queues: Vec<(Arc<Queue>, Backlog)> = Vec::new();
        let mut origins = Vec::with_capacity(records.len());
        let mut returned = Vec::new();
        let mut tracked = self.tracked.lock();
        for record in records {
            let Some(task) = tracked.remove(&record.outcome.task) else {
                origins.push(None);
                continue;
            };
            let map = task.origin.spec.map;
            returned.extend(task.memo.and_then(|memo| memo::returned(*memo, map, record)));
            let bytes = task.bytes as u64;
            match queues.iter_mut().find(|(queue, _)| Arc::ptr_eq(queue, &task.queue)) {
                Some((_, ended)) => {
                    ended.tasks += 1;
                    ended.bytes += bytes;
                }
                None => queues.push((task.queue, Backlog { tasks: 1, bytes })),
            }
            origins.push(Some(task.origin));
        }
        drop(tracked);
        self.remember(returned);
        for (queue, ended) in queues {
            // A lane stays open once it is.
            if let Some(lane) = self.open_lane(queue.endpoint) {
                lane.finished(self, &queue, ended);
            }
        }
        origins
    }

    /// Where the other tasks came from, if it matters to anybody. There are some only if a node tells the end of a task again
    /// that the service knows has ended.
    async fn find_origins(
        &self,
        records: &[OutcomeRecord],
        mut origins: Vec<Option<Arc<Origin>>>,
    ) -> Vec<Option<Arc<Origin>>> {
        let missing: Vec<usize> = (0..records.len()).filter(|index| origins[*index].is_none()).collect();
        if missing.is_empty() || !self.publisher.is_followed() {
            return origins;
        }
        for part in missing.chunks(READ_TASKS) {
            let ids: Vec<TaskId> = part.iter().map(|index| records[*index].outcome.task).collect();
            let found = match self.store.tasks(&ids).await {
                Ok(found) => found,
                Err(error) => {
                    // Followers will be told to look for themselves.
                    tracing::warn!(%error, "cannot read which groups finished tasks belong to");
                    break;
                }
            };
            for (index, task) in part.iter().zip(found) {
                origins[*index] = task.map(|task| {
                    let (endpoint, group, function) = (task.endpoint, task.group, task.function);
                    Arc::new(Origin { endpoint, group, function, spec: task.spec, accepted: task.accepted })
                });
            }
        }
        origins
    }
}

/// Outcomes in parts that a commit has room for: many memoized tasks may end at once, all with the same large value.
fn parts(outcomes: Vec<Outcome>) -> Vec<Vec<Outcome>> {
    let (mut parts, mut part, mut bytes) = (Vec::new(), Vec::new(), 0);
    for outcome in outcomes {
        if bytes >= limit::TARGET_BATCH_BYTES {
            parts.push(std::mem::take(&mut part));
            bytes = 0;
        }
        bytes += outcome.payload_bytes();
        part.push(outcome);
    }
    if !part.is_empty() {
        parts.push(part);
    }
    parts
}

/// Says what became of tasks: each of them to those who look for one, the rare ends to everybody.
pub(super) fn log(records: &[OutcomeRecord]) {
    let everything = tracing::enabled!(target: "funcx_net::task", tracing::Level::DEBUG);
    for OutcomeRecord { outcome, .. } in records {
        let (task, attempt) = (outcome.task, outcome.attempt);
        if matches!(outcome.kind, OutcomeKind::Lost | OutcomeKind::TimedOut) {
            let reason = outcome.failure().map(|failure| failure.message).unwrap_or_default();
            tracing::info!(%task, attempt, outcome = outcome.kind.as_str(), reason, "task ended");
        } else if everything {
            tracing::debug!(target: "funcx_net::task", %task, attempt, outcome = outcome.kind.as_str(), "completed");
        }
    }
}

fn finished(records: Vec<OutcomeRecord>, origins: Vec<Option<Arc<Origin>>>) -> Vec<Finished> {
    records.into_iter().zip(origins).map(|(outcome, origin)| Finished { outcome, origin }).collect()
}
