//! Calls that wait for an equal one instead of running, and values that are known already.

use std::sync::Arc;

use bytes::Bytes;

use super::list::List;
use super::{Dispatcher, Entry, LaneId};
use crate::contract::PlacementPolicy;
use crate::memo::{MemoCache, MemoKey, lasting_value};
use crate::model::{IdMap, Memoize, Outcome, Task, Tick};

/// What a dispatcher knows about memoized calls.
#[derive(Debug)]
pub(super) struct Flights {
    values: MemoCache,
    /// Keys are hashes, so they are spread like ids.
    under_way: IdMap<(LaneId, MemoKey), Flight>,
}

/// A call that is here, and the equal ones that wait for its value.
#[derive(Debug)]
struct Flight {
    leader: u32,
    waiting: List,
}

impl Flights {
    fn new(capacity_bytes: usize) -> Self {
        Self { values: MemoCache::new(capacity_bytes), under_way: IdMap::default() }
    }
}

impl<P: PlacementPolicy + Default> Dispatcher<P> {
    /// From now on memoized calls that are equal to one that is here wait for its value, and up to `capacity_bytes` of values
    /// are remembered for those that come later. Without this, every call runs.
    pub fn memoize(&mut self, capacity_bytes: usize) {
        self.flights = Some(Flights::new(capacity_bytes));
    }

    /// Forgets the values that it remembers.
    pub fn forget_values(&mut self) {
        self.flights.iter_mut().for_each(|flights| flights.values.clear());
    }

    /// Whether equal calls are looked for here.
    pub const fn memoizes(&self) -> bool {
        self.flights.is_some()
    }

    /// Takes in a new task: it is queued, waits for the value of an equal one, or ends at once.
    pub(super) fn admit(&mut self, lane: LaneId, mut task: Task) {
        if self.flights.is_some() {
            find_key(&mut task);
        }
        let Some((flights, memo)) = self.flights.as_mut().zip(key_of(&task)) else {
            let key = self.insert(lane, task);
            self.lanes[lane.0 as usize].queue.push_back(&mut self.tasks, key, &self.weights);
            return;
        };
        if let Some(value) = flights.values.find(&memo) {
            self.counters.accepted += 1;
            self.counters.memoized += 1;
            self.deliver(Outcome::remembered(&task, value));
            return;
        }
        let leader = flights.under_way.get(&(lane, memo)).map(|flight| flight.leader as usize);
        let waits = leader.is_some_and(|leader| may_wait(&task, &self.tasks[leader]));
        let key = self.insert(lane, task);
        let Some(flights) = &mut self.flights else { return };
        let state = &mut self.lanes[lane.0 as usize];
        match waits {
            true => {
                self.tasks[key].waits = true;
                state.waiting += 1;
                let flight = flights.under_way.get_mut(&(lane, memo));
                flight.into_iter().for_each(|flight| flight.waiting.push_back(&mut self.tasks, key));
            }
            false => {
                let alone = Flight { leader: key as u32, waiting: List::default() };
                flights.under_way.entry((lane, memo)).or_insert(alone);
                state.queue.push_back(&mut self.tasks, key, &self.weights);
            }
        }
    }

    /// Takes an entry out of those that wait for an equal one.
    pub(super) fn stop_waiting(&mut self, key: usize) {
        let entry = &mut self.tasks[key];
        entry.waits = false;
        let (lane, memo) = (entry.lane, key_of(&entry.task));
        self.lanes[lane.0 as usize].waiting -= 1;
        let flights = self.flights.as_mut().zip(memo);
        let flight = flights.and_then(|(flights, memo)| flights.under_way.get_mut(&(lane, memo)));
        flight.into_iter().for_each(|flight| flight.waiting.remove(&mut self.tasks, key));
    }

    /// A task has left. With its value those that wait for it end; without one, the first of them runs.
    pub(super) fn land(&mut self, key: usize, entry: &Entry, value: Option<Bytes>) {
        let memo = key_of(&entry.task);
        let Some((flights, memo)) = self.flights.as_mut().zip(memo) else { return };
        let name = (entry.lane, memo);
        let Some(Flight { leader, waiting }) = flights.under_way.get(&name) else { return };
        let (leads, mut next) = (*leader as usize == key, waiting.first());
        if let Some(value) = value {
            flights.values.insert(memo, &value);
            while let Some(key) = next {
                let outcome = Outcome::remembered(&self.tasks[key].task, value.clone());
                self.forget(key);
                self.counters.memoized += 1;
                self.deliver(outcome);
                next = self.next_waiting(&name);
            }
        }
        match (leads, next) {
            (false, _) => {}
            (true, None) => self.flights.iter_mut().for_each(|flights| {
                flights.under_way.remove(&name);
            }),
            (true, Some(next)) => {
                self.stop_waiting(next);
                let flight = self.flights.as_mut().and_then(|flights| flights.under_way.get_mut(&name));
                flight.into_iter().for_each(|flight| flight.leader = next as u32);
                let lane = &mut self.lanes[entry.lane.0 as usize];
                lane.queue.push_front(&mut self.tasks, next, &self.weights);
                self.mark(entry.lane);
            }
        }
    }

    fn next_waiting(&self, name: &(LaneId, MemoKey)) -> Option<usize> {
        self.flights.as_ref()?.under_way.get(name)?.waiting.first()
    }

    /// The value that an outcome leaves for equal calls, if they are looked at here.
    pub(super) fn value_of(&self, entry: &Entry, outcome: &Outcome) -> Option<Bytes> {
        let spec = &entry.task.spec;
        let counts = self.flights.is_some() && entry.task.memo.is_some();
        counts.then(|| lasting_value(spec.map, outcome).cloned()).flatten()
    }

    /// The tasks that wait for equal ones.
    pub(super) fn waiting(&self) -> Vec<usize> {
        let flights = self.flights.iter().flat_map(|flights| flights.under_way.values());
        flights.flat_map(|flight| flight.waiting.iter(&self.tasks)).collect()
    }
}

/// Finds the key of a memoized task of which nobody has said with whom it shares values: with its owner only.
fn find_key(task: &mut Task) {
    if task.spec.memoize != Memoize::Never && task.memo.is_none() {
        task.memo = Some(Arc::new(MemoKey::own(&task.spec, &task.payload)));
    }
}

fn key_of(task: &Task) -> Option<MemoKey> {
    task.memo.as_deref().copied()
}

/// Whether a call loses nothing by waiting for an equal one: that has been given out, or would be given out before because
/// it has the same owner, asks for the same and is no less urgent. One that has to begin by some time would not, so it runs.
fn may_wait(task: &Task, leader: &Entry) -> bool {
    let (spec, ahead) = (&task.spec, &leader.task.spec);
    let is_ahead = || {
        ahead.owner == spec.owner
            && ahead.limits.priority >= spec.limits.priority
            && ahead.shape == spec.shape
    };
    task.start_by == Tick::NEVER && (leader.peer.is_some() || is_ahead())
}
