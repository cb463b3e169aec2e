//! Blocks of one node.

use funcx_core::contract::{Command, Launcher};
use funcx_core::model::{Error, ErrorKind, Result};

/// Starts the manager where the block starts, which is right for blocks of one node.
#[derive(Debug, Clone, Copy, Default)]
pub struct SingleNodeLauncher;

impl Launcher for SingleNodeLauncher {
    fn name(&self) -> &'static str {
        "SingleNodeLauncher"
    }

    fn launch(&self, manager: Command, nodes: u32) -> Result<Command> {
        if nodes == 1 {
            return Ok(manager);
        }
        let message = format!(
            "it starts a manager on one node and the block has {nodes}; ask for one node per block, or name a launcher \
             that reaches all of them"
        );
        Err(Error::new(ErrorKind::Unsupported, "launch managers", message)
            .with_context("launcher", self.name()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_keeps_the_contract() {
        funcx_core::conformance::launcher::suite(&SingleNodeLauncher, &[1], &[0, 2, 1000]);
    }
}
