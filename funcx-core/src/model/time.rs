//! Time as values. Nothing in this crate reads a clock; drivers and simulations pass [`Now`] in.

use std::{ops, time::Duration};

use serde::{Deserialize, Serialize};

/// A reading of a monotonic clock, in nanoseconds since an origin that each process chooses, one for all its drivers and
/// executors.
///
/// Ticks of different processes cannot be compared; deadlines are computed with ticks only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Tick(u64);

impl Tick {
    /// The origin.
    pub const ZERO: Self = Self(0);

    /// Later than every deadline.
    pub const NEVER: Self = Self(u64::MAX);

    /// The tick this many nanoseconds after the origin.
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Nanoseconds since the origin.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// Time from `earlier` to this tick; zero if `earlier` is later.
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl ops::Add<Duration> for Tick {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)))
    }
}

/// Wall-clock time in nanoseconds since the Unix epoch. For people and records, never for deadlines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(u64);

impl Timestamp {
    /// "Not stamped yet".
    pub const UNSET: Self = Self(0);

    /// The time this many nanoseconds after the Unix epoch.
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Nanoseconds since the Unix epoch.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// Seconds since the Unix epoch.
    pub fn as_secs_f64(self) -> f64 {
        self.0 as f64 / 1e9
    }

    /// Whether this is a real time, not [`Timestamp::UNSET`].
    pub const fn is_set(self) -> bool {
        self.0 != 0
    }
}

/// One reading of both clocks, taken by the driver before it calls a state machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Now {
    /// For deadlines.
    pub tick: Tick,
    /// For hop stamps and records.
    pub wall: Timestamp,
}
