//! What a task asks for.

use std::time::Duration;

/// The resources one task asks for and where it wants to run.
///
/// A shape is a request, not a measurement. Every field has a neutral value that asks for nothing special, and
/// [`Shape::default`] is the one-core shape of the fast path: one core on one node, no walltime, anywhere.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Shape {
    /// Cores on each node, in thousandths: 500 is half a core.
    pub milli_cores: u32,
    /// Memory on each node in bytes; 0 asks for none in particular.
    pub memory_bytes: u64,
    /// Accelerators on each node.
    pub accelerators: Accelerators,
    /// Nodes that the task spans at the same time.
    pub nodes: u32,
    /// Ranks on each node; more than one rank in all makes it an MPI task.
    pub ranks_per_node: u32,
    /// Longest time the task may run; it is stopped and ends as `TimedOut` after that. Tasks in worker processes are; a
    /// native function runs in the manager itself and cannot be stopped, so it is let to its end.
    pub walltime: Option<Duration>,
    /// Environment of the endpoint to run in: an interpreter with what was set up for it, under the name that the
    /// endpoint's configuration gives it. The default one if `None`.
    pub environment: Option<String>,
    /// Container image to run in, in the words of the container runtime that the endpoint uses.
    pub container: Option<String>,
    /// Which part of an endpoint may run it.
    pub target: Target,
}

impl Default for Shape {
    fn default() -> Self {
        Self {
            milli_cores: 1000,
            memory_bytes: 0,
            accelerators: Accelerators::default(),
            nodes: 1,
            ranks_per_node: 1,
            walltime: None,
            environment: None,
            container: None,
            target: Target::Anywhere,
        }
    }
}

impl Shape {
    /// Whether this is the shape that any free worker slot can take.
    pub fn is_one_core(&self) -> bool {
        self.milli_cores <= 1000
            && self.memory_bytes == 0
            && self.accelerators.milli_count == 0
            && self.nodes == 1
            && self.ranks_per_node == 1
            && self.environment.is_none()
            && self.container.is_none()
            && self.target == Target::Anywhere
    }
}

/// Whether a text can be the name of an environment: 1 to 64 letters, digits, `.`, `_` and `-`.
pub fn is_environment_name(name: &str) -> bool {
    (1..=64).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
}

/// How many accelerators, and of which kind.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Accelerators {
    /// Thousandths of a device: 250 is a quarter of one.
    pub milli_count: u32,
    /// Vendor or model the site uses as a name (`nvidia-a100`); any kind if `None`.
    pub kind: Option<String>,
}

/// Where inside an endpoint a task may run.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub enum Target {
    /// On any manager.
    #[default]
    Anywhere,
    /// Only on managers that carry all these labels.
    Labels(Vec<String>),
}
