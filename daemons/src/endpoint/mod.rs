//! The endpoint: takes tasks from a service and gives them to managers that it starts in blocks.
//!
//! [`Endpoint::start`] composes it from the parts of the libraries; [`cli`] is the command line around it, and
//! [`EndpointDirectory`] the files it keeps.

mod blocks;
pub mod cli;
mod directory;
mod manager;
pub mod registration;
mod running;
mod status;
mod token;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result};
use funcx_core::contract::{Address, IdleFirst, Launcher};
use funcx_core::message::{Hello, Refused, Role};
use funcx_core::model::{EndpointId, FunctionKind, Hop, Outcome, Tick, limit};
use funcx_core::state::{
    BlockPolicy, JournalEntry, LaneId, LinkPolicy, Node, NodeConfig, Recovered, UplinkIdentity,
};
use funcx_net::driver::{self, Above, NodeHost, NodeNotice};
use funcx_net::journal::{Journal, JournalOptions};
use funcx_net::transport::Transports;
use funcx_provider::launcher::{SimpleLauncher, SingleNodeLauncher};
use funcx_provider::local::LocalProvider;
use futures::future::{BoxFuture, FutureExt, ready};
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

use self::blocks::{Blocks, Doorkeeper};
use self::running::Running as RunningEndpoint;
use self::status::StatusFile;
use crate::config::{EndpointConfig, LauncherKind};
use crate::exit::{Exit, Failed};

pub(crate) use directory::write_private;
pub use directory::{EndpointDirectory, Endpoints, HOME_VARIABLE, PidFile, Registered, Running};
pub use manager::{ManagerTemplate, TOKEN_VARIABLE};
pub use status::EndpointStatus;
pub use token::Token;

/// Name and version told to peers.
pub const SOFTWARE: &str = concat!("funcx/", env!("CARGO_PKG_VERSION"));

/// Longest path that a Unix socket can have on every system.
const MAX_SOCKET_PATH_BYTES: usize = 100;

/// Blocks that may die in a row before they register, until no more are asked for.
const BREAKER: u32 = 5;

/// First pause after a block died before it registered.
const FIRST_PAUSE: Duration = Duration::from_millis(200);

/// Time that a manager has to leave, besides the grace of its workers.
const MANAGER_GRACE: Duration = Duration::from_secs(1);

/// Directory in the endpoint's own for the logs of its blocks.
pub(crate) const LOGS: &str = "logs";

/// Directory in the endpoint's own for its journal.
const JOURNAL: &str = "journal";

/// File in the directory for a running endpoint that says which blocks it has.
const LEDGER: &str = "blocks";

/// Where the logs of blocks are when the endpoint has been started once more.
const PREVIOUS_LOGS: &str = "logs.previous";

/// Who an endpoint is, and to whom.
#[derive(Debug, Clone)]
pub struct EndpointIdentity {
    /// Its id at the service.
    pub id: EndpointId,
    /// Name that users see.
    pub name: String,
    /// What proves it to the service.
    pub token: Token,
    /// Base URL of the service, such as `http://127.0.0.1:5000`.
    pub service: String,
}

/// A running endpoint. It ends by itself only if the service refuses it.
///
/// Dropping it stops it without waiting: what it holds stays with the service, and its blocks end when they notice.
/// [`shutdown`](Self::shutdown) is the polite way.
#[derive(Debug)]
pub struct Endpoint {
    status: watch::Receiver<EndpointStatus>,
    stop: CancellationToken,
    running: JoinHandle<Result<(), Failed>>,
}

impl Endpoint {
    /// Starts an endpoint on the current tokio runtime. It keeps its socket and its status in `directory/run`, and
    /// tasks start in a directory inside `directory` unless the configuration names another.
    ///
    /// On return managers are being started and the service is being dialled; [`status`](Self::status) tells when that
    /// has come about.
    ///
    /// # Errors
    /// If managers cannot be listened for or started, or the service's address is none.
    pub async fn start(
        config: &EndpointConfig,
        identity: EndpointIdentity,
        directory: &Path,
    ) -> Result<Self> {
        let directory = std::path::absolute(directory)?;
        let run = directory.join("run");
        let work = directory.join(&config.engine.working_dir);
        directory::private_directory(&run).with_context(|| format!("cannot make {}", run.display()))?;
        std::fs::create_dir_all(&work).with_context(|| format!("cannot make {}", work.display()))?;
        // First, because it is locked: what follows must not happen under another endpoint.
        let (journal, recovered) = open_journal(&directory)?;
        put_aside_logs(&directory).context("cannot put the logs of earlier blocks aside")?;
        let ledger = run.join(LEDGER);
        end_leftovers(&ledger).await;
        let transports = Arc::new(Transports::standard());
        let above = Above { transports: Arc::clone(&transports), address: link_address(&identity.service)? };
        let (socket_directory, address) = listen_address(config, &run)?;
        let listener = transports.listen(&address).await?;
        let template = ManagerTemplate::new(config, identity.id, listener.address(), &directory)?;
        let door = Doorkeeper::default();
        let blocks = Blocks::new(
            block_policy(config),
            Arc::new(
                LocalProvider::new(directory.join(LOGS), config.kill_grace + MANAGER_GRACE)
                    .with_ledger(ledger),
            ),
            launcher(config.engine.provider.launcher),
            template,
            config.engine.provider.walltime,
            door.clone(),
        );
        let (notices, noticed) = mpsc::unbounded_channel();
        let host = Arc::new(Host { door, notices, journal: Arc::clone(&journal) });
        let node_config = node_config(config, identity, &recovered)?;
        let (node, driver) = driver::start(node_config, host, Some(above), |node: &mut Node<IdleFirst>| {
            let lane = node.open_lane();
            node.memoize(usize::try_from(config.memo_bytes).unwrap_or(usize::MAX));
            FunctionKind::ALL.into_iter().for_each(|kind| node.route(kind, lane));
            node.restore(recovered);
        });
        let (status, watched) = watch::channel(EndpointStatus::default());
        let stop = CancellationToken::new();
        let running = RunningEndpoint {
            node,
            driver,
            listener,
            noticed,
            blocks,
            journal,
            status,
            file: StatusFile::new(&run),
            report_period: config.heartbeat_period,
            drain_timeout: config.drain_timeout,
            farewell: config.kill_grace + running::FAREWELL,
            stop: stop.clone(),
            _socket_directory: socket_directory,
        };
        Ok(Self { status: watched, stop, running: tokio::spawn(running.run()) })
    }

    /// What it says about itself, whenever that changes.
    pub fn status(&self) -> watch::Receiver<EndpointStatus> {
        self.status.clone()
    }

    /// Resolves when it has ended.
    ///
    /// **Cancellation.** Dropping the future changes nothing.
    ///
    /// # Errors
    /// Why it could not go on.
    pub async fn ended(&mut self) -> Result<(), Failed> {
        (&mut self.running).await.unwrap_or_else(|error| Err(Failed::new(Exit::Failure, error.to_string())))
    }

    /// Leaves the service, which takes unfinished tasks back, and ends all blocks; resolves when they have ended or
    /// have had the time that the configuration grants them.
    ///
    /// # Errors
    /// Why it could not go on, if it had ended before.
    pub async fn shutdown(mut self) -> Result<(), Failed> {
        self.stop.cancel();
        self.ended().await
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// What the node asks of the endpoint around it.
struct Host {
    door: Doorkeeper,
    journal: Arc<Journal>,
    notices: mpsc::UnboundedSender<NodeNotice>,
}

impl NodeHost for Host {
    fn authorize(&self, hello: Hello) -> BoxFuture<'static, std::result::Result<LaneId, Refused>> {
        let decision = self.door.check(&hello);
        if let Err(refused) = &decision {
            tracing::warn!(node = %hello.node, name = hello.name, reason = refused.reason, "a connection was refused");
        }
        ready(decision.map(|()| LaneId(0))).boxed()
    }

    fn deliver(&self, _: Vec<Outcome>) -> BoxFuture<'static, ()> {
        // There is a node above, so outcomes are kept until that one has them.
        ready(()).boxed()
    }

    fn record(&self, entries: Vec<JournalEntry>) -> BoxFuture<'static, ()> {
        self.journal.record(entries).boxed()
    }

    fn notice(&self, notice: NodeNotice) {
        // An endpoint that is being stopped listens no more.
        let _ = self.notices.send(notice);
    }
}

/// Ends blocks of an earlier life that was killed. They must be gone before the service is told that their tasks are lost,
/// and makes new attempts.
async fn end_leftovers(ledger: &Path) {
    match LocalProvider::end_leftovers(ledger).await {
        Ok(0) => {}
        Ok(processes) => tracing::info!(processes, "ended what was left of blocks from an earlier life"),
        Err(error) => {
            tracing::error!(%error, "blocks from an earlier life may still run, and with them tasks that are attempted again");
        }
    }
}

/// Opens the journal, and says what an earlier life of the endpoint left behind.
fn open_journal(directory: &Path) -> Result<(Arc<Journal>, Recovered)> {
    let (journal, recovered) = Journal::open(directory.join(JOURNAL), &JournalOptions::default())?;
    if !recovered.outbox.is_empty() || !recovered.leased.is_empty() {
        let outcomes: usize = recovered.outbox.iter().map(|batch| batch.heads.len()).sum();
        let (life, lost) = (recovered.life, recovered.leased.len());
        tracing::info!(life, outcomes, lost, "going on with what the journal holds from an earlier life");
    }
    Ok((Arc::new(journal), recovered))
}

fn node_config(
    config: &EndpointConfig,
    identity: EndpointIdentity,
    recovered: &Recovered,
) -> Result<NodeConfig> {
    let process = u64::from_ne_bytes(blocks::random()?);
    Ok(NodeConfig {
        uplink: Some(UplinkIdentity {
            role: Role::Endpoint,
            node: identity.id.uuid(),
            // Attempts that the journal does not know of may have begun: for the service this is a new session, in which
            // outcomes of the old one still count.
            epoch: if recovered.complete { recovered.epoch } else { process },
            life: recovered.life,
            process,
            ends_at: Tick::NEVER,
            credential: identity.token.reveal().to_owned(),
            name: identity.name,
            software: SOFTWARE.to_owned(),
        }),
        link: LinkPolicy {
            heartbeat: config.engine.heartbeat_period,
            silence: config.engine.heartbeat_threshold,
            handshake: Duration::from_millis(limit::HANDSHAKE_MILLIS),
        },
        lease_grace: Some(config.lease_grace),
        journal: true,
        retries: true,
        queue_tasks: config.queue_tasks,
        cold_after: Some(config.cold_after),
        ..NodeConfig::new(Hop::EndpointSent, SOFTWARE)
    })
}

fn block_policy(config: &EndpointConfig) -> BlockPolicy {
    let provider = &config.engine.provider;
    let cores = || std::thread::available_parallelism().map_or(1, |cores| cores.get() as u32);
    BlockPolicy {
        init_blocks: provider.init_blocks,
        min_blocks: provider.min_blocks,
        max_blocks: provider.max_blocks,
        // Blocks of a LocalProvider have the cores of this machine.
        slots_per_block: config.engine.max_workers_per_node.map_or_else(cores, u32::from),
        idle: config.engine.max_idletime,
        breaker: BREAKER,
        pause: FIRST_PAUSE,
    }
}

fn launcher(kind: LauncherKind) -> Arc<dyn Launcher> {
    match kind {
        LauncherKind::SingleNode => Arc::new(SingleNodeLauncher),
        LauncherKind::Simple => Arc::new(SimpleLauncher),
    }
}

/// Blocks are numbered from 0 each time, so logs of the last time would run on in those of this time.
fn put_aside_logs(directory: &Path) -> std::io::Result<()> {
    let (logs, previous) = (directory.join(LOGS), directory.join(PREVIOUS_LOGS));
    if logs.exists() {
        if previous.exists() {
            std::fs::remove_dir_all(&previous)?;
        }
        std::fs::rename(&logs, &previous)?;
    }
    Ok(())
}

/// Where endpoints connect to the service at this URL.
fn link_address(service: &str) -> Result<Address> {
    let wrong = || {
        Failed::new(Exit::Configuration, format!("`{service}` is not a URL such as `http://127.0.0.1:5000`"))
    };
    let rest = service.strip_prefix("http://").ok_or_else(wrong)?;
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    let has_port = host.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    let port = if has_port { "" } else { ":80" };
    let slash = if path.is_empty() { "" } else { "/" };
    Ok(format!("ws:{host}{port}{slash}{}/v1/link", path.trim_end_matches('/')).parse()?)
}

/// Where managers connect, and a directory to keep if one had to be made for it.
pub(crate) fn listen_address(
    config: &EndpointConfig,
    run: &Path,
) -> Result<(Option<tempfile::TempDir>, Address)> {
    if let Some(address) = &config.listen {
        return Ok((None, address.clone()));
    }
    let socket = run.join("managers.sock");
    let fits = |path: &PathBuf| path.as_os_str().len() <= MAX_SOCKET_PATH_BYTES;
    let (kept, socket) = if fits(&socket) {
        (None, socket)
    } else {
        let short = tempfile::Builder::new()
            .prefix("funcx-")
            .tempdir()
            .context("cannot make a directory for a socket")?;
        let socket = short.path().join("managers.sock");
        (Some(short), socket)
    };
    Ok((kept, format!("unix:{}", socket.display()).parse()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_link_is_where_the_service_is() {
        for (service, link) in [
            ("http://127.0.0.1:5000", "ws:127.0.0.1:5000/v1/link"),
            ("http://funcx.example.org", "ws:funcx.example.org:80/v1/link"),
            ("http://h:1/", "ws:h:1/v1/link"),
            ("http://h:1/funcx/", "ws:h:1/funcx/v1/link"),
            ("http://[::1]:5000", "ws:[::1]:5000/v1/link"),
            ("http://[::1]", "ws:[::1]:80/v1/link"),
        ] {
            assert_eq!(link_address(service).unwrap().to_string(), link);
        }
        assert!(link_address("ftp://h").is_err());
    }

    #[test]
    fn a_socket_whose_path_would_be_too_long_is_made_elsewhere() {
        let config = EndpointConfig::default();
        let (kept, address) = listen_address(&config, Path::new("/run/e")).unwrap();
        assert_eq!((kept.is_none(), address.to_string().as_str()), (true, "unix:/run/e/managers.sock"));
        let (kept, address) =
            listen_address(&config, &PathBuf::from(format!("/{}", "x".repeat(120)))).unwrap();
        assert!(kept.is_some() && address.rest().len() < 108, "{address}");
    }
}
