//! Suite for the [`Launcher`] contract.

use std::ffi::OsString;

use crate::contract::{Command, Launcher};
use crate::model::ErrorKind;

/// Checks that `launcher` keeps the contract for blocks of `supported` nodes and refuses blocks of `unsupported`.
///
/// # Panics
/// With the promise that is broken.
pub fn suite(launcher: &dyn Launcher, supported: &[u32], unsupported: &[u32]) {
    assert!(!launcher.name().is_empty(), "a launcher without a word for it");
    let manager = manager();
    for &nodes in supported {
        let line = launcher.launch(manager.clone(), nodes).expect("it supports this number of nodes");
        let again = launcher.launch(manager.clone(), nodes).expect("it supports this number of nodes");
        assert_eq!(line, again, "the same command gives another line");
        assert!(
            names_in_order(&line, &manager),
            "the line does not run the manager with its arguments: {line:?}"
        );
        assert!(passes_variables(&line, &manager), "the line loses the manager's variables: {line:?}");
        assert_eq!(line.stdin, manager.stdin, "the line loses the manager's standard input");
    }
    for &nodes in unsupported {
        let error =
            launcher.launch(manager.clone(), nodes).expect_err("it does not support this number of nodes");
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        assert!(error.to_string().contains(&nodes.to_string()), "the error does not name the nodes: {error}");
    }
}

/// A command with everything that quoting can spoil.
fn manager() -> Command {
    let mut command = Command::new("/opt/funcx/bin/funcx-worker")
        .with_arguments([
            "--endpoint",
            "tcp:10.0.0.1:7000",
            "--name",
            "it's a \"name\" with $HOME; and `spaces`",
        ])
        .with_variable("FUNCX_BLOCK", "7");
    command.directory = Some("/scratch".into());
    command
}

/// Whether program and arguments stand in the line, each as an argument of its own, in order. A launcher may put them
/// into the text of a script instead; then the script must hold them in order.
fn names_in_order(line: &Command, manager: &Command) -> bool {
    let words: Vec<&OsString> = std::iter::once(&line.program).chain(&line.arguments).collect();
    let mut rest = words.iter();
    let as_arguments = std::iter::once(&manager.program)
        .chain(&manager.arguments)
        .all(|wanted| rest.any(|word| *word == wanted));
    as_arguments
        || words.iter().any(|word| {
            let script = word.to_string_lossy();
            let plain =
                [&manager.program, &manager.arguments[0], &manager.arguments[1], &manager.arguments[2]];
            let mut from = 0;
            plain.iter().all(|wanted| {
                let found = script[from..].find(&*wanted.to_string_lossy());
                from += found.unwrap_or_default();
                found.is_some()
            })
        })
}

fn passes_variables(line: &Command, manager: &Command) -> bool {
    manager.environment.iter().all(|(name, value)| {
        let assignment = format!("{}={}", name.to_string_lossy(), value.to_string_lossy());
        line.environment.get(name) == Some(value)
            || line.arguments.iter().any(|argument| argument.to_string_lossy().contains(&assignment))
    })
}
