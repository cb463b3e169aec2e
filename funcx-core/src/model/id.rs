//! Identifiers. Each kind of thing has its own type, so that one cannot be passed for another.

use std::{fmt, hash, str::FromStr};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The text is not an id of the wanted kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownId {
    kind: &'static str,
    text: String,
}

impl fmt::Display for UnknownId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` is not a {} id (a UUID is wanted)", self.text, self.kind)
    }
}

impl std::error::Error for UnknownId {}

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident, $kind:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Uuid);

        impl $name {
            /// The id with these 128 bits, most significant byte first.
            pub const fn from_u128(bits: u128) -> Self {
                Self(Uuid::from_u128(bits))
            }

            /// The 128 bits of the id.
            pub const fn as_u128(self) -> u128 {
                self.0.as_u128()
            }

            /// A version 4 UUID made from 128 random bits that the caller supplies.
            pub const fn from_random(bits: u128) -> Self {
                Self(uuid::Builder::from_random_bytes(bits.to_ne_bytes()).into_uuid())
            }

            /// The id as the `uuid` crate's type.
            pub const fn uuid(self) -> Uuid {
                self.0
            }
        }

        impl From<Uuid> for $name {
            fn from(id: Uuid) -> Self {
                Self(id)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }

        impl FromStr for $name {
            type Err = UnknownId;

            fn from_str(text: &str) -> Result<Self, UnknownId> {
                Uuid::from_str(text)
                    .map(Self)
                    .map_err(|_| UnknownId { kind: $kind, text: text.chars().take(64).collect() })
            }
        }
    };
}

uuid_id!(
    /// A registered function as users name it. Several ids may stand for the same code
    /// ([`FunctionHash`](super::FunctionHash)).
    FunctionId, "function"
);
uuid_id!(
    /// One user-side agent in front of one resource.
    EndpointId, "endpoint"
);
uuid_id!(
    /// One call of a function with arguments; all its attempts carry the same id.
    TaskId, "task"
);
uuid_id!(
    /// Tasks submitted together or by one client process, so that it can find them again.
    TaskGroupId, "task group"
);
uuid_id!(
    /// A person or a robot account that owns functions, endpoints and tasks.
    IdentityId, "identity"
);
uuid_id!(
    /// One manager process for its whole life; a restarted manager is a new one.
    ManagerId, "manager"
);

/// One request for resources to a provider, numbered by the endpoint that made it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockId(pub u32);

impl fmt::Display for BlockId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The batch system's own name of a block, as it printed it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JobId(pub String);

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A hash table keyed by ids.
///
/// Ids are random bits already, so the hasher only folds them. It has no random state: the same
/// inputs in the same order give the same table, which the simulation depends on.
pub type IdMap<K, V> = hashbrown::HashMap<K, V, hash::BuildHasherDefault<IdHasher>>;

/// Folds the bytes of an id into 64 bits.
#[derive(Debug, Default, Clone, Copy)]
pub struct IdHasher(u64);

impl hash::Hasher for IdHasher {
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_le_bytes(word));
        }
    }

    fn write_u64(&mut self, word: u64) {
        // Both halves of the product (by an odd number, 2^64 over the golden ratio) depend on all bits: ids that differ
        // in few bits, such as the counted ids of tests, are spread as well as random ones.
        let product = u128::from(self.0.rotate_left(23) ^ word) * 0x9e37_79b9_7f4a_7c15;
        self.0 = product as u64 ^ (product >> 64) as u64;
    }

    fn write_u32(&mut self, word: u32) {
        self.write_u64(word.into());
    }

    fn write_usize(&mut self, _length: usize) {}

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_that_is_no_id_is_named_in_the_error() {
        let error = "frog".parse::<TaskId>().unwrap_err();
        assert_eq!(error.to_string(), "`frog` is not a task id (a UUID is wanted)");
    }

    #[test]
    fn counted_ids_do_not_share_a_bucket() {
        let hash = |id: u128| {
            let mut hasher = IdHasher::default();
            hash::Hash::hash(&TaskId::from_u128(id), &mut hasher);
            hash::Hasher::finish(&hasher)
        };
        for shift in [0, 32, 64, 96] {
            let buckets: std::collections::BTreeSet<u64> =
                (1..=1024).map(|n| hash(n << shift) % 1024).collect();
            assert!(buckets.len() > 500, "{} buckets for ids counted from bit {shift}", buckets.len());
        }
    }

    #[test]
    fn random_bits_make_a_version_4_uuid() {
        assert_eq!(TaskId::from_random(u128::MAX).uuid().get_version_num(), 4);
    }
}
