//! `funcx-service`: accepts functions and tasks over HTTP, keeps them, and hands them to endpoints.

use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use funcx_daemons::exit::{Exit, report};
use funcx_daemons::logging::{self, LogOptions};
use funcx_daemons::service::{self, ServiceOptions};

#[derive(Debug, Parser)]
#[command(name = "funcx-service", version, about = "Accepts functions and tasks and hands them to endpoints", after_help = Exit::HELP)]
struct Arguments {
    #[command(flatten)]
    service: ServiceOptions,
    #[command(flatten)]
    log: LogOptions,
}

fn main() -> ExitCode {
    let Arguments { service, log } = Arguments::parse();
    logging::init(log);
    let runtime = tokio::runtime::Runtime::new().context("cannot start the runtime");
    report("funcx-service", runtime.and_then(|runtime| runtime.block_on(service::run(service))))
}
