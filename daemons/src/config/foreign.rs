//! Keys of Globus Compute endpoints that mean nothing here, or nothing yet.

use super::section::Foreign::{self, NoEffect, Unsupported};

/// Keys of the whole endpoint.
pub(super) const ENDPOINT: &[(&str, Foreign)] = &[
    ("admins", Unsupported("only the owner manages an endpoint")),
    ("amqp_port", NoEffect("the endpoint dials the port of `service`")),
    ("audit_log_path", Unsupported("look at endpoint.log")),
    ("authentication_policy", Unsupported("use `public` and `allowed_functions`")),
    ("detach_endpoint", NoEffect("say `start --detach`")),
    ("email", NoEffect("nobody reads it")),
    ("endpoint_setup", Unsupported("run it before `start`, or use `engine.provider.worker_init`")),
    ("endpoint_teardown", Unsupported("run it after `stop`")),
    ("funcx_service_address", Unsupported("it is `service` here")),
    (
        "heartbeat_threshold",
        NoEffect(
            "the service says when a silent link is given up; `engine.heartbeat_threshold` is for managers",
        ),
    ),
    ("high_assurance", Unsupported("")),
    ("identity_mapping_config_path", Unsupported("every user has an endpoint of their own")),
    ("idle_heartbeats_hard", NoEffect("an endpoint with unfinished tasks stays")),
    ("local_compute_services", NoEffect("`service` says where the service is")),
    ("mu_child_ep_grace_period_s", NoEffect("there are no child endpoints")),
    ("multi_user", Unsupported("every user has an endpoint of their own")),
    ("pam", Unsupported("every user has an endpoint of their own")),
    ("stderr", NoEffect("both streams go to endpoint.log")),
    ("stdout", NoEffect("both streams go to endpoint.log")),
    ("subscription_id", NoEffect("there are no subscriptions")),
    ("user_config_schema_path", Unsupported("there are no templates")),
    ("user_config_template_path", Unsupported("there are no templates")),
];

/// Keys of every engine.
pub(super) const ENGINE: &[(&str, Foreign)] = &[
    ("allowed_serializers", Unsupported("leave it out to allow all")),
    ("available_accelerators", Unsupported("leave it out, and set CUDA_VISIBLE_DEVICES in `environment`")),
    (
        "block_error_handler",
        NoEffect("blocks that die early are asked for again, with growing pauses, at most five times"),
    ),
    ("container_cmd_options", Unsupported("leave it out to run workers without a container")),
    ("container_type", Unsupported("leave it out to run workers without a container")),
    ("container_uri", Unsupported("leave it out to run workers without a container")),
    ("cores_per_worker", Unsupported("set `max_workers_per_node`")),
    ("cpu_affinity", Unsupported("leave it out; workers are not bound")),
    ("drain_period", Unsupported("leave it out; managers stay until their block ends")),
    ("encrypted", NoEffect("by default managers are reached through a socket that only you can open")),
    ("executor", Unsupported("set the engine's keys directly")),
    ("label", NoEffect("nothing shows it")),
    ("manager_selector", NoEffect("the manager with the most room is taken")),
    (
        "max_retries_on_system_failure",
        NoEffect("a submission says how often a lost task is tried (3 times by default)"),
    ),
    ("max_tasks_per_child", Unsupported("leave it out; workers are kept")),
    ("mem_per_worker", Unsupported("set `max_workers_per_node`")),
    ("mpi_launcher", Unsupported("MPI functions do not run here")),
    ("poll_period", NoEffect("nothing polls")),
    (
        "run_in_sandbox",
        Unsupported("a task can ask for it: `{\"sandbox\": true}` in the options of /v1/submit"),
    ),
    ("strategy_period", NoEffect("blocks follow the load at once")),
    ("worker_logdir_root", NoEffect("workers log to logs/block-N.log in the directory of the endpoint")),
    ("worker_port_range", Unsupported("set `worker_port`")),
    ("worker_ports", Unsupported("set `worker_port`")),
    ("working_dir_base", NoEffect("set `working_dir`")),
];

/// Keys of `engine.job_status_kwargs`.
pub(super) const JOB_STATUS: &[(&str, Foreign)] =
    &[("strategy_period", NoEffect("blocks follow the load at once"))];

/// Keys of every provider.
pub(super) const PROVIDER: &[(&str, Foreign)] = &[
    ("cmd_timeout", NoEffect("no scheduler command is run")),
    ("move_files", NoEffect("no files are moved")),
    ("parallelism", NoEffect("one block is asked for as often as its workers have tasks to do")),
    ("script_dir", NoEffect("no scripts are written")),
];

/// Engines of Globus Compute that are not here, and what to use.
pub(super) const ENGINES: &[(&str, &str)] = &[
    ("GlobusMPIEngine", "MPI functions do not run here"),
    (
        "ThreadPoolEngine",
        "threads of one Python process take turns; use ProcessPoolEngine with the same `max_workers`",
    ),
];

/// Providers of Globus Compute that are not here.
pub(super) const PROVIDERS: &[&str] = &[
    "AWSProvider",
    "AzureProvider",
    "CobaltProvider",
    "CondorProvider",
    "GoogleCloudProvider",
    "GridEngineProvider",
    "KubernetesProvider",
    "LSFProvider",
    "PBSProProvider",
    "SlurmProvider",
    "TorqueProvider",
];

/// Launchers of Globus Compute that are not here.
pub(super) const LAUNCHERS: &[&str] = &[
    "AprunLauncher",
    "GnuParallelLauncher",
    "JsrunLauncher",
    "MpiExecLauncher",
    "MpiRunLauncher",
    "SrunLauncher",
    "SrunMPILauncher",
    "WrappedLauncher",
];
