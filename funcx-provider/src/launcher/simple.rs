//! Resources that start the command on every node themselves.

use funcx_core::contract::{Command, Launcher};
use funcx_core::model::{Error, ErrorKind, Result};

/// Leaves the command as it is, for resources that run the command of a block on each of its nodes without help.
#[derive(Debug, Clone, Copy, Default)]
pub struct SimpleLauncher;

impl Launcher for SimpleLauncher {
    fn name(&self) -> &'static str {
        "SimpleLauncher"
    }

    fn launch(&self, manager: Command, nodes: u32) -> Result<Command> {
        match nodes {
            0 => {
                Err(Error::new(ErrorKind::Unsupported, "launch managers", "a block of 0 nodes runs nothing")
                    .with_context("launcher", self.name()))
            }
            _ => Ok(manager),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_keeps_the_contract() {
        funcx_core::conformance::launcher::suite(&SimpleLauncher, &[1, 2, 1000], &[0]);
    }
}
