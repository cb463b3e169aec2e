//! Slots that several executors of one node share, each of which runs the tasks of one environment.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Node, NodeOutput, Peer};
use crate::contract::{Capacity, PeerId, PlacementPolicy};
use crate::message::{Warm, WarmType};
use crate::model::{FunctionKind, Now, Tick, limit};
use crate::state::warm_slots::{KeepAlive, WarmCounters, WarmSlots};
use crate::state::{LaneId, LinkId};

/// The slots, and the lane of each type of worker.
#[derive(Debug)]
pub(super) struct Sharing {
    warm: WarmSlots,
    lanes: Vec<(LaneId, Option<String>)>,
}

/// Tasks of this kind that come from above go to this lane, if their environment fits.
#[derive(Debug)]
pub(super) struct Route {
    pub(super) kind: FunctionKind,
    pub(super) environments: Environments,
    pub(super) lane: LaneId,
}

/// The environments of a lane.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Environments {
    /// All: somebody below knows them.
    Any,
    /// This one only; the default one is `None`.
    One(Option<String>),
}

impl Environments {
    pub(super) fn include(&self, asked: Option<&String>) -> bool {
        match self {
            Self::Any => true,
            Self::One(name) => name.as_ref() == asked,
        }
    }
}

impl<P: PlacementPolicy + Default> Node<P> {
    /// Lets executors share `slots`: those of the lanes that [`share_lane`](Self::share_lane) adds.
    pub fn share_slots(&mut self, slots: u32, keep_alive: KeepAlive) {
        self.sharing = Some(Sharing { warm: WarmSlots::new(slots, keep_alive), lanes: Vec::new() });
    }

    /// Adds a lane whose executor runs the tasks of an environment on shared slots. It has none at first; the node says with
    /// [`NodeOutput::Resize`] how many it has, and the executor, by its capacity, when workers that it lost have ended.
    pub fn share_lane(&mut self, environment: Option<String>) -> LaneId {
        let lane = self.open_lane();
        if let Some(sharing) = &mut self.sharing {
            sharing.warm.add_type();
            sharing.lanes.push((lane, environment));
            if let Some(uplink) = &mut self.uplink {
                // Who has several types says so from the beginning.
                uplink.set_warm(sharing.say());
            }
        }
        lane
    }

    /// What happened to shared slots so far, here and below.
    pub fn warm_counters(&self) -> WarmCounters {
        let mut counters = self.warm_below;
        counters
            .add(self.sharing.as_ref().map_or_else(WarmCounters::default, |sharing| sharing.warm.counters()));
        counters
    }

    /// A node below has said what types of workers it has.
    pub(super) fn set_warm(&mut self, link: LinkId, warm: Warm) {
        let Some(peer) = self.peer_of(link) else { return };
        if let Some(Peer::Remote { info, .. }) = self.peers.get_mut(&peer) {
            let (new, known) = (counters_of(&warm), counters_of(&info.warm));
            // One that counts from the beginning was started anew.
            let known = if new.cold_starts < known.cold_starts { WarmCounters::default() } else { known };
            self.warm_below.add(new.since(known));
            let types = warm.types.iter().map(|of| (of.environment.as_deref(), of.slots));
            self.dispatcher.set_warm(peer, types);
            info.warm = Arc::new(warm);
        }
    }

    /// Passes on what nodes below have said, if any of them has.
    pub(super) fn say_warm_below(&mut self) {
        if self.sharing.is_some() {
            return;
        }
        let mut slots: BTreeMap<Option<&str>, u32> = BTreeMap::new();
        for peer in self.peers().filter(|peer| peer.connected) {
            for of in &peer.warm.types {
                let sum = slots.entry(of.environment.as_deref()).or_default();
                *sum = sum.saturating_add(of.slots);
            }
        }
        if slots.is_empty() && self.warm_below == WarmCounters::default() {
            return;
        }
        let types = slots.into_iter().take(limit::MAX_ENVIRONMENTS + 1);
        let types =
            types.map(|(name, slots)| WarmType { environment: name.map(str::to_owned), slots }).collect();
        let WarmCounters { cold_starts, switches, retired } = self.warm_below;
        if let Some(uplink) = &mut self.uplink {
            uplink.set_warm(Warm { types, cold_starts, switches, retired });
        }
    }

    /// Gives shared slots to the lanes that have tasks for them.
    pub(super) fn pump_sharing(&mut self) {
        let Some(sharing) = self.sharing.as_mut().filter(|_| !self.draining) else { return };
        let now = self.dispatcher.now();
        for (index, (lane, _)) in sharing.lanes.iter().enumerate() {
            let load = self.dispatcher.load(*lane);
            sharing.warm.handle_tasks(index, load.queued + load.leased, now);
        }
        let mut changed = false;
        while let Some((index, slots)) = sharing.warm.poll_output() {
            changed = true;
            let lane = sharing.lanes[index].0;
            // What it loses it gets no more tasks for, at once; what it wins it says when it has it, unless it still has what
            // it should have lost.
            for (peer, entry) in &self.peers {
                if let Peer::Executor { capacity } = entry
                    && self.dispatcher.lane_of(*peer) == Some(lane)
                {
                    self.dispatcher.set_capacity(*peer, usable(*capacity, slots));
                }
            }
            self.outputs.push_back(NodeOutput::Resize(lane, slots));
        }
        if changed && let Some(uplink) = &mut self.uplink {
            uplink.set_warm(sharing.say());
        }
    }

    /// An executor has this capacity now; how much of it can be used. Slots whose workers have still to end are lost to it.
    pub(super) fn executor_resized(&mut self, peer: PeerId, capacity: Capacity, now: Now) -> Capacity {
        let (Some(sharing), Some(lane)) = (&mut self.sharing, self.dispatcher.lane_of(peer)) else {
            return capacity;
        };
        let Some(index) = sharing.lanes.iter().position(|(shared, _)| *shared == lane) else {
            return capacity;
        };
        sharing.warm.handle_size(index, capacity.slots, now);
        usable(capacity, sharing.warm.warm().nth(index).unwrap_or(0))
    }

    /// Slots of all executors, those of the shared ones that none of them has at the moment among them.
    pub(super) fn all_slots(&self) -> u64 {
        let Some(sharing) = &self.sharing else { return self.total_slots };
        // Others than those that share have slots of their own.
        let of_sharers: u64 = self
            .peers
            .iter()
            .filter_map(|(peer, entry)| match entry {
                Peer::Executor { capacity } if sharing.has(self.dispatcher.lane_of(*peer)) => {
                    Some(u64::from(capacity.slots))
                }
                Peer::Executor { .. } | Peer::Remote { .. } => None,
            })
            .sum();
        self.total_slots - of_sharers + u64::from(sharing.warm.slots())
    }
}

const fn counters_of(warm: &Warm) -> WarmCounters {
    WarmCounters { cold_starts: warm.cold_starts, switches: warm.switches, retired: warm.retired }
}

/// What an executor can run that should have so many slots.
fn usable(capacity: Capacity, slots: u32) -> Capacity {
    match slots {
        0 => Capacity::default(),
        slots => Capacity { slots: capacity.slots.min(slots), ..capacity },
    }
}

impl Sharing {
    fn has(&self, lane: Option<LaneId>) -> bool {
        self.lanes.iter().any(|(shared, _)| Some(*shared) == lane)
    }

    fn say(&self) -> Warm {
        let counters = self.warm.counters();
        let types = self.warm.warm().zip(&self.lanes).filter(|(slots, _)| *slots > 0);
        Warm {
            types: types
                .map(|(slots, (_, environment))| WarmType { environment: environment.clone(), slots })
                .collect(),
            cold_starts: counters.cold_starts,
            switches: counters.switches,
            retired: counters.retired,
        }
    }

    pub(super) fn handle_timeout(&mut self, now: Now) {
        self.warm.handle_timeout(now);
    }

    pub(super) fn poll_timeout(&self) -> Option<Tick> {
        self.warm.poll_timeout()
    }
}
