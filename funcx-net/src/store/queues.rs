//! Which queues have something in them, and how much.

use std::{
    collections::{BTreeMap, HashMap},
    ops::Bound,
};

use funcx_core::contract::{Backlog, QueueKey};
use funcx_core::model::{EndpointId, IdMap, IdentityId, Result};
use parking_lot::Mutex;

use super::failure::Failure;
use super::record::{self, StoredQueue};
use super::table::{Table, Tables, key};

/// A queue as it stands after some commits.
#[derive(Debug, Clone, Copy)]
pub(super) struct Queue {
    pub(super) endpoint: EndpointId,
    pub(super) key: QueueKey,
    pub(super) backlog: Backlog,
}

/// The queues in which something waits, as of the last commit.
#[derive(Debug)]
pub(super) struct Queues(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    numbers: IdMap<EndpointId, BTreeMap<QueueKey, u64>>,
    queues: HashMap<u64, Queue>,
}

impl Queues {
    pub(super) fn load(tables: &Tables) -> Result<Self> {
        let failed = |error| Failure::read(&error).into_error("open store");
        let mut state = State::default();
        for entry in tables.keyspace(Table::Registered).prefix([key::QUEUE]) {
            let (name, stored) = entry.into_inner().map_err(failed)?;
            let (endpoint, key) = parse(&name).ok_or_else(|| record::damaged("queue"))?;
            let StoredQueue { number, backlog } = StoredQueue::decode(stored.into())?;
            state.set(number, Queue { endpoint, key, backlog });
        }
        Ok(Self(Mutex::new(state)))
    }

    /// The number of a queue, if something waits in it.
    pub(super) fn number(&self, endpoint: EndpointId, key: QueueKey) -> Option<u64> {
        self.0.lock().numbers.get(&endpoint)?.get(&key).copied()
    }

    /// The queue with this number, if something waits in it.
    pub(super) fn find(&self, number: u64) -> Option<Queue> {
        self.0.lock().queues.get(&number).copied()
    }

    /// A page of the queues of an endpoint.
    pub(super) fn page(
        &self,
        endpoint: EndpointId,
        after: Option<QueueKey>,
        limit: usize,
    ) -> Vec<(QueueKey, Backlog)> {
        let state = self.0.lock();
        let first = after.map_or(Bound::Unbounded, Bound::Excluded);
        let numbers = state.numbers.get(&endpoint).into_iter();
        let queues = numbers.flat_map(|numbers| numbers.range((first, Bound::Unbounded)));
        queues
            .take(limit)
            .filter_map(|(key, number)| Some((*key, state.queues.get(number)?.backlog)))
            .collect()
    }

    /// What waits in all queues of an endpoint.
    pub(super) fn backlog(&self, endpoint: EndpointId) -> Backlog {
        let state = self.0.lock();
        let numbers = state.numbers.get(&endpoint).into_iter().flat_map(BTreeMap::values);
        numbers.filter_map(|number| state.queues.get(number)).fold(Backlog::default(), |sum, queue| Backlog {
            tasks: sum.tasks + queue.backlog.tasks,
            bytes: sum.bytes + queue.backlog.bytes,
        })
    }

    /// Replaces what is known of these queues.
    pub(super) fn replace(&self, changed: impl IntoIterator<Item = (u64, Queue)>) {
        let mut state = self.0.lock();
        changed.into_iter().for_each(|(number, queue)| state.set(number, queue));
    }
}

impl State {
    fn set(&mut self, number: u64, queue: Queue) {
        let Queue { endpoint, key, backlog } = queue;
        if backlog.tasks > 0 {
            self.numbers.entry(endpoint).or_default().insert(key, number);
            self.queues.insert(number, queue);
            return;
        }
        self.queues.remove(&number);
        if let Some(numbers) = self.numbers.get_mut(&endpoint) {
            if numbers.get(&key) == Some(&number) {
                numbers.remove(&key);
            }
            if numbers.is_empty() {
                self.numbers.remove(&endpoint);
            }
        }
    }
}

/// Endpoint and queue of a key made by [`key::queue`].
fn parse(name: &[u8]) -> Option<(EndpointId, QueueKey)> {
    let (endpoint, rest) = name.get(1..)?.split_first_chunk()?;
    let (owner, priority) = rest.split_first_chunk()?;
    let id = |bytes: &[u8; 16]| u128::from_be_bytes(*bytes);
    let &[priority] = priority else { return None };
    let key = QueueKey { owner: IdentityId::from_u128(id(owner)), priority: i8::from_be_bytes([priority]) };
    Some((EndpointId::from_u128(id(endpoint)), key))
}
