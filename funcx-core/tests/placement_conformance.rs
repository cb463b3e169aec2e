//! The placement suite on the default policy, and on policies that break one promise each.

use std::collections::BTreeMap;
use std::sync::Arc;

use funcx_core::conformance::placement::{idle_before_prefetch, suite};
use funcx_core::contract::{AnyPeer, IdleFirst, PeerId, PlacementPolicy, Room};
use funcx_core::model::{Function, IdentityId, Task, TaskId, TaskSpec};

#[test]
fn idle_first_keeps_the_contract() {
    suite(IdleFirst::default);
    suite(AnyPeer::default);
}

#[test]
fn idle_first_fills_idle_slots_before_prefetch() {
    idle_before_prefetch(IdleFirst::default);
}

/// The batches in which a queue goes out to peers with so many idle slots.
fn batches(policy: &mut IdleFirst, idle: &mut [u32], mut queued: u32) -> Vec<u32> {
    let spec = TaskSpec::new(Arc::new(Function::native("f")), IdentityId::from_u128(1));
    let task = Task::new(TaskId::from_u128(1), Arc::new(spec), "");
    let mut batches = Vec::new();
    while queued > 0
        && let Some((peer, share)) = policy.choose(&task, queued as usize)
    {
        let share = share.min(queued);
        let slots = &mut idle[peer.0 as usize];
        *slots -= share;
        policy.room_changed(peer, Room { idle: *slots, prefetch: 0 });
        queued -= share;
        batches.push(share);
    }
    batches
}

#[test]
fn idle_first_gives_a_queue_out_in_one_batch_for_each_peer() {
    let (mut policy, mut idle) = (IdleFirst::default(), [64; 100]);
    for (peer, slots) in (0..).map(PeerId).zip(idle) {
        policy.room_changed(peer, Room { idle: slots, prefetch: 0 });
    }
    assert_eq!(batches(&mut policy, &mut idle, 1000), [10; 100]);
    assert_eq!(idle, [54; 100], "it is spread evenly");
    assert_eq!(
        batches(&mut policy, &mut idle, 30),
        [1; 30],
        "a short queue is spread although the shares were large"
    );
    assert_eq!(batches(&mut policy, &mut idle, 5370).len(), 100, "the slots that are left are filled");
    assert_eq!(idle, [0; 100]);
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
