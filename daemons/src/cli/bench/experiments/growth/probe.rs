//! Memory, in a process that has done nothing else: what earlier rows have freed would be used again, and not show.

use std::process::{ExitCode, Stdio};

use anyhow::{Context, Result, ensure};
use clap::Args;
use tokio::process::Command;

use super::memory_of;
use crate::cli::bench::simulated::{Fabric, Size, Work};
use crate::cli::output::print;

/// What to hold.
#[derive(Debug, Clone, Copy, Default, Args)]
pub struct Probe {
    /// Managers of a simulated fabric
    #[arg(long, default_value_t = 0)]
    pub managers: u32,
    /// Their workers
    #[arg(long, default_value_t = 0)]
    pub workers: u32,
    /// Tasks in the endpoint's queue; only without managers
    #[arg(long, default_value_t = 0)]
    pub queued: u64,
}

impl Probe {
    /// Starts a fabric, fills its queue, and prints the bytes that this process has grown by.
    pub(in super::super::super) async fn run(self) -> Result<ExitCode> {
        let Self { managers, workers, queued } = self;
        let size = Size { managers, workers, prefetch: 0, at_a_time: None, work: Work::None };
        let memory = || memory_of(std::process::id(), "VmRSS");
        let before = memory()?;
        let fabric = Fabric::start(size).await?;
        fabric.queue(queued).await?;
        let grown = memory()? - before;
        fabric.stop().await?;
        print(&grown.to_string())?;
        Ok(ExitCode::SUCCESS)
    }

    /// The same in a new process.
    pub(super) async fn bytes(self) -> Result<f64> {
        let program = std::env::current_exe().context("cannot find this program")?;
        let mut command = Command::new(program);
        command.args(["bench", "memory"]);
        for (name, value) in [
            ("--managers", u64::from(self.managers)),
            ("--workers", u64::from(self.workers)),
            ("--queued", self.queued),
        ] {
            command.args([name, &value.to_string()]);
        }
        let child =
            command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let output = child.output().await.context("cannot start this program")?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "memory was not measured: {}", said.trim());
        String::from_utf8_lossy(&output.stdout).trim().parse().context("memory was not told as it should be")
    }
}
