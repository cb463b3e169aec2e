//! Connections: they keep the order, take their time, and break.

use std::time::Duration;

use super::agenda::{Arrival, Event, Input};
use super::{Fabric, Place, WireId, note};
use crate::message::Message;
use crate::model::Tick;
use crate::state::LinkId;

/// The two directions, and the ends that send in them.
pub(super) const UP: usize = 0;
pub(super) const DOWN: usize = 1;

/// A connection; both ends are named by the life that they belong to.
#[derive(Debug)]
pub(super) struct Wire {
    pub(super) upper: (Place, u32),
    pub(super) lower: (Place, u32),
    /// Names its messages to [`Draw`](super::random::Draw).
    name: u64,
    sent: u64,
    /// When the last message in each direction arrives: connections keep the order.
    arrives: [Tick; 2],
    /// The end that sends in this direction has closed the connection.
    shut: [bool; 2],
    /// Nothing arrives in this direction any more.
    lost: [bool; 2],
}

impl Fabric {
    pub(super) fn dial(&mut self, place: Place) {
        let process = &self.processes[place];
        let Some(above) = process.above else { return };
        if process.up.is_some() {
            return;
        }
        let reachable = self.processes[above].alive && process.blocked.iter().all(|until| *until <= self.now);
        if !reachable {
            self.redial(place);
            return;
        }
        let name = (place as u64) << 32 | u64::from(process.dials);
        let wire = self.wires.len();
        let (lower, upper) = ((place, process.life), (above, self.processes[above].life));
        note!(self, "p{place} dials p{above} on wire {wire}");
        self.wires.push(Wire {
            upper,
            lower,
            name,
            sent: 0,
            arrives: [self.now; 2],
            shut: [false; 2],
            lost: [false; 2],
        });
        self.carry(wire, UP, Arrival::Accepted);
        let now = self.clock(place);
        let process = &mut self.processes[place];
        process.dials += 1;
        process.up = Some(wire);
        process.node.handle_connected_above(now);
        self.act(place);
    }

    /// Dials again after a pause.
    pub(super) fn redial(&mut self, place: Place) {
        let process = &mut self.processes[place];
        process.dials += 1;
        let draw = self.draw.of(0x01d1_a100 + place as u64, u64::from(process.dials));
        let pause = Duration::from_micros(50_000 + draw % 500_000);
        let life = process.life;
        self.agenda.add(self.now + pause, Event::At(place, life, Input::Dial));
    }

    pub(super) fn send(&mut self, wire: WireId, direction: usize, message: Message) {
        let Some(state) = self.wires.get(wire) else { return };
        if !state.shut[direction] {
            self.figures.messages += 1;
            self.carry(
                wire,
                direction,
                if direction == UP { Arrival::Up(message) } else { Arrival::Down(message) },
            );
        }
    }

    /// Something is under way.
    fn carry(&mut self, wire: WireId, direction: usize, what: Arrival) {
        let now = self.now;
        let state = &mut self.wires[wire];
        state.sent += 1;
        let draw = self.draw.of(state.name, state.sent);
        let sender = if direction == UP { state.lower } else { state.upper };
        let mut at = now + Duration::from_nanos(1 + draw % 2_000_000);
        let (lag_until, lag) = self.processes[sender.0].lag;
        if now < lag_until {
            at = at + lag;
        }
        // What is sent into a partition is sent again until that ends.
        let blocked = self.processes[state.lower.0].blocked[direction];
        if now < blocked {
            at = at.max(blocked + Duration::from_nanos(1 + draw % 300_000_000));
        }
        at = at.max(state.arrives[direction]);
        state.arrives[direction] = at;
        self.agenda.add(at, Event::Wire(wire, what));
    }

    /// One end closes a connection; what it sent before still arrives.
    pub(super) fn shut(&mut self, wire: WireId, direction: usize) {
        let Some(state) = self.wires.get_mut(wire) else { return };
        if std::mem::replace(&mut state.shut[direction], true) {
            return;
        }
        let delay = Duration::from_nanos(1 + self.draw.of(state.name, 0x5000 + direction as u64) % 5_000_000);
        let (own, other) = match direction {
            UP => (Arrival::ClosedAtLower, Arrival::ClosedAtUpper),
            _ => (Arrival::ClosedAtUpper, Arrival::ClosedAtLower),
        };
        self.carry(wire, direction, other);
        self.agenda.add(self.now + delay, Event::Wire(wire, own));
    }

    /// Resets a connection: what is under way is lost, or arrives although the connection is gone; each end learns of it
    /// in its own time.
    pub(super) fn cut(&mut self, wire: WireId) {
        note!(self, "wire {wire} is cut");
        let state = &mut self.wires[wire];
        let draw = self.draw.of(state.name, 0x6000);
        state.shut = [true; 2];
        state.lost = [draw & 1 == 0, true];
        for (end, part) in [(Arrival::ClosedAtUpper, draw >> 8), (Arrival::ClosedAtLower, draw >> 32)] {
            let delay = Duration::from_micros(part % 200_000);
            self.agenda.add(self.now + delay, Event::Wire(wire, end));
        }
    }

    /// The connections of a process that is gone close, or nobody is told.
    pub(super) fn orphan(&mut self, place: Place, silently: bool) {
        let life = (place, self.processes[place].life);
        for wire in 0..self.wires.len() {
            let state = &mut self.wires[wire];
            if state.upper != life && state.lower != life {
                continue;
            }
            let direction = if state.lower == life { UP } else { DOWN };
            if silently {
                state.shut[direction] = true;
                state.lost = [true; 2];
            } else {
                self.shut(wire, direction);
            }
        }
    }

    /// Hands on what gets through a connection, to the life that it is for.
    pub(super) fn through(&mut self, wire: WireId, what: Arrival) {
        let state = &self.wires[wire];
        let upwards = matches!(what, Arrival::Accepted | Arrival::Up(_) | Arrival::ClosedAtUpper);
        // Each end of a connection that was reset learns that by itself; nothing else gets through.
        let closing = matches!(what, Arrival::ClosedAtUpper | Arrival::ClosedAtLower);
        if !closing && state.lost[if upwards { UP } else { DOWN }] {
            return;
        }
        let ((place, life), other) = if upwards { (state.upper, DOWN) } else { (state.lower, UP) };
        if !self.is_alive(place, life) {
            // Whoever talks to a process that is not there is told so, unless its machine is gone.
            if !state.lost[other] {
                self.shut(wire, other);
            }
            return;
        }
        self.input(place, life, Input::Wire(wire, what));
    }

    /// A process gets what came over a connection.
    pub(super) fn arrive(&mut self, place: Place, wire: WireId, what: Arrival) {
        let now = self.clock(place);
        let link = LinkId(wire as u64);
        let process = &mut self.processes[place];
        let current = process.up == Some(wire);
        match what {
            Arrival::Accepted => process.node.handle_accepted(link, now),
            Arrival::Up(message) => {
                note!(self, "p{place} <up {} on wire {wire}", message.name());
                self.processes[place].node.handle_message(link, message, now);
            }
            Arrival::Down(message) if current => {
                note!(self, "p{place} <down {}", message.name());
                self.processes[place].node.handle_message_above(message, now);
            }
            Arrival::ClosedAtUpper => {
                process.node.handle_closed(link, now);
                self.shut(wire, DOWN);
            }
            Arrival::ClosedAtLower if current => {
                process.up = None;
                process.node.handle_closed_above();
                self.shut(wire, UP);
                self.redial(place);
            }
            Arrival::Down(_) | Arrival::ClosedAtLower => {}
        }
    }
}
