//! What became of tasks; cancelling them.

use std::{collections::HashMap, sync::Arc, time::Duration};

use bytes::Bytes;
use funcx_core::contract::{Access, Action, Object, Principal, TaskCursor, TaskQuery, TaskRecord};
use funcx_core::model::{EndpointId, Failure, IdMap, TaskGroupId, TaskId, limit};
use funcx_core::state::TaskState;
use funcx_core::{Error, ErrorKind};

use super::groups::foreign_group;
use super::unstoppable::Unstoppable;
use super::{Answer, Refusal, Service};

/// Tasks read from the store at a time: each may have large arguments and a large result.
pub(crate) const READ_TASKS: usize = 16;

/// Where a task is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TaskStatus {
    /// Its endpoint is not connected.
    WaitingForEndpoint,
    /// Its endpoint is connected and has no room for it yet.
    WaitingForRoom,
    /// At its endpoint, not known to have begun.
    Dispatched,
    /// Begun.
    Running,
    /// Ended; the record has the outcome.
    Finished,
}

/// A task and where it is.
#[derive(Debug, Clone)]
pub struct TaskView {
    /// The task.
    pub record: Arc<TaskRecord>,
    /// Where it is.
    pub status: TaskStatus,
}

/// Which tasks to cancel.
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
    /// It waited, and has ended as cancelled: it will not run.
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
    /// Tasks that waited, and have ended.
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

impl Service {
    /// The tasks with these ids, in the same order, without their arguments; `None` for those that are not there or not
    /// the caller's.
    ///
    /// **Bounds.** When the outcomes that were read have `max_bytes`, the others are left out at the end; at least one is
    /// there.
    ///
    /// # Errors
    /// `Unavailable` (the store).
    pub async fn tasks(
        &self,
        principal: &Principal,
        ids: &[TaskId],
        max_bytes: usize,
    ) -> Answer<Vec<Option<TaskView>>> {
        let mut records = Vec::with_capacity(ids.len());
        let mut bytes = 0;
        for page in ids.chunks(READ_TASKS) {
            for mut record in self.store.tasks(page).await? {
                record.take_if(|record| self.check_task(principal, Action::Read, record).is_err());
                if let Some(record) = &mut record {
                    record.payload = Bytes::new();
                    bytes += record.outcome.as_ref().map_or(0, |finished| finished.outcome.payload_bytes());
                }
                records.push(record);
                if bytes >= max_bytes {
                    break;
                }
            }
            if bytes >= max_bytes {
                break;
            }
        }
        let unfinished: Vec<(TaskId, EndpointId)> = records
            .iter()
            .flatten()
            .filter(|record| record.outcome.is_none())
            .map(|record| (record.id, record.endpoint))
            .collect();
        let mut states = self.states(unfinished).await?.into_iter();
        let views = records.into_iter().map(|record| {
            let record = record?;
            let status = match record.outcome {
                Some(_) => TaskStatus::Finished,
                None => states.next().unwrap_or(TaskStatus::WaitingForEndpoint),
            };
            Some(TaskView { record: Arc::new(record), status })
        });
        Ok(views.collect())
    }

    /// One task.
    ///
    /// # Errors
    /// `NotFound`, `Forbidden`, `Unavailable` (the store).
    pub async fn task(&self, principal: &Principal, id: TaskId) -> Answer<TaskView> {
        let record = self.record(principal, id).await?;
        let status = match record.outcome {
            Some(_) => TaskStatus::Finished,
            None => {
                let states = self.states(vec![(id, record.endpoint)]).await?;
                states.first().copied().unwrap_or(TaskStatus::WaitingForEndpoint)
            }
        };
        Ok(TaskView { record: Arc::new(record), status })
    }

    /// One task once it has ended, or as it is when `patience` is over.
    ///
    /// # Errors
    /// As for [`Service::task`].
    pub async fn wait(&self, principal: &Principal, id: TaskId, patience: Duration) -> Answer<TaskView> {
        // From here on every outcome reaches the waiter; what came before is in the store.
        let mut waiter = self.publisher.wait(id);
        let mut record = self.record(principal, id).await?;
        if record.outcome.is_none() {
            tokio::select! {
                outcome = waiter.outcome() => record.outcome = outcome,
                () = tokio::time::sleep(patience) => return self.task(principal, id).await,
                () = self.stopping.cancelled() => return self.task(principal, id).await,
            }
        }
        let status = match record.outcome {
            Some(_) => TaskStatus::Finished,
            None => TaskStatus::WaitingForEndpoint,
        };
        Ok(TaskView { record: Arc::new(record), status })
    }

    /// One page of the caller's tasks, oldest first: of a group, or all of them.
    ///
    /// # Errors
    /// `NotFound` (group), `Forbidden` (group), `InvalidInput` (cursor), `Unavailable` (the store).
    pub async fn task_ids(
        &self,
        principal: &Principal,
        group: Option<TaskGroupId>,
        after: Option<TaskCursor>,
        limit: usize,
    ) -> Answer<(Vec<TaskId>, Option<TaskCursor>)> {
        let query = match group {
            None => TaskQuery::Owner(principal.identity),
            Some(group) => {
                self.check_group(principal, group).await?;
                TaskQuery::Group(group)
            }
        };
        Ok(self.store.task_ids(query, after, limit.clamp(1, limit::MAX_PAGE_TASKS)).await?)
    }

    /// Refuses a group that is not there or not the caller's.
    ///
    /// # Errors
    /// `NotFound`, `Forbidden`, `Unavailable` (the store).
    pub async fn check_group(&self, principal: &Principal, group: TaskGroupId) -> Answer<()> {
        match self.group_owner(group).await? {
            Some(owner) if owner == principal.identity => Ok(()),
            Some(_) => Err(foreign_group(group, "find task group")),
            None => {
                let error = Error::new(ErrorKind::NotFound, "find task group", "no such task group")
                    .with_context("task group", group);
                Err(Refusal::new("TASK_GROUP_NOT_FOUND", error))
            }
        }
    }

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
            match target {
                CancelTarget::Tasks(ids) => {
                    for page in ids.chunks(limit::MAX_PAGE_TASKS) {
                        for effect in service.cancel_page(&principal, page).await? {
                            report.count(effect);
                            report.effects.push(effect);
                        }
                    }
                }
                CancelTarget::Group(group) => {
                    service.check_group(&principal, group).await?;
                    let mut after = None;
                    loop {
                        let query = TaskQuery::Group(group);
                        let (ids, next) = service.store.task_ids(query, after, limit::MAX_PAGE_TASKS).await?;
                        let effects = service.cancel_page(&principal, &ids).await?;
                        effects.into_iter().for_each(|effect| report.count(effect));
                        after = next;
                        if after.is_none() {
                            break;
                        }
                    }
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
    ) -> Answer<Vec<CancelEffect>> {
        // Whatever is not found on the way has ended meanwhile.
        let mut effects: IdMap<TaskId, CancelEffect> =
            ids.iter().map(|id| (*id, CancelEffect::Finished)).collect();
        let mut by_endpoint: HashMap<EndpointId, Vec<(TaskId, u64)>> = HashMap::new();
        for page in ids.chunks(READ_TASKS) {
            for (id, record) in page.iter().zip(self.store.tasks(page).await?) {
                match record.filter(|record| self.check_task(principal, Action::Change, record).is_ok()) {
                    None => drop(effects.insert(*id, CancelEffect::Unknown)),
                    Some(record) if record.outcome.is_some() => {}
                    Some(record) => {
                        by_endpoint.entry(record.endpoint).or_default().push((record.id, record.sequence));
                    }
                }
            }
        }
        let reason = Failure::new("Cancelled", "cancelled before it was given to an endpoint");
        for (endpoint, tasks) in by_endpoint {
            let lane = self.lane(endpoint).await?;
            let done = lane.cancel(self, tasks, &reason).await?;
            effects.extend(done.ended.into_iter().map(|id| (id, CancelEffect::Cancelled)));
            effects.extend(done.asked.into_iter().map(|id| (id, CancelEffect::Asked)));
        }
        Ok(ids.iter().map(|id| effects[id]).collect())
    }

    async fn record(&self, principal: &Principal, id: TaskId) -> Answer<TaskRecord> {
        let record = self.store.tasks(&[id]).await?.into_iter().flatten().next().ok_or_else(|| {
            let error = Error::new(ErrorKind::NotFound, "find task", "no such task").with_context("task", id);
            Refusal::new("TASK_NOT_FOUND", error)
        })?;
        self.check_task(principal, Action::Read, &record)?;
        Ok(record)
    }

    /// Only the owner of a task may see and cancel it.
    pub(super) fn check_task(
        &self,
        principal: &Principal,
        action: Action,
        record: &TaskRecord,
    ) -> Answer<()> {
        let object = Object { owner: record.spec.owner, access: Access::Private };
        self.check(principal, action, &object, "TASK_ACCESS_FORBIDDEN")
    }

    async fn states(&self, tasks: Vec<(TaskId, EndpointId)>) -> Answer<Vec<TaskStatus>> {
        if tasks.is_empty() {
            return Ok(Vec::new());
        }
        let mut connected: HashMap<EndpointId, bool> = HashMap::new();
        for (_, endpoint) in &tasks {
            connected
                .entry(*endpoint)
                .or_insert_with(|| self.open_lane(*endpoint).is_some_and(|lane| lane.is_connected()));
        }
        let states = self
            .node
            .with(move |node, _| {
                let status = |(task, endpoint): &(TaskId, EndpointId)| match node.state(*task) {
                    Some(TaskState::Leased { started, .. }) if started.is_set() => TaskStatus::Running,
                    Some(TaskState::Leased { .. }) => TaskStatus::Dispatched,
                    Some(TaskState::Queued) | None if connected.get(endpoint) == Some(&true) => {
                        TaskStatus::WaitingForRoom
                    }
                    Some(TaskState::Queued) | None => TaskStatus::WaitingForEndpoint,
                };
                tasks.iter().map(status).collect()
            })
            .await?;
        Ok(states)
    }
}
