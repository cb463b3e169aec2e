//! What is simulated.

use std::fmt;
use std::str::FromStr;

use super::FaultKind;
use super::random::Random;

/// Every field is a number, so that a configuration has a text that can be typed.
macro_rules! config {
    ($($(#[$doc:meta])* $field:ident = $default:expr;)*) => {
        /// What is simulated. Its text lists the fields that differ from the default, as `field=number`.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub struct FabricConfig {
            $($(#[$doc])* pub $field: u32,)*
        }

        impl Default for FabricConfig {
            fn default() -> Self {
                Self { $($field: $default,)* }
            }
        }

        impl FabricConfig {
            /// Sets the field of this name.
            ///
            /// # Errors
            /// There is no such field; the message names those that there are.
            pub fn set(&mut self, name: &str, value: u32) -> Result<(), String> {
                match name {
                    $(stringify!($field) => self.$field = value,)*
                    _ => return Err(format!("no field `{name}`; there are {}", [$(stringify!($field)),*].join(", "))),
                }
                Ok(())
            }
        }

        impl fmt::Display for FabricConfig {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let default = Self::default();
                let mut space = "";
                $(if self.$field != default.$field {
                    write!(f, "{space}{}={}", stringify!($field), self.$field)?;
                    space = " ";
                })*
                let _ = space;
                Ok(())
            }
        }
    };
}

config! {
    /// Endpoints of the service.
    endpoints = 2;
    /// Managers of each endpoint.
    managers = 2;
    /// Worker slots of each manager.
    workers = 3;
    /// Attempts that may wait at each manager.
    prefetch = 2;
    /// Tasks that an endpoint takes besides those its managers have room for.
    queue_tasks = 16;
    /// Tasks of each endpoint that the service holds in memory; the others wait in its store.
    window_tasks = 1000;
    /// Tasks in all.
    tasks = 60;
    /// Most tasks of one submission.
    submission_tasks = 32;
    /// Time in which the submissions come.
    submit_millis = 5_000;
    /// Longest time that a task takes.
    longest_task_millis = 300;
    /// Ends of tasks are rounded up to a multiple of this, so that many end at once in a large fabric.
    grain_micros = 100;
    /// Attempts that each task allows.
    max_attempts = 3;
    /// Whether tasks differ in owner, priority, attempts and time limits, and managers in their habits; 0 or 1.
    varied = 0;
    /// Whether endpoints keep journals; 0 or 1.
    journals = 0;
    /// Longest time that the blocks of managers last, each at least two thirds of it: when one is over its manager is
    /// killed. 0 if they last for ever.
    block_millis = 0;
    /// Environments that tasks ask for besides the default one, at most four. Those of a manager share its worker slots, and some
    /// managers lack some of them. 0 if all workers are of one type.
    environments = 0;
    /// Attempts in a thousand whose worker crashes.
    crashes_per_mille = 50;
    /// Faults in all.
    faults = 0;
    /// Time in which the faults come.
    fault_millis = 10_000;
    /// Which kinds of faults come: the sum of `1 << FaultKind as u32`.
    fault_kinds = u32::MAX;
    /// How many inputs a node handles between two full checks of its invariants.
    check_every = 16;
    /// A bug that is planted to test the simulation itself: a service that starts again has forgotten the last outcome
    /// that its store had; 0 or 1.
    forgetful_store = 0;
}

impl FromStr for FabricConfig {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut config = Self::default();
        for field in text.split_whitespace() {
            let (name, value) = field.split_once('=').ok_or(format!("`{field}` is not field=number"))?;
            let value = value.parse().map_err(|_| format!("`{value}` is not a number for `{name}`"))?;
            config.set(name, value)?;
        }
        Ok(config)
    }
}

impl FabricConfig {
    /// A small fabric whose shape, load and faults depend on the seed, so that a run over many seeds sees many shapes.
    pub fn of_seed(seed: u64) -> Self {
        let mut random = Random::new(!seed);
        let mut below = |bound| random.below(bound);
        let endpoints = 1 + below(3);
        Self {
            endpoints,
            managers: 1 + below(3),
            workers: 1 + below(4),
            prefetch: below(4),
            queue_tasks: [0, 1, 16][below(3) as usize],
            window_tasks: [4, 16, 1000][below(3) as usize],
            longest_task_millis: [20, 300, 1_200, 20_000][below(4) as usize],
            max_attempts: [1, 3, 3][below(3) as usize],
            varied: below(2),
            crashes_per_mille: [0, 50][below(2) as usize],
            faults: below(13),
            // Every kind, one kind, or several.
            fault_kinds: match below(3) {
                0 => u32::MAX,
                1 => 1 << below(FaultKind::ALL.len() as u32),
                _ => below(u32::MAX),
            },
            journals: below(2),
            // Tasks that say how long they take must fit into a block.
            block_millis: [0, 0, 60_000][below(3) as usize],
            environments: [0, 0, 1, 3][below(4) as usize],
            ..Self::default()
        }
    }

    pub(super) const fn places(&self) -> u32 {
        1 + self.endpoints + self.endpoints * self.managers
    }
}
