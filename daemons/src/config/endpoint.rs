//! What an endpoint's `config.yaml` says.

use std::{collections::BTreeMap, fmt, num::NonZeroU32, path::PathBuf, str::FromStr, time::Duration};

use funcx_core::contract::Address;
use funcx_core::model::{FunctionId, limit};
use funcx_core::state::KeepAlive;

use super::document::{Node, Value};
use super::environments::{self, EnvironmentConfig};
use super::foreign;
use super::quantity::LONGEST_DURATION;
use super::section::{Findings, Problem, Section, Size};

/// What `cold_after` is if the file does not say it. It should be about as long as a worker takes to start: waiting for that long
/// never costs more than twice the better choice. It cannot be learned from what the endpoint sees, because the time from sending
/// a task until it begins holds the queue of the manager too. A Python worker is forked in milliseconds, and its zygote takes
/// from 60 ms to many seconds, by what it imports.
const COLD_AFTER: Duration = Duration::from_millis(100);

/// Beyond this a task waits for something that does not come.
const LONGEST_COLD_AFTER: Duration = Duration::from_secs(3600);

/// Longest configuration file. A real one has some kilobytes.
pub(super) const MAX_FILE_BYTES: usize = 1 << 20;

/// Longest time between two heartbeats.
const MAX_HEARTBEAT: Duration = Duration::from_secs(86_400);

/// Most workers of a manager, which is as many as a pool of processes has, and most blocks.
const MAX_COUNT: u32 = 4096;

/// An endpoint's configuration, checked. [`Default`] is what an empty file means.
#[derive(Debug, Clone, PartialEq)]
pub struct EndpointConfig {
    /// Name that users see; the name of the endpoint's directory if not set.
    pub display_name: Option<String>,
    /// Whether everybody whom the service knows may run functions here.
    pub public: bool,
    /// The only functions that may run here; any if `None`.
    pub allowed_functions: Option<Vec<FunctionId>>,
    /// Base URL of the service.
    pub service: String,
    /// Time between reports to the service about workers and queue.
    pub heartbeat_period: Duration,
    /// Whether to log in detail.
    pub debug: bool,
    /// Where managers connect; a socket in the endpoint's directory if `None`.
    pub listen: Option<Address>,
    /// Tasks taken from the service besides those that workers have room for.
    pub queue_tasks: u32,
    /// How long a manager whose connection broke may take to come back before its tasks go elsewhere.
    pub lease_grace: Duration,
    /// Python interpreter of the workers, a path or a name looked up in `PATH`.
    pub python: String,
    /// Program and arguments that start a manager; found beside this program if empty.
    pub worker_command: Vec<String>,
    /// Variables that managers and workers get besides the endpoint's own.
    pub environment: BTreeMap<String, String>,
    /// Python modules loaded once, before workers are forked.
    pub preload: Vec<String>,
    /// Other environments that tasks may ask for, by name.
    pub environments: BTreeMap<String, EnvironmentConfig>,
    /// How long workers of an environment are kept without tasks, if there are several.
    pub keep_alive: KeepAlive,
    /// How long a task waits for a worker of its environment while those of others are idle, if there are several.
    pub cold_after: Duration,
    /// Memory for the values of memoized tasks, in bytes.
    pub memo_bytes: u64,
    /// Largest result of one task in bytes.
    pub max_result_bytes: u64,
    /// Captured output kept of each stream of a task, in bytes.
    pub max_output_bytes: u64,
    /// Time between asking a worker to stop and killing it.
    pub kill_grace: Duration,
    /// Time that running tasks have to end when the endpoint is stopped; then they are stopped.
    pub drain_timeout: Duration,
    /// How tasks are run.
    pub engine: EngineConfig,
}

/// How tasks are run.
#[derive(Debug, Clone, PartialEq)]
pub struct EngineConfig {
    /// Which engine.
    pub kind: EngineKind,
    /// Worker processes per node; one per core if `None`.
    pub max_workers_per_node: Option<NonZeroU32>,
    /// Tasks that may wait at each manager besides those that run; each manager chooses by how long tasks take if `None`.
    pub prefetch: Option<u32>,
    /// Directory that tasks start in; relative to the endpoint's directory.
    pub working_dir: PathBuf,
    /// Time between two heartbeats on the link to a manager.
    pub heartbeat_period: Duration,
    /// Silence after which a manager is given up.
    pub heartbeat_threshold: Duration,
    /// How long a block without work is kept, beyond `min_blocks`. A file of Globus Compute that says
    /// `idle_heartbeats_soft` instead means that many heartbeat periods: here blocks end then, and the endpoint stays.
    pub max_idletime: Duration,
    /// Where blocks come from.
    pub provider: ProviderConfig,
}

/// The engines there are. They differ in scaling only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EngineKind {
    /// Blocks come and go with the load.
    GlobusCompute,
    /// One block on this machine, always.
    ProcessPool,
}

/// Where blocks come from, and how many.
#[derive(Debug, Clone, PartialEq)]
pub struct ProviderConfig {
    /// Blocks at start.
    pub init_blocks: u32,
    /// Blocks kept without work.
    pub min_blocks: u32,
    /// Blocks at most.
    pub max_blocks: u32,
    /// Nodes of a block.
    pub nodes_per_block: u32,
    /// How long a block lives; as long as the endpoint if `None`.
    pub walltime: Option<Duration>,
    /// Shell commands run before the workers of a block start.
    pub worker_init: String,
    /// How managers are started inside a block.
    pub launcher: LauncherKind,
}

/// The launchers there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LauncherKind {
    /// One manager on the first node.
    SingleNode,
    /// The manager's command as it is.
    Simple,
}

impl EngineKind {
    /// The word for it in the file.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::GlobusCompute => "GlobusComputeEngine",
            Self::ProcessPool => "ProcessPoolEngine",
        }
    }
}

impl LauncherKind {
    /// The word for it in the file.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::SingleNode => "SingleNodeLauncher",
            Self::Simple => "SimpleLauncher",
        }
    }
}

impl Default for EndpointConfig {
    fn default() -> Self {
        Self {
            display_name: None,
            public: false,
            allowed_functions: None,
            service: "http://127.0.0.1:5000".to_owned(),
            heartbeat_period: Duration::from_secs(5),
            debug: false,
            listen: None,
            queue_tasks: 10_000,
            lease_grace: Duration::from_millis(limit::LEASE_GRACE_MILLIS),
            python: "python3".to_owned(),
            worker_command: Vec::new(),
            environment: BTreeMap::new(),
            preload: Vec::new(),
            environments: BTreeMap::new(),
            keep_alive: KeepAlive::Learned,
            cold_after: COLD_AFTER,
            memo_bytes: limit::DEFAULT_MEMO_BYTES as u64,
            max_result_bytes: limit::MAX_PAYLOAD_BYTES as u64,
            max_output_bytes: limit::MAX_OUTPUT_BYTES as u64,
            kill_grace: Duration::from_secs(2),
            drain_timeout: crate::worker::WorkerOptions::DRAIN_TIMEOUT,
            engine: EngineConfig::default(),
        }
    }
}

impl Default for EngineConfig {
    fn default() -> Self {
        let heartbeat_period = Duration::from_millis(limit::HEARTBEAT_MILLIS);
        Self {
            kind: EngineKind::GlobusCompute,
            max_workers_per_node: None,
            prefetch: None,
            working_dir: PathBuf::from("tasks_working_dir"),
            heartbeat_period,
            heartbeat_threshold: heartbeat_period * limit::HEARTBEATS_MISSED,
            max_idletime: Duration::from_secs(120),
            provider: ProviderConfig::default(),
        }
    }
}

impl Default for ProviderConfig {
    fn default() -> Self {
        Self {
            init_blocks: 1,
            min_blocks: 1,
            max_blocks: 1,
            nodes_per_block: 1,
            walltime: None,
            worker_init: String::new(),
            launcher: LauncherKind::SingleNode,
        }
    }
}

/// A configuration that was read, with remarks about keys that have no effect.
#[derive(Debug)]
pub struct Read {
    /// The configuration.
    pub config: EndpointConfig,
    /// What the operator should know.
    pub notes: Vec<Problem>,
}

/// Why a configuration cannot be used: everything that is wrong with it, in the order of the file.
#[derive(Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// At least one.
    pub problems: Vec<Problem>,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let texts: Vec<_> = self.problems.iter().map(Problem::to_string).collect();
        f.write_str(&texts.join("\n"))
    }
}

impl std::error::Error for ConfigError {}

impl EndpointConfig {
    /// Reads and checks a configuration file.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn parse(text: &str) -> Result<Read, ConfigError> {
        let one = |line, message: String| ConfigError {
            problems: vec![Problem { line, path: String::new(), message }],
        };
        if text.len() > MAX_FILE_BYTES {
            return Err(one(1, format!("the file is larger than {MAX_FILE_BYTES} bytes")));
        }
        let document = Node::parse(text).map_err(|error| one(1, error.to_string()))?;
        let findings = Findings::default();
        let config = read_endpoint(Section::new("", &document, &findings));
        match findings.into_sorted() {
            (problems, notes) if problems.is_empty() => Ok(Read { config, notes }),
            (problems, _) => Err(ConfigError { problems }),
        }
    }
}

fn read_endpoint(mut file: Section<'_>) -> EndpointConfig {
    let default = EndpointConfig::default();
    let positive = "a duration from 1 ms to a day, such as `30 s`";
    let heartbeat_period = file
        .get_if("heartbeat_period", positive, |period: &Duration| {
            !period.is_zero() && *period <= MAX_HEARTBEAT
        })
        .unwrap_or(default.heartbeat_period);
    let idle_heartbeats: Option<u32> = file.get("idle_heartbeats_soft");
    let idle = idle_heartbeats.map(|beats| heartbeat_period.saturating_mul(beats).min(LONGEST_DURATION));
    let engine = read_engine(file.section("engine"), idle);
    let listen = file.node("listen").and_then(|node| read_address(&file, node));
    if listen.is_some() && engine.listen.is_some() {
        file.problem("listen", "and `engine.address` say the same thing; leave one out");
    }
    let max_result = format!("a size up to {} bytes", limit::MAX_PAYLOAD_BYTES);
    let max_output = format!("a size up to {} bytes", limit::MAX_OUTPUT_BYTES);
    let config = EndpointConfig {
        display_name: file.get_if("display_name", "a name of 1 to 128 characters", |name: &String| {
            (1..=128).contains(&name.chars().count())
        }),
        public: file.get("public").unwrap_or(default.public),
        allowed_functions: read_functions(&mut file),
        service: file
            .get_if(
                "service",
                "a URL such as `http://127.0.0.1:5000` (https is not supported yet)",
                |url: &String| is_http_url(url),
            )
            .unwrap_or(default.service),
        heartbeat_period,
        debug: file.get("debug").unwrap_or(default.debug),
        listen: listen.or(engine.listen),
        queue_tasks: file
            .get_if("queue_tasks", "a whole number up to 1000000", |tasks: &u32| *tasks <= 1_000_000)
            .unwrap_or(default.queue_tasks),
        lease_grace: file.get("lease_grace").unwrap_or(default.lease_grace),
        python: file
            .get_if("python", "a path or a command name", |python: &String| !python.is_empty())
            .unwrap_or(default.python),
        worker_command: file
            .get_if("worker_command", "a list of a program and its arguments", |command: &Vec<String>| {
                !command.is_empty()
            })
            .unwrap_or_default(),
        environment: file.get("environment").unwrap_or_default(),
        preload: file.get("preload").unwrap_or_default(),
        environments: environments::read(&mut file),
        keep_alive: file.get("keep_alive").unwrap_or_default(),
        cold_after: file
            .get_if("cold_after", "a duration up to an hour, such as `2 s`", |time: &Duration| {
                *time <= LONGEST_COLD_AFTER
            })
            .unwrap_or(default.cold_after),
        memo_bytes: file.get::<Size>("memo_size").map_or(default.memo_bytes, |size| size.0),
        max_result_bytes: file
            .get_if("max_result_size", &max_result, |size: &Size| size.0 <= limit::MAX_PAYLOAD_BYTES as u64)
            .map_or(default.max_result_bytes, |size| size.0),
        max_output_bytes: file
            .get_if("max_output_size", &max_output, |size: &Size| size.0 <= limit::MAX_OUTPUT_BYTES as u64)
            .map_or(default.max_output_bytes, |size| size.0),
        kill_grace: file.get("kill_grace").unwrap_or(default.kill_grace),
        drain_timeout: file.get("drain_timeout").unwrap_or(default.drain_timeout),
        engine: engine.config,
    };
    file.finish(foreign::ENDPOINT);
    config
}

/// An engine, and where its managers connect: that is a key of the engine in Globus Compute.
struct ReadEngine {
    config: EngineConfig,
    listen: Option<Address>,
}

fn read_engine(mut engine: Section<'_>, idle: Option<Duration>) -> ReadEngine {
    let default = EngineConfig::default();
    let count = format!("a whole number from 1 to {MAX_COUNT}");
    let kind = match engine.get::<String>("type").as_deref() {
        None | Some("GlobusComputeEngine") => EngineKind::GlobusCompute,
        Some("ProcessPoolEngine") => EngineKind::ProcessPool,
        Some(other) => {
            let not_here = foreign::ENGINES.iter().find(|(name, _)| *name == other);
            engine.problem(
                "type",
                match not_here {
                    Some((_, instead)) => format!("{other} is not supported: {instead}"),
                    None => format!("must be GlobusComputeEngine or ProcessPoolEngine, not `{other}`"),
                },
            );
            default.kind
        }
    };
    let in_bounds = |workers: &u32| (1..=MAX_COUNT).contains(workers);
    let per_node = engine.get_if("max_workers_per_node", &count, in_bounds);
    let workers = engine.get_if("max_workers", &count, in_bounds);
    if per_node.is_some() && workers.is_some() {
        engine.problem("max_workers", "and `max_workers_per_node` say the same thing; leave one out");
    }
    let prefetch = read_prefetch(&mut engine);
    let heartbeat_period = engine
        .get_if("heartbeat_period", "a duration from 100 ms to a day", |period: &Duration| {
            period.as_millis() >= 100 && *period <= MAX_HEARTBEAT
        })
        .unwrap_or(default.heartbeat_period);
    let heartbeat_threshold = engine
        .get_if("heartbeat_threshold", "longer than `heartbeat_period`", |threshold| {
            *threshold > heartbeat_period
        })
        .unwrap_or(heartbeat_period * limit::HEARTBEATS_MISSED);
    let strategy: Option<String> = engine.get("strategy");
    let mut job_status = engine.section("job_status_kwargs");
    let max_idletime = job_status.get("max_idletime").or(idle.filter(|idle| !idle.is_zero()));
    let strategy = strategy.or(job_status.get("strategy"));
    job_status.finish(foreign::JOB_STATUS);
    let mut provider = read_provider(engine.section("provider"));
    let fixed = match strategy.as_deref() {
        None | Some("simple" | "htex_auto_scale") => kind == EngineKind::ProcessPool,
        Some("none") => true,
        Some(other) => {
            engine.problem("strategy", format!("must be simple, htex_auto_scale or none, not `{other}`"));
            false
        }
    };
    let blocks = (provider.init_blocks, provider.min_blocks, provider.max_blocks);
    if kind == EngineKind::ProcessPool && blocks != (1, 1, 1) {
        engine.problem("provider", "of a ProcessPoolEngine has no blocks to choose; use GlobusComputeEngine");
    }
    if fixed {
        provider.min_blocks = provider.init_blocks;
        provider.max_blocks = provider.init_blocks.max(1);
    }
    let listen = read_engine_address(&mut engine);
    let config = EngineConfig {
        kind,
        max_workers_per_node: per_node.or(workers).and_then(NonZeroU32::new),
        prefetch,
        working_dir: engine.get::<String>("working_dir").map_or(default.working_dir, PathBuf::from),
        heartbeat_period,
        heartbeat_threshold,
        max_idletime: max_idletime.unwrap_or(default.max_idletime),
        provider,
    };
    engine.finish(foreign::ENGINE);
    ReadEngine { config, listen }
}

fn read_provider(mut provider: Section<'_>) -> ProviderConfig {
    let default = ProviderConfig::default();
    match provider.get::<String>("type").as_deref() {
        None | Some("LocalProvider") => {}
        Some(other) if foreign::PROVIDERS.contains(&other) => {
            provider.problem("type", format!("{other} is not supported yet; LocalProvider is"));
        }
        Some(other) => provider.problem("type", format!("must be LocalProvider, not `{other}`")),
    }
    let blocks = format!("a whole number up to {MAX_COUNT}");
    let in_bounds = |blocks: &u32| *blocks <= MAX_COUNT;
    let max_blocks: Option<u32> = provider
        .get_if("max_blocks", &format!("{blocks}, and not 0"), |blocks| *blocks > 0 && in_bounds(blocks));
    let init_blocks: Option<u32> = provider.get_if("init_blocks", &blocks, in_bounds);
    let min_blocks: Option<u32> = provider.get_if("min_blocks", &blocks, in_bounds);
    // What is not said follows what is: `init_blocks: 0` alone keeps nothing, `min_blocks: 4` alone starts four.
    let init_or_default = init_blocks.unwrap_or(default.init_blocks);
    let min = min_blocks.unwrap_or(default.min_blocks.min(init_or_default));
    let max = max_blocks.unwrap_or(default.max_blocks.max(min).max(init_or_default));
    for (key, value) in [("init_blocks", init_or_default), ("min_blocks", min)] {
        if value > max {
            provider.problem(key, format!("is {value}, more than `max_blocks`, which is {max}"));
        }
    }
    let launcher = read_launcher(provider.section("launcher"));
    let config = ProviderConfig {
        init_blocks: init_or_default,
        min_blocks: min,
        max_blocks: max,
        nodes_per_block: provider
            .get_if("nodes_per_block", "1: a LocalProvider has one node", |nodes| *nodes == 1)
            .unwrap_or(1),
        walltime: provider.get("walltime"),
        worker_init: provider.get("worker_init").unwrap_or_default(),
        launcher,
    };
    provider.finish(foreign::PROVIDER);
    config
}

/// `prefetch`, which Globus Compute calls `prefetch_capacity`.
fn read_prefetch(engine: &mut Section<'_>) -> Option<u32> {
    // In their files 0 stands for none ahead; in ours it would be a riddle, for what is left out is automatic.
    let [ours, theirs] = [("prefetch", 1), ("prefetch_capacity", 0)].map(|(key, least)| {
        let expected = format!("a whole number from {least} to {}", limit::MAX_PREFETCH);
        engine.get_if(key, &expected, |tasks: &u32| (least..=limit::MAX_PREFETCH).contains(tasks))
    });
    if ours.is_some() && theirs.is_some() {
        engine.problem("prefetch_capacity", "and `prefetch` say the same thing; leave one out");
    }
    ours.or(theirs)
}

fn read_launcher(mut launcher: Section<'_>) -> LauncherKind {
    let kind = match launcher.get::<String>("type").as_deref() {
        None | Some("SingleNodeLauncher") => LauncherKind::SingleNode,
        Some("SimpleLauncher") => LauncherKind::Simple,
        Some(other) => {
            let yet =
                if foreign::LAUNCHERS.contains(&other) { "is not supported yet" } else { "is not known" };
            launcher.problem("type", format!("{other} {yet}; SingleNodeLauncher and SimpleLauncher are"));
            LauncherKind::SingleNode
        }
    };
    launcher.finish(&[("debug", super::Foreign::NoEffect("the manager logs to endpoint.log"))]);
    kind
}

/// `address` and `worker_port`, as the address that managers connect to.
fn read_engine_address(engine: &mut Section<'_>) -> Option<Address> {
    let port = engine.get_if("worker_port", "a port number", |port: &u32| u16::try_from(*port).is_ok());
    let node = engine.node("address");
    if node.is_none() && port.is_some() {
        engine.problem("worker_port", "needs `address` beside it");
    }
    match &node?.value {
        Value::Text(host) => match Address::from_str(&format!("tcp:{host}:{}", port.unwrap_or(0))) {
            Ok(address) => Some(address),
            Err(error) => {
                engine.problem("address", error.to_string());
                None
            }
        },
        Value::Map(_) => {
            engine.problem("address", "as a function is not supported yet: name the host or its IP address");
            None
        }
        other => {
            engine.problem("address", format!("must be a host or an IP address, not {other}"));
            None
        }
    }
}

fn read_address(file: &Section<'_>, node: &Node) -> Option<Address> {
    let address = match &node.value {
        Value::Text(text) => {
            text.parse::<Address>().ok().filter(|address| ["unix", "tcp"].contains(&address.scheme()))
        }
        _ => None,
    };
    if address.is_none() {
        file.problem(
            "listen",
            format!(
                "must be an address such as `tcp:10.0.0.1:0` or `unix:/path/to/socket`, not {}",
                node.value
            ),
        );
    }
    address
}

fn read_functions(file: &mut Section<'_>) -> Option<Vec<FunctionId>> {
    let ids: Vec<String> = file.get("allowed_functions")?;
    let mut functions = Vec::with_capacity(ids.len());
    for id in ids {
        match id.parse() {
            Ok(function) => functions.push(function),
            Err(error) => file.problem("allowed_functions", format!("holds a wrong id: {error}")),
        }
    }
    Some(functions)
}

fn is_http_url(url: &str) -> bool {
    url.strip_prefix("http://").is_some_and(|rest| !rest.is_empty() && !rest.contains(char::is_whitespace))
}
