//! A policy that does not choose.

use super::{PeerId, PlacementPolicy, Room};
use crate::model::Task;

/// Draws a peer among those with room, for each task anew. What every better policy is measured against.
///
/// It makes the same draws in each run: two runs with the same inputs have the same outputs.
#[derive(Debug)]
pub struct AnyPeer {
    /// Peers with room, in no order.
    roomy: Vec<PeerId>,
    /// Place of each peer there.
    places: Vec<Option<usize>>,
    random: u64,
}

impl Default for AnyPeer {
    fn default() -> Self {
        Self { roomy: Vec::new(), places: Vec::new(), random: 0x9e37_79b9_7f4a_7c15 }
    }
}

impl PlacementPolicy for AnyPeer {
    fn room_changed(&mut self, peer: PeerId, room: Room) {
        let index = peer.0 as usize;
        if index >= self.places.len() {
            self.places.resize(index + 1, None);
        }
        match (self.places[index], room.is_none()) {
            (None, false) => {
                self.places[index] = Some(self.roomy.len());
                self.roomy.push(peer);
            }
            (Some(place), true) => {
                self.places[index] = None;
                self.roomy.swap_remove(place);
                if let Some(moved) = self.roomy.get(place) {
                    self.places[moved.0 as usize] = Some(place);
                }
            }
            (None, true) | (Some(_), false) => {}
        }
    }

    fn removed(&mut self, peer: PeerId) {
        self.room_changed(peer, Room::default());
    }

    fn choose(&mut self, _next: &Task, _queued: usize) -> Option<(PeerId, u32)> {
        // xorshift64 (Marsaglia, 2003).
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        let place = (self.random >> 32) as usize % self.roomy.len().max(1);
        self.roomy.get(place).map(|peer| (*peer, 1))
    }
}
