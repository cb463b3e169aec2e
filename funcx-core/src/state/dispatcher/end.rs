//! Leases, and how attempts and tasks end.

use super::{Dispatcher, Entry, Stop};
use crate::contract::{PeerId, PlacementPolicy};
use crate::model::{
    AttemptId, Failure, Hop, Outcome, OutcomeKind, Task, TaskEvent, TaskEventKind, Tick, Timestamp, limit,
};
use crate::state::invariant::invariant;

impl<P: PlacementPolicy + Default> Dispatcher<P> {
    /// Moves an entry that is in no list to a peer.
    pub(super) fn lease(&mut self, key: usize, peer: PeerId) {
        let entry = &mut self.tasks[key];
        invariant!(OneLease, entry.peer.is_none(), "{:?} is leased to {:?}", entry.task.id, entry.peer);
        entry.peer = Some(peer);
        entry.leased_as = entry.task.attempt;
        let lane = entry.lane;
        self.lanes[lane.0 as usize].leased += 1;
        self.peers[peer.0 as usize].held.push_back(&mut self.tasks, key);
        self.count_type(key, peer, true);
    }

    /// Takes an entry out of the list that it is in.
    pub(super) fn detach(&mut self, key: usize) {
        let entry = &mut self.tasks[key];
        let lane = &mut self.lanes[entry.lane.0 as usize];
        entry.started = Timestamp::UNSET;
        match entry.peer.take() {
            None if entry.waits => self.stop_waiting(key),
            None => lane.queue.remove(&mut self.tasks, key),
            Some(peer) => {
                lane.leased -= 1;
                self.peers[peer.0 as usize].held.remove(&mut self.tasks, key);
                self.count_type(key, peer, false);
            }
        }
    }

    /// A lease came to nothing: the peer never had the attempt, or gave it back. It is queued as it was.
    pub(super) fn unlease(&mut self, key: usize) {
        let entry = &self.tasks[key];
        match entry.stop.filter(|_| !entry.again) {
            Some(stop) => {
                let outcome = stop.outcome(&entry.task);
                self.finish(key, outcome);
            }
            None => self.requeue(key),
        }
    }

    /// Puts a leased entry back to the front of its queue.
    pub(super) fn requeue(&mut self, key: usize) {
        self.detach(key);
        let entry = &mut self.tasks[key];
        (entry.stop, entry.again) = (None, false);
        let lane = entry.lane;
        // Its time may have come while it was leased; then it ends at the next look at the clock.
        self.arm(key);
        self.lanes[lane.0 as usize].queue.push_front(&mut self.tasks, key, &self.weights);
    }

    /// The lease of an entry is lost. If it is not known to have begun, the attempt does not count.
    pub(super) fn lose(&mut self, key: usize, reason: &str, begun: bool) {
        self.counters.leases_lost += 1;
        let entry = &self.tasks[key];
        let attempt = entry.task.attempt;
        if entry.again {
            self.requeue(key);
        } else if let Some(again) = self.made_again(key, attempt, begun) {
            self.make_again(key, attempt, reason.to_owned(), again);
        } else {
            let failure = Failure::new("TaskLost", format!("lost after {attempt} attempts: {reason}"));
            let outcome = Outcome::failed(&entry.task, OutcomeKind::Lost, &failure);
            self.end(key, outcome);
        }
    }

    /// Whether a lost attempt is made again, and then what is said about it.
    fn made_again(&self, key: usize, attempt: u32, begun: bool) -> Option<TaskEventKind> {
        let Entry { task, stop, .. } = &self.tasks[key];
        let allowed = task.spec.limits.max_attempts;
        if stop.is_some() || !self.retries {
            None
        } else if !begun && allowed > 1 && task.granted < limit::MAX_GRANTED {
            Some(TaskEventKind::LeaseLost)
        } else {
            (attempt < allowed.saturating_add(task.granted)).then_some(TaskEventKind::Lost)
        }
    }

    /// The attempt is lost; the next one is queued.
    fn make_again(&mut self, key: usize, attempt: u32, reason: String, kind: TaskEventKind) {
        let task = &mut self.tasks[key].task;
        task.attempt = attempt.saturating_add(1);
        task.granted += u32::from(kind == TaskEventKind::LeaseLost);
        self.counters.retried += 1;
        self.lost.push(TaskEvent {
            attempt: AttemptId { task: task.id, number: attempt },
            at: self.now.wall,
            kind,
            actor: String::new(),
            detail: reason,
        });
        self.requeue(key);
    }

    /// An attempt has ended: so has its task, or it is attempted again.
    pub(super) fn end(&mut self, key: usize, mut outcome: Outcome) {
        let entry = &self.tasks[key];
        let attempt = outcome.attempt.max(entry.task.attempt);
        outcome.attempt = attempt;
        match (outcome.kind, entry.stop) {
            // It was given to us again after it had been stopped; this end belongs to the earlier life.
            (OutcomeKind::Cancelled | OutcomeKind::Lost, _) if entry.again => self.requeue(key),
            (OutcomeKind::Lost, Some(stop)) => {
                let outcome = stop.outcome(&entry.task);
                self.finish(key, outcome);
            }
            (OutcomeKind::Cancelled, Some(stop @ (Stop::DeadlinePassed | Stop::Abandoned))) => {
                let (kind, failure) = stop.words();
                outcome.become_failure(kind, &failure);
                self.finish(key, outcome);
            }
            (OutcomeKind::Lost, None) => {
                let failure = outcome.failure().unwrap_or_else(|| Failure::new("", ""));
                let begun = failure.code != Failure::LEASE_LOST;
                match self.made_again(key, attempt, begun) {
                    Some(kind) => self.make_again(key, attempt, failure.message, kind),
                    None => self.finish(key, outcome),
                }
            }
            _ => self.finish(key, outcome),
        }
    }

    pub(super) fn finish(&mut self, key: usize, mut outcome: Outcome) {
        // Who was stopped or lost does not say when it began.
        let started = self.tasks[key].started;
        if started.is_set() && !outcome.stamps.at(Hop::Started).is_set() {
            outcome.stamps.set(Hop::Started, started);
        }
        let entry = self.forget(key);
        let value = self.value_of(&entry, &outcome);
        self.deliver(outcome);
        self.land(key, &entry, value);
    }

    /// A task that is in no list has ended.
    pub(super) fn deliver(&mut self, outcome: Outcome) {
        self.counters.delivered += 1;
        self.counters.ended[outcome.kind as usize] += 1;
        self.finished.push(outcome);
    }

    pub(super) fn forget(&mut self, key: usize) -> Entry {
        self.detach(key);
        let entry = self.tasks.remove(key);
        for due in [entry.task.start_by, entry.task.end_by] {
            if due != Tick::NEVER {
                self.timers.remove(&(due, key as u32));
            }
        }
        let lane = &mut self.lanes[entry.lane.0 as usize];
        lane.bytes -= entry.task.payload.len();
        if let Some(warm) = &mut lane.warm {
            warm.release(entry.of);
        }
        let removed = self.index.remove(&entry.task.id);
        invariant!(OneOutcome, removed.is_some(), "{:?} ended twice", entry.task.id);
        entry
    }

    /// Sets the timers of a task that has any.
    pub(super) fn arm(&mut self, key: usize) {
        let task = &self.tasks[key].task;
        for due in [task.start_by, task.end_by] {
            if due != Tick::NEVER {
                self.timers.insert((due, key as u32));
            }
        }
    }

    /// A task has waited for longer than it may, or is past its deadline.
    pub(super) fn run_out(&mut self, key: usize) {
        let entry = &mut self.tasks[key];
        let stop = match entry.task.end_by <= self.now.tick {
            true => Stop::DeadlinePassed,
            false => Stop::Expired,
        };
        let absent = entry.peer.is_some_and(|peer| !self.peers[peer.0 as usize].present);
        match entry.peer {
            // What is at a peer that is there, or has begun, is not waiting here: the peer sees to it.
            Some(_) if stop == Stop::Expired && (!absent || entry.started.is_set()) => {}
            Some(peer) if !absent => {
                if entry.stop.is_none() {
                    entry.stop = Some(stop);
                    self.cancels.entry(peer).or_default().push(entry.leased_id());
                }
            }
            holder => {
                self.counters.timed_out += 1;
                let outcome = stop.outcome(&entry.task);
                self.finish(key, outcome);
                holder.into_iter().for_each(|peer| self.update_room(peer));
            }
        }
    }
}

impl Stop {
    /// The outcome of a task that was stopped for this reason.
    pub(super) fn outcome(self, task: &Task) -> Outcome {
        let (kind, failure) = self.words();
        Outcome::failed(task, kind, &failure)
    }

    fn words(self) -> (OutcomeKind, Failure) {
        match self {
            Self::Cancelled => {
                (OutcomeKind::Cancelled, Failure::new("Cancelled", "cancelled before it ended"))
            }
            Self::CancelledAway => (OutcomeKind::Cancelled, Failure::cancelled_away()),
            Self::DeadlinePassed => (
                OutcomeKind::TimedOut,
                Failure::new("DeadlinePassed", "it had not ended when its deadline passed"),
            ),
            Self::Abandoned => {
                (OutcomeKind::Lost, Failure::new(Failure::LEASE_LOST, "the node above had given it up"))
            }
            Self::Expired => (
                OutcomeKind::TimedOut,
                Failure::new("TaskExpired", "it had not begun to run when its time to live was over"),
            ),
        }
    }
}
