//! What is done to a fabric from outside: submissions, cancellations, faults.

use std::fmt;
use std::str::FromStr;

macro_rules! steps {
    ($($(#[$doc:meta])* $name:ident $verb:literal { $($(#[$field_doc:meta])* $field:ident),* })*) => {
        /// One thing that is done to a fabric. A place is 0 for the service, then the endpoints, then their managers.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Step {
            $($(#[$doc])* $name { $($(#[$field_doc])* $field: u32),* },)*
        }

        impl Step {
            /// The word for this kind of step.
            pub const fn verb(&self) -> &'static str {
                match self {
                    $(Self::$name { .. } => $verb,)*
                }
            }
        }

        impl fmt::Display for Step {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.verb())?;
                match self {
                    $(Self::$name { $($field),* } => { $(write!(f, " {}", $field)?;)* })*
                }
                Ok(())
            }
        }

        impl FromStr for Step {
            type Err = String;

            fn from_str(text: &str) -> Result<Self, String> {
                let mut words = text.split_whitespace();
                let verb = words.next().unwrap_or_default();
                let mut number = || -> Result<u32, String> {
                    let word = words.next().ok_or(format!("`{text}` lacks a number"))?;
                    word.parse().map_err(|_| format!("`{word}` in `{text}` is not a number"))
                };
                match verb {
                    $($verb => Ok(Self::$name { $($field: number()?),* }),)*
                    _ => Err(format!("no step `{verb}`; there are {}", [$($verb),*].join(", "))),
                }
            }
        }
    };
}

steps! {
    /// Somebody submits tasks.
    Submit "submit" {
        /// Number of the first one.
        first,
        /// How many.
        count,
        /// To which endpoint, from 0.
        lane,
        /// What they are like.
        variant
    }
    /// Somebody cancels tasks: queued, leased, finished and unknown ones.
    Cancel "cancel" {
        /// Number of the first one.
        first,
        /// How many.
        count
    }
    /// Somebody cancels everything, and as many tasks that nobody knows, again and again.
    Storm "storm" {
        /// How often.
        times
    }
    /// A process is killed; its connections close. It is started again.
    Kill "kill" {
        /// Which.
        place,
        /// When it is started again.
        down_millis
    }
    /// A machine loses its power: the process is gone, and nobody is told.
    Vanish "vanish" {
        /// Which.
        place,
        /// When it is started again.
        down_millis
    }
    /// A process is asked to leave at once, and is started again.
    Leave "leave" {
        /// Which.
        place,
        /// When it is started again.
        down_millis
    }
    /// A process is asked to finish and leave, and is started again.
    Drain "drain" {
        /// Which.
        place,
        /// When it is started again.
        down_millis
    }
    /// A process stands still (`SIGSTOP`), and then goes on with what it knew.
    Freeze "freeze" {
        /// Which.
        place,
        /// For how long.
        millis
    }
    /// The connection of a node to the one above it is reset; what is under way is lost.
    Cut "cut" {
        /// Which.
        place
    }
    /// Nothing passes between a node and the one above it, and nobody is told.
    Partition "partition" {
        /// Which.
        place,
        /// For how long.
        millis
    }
    /// What a node says does not arrive above.
    Mute "mute" {
        /// Which.
        place,
        /// For how long.
        millis
    }
    /// What the node above says does not arrive.
    Deafen "deafen" {
        /// Which.
        place,
        /// For how long.
        millis
    }
    /// A node takes long to answer anything.
    Slow "slow" {
        /// Which.
        place,
        /// For how long.
        millis,
        /// How long it takes.
        lag_millis
    }
    /// Commits of the store take long.
    SlowStore "slow-store" {
        /// For how long.
        millis,
        /// How long a commit takes.
        lag_millis
    }
    /// The store refuses commits: the disk is full.
    FullStore "full-store" {
        /// For how long.
        millis
    }
    /// The disk of an endpoint's journal is full.
    FullJournal "full-journal" {
        /// Which endpoint.
        place,
        /// For how long.
        millis
    }
    /// The wall clock of a process is set forwards.
    ClockForward "clock-forward" {
        /// Which.
        place,
        /// By how much.
        millis
    }
    /// The wall clock of a process is set backwards.
    ClockBack "clock-back" {
        /// Which.
        place,
        /// By how much.
        millis
    }
    /// Every busy worker of a manager crashes.
    Crash "crash" {
        /// Which manager.
        place
    }
}

/// A kind of fault that a schedule may have; the other steps are submissions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "each stands for the step of the same name")]
pub enum FaultKind {
    Cancel,
    Storm,
    Kill,
    Vanish,
    Leave,
    Drain,
    Freeze,
    Cut,
    Partition,
    Mute,
    Deafen,
    Slow,
    SlowStore,
    FullStore,
    Clock,
    Crash,
    FullJournal,
}

impl FaultKind {
    /// Every kind.
    pub const ALL: [Self; 17] = [
        Self::Cancel,
        Self::Storm,
        Self::Kill,
        Self::Vanish,
        Self::Leave,
        Self::Drain,
        Self::Freeze,
        Self::Cut,
        Self::Partition,
        Self::Mute,
        Self::Deafen,
        Self::Slow,
        Self::SlowStore,
        Self::FullStore,
        Self::Clock,
        Self::Crash,
        Self::FullJournal,
    ];

    /// These kinds as the number that stands in a configuration.
    pub fn mask(kinds: &[Self]) -> u32 {
        kinds.iter().map(|kind| 1 << *kind as u32).sum()
    }
}

impl Step {
    /// Whether every process goes on and is reachable again at once: then nothing may run twice.
    pub(super) const fn is_lossless(&self) -> bool {
        matches!(
            self,
            Self::Submit { .. }
                | Self::Cancel { .. }
                | Self::Storm { .. }
                | Self::Cut { .. }
                | Self::SlowStore { .. }
                | Self::FullStore { .. }
                | Self::FullJournal { .. }
                | Self::ClockForward { .. }
                | Self::ClockBack { .. }
                | Self::Crash { .. }
        )
    }
}
