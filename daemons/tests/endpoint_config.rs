//! Configuration files of endpoints: what is read, what is refused, and in which words.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use funcx_core::model::FunctionId;
use funcx_core::state::KeepAlive;
use funcx_daemons::config::{EndpointConfig, EngineKind, EnvironmentConfig, LauncherKind};

fn parse(text: &str) -> EndpointConfig {
    EndpointConfig::parse(text).unwrap_or_else(|error| panic!("{text}\n{error}")).config
}

/// The problems of a file, one per line.
fn problems(text: &str) -> String {
    EndpointConfig::parse(text).expect_err(text).to_string()
}

fn check_refused(cases: &[(&str, &str)]) {
    for (text, expected) in cases {
        assert_eq!(problems(text), *expected, "{text}");
    }
}

#[test]
fn an_empty_file_means_the_defaults() {
    for text in ["", "# nothing\n", "engine:\n", "engine: {provider: {launcher: {}}}\n"] {
        assert_eq!(parse(text), EndpointConfig::default(), "{text}");
    }
}

#[test]
fn the_default_file_says_the_defaults_and_explains_every_key() {
    let text = EndpointConfig::default().to_string();
    let read = EndpointConfig::parse(&text).unwrap();
    assert_eq!((read.config, read.notes), (EndpointConfig::default(), Vec::new()));
    // Options that are shown commented out can be switched on as they stand.
    let switched_on = text
        .replace("# allowed_functions: []", "allowed_functions: [\"00000000-0000-0000-0000-000000000001\"]");
    let switched_on: String = switched_on
        .lines()
        .map(|line| {
            let bare = line.trim_start();
            let is_option =
                bare.strip_prefix("# ").and_then(|rest| rest.split_once(": ")).is_some_and(|(key, _)| {
                    [
                        "display_name",
                        "max_workers_per_node",
                        "prefetch",
                        "environments",
                        "walltime",
                        "listen",
                        "worker_command",
                    ]
                    .contains(&key)
                });
            let indent = &line[..line.len() - bare.len()];
            if is_option { format!("{indent}{}\n", &bare[2..]) } else { format!("{line}\n") }
        })
        .collect();
    let config = parse(&switched_on);
    assert_eq!(config.display_name.as_deref(), Some("my laptop"));
    assert_eq!(config.engine.max_workers_per_node.map(u32::from), Some(4));
    assert_eq!(config.engine.prefetch, Some(64));
    assert_eq!(config.environments["ml"].python.as_deref(), Some("/opt/ml/bin/python"));
    assert_eq!(config.engine.provider.walltime, Some(Duration::from_secs(3600)));
    assert_eq!(config.listen.map(|address| address.to_string()).as_deref(), Some("tcp:127.0.0.1:0"));
    assert_eq!(config.worker_command, ["/path/to/my-worker"]);
    assert_eq!(config.allowed_functions, Some(vec![FunctionId::from_u128(1)]));
}

#[test]
fn every_setting_survives_being_written_and_read() {
    let text = r#"
display_name: "x: \"y\" # z"
service: http://funcx.example.org
public: true
allowed_functions: [3fa85f64-5717-4562-b3fc-2c963f66afa6]
heartbeat_period: 1.5
debug: true
listen: unix:/tmp/x
queue_tasks: 7
lease_grace: 1 min
python: /opt/python/bin/python3
worker_command: [my worker, --fast]
environment: {OMP_NUM_THREADS: 4, GREETING: "a b"}
preload: [numpy]
memo_size: 2 MiB
max_result_size: 1 MiB
max_output_size: 1 KiB
kill_grace: 500 ms
drain_timeout: 5 s
engine:
  type: GlobusComputeEngine
  max_workers_per_node: 3
  working_dir: /scratch/w
  heartbeat_period: 00:00:05
  heartbeat_threshold: 20
  job_status_kwargs: {max_idletime: 10 min}
  provider:
    type: LocalProvider
    init_blocks: 0
    min_blocks: 0
    max_blocks: 5
    walltime: 01:00:00
    worker_init: |
      module load x
      source y
    launcher: {type: SimpleLauncher}
"#;
    let config = parse(text);
    assert_eq!(config.display_name.as_deref(), Some("x: \"y\" # z"));
    assert_eq!(config.heartbeat_period, Duration::from_millis(1500));
    assert_eq!(config.lease_grace, Duration::from_secs(60));
    assert_eq!(
        config.environment,
        BTreeMap::from(
            [("OMP_NUM_THREADS", "4"), ("GREETING", "a b")].map(|(k, v)| (k.to_owned(), v.to_owned()))
        )
    );
    assert_eq!((config.max_result_bytes, config.max_output_bytes), (1 << 20, 1 << 10));
    assert_eq!(config.memo_bytes, 2 << 20);
    assert_eq!(config.engine.working_dir, PathBuf::from("/scratch/w"));
    assert_eq!(config.engine.heartbeat_threshold, Duration::from_secs(20));
    assert_eq!(config.engine.max_idletime, Duration::from_secs(600));
    assert_eq!(config.engine.provider.worker_init, "module load x\nsource y\n");
    assert_eq!(config.engine.provider.launcher, LauncherKind::Simple);
    assert_ne!(config, EndpointConfig::default());
    assert_eq!(parse(&config.to_string()), config);

    let pool = parse("engine: {type: ProcessPoolEngine, max_workers: 2}");
    assert_eq!(
        (pool.engine.kind, pool.engine.max_workers_per_node.map(u32::from)),
        (EngineKind::ProcessPool, Some(2))
    );
    assert_eq!(parse(&pool.to_string()), pool);
}

#[test]
fn files_of_globus_compute_are_understood() {
    let read = EndpointConfig::parse(
        "
display_name: Laptop
amqp_port: 443
heartbeat_period: 30
heartbeat_threshold: 120
idle_heartbeats_soft: 10
idle_heartbeats_hard: 5760
engine:
  type: GlobusComputeEngine
  max_workers_per_node: 4
  encrypted: true
  max_retries_on_system_failure: 1
  address: 10.0.0.7
  worker_port: 9000
  container_type: null
  strategy: simple
  provider:
    type: LocalProvider
    init_blocks: 1
    min_blocks: 0
    max_blocks: 2
    parallelism: 1
    cmd_timeout: 60
    launcher:
      type: SingleNodeLauncher
",
    )
    .unwrap();
    assert_eq!(read.config.listen.unwrap().to_string(), "tcp:10.0.0.7:9000");
    assert_eq!(read.config.engine.max_idletime, Duration::from_secs(300), "ten heartbeats of 30 s");
    let noted: Vec<_> = read.notes.iter().map(|note| (note.line, note.path.as_str())).collect();
    assert_eq!(
        noted,
        [
            (3, "amqp_port"),
            (5, "heartbeat_threshold"),
            (7, "idle_heartbeats_hard"),
            (11, "engine.encrypted"),
            (12, "engine.max_retries_on_system_failure"),
            (22, "engine.provider.parallelism"),
            (23, "engine.provider.cmd_timeout"),
        ]
    );
}

#[test]
fn what_is_not_said_about_blocks_follows_what_is() {
    for (text, expected) in [
        ("{}", (1, 1, 1)),
        ("{init_blocks: 0}", (0, 0, 1)),
        ("{min_blocks: 0}", (1, 0, 1)),
        ("{min_blocks: 4}", (1, 4, 4)),
        ("{max_blocks: 4}", (1, 1, 4)),
        ("{init_blocks: 2, max_blocks: 4}", (2, 1, 4)),
    ] {
        let provider = parse(&format!("engine: {{provider: {text}}}")).engine.provider;
        assert_eq!((provider.init_blocks, provider.min_blocks, provider.max_blocks), expected, "{text}");
    }
    let fixed = parse("engine: {strategy: none, provider: {init_blocks: 3, max_blocks: 9}}").engine.provider;
    assert_eq!((fixed.init_blocks, fixed.min_blocks, fixed.max_blocks), (3, 3, 3));
}

#[test]
fn unknown_keys_are_refused_with_the_nearest_known_one() {
    check_refused(&[
        (
            "engine:\n  max_worker_per_node: 3\n",
            "line 2: engine.max_worker_per_node is not known; did you mean `max_workers_per_node`?",
        ),
        ("displayname: x\n", "line 1: displayname is not known; did you mean `display_name`?"),
        ("\n\nheartbeat: 3\n", "line 3: heartbeat is not known; did you mean `heartbeat_period`?"),
        (
            "engine:\n  provider:\n    launcher:\n      typ: SimpleLauncher\n",
            "line 4: engine.provider.launcher.typ is not known; did you mean `type`?",
        ),
        (
            "engine: {job_status_kwargs: {colour: 1}}",
            "line 1: engine.job_status_kwargs.colour is not known; known here: max_idletime, strategy",
        ),
    ]);
}

#[test]
fn wrong_values_are_refused_with_what_is_expected() {
    check_refused(&[
        ("public: maybe", "line 1: public must be `true` or `false`, not `maybe`"),
        ("\nqueue_tasks: many", "line 2: queue_tasks must be a whole number up to 1000000, not `many`"),
        ("queue_tasks: -1", "line 1: queue_tasks must be a whole number up to 1000000, not the number `-1`"),
        ("display_name: 7", "line 1: display_name must be a name of 1 to 128 characters, not the number `7`"),
        (
            "lease_grace: soon",
            "line 1: lease_grace must be a duration (seconds, `30 s`, `10 min` or `00:10:00`), not `soon`",
        ),
        (
            "heartbeat_period: 0",
            "line 1: heartbeat_period must be a duration from 1 ms to a day, such as `30 s`, not the number `0`",
        ),
        ("max_result_size: 1 TB", "line 1: max_result_size must be a size up to 67108864 bytes, not `1 TB`"),
        (
            "service: localhost",
            "line 1: service must be a URL such as `http://127.0.0.1:5000` (https is not supported yet), not `localhost`",
        ),
        (
            "listen: quic:1.2.3.4:5",
            "line 1: listen must be an address such as `tcp:10.0.0.1:0` or `unix:/path/to/socket`, not `quic:1.2.3.4:5`",
        ),
        (
            "environment: production",
            "line 1: environment must be a map of variables, each set to a text or a number, not `production`",
        ),
        (
            "worker_command: run it",
            "line 1: worker_command must be a list of a program and its arguments, not `run it`",
        ),
        (
            "allowed_functions: [f1]",
            "line 1: allowed_functions holds a wrong id: `f1` is not a function id (a UUID is wanted)",
        ),
        ("engine: GlobusComputeEngine", "line 1: engine must be a map of keys, not `GlobusComputeEngine`"),
        ("[1, 2]", "line 1: must be a map of keys, not a list"),
        (
            "engine:\n  max_workers_per_node: 0",
            "line 2: engine.max_workers_per_node must be a whole number from 1 to 4096, not the number `0`",
        ),
        (
            "engine:\n  heartbeat_period: 10\n  heartbeat_threshold: 5",
            "line 3: engine.heartbeat_threshold must be longer than `heartbeat_period`, not the number `5`",
        ),
        (
            "engine: {strategy: quick}",
            "line 1: engine.strategy must be simple, htex_auto_scale or none, not `quick`",
        ),
        (
            "engine:\n  provider:\n    init_blocks: 3\n    max_blocks: 2",
            "line 3: engine.provider.init_blocks is 3, more than `max_blocks`, which is 2",
        ),
        (
            "engine: {provider: {nodes_per_block: 2}}",
            "line 1: engine.provider.nodes_per_block must be 1: a LocalProvider has one node, not the number `2`",
        ),
    ]);
}

#[test]
fn what_globus_compute_has_and_we_do_not_is_refused_as_such() {
    check_refused(&[
        (
            "engine: {type: ThreadPoolEngine}",
            "line 1: engine.type ThreadPoolEngine is not supported: threads of one Python process take turns; use \
             ProcessPoolEngine with the same `max_workers`",
        ),
        (
            "engine: {type: GlobusMPIEngine}",
            "line 1: engine.type GlobusMPIEngine is not supported: MPI functions do not run here",
        ),
        (
            "engine: {type: Engine}",
            "line 1: engine.type must be GlobusComputeEngine or ProcessPoolEngine, not `Engine`",
        ),
        (
            "engine: {provider: {type: SlurmProvider}}",
            "line 1: engine.provider.type SlurmProvider is not supported yet; LocalProvider is",
        ),
        (
            "engine: {provider: {type: Slurm}}",
            "line 1: engine.provider.type must be LocalProvider, not `Slurm`",
        ),
        (
            "engine: {provider: {launcher: {type: SrunLauncher}}}",
            "line 1: engine.provider.launcher.type SrunLauncher is not supported yet; SingleNodeLauncher and SimpleLauncher are",
        ),
        (
            "engine: {prefetch: 65537}",
            "line 1: engine.prefetch must be a whole number from 1 to 65536, not the number `65537`",
        ),
        (
            "engine: {prefetch: 0}",
            "line 1: engine.prefetch must be a whole number from 1 to 65536, not the number `0`",
        ),
        (
            "engine: {prefetch_capacity: -1}",
            "line 1: engine.prefetch_capacity must be a whole number from 0 to 65536, not the number `-1`",
        ),
        (
            "engine: {prefetch: 1, prefetch_capacity: 1}",
            "line 1: engine.prefetch_capacity and `prefetch` say the same thing; leave one out",
        ),
        (
            "engine: {container_type: docker}",
            "line 1: engine.container_type is not supported yet: leave it out to run workers without a container",
        ),
        (
            "engine: {address: {type: address_by_interface, ifname: hsn0}}",
            "line 1: engine.address as a function is not supported yet: name the host or its IP address",
        ),
        (
            "engine: {type: ProcessPoolEngine, provider: {max_blocks: 2}}",
            "line 1: engine.provider of a ProcessPoolEngine has no blocks to choose; use GlobusComputeEngine",
        ),
    ]);
}

#[test]
fn all_problems_are_reported_together_in_the_order_of_the_file() {
    let text = "displayname: x\npublic: 1\nengine:\n  max_workers: 1\n  max_workers_per_node: 1\n  provider:\n    type: X\n";
    let lines: Vec<String> =
        problems(text).lines().map(|line| line.split(": ").next().unwrap().to_owned()).collect();
    assert_eq!(lines, ["line 1", "line 2", "line 4", "line 7"]);
}

#[test]
fn what_is_not_yaml_is_refused_with_its_place() {
    assert!(problems("a: [1").contains("line"), "{}", problems("a: [1"));
    assert!(problems("public: true\npublic: false").contains("public"), "a key that is there twice");
    let huge = format!("display_name: {}", "x".repeat(2 << 20));
    assert_eq!(problems(&huge), "line 1: the file is larger than 1048576 bytes");
}

#[test]
fn environments_are_read_and_written_back() {
    let text = "keep_alive: 10 min\ncold_after: 2 s\nenvironments:\n  ml:\n    python: /opt/ml/bin/python\n    preload: [torch]\n    environment: {OMP_NUM_THREADS: 1}\n  plain: {}\n";
    let config = parse(text);
    assert_eq!(config.keep_alive, KeepAlive::Fixed(Duration::from_secs(600)));
    assert_eq!(config.cold_after, Duration::from_secs(2));
    assert_eq!(config.environments.keys().collect::<Vec<_>>(), ["ml", "plain"]);
    let ml = &config.environments["ml"];
    assert_eq!(ml.environment["OMP_NUM_THREADS"], "1");
    assert_eq!((ml.worker_init.as_ref(), ml.preload.as_ref().map(Vec::len)), (None, Some(1)));
    assert_eq!(config.environments["plain"], EnvironmentConfig::default());
    assert_eq!(parse(&config.to_string()), config);
    assert_eq!(parse("keep_alive: learned").keep_alive, KeepAlive::Learned);
}

#[test]
fn environments_that_cannot_be_are_refused() {
    check_refused(&[
        (
            "environments: {ml: {pyton: x}}",
            "line 1: environments.ml.pyton is not known; did you mean `python`?",
        ),
        (
            "environments: {default: {}}",
            "line 1: environments holds the name `default`, which is that of the keys outside of `environments`",
        ),
        (
            "environments: {'m l': {}}",
            "line 1: environments holds the name `m l`; names are 1 to 64 letters, digits, `.`, `_` and `-`",
        ),
        ("environments: {ml: 3}", "line 1: environments.ml must be a map of keys, not the number `3`"),
        (
            "keep_alive: forever",
            "line 1: keep_alive must be `learned`, or a duration up to a year, such as `10 min`, not `forever`",
        ),
        ("cold_after: 2 h", "line 1: cold_after must be a duration up to an hour, such as `2 s`, not `2 h`"),
    ]);
    let many: String = (0..65).map(|n| format!("  e{n}: {{}}\n")).collect();
    let problems = problems(&format!("environments:\n{many}"));
    assert_eq!(problems, "line 1: environments holds 65 environments; at most 64 are possible");
}

#[test]
fn no_prefetch_is_said_in_the_word_that_knows_it() {
    let config = parse("engine: {prefetch_capacity: 0}");
    assert_eq!(config.engine.prefetch, Some(0));
    assert_eq!(parse(&config.to_string()), config);
}
