//! Every promise of a dispatcher, looked at directly.

use super::Dispatcher;
use super::warm::counts_are_honest;
use crate::contract::{PeerId, PlacementPolicy};
use crate::state::invariant::{Invariant, Violation};

impl<P: PlacementPolicy + Default> Dispatcher<P> {
    /// Looks at every invariant that can be seen from here. Takes time in proportion to the tasks; for tests.
    ///
    /// # Errors
    /// The first one that is broken.
    pub fn check(&self) -> Result<(), Violation> {
        let broken = |invariant, seen: String| Err(Violation { invariant, seen });
        let (mut queued, mut leased) = (vec![0; self.lanes.len()], vec![0; self.lanes.len()]);
        let (mut waiting, mut bytes) = (vec![0; self.lanes.len()], vec![0; self.lanes.len()]);
        for (key, entry) in &self.tasks {
            let lane = entry.lane.0 as usize;
            if self.index.get(&entry.task.id) != Some(&(key as u32)) {
                return broken(Invariant::OneOutcome, format!("{:?} is held twice", entry.task.id));
            }
            if entry.peer.is_some() && entry.leased_as > entry.task.attempt {
                return broken(
                    Invariant::BoundedAttempts,
                    format!("{:?} is leased as {}", entry.task.attempt_id(), entry.leased_as),
                );
            }
            bytes[lane] += entry.task.payload.len();
            match entry.peer {
                None if entry.waits => waiting[lane] += 1,
                None => queued[lane] += 1,
                Some(_) => leased[lane] += 1,
            }
        }
        let (mut held, mut present) = (vec![0; self.lanes.len()], vec![0; self.lanes.len()]);
        for (key, peer) in &self.peers {
            for task in peer.held.iter(&self.tasks) {
                if self.tasks[task].peer != Some(PeerId(key as u32)) {
                    return broken(Invariant::OneLease, format!("{:?}", self.tasks[task].task.id));
                }
            }
            let lane = &self.lanes[peer.lane.0 as usize];
            if lane.warm.as_ref().is_some_and(|warm| !counts_are_honest(peer, &self.tasks, warm)) {
                return broken(Invariant::HonestCounters, format!("types of peer {key}"));
            }
            held[peer.lane.0 as usize] += peer.held.len();
            present[peer.lane.0 as usize] += usize::from(peer.present);
        }
        for (index, lane) in self.lanes.iter().enumerate() {
            let count = lane.queue.iter(&self.tasks).count();
            let seen = (count, lane.queue.len(), lane.leased, lane.waiting, lane.bytes);
            if seen != (queued[index], queued[index], leased[index], waiting[index], bytes[index])
                || held[index] != leased[index]
                || present[index] != lane.present
            {
                return broken(Invariant::HonestCounters, format!("lane {index}: {seen:?}"));
            }
            let held = queued[index] + leased[index] + waiting[index];
            if held > self.limits.lane_tasks {
                return broken(Invariant::BoundedQueue, format!("lane {index} holds {held}"));
            }
        }
        if self.index.len() != self.tasks.len()
            || self.counters.accepted
                != self.counters.delivered + self.counters.handed_back + self.tasks.len() as u64
        {
            return broken(
                Invariant::OneOutcome,
                format!("{:?} with {} tasks here", self.counters, self.tasks.len()),
            );
        }
        Ok(())
    }
}
