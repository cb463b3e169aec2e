//! What a node does about what it is told: by links, by executors, by the node above.

use std::sync::Arc;

use super::sharing::{Environments, Route};
use super::{Applicant, End, Node, NodeOutput, Peer, PeerInfo, Session, Timer, conflict};
use crate::contract::{Capacity, PeerId, PlacementPolicy};
use crate::message::Report;
use crate::model::{
    AttemptId, Failure, Now, Outcome, OutcomeKind, Task, TaskEvent, TaskEventKind, TaskSpec, Tick, limit,
};
use crate::state::downlink::DownlinkEvent;
use crate::state::uplink::{Uplink, UplinkEvent};
use crate::state::{LaneId, LinkId};

impl<P: PlacementPolicy + Default> Node<P> {
    pub(super) fn pump_link(&mut self, link: LinkId, now: Now) {
        while let Some(event) = self.links.get_mut(&link).and_then(|entry| entry.session.poll_event()) {
            match event {
                DownlinkEvent::Hello(hello) => {
                    if let Some(entry) = self.links.get_mut(&link) {
                        let ends_at = hello.ends_in.map_or(Tick::NEVER, |left| now.tick + left);
                        entry.pending = Some(Applicant { hello: hello.clone(), lane: LaneId(0), ends_at });
                    }
                    self.outputs.push_back(NodeOutput::Authorize(link, hello));
                }
                DownlinkEvent::Opened { held, capacity } => self.attach(link, &held, capacity, now),
                DownlinkEvent::Capacity(capacity) => self.set_capacity(link, capacity),
                DownlinkEvent::Warm(warm) => self.set_warm(link, warm),
                DownlinkEvent::Outcomes(batch) => {
                    if let Some(peer) = self.peer_of(link) {
                        let sequence = batch.sequence;
                        self.outcomes(peer, batch.into_outcomes(), Some(sequence), now);
                    }
                }
                DownlinkEvent::Events(events) => {
                    if let Some(peer) = self.peer_of(link) {
                        self.events(peer, events);
                    }
                }
                DownlinkEvent::GaveBack(attempts) => {
                    if let Some(peer) = self.peer_of(link) {
                        self.dispatcher.handle_given_back(peer, &attempts, now);
                    }
                }
                DownlinkEvent::Report(report) => {
                    if let Some(Peer::Remote { info, .. }) =
                        self.peer_of(link).and_then(|peer| self.peers.get_mut(&peer))
                    {
                        info.report = report;
                    }
                }
                DownlinkEvent::Goodbye => {
                    if let Some(peer) = self.peer_of(link) {
                        self.lose(peer, End::Dead, "it left", now);
                    }
                    self.outputs.push_back(NodeOutput::Close(link, "it left".to_owned()));
                }
                DownlinkEvent::Failed(reason) => {
                    self.flush(link);
                    self.outputs.push_back(NodeOutput::Close(link, reason));
                    self.detach(link, now);
                }
            }
        }
        self.flush(link);
        self.arm(link);
    }

    /// A node below has completed its handshake.
    pub(super) fn attach(&mut self, link: LinkId, held: &[AttemptId], capacity: Capacity, now: Now) {
        let Some(Applicant { hello, lane, ends_at }) =
            self.links.get_mut(&link).and_then(|entry| entry.pending.take())
        else {
            return;
        };
        let known = self.by_node.get(&hello.node).copied();
        // Another one may have come between the hello and now.
        if let Some((reason, retry)) =
            known.and_then(|known| self.peers.get(&known)).and_then(|known| conflict(known, &hello))
        {
            self.link_counters.refused += 1;
            if let Some(entry) = self.links.get_mut(&link) {
                entry.session.refuse(reason, retry);
            }
            return;
        }
        let same = known.filter(
            |peer| matches!(self.peers.get(peer), Some(Peer::Remote { session, .. }) if session.epoch == hello.epoch),
        );
        self.link_counters.opened += 1;
        self.link_counters.resumed += u64::from(same.is_some());
        let session = Session::from(&hello);
        let peer = same.unwrap_or_else(|| self.dispatcher.add_peer(lane, Capacity::default()));
        if let (Some(old), None) = (known, same) {
            // A new session of a node that still has outcomes of the old one: what it names goes on, the rest is lost.
            self.dispatcher.move_leases(old, peer, held);
            self.lose(old, End::Dead, "it started anew", now);
        }
        // The same session goes on counting.
        let warm = match self.peers.get(&peer) {
            Some(Peer::Remote { info, .. }) => Arc::clone(&info.warm),
            Some(Peer::Executor { .. }) | None => Arc::default(),
        };
        if let Some(Peer::Remote { info, link: Some(old), .. }) = self.peers.get(&peer) {
            // The same process on a new connection: the old one is dead, only we did not notice yet.
            let (old, known) = (*old, info.capacity);
            self.links.remove(&old);
            self.capacity_changed(known, Capacity::default());
            self.outputs.push_back(NodeOutput::Close(old, "replaced by a new connection".to_owned()));
        }
        let info = PeerInfo {
            peer,
            node: hello.node,
            lane,
            name: hello.name,
            software: hello.software,
            connected: true,
            capacity,
            report: Report::default(),
            warm,
        };
        self.by_node.insert(hello.node, peer);
        self.peers.insert(
            peer,
            Peer::Remote { info: Box::new(info.clone()), session, link: Some(link), given_up_at: None },
        );
        if let Some(entry) = self.links.get_mut(&link) {
            entry.peer = Some(peer);
        }
        self.dispatcher.set_present(peer, true);
        self.dispatcher.set_ends_at(peer, ends_at);
        // What was withheld for it is missing from what it holds.
        let _ = self.withdraw(peer);
        let stale = self.dispatcher.reconcile(peer, held, now);
        if let Some(entry) = self.links.get_mut(&link) {
            entry.session.send_abandon(&stale);
            if self.dispatcher.memoizes() {
                // Some may have been forgotten here while it was away.
                entry.session.forget_values();
            }
            if self.draining {
                entry.session.drain();
            }
        }
        self.dispatcher.set_capacity(peer, capacity);
        self.capacity_changed(Capacity::default(), capacity);
        self.outputs.push_back(NodeOutput::PeerUp(info));
    }

    /// A connection from below is gone; its node may come back.
    pub(super) fn detach(&mut self, link: LinkId, now: Now) {
        let Some(entry) = self.links.remove(&link) else { return };
        if let Some(armed) = entry.armed {
            self.timers.remove(&(armed, Timer::Link(link)));
        }
        let Some(peer) = entry.peer else { return };
        if let Some(Peer::Remote { info, link: current, given_up_at, .. }) = self.peers.get_mut(&peer)
            && *current == Some(link)
        {
            *current = None;
            *given_up_at = self.config.lease_grace.map(|grace| now.tick + grace);
            if let Some(deadline) = *given_up_at {
                self.timers.insert((deadline, Timer::Lease(peer)));
            }
            info.connected = false;
            let old = std::mem::take(&mut info.capacity);
            self.outputs.push_back(NodeOutput::PeerDown((**info).clone()));
            self.dispatcher.set_present(peer, false);
            self.dispatcher.set_capacity(peer, Capacity::default());
            self.capacity_changed(old, Capacity::default());
        }
    }

    /// A node below will not come back.
    pub(super) fn lose(&mut self, peer: PeerId, end: End, reason: &str, now: Now) {
        let Some(Peer::Remote { mut info, link, .. }) = self.peers.remove(&peer) else { return };
        self.by_node.remove(&info.node);
        let withheld = self.withdraw(peer);
        self.dispatcher.handle_given_back(peer, &withheld, now);
        self.link_counters.lost += 1;
        let reason = &format!("{}: {reason}", info.name);
        // Its place may be taken by another process, to which acknowledgements for this one mean nothing.
        for (_, source) in &mut self.uncommitted {
            source.take_if(|(sender, _)| *sender == peer);
        }
        if let Some(link) = link {
            self.links.remove(&link);
            self.capacity_changed(info.capacity, Capacity::default());
            self.outputs.push_back(NodeOutput::Close(link, reason.to_owned()));
            info.connected = false;
            info.capacity = Capacity::default();
            self.outputs.push_back(NodeOutput::PeerDown((*info).clone()));
        }
        self.outputs.push_back(NodeOutput::PeerLost(*info));
        match end {
            End::Dead => self.dispatcher.bury_peer(peer, reason, now),
            End::GivenUp => self.dispatcher.remove_peer(peer, reason, now),
        }
    }

    pub(super) fn set_capacity(&mut self, link: LinkId, capacity: Capacity) {
        let Some(peer) = self.peer_of(link) else { return };
        if let Some(Peer::Remote { info, .. }) = self.peers.get_mut(&peer) {
            let old = std::mem::replace(&mut info.capacity, capacity);
            self.dispatcher.set_capacity(peer, capacity);
            self.capacity_changed(old, capacity);
        }
    }

    pub(super) fn outcomes(
        &mut self,
        peer: PeerId,
        mut outcomes: Vec<Outcome>,
        sequence: Option<u64>,
        now: Now,
    ) {
        outcomes.iter_mut().for_each(bound);
        if let Some(hop) = self.config.returned {
            outcomes.iter_mut().for_each(|outcome| outcome.stamps.set(hop, now.wall));
        }
        self.dispatcher.handle_outcomes(peer, outcomes, now);
        self.arrived = sequence.map(|sequence| (peer, sequence));
        self.pump_dispatcher();
        if self.arrived.is_some() {
            // All of them were late, or made new attempts: nothing to make safe, but the order of acknowledgements holds.
            self.deliver(Vec::new());
        }
    }

    /// What happened to attempts at a peer; what it does not have, or what was told before, is of no interest.
    pub(super) fn events(&mut self, peer: PeerId, mut events: Vec<TaskEvent>) {
        let name = match self.peers.get(&peer) {
            Some(Peer::Remote { info, .. }) => info.name.as_str(),
            Some(Peer::Executor { .. }) | None => "",
        };
        events.retain_mut(|event| {
            if event.kind != TaskEventKind::Started && event.actor.is_empty() {
                // Who noticed it first is told; what everybody above passes on is not.
                event.actor.push_str(name);
            }
            match event.kind {
                TaskEventKind::Started => self.dispatcher.handle_started(peer, event.attempt, event.at),
                TaskEventKind::Lost => self.dispatcher.handle_lost(peer, event.attempt, true),
                TaskEventKind::LeaseLost => self.dispatcher.handle_lost(peer, event.attempt, false),
                // Nobody asks from below.
                TaskEventKind::CancelRequested => false,
            }
        });
        self.record_events(&events);
        self.tell(events);
    }

    /// Passes on what happened to attempts.
    pub(super) fn tell(&mut self, mut events: Vec<TaskEvent>) {
        if let Some(uplink) = &mut self.uplink {
            let rare = events.iter().filter(|event| event.kind != TaskEventKind::Started).cloned().collect();
            uplink.tell(std::mem::replace(&mut events, rare));
        }
        if !events.is_empty() {
            self.outputs.push_back(NodeOutput::Events(events));
        }
    }

    pub(super) fn pump_uplink(&mut self, now: Now) {
        while let Some(event) = self.uplink.as_mut().and_then(Uplink::poll_event) {
            match event {
                UplinkEvent::Opened => {
                    self.link_counters.opened_above += 1;
                    self.outputs.push_back(NodeOutput::OpenedAbove);
                }
                UplinkEvent::Acknowledged(through) => self.record_acknowledged(through),
                UplinkEvent::Tasks(tasks) => self.take(tasks, now),
                UplinkEvent::Cancel(attempts) => {
                    self.dispatcher.cancel(attempts.into_iter().map(|attempt| attempt.task), now);
                }
                UplinkEvent::Abandon(attempts) => {
                    self.dispatcher.abandon(attempts.into_iter().map(|attempt| attempt.task), now);
                }
                UplinkEvent::ForgetValues => self.forget_values(),
                UplinkEvent::Drain => self.drain(now),
                UplinkEvent::Refused(refused) => self.outputs.push_back(NodeOutput::RefusedAbove(refused)),
                UplinkEvent::Failed(reason) => self.outputs.push_back(NodeOutput::CloseUp(reason)),
            }
        }
    }

    /// Tasks from above, each to the lane for its kind. What does not fit goes back, after word that nothing fits.
    pub(super) fn take(&mut self, tasks: Vec<Task>, now: Now) {
        let (mut rejected, mut refused) = (Vec::new(), Vec::new());
        let mut tasks = tasks.into_iter().peekable();
        while let Some(first) = tasks.next() {
            let spec = Arc::clone(&first.spec);
            let mut run = vec![first];
            while let Some(task) = tasks.next_if(|task| goes_with(&task.spec, &spec)) {
                run.push(task);
            }
            let (kind, environment) = (spec.function.kind(), spec.shape.environment.as_ref());
            let fits = |route: &&Route| route.kind == kind && route.environments.include(environment);
            match self.routes.iter().find(fits) {
                Some(route) => refused.extend(self.dispatcher.submit(route.lane, run, now)),
                None => {
                    let failure = no_route(&self.routes, &spec);
                    rejected
                        .extend(run.iter().map(|task| Outcome::failed(task, OutcomeKind::Raised, &failure)));
                }
            }
        }
        if !refused.is_empty() {
            self.full = true;
            self.advertise();
        }
        self.give_back(&refused.iter().map(Task::attempt_id).collect::<Vec<_>>());
        if !rejected.is_empty() {
            self.deliver(rejected);
        }
    }
}

/// Whether tasks with these specifications go the same way.
fn goes_with(one: &Arc<TaskSpec>, other: &Arc<TaskSpec>) -> bool {
    Arc::ptr_eq(one, other)
        || one.function.kind() == other.function.kind() && one.shape.environment == other.shape.environment
}

/// Why a task goes nowhere.
fn no_route(routes: &[Route], spec: &TaskSpec) -> Failure {
    let kind = spec.function.kind();
    let known: Vec<&Environments> =
        routes.iter().filter(|route| route.kind == kind).map(|route| &route.environments).collect();
    let names: Vec<String> = known
        .iter()
        .filter_map(|environments| match environments {
            Environments::One(Some(name)) => Some(format!("`{name}`")),
            Environments::One(None) | Environments::Any => None,
        })
        .collect();
    match spec.shape.environment.as_deref() {
        Some(name) if !known.is_empty() => {
            let known = match names.is_empty() {
                true => format!("{kind} functions run in the default one, which has no name"),
                false => format!("{kind} functions run in {} and in the default one", names.join(", ")),
            };
            Failure::new("UnknownEnvironment", format!("there is no environment `{name}` here; {known}"))
        }
        _ => Failure::new("UnsupportedFunctionKind", format!("no worker here runs {kind} functions")),
    }
}

/// An outcome that no frame could hold becomes one that says so. Executors have bounds of their own; this one keeps a
/// link from breaking over an executor that has none.
fn bound(outcome: &mut Outcome) {
    if outcome.payload_bytes() <= limit::MAX_PAYLOAD_BYTES + 3 * limit::MAX_OUTPUT_BYTES {
        return;
    }
    let message = format!(
        "the result has {} bytes, more than the {} that are allowed",
        outcome.payload.len(),
        limit::MAX_PAYLOAD_BYTES
    );
    outcome.become_failure(OutcomeKind::Raised, &Failure::new("MaxResultSizeExceeded", message));
}
