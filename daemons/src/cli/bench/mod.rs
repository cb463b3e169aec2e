//! `funcx bench`: measures a running fabric from outside.

mod hops;
mod latency;

use std::process::ExitCode;

use anyhow::Result;
use clap::Subcommand;

use super::common::Common;

/// What to measure.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Call a function many times, one call after the other, and say where the time goes
    Latency(latency::Options),
}

/// Does what the command line says.
pub(super) async fn run(common: &Common, command: Command) -> Result<ExitCode> {
    match command {
        Command::Latency(options) => latency::run(common, options).await,
    }
}
