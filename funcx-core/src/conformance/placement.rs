//! Suite for the [`PlacementPolicy`] contract.
//!
//! Each check drives a policy as a dispatcher does, over seeded sequences of peers that come, fill up, empty and go.
//! The same policy sees the same sequence in every run.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::contract::{Capacity, PeerId, PlacementPolicy, Room};
use crate::model::{Function, IdentityId, Task, TaskId, TaskSpec};

/// Sequences that each check goes through.
const SEEDS: u64 = 64;

/// Moves in one sequence.
const MOVES: usize = 400;

/// Checks every promise of the contract with policies that `make` makes, and panics with the name of the first one that
/// is broken.
///
/// The tasks ask for the default shape, which every peer can run.
pub fn suite<P: PlacementPolicy>(make: impl Fn() -> P) {
    no_peers_no_choice(make());
    for seed in 1..=SEEDS {
        choices_fit(make(), seed);
    }
    everybody_gets_work(make());
    numbers_are_used_again(make());
}

/// For policies that promise it, such as [`IdleFirst`](crate::contract::IdleFirst): no task waits in the prefetch of one
/// peer while a slot of another peer is idle.
pub fn idle_before_prefetch<P: PlacementPolicy>(make: impl Fn() -> P) {
    for seed in 1..=SEEDS {
        let mut site = Site::new(make(), seed);
        for _ in 0..MOVES {
            site.change();
            let idle_somewhere = site.peers.keys().any(|peer| site.room(*peer).idle > 0);
            let queued = site.below(200) + 1;
            if let Some((peer, share)) = site.choose(queued)
                && idle_somewhere
            {
                let room = site.room(peer);
                assert!(
                    share <= room.idle,
                    "idle slots come before prefetch: {share} tasks for {room:?}, seed {seed}"
                );
                site.give(peer, share.min(queued));
            }
        }
    }
}

fn no_peers_no_choice(mut policy: impl PlacementPolicy) {
    assert_eq!(policy.choose(&task(), 1), None, "without peers there is no choice");
    policy.room_changed(PeerId(0), Room::default());
    assert_eq!(policy.choose(&task(), 1), None, "a peer without room is not chosen");
    policy.room_changed(PeerId(0), Room { idle: 1, prefetch: 0 });
    policy.removed(PeerId(0));
    assert_eq!(policy.choose(&task(), 1), None, "a peer that is gone is not chosen");
}

/// Whatever happens: a choice is a peer that is there and has the room, and there is one as long as anybody has room.
fn choices_fit(policy: impl PlacementPolicy, seed: u64) {
    let mut site = Site::new(policy, seed);
    for _ in 0..MOVES {
        site.change();
        let queued = site.below(300) + 1;
        match site.choose(queued) {
            Some((peer, share)) => {
                assert!(
                    site.peers.contains_key(&peer),
                    "only peers that are there are chosen: {peer:?}, seed {seed}"
                );
                let room = site.room(peer);
                assert!(share >= 1, "a share holds a task, seed {seed}");
                assert!(
                    share <= room.idle + room.prefetch,
                    "a share fits: {share} tasks for {room:?}, seed {seed}"
                );
                site.give(peer, share.min(queued));
            }
            None => {
                let rooms: Vec<_> = site.peers.keys().map(|peer| site.room(*peer)).collect();
                assert!(
                    rooms.iter().all(|room| room.is_none()),
                    "no task waits while there is room: {rooms:?}, seed {seed}"
                );
            }
        }
    }
    site.fill(seed);
}

/// Equal peers, tasks that come and end one at a time: nobody gets more than twice, nor less than half of their part.
fn everybody_gets_work(policy: impl PlacementPolicy) {
    const PEERS: u32 = 8;
    const TASKS: u32 = 4000;
    let mut site = Site::new(policy, 1);
    for _ in 0..PEERS {
        site.add(Capacity { slots: 4, prefetch: 4 });
    }
    let mut given: BTreeMap<PeerId, u32> = BTreeMap::new();
    for _ in 0..TASKS {
        let (peer, _) = site.choose(1).expect("there is room");
        *given.entry(peer).or_default() += 1;
        site.give(peer, 1);
        site.end(peer, 1);
    }
    let part = TASKS / PEERS;
    assert_eq!(given.len(), PEERS as usize, "every peer gets work: {given:?}");
    assert!(given.values().all(|tasks| (part / 2..=part * 2).contains(tasks)), "work is spread: {given:?}");
}

/// A number that is used again is another peer: nothing of the old one is left.
fn numbers_are_used_again(mut policy: impl PlacementPolicy) {
    policy.room_changed(PeerId(3), Room { idle: 10, prefetch: 10 });
    policy.removed(PeerId(3));
    policy.room_changed(PeerId(3), Room { idle: 0, prefetch: 1 });
    assert_eq!(
        policy.choose(&task(), 20),
        Some((PeerId(3), 1)),
        "a number that is used again is another peer"
    );
    policy.room_changed(PeerId(3), Room::default());
    assert_eq!(policy.choose(&task(), 20), None, "a peer without room is not chosen");
}

/// Peers as a dispatcher knows them, and the policy that it asks.
struct Site<P> {
    policy: P,
    peers: BTreeMap<PeerId, Peer>,
    random: u64,
}

#[derive(Debug, Default)]
struct Peer {
    capacity: Capacity,
    held: u32,
}

impl<P: PlacementPolicy> Site<P> {
    fn new(policy: P, seed: u64) -> Self {
        Self { policy, peers: BTreeMap::new(), random: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) }
    }

    /// A number below `bound` (xorshift64, so that a seed names the whole sequence).
    fn below(&mut self, bound: u32) -> u32 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 32) as u32 % bound
    }

    fn any_peer(&mut self) -> Option<PeerId> {
        let count = u32::try_from(self.peers.len()).expect("a few peers").max(1);
        let index = self.below(count) as usize;
        self.peers.keys().nth(index).copied()
    }

    fn room(&self, peer: PeerId) -> Room {
        let Peer { capacity, held } = self.peers[&peer];
        Room::left(capacity, held)
    }

    fn add(&mut self, capacity: Capacity) {
        let free = (0..).map(PeerId).find(|id| !self.peers.contains_key(id)).expect("a few peers");
        self.peers.insert(free, Peer { capacity, held: 0 });
        self.tell(free);
    }

    fn tell(&mut self, peer: PeerId) {
        self.policy.room_changed(peer, self.room(peer));
    }

    fn choose(&mut self, queued: u32) -> Option<(PeerId, u32)> {
        self.policy.choose(&task(), queued as usize)
    }

    fn give(&mut self, peer: PeerId, tasks: u32) {
        self.peers.get_mut(&peer).expect("it was chosen").held += tasks;
        self.tell(peer);
    }

    fn end(&mut self, peer: PeerId, tasks: u32) {
        let entry = self.peers.get_mut(&peer).expect("it is there");
        entry.held -= tasks.min(entry.held);
        self.tell(peer);
    }

    /// One thing that happens at a site.
    fn change(&mut self) {
        let (slots, prefetch) = (self.below(9), self.below(9));
        let capacity = Capacity { slots, prefetch };
        let Some(peer) = self.any_peer() else { return self.add(capacity) };
        match self.below(10) {
            0 | 1 if self.peers.len() < 24 => self.add(capacity),
            2 => {
                self.peers.remove(&peer);
                self.policy.removed(peer);
            }
            3 => {
                // It may hold more than its new capacity for a while.
                self.peers.get_mut(&peer).expect("it is there").capacity = capacity;
                self.tell(peer);
            }
            4 => self.tell(peer),
            _ => self.end(peer, slots),
        }
    }

    /// A long queue fills every peer, in no more choices than there are places.
    fn fill(&mut self, seed: u64) {
        let places: u32 =
            self.peers.keys().map(|peer| self.room(*peer)).map(|room| room.idle + room.prefetch).sum();
        for _ in 0..places {
            let Some((peer, share)) = self.choose(10_000) else { break };
            let room = self.room(peer);
            assert!(
                (1..=room.idle + room.prefetch).contains(&share),
                "a share fits: {share} tasks for {room:?}, seed {seed}"
            );
            self.give(peer, share);
        }
        assert!(
            self.peers.keys().all(|peer| self.room(*peer).is_none()),
            "a long queue fills every peer, seed {seed}"
        );
        assert_eq!(self.choose(10_000), None, "nobody has room any more, seed {seed}");
    }
}

fn task() -> Task {
    let spec = TaskSpec::new(Arc::new(Function::native("f")), IdentityId::from_u128(1));
    Task::new(TaskId::from_u128(1), Arc::new(spec), "")
}
