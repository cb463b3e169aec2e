//! A fabric of real processes for an experiment: a service and an endpoint, started as an operator starts them, with
//! managers and workers below.

mod delay;

use std::{
    fmt::Debug,
    fs::{self, OpenOptions},
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use funcx_core::contract::Scope;
use funcx_core::model::{EndpointId, FunctionId, OutcomeKind};
use funcx_net::auth::LocalAuthority;
use funcx_net::client::{Arguments, Call, Client, FunctionRegistration, TaskView, Token};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Serialize, de::DeserializeOwned};
use tokio::process::{Child, Command};

pub(super) use self::delay::Delay;
use super::experiment::Run;
use crate::cli::process::{Process, descendants, reap};
use crate::endpoint::{HOME_VARIABLE, TOKEN_VARIABLE};
use crate::service::authority_file;

/// How long a part may take to do what it was asked, and processes to be gone.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long one call may take: more than the longest outage of an experiment, and the queue before it.
const CALL_PATIENCE: Duration = Duration::from_secs(300);

/// Between two looks at something that cannot be waited for.
const LOOK: Duration = Duration::from_millis(10);

/// Name of the endpoint.
const NAME: &str = "bench";

/// Lines of a log that are quoted when a part does not start.
const QUOTED_LINES: usize = 5;

/// What the endpoint has.
#[derive(Debug, Clone, Copy)]
pub(super) struct Engine {
    pub(super) managers: u32,
    /// Worker processes of each manager.
    pub(super) workers: u32,
    /// When managers end that have nothing to do; they are started when there are tasks then, and there are none at first.
    pub(super) idle: Option<Duration>,
    /// Time that everything between service and endpoint takes longer, there and back together.
    pub(super) delay: Duration,
}

impl Default for Engine {
    fn default() -> Self {
        Self { managers: 1, workers: 1, idle: None, delay: Duration::ZERO }
    }
}

impl Engine {
    fn to_yaml(self) -> String {
        let Self { managers, workers, idle, delay: _ } = self;
        let at_least = if idle.is_some() { 0 } else { managers };
        let idle =
            idle.map(|idle| format!("  job_status_kwargs: {{max_idletime: {} ms}}\n", idle.as_millis()));
        format!(
            "engine:\n  max_workers_per_node: {workers}\n{}  provider: {{init_blocks: {at_least}, min_blocks: {at_least}, \
             max_blocks: {managers}}}\n",
            idle.unwrap_or_default()
        )
    }
}

/// A running fabric. Dropping it kills service and endpoint; managers and workers end with the run.
#[derive(Debug)]
pub(super) struct Fabric {
    directory: PathBuf,
    client: Client,
    address: SocketAddr,
    token: String,
    pub(super) endpoint_id: EndpointId,
    service: Child,
    endpoint: Child,
    _delay: Option<Delay>,
}

impl Fabric {
    /// Starts it; on return all workers are ready.
    pub(super) async fn start(run: &Run, engine: Engine) -> Result<Self> {
        let directory = run.directory()?;
        // Free now, and nobody else on this machine asks for it by number.
        let address = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
        let address = address.context("no free port")?;
        let token = make_token(&directory.join("data"))?;
        let service = start_service(&directory, address)?;
        let delay = match engine.delay.is_zero() {
            true => None,
            false => Some(Delay::start(address, engine.delay / 2).await?),
        };
        let seen_by_endpoint = delay.as_ref().map_or(address, Delay::address);
        let python = serde_json::to_string(&run.options.python)?;
        let config = format!("service: http://{seen_by_endpoint}\npython: {python}\n{}", engine.to_yaml());
        let home = directory.join("home/endpoints").join(NAME);
        fs::create_dir_all(&home)?;
        fs::write(home.join("config.yaml"), config)?;
        let endpoint = start_endpoint(&directory, &token)?;
        let client =
            Client::builder().service(format!("http://{address}")).token(Token::new(&token)?).build()?;
        let mut fabric = Self {
            directory,
            client,
            address,
            token,
            endpoint_id: EndpointId::from_u128(0),
            service,
            endpoint,
            _delay: delay,
        };
        fabric
            .wait_for_workers(if engine.idle.is_some() { 0 } else { engine.managers * engine.workers })
            .await?;
        fabric.endpoint_id = fabric.client.endpoint_named(NAME).await?.endpoint_id;
        Ok(fabric)
    }

    /// A client of the service.
    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    /// Another client of the service, with connections of its own.
    pub(super) fn another_client(&self) -> Result<Client> {
        let token = Token::new(&self.token)?;
        Ok(Client::builder().service(format!("http://{}", self.address)).token(token).build()?)
    }

    /// The process of the service.
    pub(super) fn service(&self) -> Option<Process> {
        Process::find(self.service.id()?)
    }

    /// The processes of the managers.
    pub(super) fn managers(&self) -> Vec<Process> {
        self.endpoint.id().and_then(Process::find).map(Process::children).unwrap_or_default()
    }

    /// The Python processes that run tasks; their parents are the zygotes of the managers.
    pub(super) fn workers(&self) -> Vec<Process> {
        let below = |processes: Vec<Process>| processes.into_iter().flat_map(Process::children).collect();
        below(below(self.managers()))
    }

    /// Kills the endpoint. Its managers and workers notice and end.
    pub(super) async fn kill_endpoint(&mut self) -> Result<()> {
        self.endpoint.kill().await.context("cannot kill the endpoint")
    }

    /// Starts an endpoint that was killed.
    pub(super) fn start_endpoint(&mut self) -> Result<()> {
        self.endpoint = start_endpoint(&self.directory, &self.token)?;
        Ok(())
    }

    /// A file for tasks to write to.
    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Registers a Python function whose name is the first that its source defines.
    pub(super) async fn python(&self, name: &str, source: &str) -> Result<FunctionId> {
        Ok(self.client.register(&FunctionRegistration::python(name, source)).await?.function_id)
    }

    /// Waits until the service knows of so many workers.
    pub(super) async fn wait_for_workers(&mut self, workers: u32) -> Result<()> {
        let began = Instant::now();
        while began.elapsed() < PATIENCE {
            if let Ok(endpoint) = self.client.endpoint_named(NAME).await
                && endpoint.connected
                && endpoint.workers >= workers
            {
                return Ok(());
            }
            for (name, child) in [("service", &mut self.service), ("endpoint", &mut self.endpoint)] {
                if let Some(status) = child.try_wait()? {
                    bail!(
                        "the {name} has ended ({status}): {}",
                        end_of(&self.directory.join(format!("{name}.log")))
                    );
                }
            }
            tokio::time::sleep(LOOK).await;
        }
        bail!("{workers} workers are not ready after {} s", PATIENCE.as_secs())
    }

    /// Stops everything in order, and finds that no process is left.
    pub(super) async fn stop(mut self) -> Result<()> {
        terminate(&mut self.endpoint).await.context("the endpoint")?;
        terminate(&mut self.service).await.context("the service")?;
        let (began, mut zombies) = (Instant::now(), Vec::new());
        while !descendants().is_empty() && began.elapsed() < PATIENCE {
            tokio::time::sleep(LOOK).await;
            zombies = reap(&zombies, &[]);
        }
        let left: Vec<_> = descendants().into_iter().map(Process::command).collect();
        ensure!(
            left.is_empty(),
            "processes are left when service and endpoint have ended: {}",
            left.join("; ")
        );
        Ok(())
    }
}

/// Positional arguments of a Python function.
pub(super) fn python_arguments(arguments: &(impl Serialize + ?Sized)) -> Result<Arguments> {
    Ok(Arguments::python(arguments, &serde_json::Map::new())?)
}

/// Makes a call, waits for its outcome, and finds that it returned `value`.
pub(super) async fn call_for<T: DeserializeOwned + PartialEq + Debug>(
    client: &Client,
    call: &Call,
    value: &T,
) -> Result<TaskView> {
    let outcome = async { client.submit(call.clone()).await?.await };
    let task = tokio::time::timeout(CALL_PATIENCE, outcome)
        .await
        .with_context(|| format!("a call has not ended after {} s", CALL_PATIENCE.as_secs()))??;
    ensure!(
        task.outcome == Some(OutcomeKind::Returned),
        "a call that should have returned ended so: {task:?}"
    );
    let returned: T = task.value()?;
    ensure!(returned == *value, "a call returned {returned:?} instead of {value:?}");
    Ok(task)
}

fn make_token(data: &Path) -> Result<String> {
    fs::create_dir_all(data)?;
    let authority = LocalAuthority::open(authority_file(data))?;
    let account = authority.create_account(NAME, &[])?;
    Ok(authority.create_token(account, &[Scope::Compute, Scope::Endpoint], None, NAME)?)
}

fn start_service(directory: &Path, address: SocketAddr) -> Result<Child> {
    let mut command = this_program("service", directory)?;
    command.args(["--listen", &address.to_string(), "--data-dir"]).arg(directory.join("data"));
    command.spawn().context("cannot start a service")
}

fn start_endpoint(directory: &Path, token: &str) -> Result<Child> {
    let mut command = this_program("endpoint", directory)?;
    command.args(["start", NAME]);
    command.env(HOME_VARIABLE, directory.join("home")).env(TOKEN_VARIABLE, token);
    command.spawn().context("cannot start an endpoint")
}

/// This program as a daemon of a fabric, whose log is a file of its name.
fn this_program(daemon: &str, directory: &Path) -> Result<Command> {
    let program = std::env::current_exe().context("cannot find this program")?;
    let log = OpenOptions::new().create(true).append(true).open(directory.join(format!("{daemon}.log")))?;
    let mut command = Command::new(program);
    command
        .args(["bench", daemon])
        // What they leave behind when they are killed goes with the run's directory.
        .env("TMPDIR", directory)
        // A proxy of the site leads away from this machine.
        .env_remove("http_proxy")
        .env_remove("HTTP_PROXY")
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        // Ctrl-C is for us, who ends them.
        .process_group(0)
        .kill_on_drop(true);
    Ok(command)
}

/// Asks a process to end, and waits until it has.
async fn terminate(child: &mut Child) -> Result<()> {
    if let Some(pid) = child.id().and_then(|pid| i32::try_from(pid).ok()) {
        kill(Pid::from_raw(pid), Signal::SIGTERM)?;
    }
    let status =
        tokio::time::timeout(PATIENCE, child.wait()).await.context("does not end when asked to")??;
    ensure!(status.success(), "ended badly: {status}");
    Ok(())
}

/// The last lines of a log.
fn end_of(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(QUOTED_LINES)..].join("; ")
}
