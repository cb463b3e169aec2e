//! The tasks that have no slot, and how long they may wait.

use std::collections::VecDeque;

use funcx_core::model::{Failure, OutcomeKind, Tick};

use super::{PoolState, key_of};

/// Waiting tasks of one kind. Those that want a worker and those that are commands wait apart, so that neither hold up
/// the others.
#[derive(Debug, Default)]
pub(super) struct Queue {
    /// Tags of the tasks, and of some that were cancelled meanwhile.
    pub(super) tags: VecDeque<u64>,
    pub(super) waiting: usize,
}

impl PoolState {
    pub(super) fn queue_mut(&mut self, commands: bool) -> &mut Queue {
        if commands { &mut self.commands } else { &mut self.calls }
    }

    /// The queue that a task waits in.
    fn queue_of(&mut self, key: u32) -> &mut Queue {
        let is_command = self.entries[key as usize].is_command();
        self.queue_mut(is_command)
    }

    /// Puts a task behind those that wait, or before them if it has waited already.
    pub(super) fn enqueue(&mut self, key: u32, again: bool) {
        let task = &self.entries[key as usize].task;
        let due = task.start_by.min(task.end_by);
        if due != Tick::NEVER {
            self.expiries.insert((due, key));
        }
        let tag = self.renew_tag(key);
        let queue = self.queue_of(key);
        queue.waiting += 1;
        match again {
            true => queue.tags.push_front(tag),
            false => queue.tags.push_back(tag),
        }
    }

    /// A task waits no more.
    pub(super) fn dequeue(&mut self, key: u32) {
        let task = &self.entries[key as usize].task;
        let due = task.start_by.min(task.end_by);
        if due != Tick::NEVER {
            self.expiries.remove(&(due, key));
        }
        self.queue_of(key).waiting -= 1;
    }

    /// Ends a waiting task if it is too late for it.
    pub(super) fn expire(&mut self, key: u32) -> bool {
        let task = &self.entries[key as usize].task;
        let failure = if task.end_by <= self.now.tick {
            Failure::new("DeadlinePassed", "the task still waited when its deadline passed")
        } else if task.start_by <= self.now.tick {
            Failure::new("TaskExpired", "the task still waited when its time to live was over")
        } else {
            return false;
        };
        self.dequeue(key);
        self.fail(key, OutcomeKind::TimedOut, &failure);
        true
    }

    /// Tags of tasks that wait no more are skipped when their turn comes; they must not pile up before that.
    pub(super) fn tidy_queues(&mut self) {
        let entries = &self.entries;
        for queue in [&mut self.calls, &mut self.commands] {
            if queue.tags.len() > 2 * queue.waiting + 64 {
                queue.tags.retain(|tag| entries.get(key_of(*tag)).is_some_and(|entry| entry.tag == *tag));
            }
        }
    }

    /// The task that waits at the head of a queue.
    pub(super) fn first_waiting(&mut self, commands: bool) -> Option<u32> {
        loop {
            let tag = *self.queue_mut(commands).tags.front()?;
            let key = key_of(tag);
            if self.entries.get(key).is_some_and(|entry| entry.tag == tag) && !self.expire(key as u32) {
                return Some(key as u32);
            }
            self.queue_mut(commands).tags.pop_front();
        }
    }

    /// When the task at the head of a queue came, as a number that grows; the largest one if nobody waits.
    pub(super) fn first_arrival(&mut self, commands: bool) -> u64 {
        self.first_waiting(commands).map_or(u64::MAX, |key| self.entries[key as usize].arrival)
    }

    /// Takes the task at the head of a queue, if it is `wanted`.
    pub(super) fn take_next(&mut self, commands: bool, wanted: impl Fn(&Self, u32) -> bool) -> Option<u32> {
        let key = self.first_waiting(commands).filter(|key| wanted(self, *key))?;
        self.queue_mut(commands).tags.pop_front();
        self.dequeue(key);
        Some(key)
    }
}
