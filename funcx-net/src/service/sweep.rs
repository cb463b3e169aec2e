//! What ends because of its time, and what is forgotten after a time.
//!
//! One task of the service sleeps until the next thing is to be done. Tasks in the dispatcher are ended by the dispatcher;
//! here are those that only the store knows of, because they wait far behind or their endpoint is away.

use std::{
    collections::BTreeMap,
    sync::{Arc, Weak},
    time::Duration,
};

use funcx_core::Result;
use funcx_core::contract::{Due, DueReason, Write};
use funcx_core::model::{EndpointId, Failure, Outcome, OutcomeKind, Task, TaskId, Timestamp, limit};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::Service;
use super::lane::{FIRST_PAUSE, LONGEST_PAUSE};
use crate::driver::wall_clock;

/// Longest sleep, so that a wall clock that was set is noticed.
const LONGEST_SLEEP: Duration = Duration::from_secs(3600);
/// Shortest sleep, so that times close to each other are handled together.
const SHORTEST_SLEEP: Duration = Duration::from_millis(5);

/// When there is something to do.
#[derive(Debug, Default)]
pub(super) struct Sweeper {
    state: Mutex<State>,
    wake: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// Times before this one have been looked at: who is still due then is in the dispatcher.
    looked: Timestamp,
    /// What comes next, as far as is known.
    next: Timestamp,
}

impl Sweeper {
    /// Something is due at this time that lies in the store.
    pub(super) fn expect(&self, at: Timestamp) {
        let mut state = self.state.lock();
        state.looked = state.looked.min(at);
        if at < state.next {
            state.next = at;
            self.wake.notify_one();
        }
    }

    /// Where to begin to look; everything up to `now` counts as looked at.
    fn begin(&self, now: Timestamp) -> Timestamp {
        let mut state = self.state.lock();
        state.next = Timestamp::from_nanos(u64::MAX);
        std::mem::replace(&mut state.looked, Timestamp::from_nanos(now.as_nanos().saturating_add(1)))
    }

    /// Looking came to an end, or has to begin at a time again. Returns what comes next.
    fn end(&self, again: Option<Timestamp>, next: Option<Timestamp>) -> Option<Timestamp> {
        let mut state = self.state.lock();
        state.looked = again.map_or(state.looked, |again| state.looked.min(again));
        state.next = next.map_or(state.next, |next| state.next.min(next));
        (state.next.as_nanos() < u64::MAX).then_some(state.next)
    }
}

/// Sweeps until the service stops.
pub(super) async fn run(service: Weak<Service>, sweeper: Arc<Sweeper>, stopping: CancellationToken) {
    let mut pause = FIRST_PAUSE;
    loop {
        let swept = match service.upgrade() {
            Some(service) => tokio::select! {
                swept = service.sweep() => swept,
                () = stopping.cancelled() => return,
            },
            None => return,
        };
        let sleep = match swept {
            Ok(next) => {
                pause = FIRST_PAUSE;
                let left = next.map(|at| at.as_nanos().saturating_sub(wall_clock().as_nanos()));
                left.map_or(LONGEST_SLEEP, Duration::from_nanos).clamp(SHORTEST_SLEEP, LONGEST_SLEEP)
            }
            Err(error) => {
                tracing::warn!(%error, "cannot end what is due in the store; trying again");
                pause = (pause * 2).min(LONGEST_PAUSE);
                pause
            }
        };
        tokio::select! {
            () = tokio::time::sleep(sleep) => {}
            () = sweeper.wake.notified() => {}
            () = stopping.cancelled() => return,
        }
    }
}

impl Service {
    /// Ends what is due, forgets what is old, and says when there is something to do again.
    async fn sweep(self: &Arc<Self>) -> Result<Option<Timestamp>> {
        let now = wall_clock();
        let from = self.sweeper.begin(now);
        match self.end_due(from, now).await {
            Ok(next) => {
                let due = self.sweeper.end(None, next);
                let forget = self.forget_old(now).await?;
                Ok(due.into_iter().chain(forget).min())
            }
            Err(error) => {
                self.sweeper.end(Some(from), None);
                Err(error)
            }
        }
    }

    /// Ends tasks in the store that have to end between two times. Returns the first time after that.
    async fn end_due(self: &Arc<Self>, from: Timestamp, through: Timestamp) -> Result<Option<Timestamp>> {
        let mut after = from
            .as_nanos()
            .checked_sub(1)
            .map(|nanos| (Timestamp::from_nanos(nanos), TaskId::from_u128(u128::MAX)));
        loop {
            let page = self.store.due(after, limit::MAX_PAGE_TASKS).await?;
            after = page.last().map(|last| (last.at, last.task));
            let next = page.iter().map(|due| due.at).find(|at| *at > through);
            let mut by_endpoint: BTreeMap<EndpointId, Vec<Due>> = BTreeMap::new();
            for due in page.into_iter().filter(|due| due.at <= through) {
                by_endpoint.entry(due.endpoint).or_default().push(due);
            }
            for (endpoint, due) in by_endpoint {
                let ended = self.lane(endpoint).await?.expire(self, due).await?;
                tracing::debug!(%endpoint, ended, "ended tasks in the store whose time is over");
            }
            if next.is_some() || after.is_none() {
                return Ok(next);
            }
        }
    }

    /// Removes tasks that ended longer ago than results are kept. Returns when there will be more.
    async fn forget_old(&self, now: Timestamp) -> Result<Option<Timestamp>> {
        let Some(retention) = self.config.result_retention else { return Ok(None) };
        let retention = u64::try_from(retention.as_nanos()).unwrap_or(u64::MAX);
        let before = Timestamp::from_nanos(now.as_nanos().saturating_sub(retention));
        loop {
            match self.store.oldest_ended().await? {
                Some(at) if at < before => {
                    self.store.commit(vec![Write::Expire { ended_before: before }]).await?;
                    self.forget_values().await;
                }
                // Nothing that ends from now on is to be forgotten sooner.
                oldest => {
                    let at = oldest.unwrap_or(now).as_nanos();
                    return Ok(Some(Timestamp::from_nanos(at.saturating_add(retention).saturating_add(1))));
                }
            }
        }
    }
}

/// The outcome of a task whose time is over.
pub(super) fn timed_out(task: &Task, reason: Option<DueReason>) -> Outcome {
    let failure = match reason {
        Some(DueReason::TimeToLive) => {
            Failure::new("TaskExpired", "it had not begun when its time to live was over")
        }
        Some(DueReason::Deadline) | None => {
            Failure::new("DeadlinePassed", "it had not ended when its deadline passed")
        }
    };
    Outcome::failed(task, OutcomeKind::TimedOut, &failure)
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(nanos: u64) -> Timestamp {
        Timestamp::from_nanos(nanos)
    }

    #[test]
    fn what_comes_while_somebody_looks_is_looked_at_again() {
        let sweeper = Sweeper::default();
        assert_eq!(sweeper.begin(at(100)), at(0));
        // It became part of the store with a time that is over already.
        sweeper.expect(at(50));
        assert_eq!(sweeper.end(None, Some(at(500))), Some(at(50)));
        assert_eq!(sweeper.begin(at(101)), at(50));
        assert_eq!(sweeper.end(None, Some(at(500))), Some(at(500)));
        assert_eq!(sweeper.begin(at(102)), at(102), "nothing is looked at twice");
    }

    #[test]
    fn a_failed_look_is_made_again() {
        let sweeper = Sweeper::default();
        sweeper.begin(at(100));
        sweeper.end(None, None);
        let from = sweeper.begin(at(200));
        sweeper.end(Some(from), None);
        assert_eq!(sweeper.begin(at(300)), at(101));
    }
}
