//! Cancelling tasks, and forgetting those that have ended.

use std::{collections::HashMap, sync::Arc};

use funcx_core::contract::{Action, Principal, TaskQuery, TaskRecord, Write};
use funcx_core::model::{
    AttemptId, EndpointId, Failure, TaskEvent, TaskEventKind, TaskGroupId, TaskId, Timestamp, limit,
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

/// What a cancel did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CancelReport {
    /// Tasks that had not ended and were asked to.
    pub cancelled: usize,
    /// Tasks that are not there, or not the caller's.
    pub unknown: usize,
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
            let mut pages = Pages::new(&service, &principal, target).await?;
            while let Some(page) = pages.next(&service).await? {
                service.cancel_page(&principal, &page, &mut report).await?;
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
                }
            }
            Ok(report)
        })
        .await
    }

    async fn cancel_page(
        self: &Arc<Self>,
        principal: &Principal,
        ids: &[TaskId],
        report: &mut CancelReport,
    ) -> Answer<()> {
        let (records, unknown) = self.own_tasks(principal, ids).await?;
        report.unknown += unknown;
        let mut by_endpoint: HashMap<EndpointId, Vec<Doomed>> = HashMap::new();
        let now = wall_clock();
        let mut events = Vec::new();
        for record in records.into_iter().filter(|record| !record.ended) {
            by_endpoint.entry(record.endpoint).or_default().push(record.doomed);
            events.push(record.cancel_requested(principal, now));
        }
        if events.is_empty() {
            return Ok(());
        }
        // Called before the outcomes are committed, so that it comes before them.
        let recorded = self.store.commit(vec![Write::Record(events)]);
        let reason = Failure::new("Cancelled", "cancelled before it was given to an endpoint");
        for (endpoint, tasks) in by_endpoint {
            let lane = self.lane(endpoint).await?;
            report.cancelled += lane.cancel(self, tasks, &reason).await?;
        }
        if let Err(error) = recorded.await {
            // Stopping a task matters more than who asked for it.
            tracing::warn!(%error, "cannot store who asked to cancel tasks");
        }
        Ok(())
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
