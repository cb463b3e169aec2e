//! Peers that could take a task, the one that should come first first.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use crate::contract::PeerId;
use crate::model::Tick;

/// Peers that end which are looked at, in their order, for one that a task can finish on.
const LOOK_AHEAD: usize = 64;

/// Peers with places of one sort, by rank.
///
/// A long task may not be able to finish on any of those that rank first. So that it finds its peer without looking at all of them,
/// and however many end too soon, peers without an end are ranked for themselves, and of the others it is known which stays
/// longest: if a task cannot finish there, it can on none of them.
#[derive(Debug)]
pub(super) struct Ranking<R> {
    staying: BTreeSet<(R, PeerId)>,
    ending: BTreeSet<(R, PeerId)>,
    by_end: BTreeSet<(Reverse<Tick>, R, PeerId)>,
}

impl<R> Default for Ranking<R> {
    fn default() -> Self {
        Self { staying: BTreeSet::new(), ending: BTreeSet::new(), by_end: BTreeSet::new() }
    }
}

impl<R: Copy + Ord> Ranking<R> {
    pub(super) fn len(&self) -> usize {
        self.staying.len() + self.ending.len()
    }

    pub(super) fn insert(&mut self, rank: R, peer: PeerId, ends_at: Tick) {
        if ends_at == Tick::NEVER {
            self.staying.insert((rank, peer));
        } else {
            self.ending.insert((rank, peer));
            self.by_end.insert((Reverse(ends_at), rank, peer));
        }
    }

    pub(super) fn remove(&mut self, rank: R, peer: PeerId, ends_at: Tick) {
        if ends_at == Tick::NEVER {
            self.staying.remove(&(rank, peer));
        } else {
            self.ending.remove(&(rank, peer));
            self.by_end.remove(&(Reverse(ends_at), rank, peer));
        }
    }

    /// The first one that a task can finish on; if many end too soon for it, maybe a later one.
    pub(super) fn find(&self, can_finish: impl Fn(PeerId) -> bool) -> Option<(R, PeerId)> {
        let staying = self.staying.first().copied();
        if self.ending.is_empty() {
            return staying;
        }
        let near = self.ending.iter().take(LOOK_AHEAD).find(|(_, peer)| can_finish(*peer)).copied();
        let longest = || self.by_end.first().map(|(_, rank, peer)| (*rank, *peer));
        let ending = near.or_else(|| longest().filter(|(_, peer)| can_finish(*peer)));
        staying.into_iter().chain(ending).min()
    }
}
