//! Records that were read lately.

use std::{
    collections::{HashMap, VecDeque},
    hash::Hash,
};

use parking_lot::Mutex;

/// A bounded map in front of the store; what came in first goes first.
#[derive(Debug)]
pub(super) struct Cache<K, V> {
    entries: usize,
    bytes: usize,
    state: Mutex<State<K, V>>,
}

#[derive(Debug)]
struct State<K, V> {
    values: HashMap<K, (V, usize)>,
    order: VecDeque<K>,
    bytes: usize,
    version: u64,
}

/// How often the cache had been changed when somebody went to read the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Version(u64);

impl<K: Copy + Eq + Hash, V: Clone> Cache<K, V> {
    pub(super) fn new(entries: usize, bytes: usize) -> Self {
        let state = State { values: HashMap::new(), order: VecDeque::new(), bytes: 0, version: 0 };
        Self { entries, bytes, state: Mutex::new(state) }
    }

    /// The value, or the version to give to [`Cache::remember`] once it has been read.
    pub(super) fn find(&self, key: K) -> Result<V, Version> {
        let state = self.state.lock();
        state.values.get(&key).map(|(value, _)| value.clone()).ok_or(Version(state.version))
    }

    /// Keeps a value that was read from the store, unless something was changed since: then it may be old.
    pub(super) fn remember(&self, version: Version, key: K, value: V, bytes: usize) {
        let mut state = self.state.lock();
        if state.version == version.0 {
            self.insert(&mut state, key, value, bytes);
        }
    }

    /// Keeps a value that was written to the store.
    pub(super) fn put(&self, key: K, value: V, bytes: usize) {
        let mut state = self.state.lock();
        state.version += 1;
        self.insert(&mut state, key, value, bytes);
    }

    /// Forgets a value.
    pub(super) fn remove(&self, key: K) {
        let mut state = self.state.lock();
        state.version += 1;
        if let Some((_, bytes)) = state.values.remove(&key) {
            state.bytes -= bytes;
            state.order.retain(|other| *other != key);
        }
    }

    fn insert(&self, state: &mut State<K, V>, key: K, value: V, bytes: usize) {
        match state.values.insert(key, (value, bytes)) {
            Some((_, old)) => state.bytes -= old,
            None => state.order.push_back(key),
        }
        state.bytes += bytes;
        while state.values.len() > self.entries || state.bytes > self.bytes {
            let Some(oldest) = state.order.pop_front() else { break };
            if let Some((_, bytes)) = state.values.remove(&oldest) {
                state.bytes -= bytes;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_holds_no_more_than_it_may() {
        let cache = Cache::new(2, 100);
        for key in 0..3 {
            cache.put(key, key, 10);
        }
        assert_eq!((cache.find(0).ok(), cache.find(1).ok(), cache.find(2).ok()), (None, Some(1), Some(2)));
        cache.put(3, 3, 95);
        assert_eq!((cache.find(2).ok(), cache.find(3).ok()), (None, Some(3)));
        assert_eq!(cache.state.lock().bytes, 95);
    }

    #[test]
    fn a_value_read_before_a_change_is_not_kept_after_it() {
        let cache = Cache::new(2, 100);
        let version = cache.find(1).unwrap_err();
        cache.remove(1);
        cache.remember(version, 1, "old", 1);
        assert!(cache.find(1).is_err());
        let version = cache.find(1).unwrap_err();
        cache.remember(version, 1, "new", 1);
        assert_eq!(cache.find(1), Ok("new"));
    }
}
