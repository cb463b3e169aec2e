//! Tasks that go where workers of their type are warm.
//!
//! A worker of another type has to end before one of the right type can start, which costs more than most tasks. So a lane
//! whose peers tell types apart does not give its tasks out strictly in turn. The task whose turn it is goes
//!
//! 1. to the peer with most idle slots that are warm for it;
//! 2. if there is no such slot anywhere, not even a busy one, or if many others were given out before it, or if their owner has
//!    had many more than its owner, to any idle slot;
//! 3. else it waits, and the next type has its turn.
//!
//! A type with fewer slots than its part of the waiting tasks may have those that no type has. A type that waits while slots
//! are idle takes one that is warm for another type when it has done so for as long as the start of a worker may take (to
//! wait for as long as the alternative costs is never more than twice as bad as the best choice), and then the next one. When
//! no slot is idle, tasks are sent ahead to peers that are warm for them.
//!
//! How many slots of a type are idle is counted here, from what was given out: no message could tell it sooner.

use std::cmp::Reverse;
use std::time::Duration;

use slab::Slab;

use super::fair_queue::Head;
use super::ranking::Ranking;
use super::{Dispatcher, Entry, LaneId, Peer};
use crate::contract::{Capacity, PeerId, PlacementPolicy, Room};
use crate::model::{TaskId, Tick, limit};

/// For each slot of a lane, tasks that may be given out before the one whose turn it is.
const PASSED_PER_SLOT: u32 = 4;

/// Tasks that may be, however few slots there are.
const PASSED: u32 = 64;

/// A type of workers, by its place in the table of its lane. Workers of the default environment are of type 0.
pub(super) type TypeId = u16;

/// Types beyond what an endpoint may have share this one; it is never warm.
const OTHER: TypeId = limit::MAX_ENVIRONMENTS as TypeId + 1;

/// What a lane knows about types.
#[derive(Debug)]
pub(super) struct WarmLane {
    cold_after: Duration,
    /// Environment of each type but for the default one, while somebody uses it.
    names: Vec<Option<String>>,
    /// Tasks and peers of each type.
    users: Vec<usize>,
    /// Whether a peer has ever told types apart. Until then tasks are given out in turn.
    pub(super) is_on: bool,
    /// Peers with idle slots for a type: most of them first.
    best: Vec<Ranking<Reverse<u32>>>,
    /// Peers with room to wait for slots of a type, none of which is idle: most room first.
    ahead: Vec<Ranking<Reverse<u32>>>,
    /// Peers with idle slots: most slots that no type has first, then most idle ones.
    idle: Ranking<(Reverse<u32>, Reverse<u32>)>,
    /// Slots that each type has or is about to have.
    expected: Vec<u32>,
    /// Tasks of each type at peers.
    leased: Vec<u32>,
    /// Slots of all peers.
    slots: u32,
    /// The task whose turn it is, and how many were given out before it since it has been.
    first: Option<TaskId>,
    passed: u32,
    /// Types that wait although slots are idle.
    waiting: Vec<Option<Waiting>>,
    /// When to look at those again.
    recheck: Option<Tick>,
    heads: Vec<Head>,
}

/// How long a type has waited although slots were idle.
#[derive(Debug, Clone, Copy)]
struct Waiting {
    since: Tick,
    /// When that was last seen to be so.
    seen: Tick,
    /// Its tasks that were given out meanwhile.
    served: u32,
}

/// What a peer has for each type.
#[derive(Debug, Default)]
pub(super) struct PeerTypes {
    /// Whether it tells types apart; else all its slots are of the default type.
    announced: bool,
    types: Vec<PeerType>,
    /// As it is filed.
    spare: u32,
    idle: u32,
    slots: u32,
    ends_at: Tick,
}

#[derive(Debug, Clone, Copy, Default)]
struct PeerType {
    id: TypeId,
    /// Slots that are warm for it.
    slots: u32,
    /// Its tasks there.
    held: u32,
    /// As it is filed.
    room: Room,
    expected: u32,
}

/// Which type of tasks goes to which peer, and how many of them at most.
#[derive(Debug, Clone, Copy)]
pub(super) struct TypedChoice {
    pub(super) peer: PeerId,
    pub(super) of: TypeId,
    pub(super) share: u32,
}

impl WarmLane {
    pub(super) fn new(cold_after: Duration) -> Self {
        Self {
            cold_after,
            names: Vec::new(),
            users: Vec::new(),
            is_on: false,
            best: Vec::new(),
            ahead: Vec::new(),
            idle: Ranking::default(),
            expected: Vec::new(),
            leased: Vec::new(),
            slots: 0,
            first: None,
            passed: 0,
            waiting: Vec::new(),
            recheck: None,
            heads: Vec::new(),
        }
    }

    /// The type of an environment, which has one more user now.
    pub(super) fn intern(&mut self, environment: Option<&str>) -> TypeId {
        let id = match environment {
            None => 0,
            Some(name) => self.id_of(name),
        };
        let index = usize::from(id);
        if index >= self.users.len() {
            self.users.resize(index + 1, 0);
            self.best.resize_with(index + 1, Ranking::default);
            self.ahead.resize_with(index + 1, Ranking::default);
            self.expected.resize(index + 1, 0);
            self.leased.resize(index + 1, 0);
            self.waiting.resize(index + 1, None);
        }
        self.users[index] += 1;
        id
    }

    fn id_of(&mut self, name: &str) -> TypeId {
        let known = self.names.iter().position(|known| known.as_deref() == Some(name));
        let place = known.or_else(|| self.names.iter().position(Option::is_none)).unwrap_or(self.names.len());
        if place >= limit::MAX_ENVIRONMENTS {
            return OTHER;
        }
        if place == self.names.len() {
            self.names.push(None);
        }
        if known.is_none() {
            self.names[place] = Some(name.to_owned());
        }
        place as TypeId + 1
    }

    /// A type has one user less.
    pub(super) fn release(&mut self, id: TypeId) {
        let index = usize::from(id);
        self.users[index] -= 1;
        if self.users[index] == 0
            && let Some(name) = index.checked_sub(1).and_then(|place| self.names.get_mut(place))
        {
            *name = None;
        }
    }

    /// Whether any peer has, or is about to have, a slot for a type.
    fn is_expected(&self, id: TypeId) -> bool {
        self.expected[usize::from(id)] > 0
    }

    fn note_first(&mut self, task: TaskId) {
        if self.first != Some(task) {
            (self.first, self.passed) = (Some(task), 0);
        }
    }

    /// Tasks that may be given out before the one whose turn it is, and by which one owner may be ahead of another.
    fn most_passed(&self) -> u32 {
        self.slots.saturating_mul(PASSED_PER_SLOT).max(PASSED)
    }

    /// So many tasks of a type wait although slots are idle; until when they do. They go on waiting for warm slots if those
    /// take all of them in three times that time: before a new worker has started and done its part, little would be left to do.
    fn wait(&mut self, id: TypeId, tasks: usize, now: Tick) -> Tick {
        let waiting = &mut self.waiting[usize::from(id)];
        // It was not seen for longer than it would have waited: this is another time.
        let goes_on = waiting.filter(|waiting| now.since(waiting.seen) <= self.cold_after.saturating_mul(4));
        let Waiting { since, served, .. } = goes_on.unwrap_or(Waiting { since: now, seen: now, served: 0 });
        let due = since + self.cold_after;
        if due > now {
            *waiting = Some(Waiting { since, seen: now, served });
            return due;
        }
        *waiting = Some(Waiting { since: now, seen: now, served: 0 });
        if tasks <= 3 * served as usize { now + self.cold_after } else { due }
    }

    /// The ranking of a type in which a peer with this room stands, and where there.
    fn ranking(&mut self, id: TypeId, room: Room) -> Option<(&mut Ranking<Reverse<u32>>, Reverse<u32>)> {
        let index = usize::from(id);
        match (room.idle, room.prefetch) {
            (0, 0) => None,
            (0, ahead) => Some((&mut self.ahead[index], Reverse(ahead))),
            (idle, _) => Some((&mut self.best[index], Reverse(idle))),
        }
    }

    /// Files a peer where it belongs now.
    fn file(&mut self, peer: PeerId, types: &mut PeerTypes, capacity: Capacity, held: u32, ends_at: Tick) {
        let room = Room::left(capacity, held);
        let ended_at = std::mem::replace(&mut types.ends_at, ends_at);
        if !types.announced {
            // Its workers are all of one type.
            match types.types.iter_mut().find(|entry| entry.id == 0) {
                Some(entry) => entry.slots = capacity.slots,
                None => {
                    types.types.push(PeerType { slots: capacity.slots, ..PeerType::default() });
                    self.intern(None);
                }
            }
        }
        let mut taken = 0;
        for entry in &mut types.types {
            let index = usize::from(entry.id);
            let warm = entry.slots.min(capacity.slots);
            let ahead = u64::from(capacity.prefetch) * u64::from(warm);
            let ahead = ahead.div_ceil(u64::from(capacity.slots.max(1))) as u32;
            let new = match warm {
                0 => Room::default(),
                warm => {
                    let own = Room::left(Capacity { slots: warm, prefetch: ahead }, entry.held);
                    Room { idle: own.idle.min(room.idle), prefetch: own.prefetch.min(room.prefetch) }
                }
            };
            if (entry.room, ended_at) != (new, ends_at) {
                if let Some((ranking, rank)) = self.ranking(entry.id, entry.room) {
                    ranking.remove(rank, peer, ended_at);
                }
                if let Some((ranking, rank)) = self.ranking(entry.id, new) {
                    ranking.insert(rank, peer, ends_at);
                }
                entry.room = new;
            }
            let expected = warm.max(entry.held.min(capacity.slots));
            self.expected[index] = self.expected[index] - entry.expected + expected;
            entry.expected = expected;
            taken += expected;
        }
        types.types.retain(|entry| {
            let stays = entry.slots > 0 || entry.held > 0;
            if !stays {
                self.release(entry.id);
            }
            stays
        });
        let spare = capacity.slots.saturating_sub(taken).min(room.idle);
        if (types.spare, types.idle, ended_at) != (spare, room.idle, ends_at) {
            self.idle.remove((Reverse(types.spare), Reverse(types.idle)), peer, ended_at);
            if room.idle > 0 {
                self.idle.insert((Reverse(spare), Reverse(room.idle)), peer, ends_at);
            }
            (types.spare, types.idle) = (spare, room.idle);
        }
        self.slots = self.slots - types.slots + capacity.slots;
        types.slots = capacity.slots;
    }
}

impl PeerTypes {
    /// The entry of a type, made if it is missing.
    fn entry(&mut self, id: TypeId, lane: &mut WarmLane, name: Option<&str>) -> &mut PeerType {
        let place = self.types.iter().position(|entry| entry.id == id).unwrap_or_else(|| {
            // A peer uses a type for as long as it has slots or tasks of it.
            if id == OTHER {
                lane.users[usize::from(OTHER)] += 1;
            } else {
                lane.intern(name);
            }
            self.types.push(PeerType { id, ..PeerType::default() });
            self.types.len() - 1
        });
        &mut self.types[place]
    }
}

impl<P: PlacementPolicy + Default> Dispatcher<P> {
    /// Adds a lane that prefers peers that are warm for a task. A task that could have an idle slot of another type takes it
    /// when it has waited for `cold_after`, which should be about as long as a worker takes to start.
    pub fn open_warm_lane(&mut self, cold_after: Duration) -> LaneId {
        let lane = self.open_lane();
        self.lanes[lane.0 as usize].warm = Some(Box::new(WarmLane::new(cold_after)));
        lane
    }

    /// A peer has so many slots of each of these environments, `None` being the default one. What it does not name it has
    /// none of. Only lanes that prefer warm peers care.
    pub fn set_warm<'a>(&mut self, peer: PeerId, types: impl IntoIterator<Item = (Option<&'a str>, u32)>) {
        let Some(entry) = self.peers.get_mut(peer.0 as usize) else { return };
        let Some(warm) = &mut self.lanes[entry.lane.0 as usize].warm else { return };
        let mut known = entry.types.take().unwrap_or_default();
        known.announced = true;
        known.types.iter_mut().for_each(|entry| entry.slots = 0);
        for (name, slots) in types {
            let id = warm.intern(name);
            if id != OTHER {
                known.entry(id, warm, name).slots = slots;
            }
            warm.release(id);
        }
        entry.types = Some(known);
        let lane = entry.lane;
        if !std::mem::replace(&mut warm.is_on, true) {
            self.count_types(lane);
        }
        self.update_room(peer);
        self.mark(lane);
    }

    /// From now on types are told apart.
    fn count_types(&mut self, lane: LaneId) {
        let peers: Vec<PeerId> = self
            .peers
            .iter()
            .filter(|(_, peer)| peer.lane == lane)
            .map(|(key, _)| PeerId(key as u32))
            .collect();
        for peer in peers {
            let held: Vec<usize> = self.peers[peer.0 as usize].held.iter(&self.tasks).collect();
            held.into_iter().for_each(|key| self.count_type(key, peer, true));
            self.tell_room(peer);
        }
    }

    /// A peer has one task more or less of its type.
    pub(super) fn count_type(&mut self, key: usize, peer: PeerId, more: bool) {
        let entry = &self.tasks[key];
        let Some(warm) = self.lanes[entry.lane.0 as usize].warm.as_mut().filter(|warm| warm.is_on) else {
            return;
        };
        let types = self.peers[peer.0 as usize].types.get_or_insert_default();
        let held = &mut types.entry(entry.of, warm, entry.task.spec.shape.environment.as_deref()).held;
        let leased = &mut warm.leased[usize::from(entry.of)];
        let change = |count: u32| if more { count + 1 } else { count - 1 };
        (*held, *leased) = (change(*held), change(*leased));
    }

    /// Files a peer of a lane that tells types apart.
    pub(super) fn file_peer(&mut self, peer: PeerId) {
        let Peer { lane, capacity, held, types, ends_at, .. } = &mut self.peers[peer.0 as usize];
        let Some(warm) = self.lanes[lane.0 as usize].warm.as_mut().filter(|warm| warm.is_on) else { return };
        let held = u32::try_from(held.len()).unwrap_or(u32::MAX);
        warm.file(peer, types.get_or_insert_default(), *capacity, held, *ends_at);
    }

    /// A peer without tasks is about to be removed.
    pub(super) fn unfile_peer(&mut self, peer: PeerId) {
        let Peer { lane, types, ends_at, .. } = &mut self.peers[peer.0 as usize];
        let (Some(warm), Some(types)) = (&mut self.lanes[lane.0 as usize].warm, types) else { return };
        types.announced = true;
        types.types.iter_mut().for_each(|entry| (entry.slots, entry.held) = (0, 0));
        warm.file(peer, types, Capacity::default(), 0, *ends_at);
    }

    /// Which tasks of a lane that tells types apart go where next.
    pub(super) fn choose_typed(&mut self, lane: LaneId) -> Option<TypedChoice> {
        let mut heads = std::mem::take(&mut self.warm_mut(lane).heads);
        self.lanes[lane.0 as usize].queue.heads(&self.tasks, &mut heads);
        let choice = self.choose_among(lane, &heads);
        let warm = self.warm_mut(lane);
        warm.heads = heads;
        if let Some(choice) = choice
            && let Some(waiting) = &mut warm.waiting[usize::from(choice.of)]
        {
            waiting.served = waiting.served.saturating_add(choice.share);
        }
        choice
    }

    fn choose_among(&mut self, lane: LaneId, heads: &[Head]) -> Option<TypedChoice> {
        let (first, others) = heads.split_first()?;
        let id = self.tasks[first.key].task.id;
        self.warm_mut(lane).note_first(id);
        let warm = self.warm(lane);
        let has_its_turn = warm.passed >= warm.most_passed() || !warm.is_expected(first.of);
        self.warm_place(lane, first)
            .or_else(|| has_its_turn.then(|| self.any_place(lane, first)).flatten())
            .or_else(|| {
                let (head, choice) =
                    others.iter().find_map(|head| Some((head, self.warm_place(lane, head)?)))?;
                let lead = self.lanes[lane.0 as usize].queue.lead(&self.tasks, head.key, first.key);
                if lead >= u64::from(self.warm(lane).most_passed())
                    && let Some(choice) = self.any_place(lane, first)
                {
                    return Some(choice);
                }
                self.warm_mut(lane).passed += choice.share;
                Some(choice)
            })
            .or_else(|| heads.iter().find_map(|head| self.spare_place(lane, head)))
            .or_else(|| match self.waited_place(lane, heads) {
                Ok(choice) => Some(choice),
                // Better a slot soon than a place in the line of a busy one.
                Err(true) => None,
                Err(false) => heads
                    .iter()
                    .find_map(|head| self.place_ahead(lane, head))
                    .or_else(|| has_its_turn.then(|| self.last_place(lane, first)).flatten()),
            })
    }

    /// Idle slots that are warm for a task.
    fn warm_place(&self, lane: LaneId, head: &Head) -> Option<TypedChoice> {
        self.best_place(lane, head, &self.warm(lane).best[usize::from(head.of)])
    }

    /// Room to wait at a peer that is warm for a task.
    fn place_ahead(&self, lane: LaneId, head: &Head) -> Option<TypedChoice> {
        self.best_place(lane, head, &self.warm(lane).ahead[usize::from(head.of)])
    }

    /// The best of the peers that are warm for a task and that it can finish on.
    fn best_place(&self, lane: LaneId, head: &Head, ranking: &Ranking<Reverse<u32>>) -> Option<TypedChoice> {
        let (Reverse(places), peer) = ranking.find(|peer| self.can_finish(head.key, peer))?;
        let (warm, index) = (self.warm(lane), usize::from(head.of));
        let peers = warm.best[index].len() + warm.ahead[index].len();
        Some(TypedChoice { peer, of: head.of, share: places.min(self.part(lane, head.of, peers)) })
    }

    /// Slots that no type has, for a type that has fewer than its part.
    fn spare_place(&self, lane: LaneId, head: &Head) -> Option<TypedChoice> {
        let (state, warm) = (&self.lanes[lane.0 as usize], self.warm(lane));
        let index = usize::from(head.of);
        let own = state.queue.waiting(head.of) as u64 + u64::from(warm.leased[index]);
        let all = (state.queue.len() + state.leased).max(1) as u64;
        let part = (own * u64::from(warm.slots)).div_ceil(all).min(own);
        let lacks = u32::try_from(part).unwrap_or(u32::MAX).saturating_sub(warm.expected[index]);
        let (spare, _, peer) = self.idle_peer(lane, head).filter(|(spare, ..)| *spare > 0 && lacks > 0)?;
        Some(TypedChoice { peer, of: head.of, share: spare.min(lacks) })
    }

    /// Any idle slot.
    fn any_place(&self, lane: LaneId, head: &Head) -> Option<TypedChoice> {
        self.idle_peer(lane, head).map(|(.., peer)| TypedChoice { peer, of: head.of, share: 1 })
    }

    /// Idle slots of other types, for a type that has waited for them for long enough; else whether one does.
    fn waited_place(&mut self, lane: LaneId, heads: &[Head]) -> Result<TypedChoice, bool> {
        let (mut soonest, now) = (Tick::NEVER, self.now.tick);
        for head in heads {
            let Some((_, idle, peer)) = self.idle_peer(lane, head) else { continue };
            let tasks = self.lanes[lane.0 as usize].queue.waiting(head.of);
            let due = self.warm_mut(lane).wait(head.of, tasks, now);
            if due <= now {
                // One at a time, or in large lanes a hundredth of all slots.
                let share = idle.min((self.warm(lane).slots / 100).max(1));
                return Ok(TypedChoice { peer, of: head.of, share });
            }
            soonest = soonest.min(due);
        }
        let waits = soonest != Tick::NEVER;
        if waits && self.warm(lane).recheck.is_none_or(|known| known > soonest) {
            if let Some(later) = self.warm_mut(lane).recheck.replace(soonest) {
                self.rechecks.remove(&(later, lane));
            }
            self.rechecks.insert((soonest, lane));
        }
        Err(waits)
    }

    /// Lanes whose types have waited for long enough are looked at again.
    pub(super) fn recheck(&mut self) {
        while let Some(&(due, lane)) = self.rechecks.first()
            && due <= self.now.tick
        {
            self.rechecks.pop_first();
            self.warm_mut(lane).recheck = None;
            self.mark(lane);
        }
    }

    /// Any room at all, for a task that has no other place.
    fn last_place(&mut self, lane: LaneId, head: &Head) -> Option<TypedChoice> {
        self.choose_peer(lane, head.key).map(|peer| TypedChoice { peer, of: head.of, share: 1 })
    }

    /// The peer with most slots that no type has, of those with idle ones: how many of both, and which.
    fn idle_peer(&self, lane: LaneId, head: &Head) -> Option<(u32, u32, PeerId)> {
        let ((Reverse(spare), Reverse(idle)), peer) =
            self.warm(lane).idle.find(|peer| self.can_finish(head.key, peer))?;
        Some((spare, idle, peer))
    }

    /// Part of the waiting tasks of a type for each of so many peers.
    fn part(&self, lane: LaneId, of: TypeId, peers: usize) -> u32 {
        let waiting = self.lanes[lane.0 as usize].queue.waiting(of);
        u32::try_from(waiting.div_ceil(peers.max(1))).unwrap_or(u32::MAX).max(1)
    }

    fn warm(&self, lane: LaneId) -> &WarmLane {
        self.lanes[lane.0 as usize]
            .warm
            .as_deref()
            .expect("it is asked only about lanes that tell types apart")
    }

    fn warm_mut(&mut self, lane: LaneId) -> &mut WarmLane {
        self.lanes[lane.0 as usize]
            .warm
            .as_deref_mut()
            .expect("it is asked only about lanes that tell types apart")
    }
}

/// Whether what is counted of the types of a peer is what it holds. For [`Dispatcher::check`].
pub(super) fn counts_are_honest(peer: &Peer, tasks: &Slab<Entry>, warm: &WarmLane) -> bool {
    let Some(types) = peer.types.as_ref().filter(|_| warm.is_on) else { return true };
    types.types.iter().all(|entry| {
        let held = peer.held.iter(tasks).filter(|key| tasks[*key].of == entry.id).count();
        held == entry.held as usize
    }) && types.types.iter().map(|entry| entry.held as usize).sum::<usize>() == peer.held.len()
}
