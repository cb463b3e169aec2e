//! Where tasks are that will probably have an outcome soon, so that nobody has to look for it in the tables.
//!
//! Looking for a task takes longer than all else that is done for an outcome: task ids have no order, so each of them is
//! searched for in a cold part of a table.

use funcx_core::model::{IdMap, TaskId};
use parking_lot::Mutex;

use super::record::StoredTask;

/// Tasks whose places are kept: more than the window of a busy endpoint. Each takes about a hundred bytes.
const MAX_TASKS: usize = 1 << 17;

/// What is known of a task that had no outcome when it was noted.
#[derive(Debug, Clone, Copy)]
pub(super) struct Placed {
    pub(super) stored: StoredTask,
    /// Bytes of its arguments, if it has no time by which it has to begin or end, and was noted by the commit that has
    /// accepted it. Then it waits for its outcome as long as it is noted here.
    pub(super) bytes: Option<u32>,
}

/// The places of some tasks, as of the last commit.
#[derive(Debug, Default)]
pub(super) struct PlacedTasks(Mutex<IdMap<TaskId, Placed>>);

impl PlacedTasks {
    /// What is known of these tasks, one for one.
    pub(super) fn find(&self, tasks: impl Iterator<Item = TaskId>) -> Vec<Option<Placed>> {
        let placed = self.0.lock();
        tasks.map(|task| placed.get(&task).copied()).collect()
    }

    /// A commit has accepted `fresh` tasks and brought outcomes of others. What does not fit will be read when it is near
    /// its turn, so it is not kept now.
    pub(super) fn committed(&self, fresh: &[(TaskId, Placed)], ended: &[TaskId]) {
        let mut placed = self.0.lock();
        for task in ended {
            placed.remove(task);
        }
        let room = MAX_TASKS.saturating_sub(placed.len());
        placed.extend(fresh.iter().take(room).copied());
    }

    /// These tasks have been read to be run. One may have ended since: that is found out when it ends again.
    pub(super) fn read(&self, tasks: impl ExactSizeIterator<Item = (TaskId, StoredTask)>) {
        let mut placed = self.0.lock();
        if placed.len() + tasks.len() > MAX_TASKS {
            placed.clear();
        }
        for (task, stored) in tasks.take(MAX_TASKS) {
            placed.entry(task).or_insert(Placed { stored, bytes: None });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::table::Place;
    use super::*;

    fn stored(index: u32) -> StoredTask {
        StoredTask { place: Place { chunk: 1, index }, queue: 2, sequence: index.into() }
    }

    fn known(placed: &PlacedTasks, tasks: &[u128]) -> Vec<Option<(u32, Option<u32>)>> {
        let found = placed.find(tasks.iter().map(|task| TaskId::from_u128(*task)));
        found.into_iter().map(|found| found.map(|task| (task.stored.place.index, task.bytes))).collect()
    }

    #[test]
    fn a_task_is_noted_until_it_has_ended_and_what_is_sure_stays_sure() {
        let placed = PlacedTasks::default();
        let fresh = [1, 2].map(|id| (TaskId::from_u128(id), Placed { stored: stored(7), bytes: Some(9) }));
        placed.committed(&fresh, &[]);
        placed.read([2, 3].map(|id| (TaskId::from_u128(id), stored(7))).into_iter());
        assert_eq!(
            known(&placed, &[1, 2, 3, 4]),
            [Some((7, Some(9))), Some((7, Some(9))), Some((7, None)), None]
        );
        placed.committed(&[], &[TaskId::from_u128(1), TaskId::from_u128(3)]);
        assert_eq!(known(&placed, &[1, 2, 3]), [None, Some((7, Some(9))), None]);
    }

    #[test]
    fn it_is_bounded_and_what_is_read_to_be_run_has_precedence() {
        let placed = PlacedTasks::default();
        let fresh = |id: u128| (TaskId::from_u128(id), Placed { stored: stored(0), bytes: None });
        let all: Vec<_> = (0..MAX_TASKS as u128 + 10).map(fresh).collect();
        placed.committed(&all, &[]);
        assert_eq!(placed.0.lock().len(), MAX_TASKS);
        assert_eq!(known(&placed, &[MAX_TASKS as u128]), [None]);
        placed.read([(TaskId::from_u128(MAX_TASKS as u128), stored(1))].into_iter());
        assert_eq!(known(&placed, &[MAX_TASKS as u128]), [Some((1, None))]);
        placed.read(all.iter().map(|(task, placed)| (*task, placed.stored)));
        assert!(placed.0.lock().len() <= MAX_TASKS);
    }
}
