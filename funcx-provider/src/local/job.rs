//! One block that is a process: watching it, stopping it, saying how it ended.

use std::{
    convert::Infallible,
    fs::File,
    io::{Read, Seek, SeekFrom},
    os::unix::process::ExitStatusExt,
    path::Path,
    process::ExitStatus,
    time::Duration,
};

use funcx_core::contract::{JobState, JobStatus};
use tokio::{
    io::AsyncWriteExt,
    process::{Child, ChildStdin},
    sync::mpsc::Receiver,
    time::{sleep, timeout},
};

use crate::process_group::ProcessGroup;

/// How much of a log is looked at for the last lines.
const TAIL_BYTES: u64 = 4096;
/// Lines of the log in the reason of a failure.
const TAIL_LINES: usize = 10;

/// Why a block is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StopReason {
    Cancelled,
    Walltime,
}

/// How a block ended.
#[derive(Debug)]
pub(super) struct Ended {
    stopped: Option<StopReason>,
    status: std::io::Result<ExitStatus>,
}

/// Waits for the end of a block, and brings it about when its walltime is over or a stop is asked for.
pub(super) async fn watch(
    mut child: Child,
    group: ProcessGroup,
    stdin: Option<(ChildStdin, Vec<u8>)>,
    walltime: Option<Duration>,
    grace: Duration,
    mut stops: Receiver<StopReason>,
) -> Ended {
    let feed = async {
        if let Some((mut stdin, text)) = stdin {
            // A program that does not read its input to the end is none of our business.
            let _ = stdin.write_all(&text).await;
        }
        std::future::pending::<Infallible>().await
    };
    let walltime = async {
        match walltime {
            Some(walltime) => sleep(walltime).await,
            None => std::future::pending().await,
        }
    };
    let stopped = tokio::select! {
        status = child.wait() => {
            group.kill();
            return Ended { stopped: None, status };
        }
        Some(reason) = stops.recv() => reason,
        () = walltime => StopReason::Walltime,
        never = feed => match never {},
    };
    group.terminate();
    let status = match timeout(grace, child.wait()).await {
        Ok(status) => status,
        Err(_) => {
            group.kill();
            child.wait().await
        }
    };
    // What the leader of the group has left behind ends with it, as in a batch job.
    group.kill();
    Ended { stopped: Some(stopped), status }
}

impl Ended {
    pub(super) fn status(&self, log: &Path) -> JobStatus {
        match (&self.stopped, &self.status) {
            (Some(StopReason::Cancelled), _) => JobStatus { state: JobState::Cancelled, reason: None },
            (Some(StopReason::Walltime), _) => {
                JobStatus { state: JobState::TimedOut, reason: Some("its walltime was over".to_owned()) }
            }
            (None, Ok(status)) if status.success() => JobStatus { state: JobState::Completed, reason: None },
            (None, status) => JobStatus { state: JobState::Failed, reason: Some(reason(status, log)) },
        }
    }
}

fn reason(status: &std::io::Result<ExitStatus>, log: &Path) -> String {
    let what = match status {
        Ok(status) => match (status.code(), status.signal()) {
            (Some(code), _) => format!("exit code {code}"),
            (None, Some(signal)) => format!("killed by signal {signal}"),
            (None, None) => "it ended".to_owned(),
        },
        Err(error) => format!("its end was not seen: {error}"),
    };
    match last_lines(log) {
        Ok(lines) if !lines.is_empty() => format!("{what}; end of {}:\n{lines}", log.display()),
        Ok(_) => format!("{what}; {} is empty", log.display()),
        Err(error) => format!("{what}; {} cannot be read: {error}", log.display()),
    }
}

fn last_lines(log: &Path) -> std::io::Result<String> {
    let mut file = File::open(log)?;
    let start = file.metadata()?.len().saturating_sub(TAIL_BYTES);
    file.seek(SeekFrom::Start(start))?;
    let mut tail = Vec::new();
    file.take(TAIL_BYTES).read_to_end(&mut tail)?;
    let tail = String::from_utf8_lossy(&tail);
    let lines: Vec<_> = tail.trim_end().lines().collect();
    Ok(lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n"))
}
