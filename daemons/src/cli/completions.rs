//! `funcx completions`

use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::output::print;

/// Which shell.
#[derive(Debug, Args)]
pub struct Options {
    /// The shell, such as bash: `funcx completions bash > ~/.local/share/bash-completion/completions/funcx`
    pub shell: Shell,
}

/// Prints the completions.
pub(super) fn run(options: Options) -> Result<ExitCode> {
    // Not straight to standard output, where a closed pipe would be a panic.
    let mut script = Vec::new();
    clap_complete::generate(options.shell, &mut super::Options::command(), "funcx", &mut script);
    print(&String::from_utf8(script)?)?;
    Ok(ExitCode::SUCCESS)
}
