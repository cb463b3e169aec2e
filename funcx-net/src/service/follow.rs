//! The outcomes of a task group as they come.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
};

use bytes::Bytes;
use funcx_core::Result;
use funcx_core::contract::{Action, Principal, TaskQuery, TaskRecord};
use funcx_core::model::{TaskGroupId, TaskId, Timestamp, limit};

use super::publish::Subscription;
use super::tasks::READ_TASKS;
use super::{Answer, Service};

/// Outcomes whose order is kept in mind while the store is searched. A group with more of them is searched again for
/// the next ones.
const SORTED_OUTCOMES: usize = 65_536;
/// What a [`Follower`] tells.
#[derive(Debug, Clone)]
pub enum FollowEvent {
    /// A task has ended. Its record has the outcome, and may have lost its arguments.
    Outcome(Arc<TaskRecord>),
    /// Outcomes came faster than they were taken. Those that could not be kept are told next, from the store.
    Lagged,
}

/// Follows a group: first what has ended already, then what ends.
///
/// Every outcome is told once, in the order of the times at which the service had it. So the time of an outcome is a
/// cursor: who resumes after it gets all that comes behind it.
///
/// **Bounds.** It holds a bounded number of outcomes, however slowly they are taken.
#[derive(Debug)]
pub struct Follower {
    service: Arc<Service>,
    principal: Principal,
    group: TaskGroupId,
    /// Everything up to this time has been told.
    cursor: Timestamp,
    subscription: Subscription,
    phase: Phase,
}

#[derive(Debug)]
enum Phase {
    /// What is in the store has to be searched.
    Searching,
    /// Found in the store, in order. If there was `more` than could be kept, the store is searched again.
    Found { ids: VecDeque<TaskId>, records: VecDeque<Arc<TaskRecord>>, more: bool },
    /// Told by the publisher.
    Live,
}

impl Service {
    /// Follows the outcomes of a group that came after the time `after`.
    ///
    /// # Errors
    /// `NotFound`, `Forbidden`, `Unavailable` (the store).
    pub async fn follow(
        self: &Arc<Self>,
        principal: &Principal,
        group: TaskGroupId,
        after: Timestamp,
    ) -> Answer<Follower> {
        self.check_group(principal, group).await?;
        Ok(Follower {
            service: Arc::clone(self),
            principal: principal.clone(),
            group,
            cursor: after,
            subscription: self.publisher.subscribe(group),
            phase: Phase::Searching,
        })
    }
}

impl Follower {
    /// The next event; `None` when the service stops.
    ///
    /// **Cancellation.** Dropping the future loses nothing.
    ///
    /// # Errors
    /// `Unavailable` (the store); the next call tries again.
    pub async fn next(&mut self) -> Answer<Option<FollowEvent>> {
        loop {
            match &mut self.phase {
                Phase::Searching => {
                    let (ids, more) = self.search().await?;
                    self.phase = Phase::Found { ids, records: VecDeque::new(), more };
                }
                Phase::Found { ids, records, more } => {
                    if let Some(record) = records.pop_front() {
                        return Ok(self.tell(record));
                    }
                    let page: Vec<TaskId> = ids.iter().take(READ_TASKS).copied().collect();
                    if !page.is_empty() {
                        let read = self.service.store.tasks(&page).await?;
                        ids.drain(..page.len());
                        // An outcome of a commit that failed may have been seen and be gone; the one that stays is told later.
                        let ended = read.into_iter().flatten().filter(|record| record.outcome.is_some());
                        records.extend(ended.map(|mut record| {
                            record.payload = Bytes::new();
                            Arc::new(record)
                        }));
                    } else if *more {
                        self.phase = Phase::Searching;
                    } else {
                        self.cursor = self.cursor.max(Timestamp::from_nanos(self.subscription.from));
                        self.phase = Phase::Live;
                    }
                }
                Phase::Live => {
                    let record = tokio::select! {
                        record = self.subscription.next() => record,
                        () = self.service.stopping.cancelled() => return Ok(None),
                    };
                    let Some(record) = record else {
                        self.subscription = self.service.publisher.subscribe(self.group);
                        self.phase = Phase::Searching;
                        return Ok(Some(FollowEvent::Lagged));
                    };
                    if self.is_new(&record, Timestamp::from_nanos(u64::MAX)).is_some() {
                        return Ok(self.tell(record));
                    }
                }
            }
        }
    }

    fn tell(&mut self, record: Arc<TaskRecord>) -> Option<FollowEvent> {
        if let Some(outcome) = &record.outcome {
            self.cursor = outcome.completed;
        }
        Some(FollowEvent::Outcome(record))
    }

    /// When this task ended, if that is to be told and not later than `through`.
    fn is_new(&self, record: &TaskRecord, through: Timestamp) -> Option<Timestamp> {
        let at = record.outcome.as_ref()?.completed;
        let is_owner = || self.service.check_task(&self.principal, Action::Read, record).is_ok();
        (at > self.cursor && at <= through && is_owner()).then_some(at)
    }

    /// The next outcomes in the store in order, and whether there are more. Later ones than the subscription come through
    /// it.
    async fn search(&self) -> Result<(VecDeque<TaskId>, bool)> {
        let through = Timestamp::from_nanos(self.subscription.from);
        let mut found: BTreeSet<(Timestamp, TaskId)> = BTreeSet::new();
        let (mut more, mut page) = (false, None);
        loop {
            let query = TaskQuery::Group(self.group);
            let (ids, next) = self.service.store.task_ids(query, page, limit::MAX_PAGE_TASKS).await?;
            for part in ids.chunks(READ_TASKS) {
                for record in self.service.store.tasks(part).await?.into_iter().flatten() {
                    if let Some(at) = self.is_new(&record, through) {
                        found.insert((at, record.id));
                    }
                    if found.len() > SORTED_OUTCOMES {
                        found.pop_last();
                        more = true;
                    }
                }
            }
            page = next;
            if page.is_none() {
                return Ok((found.into_iter().map(|(_, id)| id).collect(), more));
            }
        }
    }
}
