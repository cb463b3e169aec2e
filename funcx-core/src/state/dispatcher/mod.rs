//! Queue, peers, credits, leases: the state machine of every node that hands out work.
//!
//! Here are its types and its inputs; `give` decides who gets what, `end` what becomes of attempts, `fair_queue` whose
//! turn it is, `flight` which calls need not run.

mod check;
mod end;
mod fair_queue;
mod flight;
mod give;
mod list;
mod ranking;
mod warm;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use slab::Slab;

use self::fair_queue::{FairQueue, Weights};
use self::flight::Flights;
use self::list::{Linked, List, Neighbours};
use self::warm::{PeerTypes, TypeId, WarmLane};
use crate::contract::{Capacity, IdleFirst, PeerId, PlacementPolicy};
use crate::model::{
    AttemptId, Hop, HopStamps, IdMap, IdentityId, Now, Outcome, Task, TaskEvent, TaskId, Tick, Timestamp,
    limit,
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
    /// Ask the peer to stop these attempts, which nobody waits for. They stay leased until their outcomes come.
    Abandon {
        /// Whom.
        peer: PeerId,
        /// Which.
        attempts: Vec<AttemptId>,
    },
    /// These tasks are finished and forgotten.
    Deliver(Vec<Outcome>),
    /// These attempts were lost and are made again.
    Lost(Vec<TaskEvent>),
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
    /// Memoized calls that wait for the value of an equal one, and need no peer.
    pub waiting: usize,
    /// Bytes of arguments of all of them.
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
    /// Those of them that ended with the value of an equal call.
    pub memoized: u64,
    /// Tasks that went back to the node above without an outcome.
    pub handed_back: u64,
    /// Attempts made again because infrastructure was lost, here or below.
    pub retried: u64,
    /// Leases that ended because a peer was lost or given up.
    pub leases_lost: u64,
    /// Attempts that peers were asked to stop.
    pub cancels: u64,
    /// Tasks finished, by kind, in the order of [`OutcomeKind::ALL`](crate::model::OutcomeKind::ALL).
    pub ended: [u64; 5],
    /// Tasks that ended here because their time to live or their deadline was over.
    pub timed_out: u64,
    /// Outcomes dropped because the task had ended, or another attempt had the lease.
    pub late: u64,
}

/// Hands tasks to peers and sees each of them to exactly one outcome.
///
/// A task is queued in a lane, leased to one peer of that lane, or finished (and forgotten). Who gets which task is
/// decided by the lane's [`PlacementPolicy`]; a peer is never given more than its capacity. When a peer is lost, its
/// attempts go back to the front of the queue as new attempts, or end as `Lost` when the task allows no more.
///
/// Owners share a lane by weight, and each has its own priorities. A task whose time to live is over before it has begun,
/// or whose deadline has passed, ends here wherever it is.
///
/// Feed it input, then poll [`poll_output`](Self::poll_output) until it is empty, and before sleeping ask
/// [`poll_timeout`](Self::poll_timeout).
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
    abandons: BTreeMap<PeerId, Vec<AttemptId>>,
    finished: Vec<Outcome>,
    lost: Vec<TaskEvent>,
    /// Ends of the times to live and deadlines of tasks that have some.
    timers: BTreeSet<(Tick, u32)>,
    /// When lanes have to be looked at again, because their tasks will have waited for warm workers for long enough.
    rechecks: BTreeSet<(Tick, LaneId)>,
    weights: Weights,
    /// What is known about memoized calls, if they are looked at here.
    flights: Option<Flights>,
    counters: Counters,
    now: Now,
    paused: bool,
    /// Whether lost attempts are made again here.
    retries: bool,
}

#[derive(Debug)]
struct Lane<P> {
    policy: P,
    queue: FairQueue,
    leased: usize,
    /// Tasks that wait for an equal one.
    waiting: usize,
    bytes: usize,
    /// Peers that are connected.
    present: usize,
    dirty: bool,
    /// If it prefers peers that are warm for a task.
    warm: Option<Box<WarmLane>>,
}

#[derive(Debug)]
struct Peer {
    lane: LaneId,
    capacity: Capacity,
    held: List,
    /// Whether it is connected: what was cancelled at a peer that is not need not wait for it.
    present: bool,
    /// When it will be gone.
    ends_at: Tick,
    /// In lanes that tell types apart.
    types: Option<Box<PeerTypes>>,
}

/// Why a task is to end before it ends by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stop {
    /// Somebody asked for it.
    Cancelled,
    /// Somebody asked for it, and nobody was there to confirm it.
    CancelledAway,
    /// Its deadline has passed.
    DeadlinePassed,
    /// Its time to live was over before it began.
    Expired,
    /// The node above has given it up.
    Abandoned,
}

#[derive(Debug)]
struct Entry {
    /// Its `attempt` is the number by which the node above knows the attempt.
    task: Task,
    neighbours: Neighbours,
    lane: LaneId,
    /// The type of worker that it wants.
    of: TypeId,
    /// Its place among waiting tasks of other types.
    order: i64,
    peer: Option<PeerId>,
    /// The number by which the peer knows the attempt. Lower than the other one after a reunion with a peer that
    /// had been given up, or when the node above gave us up and came back.
    leased_as: u32,
    /// Its peer was asked to stop it.
    stop: Option<Stop>,
    /// It was given to us again while it was being stopped: when it has stopped, it starts anew.
    again: bool,
    /// It is in no queue, because it waits for the value of an equal one.
    waits: bool,
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
            abandons: BTreeMap::new(),
            finished: Vec::new(),
            lost: Vec::new(),
            timers: BTreeSet::new(),
            rechecks: BTreeSet::new(),
            weights: Weights::default(),
            flights: None,
            counters: Counters::default(),
            now: Now::default(),
            paused: false,
            retries: true,
        }
    }

    /// Adds a lane. Lanes are numbered from 0 and stay.
    pub fn open_lane(&mut self) -> LaneId {
        self.lanes.push(Lane {
            policy: P::default(),
            queue: FairQueue::default(),
            leased: 0,
            waiting: 0,
            bytes: 0,
            present: 0,
            dirty: false,
            warm: None,
        });
        LaneId(self.lanes.len() as u32 - 1)
    }

    /// It is this late. Inputs without a time happen now.
    pub const fn advance(&mut self, now: Now) {
        self.now = now;
    }

    /// The time of the last input.
    pub const fn now(&self) -> Now {
        self.now
    }

    /// Leaves it to the node above to make lost attempts again. For nodes that remember nothing: an attempt of which only they
    /// knew would not be counted if they were lost.
    pub const fn pass_losses_on(&mut self) {
        self.retries = false;
    }

    /// Gives out nothing any more.
    pub const fn pause(&mut self) {
        self.paused = true;
    }

    /// Number of lanes.
    pub fn lanes(&self) -> u32 {
        self.lanes.len() as u32
    }

    /// How full a lane is.
    pub fn load(&self, lane: LaneId) -> LaneLoad {
        let lane = &self.lanes[lane.0 as usize];
        LaneLoad { queued: lane.queue.len(), leased: lane.leased, waiting: lane.waiting, bytes: lane.bytes }
    }

    /// Tasks that fit into a lane before its bound on tasks or bytes.
    pub fn room(&self, lane: LaneId) -> usize {
        let load = self.load(lane);
        match load.bytes < self.limits.lane_bytes {
            true => self.limits.lane_tasks.saturating_sub(load.queued + load.leased + load.waiting),
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

    /// Number of the current attempt at a task, and where it passed when, as far as this node knows.
    pub fn progress(&self, task: TaskId) -> Option<(u32, HopStamps)> {
        let entry = &self.tasks[*self.index.get(&task)? as usize];
        let mut stamps = entry.task.stamps;
        if entry.started.is_set() {
            stamps.set(Hop::Started, entry.started);
        }
        Some((entry.task.attempt, stamps))
    }

    /// What happened so far.
    pub const fn counters(&self) -> Counters {
        self.counters
    }

    /// The lane that a peer serves.
    pub fn lane_of(&self, peer: PeerId) -> Option<LaneId> {
        self.peers.get(peer.0 as usize).map(|peer| peer.lane)
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
        self.now = now;
        let mut refused = Vec::new();
        for task in tasks {
            if let Some(&key) = self.index.get(&task.id) {
                let entry = &mut self.tasks[key as usize];
                if task.attempt > entry.task.attempt {
                    (entry.task.attempt, entry.task.granted) = (task.attempt, task.granted);
                    entry.again = entry.stop.is_some();
                }
            } else if self.room(lane) > 0 && refused.is_empty() {
                self.admit(lane, task);
            } else {
                refused.push(task);
            }
        }
        self.mark(lane);
        refused
    }

    /// Gives up every task that waits here, because the node leaves: they go on elsewhere as the same attempts.
    pub fn hand_back(&mut self) -> Vec<AttemptId> {
        // Those that wait for others first: when these leave, nobody waits for them any more.
        let mut leaving = self.waiting();
        leaving.extend(self.lanes.iter().flat_map(|lane| lane.queue.iter(&self.tasks)));
        leaving
            .into_iter()
            .map(|key| {
                self.counters.handed_back += 1;
                let entry = self.forget(key);
                self.land(key, &entry, None);
                entry.task.attempt_id()
            })
            .collect()
    }

    /// A peer gives up attempts that it has not begun; they are queued again as they were.
    pub fn handle_given_back(&mut self, peer: PeerId, attempts: &[AttemptId], now: Now) {
        self.now = now;
        let Some(lane) = self.peers.get(peer.0 as usize).map(|entry| entry.lane) else { return };
        for attempt in attempts.iter().rev() {
            let Some(key) = self.index.get(&attempt.task).map(|key| *key as usize) else { continue };
            let entry = &mut self.tasks[key];
            if entry.peer == Some(peer) && attempt.number >= entry.leased_as {
                // The peer may have made further attempts itself.
                entry.task.attempt = entry.task.attempt.max(attempt.number);
                self.unlease(key);
            }
        }
        self.update_room(peer);
        self.mark(lane);
    }

    /// Cancels tasks: a queued one is finished now, for a leased one the peer is asked and its outcome decides. A peer that
    /// is not connected cannot be asked: the task ends now, and is stopped there when the peer comes back. That may be so
    /// of a queued task too: this node may have been started anew and not know what peers had before.
    /// Tasks that are not here are ignored. Returns how many were here.
    pub fn cancel(&mut self, tasks: impl IntoIterator<Item = TaskId>, now: Now) -> usize {
        self.now = now;
        let mut found = 0;
        for id in tasks {
            let Some(&key) = self.index.get(&id) else { continue };
            let entry = &mut self.tasks[key as usize];
            found += 1;
            match entry.peer {
                None => {
                    let stop = match self.lanes[entry.lane.0 as usize].present {
                        0 => Stop::CancelledAway,
                        _ => Stop::Cancelled,
                    };
                    let outcome = stop.outcome(&entry.task);
                    self.finish(key as usize, outcome);
                }
                Some(peer) if !self.peers[peer.0 as usize].present => {
                    let outcome = Stop::CancelledAway.outcome(&entry.task);
                    self.finish(key as usize, outcome);
                    self.update_room(peer);
                }
                Some(_) if entry.stop.is_some() => entry.again = false,
                Some(peer) => {
                    entry.stop = Some(Stop::Cancelled);
                    self.cancels.entry(peer).or_default().push(entry.leased_id());
                }
            }
        }
        found
    }

    /// The node above has given up these tasks. They are stopped like cancelled ones, but end as `Lost` before they were
    /// known to have begun: should somebody take up such an attempt once more, it is not for ever cancelled.
    pub fn abandon(&mut self, tasks: impl IntoIterator<Item = TaskId>, now: Now) {
        self.now = now;
        for id in tasks {
            let Some(&key) = self.index.get(&id) else { continue };
            let entry = &mut self.tasks[key as usize];
            match entry.peer {
                None => {
                    let outcome = Stop::Abandoned.outcome(&entry.task);
                    self.finish(key as usize, outcome);
                }
                Some(_) if entry.stop.is_some() => entry.again = false,
                Some(peer) => {
                    entry.stop = Some(Stop::Abandoned);
                    self.abandons.entry(peer).or_default().push(entry.leased_id());
                }
            }
        }
    }

    /// Adds a peer to a lane.
    pub fn add_peer(&mut self, lane: LaneId, capacity: Capacity) -> PeerId {
        let held = List::default();
        let capacity_yet = Capacity::default();
        let entry =
            Peer { lane, capacity: capacity_yet, held, present: true, ends_at: Tick::NEVER, types: None };
        let peer = PeerId(self.peers.insert(entry) as u32);
        self.lanes[lane.0 as usize].present += 1;
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

    /// Whether a peer is connected. One that is not keeps its leases, but what is cancelled meanwhile does not wait for it.
    /// What it had and should have ended by now ends here, and so does what it was asked to stop and may never confirm.
    pub fn set_present(&mut self, peer: PeerId, present: bool) {
        let Some(entry) = self.peers.get_mut(peer.0 as usize) else { return };
        let lane = &mut self.lanes[entry.lane.0 as usize];
        lane.present = lane.present + usize::from(present) - usize::from(entry.present);
        entry.present = present;
        if !present {
            let is_late = |key: &usize| {
                let task = &self.tasks[*key].task;
                task.start_by.min(task.end_by) <= self.now.tick
            };
            let late: Vec<usize> = entry.held.iter(&self.tasks).filter(is_late).collect();
            late.into_iter().for_each(|key| self.run_out(key));
            let asked =
                |key: &usize| self.tasks[*key].stop == Some(Stop::Cancelled) && !self.tasks[*key].again;
            let held = &self.peers[peer.0 as usize].held;
            let asked: Vec<usize> = held.iter(&self.tasks).filter(asked).collect();
            for key in asked {
                let outcome = Stop::CancelledAway.outcome(&self.tasks[key].task);
                self.finish(key, outcome);
            }
            self.update_room(peer);
        }
    }

    /// When a peer will be gone, such as a manager in a block with a walltime; [`Tick::NEVER`] if that is not known. It
    /// gets no task whose walltime is longer than that.
    pub fn set_ends_at(&mut self, peer: PeerId, ends_at: Tick) {
        if let Some(entry) = self.peers.get_mut(peer.0 as usize) {
            entry.ends_at = ends_at;
            self.update_room(peer);
        }
    }

    /// The part of an owner in every lane, against those of others; 1 if this was never called.
    pub fn set_weight(&mut self, owner: IdentityId, weight: u32) {
        self.weights.insert(owner, weight);
        self.lanes.iter_mut().for_each(|lane| lane.queue.set_weight(owner, weight));
    }

    /// Attempts that a peer holds are found at another one: the same node with another session. They go on there.
    pub fn move_leases(&mut self, from: PeerId, to: PeerId, held: &[AttemptId]) {
        for attempt in held {
            let Some(key) = self.index.get(&attempt.task).map(|key| *key as usize) else { continue };
            let entry = &self.tasks[key];
            if entry.peer == Some(from) && attempt.number >= entry.leased_as {
                let started = entry.started;
                self.detach(key);
                // It is in no list for a moment, where leasing wants it.
                self.lease(key, to);
                let entry = &mut self.tasks[key];
                entry.started = started;
                entry.leased_as = attempt.number;
                entry.task.attempt = entry.task.attempt.max(attempt.number);
            }
        }
    }

    /// A peer is given up, although it may still run what it holds: every attempt counts, and is made again as a new
    /// one or ends as `Lost` for this reason.
    pub fn remove_peer(&mut self, peer: PeerId, reason: &str, now: Now) {
        self.take_from(peer, reason, false, now);
    }

    /// A peer is dead: nothing comes from it any more. Attempts that nobody said had begun are made again without counting,
    /// so that a queue outlives restarts below; the others count. A task that allows one attempt might have begun just
    /// before, so it ends as `Lost`.
    pub fn bury_peer(&mut self, peer: PeerId, reason: &str, now: Now) {
        self.take_from(peer, reason, true, now);
    }

    fn take_from(&mut self, peer: PeerId, reason: &str, dead: bool, now: Now) {
        self.now = now;
        let Some(lane) = self.peers.get(peer.0 as usize).map(|entry| entry.lane) else { return };
        // From the last to the first, so that the front of the queue has them in their old order.
        let held: Vec<usize> = self.peers[peer.0 as usize].held.iter(&self.tasks).collect();
        for key in held.into_iter().rev() {
            let begun = !dead || self.tasks[key].started.is_set();
            self.lose(key, reason, begun);
        }
        self.unfile_peer(peer);
        let removed = self.peers.remove(peer.0 as usize);
        let lane_of = &mut self.lanes[lane.0 as usize];
        lane_of.policy.removed(peer);
        lane_of.present -= usize::from(removed.present);
        self.cancels.remove(&peer);
        self.abandons.remove(&peer);
        self.mark(lane);
    }

    /// A peer that came back with the same epoch says what it holds.
    ///
    /// Leases of which it knows nothing never reached it and are queued again under the same number. What it holds
    /// although it is queued here is leased to it again. Returns attempts that it should stop, because the task has
    /// ended or is leased to another peer.
    pub fn reconcile(&mut self, peer: PeerId, held: &[AttemptId], now: Now) -> Vec<AttemptId> {
        self.now = now;
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
                    self.detach(key);
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
            let requests = match self.tasks[key].stop {
                None => continue,
                Some(Stop::Abandoned) => &mut self.abandons,
                Some(_) => &mut self.cancels,
            };
            requests.entry(peer).or_default().push(self.tasks[key].leased_id());
        }
        self.update_room(peer);
        self.mark(lane);
        stale
    }

    /// An attempt began to run at a peer. Returns whether the peer has it.
    pub fn handle_started(&mut self, peer: PeerId, attempt: AttemptId, at: Timestamp) -> bool {
        let Some(key) = self.index.get(&attempt.task) else { return false };
        let entry = &mut self.tasks[*key as usize];
        if entry.peer != Some(peer) {
            return false;
        }
        entry.started = at;
        // From now on only its deadline counts.
        let start_by = std::mem::replace(&mut entry.task.start_by, Tick::NEVER);
        if start_by != Tick::NEVER && start_by != entry.task.end_by {
            self.timers.remove(&(start_by, *key));
        }
        true
    }

    /// A peer has lost this attempt and goes on with the next one itself, which is that of the lease from now on.
    /// Returns whether that is news: peers say it once more when they are back.
    pub fn handle_lost(&mut self, peer: PeerId, attempt: AttemptId, counted: bool) -> bool {
        let Some(key) = self.index.get(&attempt.task) else { return false };
        let entry = &mut self.tasks[*key as usize];
        let next = attempt.number.saturating_add(1);
        if entry.peer != Some(peer) || attempt.number < entry.leased_as || next <= entry.task.attempt {
            return false;
        }
        entry.task.attempt = next;
        entry.task.granted += u32::from(!counted);
        entry.started = Timestamp::UNSET;
        self.counters.retried += 1;
        true
    }

    /// Attempts that ended at a peer. Those that it has no lease for are dropped and counted.
    pub fn handle_outcomes(&mut self, peer: PeerId, outcomes: Vec<Outcome>, now: Now) {
        self.now = now;
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

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Now) {
        self.now = now;
        while let Some(&(due, key)) = self.timers.first()
            && due <= now.tick
        {
            self.timers.pop_first();
            self.run_out(key as usize);
        }
        self.recheck();
    }

    /// When to call [`handle_timeout`](Self::handle_timeout).
    pub fn poll_timeout(&self) -> Option<Tick> {
        let task = self.timers.first().map(|(due, _)| *due);
        task.into_iter().chain(self.rechecks.first().map(|(due, _)| *due)).min()
    }

    /// What to do next; `None` when there is nothing until the next input.
    pub fn poll_output(&mut self) -> Option<DispatcherOutput> {
        // Before the outcomes that came with them: who sent those must not be told that they are safe before these are.
        if !self.lost.is_empty() {
            return Some(DispatcherOutput::Lost(std::mem::take(&mut self.lost)));
        }
        if !self.finished.is_empty() {
            return Some(DispatcherOutput::Deliver(std::mem::take(&mut self.finished)));
        }
        if let Some((peer, attempts)) = self.cancels.pop_first() {
            self.counters.cancels += attempts.len() as u64;
            return Some(DispatcherOutput::Cancel { peer, attempts });
        }
        if let Some((peer, attempts)) = self.abandons.pop_first() {
            return Some(DispatcherOutput::Abandon { peer, attempts });
        }
        while let Some(&lane) = self.dirty.front().filter(|_| !self.paused) {
            if let Some(output) = self.dispatch(lane) {
                return Some(output);
            }
            self.dirty.pop_front();
            self.lanes[lane.0 as usize].dirty = false;
        }
        None
    }

    fn insert(&mut self, lane: LaneId, task: Task) -> usize {
        let state = &mut self.lanes[lane.0 as usize];
        state.bytes += task.payload.len();
        let of = state.warm.as_mut().map_or(0, |warm| warm.intern(task.spec.shape.environment.as_deref()));
        self.counters.accepted += 1;
        let id = task.id;
        let key = self.tasks.insert(Entry {
            task,
            neighbours: Neighbours::default(),
            lane,
            of,
            order: 0,
            peer: None,
            leased_as: 0,
            stop: None,
            again: false,
            waits: false,
            started: Timestamp::UNSET,
        });
        self.index.insert(id, key as u32);
        self.arm(key);
        key
    }
}
