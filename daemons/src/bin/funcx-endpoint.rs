//! `funcx-endpoint`: configures, starts and watches endpoints on this machine.

use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use funcx_daemons::endpoint::cli::{self, Arguments};
use funcx_daemons::exit::{Exit, report};

#[derive(Debug, Parser)]
#[command(name = "funcx-endpoint", version, about = "Configures, starts and watches endpoints on this machine", after_help = Exit::HELP)]
struct Endpoint {
    #[command(flatten)]
    arguments: Arguments,
}

fn main() -> ExitCode {
    let Endpoint { arguments } = Endpoint::parse();
    let runtime = tokio::runtime::Runtime::new().context("cannot start the runtime");
    report("funcx-endpoint", runtime.and_then(|runtime| runtime.block_on(cli::run(arguments, &[]))))
}
