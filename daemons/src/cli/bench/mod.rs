//! `funcx bench`: measures a running fabric from outside, and repeats the experiments of the papers on fabrics of its own.
//!
//! | File | Holds |
//! | --- | --- |
//! | `latency`, `hops` | a running fabric, measured from outside |
//! | `experiment` | what an experiment is, and what its runs have |
//! | `findings` | what it finds: charts |
//! | `report` | charts as tables, plots, JSON and one HTML page; the machine |
//! | `real` | a fabric of processes, as an operator starts it |
//! | `simulated` | an endpoint and managers over TCP, with workers that are simulated |
//! | `experiments` | one file for each |

mod experiment;
mod experiments;
mod findings;
mod hops;
mod latency;
mod real;
mod report;
mod simulated;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use tokio_util::sync::CancellationToken;

use self::experiment::{Document, Experiment, Run, RunOptions};
use self::report::Machine;
use super::common::Common;
use super::output::print_aside;
use crate::endpoint::cli as endpoint;
use crate::exit::{Exit, Failed};
use crate::service::{self, ServiceOptions};
use crate::signal;

/// Makes a sub-command of each experiment, and one that does them all in this order.
macro_rules! experiments {
    ($($(#[$doc:meta])* $name:ident: $options:ty,)*) => {
        /// What to measure.
        #[derive(Debug, Subcommand)]
        pub enum Command {
            /// Call a function of a running fabric many times, one call after the other, and say where the time goes
            Latency(latency::Options),
            /// Do every experiment below, and write one report
            All(All),
            $($(#[$doc])* $name(One<$options>),)*
            /// How much memory a simulated fabric takes
            #[command(hide = true)]
            Memory(experiments::Probe),
            /// The service of an experiment
            #[command(hide = true)]
            Service(ServiceOptions),
            /// The endpoint of an experiment
            #[command(hide = true)]
            Endpoint(Box<endpoint::Arguments>),
        }

        /// Does what the command line says.
        pub(super) async fn run(common: &Common, command: Command) -> Result<ExitCode> {
            match command {
                Command::Latency(options) => latency::run(common, options).await,
                Command::All(all) => all.run(common).await,
                $(Command::$name(one) => run_one(one, common).await,)*
                Command::Memory(probe) => probe.run().await,
                Command::Service(options) => service::run(options).await,
                Command::Endpoint(arguments) => endpoint::run(*arguments, &["bench", "endpoint"]).await,
            }
        }

        /// Every experiment with its defaults; those that fail leave an error.
        async fn perform_all(run: &Run, machine: &Machine) -> Vec<Result<Document>> {
            let mut done = Vec::new();
            $(if !run.is_stopped() {
                done.push(run.perform(&<$options>::default(), machine).await);
            })*
            done
        }
    };
}

experiments! {
    /// Where the time of a warm call goes, also with a slow network
    LatencyBreakdown: experiments::LatencyBreakdown,
    /// Time of a call that finds everything ready, and of one for which something has to be started
    StartTimes: experiments::StartTimes,
    /// Time for 100,000 tasks as workers are added
    StrongScaling: experiments::StrongScaling,
    /// Time for 10 tasks per worker as workers are added
    WeakScaling: experiments::WeakScaling,
    /// Managers that take one task at a time, and as many as they have idle workers
    InternalBatching: experiments::InternalBatching,
    /// Managers that take more tasks than they have idle workers
    Prefetch: experiments::Prefetch,
    /// Many calls in one task
    Map: experiments::Map,
    /// Calls of which a share repeats earlier ones
    Memoization: experiments::Memoization,
    /// Tasks that go where workers of their type are warm, or anywhere, in virtual time
    WarmRouting: experiments::WarmRouting,
    /// What the loss of a manager and of an endpoint costs
    Recovery: experiments::Recovery,
    /// How cost grows with the number of tasks
    GrowthTasks: experiments::GrowthTasks,
    /// How cost grows with the number of workers
    GrowthWorkers: experiments::GrowthWorkers,
    /// How cost grows with the number of managers
    GrowthManagers: experiments::GrowthManagers,
    /// How cost grows with the size of arguments and results
    GrowthPayload: experiments::GrowthPayload,
    /// How cost grows with the number of clients
    GrowthClients: experiments::GrowthClients,
}

impl Command {
    /// Whether it is one of the daemons of an experiment.
    pub const fn is_daemon(&self) -> bool {
        matches!(self, Self::Service(_) | Self::Endpoint(_))
    }
}

/// One experiment.
#[derive(Debug, Args)]
pub struct One<E: Args> {
    #[command(flatten)]
    run: RunOptions,
    /// Directory for a JSON document and plots; made if it does not exist
    #[arg(long, value_name = "DIRECTORY")]
    output: Option<PathBuf>,
    #[command(flatten)]
    experiment: E,
}

/// All of them.
#[derive(Debug, Args)]
pub struct All {
    #[command(flatten)]
    run: RunOptions,
    /// Directory for the report, a JSON document and plots for each experiment; made if it does not exist
    #[arg(long, value_name = "DIRECTORY", default_value = "funcx-bench")]
    output: PathBuf,
}

async fn run_one<E: Experiment>(one: One<E>, common: &Common) -> Result<ExitCode> {
    let output = one.output.as_deref().map(make_directory).transpose()?;
    let done = supervised(one.run, async |run, machine| {
        let document = run.perform(&one.experiment, machine).await?;
        if let Some(directory) = output {
            report::write(&document, directory)?;
        }
        Ok(document)
    });
    common.output().show(&done.await?, report::to_text)?;
    Ok(ExitCode::SUCCESS)
}

impl All {
    async fn run(self, common: &Common) -> Result<ExitCode> {
        let directory = make_directory(&self.output)?;
        let done = supervised(self.run, async |run, machine| {
            let (mut documents, mut failures) = (Vec::new(), Vec::new());
            for done in perform_all(run, machine).await {
                match done {
                    Ok(document) => documents.push(document),
                    Err(error) => failures.push(format!("{error:#}")),
                }
            }
            for document in &documents {
                report::write(document, directory)?;
            }
            report::write_page(&documents, &failures, machine, directory)?;
            Ok((documents, failures))
        });
        let (documents, failures) = done.await?;
        common.output().show(&documents, |documents| documents.iter().map(report::to_text).collect())?;
        print_aside(&format!("the report is {}", directory.join(report::PAGE).display()))?;
        match failures.as_slice() {
            [] => Ok(ExitCode::SUCCESS),
            failures => Err(Failed::new(Exit::Failure, failures.join("; ")).into()),
        }
    }
}

fn make_directory(path: &Path) -> Result<&Path> {
    std::fs::create_dir_all(path).with_context(|| format!("cannot make the directory {}", path.display()))?;
    Ok(path)
}

/// Does `work` and removes what it leaves behind, however it ends. A signal ends it in order.
async fn supervised<T>(
    options: RunOptions,
    work: impl AsyncFnOnce(&Run, &Machine) -> Result<T>,
) -> Result<T> {
    let mut signals = signal::Stop::new()?;
    let machine = tokio::select! {
        machine = Machine::look(&options.python) => machine,
        () = signals.wait() => return Err(Failed::new(Exit::Failure, "interrupted").into()),
    };
    let stop = CancellationToken::new();
    let run = Run::new(options, stop.clone())?;
    let watch = tokio::spawn(async move {
        signals.wait().await;
        stop.cancel();
    });
    let done = work(&run, &machine).await;
    watch.abort();
    let interrupted = run.is_stopped();
    let closed = run.close();
    let done = done?;
    closed?;
    match interrupted {
        true => Err(Failed::new(Exit::Failure, "interrupted").into()),
        false => Ok(done),
    }
}
