//! Values by call, bounded in bytes.

use std::collections::VecDeque;

use bytes::Bytes;
use hashbrown::HashMap;

use crate::model::{FunctionHash, IdentityId, Task};

/// What makes two calls the same.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Key {
    owner: IdentityId,
    function: FunctionHash,
    arguments: Bytes,
}

impl Key {
    pub(super) fn of(task: &Task) -> Self {
        Self { owner: task.spec.owner, function: task.spec.function.hash(), arguments: task.payload.clone() }
    }
}

#[derive(Debug)]
pub(super) struct Cache {
    capacity_bytes: usize,
    bytes: usize,
    hits: u64,
    values: HashMap<Key, Bytes>,
    oldest: VecDeque<Key>,
}

impl Cache {
    pub(super) fn new(capacity_bytes: usize) -> Self {
        Self { capacity_bytes, bytes: 0, hits: 0, values: HashMap::default(), oldest: VecDeque::new() }
    }

    pub(super) const fn hits(&self) -> u64 {
        self.hits
    }

    pub(super) fn find(&mut self, key: &Key) -> Option<Bytes> {
        let value = self.values.get(key).cloned()?;
        self.hits += 1;
        Some(value)
    }

    pub(super) fn insert(&mut self, key: Key, value: Bytes) {
        let size = size(&key, &value);
        if size > self.capacity_bytes || self.values.contains_key(&key) {
            return;
        }
        self.bytes += size;
        self.oldest.push_back(key.clone());
        self.values.insert(key, value);
        while self.bytes > self.capacity_bytes {
            let Some(oldest) = self.oldest.pop_front() else { break };
            if let Some(value) = self.values.remove(&oldest) {
                self.bytes -= self::size(&oldest, &value);
            }
        }
    }
}

/// Bytes that an entry occupies, in the table and in the line of the oldest.
fn size(key: &Key, value: &Bytes) -> usize {
    key.arguments.len() + value.len() + 2 * size_of::<Key>() + size_of::<Bytes>()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(owner: u128, arguments: &'static str) -> Key {
        Key {
            owner: IdentityId::from_u128(owner),
            function: FunctionHash([7; 32]),
            arguments: arguments.into(),
        }
    }

    #[test]
    fn another_owner_finds_nothing() {
        let mut cache = Cache::new(10_000);
        cache.insert(key(1, "x"), "value".into());
        assert_eq!(cache.find(&key(1, "x")), Some("value".into()));
        assert_eq!(cache.find(&key(2, "x")), None);
        assert_eq!(cache.hits(), 1);
    }

    #[test]
    fn the_oldest_go_when_it_is_full_and_what_never_fits_is_left_out() {
        let one = size(&key(1, "a"), &"1".into());
        let mut cache = Cache::new(2 * one);
        for arguments in ["a", "b", "c"] {
            cache.insert(key(1, arguments), "1".into());
        }
        assert_eq!(cache.find(&key(1, "a")), None);
        assert_eq!(cache.find(&key(1, "c")), Some("1".into()));
        cache.insert(key(1, "d"), vec![0; 3 * one].into());
        assert_eq!((cache.find(&key(1, "d")), cache.bytes), (None, 2 * one));
    }
}
