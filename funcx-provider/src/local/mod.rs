//! Blocks that are processes on this machine.

mod job;
mod ledger;

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
    time::Duration,
};

use funcx_core::contract::{BlockRequest, JobState, JobStatus, Provider, ProviderCapability, Registry};
use funcx_core::model::{Error, ErrorKind, JobId, Result};
use futures::future::{BoxFuture, FutureExt};
use parking_lot::Mutex;
use tokio::{
    process::Command,
    sync::{Notify, mpsc},
};

use self::job::{Ended, StopReason, watch};
use self::ledger::Ledger;
use crate::process_group::ProcessGroup;

/// Jobs that have ended and are remembered; older ones become `Unlisted`.
const REMEMBERED_JOBS: usize = 1024;
/// Jobs that run at a time. Each is a process on this one machine.
const MAX_JOBS: usize = 1024;

/// Runs blocks as child processes: one block, one process group, one log file.
///
/// Needs a tokio runtime with time and I/O. Dropping the provider kills what still runs.
#[derive(Debug)]
pub struct LocalProvider {
    log_dir: PathBuf,
    kill_grace: Duration,
    jobs: Arc<Jobs>,
    ledger: Option<Arc<Ledger>>,
}

/// Jobs by number, shared with the tasks that watch them.
#[derive(Debug, Default)]
struct Jobs {
    known: Mutex<BTreeMap<u64, Job>>,
    changed: Notify,
}

#[derive(Debug)]
enum Job {
    Running { group: ProcessGroup, stop: mpsc::Sender<StopReason>, id: JobId },
    Ended { status: JobStatus, id: JobId },
}

impl LocalProvider {
    /// A provider whose blocks write their output to `block-<id>.log` in `log_dir`. Blocks that are given back have
    /// `kill_grace` between SIGTERM and SIGKILL.
    pub fn new(log_dir: impl Into<PathBuf>, kill_grace: Duration) -> Self {
        Self { log_dir: log_dir.into(), kill_grace, jobs: Arc::default(), ledger: None }
    }

    /// Writes down in a file which blocks run, so that [`end_leftovers`](Self::end_leftovers) finds those of a process
    /// that was killed. The file is for its owner only.
    #[must_use]
    pub fn with_ledger(mut self, path: impl Into<PathBuf>) -> Self {
        self.ledger = Some(Arc::new(Ledger::new(path.into())));
        self
    }

    /// Ends what is left of the blocks of an earlier process that wrote this file and is gone, and waits until it has
    /// ended. Returns the number of processes that were there.
    ///
    /// # Errors
    /// If the file cannot be read, or something does not end within some seconds.
    pub async fn end_leftovers(path: &Path) -> Result<usize> {
        ledger::end_leftovers(path).await.map_err(|error| {
            let kind = match error.kind() {
                io::ErrorKind::TimedOut => ErrorKind::Unavailable,
                _ => ErrorKind::Io,
            };
            Error::new(kind, "end blocks of an earlier process", "some may be left")
                .with_context("file", path.display())
                .with_source(error)
        })
    }

    /// Adds this provider under its name.
    ///
    /// # Errors
    /// `Conflict` if the name is taken.
    pub fn register(self, registry: &mut Registry<Arc<dyn Provider>>) -> Result<()> {
        registry.register(self.capability().name, Arc::new(self))
    }

    fn start(&self, block: &BlockRequest) -> Result<JobId> {
        let failed = |kind, message: &'static str| {
            Error::new(kind, "submit block", message)
                .with_context("block", block.block)
                .with_context("program", block.command.program.display())
        };
        if block.nodes != 1 {
            return Err(failed(ErrorKind::InvalidInput, "this machine is one node")
                .with_context("nodes", block.nodes));
        }
        let mut known = self.jobs.known.lock();
        if known.values().filter(|job| matches!(job, Job::Running { .. })).count() >= MAX_JOBS {
            return Err(
                failed(ErrorKind::LimitExceeded, "too many blocks run here").with_context("blocks", MAX_JOBS)
            );
        }
        let log_path = self.log_dir.join(format!("block-{}.log", block.block));
        let log = open_log(&log_path).map_err(|error| {
            failed(ErrorKind::Io, "no log file").with_context("log", log_path.display()).with_source(error)
        })?;
        let mut child = command(block, log).and_then(|mut command| command.spawn()).map_err(|error| {
            failed(ErrorKind::InvalidInput, "the program cannot be started").with_source(error)
        })?;

        let pid = child.id().unwrap_or_default();
        if let Some(ledger) = &self.ledger {
            ledger.started(pid);
        }
        let group = ProcessGroup::of_leader(pid)
            .ok_or_else(|| failed(ErrorKind::Internal, "the process has no id").with_context("pid", pid))?;
        let stdin = child.stdin.take().map(|stdin| (stdin, block.command.stdin.clone()));
        let number = known.last_key_value().map_or(1, |(number, _)| number + 1);
        let id = JobId(format!("{number}-{pid}"));
        let (stop, stops) = mpsc::channel(1);
        known.insert(number, Job::Running { group, stop, id: id.clone() });
        drop(known);

        let (jobs, ledger, job) = (Arc::clone(&self.jobs), self.ledger.clone(), id.clone());
        let (walltime, grace) = (block.walltime, self.kill_grace);
        tokio::spawn(async move {
            let ended = watch(child, group, stdin, walltime, grace, stops).await;
            if let Some(ledger) = ledger {
                ledger.ended(pid);
            }
            jobs.finish(number, job, ended, &log_path);
        });
        Ok(id)
    }
}

impl Jobs {
    fn finish(&self, number: u64, id: JobId, ended: Ended, log: &Path) {
        let status = ended.status(log);
        tracing::debug!(job = %id, state = ?status.state, reason = status.reason, "a local block ended");
        let mut known = self.known.lock();
        known.insert(number, Job::Ended { status, id });
        let ended = known.iter().filter(|(_, job)| matches!(job, Job::Ended { .. }));
        let surplus = ended.clone().count().saturating_sub(REMEMBERED_JOBS);
        let oldest: Vec<_> = ended.take(surplus).map(|(number, _)| *number).collect();
        oldest.iter().for_each(|number| drop(known.remove(number)));
        drop(known);
        // One permit for who looks later, a wake-up for everybody who waits.
        self.changed.notify_waiters();
        self.changed.notify_one();
    }

    fn status(&self, id: &JobId) -> JobStatus {
        let unlisted = JobStatus { state: JobState::Unlisted, reason: None };
        let known = self.known.lock();
        match number_of(id).and_then(|number| known.get(&number)) {
            Some(Job::Running { id: known, .. }) if known == id => {
                JobStatus { state: JobState::Running, reason: None }
            }
            Some(Job::Ended { status, id: known }) if known == id => status.clone(),
            _ => unlisted,
        }
    }

    fn cancel(&self, id: &JobId) {
        let known = self.known.lock();
        if let Some(Job::Running { stop, id: known, .. }) =
            number_of(id).and_then(|number| known.get(&number))
            && known == id
        {
            // A full channel holds a request already; a closed one belongs to a job that ends just now.
            let _ = stop.try_send(StopReason::Cancelled);
        }
    }
}

impl Provider for LocalProvider {
    fn capability(&self) -> ProviderCapability {
        ProviderCapability {
            name: "LocalProvider",
            max_status_batch: REMEMBERED_JOBS + MAX_JOBS,
            max_nodes: 1,
        }
    }

    fn submit<'a>(&'a self, block: &'a BlockRequest) -> BoxFuture<'a, Result<JobId>> {
        async move { self.start(block) }.boxed()
    }

    fn status<'a>(&'a self, jobs: &'a [JobId]) -> BoxFuture<'a, Result<BTreeMap<JobId, JobStatus>>> {
        async move { Ok(jobs.iter().map(|job| (job.clone(), self.jobs.status(job))).collect()) }.boxed()
    }

    fn cancel<'a>(&'a self, jobs: &'a [JobId]) -> BoxFuture<'a, Result<()>> {
        async move {
            jobs.iter().for_each(|job| self.jobs.cancel(job));
            Ok(())
        }
        .boxed()
    }

    fn changed(&self) -> BoxFuture<'_, ()> {
        self.jobs.changed.notified().boxed()
    }
}

impl Drop for LocalProvider {
    fn drop(&mut self) {
        for job in self.jobs.known.lock().values() {
            if let Job::Running { group, .. } = job {
                group.kill();
            }
        }
    }
}

/// The number that a job id of ours begins with.
fn number_of(id: &JobId) -> Option<u64> {
    id.0.split_once('-')?.0.parse().ok()
}

fn open_log(path: &Path) -> std::io::Result<File> {
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    // Appended to: an endpoint that is started again numbers its blocks from the beginning.
    File::options().create(true).append(true).open(path)
}

fn command(block: &BlockRequest, log: File) -> std::io::Result<Command> {
    let wanted = &block.command;
    let mut command = Command::new(&wanted.program);
    command.args(&wanted.arguments).envs(&wanted.environment).process_group(0).kill_on_drop(true);
    command.stdout(log.try_clone()?).stderr(log);
    command.stdin(if wanted.stdin.is_empty() { Stdio::null() } else { Stdio::piped() });
    if let Some(directory) = &wanted.directory {
        command.current_dir(directory);
    }
    Ok(command)
}
