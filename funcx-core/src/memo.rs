//! Values of calls, found again by what was called: which calls are equal, and a bounded memory of their values.

use std::collections::BTreeMap;

use bytes::Bytes;
use lru::LruCache;
use serde::Deserialize;
use serde::de::IgnoredAny;
use sha2::{Digest, Sha256};

use crate::model::{
    EndpointId, FunctionHash, FunctionId, IdentityId, Memoize, Outcome, OutcomeKind, Shape, TaskSpec,
};

/// What equal calls have in common: SHA-256 over who may share the value, the function's hash, whether it is mapped,
/// options, arguments, and what it asks for but for its walltime.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MemoKey(pub [u8; 32]);

impl MemoKey {
    /// The key of a call whose value only its owner may see.
    pub fn own(spec: &TaskSpec, arguments: &[u8]) -> Self {
        MemoKeys::own(spec).of(arguments)
    }

    /// The key of a call whose value everybody may see who may call this function at this endpoint. The function counts by its
    /// id: others with the same code may be for other people.
    pub fn shared(spec: &TaskSpec, arguments: &[u8], function: FunctionId, endpoint: EndpointId) -> Self {
        MemoKeys::shared(spec, function, endpoint).of(arguments)
    }
}

/// The keys of calls that differ in their arguments only: what they have in common is hashed once.
#[derive(Debug, Clone)]
pub struct MemoKeys(Sha256);

impl MemoKeys {
    /// The keys by which calls want to be remembered; `None` if they want to run. See [`MemoKey::own`] and
    /// [`MemoKey::shared`].
    pub fn wanted(spec: &TaskSpec, function: FunctionId, endpoint: EndpointId) -> Option<Self> {
        match spec.memoize {
            Memoize::Never => None,
            Memoize::Own => Some(Self::own(spec)),
            Memoize::Shared => Some(Self::shared(spec, function, endpoint)),
        }
    }

    fn own(spec: &TaskSpec) -> Self {
        Self::of_owner(spec.owner, spec.function.hash(), spec.map, &spec.options, &spec.shape)
    }

    /// The keys of calls of this owner, from what stands in a specification.
    pub(crate) fn of_owner(
        owner: IdentityId,
        function: FunctionHash,
        map: bool,
        options: &[u8],
        shape: &Shape,
    ) -> Self {
        Self::new(owner.uuid().as_bytes(), function, map, options, shape)
    }

    fn shared(spec: &TaskSpec, function: FunctionId, endpoint: EndpointId) -> Self {
        let scope = [function.as_u128().to_be_bytes(), endpoint.as_u128().to_be_bytes()].concat();
        Self::new(&scope, spec.function.hash(), spec.map, &spec.options, &spec.shape)
    }

    fn new(scope: &[u8], function: FunctionHash, map: bool, options: &[u8], shape: &Shape) -> Self {
        // Whatever a function may see of where it runs; for how long it may do so makes no difference to its value.
        let shape = Shape { walltime: None, ..shape.clone() };
        let shape = if shape == Shape::default() { String::new() } else { format!("{shape:?}") };
        let mut digest = Sha256::new();
        // Lengths keep parts apart that run into each other.
        for part in [scope, &function.0, &[u8::from(map)], options, shape.as_bytes()] {
            digest.update((part.len() as u64).to_le_bytes());
            digest.update(part);
        }
        Self(digest)
    }

    /// The key of the call with these arguments.
    pub fn of(&self, arguments: &[u8]) -> MemoKey {
        MemoKey(self.0.clone().chain_update(arguments).finalize().into())
    }
}

/// The value that an outcome leaves for equal calls: what a task returned, if it is a `map` only if none of its calls failed.
pub fn lasting_value(map: bool, outcome: &Outcome) -> Option<&Bytes> {
    let lasts = outcome.kind == OutcomeKind::Returned && (!map || has_no_failures(&outcome.payload));
    lasts.then_some(&outcome.payload)
}

fn has_no_failures(map_value: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Failures {
        failures: BTreeMap<String, IgnoredAny>,
    }
    serde_json::from_slice::<Failures>(map_value).is_ok_and(|value| value.failures.is_empty())
}

/// Values by key, bounded in bytes; those that nobody has asked for the longest go first.
#[derive(Debug)]
pub struct MemoCache {
    capacity_bytes: usize,
    bytes: usize,
    values: LruCache<MemoKey, Bytes>,
    times_cleared: u64,
}

impl MemoCache {
    /// An empty memory for this many bytes, its own overhead included.
    pub fn new(capacity_bytes: usize) -> Self {
        Self { capacity_bytes, bytes: 0, values: LruCache::unbounded(), times_cleared: 0 }
    }

    /// The value of an equal call.
    pub fn find(&mut self, key: &MemoKey) -> Option<Bytes> {
        self.values.get(key).cloned()
    }

    /// Remembers a value, unless it is larger than the whole memory.
    ///
    /// The value is copied if it is a small part of something larger, such as the buffer of a connection, which would
    /// stay in memory with it.
    pub fn insert(&mut self, key: MemoKey, value: &Bytes) {
        let size = size(value);
        if size > self.capacity_bytes {
            return;
        }
        if let Some(old) = self.values.put(key, Bytes::copy_from_slice(value)) {
            self.bytes -= self::size(&old);
        }
        self.bytes += size;
        while self.bytes > self.capacity_bytes {
            let Some((_, oldest)) = self.values.pop_lru() else { break };
            self.bytes -= self::size(&oldest);
        }
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.values.clear();
        self.bytes = 0;
        self.times_cleared += 1;
    }

    /// How often it was told to forget everything: what was looked up elsewhere before the last time is not for it any more.
    pub const fn times_cleared(&self) -> u64 {
        self.times_cleared
    }

    /// Bytes that it occupies.
    pub const fn bytes(&self) -> usize {
        self.bytes
    }
}

/// Bytes that an entry occupies: value, key, and about twice that for the list and the table.
fn size(value: &Bytes) -> usize {
    value.len() + 2 * (size_of::<MemoKey>() + size_of::<Bytes>() + 4 * size_of::<usize>())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::model::{Failure, Function, IdentityId, Task, TaskId};

    fn spec(owner: u128) -> TaskSpec {
        let function = Arc::new(Function::python("f", "def f(): pass"));
        TaskSpec::new(function, IdentityId::from_u128(owner))
    }

    #[test]
    fn calls_are_equal_if_function_arguments_options_and_owner_are() {
        let key = |spec: &TaskSpec, arguments: &str| MemoKey::own(spec, arguments.as_bytes());
        let one = spec(1);
        assert_eq!(key(&one, "x"), key(&spec(1), "x"));
        assert_ne!(key(&one, "x"), key(&one, "y"));
        assert_ne!(key(&one, "x"), key(&spec(2), "x"), "another owner");
        let other = TaskSpec { function: Arc::new(Function::python("g", "def f(): pass")), ..one.clone() };
        assert_ne!(key(&one, "x"), key(&other, "x"));
        assert_ne!(key(&one, "x"), key(&TaskSpec { options: "x".into(), ..one.clone() }, ""));
        assert_ne!(key(&one, "x"), key(&TaskSpec { map: true, ..one.clone() }, "x"));
        let mut inside = one.clone();
        inside.shape.container = Some("image".into());
        let mut longer = one.clone();
        longer.shape.walltime = Some(std::time::Duration::from_secs(1));
        assert_eq!(key(&one, "x"), key(&longer, "x"));
        let mut wider = one.clone();
        wider.shape.nodes = 2;
        assert_ne!(key(&one, "x"), key(&wider, "x"));
        let mut elsewhere = one.clone();
        elsewhere.shape.environment = Some("image".into());
        assert_ne!(key(&inside, "x"), key(&elsewhere, "x"));
        assert_ne!(key(&one, "x"), key(&inside, "x"));
    }

    #[test]
    fn a_shared_value_is_anybodys_who_calls_the_same_function_at_the_same_endpoint() {
        let key = |spec: &TaskSpec, function, endpoint| {
            MemoKey::shared(spec, b"x", FunctionId::from_u128(function), EndpointId::from_u128(endpoint))
        };
        let (mine, theirs) = (spec(1), spec(2));
        assert_eq!(key(&mine, 1, 1), key(&theirs, 1, 1));
        assert_ne!(key(&mine, 1, 1), key(&mine, 1, 2));
        assert_ne!(key(&mine, 1, 1), key(&mine, 2, 1), "the same code, for other people");
        assert_ne!(key(&mine, 1, 1), MemoKey::own(&mine, b"x"));
    }

    #[test]
    fn failures_leave_nothing_and_neither_do_maps_with_some() {
        let single = Arc::new(spec(1));
        let map = Arc::new(TaskSpec { map: true, ..(*single).clone() });
        let lasting = |spec: &Arc<TaskSpec>, value: &str| {
            let task = Task::new(TaskId::from_u128(1), Arc::clone(spec), "");
            lasting_value(spec.map, &Outcome::returned(&task, value.to_owned())).is_some()
        };
        assert!(lasting(&single, "1") && lasting(&map, r#"{"values":[1],"failures":{}}"#));
        assert!(!lasting(
            &map,
            r#"{"values":[null],"failures":{"0":{"code":"E","message":"","traceback":""}}}"#
        ));
        let task = Task::new(TaskId::from_u128(1), Arc::clone(&single), "");
        let failed = Outcome::failed(&task, OutcomeKind::Raised, &Failure::new("E", "no"));
        assert_eq!(lasting_value(false, &failed), None);
    }

    fn numbered(number: u8) -> MemoKey {
        MemoKey([number; 32])
    }

    #[test]
    fn what_nobody_asks_for_goes_first_and_what_never_fits_is_left_out() {
        let value = Bytes::from_static(b"value");
        let mut cache = MemoCache::new(2 * size(&value));
        cache.insert(numbered(1), &value);
        cache.insert(numbered(2), &value);
        assert_eq!(cache.find(&numbered(1)), Some(value.clone()));
        cache.insert(numbered(3), &value);
        assert_eq!(cache.find(&numbered(2)), None);
        assert_eq!(
            (cache.find(&numbered(1)), cache.find(&numbered(3))),
            (Some(value.clone()), Some(value.clone()))
        );
        cache.insert(numbered(4), &vec![0; 3 * size(&value)].into());
        assert_eq!((cache.find(&numbered(4)), cache.bytes()), (None, 2 * size(&value)));
    }

    #[test]
    fn a_value_that_comes_again_is_counted_once() {
        let mut cache = MemoCache::new(10_000);
        cache.insert(numbered(1), &"one".into());
        cache.insert(numbered(1), &"another".into());
        assert_eq!(
            (cache.find(&numbered(1)), cache.bytes()),
            (Some("another".into()), size(&"another".into()))
        );
    }
}
