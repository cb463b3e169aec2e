//! The tasks that no worker has, and how long they may wait.

use funcx_core::model::{Failure, OutcomeKind, Tick};

use super::{PoolState, key_of};

impl PoolState {
    /// Counts a task among those that wait. Its new tag belongs into the queue.
    pub(super) fn enqueue(&mut self, key: u32) -> u64 {
        let task = &self.entries[key as usize].task;
        let due = task.start_by.min(task.end_by);
        if due != Tick::NEVER {
            self.expiries.insert((due, key));
        }
        self.waiting += 1;
        self.renew_tag(key)
    }

    /// A task waits no more.
    pub(super) fn dequeue(&mut self, key: u32) {
        let task = &self.entries[key as usize].task;
        self.expiries.remove(&(task.start_by.min(task.end_by), key));
        self.waiting -= 1;
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
    pub(super) fn tidy_queue(&mut self) {
        if self.queue.len() > 2 * self.waiting + 64 {
            let entries = &self.entries;
            self.queue.retain(|tag| entries.get(key_of(*tag)).is_some_and(|entry| entry.tag == *tag));
        }
    }

    /// The first waiting task, if it is `wanted`.
    pub(super) fn take_next(&mut self, wanted: impl Fn(&Self, u32) -> bool) -> Option<u32> {
        loop {
            let tag = *self.queue.front()?;
            let key = key_of(tag);
            if self.entries.get(key).is_some_and(|entry| entry.tag == tag) && !self.expire(key as u32) {
                if !wanted(self, key as u32) {
                    return None;
                }
                self.queue.pop_front();
                self.dequeue(key as u32);
                return Some(key as u32);
            }
            self.queue.pop_front();
        }
    }
}
