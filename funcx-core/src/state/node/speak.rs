//! What a node says: moves what its dispatcher and its sessions have to say to its outputs.

use super::record::{Halt, Withheld, lost_outcome};
use super::{DeliveryId, Node, NodeOutput, Peer, Timer};
use crate::contract::{Capacity, PeerId, PlacementPolicy};
use crate::model::{AttemptId, Failure, Outcome, Task, limit};
use crate::state::dispatcher::DispatcherOutput;
use crate::state::{LaneId, LinkId};

impl<P: PlacementPolicy + Default> Node<P> {
    /// Moves what the dispatcher and the sessions have to say to the outputs.
    pub(super) fn pump(&mut self) {
        if self.draining {
            self.hand_back();
        }
        self.pump_dispatcher();
        self.pump_sharing();
        self.advertise();
        if let Some(uplink) = &mut self.uplink {
            while let Some(message) = uplink.poll_message() {
                self.outputs.push_back(NodeOutput::SendUp(message));
            }
            if self.draining && !self.left && uplink.held() == 0 && uplink.is_open() {
                self.left = true;
                uplink.goodbye();
                while let Some(message) = uplink.poll_message() {
                    self.outputs.push_back(NodeOutput::SendUp(message));
                }
                self.outputs.push_back(NodeOutput::Drained);
            }
        }
    }

    pub(super) fn pump_dispatcher(&mut self) {
        while let Some(output) = self.dispatcher.poll_output() {
            match output {
                DispatcherOutput::Deliver(outcomes) => self.deliver(outcomes),
                DispatcherOutput::Lost(events) => self.tell(events),
                DispatcherOutput::Dispatch { peer, tasks } => match self.recorder {
                    Some(_) => self.record_leases(peer, tasks),
                    None => self.give(peer, tasks),
                },
                DispatcherOutput::Cancel { peer, attempts } => match &mut self.recorder {
                    // A request to stop must not overtake the attempts that it means.
                    Some(recorder) if recorder.withholds_for(peer) => {
                        recorder.withhold(Withheld::Stop(peer, attempts, Halt::Cancel));
                    }
                    _ => self.ask_to_stop(peer, &attempts, Halt::Cancel),
                },
                DispatcherOutput::Abandon { peer, attempts } => match &mut self.recorder {
                    Some(recorder) if recorder.withholds_for(peer) => {
                        recorder.withhold(Withheld::Stop(peer, attempts, Halt::Abandon));
                    }
                    _ => self.ask_to_stop(peer, &attempts, Halt::Abandon),
                },
            }
        }
    }

    pub(super) fn give(&mut self, peer: PeerId, tasks: Vec<Task>) {
        match self.peers.get(&peer) {
            Some(Peer::Remote { link: Some(link), .. }) => {
                let link = *link;
                let now = self.dispatcher.now().tick;
                if let Some(entry) = self.links.get_mut(&link) {
                    entry.session.send_tasks(tasks, now);
                }
                self.flush(link);
            }
            // Without a connection a peer has no capacity, so nothing is dispatched to it.
            Some(Peer::Remote { link: None, .. }) | None => {}
            Some(Peer::Executor { .. }) => self.outputs.push_back(NodeOutput::Run(peer, tasks)),
        }
    }

    pub(super) fn ask_to_stop(&mut self, peer: PeerId, attempts: &[AttemptId], how: Halt) {
        match self.peers.get(&peer) {
            Some(Peer::Remote { link: Some(link), .. }) => {
                let link = *link;
                if let Some(entry) = self.links.get_mut(&link) {
                    match how {
                        Halt::Cancel => entry.session.send_cancel(attempts),
                        Halt::Abandon => entry.session.send_abandon(attempts),
                    }
                }
                self.flush(link);
            }
            // It is asked when it comes back: the dispatcher remembers.
            Some(Peer::Remote { link: None, .. }) | None => {}
            Some(Peer::Executor { .. }) => self.outputs.push_back(NodeOutput::Stop(peer, attempts.to_vec())),
        }
    }

    pub(super) fn deliver(&mut self, outcomes: Vec<Outcome>) {
        let source = self.arrived.take();
        match &mut self.uplink {
            Some(uplink) => {
                let first = (!outcomes.is_empty()).then(|| uplink.finish(outcomes));
                match self.recorder {
                    Some(_) => self.record_outcomes(first, source),
                    None => {
                        if let Some((peer, sequence)) = source {
                            self.acknowledge(peer, sequence);
                        }
                    }
                }
            }
            None => {
                let delivery = DeliveryId(self.next_delivery);
                self.next_delivery += 1;
                self.uncommitted.push_back((delivery, source));
                self.outputs.push_back(NodeOutput::Deliver(delivery, outcomes));
            }
        }
    }

    /// Everything that waits here goes back to the node above.
    pub(super) fn hand_back(&mut self) {
        let Some(uplink) = &self.uplink else { return };
        // Attempts before one that was made here have begun. What is given back is said once and may not arrive; then the
        // node above would count them again, so that one goes back as an outcome, which arrives.
        let is_ours =
            |attempt: &AttemptId| uplink.given(attempt.task).is_some_and(|given| given < attempt.number);
        let (ours, given): (Vec<_>, Vec<_>) = self.dispatcher.hand_back().into_iter().partition(is_ours);
        self.give_back(&given);
        if !ours.is_empty() {
            let failure = Failure::new(Failure::LEASE_LOST, "the node left before it began");
            self.deliver(ours.into_iter().map(|attempt| lost_outcome(attempt, &failure)).collect());
        }
    }

    /// Attempts go back to the node above as they were.
    pub(super) fn give_back(&mut self, attempts: &[AttemptId]) {
        if attempts.is_empty() {
            return;
        }
        self.record_returned(attempts);
        if let Some(uplink) = &mut self.uplink {
            uplink.give_back(attempts);
        }
    }

    pub(super) fn acknowledge(&mut self, peer: PeerId, sequence: u64) {
        if let Some(Peer::Remote { link: Some(link), .. }) = self.peers.get(&peer) {
            let link = *link;
            if let Some(entry) = self.links.get_mut(&link) {
                entry.session.acknowledge(sequence);
            }
            self.flush(link);
        }
    }

    pub(super) fn flush(&mut self, link: LinkId) {
        if let Some(entry) = self.links.get_mut(&link) {
            while let Some(message) = entry.session.poll_message() {
                self.outputs.push_back(NodeOutput::Send(link, message));
            }
        }
    }

    /// Sets the timer of a link, unless an earlier one is set that will set it anew.
    pub(super) fn arm(&mut self, link: LinkId) {
        let Some(entry) = self.links.get_mut(&link) else { return };
        let Some((deadline, _)) = entry.session.poll_timeout() else { return };
        if entry.armed.is_none_or(|armed| armed > deadline) {
            if let Some(armed) = entry.armed.replace(deadline) {
                self.timers.remove(&(armed, Timer::Link(link)));
            }
            self.timers.insert((deadline, Timer::Link(link)));
        }
    }

    pub(super) fn peer_of(&self, link: LinkId) -> Option<PeerId> {
        self.links.get(&link)?.peer
    }

    pub(super) fn capacity_changed(&mut self, old: Capacity, new: Capacity) {
        self.total_slots = self.total_slots + u64::from(new.slots) - u64::from(old.slots);
        self.total_prefetch = self.total_prefetch + u64::from(new.prefetch) - u64::from(old.prefetch);
    }

    /// Tasks that may wait below besides those that run.
    fn prefetch(&self) -> u64 {
        match self.config.prefetch {
            // Where nothing runs, nothing waits for its turn.
            Some(fixed) if self.all_slots() + self.total_prefetch > 0 => fixed.into(),
            _ => self.total_prefetch,
        }
    }

    /// Tells the node above how much fits. When arguments fill three quarters of a lane's bytes it takes no more until
    /// they fill less than half.
    pub(super) fn advertise(&mut self) {
        let waiting = self.prefetch() + u64::from(self.config.queue_tasks);
        let slots = self.all_slots();
        let Some(uplink) = &mut self.uplink else { return };
        let fullest = (0..self.dispatcher.lanes())
            .map(|lane| self.dispatcher.load(LaneId(lane)).bytes)
            .max()
            .unwrap_or(0);
        let bound = self.config.limits.lane_bytes;
        self.full = fullest > if self.full { bound / 2 } else { bound / 4 * 3 };
        uplink.set_capacity(match self.full || self.draining {
            true => Capacity::default(),
            false => Capacity { slots: bounded(slots), prefetch: bounded(waiting) },
        });
    }
}

/// What one node may say of its capacity, however much there is below it.
fn bounded(tasks: u64) -> u32 {
    u32::try_from(tasks).unwrap_or(u32::MAX).min(limit::MAX_PEER_CREDITS)
}
