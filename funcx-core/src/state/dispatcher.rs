//! Queue, peers, credits, leases: the state machine of every node that hands out work.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use slab::Slab;

use super::invariant::{Invariant, Violation, invariant};
use super::list::{Linked, List, Neighbours};
use crate::contract::{Capacity, IdleFirst, PeerId, PlacementPolicy, Room};
use crate::model::{
    AttemptId, Failure, Hop, IdMap, Now, Outcome, OutcomeKind, Task, TaskId, Timestamp, limit,
};

/// A queue of a dispatcher with the peers that serve it: an endpoint of a service, the managers of an endpoint,
/// the executor of a manager.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LaneId(pub u32);

/// What the driver of a [`Dispatcher`] should do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DispatcherOutput {
    /// Give these attempts to the peer; each is leased to it now.
    Dispatch {
        /// To whom.
        peer: PeerId,
        /// What, in order.
        tasks: Vec<Task>,
    },
    /// Ask the peer to stop these attempts. They stay leased until their outcomes come.
    Cancel {
        /// Whom.
        peer: PeerId,
        /// Which.
        attempts: Vec<AttemptId>,
    },
    /// These tasks are finished and forgotten.
    Deliver(Vec<Outcome>),
}

/// Where a task is, as far as one dispatcher knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TaskState {
    /// Waiting for a peer with room.
    Queued,
    /// Given to a peer; when it began to run there, if that is known.
    Leased {
        /// To whom.
        peer: PeerId,
        /// Start of the attempt; [`Timestamp::UNSET`] if it waits, or if nobody said.
        started: Timestamp,
    },
}

/// Bounds of each lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DispatcherLimits {
    /// Unfinished tasks, queued and leased.
    pub lane_tasks: usize,
    /// Bytes of their arguments.
    pub lane_bytes: usize,
}

impl Default for DispatcherLimits {
    fn default() -> Self {
        Self { lane_tasks: limit::MAX_LANE_TASKS, lane_bytes: limit::MAX_LANE_BYTES }
    }
}

/// How full a lane is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LaneLoad {
    /// Tasks that wait.
    pub queued: usize,
    /// Attempts given out.
    pub leased: usize,
    /// Bytes of arguments of both.
    pub bytes: usize,
}

/// What happened since the dispatcher was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// Tasks taken in.
    pub accepted: u64,
    /// Attempts given out.
    pub dispatched: u64,
    /// Tasks finished.
    pub delivered: u64,
    /// Tasks that went back to the node above without an outcome.
    pub handed_back: u64,
    /// Attempts made again because infrastructure was lost.
    pub retried: u64,
    /// Outcomes dropped because the task had ended, or another attempt had the lease.
    pub late: u64,
}

/// Hands tasks to peers and sees each of them to exactly one outcome.
///
/// A task is queued in a lane, leased to one peer of that lane, or finished (and forgotten). Who gets which task is
/// decided by the lane's [`PlacementPolicy`]; a peer is never given more than its capacity. When a peer is lost, its
/// attempts go back to the front of the queue as new attempts, or end as `Lost` when the task allows no more.
///
/// Feed it input, then poll [`poll_output`](Self::poll_output) until it is empty. It has no timers of its own; those
/// of its peers belong to the links.
#[derive(Debug)]
pub struct Dispatcher<P = IdleFirst> {
    limits: DispatcherLimits,
    sent: Hop,
    lanes: Vec<Lane<P>>,
    peers: Slab<Peer>,
    tasks: Slab<Entry>,
    index: IdMap<TaskId, u32>,
    dirty: VecDeque<LaneId>,
    cancels: BTreeMap<PeerId, Vec<AttemptId>>,
    finished: Vec<Outcome>,
    counters: Counters,
    wall: Timestamp,
}

#[derive(Debug)]
struct Lane<P> {
    policy: P,
    queue: List,
    leased: usize,
    bytes: usize,
    dirty: bool,
}

#[derive(Debug)]
struct Peer {
    lane: LaneId,
    capacity: Capacity,
    held: List,
}

#[derive(Debug)]
struct Entry {
    /// Its `attempt` is the number by which the node above knows the attempt.
    task: Task,
    neighbours: Neighbours,
    lane: LaneId,
    peer: Option<PeerId>,
    /// The number by which the peer knows the attempt. Lower than the other one after a reunion with a peer that
    /// had been given up, or when the node above gave us up and came back.
    leased_as: u32,
    /// Somebody asked to stop it.
    cancelled: bool,
    /// It was given to us again while it was being stopped: when it has stopped, it starts anew.
    again: bool,
    /// How often a peer died under it before anybody said that it had begun.
    unbegun: u32,
    started: Timestamp,
}

impl Entry {
    /// The attempt as the peer knows it.
    const fn leased_id(&self) -> AttemptId {
        AttemptId { task: self.task.id, number: self.leased_as }
    }
}

impl Linked for Entry {
    fn neighbours(&mut self) -> &mut Neighbours {
        &mut self.neighbours
    }

    fn next(&self) -> u32 {
        self.neighbours.next()
    }
}

impl<P: PlacementPolicy + Default> Dispatcher<P> {
    /// A dispatcher without lanes. `sent` is the hop whose stamp a task gets when it is given to a peer.
    pub fn new(limits: DispatcherLimits, sent: Hop) -> Self {
        Self {
            limits,
            sent,
            lanes: Vec::new(),
            peers: Slab::new(),
            tasks: Slab::new(),
            index: IdMap::default(),
            dirty: VecDeque::new(),
            cancels: BTreeMap::new(),
            finished: Vec::new(),
            counters: Counters::default(),
            wall: Timestamp::UNSET,
        }
    }

    /// Adds a lane. Lanes are numbered from 0 and stay.
    pub fn open_lane(&mut self) -> LaneId {
        let lane = Lane { policy: P::default(), queue: List::default(), leased: 0, bytes: 0, dirty: false };
        self.lanes.push(lane);
        LaneId(self.lanes.len() as u32 - 1)
    }

    /// Number of lanes.
    pub fn lanes(&self) -> u32 {
        self.lanes.len() as u32
    }

    /// How full a lane is.
    pub fn load(&self, lane: LaneId) -> LaneLoad {
        let lane = &self.lanes[lane.0 as usize];
        LaneLoad { queued: lane.queue.len(), leased: lane.leased, bytes: lane.bytes }
    }

    /// Tasks that fit into a lane before its bound on tasks or bytes.
    pub fn room(&self, lane: LaneId) -> usize {
        let load = self.load(lane);
        match load.bytes < self.limits.lane_bytes {
            true => self.limits.lane_tasks.saturating_sub(load.queued + load.leased),
            false => 0,
        }
    }

    /// Where a task is; `None` if it is not here (never was, or is finished).
    pub fn state(&self, task: TaskId) -> Option<TaskState> {
        let entry = &self.tasks[*self.index.get(&task)? as usize];
        Some(match entry.peer {
            None => TaskState::Queued,
            Some(peer) => TaskState::Leased { peer, started: entry.started },
        })
    }

    /// What happened so far.
    pub const fn counters(&self) -> Counters {
        self.counters
    }

    /// Attempts that a peer holds.
    pub fn held(&self, peer: PeerId) -> usize {
        self.peers.get(peer.0 as usize).map_or(0, |peer| peer.held.len())
    }

    /// Takes tasks into a lane, in order. Returns those that are refused: what is over the bound of the lane.
    ///
    /// A task that is here already is the same one. If it comes as a later attempt, the node above had given up
    /// the earlier one; what goes on here goes on under the new number.
    #[must_use = "tasks that are refused must not be lost"]
    pub fn submit(&mut self, lane: LaneId, tasks: Vec<Task>, now: Now) -> Vec<Task> {
        self.wall = now.wall;
        let mut refused = Vec::new();
        for task in tasks {
            if let Some(&key) = self.index.get(&task.id) {
                let entry = &mut self.tasks[key as usize];
                if task.attempt > entry.task.attempt {
                    entry.task.attempt = task.attempt;
                    entry.again = entry.cancelled;
                }
            } else if self.room(lane) > 0 && refused.is_empty() {
                let key = self.insert(lane, task);
                self.lanes[lane.0 as usize].queue.push_back(&mut self.tasks, key);
            } else {
                refused.push(task);
            }
        }
        self.mark(lane);
        refused
    }

    /// Gives up every task that waits here, because the node leaves: they go on elsewhere as the same attempts.
    pub fn hand_back(&mut self) -> Vec<AttemptId> {
        let queued: Vec<usize> =
            self.lanes.iter().flat_map(|lane| lane.queue.iter(&self.tasks).collect::<Vec<_>>()).collect();
        queued
            .into_iter()
            .map(|key| {
                self.counters.handed_back += 1;
                self.forget(key).task.attempt_id()
            })
            .collect()
    }

    /// A peer gives up attempts that it has not begun; they are queued again as they were.
    pub fn handle_given_back(&mut self, peer: PeerId, attempts: &[AttemptId], now: Now) {
        self.wall = now.wall;
        let Some(lane) = self.peers.get(peer.0 as usize).map(|entry| entry.lane) else { return };
        for attempt in attempts.iter().rev() {
            let Some(key) = self.index.get(&attempt.task).map(|key| *key as usize) else { continue };
            if self.tasks[key].peer == Some(peer) && attempt.number >= self.tasks[key].leased_as {
                self.unlease(key);
            }
        }
        self.update_room(peer);
        self.mark(lane);
    }

    /// Cancels tasks: a queued one is finished now, for a leased one the peer is asked and its outcome decides.
    /// Tasks that are not here are ignored. Returns how many were here.
    pub fn cancel(&mut self, tasks: impl IntoIterator<Item = TaskId>, now: Now) -> usize {
        self.wall = now.wall;
        let mut found = 0;
        for id in tasks {
            let Some(&key) = self.index.get(&id) else { continue };
            let entry = &mut self.tasks[key as usize];
            found += 1;
            match entry.peer {
                None => {
                    let outcome = cancelled(&entry.task);
                    self.finish(key as usize, outcome);
                }
                Some(_) if entry.cancelled => entry.again = false,
                Some(peer) => {
                    entry.cancelled = true;
                    self.cancels.entry(peer).or_default().push(entry.leased_id());
                }
            }
        }
        found
    }

    /// Adds a peer to a lane.
    pub fn add_peer(&mut self, lane: LaneId, capacity: Capacity) -> PeerId {
        let peer =
            PeerId(
                self.peers.insert(Peer { lane, capacity: Capacity::default(), held: List::default() }) as u32
            );
        self.set_capacity(peer, capacity);
        peer
    }

    /// A peer takes this much from now on. With no capacity it is suspended: it keeps its leases and gets no more.
    /// It may hold more than this for a while, if it advertised more before.
    pub fn set_capacity(&mut self, peer: PeerId, capacity: Capacity) {
        let Some(entry) = self.peers.get_mut(peer.0 as usize) else { return };
        entry.capacity = capacity;
        self.update_room(peer);
    }

    /// A peer is given up, although it may still run what it holds: every attempt counts, and is made again as a new
    /// one or ends as `Lost` for this reason.
    pub fn remove_peer(&mut self, peer: PeerId, reason: &str, now: Now) {
        self.take_from(peer, reason, false, now);
    }

    /// A peer is dead: nothing comes from it any more. Attempts that nobody said had begun are queued again as they
    /// were, so that a queue outlives any number of restarts below; the others count. A task that allows one attempt
    /// might have begun just before, so it ends as `Lost`.
    pub fn bury_peer(&mut self, peer: PeerId, reason: &str, now: Now) {
        self.take_from(peer, reason, true, now);
    }

    fn take_from(&mut self, peer: PeerId, reason: &str, dead: bool, now: Now) {
        self.wall = now.wall;
        let Some(lane) = self.peers.get(peer.0 as usize).map(|entry| entry.lane) else { return };
        // From the last to the first, so that the front of the queue has them in their old order.
        let held: Vec<usize> = self.peers[peer.0 as usize].held.iter(&self.tasks).collect();
        for key in held.into_iter().rev() {
            let entry = &mut self.tasks[key];
            let begun = entry.started.is_set() || entry.task.spec.limits.max_attempts <= 1;
            if dead && !begun && entry.unbegun < limit::MAX_UNBEGUN {
                entry.unbegun += 1;
                self.unlease(key);
            } else {
                self.lose(key, reason);
            }
        }
        self.lanes[lane.0 as usize].policy.removed(peer);
        self.peers.remove(peer.0 as usize);
        self.cancels.remove(&peer);
        self.mark(lane);
    }

    /// A peer that came back with the same epoch says what it holds.
    ///
    /// Leases of which it knows nothing never reached it and are queued again under the same number. What it holds
    /// although it is queued here is leased to it again. Returns attempts that it should stop, because the task has
    /// ended or is leased to another peer.
    pub fn reconcile(&mut self, peer: PeerId, held: &[AttemptId], now: Now) -> Vec<AttemptId> {
        self.wall = now.wall;
        let Some(lane) = self.peers.get(peer.0 as usize).map(|entry| entry.lane) else {
            return held.to_vec();
        };
        let mut stale = Vec::new();
        let mut known: IdMap<TaskId, ()> = IdMap::default();
        for attempt in held {
            match self.index.get(&attempt.task).map(|key| *key as usize) {
                // An earlier attempt proves nothing about the later one that is leased now.
                Some(key)
                    if self.tasks[key].peer == Some(peer) && attempt.number >= self.tasks[key].leased_as =>
                {
                    known.insert(attempt.task, ());
                }
                Some(key) if self.tasks[key].peer.is_none() && self.tasks[key].lane == lane => {
                    self.lanes[lane.0 as usize].queue.remove(&mut self.tasks, key);
                    self.lease(key, peer);
                    let entry = &mut self.tasks[key];
                    entry.leased_as = attempt.number;
                    entry.task.attempt = entry.task.attempt.max(attempt.number);
                    known.insert(attempt.task, ());
                }
                _ => stale.push(*attempt),
            }
        }
        let missing: Vec<usize> = self.peers[peer.0 as usize]
            .held
            .iter(&self.tasks)
            .filter(|key| !known.contains_key(&self.tasks[*key].task.id))
            .collect();
        missing.into_iter().rev().for_each(|key| self.unlease(key));
        for key in self.peers[peer.0 as usize].held.iter(&self.tasks) {
            if self.tasks[key].cancelled {
                self.cancels.entry(peer).or_default().push(self.tasks[key].leased_id());
            }
        }
        self.update_room(peer);
        self.mark(lane);
        stale
    }

    /// Attempts that began to run at a peer.
    pub fn handle_started(&mut self, peer: PeerId, attempt: AttemptId, at: Timestamp) {
        if let Some(key) = self.index.get(&attempt.task) {
            let entry = &mut self.tasks[*key as usize];
            if entry.peer == Some(peer) {
                entry.started = at;
            }
        }
    }

    /// Attempts that ended at a peer. Those that it has no lease for are dropped and counted.
    pub fn handle_outcomes(&mut self, peer: PeerId, outcomes: Vec<Outcome>, now: Now) {
        self.wall = now.wall;
        let Some(lane) = self.peers.get(peer.0 as usize).map(|entry| entry.lane) else {
            self.counters.late += outcomes.len() as u64;
            return;
        };
        for outcome in outcomes {
            let key = self.index.get(&outcome.task).map(|key| *key as usize);
            // A node below may have made further attempts itself, so the number may be higher than that of the lease.
            match key.filter(|key| {
                let entry = &self.tasks[*key];
                entry.peer == Some(peer) && outcome.attempt >= entry.leased_as
            }) {
                None => self.counters.late += 1,
                Some(key) => self.end(key, outcome),
            }
        }
        self.update_room(peer);
        self.mark(lane);
    }

    /// What to do next; `None` when there is nothing until the next input.
    pub fn poll_output(&mut self) -> Option<DispatcherOutput> {
        if !self.finished.is_empty() {
            return Some(DispatcherOutput::Deliver(std::mem::take(&mut self.finished)));
        }
        if let Some((peer, attempts)) = self.cancels.pop_first() {
            return Some(DispatcherOutput::Cancel { peer, attempts });
        }
        while let Some(&lane) = self.dirty.front() {
            if let Some(output) = self.dispatch(lane) {
                return Some(output);
            }
            self.dirty.pop_front();
            self.lanes[lane.0 as usize].dirty = false;
        }
        None
    }

    /// The next batch of one lane.
    fn dispatch(&mut self, lane: LaneId) -> Option<DispatcherOutput> {
        let state = &mut self.lanes[lane.0 as usize];
        let first = state.queue.first()?;
        let (peer, share) = state.policy.choose(&self.tasks[first].task, state.queue.len())?;
        invariant!(Credits, share > 0 && self.peers.contains(peer.0 as usize), "{share} tasks for {peer:?}");
        let share = (share as usize).min(limit::MAX_BATCH_TASKS).min(state.queue.len());
        let mut tasks = Vec::with_capacity(share);
        let mut bytes = 0;
        while tasks.len() < share && bytes < limit::TARGET_BATCH_BYTES {
            let state = &mut self.lanes[lane.0 as usize];
            let Some(key) = state.queue.first() else { break };
            state.queue.remove(&mut self.tasks, key);
            self.lease(key, peer);
            let task = &mut self.tasks[key].task;
            task.stamps.set(self.sent, self.wall);
            // Specifications travel with the tasks, once for neighbours that share one. A batch with more of them than fit
            // into a frame would break the link.
            let shares = tasks.last().is_some_and(|last: &Task| Arc::ptr_eq(&last.spec, &task.spec));
            bytes += task.payload.len() + if shares { 0 } else { task.spec.text_bytes() };
            tasks.push(task.clone());
        }
        self.counters.dispatched += tasks.len() as u64;
        self.update_room(peer);
        Some(DispatcherOutput::Dispatch { peer, tasks })
    }

    fn insert(&mut self, lane: LaneId, task: Task) -> usize {
        self.lanes[lane.0 as usize].bytes += task.payload.len();
        self.counters.accepted += 1;
        let id = task.id;
        let key = self.tasks.insert(Entry {
            task,
            neighbours: Neighbours::default(),
            lane,
            peer: None,
            leased_as: 0,
            cancelled: false,
            again: false,
            unbegun: 0,
            started: Timestamp::UNSET,
        });
        self.index.insert(id, key as u32);
        key
    }

    /// Moves an entry that is in no list to a peer.
    fn lease(&mut self, key: usize, peer: PeerId) {
        let entry = &mut self.tasks[key];
        invariant!(OneLease, entry.peer.is_none(), "{:?} is leased to {:?}", entry.task.id, entry.peer);
        entry.peer = Some(peer);
        entry.leased_as = entry.task.attempt;
        let lane = entry.lane;
        self.lanes[lane.0 as usize].leased += 1;
        self.peers[peer.0 as usize].held.push_back(&mut self.tasks, key);
    }

    /// Takes an entry out of the list that it is in.
    fn detach(&mut self, key: usize) {
        let entry = &mut self.tasks[key];
        let lane = &mut self.lanes[entry.lane.0 as usize];
        entry.started = Timestamp::UNSET;
        match entry.peer.take() {
            None => lane.queue.remove(&mut self.tasks, key),
            Some(peer) => {
                lane.leased -= 1;
                self.peers[peer.0 as usize].held.remove(&mut self.tasks, key);
            }
        }
    }

    /// A lease came to nothing: the peer never had the attempt, or gave it back. It is queued as it was.
    fn unlease(&mut self, key: usize) {
        let entry = &self.tasks[key];
        match entry.cancelled && !entry.again {
            true => {
                let outcome = cancelled(&entry.task);
                self.finish(key, outcome);
            }
            false => self.requeue(key),
        }
    }

    /// Puts a leased entry back to the front of its queue.
    fn requeue(&mut self, key: usize) {
        self.detach(key);
        let entry = &mut self.tasks[key];
        (entry.cancelled, entry.again) = (false, false);
        let lane = entry.lane;
        self.lanes[lane.0 as usize].queue.push_front(&mut self.tasks, key);
    }

    /// The lease of an entry is lost.
    fn lose(&mut self, key: usize, reason: &str) {
        let task = &self.tasks[key].task;
        let failure = Failure::new("TaskLost", format!("lost after {} attempts: {reason}", task.attempt));
        let outcome = Outcome::failed(task, OutcomeKind::Lost, &failure);
        self.end(key, outcome);
    }

    /// An attempt has ended: so has its task, or it is attempted again.
    fn end(&mut self, key: usize, mut outcome: Outcome) {
        let entry = &mut self.tasks[key];
        let attempt = outcome.attempt.max(entry.task.attempt);
        outcome.attempt = attempt;
        match outcome.kind {
            // It was given to us again after it had been stopped; this end belongs to the earlier life.
            OutcomeKind::Cancelled | OutcomeKind::Lost if entry.again => self.requeue(key),
            OutcomeKind::Lost if entry.cancelled => {
                let outcome = cancelled(&entry.task);
                self.finish(key, outcome);
            }
            OutcomeKind::Lost if attempt < entry.task.spec.limits.max_attempts => {
                entry.task.attempt = attempt + 1;
                self.counters.retried += 1;
                self.requeue(key);
            }
            _ => self.finish(key, outcome),
        }
    }

    fn finish(&mut self, key: usize, outcome: Outcome) {
        self.forget(key);
        self.counters.delivered += 1;
        self.finished.push(outcome);
    }

    fn forget(&mut self, key: usize) -> Entry {
        self.detach(key);
        let entry = self.tasks.remove(key);
        self.lanes[entry.lane.0 as usize].bytes -= entry.task.payload.len();
        let removed = self.index.remove(&entry.task.id);
        invariant!(OneOutcome, removed.is_some(), "{:?} ended twice", entry.task.id);
        entry
    }

    fn update_room(&mut self, peer: PeerId) {
        let entry = &self.peers[peer.0 as usize];
        let room = Room::left(entry.capacity, u32::try_from(entry.held.len()).unwrap_or(u32::MAX));
        let lane = entry.lane;
        self.lanes[lane.0 as usize].policy.room_changed(peer, room);
        if !room.is_none() {
            self.mark(lane);
        }
    }

    /// A lane may have something to dispatch.
    fn mark(&mut self, lane: LaneId) {
        let state = &mut self.lanes[lane.0 as usize];
        if !state.dirty {
            state.dirty = true;
            self.dirty.push_back(lane);
        }
    }

    /// Looks at every invariant that can be seen from here. Takes time in proportion to the tasks; for tests.
    ///
    /// # Errors
    /// The first one that is broken.
    pub fn check(&self) -> Result<(), Violation> {
        let broken = |invariant, seen: String| Err(Violation { invariant, seen });
        let (mut queued, mut leased) = (vec![0; self.lanes.len()], vec![0; self.lanes.len()]);
        let mut bytes = vec![0; self.lanes.len()];
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
                None => queued[lane] += 1,
                Some(_) => leased[lane] += 1,
            }
        }
        let mut held = vec![0; self.lanes.len()];
        for (key, peer) in &self.peers {
            for task in peer.held.iter(&self.tasks) {
                if self.tasks[task].peer != Some(PeerId(key as u32)) {
                    return broken(Invariant::OneLease, format!("{:?}", self.tasks[task].task.id));
                }
            }
            held[peer.lane.0 as usize] += peer.held.len();
        }
        for (index, lane) in self.lanes.iter().enumerate() {
            let seen = (lane.queue.iter(&self.tasks).count(), lane.queue.len(), lane.leased, lane.bytes);
            if seen != (queued[index], queued[index], leased[index], bytes[index])
                || held[index] != leased[index]
            {
                return broken(Invariant::HonestCounters, format!("lane {index}: {seen:?}"));
            }
            if queued[index] + leased[index] > self.limits.lane_tasks {
                return broken(
                    Invariant::BoundedQueue,
                    format!("lane {index} holds {}", queued[index] + leased[index]),
                );
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

fn cancelled(task: &Task) -> Outcome {
    Outcome::failed(task, OutcomeKind::Cancelled, &Failure::new("Cancelled", "cancelled before it ended"))
}
