//! The waiting tasks of a lane: shared between owners by weight, ordered by priority for each of them. Tasks of each type of
//! worker stand in a list of their own, so that the next one of a type is found without looking at those of others.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use slab::Slab;

use super::Entry;
use super::list::List;
use super::warm::TypeId;
use crate::model::{IdMap, IdentityId, Task};

/// Virtual time that a task of one core takes at weight 1. Large, so that dividing it by a weight loses nothing.
const CORE_TIME: u64 = 1 << 20;

/// Owners without waiting tasks that are remembered, because they may have had more than their share just now.
const IDLE_FLOWS: usize = 256;

/// Owners that are looked at for the next task of a type. Whoever stands further back comes nearer.
const FLOWS_AHEAD: usize = 64;

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
    /// Tasks of each type.
    by_type: Vec<usize>,
    /// Tasks that were added behind others, and before them.
    added: [i64; 2],
    /// The flow of the task that was added last: the next one is mostly of the same owner.
    last: Option<(IdentityId, usize)>,
}

#[derive(Debug)]
struct Flow {
    owner: IdentityId,
    weight: u64,
    time: u64,
    waiting: BTreeMap<Reverse<i8>, Line>,
}

/// Waiting tasks of one owner and priority. Mostly they are all of one type.
#[derive(Debug, Default)]
struct Line {
    /// Not empty, unless the line is.
    first: (TypeId, List),
    others: Vec<(TypeId, List)>,
}

/// The next task of a type.
#[derive(Debug, Clone, Copy)]
pub(super) struct Head {
    pub(super) of: TypeId,
    pub(super) key: usize,
}

impl Line {
    fn list_mut(&mut self, of: TypeId) -> &mut List {
        if self.first.1.len() == 0 {
            self.first.0 = of;
        }
        if self.first.0 == of {
            return &mut self.first.1;
        }
        let known = self.others.iter().position(|(known, _)| *known == of);
        let place = known.unwrap_or_else(|| {
            self.others.push((of, List::default()));
            self.others.len() - 1
        });
        &mut self.others[place].1
    }

    fn remove(&mut self, tasks: &mut Slab<Entry>, key: usize) {
        if self.others.is_empty() {
            return self.first.1.remove(tasks, key);
        }
        let of = tasks[key].of;
        self.list_mut(of).remove(tasks, key);
        self.others.retain(|(_, list)| list.len() > 0);
        if self.first.1.len() == 0
            && let Some(other) = self.others.pop()
        {
            self.first = other;
        }
    }

    fn is_empty(&self) -> bool {
        self.first.1.len() == 0
    }

    fn lists(&self) -> impl Iterator<Item = &(TypeId, List)> {
        std::iter::once(&self.first).chain(&self.others)
    }

    /// The task that came first.
    fn front(&self, tasks: &Slab<Entry>) -> Option<usize> {
        match self.others.as_slice() {
            [] => self.first.1.first(),
            _ => self.lists().filter_map(|(_, list)| list.first()).min_by_key(|key| tasks[*key].order),
        }
    }
}

impl FairQueue {
    pub(super) const fn len(&self) -> usize {
        self.length
    }

    /// The task whose turn it is.
    pub(super) fn first(&self, tasks: &Slab<Entry>) -> Option<usize> {
        let (_, flow) = self.active.first()?;
        self.flows[*flow].waiting.values().next()?.front(tasks)
    }

    /// Waiting tasks of a type.
    pub(super) fn waiting(&self, of: TypeId) -> usize {
        self.by_type.get(usize::from(of)).copied().unwrap_or(0)
    }

    /// The next task of each type, in the order in which they have their turns.
    pub(super) fn heads(&self, tasks: &Slab<Entry>, heads: &mut Vec<Head>) {
        heads.clear();
        let types = self.by_type.iter().filter(|waiting| **waiting > 0).count();
        for line in self.lines_ahead() {
            let known = heads.len();
            for (of, list) in line.lists() {
                let is_new = heads[..known].iter().all(|head| head.of != *of);
                heads.extend(list.first().filter(|_| is_new).map(|key| Head { of: *of, key }));
            }
            heads[known..].sort_unstable_by_key(|head| tasks[head.key].order);
            if heads.len() == types {
                break;
            }
        }
    }

    /// By how much the owner of one waiting task is ahead of the owner of another, in tasks of one core at weight 1.
    pub(super) fn lead(&self, tasks: &Slab<Entry>, ahead: usize, behind: usize) -> u64 {
        let [ahead, behind] = [ahead, behind].map(|key| tasks[key].task.spec.owner);
        if ahead == behind {
            return 0;
        }
        let time = |owner: IdentityId| self.flows[self.by_owner[&owner]].time;
        time(ahead).saturating_sub(time(behind)) / CORE_TIME
    }

    /// The next task of a type.
    pub(super) fn next_of(&self, of: TypeId) -> Option<usize> {
        let list =
            |line: &Line| line.lists().find(|(known, _)| *known == of).and_then(|(_, list)| list.first());
        self.lines_ahead().find_map(list)
    }

    fn lines_ahead(&self) -> impl Iterator<Item = &Line> {
        self.active.iter().take(FLOWS_AHEAD).flat_map(|(_, flow)| self.flows[*flow].waiting.values())
    }

    /// Takes out the task whose turn it is.
    pub(super) fn pop(&mut self, tasks: &mut Slab<Entry>) -> Option<usize> {
        let &(time, index) = self.active.first()?;
        let flow = &mut self.flows[index];
        let mut first = flow.waiting.first_entry()?;
        let key = first.get().front(tasks)?;
        first.get_mut().remove(tasks, key);
        if first.get().is_empty() {
            first.remove();
        }
        self.length -= 1;
        self.by_type[usize::from(tasks[key].of)] -= 1;
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
        self.added[0] += 1;
        tasks[key].order = self.added[0];
        self.list_of(tasks, key, weights).push_back(tasks, key);
    }

    /// Adds a task before those of its owner and priority.
    pub(super) fn push_front(&mut self, tasks: &mut Slab<Entry>, key: usize, weights: &Weights) {
        self.added[1] += 1;
        tasks[key].order = -self.added[1];
        self.list_of(tasks, key, weights).push_front(tasks, key);
    }

    /// Takes out a task that is given out, wherever it stands: its owner has had a turn.
    pub(super) fn take(&mut self, tasks: &mut Slab<Entry>, key: usize) {
        let index = self.by_owner[&tasks[key].task.spec.owner];
        let time = self.flows[index].time;
        if self.active.first() == Some(&(time, index)) {
            self.clock = time;
        }
        let is_shared = self.active.len() > 1;
        self.remove(tasks, key);
        if is_shared {
            let flow = &mut self.flows[index];
            flow.time = time.saturating_add(cost(&tasks[key].task) / flow.weight);
            if self.active.remove(&(time, index)) {
                self.active.insert((flow.time, index));
            }
        }
    }

    /// Takes out a task wherever it stands. It must be here.
    pub(super) fn remove(&mut self, tasks: &mut Slab<Entry>, key: usize) {
        let spec = &tasks[key].task.spec;
        let (owner, priority) = (spec.owner, spec.limits.priority);
        let index = self.by_owner[&owner];
        let flow = &mut self.flows[index];
        if let Some(line) = flow.waiting.get_mut(&Reverse(priority)) {
            line.remove(tasks, key);
            self.length -= 1;
            self.by_type[usize::from(tasks[key].of)] -= 1;
            if line.is_empty() {
                flow.waiting.remove(&Reverse(priority));
            }
        }
        if flow.waiting.is_empty() {
            self.active.remove(&(flow.time, index));
        }
    }

    /// Waiting tasks: owner by owner, the one whose turn it is first, those of each type in the order in which they are served.
    pub(super) fn iter<'a>(&'a self, tasks: &'a Slab<Entry>) -> impl Iterator<Item = usize> + 'a {
        self.active
            .iter()
            .flat_map(|(_, flow)| self.flows[*flow].waiting.values())
            .flat_map(Line::lists)
            .flat_map(|(_, list)| list.iter(tasks))
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
        let of = tasks[key].of;
        if self.by_type.len() <= usize::from(of) {
            self.by_type.resize(usize::from(of) + 1, 0);
        }
        self.by_type[usize::from(of)] += 1;
        flow.waiting.entry(Reverse(spec.limits.priority)).or_default().list_mut(of)
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
