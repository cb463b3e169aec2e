//! The placement suite on the default policy, and on policies that break one promise each.

use std::collections::BTreeMap;

use funcx_core::conformance::placement::{idle_before_prefetch, suite};
use funcx_core::contract::{AnyPeer, IdleFirst, PeerId, PlacementPolicy, Room};
use funcx_core::model::Task;

#[test]
fn idle_first_keeps_the_contract() {
    suite(IdleFirst::default);
    suite(AnyPeer::default);
}

#[test]
fn idle_first_fills_idle_slots_before_prefetch() {
    idle_before_prefetch(IdleFirst::default);
}

type Choice = Option<(PeerId, u32)>;

/// The default policy with its choice, or what it is told, changed.
struct Broken {
    policy: IdleFirst,
    room: fn(Room) -> Room,
    choice: fn(Choice) -> Choice,
    forgets_removed: bool,
}

impl Default for Broken {
    fn default() -> Self {
        Self {
            policy: IdleFirst::default(),
            room: |room| room,
            choice: |choice| choice,
            forgets_removed: true,
        }
    }
}

impl PlacementPolicy for Broken {
    fn room_changed(&mut self, peer: PeerId, room: Room) {
        self.policy.room_changed(peer, (self.room)(room));
    }

    fn removed(&mut self, peer: PeerId) {
        if self.forgets_removed {
            self.policy.removed(peer);
        }
    }

    fn choose(&mut self, next: &Task, queued: usize) -> Option<(PeerId, u32)> {
        (self.choice)(self.policy.choose(next, queued))
    }
}

#[test]
#[should_panic(expected = "a share fits")]
fn a_share_that_does_not_fit_is_found() {
    suite(|| Broken { choice: |choice| choice.map(|(peer, share)| (peer, share + 9)), ..Broken::default() });
}

#[test]
#[should_panic(expected = "a peer that is gone is not chosen")]
fn a_choice_of_a_peer_that_is_gone_is_found() {
    suite(|| Broken { forgets_removed: false, ..Broken::default() });
}

#[test]
#[should_panic(expected = "no task waits while there is room")]
fn a_policy_that_leaves_prefetch_empty_is_found() {
    suite(|| Broken { room: |room| Room { prefetch: 0, ..room }, ..Broken::default() });
}

#[test]
#[should_panic(expected = "every peer gets work")]
fn a_policy_with_a_favourite_is_found() {
    suite(LowestFirst::default);
}

/// The first peer gets whatever fits.
#[derive(Default)]
struct LowestFirst(BTreeMap<PeerId, Room>);

impl PlacementPolicy for LowestFirst {
    fn room_changed(&mut self, peer: PeerId, room: Room) {
        self.0.insert(peer, room);
    }

    fn removed(&mut self, peer: PeerId) {
        self.0.remove(&peer);
    }

    fn choose(&mut self, _next: &Task, _queued: usize) -> Option<(PeerId, u32)> {
        self.0.iter().find(|(_, room)| !room.is_none()).map(|(peer, room)| (*peer, room.idle + room.prefetch))
    }
}

#[test]
#[should_panic(expected = "idle slots come before prefetch")]
fn a_policy_that_prefers_prefetch_is_found() {
    let exchanged = |room: Room| Room { idle: room.prefetch, prefetch: room.idle };
    idle_before_prefetch(|| Broken { room: exchanged, ..Broken::default() });
}
