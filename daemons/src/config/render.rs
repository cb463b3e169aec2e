//! An endpoint's configuration as a commented YAML file.

use std::fmt::{self, Write as _};

use super::endpoint::{EndpointConfig, EngineKind};
use super::environments::{Environments, format_keep_alive};
use super::quantity::{format_duration, format_size};

const HEAD: &str = "\
# Configuration of a funcx endpoint. `funcx-endpoint check NAME` says whether it is right.
# Lines that begin with `# ` and a key show an option that is not set.
# Durations: seconds, `30 s`, `10 min` or `00:10:00`. Sizes: bytes, `64 KiB` or `10 MiB`.
";

impl fmt::Display for EndpointConfig {
    /// The file that says the same, every key with its meaning. [`EndpointConfig::parse`] reads it back.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut file = File { text: HEAD.to_owned(), indent: 0 };
        self.write_identity(&mut file);
        self.write_engine(&mut file);
        self.write_operation(&mut file);
        f.write_str(&file.text)
    }
}

impl EndpointConfig {
    fn write_identity(&self, file: &mut File) {
        file.option(
            "Name that users see. Not set: the name of this directory.",
            "display_name",
            self.display_name.as_ref().map(quoted),
            "my laptop",
        );
        file.key("Base URL of the service.", "service", quoted(&self.service));
        file.key("Whether everybody whom the service knows may run functions here.", "public", self.public);
        let functions = self.allowed_functions.as_ref().map(|functions| list(functions));
        file.option(
            "The only functions that may run here. Not set: any.",
            "allowed_functions",
            functions,
            "[]",
        );
    }

    fn write_engine(&self, file: &mut File) {
        let engine = &self.engine;
        file.open("How tasks are run.", "engine");
        file.key(
            "GlobusComputeEngine: blocks come and go with the load. ProcessPoolEngine: one block, always.",
            "type",
            engine.kind.as_str(),
        );
        file.option(
            "Worker processes per node. Not set: one per core.",
            "max_workers_per_node",
            engine.max_workers_per_node,
            "4",
        );
        file.option(
            "Tasks that may wait at each manager besides those that run. Not set: as many as keep workers busy.",
            // Only their word knows 0, for none.
            if engine.prefetch == Some(0) { "prefetch_capacity" } else { "prefetch" },
            engine.prefetch,
            "64",
        );
        file.key(
            "Directory that tasks start in; relative to this directory.",
            "working_dir",
            quoted(engine.working_dir.to_string_lossy()),
        );
        file.key(
            "Time between heartbeats on the link to a manager, and the silence after which it is given up.",
            "heartbeat_period",
            format_duration(engine.heartbeat_period),
        );
        file.line("heartbeat_threshold", format_duration(engine.heartbeat_threshold));
        file.open("When blocks are given back.", "job_status_kwargs");
        file.key(
            "How long a block without work is kept, beyond min_blocks.",
            "max_idletime",
            format_duration(engine.max_idletime),
        );
        file.close();
        self.write_provider(file);
        file.close();
    }

    fn write_provider(&self, file: &mut File) {
        let provider = &self.engine.provider;
        file.open("Where blocks come from.", "provider");
        file.key("LocalProvider: processes on this machine.", "type", "LocalProvider");
        if self.engine.kind == EngineKind::GlobusCompute {
            file.key(
                "Blocks at start, blocks kept without work, blocks at most.",
                "init_blocks",
                provider.init_blocks,
            );
            file.line("min_blocks", provider.min_blocks);
            file.line("max_blocks", provider.max_blocks);
        }
        file.key("Nodes of a block.", "nodes_per_block", provider.nodes_per_block);
        file.option(
            "How long a block lives. Not set: as long as the endpoint.",
            "walltime",
            provider.walltime.map(format_duration),
            "01:00:00",
        );
        file.key(
            "Shell commands run before the workers of a block start, such as `module load python`.",
            "worker_init",
            quoted(&provider.worker_init),
        );
        file.open(
            "How managers are started inside a block: SingleNodeLauncher or SimpleLauncher.",
            "launcher",
        );
        file.line("type", provider.launcher.as_str());
        file.close();
        file.close();
    }

    fn write_operation(&self, file: &mut File) {
        file.key(
            "Python of the workers: a path, or a name looked up in PATH.",
            "python",
            quoted(&self.python),
        );
        file.key("Python modules loaded once, before workers are forked.", "preload", list(&self.preload));
        let environment: Vec<_> = self
            .environment
            .iter()
            .map(|(name, value)| format!("{}: {}", quoted(name), quoted(value)))
            .collect();
        file.key(
            "Variables that managers and workers get besides the endpoint's own.",
            "environment",
            format!("{{{}}}", environment.join(", ")),
        );
        let environments = (!self.environments.is_empty()).then(|| Environments(self.environments.clone()));
        file.option(
            "Other environments that tasks may ask for; what one does not say is as outside of it.",
            "environments",
            // JSON is YAML too.
            environments,
            "{ml: {python: /opt/ml/bin/python, worker_init: 'module load cuda', preload: [], environment: {}}}",
        );
        file.key(
            "How long workers of an environment are kept without tasks: learned from its pauses, or a duration.",
            "keep_alive",
            format_keep_alive(self.keep_alive),
        );
        file.key(
            "How long a task waits for a worker of its environment while others are idle; about what starting one takes.",
            "cold_after",
            format_duration(self.cold_after),
        );
        file.key("Memory for the values of memoized tasks.", "memo_size", format_size(self.memo_bytes));
        file.key("Largest result of a task.", "max_result_size", format_size(self.max_result_bytes));
        file.key(
            "Captured output kept of each stream of a task.",
            "max_output_size",
            format_size(self.max_output_bytes),
        );
        file.key(
            "Time between asking a worker to stop and killing it.",
            "kill_grace",
            format_duration(self.kill_grace),
        );
        file.key(
            "Time that running tasks have to end when the endpoint is stopped; then they are stopped.",
            "drain_timeout",
            format_duration(self.drain_timeout),
        );
        file.key(
            "Tasks taken from the service besides those that workers have room for.",
            "queue_tasks",
            self.queue_tasks,
        );
        file.key(
            "How long a manager whose connection broke may take to come back before its tasks go elsewhere.",
            "lease_grace",
            format_duration(self.lease_grace),
        );
        file.option(
            "Where managers connect. Not set: a socket in this directory, which only you can open.",
            "listen",
            self.listen.as_ref().map(|address| quoted(address.to_string())),
            "\"tcp:127.0.0.1:0\"",
        );
        let command = (!self.worker_command.is_empty()).then(|| list(&self.worker_command));
        file.option(
            "Program and arguments that start a manager. Not set: the one beside this program.",
            "worker_command",
            command,
            "[\"/path/to/my-worker\"]",
        );
        file.key(
            "Time between reports to the service about workers and queue.",
            "heartbeat_period",
            format_duration(self.heartbeat_period),
        );
        file.key("Whether to log in detail.", "debug", self.debug);
    }
}

/// The text of a file as it grows.
struct File {
    text: String,
    indent: usize,
}

impl File {
    /// A key after a comment that explains it.
    fn key(&mut self, comment: &str, key: &str, value: impl fmt::Display) {
        self.comment(comment);
        self.line(key, value);
    }

    /// A key that shows an example, commented out, if it is not set.
    fn option(&mut self, comment: &str, key: &str, value: Option<impl fmt::Display>, example: &str) {
        match value {
            Some(value) => self.key(comment, key, value),
            None => {
                self.comment(comment);
                self.line(&format!("# {key}"), example);
            }
        }
    }

    fn open(&mut self, comment: &str, key: &str) {
        self.comment(comment);
        self.push(format_args!("{key}:"));
        self.indent += 2;
    }

    fn close(&mut self) {
        self.indent -= 2;
    }

    fn comment(&mut self, comment: &str) {
        if self.indent == 0 {
            self.text.push('\n');
        }
        self.push(format_args!("# {comment}"));
    }

    fn line(&mut self, key: &str, value: impl fmt::Display) {
        self.push(format_args!("{key}: {value}"));
    }

    fn push(&mut self, line: fmt::Arguments<'_>) {
        // Writing to a string cannot fail.
        let _ = writeln!(self.text, "{:indent$}{line}", "", indent = self.indent);
    }
}

/// A text in double quotes. JSON's escapes are YAML's too.
fn quoted(text: impl AsRef<str>) -> String {
    serde_json::Value::from(text.as_ref()).to_string()
}

fn list(items: &[impl ToString]) -> String {
    let items: Vec<_> = items.iter().map(|item| quoted(item.to_string())).collect();
    format!("[{}]", items.join(", "))
}
