//! Which tasks have ended, and whether each did so once and as it should.

use anyhow::{Result, ensure};
use bytes::Bytes;
use funcx_core::message::{Hello, Refused};
use funcx_core::model::{Outcome, OutcomeKind, TaskId};
use funcx_core::state::{JournalEntry, LaneId};
use funcx_net::driver::{NodeHost, NodeNotice};
use futures::future::{BoxFuture, FutureExt, ready};
use parking_lot::Mutex;
use tokio::sync::Notify;

/// The id of a task: which run it belongs to, its number there, and bits that spread it over hash tables.
pub(super) fn id(generation: u64, number: u64) -> TaskId {
    let low = generation << 40 | number;
    let spread = (low.wrapping_add(1)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    TaskId::from_u128(u128::from(spread) << 64 | u128::from(low))
}

/// The number of a task in all runs of a fabric: nobody else would return it.
fn bytes_of(task: TaskId) -> [u8; 8] {
    (task.as_u128() as u64).to_le_bytes()
}

/// The same as a payload.
pub(super) fn number_of(task: TaskId) -> Bytes {
    Bytes::copy_from_slice(&bytes_of(task))
}

/// The host of the endpoint's node. Any manager may serve it.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    run: Mutex<Current>,
    moved: Notify,
}

/// What tasks have to return.
#[derive(Debug, Default)]
pub(super) enum Expected {
    /// Their number.
    #[default]
    Number,
    /// This, all of them.
    Value(Bytes),
    /// The number of an earlier task that is equal, without running; where there is none, their own.
    Memoized(Vec<Option<TaskId>>),
}

/// The run under way.
#[derive(Debug, Default)]
struct Current {
    generation: u64,
    tasks: u64,
    expected: Expected,
    ended: u64,
    /// A bit for each task that has ended.
    seen: Vec<u64>,
    /// Wake somebody when so many have ended.
    awaited: u64,
    wrong: u64,
    first_wrong: Option<String>,
}

impl Ledger {
    /// Begins a run of so many tasks; the number of the run.
    pub(super) fn begin(&self, tasks: u64, expected: Expected) -> u64 {
        let mut run = self.run.lock();
        let generation = run.generation + 1;
        let seen = vec![0; tasks.div_ceil(64) as usize];
        *run = Current { generation, tasks, expected, seen, ..Current::default() };
        generation
    }

    /// Tasks of the run that have ended.
    pub(super) fn ended(&self) -> u64 {
        self.run.lock().ended
    }

    /// Resolves when so many tasks have ended, rightly or not.
    pub(super) async fn until(&self, ended: u64) {
        loop {
            let moved = self.moved.notified();
            {
                let mut run = self.run.lock();
                if run.ended + run.wrong >= ended {
                    return;
                }
                run.awaited = ended;
            }
            moved.await;
        }
    }

    /// # Errors
    /// If an outcome was wrong, or came twice, or from nowhere.
    pub(super) fn check(&self) -> Result<()> {
        let run = self.run.lock();
        let example = run.first_wrong.as_deref().unwrap_or_default();
        ensure!(run.wrong == 0, "{} of {} outcomes are wrong, the first: {example}", run.wrong, run.tasks);
        Ok(())
    }

    fn take(&self, outcomes: &[Outcome]) {
        let mut run = self.run.lock();
        for outcome in outcomes {
            match run.account(outcome) {
                Ok(()) => run.ended += 1,
                Err(why) => {
                    run.wrong += 1;
                    run.first_wrong.get_or_insert_with(|| format!("{} {why}: {outcome:?}", outcome.task));
                }
            }
        }
        if run.ended + run.wrong >= run.awaited {
            self.moved.notify_one();
        }
    }
}

impl Current {
    fn account(&mut self, outcome: &Outcome) -> Result<(), &'static str> {
        let low = outcome.task.as_u128() as u64;
        let (generation, number) = (low >> 40, low & ((1 << 40) - 1));
        if generation != self.generation || number >= self.tasks {
            return Err("was not submitted");
        }
        if outcome.kind != OutcomeKind::Returned {
            return Err("did not return");
        }
        let earlier = match &self.expected {
            Expected::Memoized(earlier) => earlier[number as usize],
            Expected::Number | Expected::Value(_) => None,
        };
        let right = match &self.expected {
            Expected::Value(value) => outcome.payload == value,
            _ => outcome.payload == bytes_of(earlier.unwrap_or(outcome.task)).as_slice(),
        };
        if !right {
            return Err("returned what another one should");
        }
        if outcome.is_remembered() != earlier.is_some() {
            return Err("ran though an equal one had, or did not run though none had");
        }
        let (word, bit) = (&mut self.seen[(number / 64) as usize], 1 << (number % 64));
        if *word & bit != 0 {
            return Err("ended twice");
        }
        *word |= bit;
        Ok(())
    }
}

impl NodeHost for Ledger {
    fn authorize(&self, _: Hello) -> BoxFuture<'static, Result<LaneId, Refused>> {
        ready(Ok(super::LANE)).boxed()
    }

    fn deliver(&self, outcomes: Vec<Outcome>) -> BoxFuture<'static, ()> {
        self.take(&outcomes);
        ready(()).boxed()
    }

    fn record(&self, _: Vec<JournalEntry>) -> BoxFuture<'static, ()> {
        ready(()).boxed()
    }

    fn notice(&self, _: NodeNotice) {}
}

/// The host of a manager's node, which has nothing below it but workers.
#[derive(Debug)]
pub(super) struct ManagerHost;

impl NodeHost for ManagerHost {
    fn authorize(&self, _: Hello) -> BoxFuture<'static, Result<LaneId, Refused>> {
        ready(Err(Refused { reason: "nothing connects to a manager".to_owned(), retry: false })).boxed()
    }

    fn deliver(&self, _: Vec<Outcome>) -> BoxFuture<'static, ()> {
        ready(()).boxed()
    }

    fn record(&self, _: Vec<JournalEntry>) -> BoxFuture<'static, ()> {
        ready(()).boxed()
    }

    fn notice(&self, _: NodeNotice) {}
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use funcx_core::model::{Function, IdentityId, Task, TaskSpec};

    use super::*;

    #[test]
    fn whatever_is_not_one_right_outcome_is_found() {
        let spec = Arc::new(TaskSpec::new(Arc::new(Function::native("f")), IdentityId::from_u128(1)));
        let task = |generation, number| Task::new(id(generation, number), Arc::clone(&spec), "");
        let right = |generation, number| {
            let task = task(generation, number);
            Outcome::returned(&task, number_of(task.id))
        };
        let lost = Outcome { kind: OutcomeKind::Lost, ..right(2, 1) };
        let other = Outcome { payload: number_of(id(2, 2)), ..right(2, 1) };
        for (wrong, why) in [
            (right(2, 0), "ended twice"),
            (right(1, 1), "was not submitted"),
            (right(2, 9), "was not submitted"),
            (lost, "did not return"),
            (other, "another one should"),
        ] {
            let ledger = Ledger::default();
            ledger.begin(1, Expected::Number);
            assert_eq!(ledger.begin(3, Expected::Number), 2);
            ledger.take(&[right(2, 0)]);
            ledger.check().unwrap();
            ledger.take(&[wrong]);
            assert!(ledger.check().unwrap_err().to_string().contains(why), "{why}");
            assert_eq!(ledger.ended(), 1);
        }
    }

    #[test]
    fn a_memoized_task_has_the_value_of_the_earlier_one_and_did_not_run() {
        let spec = Arc::new(TaskSpec::new(Arc::new(Function::native("f")), IdentityId::from_u128(1)));
        let task = |number| Task::new(id(1, number), Arc::clone(&spec), "");
        let earlier = id(0, 7);
        let memoized = Outcome::remembered(&task(0), number_of(earlier));
        let alone = Outcome::returned(&task(1), number_of(id(1, 1)));
        for (outcomes, is_right) in [
            ([memoized.clone(), alone.clone()], true),
            ([Outcome::returned(&task(0), number_of(earlier)), alone.clone()], false),
            ([Outcome::remembered(&task(0), number_of(id(1, 0))), alone], false),
            ([memoized, Outcome::remembered(&task(1), number_of(id(1, 1)))], false),
        ] {
            let ledger = Ledger::default();
            ledger.begin(2, Expected::Memoized(vec![Some(earlier), None]));
            ledger.take(&outcomes);
            assert_eq!(ledger.check().is_ok(), is_right, "{outcomes:?}");
        }
    }
}
