//! From one command to the line that starts it on every node of a block.

use super::Command;
use crate::model::Result;

/// Turns the command of one manager into the command that starts a manager on every node of a block.
///
/// Pure; called once per block.
///
/// **Errors.** `Unsupported` if it cannot start that many managers per node or nodes.
///
/// **Suite.** `funcx_core::conformance::launcher`.
pub trait Launcher: Send + Sync + 'static {
    /// The word for it in configuration.
    fn name(&self) -> &'static str;

    /// The line to run inside a block of `nodes` nodes so that `manager` runs once on each node.
    fn launch(&self, manager: Command, nodes: u32) -> Result<Command>;
}
