//! The command that starts a manager.

use std::{
    env,
    ffi::OsString,
    path::{Path, PathBuf},
};

use funcx_core::contract::{Address, Command};
use funcx_core::model::{BlockId, EndpointId, ManagerId};

use crate::config::{EndpointConfig, Environments};
use crate::exit::{Exit, Failed};
use crate::worker::{ENVIRONMENTS_VARIABLE, INIT_VARIABLE, MANAGER_VARIABLE, SECRET_VARIABLE, WorkerOptions};

/// Variable with the token of the endpoint, which managers and their workers must not see.
pub const TOKEN_VARIABLE: &str = "FUNCX_TOKEN";

/// What all managers of an endpoint have in common.
#[derive(Debug, Clone)]
pub struct ManagerTemplate {
    program: Vec<OsString>,
    endpoint_id: EndpointId,
    options: WorkerOptions,
    environment: Vec<(String, String)>,
    directory: PathBuf,
    debug: bool,
}

impl ManagerTemplate {
    /// Works out how managers are started.
    ///
    /// # Errors
    /// [`Exit::Configuration`] if the program for managers cannot be found.
    pub fn new(
        config: &EndpointConfig,
        endpoint_id: EndpointId,
        endpoint: Address,
        directory: &Path,
    ) -> Result<Self, Failed> {
        let program = match config.worker_command.as_slice() {
            [] => beside_this_program()?,
            command => command.iter().map(OsString::from).collect(),
        };
        let options = WorkerOptions {
            endpoint,
            endpoint_id: Some(endpoint_id),
            block: 0,
            manager_id: None,
            workers: config.engine.max_workers_per_node,
            native_threads: None,
            prefetch: config.engine.prefetch,
            python: config.python.clone(),
            worker_init: config.engine.provider.worker_init.clone(),
            environments: Environments(config.environments.clone()),
            keep_alive: config.keep_alive,
            work_dir: directory.join(&config.engine.working_dir),
            preload: config.preload.clone(),
            max_result_size: config.max_result_bytes,
            max_output_size: config.max_output_bytes,
            kill_grace: config.kill_grace,
            drain_timeout: config.drain_timeout,
            walltime: config.engine.provider.walltime,
            patience: None,
        };
        let environment = config.environment.clone().into_iter().collect();
        Ok(Self {
            program,
            endpoint_id,
            options,
            environment,
            directory: directory.to_owned(),
            debug: config.debug,
        })
    }

    /// The command for the manager of one block. The secret is in its environment only.
    pub fn command(&self, block: BlockId, manager: ManagerId, secret: &str) -> Command {
        let (program, fixed) = self.program.split_first().expect("a program was found or configured");
        let mut command = Command::new(program)
            .with_arguments(fixed)
            .with_arguments(["--endpoint", &self.options.endpoint.to_string()])
            .with_arguments(["--endpoint-id", &self.endpoint_id.to_string()])
            .with_arguments(["--block", &block.to_string()])
            .with_arguments(self.options.to_arguments())
            .with_arguments(self.debug.then_some("--debug"))
            .with_variables(&self.environment)
            .with_variable(MANAGER_VARIABLE, manager.to_string())
            .with_variable(SECRET_VARIABLE, secret)
            .with_variable(INIT_VARIABLE, &self.options.worker_init)
            .with_variable(ENVIRONMENTS_VARIABLE, self.options.environments.to_string())
            // Commands inherit the endpoint's environment, and the token is nothing for them.
            .with_variable(TOKEN_VARIABLE, "");
        // What the configuration names by a relative path is in the endpoint's directory, wherever it was started.
        command.directory = Some(self.directory.clone());
        command
    }
}

/// Adds several variables at once.
trait WithVariables {
    fn with_variables(self, variables: &[(String, String)]) -> Self;
}

impl WithVariables for Command {
    fn with_variables(self, variables: &[(String, String)]) -> Self {
        variables.iter().fold(self, |command, (name, value)| command.with_variable(name, value))
    }
}

/// The manager in this binary if it holds all of funcx, else the one that lies beside it.
fn beside_this_program() -> Result<Vec<OsString>, Failed> {
    let say_it = "set `worker_command` in the configuration";
    let this = env::current_exe().map_err(|error| {
        Failed::new(Exit::Configuration, format!("cannot find this program ({error}); {say_it}"))
    })?;
    if this.file_stem().is_some_and(|name| name == "funcx") {
        return Ok(vec![this.into(), "worker".into()]);
    }
    let places = this.ancestors().skip(1).take(2).map(|directory| directory.join("funcx-worker"));
    let found: Option<PathBuf> = places.into_iter().find(|path| path.is_file());
    match found {
        Some(path) => Ok(vec![path.into()]),
        None => Err(Failed::new(
            Exit::Configuration,
            format!("there is no funcx-worker beside {}; {say_it}", this.display()),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_carries_the_settings_and_hides_the_secrets() {
        let read = EndpointConfig::parse(
            "worker_command: [/opt/w, --x]\nenvironment: {A: b}\nengine: {max_workers_per_node: 3, prefetch_capacity: 7, provider: {worker_init: 'a; b'}}",
        )
        .unwrap();
        let template = ManagerTemplate::new(
            &read.config,
            EndpointId::from_u128(1),
            "unix:/run/s".parse().unwrap(),
            Path::new("/home/e"),
        )
        .unwrap();
        let command = template.command(BlockId(7), ManagerId::from_u128(2), "s3cret");
        let line: Vec<_> = command.arguments.iter().map(|argument| argument.to_str().unwrap()).collect();
        let line = line.join(" ");
        assert_eq!(command.program, "/opt/w");
        assert!(
            line.starts_with(
                "--x --endpoint unix:/run/s --endpoint-id 00000000-0000-0000-0000-000000000001 --block 7"
            ),
            "{line}"
        );
        for part in
            ["--workers 3", "--prefetch 7", "--work-dir /home/e/tasks_working_dir", "--python python3"]
        {
            assert!(line.contains(part), "{line}");
        }
        assert!(!line.contains("s3cret") && !line.contains("a; b"), "{line}");
        let variable =
            |name: &str| command.environment.get(std::ffi::OsStr::new(name)).unwrap().to_str().unwrap();
        let hidden = [SECRET_VARIABLE, INIT_VARIABLE, TOKEN_VARIABLE].map(variable);
        assert_eq!((variable("A"), hidden), ("b", ["s3cret", "a; b", ""]));
    }
}
