//! The executor that runs tasks in processes: Python functions and Globus Compute functions in workers, shell commands
//! by themselves.
//!
//! A [`ProcessPool`] starts one Python interpreter, the *zygote*, which imports what workers need and then forks them, so
//! that a new worker is there in a millisecond or two. It forks shell commands too, which need no worker. Workers speak the protocol of `PROTOCOL.md`, beside this file, over a
//! Unix socket; any language can be a worker. Functions travel once per worker, tasks and outcomes in batches.
//!
//! Each worker and each command leads a process group. Whatever is started in that group ends with it; a process that
//! makes a session of its own (`setsid`) is out of reach. When the pool is dropped, or its process dies, all groups end.

mod connection;
mod driver;
mod functions;
mod output;
mod pool;
mod private_dir;
mod protocol;
#[cfg(any(test, feature = "conformance"))]
pub mod scripted;
mod slot;
mod zygote;

use std::{collections::BTreeMap, ffi::OsString, fmt, path::PathBuf, sync::Arc, time::Duration};

use funcx_core::contract::{Capacity, Executor, ExecutorCapability, ExecutorSink};
use funcx_core::model::{
    AttemptId, EndpointId, Error, ErrorKind, Failure, FunctionKind, Result, Task, limit,
};
use futures::future::{BoxFuture, FutureExt};
use nix::sys::resource::{Resource, getrlimit};
use tokio::sync::{mpsc, watch};

use self::driver::{Driver, Groups, Request, give_back, lose};
use self::private_dir::PrivateDir;
use self::protocol::{FRAME_SPARE_BYTES, MAX_FRAME_BYTES};
pub use self::zygote::OLDEST_PYTHON;
use self::zygote::Zygote;

/// The program of the Python workers.
const WORKER_PY: &str = include_str!("worker.py");
/// Workers that one pool may have.
const MAX_WORKERS: u32 = 16_384;

/// What a [`ProcessPool`] needs to know.
#[derive(Clone)]
pub struct ProcessPoolConfig {
    /// Tasks that run at a time, each in a worker or as a command. From 1 to 16384. So many workers there will be if tasks
    /// want them; only the first 256 are started ahead of need.
    pub workers: u32,
    /// The interpreter, a path or a name looked up in `PATH` (after `worker_init`). Python 3.8 or newer.
    pub python: PathBuf,
    /// Directory that tasks start in; made if it is missing. Sandboxes of tasks are made in it and never removed by the
    /// pool: they hold what the tasks wanted to keep. Whoever owns the directory tidies up.
    pub work_dir: PathBuf,
    /// The endpoint that tasks are told they run on.
    pub endpoint_id: Option<EndpointId>,
    /// A task that returns more bytes than this fails.
    pub max_result_bytes: usize,
    /// Kept of each of the two output streams of a task: the last bytes.
    pub max_output_bytes: usize,
    /// Lines for `/bin/bash` that run before Python starts, such as `module load python`.
    pub worker_init: Option<String>,
    /// From SIGTERM to SIGKILL when a task is cancelled, and from the end of the last task to SIGKILL when the pool
    /// drains.
    pub kill_grace: Duration,
    /// Python modules imported once, before workers are forked.
    pub preload: Vec<String>,
    /// Variables set in addition to the inherited environment.
    pub environment: BTreeMap<OsString, OsString>,
}

impl ProcessPoolConfig {
    /// `python3` from `PATH`, the default limits, a grace of five seconds.
    pub fn new(workers: u32, work_dir: impl Into<PathBuf>) -> Self {
        Self {
            workers,
            python: "python3".into(),
            work_dir: work_dir.into(),
            endpoint_id: None,
            max_result_bytes: limit::MAX_PAYLOAD_BYTES,
            max_output_bytes: limit::MAX_OUTPUT_BYTES,
            worker_init: None,
            kill_grace: Duration::from_secs(5),
            preload: Vec::new(),
            environment: BTreeMap::new(),
        }
    }

    fn check(&self) -> Result<String> {
        let invalid =
            |message: String| Error::new(ErrorKind::InvalidInput, "configure worker processes", message);
        if !(1..=MAX_WORKERS).contains(&self.workers) {
            return Err(invalid(format!("{} workers; 1 to {MAX_WORKERS} are possible", self.workers)));
        }
        // Each worker has a connection, and the pool a few files besides.
        let files = u64::from(self.workers) + 64;
        if let Ok((soft, _)) = getrlimit(Resource::RLIMIT_NOFILE)
            && soft < files
        {
            let message = format!(
                "{} workers need {files} open files, and {soft} are allowed; raise the limit (`ulimit -n`)",
                self.workers
            );
            return Err(invalid(message));
        }
        let frame_bytes = self.max_output_bytes.saturating_mul(2).saturating_add(self.max_result_bytes);
        let most = MAX_FRAME_BYTES - FRAME_SPARE_BYTES;
        if frame_bytes > most {
            let message =
                format!("a result and its output may take {frame_bytes} bytes; at most {most} are possible");
            return Err(invalid(message));
        }
        let work_dir =
            std::path::absolute(&self.work_dir).ok().and_then(|path| path.to_str().map(str::to_owned));
        work_dir.ok_or_else(|| {
            invalid(format!("the directory `{}` has no absolute UTF-8 path", self.work_dir.display()))
        })
    }
}

impl fmt::Debug for ProcessPoolConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Variables and lines of shell may hold secrets.
        f.debug_struct("ProcessPoolConfig")
            .field("workers", &self.workers)
            .field("python", &self.python)
            .field("work_dir", &self.work_dir)
            .field("endpoint_id", &self.endpoint_id)
            .field("max_result_bytes", &self.max_result_bytes)
            .field("max_output_bytes", &self.max_output_bytes)
            .field("worker_init", &self.worker_init.is_some())
            .field("kill_grace", &self.kill_grace)
            .field("preload", &self.preload)
            .field("environment", &self.environment.keys())
            .finish()
    }
}

/// Runs tasks in worker processes. An [`Executor`] for Python, Globus Compute and shell functions.
///
/// - No attempt begins twice. A task that kills its worker is `Lost`, with the exit code or signal in its failure, and the
///   worker is replaced. Other tasks that were with that worker run elsewhere if they have certainly not begun. If that is
///   not known they are `Lost` with the code [`Failure::LEASE_LOST`], so that the node above makes another attempt; which
///   of its tasks have begun is known of a worker whose tasks have a walltime or may run at most once.
/// - A task past its walltime is killed with its process group. The walltime runs from the moment the worker begins.
/// - A task whose time to live is over when its turn comes is not begun; one past its deadline is ended wherever it is.
/// - A cancelled task that waits is `Cancelled` at once. One that has been given to a worker is stopped (SIGTERM, then
///   SIGKILL after the grace) unless it ends by itself within a few hundredths of a second; `Cancelled` either way. A
///   command is stopped in that way at once.
/// - What a command leaves running in its process group is killed when it ends.
///
/// Draining gives back what was not sent to a worker or begun as a command yet. What was sent runs, unless its worker ends
/// before it began.
///
/// Dropping the pool kills all its processes; what had no outcome is `Lost`.
#[derive(Debug)]
pub struct ProcessPool {
    requests: mpsc::UnboundedSender<Request>,
    drained: watch::Receiver<bool>,
    groups: Arc<Groups>,
    capacity: Capacity,
    sink: SharedSink,
}

struct SharedSink(Arc<dyn ExecutorSink>);

impl fmt::Debug for SharedSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ExecutorSink")
    }
}

impl ProcessPool {
    /// Starts the interpreter and asks it for the workers. Resolves when it is ready to fork them.
    ///
    /// Needs a tokio runtime with time and I/O, on which the pool lives from then on.
    ///
    /// **Cancellation.** Dropping the future ends what was started.
    ///
    /// # Errors
    /// `InvalidInput` for a configuration that cannot be, `NotFound` if there is no such Python, `Unsupported` if it is
    /// too old, `Unavailable` if it does not get ready, `Io`.
    pub async fn start(config: ProcessPoolConfig, sink: Arc<dyn ExecutorSink>) -> Result<Self> {
        let (work_dir, dir) = prepare(&config)?;
        let zygote = Zygote::start(&config, &dir.script, &dir.prepare(&config, &work_dir)).await?;
        Ok(Self::run(config, work_dir, dir, sink, Some(zygote)))
    }

    /// A pool that uses no slot and starts nothing before [`resize`](Self::resize) says so. If its interpreter does not get
    /// ready then, tasks are `Lost` with the reason.
    ///
    /// Needs a tokio runtime with time and I/O, on which the pool lives from then on.
    ///
    /// # Errors
    /// `InvalidInput` for a configuration that cannot be, `Io`.
    pub fn empty(config: ProcessPoolConfig, sink: Arc<dyn ExecutorSink>) -> Result<Self> {
        let (work_dir, dir) = prepare(&config)?;
        Ok(Self::run(config, work_dir, dir, sink, None))
    }

    fn run(
        config: ProcessPoolConfig,
        work_dir: String,
        dir: PrivateDir,
        sink: Arc<dyn ExecutorSink>,
        zygote: Option<Zygote>,
    ) -> Self {
        let (requests, incoming) = mpsc::unbounded_channel();
        let (drained_sender, drained) = watch::channel(false);
        let groups = Arc::new(Groups::default());
        let shared = SharedSink(Arc::clone(&sink));
        let mut driver =
            Driver::new(config, work_dir, sink, dir, Arc::clone(&groups), incoming, drained_sender);
        if zygote.is_none() {
            driver.start_empty();
        }
        let capacity = driver.capacity();
        tokio::spawn(driver.run(zygote));
        Self { requests, drained, groups, capacity, sink: shared }
    }

    /// Uses at most so many of its slots from now on, for pools that share those of a manager. What runs goes on; the
    /// capacity that the pool says next counts a slot until its worker has ended.
    pub fn resize(&self, slots: u32) {
        // A pool that is gone uses none.
        let _ = self.requests.send(Request::Resize(slots));
    }

    /// Drains at once: what runs is asked to end (SIGTERM), and killed after the grace. What had begun is `Lost` with this
    /// failure unless it ends by itself before; the rest is given back. [`drain`](Executor::drain) tells when it is done.
    pub fn stop(&self, failure: Failure) {
        // A pool that is gone has given everything its outcome.
        let _ = self.requests.send(Request::Stop(failure));
    }
}

/// What a pool needs on the disk.
fn prepare(config: &ProcessPoolConfig) -> Result<(String, PrivateDir)> {
    let work_dir = config.check()?;
    let dir = PrivateDir::create(WORKER_PY).map_err(|error| {
        Error::new(ErrorKind::Io, "start worker processes", "no private directory").with_source(error)
    })?;
    Ok((work_dir, dir))
}

impl Executor for ProcessPool {
    fn capability(&self) -> ExecutorCapability {
        ExecutorCapability {
            kinds: vec![FunctionKind::Python, FunctionKind::GlobusCompute, FunctionKind::Shell],
            capacity: self.capacity,
            cancels: true,
        }
    }

    fn start(&self, tasks: Vec<Task>) {
        if let Err(mpsc::error::SendError(Request::Start(tasks))) = self.requests.send(Request::Start(tasks))
        {
            match *self.drained.borrow() {
                true => give_back(&*self.sink.0, &tasks),
                // It would come again, and again.
                false => lose(&*self.sink.0, &tasks),
            }
        }
    }

    fn cancel(&self, attempts: &[AttemptId]) {
        // A pool that is gone has given everything its outcome.
        let _ = self.requests.send(Request::Cancel(attempts.to_vec()));
    }

    fn drain(&self) -> BoxFuture<'static, ()> {
        let _ = self.requests.send(Request::Drain);
        let mut drained = self.drained.clone();
        // If the sender is gone, so is the pool.
        async move { drop(drained.wait_for(|drained| *drained).await) }.boxed()
    }
}

impl Drop for ProcessPool {
    fn drop(&mut self) {
        self.groups.kill_all();
    }
}
