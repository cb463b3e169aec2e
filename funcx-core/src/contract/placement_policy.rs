//! Which peer gets the next tasks.

use std::collections::VecDeque;

use super::Capacity;
use crate::model::Task;

/// A peer of a dispatcher: a downstream node or a local executor. Small and reused, so never stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerId(pub u32);

/// What a peer can take now. Ordered by idle slots first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Room {
    /// Slots without work.
    pub idle: u32,
    /// Places for tasks that wait close to the slots.
    pub prefetch: u32,
}

impl Room {
    /// The room left in `capacity` when `held` attempts are there.
    pub const fn left(capacity: Capacity, held: u32) -> Self {
        let idle = capacity.slots.saturating_sub(held);
        let waiting = held.saturating_sub(capacity.slots);
        Self { idle, prefetch: capacity.prefetch.saturating_sub(waiting) }
    }

    /// Whether nothing fits.
    pub const fn is_none(self) -> bool {
        self.idle == 0 && self.prefetch == 0
    }
}

/// Chooses, among the peers of one lane of a dispatcher, the one that gets the next tasks.
///
/// Called by the dispatcher for every batch; no I/O, no clock, and it must not look at every peer: a lane may have
/// a hundred thousand.
///
/// A lane whose peers tell types of workers apart (`Dispatcher::open_warm_lane`) asks its policy only for tasks that no peer is
/// warm for and no slot is idle for.
///
/// **Order of calls.** [`room_changed`](Self::room_changed) whenever a peer's room changes (also to none),
/// [`removed`](Self::removed) once when it leaves; between them [`choose`](Self::choose).
///
/// **Suite.** `funcx_core::conformance::placement`.
pub trait PlacementPolicy: Send + 'static {
    /// A peer has this room now.
    fn room_changed(&mut self, peer: PeerId, room: Room);

    /// A peer is gone.
    fn removed(&mut self, peer: PeerId);

    /// The peer for `next`, the first of `queued` waiting tasks, and how many tasks it should take at most
    /// (at least 1, never more than its room); `None` if no peer can take `next`.
    fn choose(&mut self, next: &Task, queued: usize) -> Option<(PeerId, u32)>;
}

/// The default policy: idle slots before prefetch, peers in turn, a long queue in large shares.
///
/// A share is the queue divided by the peers that are in line, so that a short queue spreads over all and a long
/// one goes out in few batches: one for each peer. Every call takes constant time.
#[derive(Debug, Default)]
pub struct IdleFirst {
    peers: Vec<Entry>,
    idle: Line,
    prefetch: Line,
}

#[derive(Debug, Default, Clone, Copy)]
struct Entry {
    room: Room,
    in_idle: bool,
    in_prefetch: bool,
}

/// Peers in turn. Entries go stale when a peer's room changes and are dropped when they reach the front.
///
/// A round gives each of them the same share of one queue. Were the share of each taken from what the ones before have left,
/// the last would get next to nothing, and the queue would go out in several times as many batches.
#[derive(Debug, Default)]
struct Line {
    turns: VecDeque<PeerId>,
    /// What each peer gets in this round.
    share: u32,
    /// Peers that have not had their share.
    left: usize,
    /// The queue as the last choice leaves it. If it has another length, tasks have come or gone: a new round begins.
    rest: usize,
}

impl Line {
    /// What a peer with so much room, which is at the end of the line again, gets of the queue.
    fn share(&mut self, queued: usize, room: u32) -> u32 {
        if self.left == 0 || queued != self.rest {
            self.left = self.turns.len().max(1);
            self.share = u32::try_from(queued.div_ceil(self.left)).unwrap_or(u32::MAX).max(1);
        }
        let share = self.share.min(room);
        self.left -= 1;
        self.rest = queued.saturating_sub(share as usize);
        share
    }
}

impl PlacementPolicy for IdleFirst {
    fn room_changed(&mut self, peer: PeerId, room: Room) {
        let index = peer.0 as usize;
        if index >= self.peers.len() {
            self.peers.resize(index + 1, Entry::default());
        }
        let entry = &mut self.peers[index];
        entry.room = room;
        if room.idle > 0 && !entry.in_idle {
            entry.in_idle = true;
            self.idle.turns.push_back(peer);
        }
        if room.prefetch > 0 && !entry.in_prefetch {
            entry.in_prefetch = true;
            self.prefetch.turns.push_back(peer);
        }
    }

    fn removed(&mut self, peer: PeerId) {
        if let Some(entry) = self.peers.get_mut(peer.0 as usize) {
            entry.room = Room::default();
        }
    }

    fn choose(&mut self, _next: &Task, queued: usize) -> Option<(PeerId, u32)> {
        while let Some(peer) = self.idle.turns.pop_front() {
            let entry = &mut self.peers[peer.0 as usize];
            if entry.room.idle > 0 {
                // It goes to the end of the line; if this batch fills it, it is dropped there in its turn.
                self.idle.turns.push_back(peer);
                return Some((peer, self.idle.share(queued, entry.room.idle)));
            }
            entry.in_idle = false;
        }
        while let Some(peer) = self.prefetch.turns.pop_front() {
            let entry = &mut self.peers[peer.0 as usize];
            if entry.room.prefetch > 0 {
                self.prefetch.turns.push_back(peer);
                return Some((peer, self.prefetch.share(queued, entry.room.prefetch)));
            }
            entry.in_prefetch = false;
        }
        None
    }
}
