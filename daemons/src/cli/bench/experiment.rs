//! What every experiment is, and what every run of one has.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use clap::{Args, builder::TypedValueParser};
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::findings::Findings;
use super::report::Machine;
use crate::cli::output::print_aside;
use crate::cli::process::{KillDescendants, adopt_orphans};
use crate::exit::{Exit, Failed};

/// An experiment: its options, and how it is done.
///
/// It checks that what it ran is right, each task with one outcome and the right value, and fails if not. How long things
/// take is never a failure.
pub(super) trait Experiment: Args + Clone + Default {
    const ABOUT: About;

    /// Does it. The future is dropped at any point when somebody interrupts the run; what must be ended in order goes
    /// through [`Run::or_stopped`].
    async fn run(&self, run: &Run) -> Result<Findings>;
}

/// What an experiment is about.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct About {
    /// Name of the sub-command and of its files.
    pub(super) name: &'static str,
    pub(super) title: &'static str,
    /// What was published, and how that was set up.
    pub(super) reproduces: &'static str,
}

/// What all experiments take.
#[derive(Debug, Clone, Args)]
pub(super) struct RunOptions {
    /// Small sizes and one run each: shows that all is well, and only roughly how fast it is
    #[arg(long)]
    pub quick: bool,
    /// Runs of each row, of which median, least and greatest are shown; 3 if not set, 1 with --quick
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=100).map(usize::from))]
    pub runs: Option<usize>,
    /// Rows that would take longer than this even without any overhead are left out, in seconds; 60 if not set, 5 with
    /// --quick
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=86_400), value_name = "SECONDS")]
    pub longest: Option<u64>,
    /// Python interpreter of real workers
    #[arg(long, default_value = "python3", value_parser = crate::config::interpreter)]
    pub python: String,
}

/// One run of experiments: what was asked for, whether somebody wants it to end, and a directory that is removed with it.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) options: RunOptions,
    stop: CancellationToken,
    /// Dropped before the directory that they use.
    processes: KillDescendants,
    directory: tempfile::TempDir,
}

/// An experiment that was done, with everything that is needed to read its figures.
#[derive(Debug, Serialize)]
pub(super) struct Document {
    #[serde(flatten)]
    pub(super) about: About,
    #[serde(flatten)]
    pub(super) findings: Findings,
    pub(super) quick: bool,
    pub(super) runs: usize,
    /// Time that all of it took.
    pub(super) seconds: f64,
    pub(super) machine: Machine,
}

impl Run {
    pub(super) fn new(options: RunOptions, stop: CancellationToken) -> Result<Self> {
        let directory = tempfile::Builder::new()
            .prefix("funcx-bench-")
            .tempdir()
            .context("no directory for temporary files")?;
        adopt_orphans()?;
        Ok(Self { options, stop, processes: KillDescendants, directory })
    }

    pub(super) fn quick(&self) -> bool {
        self.options.quick
    }

    /// How often each row is measured.
    pub(super) fn runs(&self) -> usize {
        self.options.runs.unwrap_or(if self.options.quick { 1 } else { 3 })
    }

    /// Time that a row may take without any overhead.
    pub(super) fn longest(&self) -> Duration {
        Duration::from_secs(self.options.longest.unwrap_or(if self.options.quick { 5 } else { 60 }))
    }

    /// A new empty directory below the run's own.
    pub(super) fn directory(&self) -> Result<PathBuf> {
        let made = tempfile::Builder::new().prefix("").tempdir_in(self.directory.path());
        Ok(made.context("no directory for temporary files")?.keep())
    }

    /// Says what is being done now.
    pub(super) fn say(&self, what: impl AsRef<str>) -> Result<()> {
        print_aside(&format!("  {}", what.as_ref()))
    }

    /// The result of `work`, unless the run is interrupted first.
    pub(super) async fn or_stopped<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        tokio::select! {
            biased;
            () = self.stop.cancelled() => Err(Failed::new(Exit::Failure, "interrupted").into()),
            done = work => done,
        }
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.stop.is_cancelled()
    }

    /// Does an experiment.
    pub(super) async fn perform<E: Experiment>(&self, experiment: &E, machine: &Machine) -> Result<Document> {
        let about = E::ABOUT;
        print_aside(&format!("{}: {}", about.name, about.title))?;
        let began = Instant::now();
        let findings = self.or_stopped(experiment.run(self)).await.with_context(|| about.name)?;
        Ok(Document {
            about,
            findings,
            quick: self.quick(),
            runs: self.runs(),
            seconds: began.elapsed().as_secs_f64(),
            machine: machine.clone(),
        })
    }

    /// Ends all processes, and removes the run's directory.
    pub(super) fn close(self) -> Result<()> {
        drop(self.processes);
        let path: &Path = self.directory.path();
        let shown = path.display().to_string();
        self.directory.close().with_context(|| format!("cannot remove {shown}"))
    }
}
