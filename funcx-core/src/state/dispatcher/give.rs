//! Which tasks go to which peer next.

use std::collections::VecDeque;
use std::sync::Arc;

use super::warm::{TypeId, TypedChoice};
use super::{Dispatcher, DispatcherOutput, LaneId};
use crate::contract::{PeerId, PlacementPolicy, Room};
use crate::model::{Task, Tick, limit};
use crate::state::invariant::invariant;

/// Waiting tasks that are looked at for one that a peer can finish before it ends. Few, because this is done for every
/// batch as long as the task whose turn it is asks for more time than such a peer has.
const LOOK_AHEAD: usize = 64;

/// A peer, how many tasks it gets, and which; those whose turn it is if it can take them.
struct Choice {
    peer: PeerId,
    share: usize,
    /// In lanes that tell types apart: tasks of which type.
    of: Option<TypeId>,
    ahead: Option<VecDeque<usize>>,
}

impl<P: PlacementPolicy + Default> Dispatcher<P> {
    /// The next batch of one lane.
    pub(super) fn dispatch(&mut self, lane: LaneId) -> Option<DispatcherOutput> {
        let Choice { peer, share, of, mut ahead } = self.choose(lane)?;
        let limited = self.peers[peer.0 as usize].ends_at != Tick::NEVER;
        let mut tasks = Vec::with_capacity(share);
        let mut bytes = 0;
        while tasks.len() < share && bytes < limit::TARGET_BATCH_BYTES {
            let next = match &mut ahead {
                None if !limited && of.is_none() => self.lanes[lane.0 as usize].queue.pop(&mut self.tasks),
                Some(ahead) => self.take(lane, ahead.pop_front()),
                None => {
                    let queue = &self.lanes[lane.0 as usize].queue;
                    let next = of.map_or_else(|| queue.first(&self.tasks), |of| queue.next_of(of));
                    self.take(lane, next.filter(|next| self.can_finish(*next, peer)))
                }
            };
            let Some(key) = next else { break };
            self.lease(key, peer);
            let task = &mut self.tasks[key].task;
            task.stamps.set(self.sent, self.now.wall);
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

    /// Takes a task out of the queue of its lane.
    fn take(&mut self, lane: LaneId, task: Option<usize>) -> Option<usize> {
        task.inspect(|key| self.lanes[lane.0 as usize].queue.take(&mut self.tasks, *key))
    }

    /// The peer of the policy's choice for one task, if it can finish there.
    pub(super) fn choose_peer(&mut self, lane: LaneId, task: usize) -> Option<PeerId> {
        let mut passed_over = Vec::new();
        let choice = loop {
            let policy = &mut self.lanes[lane.0 as usize].policy;
            let Some((peer, _)) = policy.choose(&self.tasks[task].task, 1) else { break None };
            if self.can_finish(task, peer) {
                break Some(peer);
            }
            self.lanes[lane.0 as usize].policy.room_changed(peer, Room::default());
            passed_over.push(peer);
        };
        for peer in passed_over {
            self.tell_room(peer);
        }
        choice
    }

    /// A peer that can take the task whose turn it is. A peer that ends too soon for it gets shorter tasks instead, if
    /// some are near the front.
    fn choose(&mut self, lane: LaneId) -> Option<Choice> {
        if self.lanes[lane.0 as usize].warm.as_ref().is_some_and(|warm| warm.is_on) {
            let TypedChoice { peer, of, share } = self.choose_typed(lane)?;
            invariant!(
                Credits,
                share > 0 && self.peers.contains(peer.0 as usize),
                "{share} tasks for {peer:?}"
            );
            let share = (share as usize).min(limit::MAX_BATCH_TASKS);
            return Some(Choice { peer, share, of: Some(of), ahead: None });
        }
        let mut passed_over = Vec::new();
        let choice = loop {
            let state = &mut self.lanes[lane.0 as usize];
            let Some(first) = state.queue.first(&self.tasks) else { break None };
            let Some((peer, share)) = state.policy.choose(&self.tasks[first].task, state.queue.len()) else {
                break None;
            };
            invariant!(
                Credits,
                share > 0 && self.peers.contains(peer.0 as usize),
                "{share} tasks for {peer:?}"
            );
            let share = (share as usize).min(limit::MAX_BATCH_TASKS).min(state.queue.len());
            if self.can_finish(first, peer) {
                break Some(Choice { peer, share, of: None, ahead: None });
            }
            let queue = &self.lanes[lane.0 as usize].queue;
            let near = queue.iter(&self.tasks).take(LOOK_AHEAD);
            let ahead: VecDeque<_> = near.filter(|key| self.can_finish(*key, peer)).take(share).collect();
            if !ahead.is_empty() {
                break Some(Choice { peer, share, of: None, ahead: Some(ahead) });
            }
            self.lanes[lane.0 as usize].policy.room_changed(peer, Room::default());
            passed_over.push(peer);
        };
        for peer in passed_over {
            self.tell_room(peer);
        }
        choice
    }

    /// Whether a task that begins now ends before the peer does, if it keeps to its walltime. (Invariant 7 of the fabric:
    /// nothing runs that cannot finish.)
    pub(super) fn can_finish(&self, task: usize, peer: PeerId) -> bool {
        let ends_at = self.peers[peer.0 as usize].ends_at;
        ends_at == Tick::NEVER
            || self.tasks[task].task.walltime().is_none_or(|walltime| self.now.tick + walltime <= ends_at)
    }

    /// Tells the policy what a peer can take.
    pub(super) fn tell_room(&mut self, peer: PeerId) -> Room {
        let entry = &self.peers[peer.0 as usize];
        let room = Room::left(entry.capacity, u32::try_from(entry.held.len()).unwrap_or(u32::MAX));
        self.lanes[entry.lane.0 as usize].policy.room_changed(peer, room);
        self.file_peer(peer);
        room
    }

    pub(super) fn update_room(&mut self, peer: PeerId) {
        if !self.tell_room(peer).is_none() {
            self.mark(self.peers[peer.0 as usize].lane);
        }
    }

    /// A lane may have something to dispatch.
    pub(super) fn mark(&mut self, lane: LaneId) {
        let state = &mut self.lanes[lane.0 as usize];
        if !state.dirty {
            state.dirty = true;
            self.dirty.push_back(lane);
        }
    }
}
