//! `check`.

use std::{ffi::OsString, path::Path};

use anyhow::Result;
use funcx_core::contract::Command;
use funcx_core::model::{BlockId, EndpointId, ManagerId};

use crate::config::EndpointConfig;
use crate::endpoint::{EndpointDirectory, Endpoints, ManagerTemplate, TOKEN_VARIABLE, listen_address};
use crate::exit::{Exit, Failed};
use crate::worker::{Python, check_python_as};

#[derive(Debug, clap::Args)]
pub struct Check {
    /// Name of the endpoint
    name: String,
    /// Print the configuration with all defaults, and check nothing else
    #[arg(long)]
    dump_config: bool,
}

impl Check {
    pub(super) async fn run(self, endpoints: &Endpoints) -> Result<()> {
        let directory = endpoints.existing(&self.name)?;
        let read = directory.read_config()?;
        if self.dump_config {
            print!("{}", read.config);
            return Ok(());
        }
        println!("configuration  {} is right", directory.config_path().display());
        for note in &read.notes {
            println!("               {note}");
        }
        let registered =
            directory.registered()?.map_or(EndpointId::from_u128(0), |registered| registered.endpoint_id);
        println!("workers        {}", render(&manager_command(&directory, &read.config, registered)?));
        check_python(&read.config, directory.path()).await?;
        check_environments(&read.config, directory.path()).await?;
        match directory.token()? {
            Some(_) => println!("token          there is one"),
            None if std::env::var_os(TOKEN_VARIABLE).is_some_and(|text| !text.is_empty()) => {
                println!("token          the one in {TOKEN_VARIABLE}");
            }
            None => println!("token          there is none yet; `start` wants --token-file or FUNCX_TOKEN"),
        }
        Ok(())
    }
}

/// The Python that workers of this endpoint would run in.
///
/// # Errors
/// [`Exit::Python`](crate::exit::Exit::Python).
pub(super) async fn look_for_python(config: &EndpointConfig, directory: &Path) -> Result<Python, Failed> {
    let environment = config
        .environment
        .iter()
        .map(|(name, value)| (OsString::from(name), OsString::from(value)))
        .collect();
    check_python_as(&config.python, &config.engine.provider.worker_init, &environment, directory).await
}

async fn check_python(config: &EndpointConfig, directory: &Path) -> Result<()> {
    let found = look_for_python(config, directory).await?;
    println!("python         {found}");
    match &found.dill {
        Some(version) => println!("dill           {version}"),
        None => println!(
            "dill           is not installed: functions sent by the Globus Compute SDK will fail, others run; \
             `{} -m pip install dill` installs it",
            found.executable
        ),
    }
    println!(
        "sdk            {}",
        found.sdk.as_deref().unwrap_or("is not installed, which few functions need")
    );
    Ok(())
}

async fn check_environments(config: &EndpointConfig, directory: &Path) -> Result<()> {
    for (name, environment) in &config.environments {
        let default_init = &config.engine.provider.worker_init;
        let python = environment.python.as_ref().unwrap_or(&config.python);
        let init = environment.worker_init.as_ref().unwrap_or(default_init);
        let variables = config.environment.iter().chain(&environment.environment);
        let variables =
            variables.map(|(name, value)| (OsString::from(name), OsString::from(value))).collect();
        let found = check_python_as(python, init, &variables, directory).await;
        let found =
            found.map_err(|failed| Failed::new(failed.exit, format!("environment `{name}`: {failed}")))?;
        println!("environment    {name}: {found}");
    }
    Ok(())
}

/// The command that starts the manager of the first block, with the secret left out.
fn manager_command(
    directory: &EndpointDirectory,
    config: &EndpointConfig,
    id: EndpointId,
) -> Result<Command> {
    let (_, address) = listen_address(config, &directory.run_path())?;
    let command = ManagerTemplate::new(config, id, address, directory.path())?.command(
        BlockId(0),
        ManagerId::from_u128(0),
        "",
    );
    let program = Path::new(&command.program);
    if program.components().count() > 1 && !directory.path().join(program).is_file() {
        return Err(Failed::new(
            Exit::Configuration,
            format!("worker_command: there is no program {}", program.display()),
        )
        .into());
    }
    Ok(command)
}

/// The command as one would type it.
fn render(command: &Command) -> String {
    let words = std::iter::once(&command.program).chain(&command.arguments);
    words.map(|word| quoted(&word.to_string_lossy())).collect::<Vec<_>>().join(" ")
}

fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,@%+".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rendered_command_can_be_typed() {
        let command = Command::new("/a b/c").with_arguments(["--x=1", "it's", "", "é"]);
        assert_eq!(render(&command), r"'/a b/c' --x=1 'it'\''s' '' 'é'");
    }
}
