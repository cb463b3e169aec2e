//! What became of tasks.

use std::{collections::HashMap, sync::Arc, time::Duration};

use bytes::Bytes;
use funcx_core::contract::{Access, Action, Object, Principal, TaskCursor, TaskQuery, TaskRecord};
use funcx_core::model::{EndpointId, TaskEvent, TaskGroupId, TaskId, limit};
use funcx_core::state::TaskState;
use funcx_core::{Error, ErrorKind};

use super::groups::foreign_group;
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

    /// What is known to have happened to a task before its outcome.
    ///
    /// # Errors
    /// As for [`Service::task`].
    pub async fn task_events(&self, principal: &Principal, id: TaskId) -> Answer<Vec<TaskEvent>> {
        self.record(principal, id).await?;
        Ok(self.store.task_events(id).await?)
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
