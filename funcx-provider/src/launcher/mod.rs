//! From the command of one manager to the line that starts it on every node of a block.

mod simple;
mod single_node;

use std::sync::Arc;

use funcx_core::contract::{Launcher, Registry};
use funcx_core::model::Result;

pub use simple::SimpleLauncher;
pub use single_node::SingleNodeLauncher;

/// Adds the launchers of this module under their names.
///
/// # Errors
/// `Conflict` if a name is taken.
pub fn register(registry: &mut Registry<Arc<dyn Launcher>>) -> Result<()> {
    let launchers: [Arc<dyn Launcher>; 2] = [Arc::new(SingleNodeLauncher), Arc::new(SimpleLauncher)];
    launchers.into_iter().try_for_each(|launcher| registry.register(launcher.name(), launcher))
}

#[cfg(test)]
mod tests {
    use funcx_core::contract::Command;

    use super::*;

    #[test]
    fn registered_launchers_are_found_by_name() {
        let mut registry = Registry::new("launcher");
        register(&mut registry).unwrap();
        for name in ["SingleNodeLauncher", "SimpleLauncher"] {
            let command = Command::new("manager").with_argument("--flag");
            assert_eq!(registry.find(name).unwrap().launch(command.clone(), 1).unwrap(), command);
        }
        assert!(register(&mut registry).is_err());
    }
}
