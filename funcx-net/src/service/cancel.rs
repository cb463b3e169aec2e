//! Cancelling tasks, and forgetting those that have ended.

use std::{collections::HashMap, sync::Arc};

use funcx_core::contract::{Action, Principal, TaskQuery, TaskRecord, Write};
use funcx_core::model::{
    AttemptId, EndpointId, Failure, IdMap, TaskEvent, TaskEventKind, TaskGroupId, TaskId, Timestamp, limit,
};

use super::lane::Doomed;
use super::tasks::READ_TASKS;
use super::unstoppable::Unstoppable;
use super::{Answer, Service};
use crate::driver::wall_clock;

/// Which tasks to cancel or to forget.
#[derive(Debug, Clone)]
pub enum CancelTarget {
    /// These.
    Tasks(Vec<TaskId>),
    /// All of a group.
    Group(TaskGroupId),
}

/// What a cancel did to a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CancelEffect {
    /// It waited, or its endpoint was away, and it has ended as cancelled.
    Cancelled,
    /// It was at its endpoint, which is told to stop it. Its outcome says whether that came in time.
    Asked,
    /// It had ended before.
    Finished,
    /// It is not there, or not the caller's.
    Unknown,
}

/// What a cancel did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CancelReport {
    /// Tasks that waited, or whose endpoints were away, and have ended.
    pub cancelled: usize,
    /// Tasks whose endpoints are told to stop them.
    pub asked: usize,
    /// Tasks that had ended before.
    pub finished: usize,
    /// Tasks that are not there, or not the caller's.
    pub unknown: usize,
    /// What became of each task that was named, in the same order; nothing for groups, which may be very large.
    pub effects: Vec<CancelEffect>,
}

impl CancelReport {
    fn count(&mut self, effect: CancelEffect) {
        *match effect {
            CancelEffect::Cancelled => &mut self.cancelled,
            CancelEffect::Asked => &mut self.asked,
            CancelEffect::Finished => &mut self.finished,
            CancelEffect::Unknown => &mut self.unknown,
        } += 1;
    }
}

/// What a purge did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PurgeReport {
    /// Tasks that had ended and are forgotten.
    pub purged: usize,
    /// Tasks that have not ended and stay.
    pub unfinished: usize,
    /// Tasks that are not there, or not the caller's.
    pub unknown: usize,
}

impl Service {
    /// Cancels tasks. One that has not been given to an endpoint ends now; one that has been is stopped there, and its
    /// outcome says whether that came in time.
    ///
    /// **Cancellation.** Goes on to its end when the future is dropped.
    ///
    /// # Errors
    /// `NotFound` or `Forbidden` (group), `Unavailable` (the store; then some may be cancelled already).
    pub async fn cancel(
        self: &Arc<Self>,
        principal: &Principal,
        target: CancelTarget,
    ) -> Answer<CancelReport> {
        let (service, principal) = (Arc::clone(self), principal.clone());
        Unstoppable::new(async move {
            let mut report = CancelReport::default();
            let named = matches!(target, CancelTarget::Tasks(_));
            let mut pages = Pages::new(&service, &principal, target).await?;
            while let Some(page) = pages.next(&service).await? {
                let effects = service.cancel_page(&principal, &page).await?;
                effects.iter().for_each(|effect| report.count(*effect));
                if named {
                    report.effects.extend(effects);
                }
            }
            Ok(report)
        })
        .await
    }

    /// Forgets tasks that have ended: their arguments, outcomes and events, and that they ever were.
    ///
    /// **Cancellation.** Goes on to its end when the future is dropped.
    ///
    /// # Errors
    /// `NotFound` or `Forbidden` (group), `Unavailable` (the store; then some may be forgotten already).
    pub async fn purge(self: &Arc<Self>, principal: &Principal, target: CancelTarget) -> Answer<PurgeReport> {
        let (service, principal) = (Arc::clone(self), principal.clone());
        Unstoppable::new(async move {
            let mut report = PurgeReport::default();
            let mut pages = Pages::new(&service, &principal, target).await?;
            while let Some(page) = pages.next(&service).await? {
                let (records, unknown) = service.own_tasks(&principal, &page).await?;
                let ended: Vec<TaskId> =
                    records.iter().filter(|record| record.ended).map(|record| record.id).collect();
                report.unknown += unknown;
                report.unfinished += records.len() - ended.len();
                report.purged += ended.len();
                if !ended.is_empty() {
                    service.store.commit(vec![Write::Forget(ended)]).await?;
                    service.forget_values().await;
                }
            }
            Ok(report)
        })
        .await
    }

    /// Cancels tasks, and says of each in the same order what was done.
    async fn cancel_page(
        self: &Arc<Self>,
        principal: &Principal,
        ids: &[TaskId],
    ) -> Answer<Vec<CancelEffect>> {
        let (records, _) = self.own_tasks(principal, ids).await?;
        let mut effects: IdMap<TaskId, CancelEffect> = IdMap::default();
        let mut by_endpoint: HashMap<EndpointId, Vec<Doomed>> = HashMap::new();
        let now = wall_clock();
        let mut events = Vec::new();
        for record in records {
            // Whatever is not found on the way has ended meanwhile; and somebody may name a task twice.
            let first = effects.insert(record.id, CancelEffect::Finished).is_none();
            if first && !record.ended {
                by_endpoint.entry(record.endpoint).or_default().push(record.doomed);
                events.push(record.cancel_requested(principal, now));
            }
        }
        let effect = |effects: &IdMap<TaskId, CancelEffect>, id| {
            effects.get(id).copied().unwrap_or(CancelEffect::Unknown)
        };
        if events.is_empty() {
            return Ok(ids.iter().map(|id| effect(&effects, id)).collect());
        }
        // Called before the outcomes are committed, so that it comes before them.
        let recorded = self.store.commit(vec![Write::Record(events)]);
        for (endpoint, tasks) in by_endpoint {
            let lane = self.lane(endpoint).await?;
            // It may have tasks from before a restart of this service.
            let reason = match lane.is_connected() {
                true => Failure::new("Cancelled", "cancelled before it was given to an endpoint"),
                false => Failure::cancelled_away(),
            };
            let done = lane.cancel(self, tasks, &reason).await?;
            effects.extend(done.ended.into_iter().map(|id| (id, CancelEffect::Cancelled)));
            effects.extend(done.asked.into_iter().map(|id| (id, CancelEffect::Asked)));
        }
        if let Err(error) = recorded.await {
            // Stopping a task matters more than who asked for it.
            tracing::warn!(%error, "cannot store who asked to cancel tasks");
        }
        Ok(ids.iter().map(|id| effect(&effects, id)).collect())
    }

    /// Those of these tasks that are there and the caller's, and the number of the others.
    async fn own_tasks(&self, principal: &Principal, ids: &[TaskId]) -> Answer<(Vec<Found>, usize)> {
        let mut found = Vec::with_capacity(ids.len());
        for page in ids.chunks(READ_TASKS) {
            let records = self.store.tasks(page).await?.into_iter().flatten();
            let own = records.filter(|record| self.check_task(principal, Action::Change, record).is_ok());
            found.extend(own.map(|record| Found::from(&record)));
        }
        let unknown = ids.len() - found.len();
        Ok((found, unknown))
    }
}

/// What matters about a task that somebody named.
struct Found {
    id: TaskId,
    endpoint: EndpointId,
    attempt: u32,
    ended: bool,
    doomed: Doomed,
}

impl From<&TaskRecord> for Found {
    fn from(record: &TaskRecord) -> Self {
        let (id, endpoint, attempt) = (record.id, record.endpoint, record.attempt);
        let queue = funcx_core::contract::QueueKey::of(&record.spec);
        let doomed = Doomed { id, queue, sequence: record.sequence };
        Self { id, endpoint, attempt, ended: record.outcome.is_some(), doomed }
    }
}

impl Found {
    fn cancel_requested(&self, principal: &Principal, now: Timestamp) -> TaskEvent {
        TaskEvent {
            attempt: AttemptId { task: self.id, number: self.attempt },
            at: now,
            kind: TaskEventKind::CancelRequested,
            actor: principal.username.clone(),
            detail: String::new(),
        }
    }
}

/// The tasks that a target names, page by page.
enum Pages {
    Tasks(std::vec::IntoIter<TaskId>),
    Group(TaskGroupId, Option<funcx_core::contract::TaskCursor>),
    End,
}

impl Pages {
    async fn new(service: &Service, principal: &Principal, target: CancelTarget) -> Answer<Self> {
        match target {
            CancelTarget::Tasks(ids) => Ok(Self::Tasks(ids.into_iter())),
            CancelTarget::Group(group) => {
                service.check_group(principal, group).await?;
                Ok(Self::Group(group, None))
            }
        }
    }

    async fn next(&mut self, service: &Service) -> Answer<Option<Vec<TaskId>>> {
        match self {
            Self::Tasks(ids) => {
                let page: Vec<TaskId> = ids.take(limit::MAX_PAGE_TASKS).collect();
                Ok((!page.is_empty()).then_some(page))
            }
            Self::Group(group, after) => {
                let (group, after) = (*group, after.take());
                let query = TaskQuery::Group(group);
                let (page, next) = service.store.task_ids(query, after, limit::MAX_PAGE_TASKS).await?;
                *self = next.map_or(Self::End, |next| Self::Group(group, Some(next)));
                Ok(Some(page))
            }
            Self::End => Ok(None),
        }
    }
}
