//! What is going to happen, by time.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use slab::Slab;
use uuid::Uuid;

use super::store::Commit;
use super::{Place, WireId};
use crate::message::Message;
use crate::model::Tick;
use crate::state::{DeliveryId, LinkId, RecordId};

/// Something that happens. What is meant for a process names the life of it that is meant.
#[derive(Debug)]
pub(super) enum Event {
    /// The next thing that is done from outside.
    Step(usize),
    /// Something for a process; it waits while that stands still and is void when that is dead.
    At(Place, u32, Input),
    /// A message or the end of a connection gets through.
    Wire(WireId, Arrival),
    /// A process is started again.
    Boot(Place),
    /// A process goes on.
    Thaw(Place, u32),
}

#[derive(Debug)]
pub(super) enum Input {
    Step(usize),
    Dial,
    Admit(LinkId),
    Wake(Tick),
    Ended(Tick),
    /// Workers of this crew that have to go have gone.
    Gone(usize),
    Durable(Commit),
    Committed(DeliveryId),
    /// A record is written, and everything up to this one is on the disk.
    Recorded(RecordId, u64),
    /// A full disk is tried again.
    Retry,
    Dead(Uuid),
    Exit,
    /// The walltime of its block is over.
    BlockEnds,
    Wire(WireId, Arrival),
}

#[derive(Debug)]
pub(super) enum Arrival {
    /// The upper end learns that somebody has dialled.
    Accepted,
    Up(Message),
    Down(Message),
    ClosedAtUpper,
    ClosedAtLower,
}

/// Events in order of time, and of being scheduled.
#[derive(Debug, Default)]
pub(super) struct Agenda {
    order: BinaryHeap<Reverse<(Tick, u64, usize)>>,
    events: Slab<Event>,
    scheduled: u64,
}

impl Agenda {
    pub(super) fn add(&mut self, at: Tick, event: Event) {
        self.scheduled += 1;
        let key = self.events.insert(event);
        self.order.push(Reverse((at, self.scheduled, key)));
    }

    pub(super) fn next(&mut self) -> Option<(Tick, Event)> {
        let Reverse((at, _, key)) = self.order.pop()?;
        Some((at, self.events.remove(key)))
    }

    pub(super) const fn scheduled(&self) -> u64 {
        self.scheduled
    }
}
