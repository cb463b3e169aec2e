//! The `funcx` command: one file per sub-command.
//!
//! | File | Holds |
//! | --- | --- |
//! | `token`, `function`, `run`, `map`, `task`, `endpoint`, `limits`, `bench`, `chaos`, `completions` | the sub-commands |
//! | `timeline`, `cancel`, `purge` | what happened to a task; stopping and forgetting tasks |
//! | `common` | what all of them take: where the service is, who asks, which form the answer has |
//! | `lines` | lines of JSON as arguments of a function |
//! | `words` | words of a command line as arguments of a function |
//! | `source` | which function of a Python file is meant |
//! | `ending` | how the end of a task is shown |
//! | `output` | tables and JSON |
//! | `process` | processes that descend from this one |
//! | `which` | tasks by their ids or their group |
//! | `hint` | what to do about an error |

pub mod bench;
pub mod cancel;
#[cfg(target_os = "linux")]
pub mod chaos;
pub mod common;
pub mod completions;
mod ending;
pub mod endpoint;
pub mod function;
mod hint;
pub mod limits;
mod lines;
pub mod map;
mod output;
mod process;
pub mod purge;
pub mod run;
mod source;
pub mod task;
mod timeline;
pub mod token;
pub mod which;
mod words;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use funcx_core::inproc::NativeFunctions;

use crate::all_in_one::{
    demo::{self, DemoOptions},
    up::{self, UpOptions},
};
use crate::exit::Exit;
use crate::logging::LogOptions;
use crate::worker::{self, WorkerOptions};
use common::Common;

/// Command line of `funcx`.
#[derive(Debug, Parser)]
#[command(
    name = "funcx",
    version,
    about = "Register functions once, run them on any endpoint",
    after_help = Exit::HELP,
    arg_required_else_help = true
)]
pub struct Options {
    /// What all sub-commands take.
    #[command(flatten)]
    pub common: Common,
    /// Logs.
    #[command(flatten)]
    pub log: LogOptions,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The sub-commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Start a service, an endpoint and workers, run functions of every kind, and show where the time went
    Demo(DemoOptions),
    /// Start a service, an endpoint and workers, and keep them running until a signal comes
    Up(UpOptions),
    /// Make, list and revoke tokens of a service on this machine
    #[command(subcommand)]
    Token(token::Command),
    /// Register, list and show functions
    #[command(subcommand)]
    Function(function::Command),
    /// Run a function on an endpoint and print what it returns
    Run(run::Options),
    /// Call a function with each line of a file, many calls in one task
    Map(map::Options),
    /// List, show and cancel tasks; print their results
    #[command(subcommand)]
    Task(task::Command),
    /// List and show endpoints
    #[command(subcommand)]
    Endpoint(endpoint::Command),
    /// Show every fixed bound of the fabric
    Limits,
    /// Measure a running fabric, or repeat the experiments of the papers on one that is made for it
    #[command(subcommand)]
    Bench(bench::Command),
    /// Run daemons of this binary under load and random faults, and audit that nothing was lost
    #[cfg(target_os = "linux")]
    Chaos(Box<chaos::Options>),
    /// Print completions for a shell
    Completions(completions::Options),
    /// Run the tasks of an endpoint (endpoints of this binary start it)
    #[command(hide = true)]
    Worker(WorkerOptions),
}

impl Command {
    /// Whether it runs until somebody stops it.
    pub const fn is_daemon(&self) -> bool {
        match self {
            Self::Up(_) | Self::Worker(_) => true,
            Self::Bench(command) => command.is_daemon(),
            #[cfg(target_os = "linux")]
            Self::Chaos(options) => options.is_daemon(),
            _ => false,
        }
    }
}

/// Does what the command line says. Runs inside a tokio runtime.
///
/// # Errors
/// [`Failed`](crate::exit::Failed) with an exit code and, where we know one, a way out.
pub async fn run(options: Options) -> Result<ExitCode> {
    let Options { common, command, log: _ } = options;
    let done = match command {
        Command::Demo(options) => demo::run(options).await,
        Command::Up(options) => up::run(options, common.json).await,
        Command::Worker(options) => work(options).await,
        Command::Token(command) => token::run(&common, command),
        Command::Function(command) => function::run(&common, command).await,
        Command::Run(options) => run::run(&common, options).await,
        Command::Map(options) => map::run(&common, options).await,
        Command::Task(command) => task::run(&common, command).await,
        Command::Endpoint(command) => endpoint::run(&common, command).await,
        Command::Limits => limits::run(&common),
        Command::Bench(command) => bench::run(&common, command).await,
        #[cfg(target_os = "linux")]
        Command::Chaos(options) => chaos::run(&common, *options).await,
        Command::Completions(options) => completions::run(options),
    };
    done.map_err(hint::explained)
}

/// A manager with the demonstration functions.
async fn work(options: WorkerOptions) -> Result<ExitCode> {
    let mut functions = NativeFunctions::new();
    worker::register_demonstration(&mut functions)?;
    worker::run(options, functions).await
}
