//! `stop`.

use std::time::Duration;

use anyhow::{Context, Result};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::time::{Instant, sleep};

use crate::config::parse_duration;
use crate::endpoint::{EndpointDirectory, Endpoints, Running};
use crate::exit::{Exit, Failed};

/// Between two looks whether the process has ended.
const LOOK: Duration = Duration::from_millis(50);

/// Time for the process to go after SIGKILL.
const KILLED: Duration = Duration::from_secs(5);

#[derive(Debug, clap::Args)]
pub struct Stop {
    /// Name of the endpoint
    name: String,
    /// Time to leave politely, before it is killed
    #[arg(long, value_parser = grace, default_value = "30 s", value_name = "DURATION")]
    grace: Duration,
}

fn grace(text: &str) -> Result<Duration, String> {
    parse_duration(text).ok_or_else(|| "a duration looks like `30 s`".to_owned())
}

impl Stop {
    /// What `restart` and `delete` do before they go on.
    pub(super) fn before_start(name: &str) -> Self {
        Self { name: name.to_owned(), grace: Duration::from_secs(30) }
    }

    pub(super) async fn run(self, endpoints: &Endpoints) -> Result<()> {
        let name = self.name.clone();
        if self.run_if_running(endpoints).await? {
            return Ok(());
        }
        Err(Failed::new(Exit::WrongState, format!("the endpoint `{name}` does not run")).into())
    }

    /// Stops the endpoint; false if it did not run.
    pub(super) async fn run_if_running(self, endpoints: &Endpoints) -> Result<bool> {
        let directory = endpoints.existing(&self.name)?;
        let Running::Yes(pid) = directory.running()? else { return Ok(false) };
        signal(pid, Signal::SIGTERM)?;
        if !ends_within(&directory, pid, self.grace).await? {
            eprintln!("the endpoint `{}` has not left in time, killing process {pid}", self.name);
            signal(pid, Signal::SIGKILL)?;
            if !ends_within(&directory, pid, KILLED).await? {
                return Err(Failed::new(Exit::Failure, format!("process {pid} cannot be killed")).into());
            }
        }
        println!("endpoint `{}` has stopped", self.name);
        Ok(true)
    }
}

/// Sends a signal to the process that holds the lock of the pid file.
fn signal(pid: u32, signal: Signal) -> Result<()> {
    // Process 0 would be our own group: that is an endpoint that has not written its number yet.
    let pid = i32::try_from(pid).ok().filter(|pid| *pid > 1);
    let pid = pid.ok_or_else(|| Failed::new(Exit::WrongState, "the endpoint is just starting; try again"))?;
    match kill(Pid::from_raw(pid), signal) {
        // It has ended since we looked.
        Ok(()) | Err(nix::errno::Errno::ESRCH) => Ok(()),
        Err(error) => Err(error).with_context(|| format!("cannot stop process {pid}")),
    }
}

async fn ends_within(directory: &EndpointDirectory, pid: u32, time: Duration) -> Result<bool> {
    let deadline = Instant::now() + time;
    // The lock goes with the process, so that this sees its end and not the end of a file.
    while directory.running()? == Running::Yes(pid) {
        if Instant::now() >= deadline {
            return Ok(false);
        }
        sleep(LOOK).await;
    }
    Ok(true)
}
