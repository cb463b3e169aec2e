//! `funcx chaos`: real daemons under load, faults at random, and an audit of what happened.
//!
//! Built as Jepsen is: a generator (`load`), a nemesis (`nemesis`), a history (`history`), a checker (`audit`). All of
//! them are outside of what they test: the daemons are processes, tasks write down that they run into a file that no
//! daemon knows, and the history is a file that can be audited later.
//!
//! | File | Holds |
//! | --- | --- |
//! | `run` | the order of things |
//! | `cluster` | daemons and the processes below them |
//! | `place`, `network`, `disk` | namespaces, and what can go wrong in them |
//! | `nemesis` | which faults happen when |
//! | `load` | the client |
//! | `history` | what happened, in a file |
//! | `account`, `audit`, `report` | what it means |

mod account;
mod audit;
mod cluster;
mod disk;
mod history;
mod load;
mod nemesis;
mod network;
mod place;
mod random;
mod report;
mod run;

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context, Result};
use clap::{Args, Subcommand, builder::TypedValueParser};

pub use self::nemesis::{FaultKind, Role};
use self::report::Report;
use super::common::Common;
use super::output::print_aside;
use crate::endpoint::cli as endpoint;
use crate::exit::{Exit, Failed};
use crate::service::{self, ServiceOptions};

/// Command line of `funcx chaos`.
#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "\
Needs nothing that runs already: service and endpoints are started for the run and ended after it. Network faults and
full disks need root and the programs ip, tc and iptables; without them they are left out."
)]
pub struct Options {
    /// What to do; a run if nothing is said.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// The run.
    #[command(flatten)]
    pub run: RunOptions,
}

/// What to do instead of a run.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Audit the history of a run once more, or of one that was killed
    Audit {
        /// Directory of the run
        directory: PathBuf,
    },
    /// The service of a run
    #[command(hide = true)]
    Service(ServiceOptions),
    /// An endpoint of a run
    #[command(hide = true)]
    Endpoint(Box<endpoint::Arguments>),
}

/// How to run.
#[derive(Debug, Clone, Args)]
pub struct RunOptions {
    /// How long tasks are submitted and faults happen, in minutes
    #[arg(long, conflicts_with = "seconds", value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pub minutes: Option<u64>,
    /// The same in seconds
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=600_000))]
    pub seconds: u64,
    /// What decides the load and the faults; drawn, and told, if not set
    #[arg(long)]
    pub seed: Option<u64>,
    /// Calls in a second
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub rate: u32,
    /// What may happen
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        default_value = "kill,stop,term,partition,reset,loss,slow,disk"
    )]
    pub faults: Vec<FaultKind>,
    /// Who may be killed, stopped or ended
    #[arg(long, value_enum, value_delimiter = ',', default_value = "service,endpoint,manager,worker")]
    pub victims: Vec<Role>,
    /// Average time from one fault to the next, in milliseconds
    #[arg(long, default_value_t = 1500, value_parser = clap::value_parser!(u64).range(10..=1_000_000))]
    pub fault_every: u64,
    /// Endpoints, each with a manager
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=16).map(|count| count as usize))]
    pub endpoints: usize,
    /// Worker processes of each endpoint
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=256))]
    pub workers: u32,
    /// Give some tasks a time to live or a deadline
    #[arg(long)]
    pub time_limits: bool,
    /// How long to wait for outcomes when all faults are over, in seconds
    #[arg(long, default_value_t = 240)]
    pub settle: u64,
    /// Size of the disks that can be full, in MiB; they are memory. The service keeps 256 MiB free
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u64).range(16..=1 << 20))]
    pub disk_mib: u64,
    /// Directory for the history and the logs, which must not exist yet; one below the system's for temporary files if
    /// not set
    #[arg(long, value_name = "DIRECTORY")]
    pub directory: Option<PathBuf>,
}

impl RunOptions {
    fn duration(&self) -> Duration {
        Duration::from_secs(self.minutes.map_or(self.seconds, |minutes| 60 * minutes))
    }
}

impl Options {
    /// Whether it is one of the daemons of a run.
    pub const fn is_daemon(&self) -> bool {
        matches!(self.command, Some(Command::Service(_) | Command::Endpoint(_)))
    }
}

/// Does what the command line says.
pub(super) async fn run(common: &Common, options: Options) -> Result<ExitCode> {
    match options.command {
        Some(Command::Service(options)) => service::run(options).await,
        Some(Command::Endpoint(arguments)) => endpoint::run(*arguments, &["chaos", "endpoint"]).await,
        Some(Command::Audit { directory }) => audit(common, &directory),
        None => {
            let seed = match options.run.seed {
                Some(seed) => seed,
                None => u64::from(getrandom::u32().context("the operating system has no random bits")?),
            };
            let directory = make_directory(options.run.directory.as_deref(), seed)?;
            print_aside(&format!("seed {seed}; history and logs are in {}", directory.display()))?;
            run::run(&options.run, seed, &directory).await?;
            audit(common, &directory)
        }
    }
}

/// Reads what happened and says what is wrong with it.
fn audit(common: &Common, directory: &Path) -> Result<ExitCode> {
    let report = Report::new(&history::read(directory)?, &history::read_executions(directory)?);
    common.output().show(&report, Report::to_text)?;
    match report.violations.len() {
        0 => Ok(ExitCode::SUCCESS),
        count => Err(Failed::new(Exit::Failure, format!("{count} violations")).into()),
    }
}

fn make_directory(wanted: Option<&Path>, seed: u64) -> Result<PathBuf> {
    match wanted {
        Some(path) => {
            let path = std::path::absolute(path)?;
            fs::create_dir(&path).with_context(|| format!("cannot make {}", path.display()))?;
            Ok(path)
        }
        None => Ok(tempfile::Builder::new().prefix(&format!("funcx-chaos-{seed}-")).tempdir()?.keep()),
    }
}
