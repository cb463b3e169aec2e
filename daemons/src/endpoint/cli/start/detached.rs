//! An endpoint in the background: the process that starts it, and what the two tell each other.
//!
//! The endpoint's standard output is a pipe to the process that started it. One line of JSON says that it is ready or
//! why it failed; after that, standard output is the log, as standard error is from the beginning.

use std::{
    fs::{self, File, OpenOptions},
    io::Write,
    os::unix::fs::OpenOptionsExt,
    process::Stdio,
};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader},
    process::Command,
};

use crate::endpoint::{EndpointDirectory, Endpoints};
use crate::exit::{Exit, Failed};
use crate::logging::LogOptions;

/// A log longer than this is put aside when the endpoint is started, in place of the one that was put aside before.
const MAX_LOG_BYTES: u64 = 10 << 20;

/// Longest message from the endpoint.
const MAX_MESSAGE_BYTES: u64 = 64 << 10;

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "state")]
enum Message {
    Ready { pid: u32 },
    Failed { message: String },
}

/// The endpoint's side.
pub(super) struct Messenger(());

impl Messenger {
    /// Makes this process independent of the terminal that it was started from.
    pub(super) fn new() -> Result<Self> {
        nix::unistd::setsid().context("cannot leave the session")?;
        Ok(Self(()))
    }

    /// Says that the endpoint is connected.
    pub(super) fn ready(&self) -> Result<()> {
        self.say(&Message::Ready { pid: std::process::id() });
        nix::unistd::dup2_stdout(std::io::stderr()).context("cannot redirect standard output")
    }

    /// Says why the endpoint ends. Nobody hears it if it had been ready before; the log has it in any case.
    pub(super) fn failed(&self, error: &anyhow::Error) {
        self.say(&Message::Failed { message: format!("{error:#}") });
    }

    fn say(&self, message: &Message) {
        let line = serde_json::to_string(message).expect("numbers and texts have a JSON form");
        // The process that started us may have been interrupted; that is no reason to stop.
        let _ = writeln!(std::io::stdout(), "{line}");
    }
}

/// Starts the endpoint in the background; resolves when it is connected.
pub(super) async fn start(
    endpoints: &Endpoints,
    directory: &EndpointDirectory,
    log: LogOptions,
    invocation: &[&str],
) -> Result<()> {
    let mut command = Command::new(std::env::current_exe().context("cannot find this program")?);
    command.args(invocation).arg("--config-dir").arg(endpoints.config_dir());
    command.args(log.debug.then_some("--debug")).args(["--log-format", log.log_format.as_str()]);
    command.args(["start", directory.name(), "--detached"]);
    let mut child = command
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(open_log(directory)?)
        .spawn()
        .context("cannot start the endpoint")?;
    let mut line = String::new();
    let stdout = child.stdout.take().expect("it is piped");
    let heard = BufReader::new(stdout.take(MAX_MESSAGE_BYTES)).read_line(&mut line).await;
    match serde_json::from_str(&line) {
        Ok(Message::Ready { pid }) => {
            println!("endpoint `{}` runs as process {pid}", directory.name());
            Ok(())
        }
        Ok(Message::Failed { message }) => {
            let exit = child.wait().await?.code();
            Err(Failed::new(exit.map_or(Exit::Failure, Exit::from_code), message).into())
        }
        Err(_) => {
            heard.context("cannot hear from the endpoint")?;
            let status = child.wait().await?;
            let log = directory.log_path();
            Err(Failed::new(Exit::Failure, format!("the endpoint ended ({status}); see {}", log.display()))
                .into())
        }
    }
}

fn open_log(directory: &EndpointDirectory) -> Result<File> {
    let path = directory.log_path();
    let open = || -> std::io::Result<File> {
        if fs::metadata(&path).is_ok_and(|log| log.len() > MAX_LOG_BYTES) {
            fs::rename(&path, path.with_extension("log.1"))?;
        }
        OpenOptions::new().create(true).append(true).mode(0o600).open(&path)
    };
    open().with_context(|| format!("cannot write {}", path.display()))
}
