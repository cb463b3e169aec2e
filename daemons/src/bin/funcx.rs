//! The `funcx` command.

use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use funcx_daemons::{cli, exit, logging};

fn main() -> ExitCode {
    let options = cli::Options::parse();
    match options.command.is_daemon() {
        true => logging::init(options.log),
        false => logging::init_quiet(options.log),
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let result =
        runtime.context("cannot start a runtime").and_then(|runtime| runtime.block_on(cli::run(options)));
    exit::report("funcx", result)
}
