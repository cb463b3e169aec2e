//! Slots that several executors of one node share, each of which runs the tasks of one environment.

use super::{Node, NodeOutput, Peer};
use crate::contract::{Capacity, PeerId, PlacementPolicy};
use crate::message::{Warm, WarmType};
use crate::model::{FunctionKind, Now, Tick};
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
            self.warm_below.add(counters_of(&warm).since(counters_of(&info.warm)));
            info.warm = warm;
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
            // What it loses it gets no more tasks for, at once; what it wins it says when it has it.
            for (peer, entry) in &self.peers {
                if let Peer::Executor { capacity } = entry
                    && self.dispatcher.lane_of(*peer) == Some(lane)
                    && slots < capacity.slots
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
