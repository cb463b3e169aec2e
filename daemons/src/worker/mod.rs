//! The manager: connects to an endpoint and runs its tasks in worker processes and native functions.
//!
//! A worker binary with native functions of one's own is this:
//!
//! ```no_run
//! use std::process::ExitCode;
//!
//! fn main() -> ExitCode {
//!     funcx_daemons::worker::main(|functions| {
//!         functions.register("add", |(a, b): (i64, i64)| a + b)?;
//!         Ok(())
//!     })
//! }
//! ```
//!
//! An endpoint starts it instead of `funcx-worker` if its configuration says `worker_command: [/path/to/it]`.

mod endpoint;
mod functions;
mod late_sink;
mod leaving;
mod native;
mod options;
mod pools;
mod python;

use std::{env, num::NonZeroU32, process::ExitCode, sync::Arc};

use anyhow::{Context, Result};
use clap::Parser;
use funcx_core::contract::IdleFirst;
use funcx_core::inproc::NativeFunctions;
use funcx_core::message::{Hello, Refused, Role};
use funcx_core::model::{Hop, ManagerId, Outcome, Tick};
use funcx_core::state::{JournalEntry, LaneId, NodeConfig, UplinkIdentity};
use funcx_net::driver::{self, Above, NodeHost, NodeNotice};
use funcx_net::transport::Transports;
use futures::future::{BoxFuture, FutureExt, ready};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::{sync::mpsc, time::Instant};

use self::endpoint::Endpoint;
use self::leaving::{BlockEnd, Leaving, Reason, Tally};
use self::native::PacedNative;
use self::pools::Pools;
use crate::endpoint::SOFTWARE;
use crate::exit::{Exit, report};
use crate::logging::{self, LogOptions};
use crate::signal;

pub use functions::register_demonstration;
pub use options::{ENVIRONMENTS_VARIABLE, INIT_VARIABLE, MANAGER_VARIABLE, SECRET_VARIABLE, WorkerOptions};
pub use python::{OLDEST_PYTHON, Python, check_python, check_python_as};

/// The command line of a worker binary.
#[derive(Debug, Parser)]
#[command(name = "funcx-worker", version, about = "Runs the tasks of an endpoint", after_help = Exit::HELP)]
struct Arguments {
    #[command(flatten)]
    options: WorkerOptions,
    #[command(flatten)]
    log: LogOptions,
}

/// The whole of a worker binary: parses the command line, runs a manager, and gives the exit code. `register` adds
/// native functions; the demonstration functions ([`register_demonstration`]) are there already.
pub fn main(register: impl FnOnce(&mut NativeFunctions) -> funcx_core::Result<()>) -> ExitCode {
    let arguments = Arguments::parse();
    logging::init(arguments.log);
    let mut functions = NativeFunctions::new();
    let registered = register_demonstration(&mut functions).and_then(|()| register(&mut functions));
    let result = registered.map_err(Into::into).and_then(|()| {
        let runtime = tokio::runtime::Runtime::new().context("cannot start the runtime")?;
        runtime.block_on(run(arguments.options, functions))
    });
    report("funcx-worker", result)
}

/// Runs a manager until its endpoint is lost, refuses it, wants no more of it, its block nears its end, or a signal (SIGTERM,
/// SIGINT) ends it. When the process of its endpoint is gone it ends at once, with its workers. After a signal, and at the end of a block, it finishes what it can and says in one line what became of its tasks; a
/// second signal ends it at once. `functions` are all the native functions that it has.
///
/// The secret of its block stands in the variable [`SECRET_VARIABLE`].
///
/// # Errors
/// [`Failed`](crate::exit::Failed) with `Python`, `Refused` or `LostAbove`.
pub async fn run(options: WorkerOptions, functions: NativeFunctions) -> Result<ExitCode> {
    let mut stop = signal::Stop::new()?;
    let walltime =
        options.walltime.map(|walltime| BlockEnd::new(walltime, options.kill_grace, Instant::now()));
    let slots = threads(options.workers) as u32;
    allow_files(slots.into());
    let secret = env::var(SECRET_VARIABLE).unwrap_or_default();
    // Workers come first: a manager that cannot run anything does not connect.
    let pools = tokio::select! {
        pools = Pools::start(&options, slots) => Arc::new(pools?),
        () = stop.wait() => return Ok(Exit::Success.into()),
    };
    let above = Above { transports: Arc::new(Transports::standard()), address: options.endpoint.clone() };
    let (notices, noticed) = mpsc::unbounded_channel();
    let host = Arc::new(Host { notices, pools: Arc::clone(&pools) });
    let (node, driver) =
        driver::start::<IdleFirst>(node_config(&options, secret, walltime)?, host, Some(above), |node| {
            pools.lay_out(node, &options, slots);
        });
    let tally = Arc::new(Tally::default());
    pools.attach(&node, &tally);
    let (token, sink) = node.executor_sink();
    let native =
        Arc::new(PacedNative::start(functions, threads(options.native_threads), tally.counting(sink))?);
    node.attach(token, Arc::clone(&native) as _, None);

    let patience = options.patience.unwrap_or(WorkerOptions::PATIENCE);
    let mut endpoint = Endpoint::new(node.clone(), noticed, native, patience);
    let reason = tokio::select! {
        ended = endpoint.watch() => Err(ended),
        () = stop.wait() => Ok(Reason::Signal),
        end = BlockEnd::near(walltime) => Ok(Reason::Block(end)),
    };
    let result = match reason {
        Err(ended) => ended,
        Ok(reason) => {
            let leaving = Leaving {
                node: &node,
                pools: &pools,
                tally: &tally,
                drain_timeout: options.drain_timeout,
                kill_grace: options.kill_grace,
                block: walltime,
            };
            leaving.drain(reason, endpoint.watch(), &mut stop).await
        }
    };
    drop((pools, endpoint));
    // What is still here goes back to the endpoint. With the driver goes the pool, and with that its processes.
    let _ = node.with(|node, _| node.leave()).await;
    node.stop();
    driver.await.context("the node ended badly")?;
    result.map(|()| Exit::Success.into()).map_err(Into::into)
}

fn node_config(options: &WorkerOptions, credential: String, end: Option<BlockEnd>) -> Result<NodeConfig> {
    let mut random = [0; 24];
    getrandom::fill(&mut random).map_err(|error| anyhow::anyhow!("no random numbers: {error}"))?;
    let (process, id) = random.split_at(8);
    let process = u64::from_ne_bytes(process.try_into().expect("8 of 24 bytes"));
    let drawn = || ManagerId::from_random(u128::from_ne_bytes(id.try_into().expect("16 of 24 bytes")));
    let host =
        nix::unistd::gethostname().map_or_else(|_| "?".into(), |name| name.to_string_lossy().into_owned());
    Ok(NodeConfig {
        uplink: Some(UplinkIdentity {
            role: Role::Manager,
            node: options.manager_id.unwrap_or_else(drawn).uuid(),
            epoch: process,
            life: 0,
            process,
            ends_at: end.map_or(Tick::NEVER, BlockEnd::tick),
            credential,
            name: format!("{host}, block {}, process {}", options.block, std::process::id()),
            software: SOFTWARE.to_owned(),
        }),
        prefetch: options.prefetch,
        ..NodeConfig::new(Hop::ManagerSent, SOFTWARE)
    })
}

/// Raises the limit of open files as far as that is allowed, if so many worker processes need more than it is.
fn allow_files(workers: u64) {
    let files = workers + 256;
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < files
        && let Err(error) = setrlimit(Resource::RLIMIT_NOFILE, files.min(hard), hard)
    {
        tracing::warn!(%error, "cannot raise the limit of open files");
    }
}

/// As many as asked for, or one per core.
fn threads(asked: Option<NonZeroU32>) -> usize {
    let cores = || std::thread::available_parallelism().map_or(1, usize::from);
    asked.map_or_else(cores, |asked| asked.get() as usize)
}

/// Nothing connects to a manager, and it keeps outcomes until its endpoint has them.
struct Host {
    notices: mpsc::UnboundedSender<NodeNotice>,
    pools: Arc<Pools>,
}

impl NodeHost for Host {
    fn authorize(&self, _: Hello) -> BoxFuture<'static, std::result::Result<LaneId, Refused>> {
        ready(Err(Refused { reason: "this is a manager: nothing connects to it".to_owned(), retry: false }))
            .boxed()
    }

    fn deliver(&self, _: Vec<Outcome>) -> BoxFuture<'static, ()> {
        ready(()).boxed()
    }

    fn record(&self, _: Vec<JournalEntry>) -> BoxFuture<'static, ()> {
        ready(()).boxed()
    }

    fn notice(&self, notice: NodeNotice) {
        if let NodeNotice::Resize(lane, slots) = notice {
            return self.pools.resize(lane, slots);
        }
        // A manager that is leaving listens no more.
        let _ = self.notices.send(notice);
    }
}
