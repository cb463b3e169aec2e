//! The promises that the state machines keep, each with a name.
//!
//! There is one definition for all uses: the state machines assert them in debug builds, [`Dispatcher::check`] looks
//! at all of them, and property tests, simulation and fuzzing call that after every step.
//!
//! [`Dispatcher::check`]: super::Dispatcher::check

use std::fmt;

/// A promise. The text of each is what operators are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Invariant {
    /// Every accepted task reaches exactly one outcome.
    OneOutcome,
    /// A task is in one place: queued, leased to one peer, or finished.
    OneLease,
    /// A peer never holds more attempts than the capacity it advertised.
    Credits,
    /// Queues hold no more than their bounds.
    BoundedQueue,
    /// Counters equal the sets they count.
    HonestCounters,
    /// A node never counts attempts backwards: the number it leases is at most the number it was given or made.
    BoundedAttempts,
    /// A task does not wait while a peer that could run it has room.
    WorkConserving,
}

/// A broken promise, with what was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Which.
    pub invariant: Invariant,
    /// What was seen.
    pub seen: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is broken: {}", self.invariant, self.seen)
    }
}

impl std::error::Error for Violation {}

/// Checks a promise where it could be broken, in debug builds.
macro_rules! invariant {
    ($name:ident, $condition:expr, $($seen:tt)+) => {
        debug_assert!($condition, "{:?} is broken: {}", $crate::state::invariant::Invariant::$name, format_args!($($seen)+))
    };
}

pub(crate) use invariant;
