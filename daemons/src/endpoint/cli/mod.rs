//! `funcx-endpoint`: the command line of endpoints.

mod check;
mod configure;
mod delete;
mod list;
mod logs;
mod show;
mod start;
mod stop;

use std::{
    io::Read,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, Result};
use funcx_core::model::limit;

use super::directory::{Endpoints, HOME_VARIABLE};
use super::{TOKEN_VARIABLE, Token};
use crate::exit::{Exit, Failed};
use crate::logging::LogOptions;

/// The arguments of `funcx-endpoint`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Directory that holds the endpoints; `~/.funcx` if not set
    #[arg(long, short = 'c', global = true, env = HOME_VARIABLE, value_name = "DIRECTORY")]
    pub config_dir: Option<PathBuf>,
    #[command(flatten)]
    /// How to log.
    pub log: LogOptions,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What can be done with endpoints.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Write the configuration of a new endpoint
    Configure(configure::Configure),
    /// Register an endpoint with its service and run it
    Start(start::Start),
    /// Stop an endpoint; what it has not finished goes back to the service
    Stop(stop::Stop),
    /// Stop an endpoint if it runs, and start it
    Restart(start::Start),
    /// List all endpoints
    List(list::List),
    /// Show one endpoint
    Show(show::Show),
    /// Show what an endpoint that runs in the background has logged
    Logs(logs::Logs),
    /// Check the configuration, Python and the command that starts workers, without starting anything
    Check(check::Check),
    /// Remove an endpoint from the service and from this machine
    Delete(delete::Delete),
}

/// Runs one command. `invocation` is what stands between the program and the command on the command line, such as
/// `["endpoint-agent"]`: the program starts itself again for an endpoint in the background.
///
/// # Errors
/// [`Failed`], whose code [`code_of`](crate::exit::code_of) finds.
pub async fn run(arguments: Arguments, invocation: &[&str]) -> Result<ExitCode> {
    let Arguments { config_dir, log, command } = arguments;
    let endpoints = Endpoints::locate(config_dir)?;
    // An endpoint that starts reads in its configuration how to log.
    if !matches!(command, Command::Start(_) | Command::Restart(_)) {
        crate::logging::init(log);
    }
    match command {
        Command::Configure(configure) => configure.run(&endpoints),
        Command::Start(start) => start.run(&endpoints, log, invocation).await,
        Command::Stop(stop) => stop.run(&endpoints).await,
        Command::Restart(mut start) => {
            start.check(&endpoints).await?;
            stop::Stop::before_start(start.name()).run_if_running(&endpoints).await?;
            start.run(&endpoints, log, invocation).await
        }
        Command::List(list) => list.run(&endpoints),
        Command::Show(show) => show.run(&endpoints),
        Command::Logs(logs) => logs.run(&endpoints).await,
        Command::Check(check) => check.run(&endpoints).await,
        Command::Delete(delete) => delete.run(&endpoints).await,
    }?;
    Ok(Exit::Success.into())
}

/// Where a token comes from: a file or standard input, else a variable. Never an argument, which everybody can list.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct TokenSource {
    /// File with the token, `-` for standard input; the variable FUNCX_TOKEN serves too
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Read ahead: standard input can be read only once.
    #[arg(skip)]
    known: Option<Token>,
}

impl TokenSource {
    /// Reads the token now, so that later reads give the same; true if one was given.
    fn read_ahead(&mut self) -> Result<bool> {
        self.known = self.read()?;
        Ok(self.known.is_some())
    }

    /// The token, if one was given.
    fn read(&self) -> Result<Option<Token>> {
        if self.known.is_some() {
            return Ok(self.known.clone());
        }
        let Some(file) = &self.token_file else {
            let Some(text) = std::env::var_os(TOKEN_VARIABLE).filter(|text| !text.is_empty()) else {
                return Ok(None);
            };
            let token = text.to_str().and_then(Token::new);
            let wrong =
                || Failed::new(Exit::Credentials, format!("the variable {TOKEN_VARIABLE} holds no token"));
            return Ok(Some(token.ok_or_else(wrong)?));
        };
        let text = if file == Path::new("-") {
            read_bounded(std::io::stdin().lock()).context("cannot read the token from standard input")?
        } else {
            let open = std::fs::File::open(file).and_then(read_bounded);
            open.with_context(|| format!("cannot read the token from {}", file.display()))?
        };
        let token = Token::new(text)
            .ok_or_else(|| Failed::new(Exit::Credentials, format!("{} holds no token", file.display())))?;
        Ok(Some(token))
    }
}

fn read_bounded(source: impl Read) -> std::io::Result<String> {
    let mut text = String::new();
    source.take(limit::MAX_TEXT_BYTES as u64 + 2).read_to_string(&mut text)?;
    Ok(text)
}
