//! The command line of a manager.

use std::{num::NonZeroU32, path::PathBuf, time::Duration};

use funcx_core::contract::Address;
use funcx_core::model::{EndpointId, ManagerId, limit};
use funcx_core::state::KeepAlive;

use crate::config::{
    Environments, format_duration, format_keep_alive, parse_duration, parse_keep_alive, parse_size,
};

/// Variable with the secret that proves a manager to its endpoint. A secret is no argument: everybody can list those.
pub const SECRET_VARIABLE: &str = "FUNCX_BLOCK_SECRET";

/// Variable with the shell commands that run before workers start. People put keys into them, and everybody on a machine
/// sees command lines.
pub const INIT_VARIABLE: &str = "FUNCX_WORKER_INIT";

/// Variable with the environments of the endpoint. They hold shell commands and variables, and those hold keys.
pub const ENVIRONMENTS_VARIABLE: &str = "FUNCX_ENVIRONMENTS";

/// Variable with the id that the endpoint gave to the manager of a block.
pub const MANAGER_VARIABLE: &str = "FUNCX_MANAGER_ID";

/// How a manager is started.
#[derive(Debug, Clone, clap::Args)]
pub struct WorkerOptions {
    /// Where the endpoint listens, such as `unix:/path/to/socket` or `tcp:10.0.0.1:9000`
    #[arg(long, value_name = "ADDRESS")]
    pub endpoint: Address,
    /// Id of the endpoint; workers are told it
    #[arg(long, value_name = "ID")]
    pub endpoint_id: Option<EndpointId>,
    /// Number of the block this manager belongs to
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    pub block: u32,
    /// Id of this manager; drawn if not set
    #[arg(long, env = MANAGER_VARIABLE, value_name = "ID")]
    pub manager_id: Option<ManagerId>,
    /// Python worker processes; one per core if not set
    #[arg(long, value_name = "COUNT")]
    pub workers: Option<NonZeroU32>,
    /// Threads for native functions; one per core if not set
    #[arg(long, value_name = "COUNT")]
    pub native_threads: Option<NonZeroU32>,
    /// Tasks that may wait here besides those that run, 0 for none; as many as keep the workers busy if not set
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(..=i64::from(limit::MAX_PREFETCH)))]
    pub prefetch: Option<u32>,
    /// Python of the workers
    #[arg(long, default_value = "python3", value_name = "PATH")]
    pub python: String,
    /// Shell commands run before the workers start
    #[arg(long, env = INIT_VARIABLE, hide_env_values = true, default_value = "", value_name = "COMMANDS", allow_hyphen_values = true)]
    pub worker_init: String,
    /// Environments that tasks may ask for besides the default one, as a JSON object of those of the endpoint's configuration
    #[arg(long, env = ENVIRONMENTS_VARIABLE, hide_env_values = true, default_value = "", hide_default_value = true, value_name = "JSON")]
    pub environments: Environments,
    /// How long workers of an environment are kept without tasks, if there are several: `learned` from its pauses, or a
    /// duration
    #[arg(long, value_parser = keep_alive, default_value = "learned", value_name = "DURATION")]
    pub keep_alive: KeepAlive,
    /// Directory that tasks start in
    #[arg(long, default_value = ".", value_name = "DIRECTORY")]
    pub work_dir: PathBuf,
    /// Python module loaded once, before workers are forked; may be given several times
    #[arg(long, value_name = "MODULE")]
    pub preload: Vec<String>,
    /// Largest result of one task
    #[arg(long, value_parser = size, default_value_t = limit::MAX_PAYLOAD_BYTES as u64, value_name = "SIZE")]
    pub max_result_size: u64,
    /// Captured output kept of each stream of a task
    #[arg(long, value_parser = size, default_value_t = limit::MAX_OUTPUT_BYTES as u64, value_name = "SIZE")]
    pub max_output_size: u64,
    /// Time between asking a worker to stop and killing it
    #[arg(long, value_parser = duration, default_value = "2 s", value_name = "DURATION")]
    pub kill_grace: Duration,
    /// How long running tasks may take to finish when this manager is asked to end (SIGTERM); a second signal ends it at
    /// once
    #[arg(long, value_parser = duration, default_value = "30 s", value_name = "DURATION")]
    pub drain_timeout: Duration,
    /// How long the block of this manager still lasts. Before that is over it takes no more tasks, finishes what it can and
    /// stops the rest
    #[arg(long, value_parser = duration, value_name = "DURATION")]
    pub walltime: Option<Duration>,
    /// How long the endpoint may be out of reach until this manager gives up; 60 s if not set
    #[arg(long, value_parser = duration, value_name = "DURATION")]
    pub patience: Option<Duration>,
}

impl WorkerOptions {
    /// How long a manager waits for its endpoint if nothing else is said: twice the time for which the endpoint keeps
    /// its tasks for it.
    pub const PATIENCE: Duration = Duration::from_millis(2 * limit::LEASE_GRACE_MILLIS);

    /// How long running tasks may take when a manager is asked to end, if nothing else is said.
    pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(30);

    /// The arguments that say the same, without the ids and numbers that belong to one block.
    pub(crate) fn to_arguments(&self) -> Vec<String> {
        let mut arguments = vec![
            "--python".to_owned(),
            self.python.clone(),
            "--work-dir".to_owned(),
            self.work_dir.to_string_lossy().into_owned(),
            "--max-result-size".to_owned(),
            self.max_result_size.to_string(),
            "--max-output-size".to_owned(),
            self.max_output_size.to_string(),
            "--kill-grace".to_owned(),
            format_duration(self.kill_grace),
            "--drain-timeout".to_owned(),
            format_duration(self.drain_timeout),
            "--keep-alive".to_owned(),
            format_keep_alive(self.keep_alive),
        ];
        arguments
            .extend(self.workers.iter().flat_map(|workers| ["--workers".to_owned(), workers.to_string()]));
        arguments.extend(self.prefetch.iter().flat_map(|tasks| ["--prefetch".to_owned(), tasks.to_string()]));
        arguments.extend(
            self.walltime.iter().flat_map(|walltime| ["--walltime".to_owned(), format_duration(*walltime)]),
        );
        arguments.extend(self.preload.iter().flat_map(|module| ["--preload".to_owned(), module.clone()]));
        arguments
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    parse_duration(text).ok_or_else(|| "a duration looks like `30 s` or `00:10:00`".to_owned())
}

fn keep_alive(text: &str) -> Result<KeepAlive, String> {
    parse_keep_alive(text).ok_or_else(|| "`learned`, or a duration such as `10 min`".to_owned())
}

fn size(text: &str) -> Result<u64, String> {
    parse_size(text).ok_or_else(|| "a size looks like `64 MiB`".to_owned())
}
