//! The slots of a pool, filed by what they wait for: with ten thousand workers nobody can look at all of them for each
//! task. A slot that was changed is filed anew before anything is decided.

use std::{
    collections::BTreeSet,
    ops::{Index, IndexMut},
};

use funcx_core::model::{Tick, limit};

use super::super::functions::{MAX_DEPTH, PIPELINE_NANOS};
use super::super::slot::{Slot, Stage};

/// All slots. Reaching one for writing notes that it may have to be filed anew.
#[derive(Debug)]
pub(super) struct Slots {
    all: Vec<Slot>,
    filed: Vec<Filed>,
    touched: Vec<u32>,
    timers: BTreeSet<(Tick, u32)>,
    vacant: BTreeSet<(Tick, u32)>,
    booting: BTreeSet<u32>,
    idle: BTreeSet<u32>,
    /// By expected time of what they have.
    roomy: BTreeSet<(u64, u32)>,
    ending: usize,
    workers: usize,
    starting: usize,
}

#[derive(Debug, Clone, Copy)]
struct Filed {
    is_touched: bool,
    timer: Option<Tick>,
    place: Place,
    has_worker: bool,
    is_starting: bool,
}

/// Where a slot is filed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Without a process until this time.
    Vacant(Tick),
    Booting,
    /// Ready, without a task.
    Idle,
    /// With tasks that take this long, and room for more.
    Roomy(u64),
    Full,
    /// With a command, and no worker or an idle one.
    Occupied,
    Ending,
}

impl Slots {
    /// Slots whose processes are to be asked for now. The number of a process tells its slot.
    pub(super) fn new(count: u32, now: Tick) -> Self {
        let filed = Filed {
            is_touched: false,
            timer: None,
            place: Place::Vacant(now),
            has_worker: false,
            is_starting: false,
        };
        Self {
            all: (0..count).map(|slot| Slot::vacant(u64::from(slot), now)).collect(),
            filed: vec![filed; count as usize],
            touched: Vec::new(),
            timers: BTreeSet::new(),
            vacant: (0..count).map(|slot| (now, slot)).collect(),
            booting: BTreeSet::new(),
            idle: BTreeSet::new(),
            roomy: BTreeSet::new(),
            ending: 0,
            workers: 0,
            starting: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    pub(super) fn get(&self, slot: usize) -> Option<&Slot> {
        self.all.get(slot)
    }

    /// Something that decides about this slot was changed elsewhere.
    pub(super) fn touch(&mut self, slot: usize) {
        if !std::mem::replace(&mut self.filed[slot].is_touched, true) {
            self.touched.push(slot as u32);
        }
    }

    /// A slot that has to be filed anew.
    pub(super) fn take_touched(&mut self) -> Option<usize> {
        self.touched.pop().map(|slot| slot as usize)
    }

    /// Files a slot. `timer` is when it has something to do if nothing happens before.
    pub(super) fn file(&mut self, slot: usize, timer: Option<Tick>) {
        let (key, place) = (slot as u32, place_of(&self.all[slot]));
        let has_worker = self.all[slot].is_taken();
        let is_starting = self.all[slot].command.as_ref().is_some_and(|command| command.running.is_none());
        let new = Filed { is_touched: false, timer, place, has_worker, is_starting };
        let old = std::mem::replace(&mut self.filed[slot], new);
        self.workers = self.workers + usize::from(has_worker) - usize::from(old.has_worker);
        self.starting = self.starting + usize::from(is_starting) - usize::from(old.is_starting);
        if old.timer != timer {
            old.timer.map(|due| self.timers.remove(&(due, key)));
            self.timers.extend(timer.map(|due| (due, key)));
        }
        if old.place == place {
            return;
        }
        match old.place {
            Place::Vacant(due) => drop(self.vacant.remove(&(due, key))),
            Place::Booting => drop(self.booting.remove(&key)),
            Place::Idle => drop(self.idle.remove(&key)),
            Place::Roomy(cost) => drop(self.roomy.remove(&(cost, key))),
            Place::Full | Place::Occupied => {}
            Place::Ending => self.ending -= 1,
        }
        match place {
            Place::Vacant(due) => drop(self.vacant.insert((due, key))),
            Place::Booting => drop(self.booting.insert(key)),
            Place::Idle => drop(self.idle.insert(key)),
            Place::Roomy(cost) => drop(self.roomy.insert((cost, key))),
            Place::Full | Place::Occupied => {}
            Place::Ending => self.ending += 1,
        }
    }

    /// The first time at which one of them has something to do.
    pub(super) fn next_timer(&self) -> Option<Tick> {
        self.timers.first().map(|(due, _)| *due)
    }

    /// A slot that has something to do at `now`.
    pub(super) fn due(&self, now: Tick) -> Option<usize> {
        self.timers.first().filter(|(due, _)| *due <= now).map(|(_, slot)| *slot as usize)
    }

    /// The slot that is to get a process next, and when.
    pub(super) fn next_vacant(&self) -> Option<(Tick, usize)> {
        self.vacant.first().map(|(due, slot)| (*due, *slot as usize))
    }

    pub(super) fn any_booting(&self) -> Option<usize> {
        self.booting.first().map(|slot| *slot as usize)
    }

    /// Processes that were asked for and have not said hello.
    pub(super) fn booting(&self) -> usize {
        self.booting.len()
    }

    /// Worker processes, whatever they do.
    pub(super) fn workers(&self) -> usize {
        self.workers
    }

    /// Commands that were asked for and have no process yet.
    pub(super) fn starting(&self) -> usize {
        self.starting
    }

    /// Slots without a process.
    pub(super) fn vacant(&self) -> usize {
        self.vacant.len()
    }

    /// Workers that are on their way out.
    pub(super) fn ending(&self) -> usize {
        self.ending
    }

    /// Whether there is no process at all.
    pub(super) fn are_vacant(&self) -> bool {
        self.vacant.len() == self.all.len()
    }

    /// A ready slot without tasks, the first one from `turn` on.
    pub(super) fn next_idle(&self, turn: usize) -> Option<usize> {
        let found = self.idle.range(turn as u32..).next().or_else(|| self.idle.first());
        found.map(|slot| *slot as usize)
    }

    /// Ready slots that have tasks and room for more, those with the shortest pipelines first.
    pub(super) fn roomy(&self) -> impl ExactSizeIterator<Item = usize> {
        self.roomy.iter().map(|(_, slot)| *slot as usize)
    }
}

impl Index<usize> for Slots {
    type Output = Slot;

    fn index(&self, slot: usize) -> &Slot {
        &self.all[slot]
    }
}

impl IndexMut<usize> for Slots {
    fn index_mut(&mut self, slot: usize) -> &mut Slot {
        self.touch(slot);
        &mut self.all[slot]
    }
}

fn place_of(slot: &Slot) -> Place {
    /// No task counts as shorter.
    const LEAST_COST: u64 = PIPELINE_NANOS / MAX_DEPTH;
    match &slot.stage {
        Stage::Booting { .. } => Place::Booting,
        Stage::Ending(_) => Place::Ending,
        _ if slot.command.is_some() => Place::Occupied,
        Stage::Vacant { due } => Place::Vacant(*due),
        Stage::Ready if slot.pipeline.is_empty() => Place::Idle,
        Stage::Ready => {
            let has_room = slot.cost + LEAST_COST <= PIPELINE_NANOS
                && slot.bytes < limit::TARGET_BATCH_BYTES
                && !slot.is_stuck;
            if has_room { Place::Roomy(slot.cost) } else { Place::Full }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_filed_where_it_belongs_and_nowhere_else() {
        let now = Tick::from_nanos(5);
        let mut slots = Slots::new(3, now);
        assert!(slots.are_vacant());
        assert_eq!(slots.next_vacant(), Some((now, 0)));
        slots[1].stage = Stage::Ready;
        slots[2].stage = Stage::Ready;
        slots[2].pipeline.push_back(0);
        slots[2].cost = 7;
        while let Some(slot) = slots.take_touched() {
            slots.file(slot, Some(now));
        }
        assert_eq!((slots.next_idle(0), slots.next_idle(2)), (Some(1), Some(1)));
        assert_eq!(slots.roomy().collect::<Vec<_>>(), [2]);
        assert_eq!(slots.next_timer(), Some(now));
        slots[2].is_stuck = true;
        slots[1].stage = Stage::Booting { deadline: now };
        slots.touch(1);
        while let Some(slot) = slots.take_touched() {
            slots.file(slot, None);
        }
        assert_eq!((slots.next_idle(0), slots.roomy().len(), slots.booting()), (None, 0, 1));
        assert_eq!(slots.next_timer(), None);
        assert_eq!(slots.next_vacant(), Some((now, 0)));
    }
}
