//! The waiting tasks of a lane: shared between owners by weight, ordered by priority for each of them.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use slab::Slab;

use super::Entry;
use super::list::List;
use crate::model::{IdMap, IdentityId, Task};

/// Virtual time that a task of one core takes at weight 1. Large, so that dividing it by a weight loses nothing.
const CORE_TIME: u64 = 1 << 20;

/// Owners without waiting tasks that are remembered, because they may have had more than their share just now.
const IDLE_FLOWS: usize = 256;

/// Waiting tasks of all owners.
///
/// Start-time fair queueing (Goyal, Vin and Cheng, 1996): each owner has a virtual time, which grows by what a task asks
/// for divided by the owner's weight; the owner with the smallest one is next. Who comes back after a pause starts at
/// the virtual time of the queue, so nobody saves up turns. An owner that is alone pays nothing.
#[derive(Debug, Default)]
pub(super) struct FairQueue {
    flows: Slab<Flow>,
    by_owner: IdMap<IdentityId, usize>,
    /// Flows with waiting tasks, by virtual time.
    active: BTreeSet<(u64, usize)>,
    clock: u64,
    length: usize,
    /// The flow of the task that was added last: the next one is mostly of the same owner.
    last: Option<(IdentityId, usize)>,
}

#[derive(Debug)]
struct Flow {
    owner: IdentityId,
    weight: u64,
    time: u64,
    waiting: BTreeMap<Reverse<i8>, List>,
}

impl FairQueue {
    pub(super) const fn len(&self) -> usize {
        self.length
    }

    /// The task whose turn it is.
    pub(super) fn first(&self) -> Option<usize> {
        let (_, flow) = self.active.first()?;
        self.flows[*flow].waiting.values().next()?.first()
    }

    /// Takes out the task whose turn it is.
    pub(super) fn pop(&mut self, tasks: &mut Slab<Entry>) -> Option<usize> {
        let &(time, index) = self.active.first()?;
        let flow = &mut self.flows[index];
        let mut first = flow.waiting.first_entry()?;
        let key = first.get().first()?;
        first.get_mut().remove(tasks, key);
        if first.get().len() == 0 {
            first.remove();
        }
        self.length -= 1;
        self.clock = time;
        let ends = flow.waiting.is_empty();
        if ends || self.active.len() > 1 {
            if self.active.len() > 1 {
                flow.time = time.saturating_add(cost(&tasks[key].task) / flow.weight);
            }
            self.active.remove(&(time, index));
            if !ends {
                self.active.insert((flow.time, index));
            }
        }
        Some(key)
    }

    /// Adds a task behind those of its owner and priority.
    pub(super) fn push_back(&mut self, tasks: &mut Slab<Entry>, key: usize, weights: &Weights) {
        self.list_of(tasks, key, weights).push_back(tasks, key);
    }

    /// Adds a task before those of its owner and priority.
    pub(super) fn push_front(&mut self, tasks: &mut Slab<Entry>, key: usize, weights: &Weights) {
        self.list_of(tasks, key, weights).push_front(tasks, key);
    }

    /// Takes out a task wherever it stands. It must be here.
    pub(super) fn remove(&mut self, tasks: &mut Slab<Entry>, key: usize) {
        let spec = &tasks[key].task.spec;
        let (owner, priority) = (spec.owner, spec.limits.priority);
        let index = self.by_owner[&owner];
        let flow = &mut self.flows[index];
        if let Some(list) = flow.waiting.get_mut(&Reverse(priority)) {
            list.remove(tasks, key);
            self.length -= 1;
            if list.len() == 0 {
                flow.waiting.remove(&Reverse(priority));
            }
        }
        if flow.waiting.is_empty() {
            self.active.remove(&(flow.time, index));
        }
    }

    /// Waiting tasks: owner by owner, the one whose turn it is first, each in the order in which it is served.
    pub(super) fn iter<'a>(&'a self, tasks: &'a Slab<Entry>) -> impl Iterator<Item = usize> + 'a {
        self.active
            .iter()
            .flat_map(|(_, flow)| self.flows[*flow].waiting.values())
            .flat_map(|list| list.iter(tasks))
    }

    /// The weight of an owner has changed.
    pub(super) fn set_weight(&mut self, owner: IdentityId, weight: u32) {
        if let Some(flow) = self.by_owner.get(&owner) {
            self.flows[*flow].weight = u64::from(weight.max(1));
        }
    }

    /// The list to which a task belongs, which is about to be longer by one.
    fn list_of(&mut self, tasks: &Slab<Entry>, key: usize, weights: &Weights) -> &mut List {
        let spec = &tasks[key].task.spec;
        let index = match self.last {
            Some((owner, index)) if owner == spec.owner => index,
            _ => self.flow_of(spec.owner, weights),
        };
        self.last = Some((spec.owner, index));
        let flow = &mut self.flows[index];
        if flow.waiting.is_empty() {
            flow.time = flow.time.max(self.clock);
            self.active.insert((flow.time, index));
        }
        self.length += 1;
        flow.waiting.entry(Reverse(spec.limits.priority)).or_default()
    }

    fn flow_of(&mut self, owner: IdentityId, weights: &Weights) -> usize {
        if let Some(index) = self.by_owner.get(&owner) {
            return *index;
        }
        if self.flows.len() > 2 * self.active.len() + IDLE_FLOWS {
            self.forget_idle();
        }
        let weight = u64::from(weights.get(&owner).copied().unwrap_or(1).max(1));
        let index = self.flows.insert(Flow { owner, weight, time: self.clock, waiting: BTreeMap::new() });
        self.by_owner.insert(owner, index);
        index
    }

    fn forget_idle(&mut self) {
        self.last = None;
        let by_owner = &mut self.by_owner;
        self.flows.retain(|_, flow| {
            let stays = !flow.waiting.is_empty();
            if !stays {
                by_owner.remove(&flow.owner);
            }
            stays
        });
    }
}

/// Weights of owners; 1 for those that are not named.
pub(super) type Weights = IdMap<IdentityId, u32>;

/// What a task asks for, in virtual time at weight 1.
fn cost(task: &Task) -> u64 {
    let shape = &task.spec.shape;
    let cores = u64::from(shape.milli_cores.max(1)).saturating_mul(u64::from(shape.nodes.max(1)));
    (CORE_TIME / 1000).saturating_mul(cores).min(CORE_TIME << 20)
}
