//! The outcomes of a task group as they come.

use std::{collections::VecDeque, sync::Arc};

use bytes::Bytes;
use funcx_core::Result;
use funcx_core::contract::{Action, Principal, TaskRecord};
use funcx_core::model::{TaskGroupId, TaskId, Timestamp};

use super::publish::{Room, Subscription, Told};
use super::tasks::READ_TASKS;
use super::{Answer, Service};

/// Outcomes that one search of the store finds. A group with more of them is searched again for the next ones.
const FOUND_OUTCOMES: usize = 65_536;
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
    /// To be told next, in order: these records, then the tasks with these ids, which have to be read.
    records: VecDeque<Arc<TaskRecord>>,
    ids: VecDeque<TaskId>,
}

#[derive(Debug)]
enum Phase {
    /// What is in the store has to be searched.
    Searching,
    /// It was searched up to this time. If there is more than could be kept, it is searched again.
    Found(Timestamp),
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
            subscription: self.subscribe(group),
            phase: Phase::Searching,
            records: VecDeque::new(),
            ids: VecDeque::new(),
        })
    }
}

impl Service {
    fn subscribe(&self, group: TaskGroupId) -> Subscription {
        let room = Room { outcomes: self.config.follower_outcomes, bytes: self.config.follower_bytes };
        self.publisher.subscribe(group, room)
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
            if let Some(record) = self.records.pop_front() {
                return Ok(self.tell(record));
            }
            if !self.ids.is_empty() {
                self.read_page().await?;
                continue;
            }
            match self.phase {
                Phase::Searching => {
                    let (ids, through) = self.search().await?;
                    (self.ids, self.phase) = (ids, Phase::Found(through));
                }
                Phase::Found(through) => {
                    self.cursor = self.cursor.max(through);
                    let is_all = through.as_nanos() >= self.subscription.from;
                    self.phase = if is_all { Phase::Live } else { Phase::Searching };
                }
                Phase::Live => {
                    let told = tokio::select! {
                        told = self.subscription.next() => told,
                        () = self.service.stopping.cancelled() => return Ok(None),
                    };
                    match told {
                        Some(Told::Record(record)) => {
                            self.records.extend(self.is_new(&record).then_some(record));
                        }
                        Some(Told::Id(id)) => self.gather_page(id),
                        None => {
                            self.subscription = self.service.subscribe(self.group);
                            self.phase = Phase::Searching;
                            return Ok(Some(FollowEvent::Lagged));
                        }
                    }
                }
            }
        }
    }

    /// Takes what else waits, so that it is read together.
    fn gather_page(&mut self, first: TaskId) {
        self.ids.push_back(first);
        while self.ids.len() < READ_TASKS
            && let Some(told) = self.subscription.next_waiting()
        {
            self.ids.push_back(told.id());
        }
    }

    /// Reads the next tasks that are to be told.
    async fn read_page(&mut self) -> Result<()> {
        let page: Vec<TaskId> = self.ids.iter().take(READ_TASKS).copied().collect();
        let read = self.service.store.tasks(&page).await?;
        self.ids.drain(..page.len());
        let is_live = matches!(self.phase, Phase::Live);
        for mut record in read.into_iter().flatten() {
            // An outcome of a commit that failed may have been seen and be gone; the one that stays is told later.
            if !is_live && self.is_own(&record) && record.outcome.is_some() || self.is_new(&record) {
                record.payload = Bytes::new();
                self.records.push_back(Arc::new(record));
            }
        }
        Ok(())
    }

    fn tell(&mut self, record: Arc<TaskRecord>) -> Option<FollowEvent> {
        if let Some(outcome) = &record.outcome {
            self.cursor = outcome.completed;
        }
        Some(FollowEvent::Outcome(record))
    }

    /// Whether this task has ended, and that is to be told.
    fn is_new(&self, record: &TaskRecord) -> bool {
        let ended = record.outcome.as_ref().map(|outcome| outcome.completed);
        ended.is_some_and(|at| at > self.cursor) && self.is_own(record)
    }

    fn is_own(&self, record: &TaskRecord) -> bool {
        self.service.check_task(&self.principal, Action::Read, record).is_ok()
    }

    /// The next outcomes in the store in order, and the time up to which these are all. Later ones than the subscription come
    /// through it.
    async fn search(&self) -> Result<(VecDeque<TaskId>, Timestamp)> {
        let through = Timestamp::from_nanos(self.subscription.from);
        let found = self.service.store.ended(self.group, self.cursor, through, FOUND_OUTCOMES).await?;
        Ok((found.0.into(), found.1))
    }
}
