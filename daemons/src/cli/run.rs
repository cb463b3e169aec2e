//! `funcx run`

use std::{process::ExitCode, time::Duration};

use anyhow::{Result, bail};
use clap::Args;
use funcx_core::model::{FunctionId, FunctionKind, Shape};
use funcx_net::client::{Call, CallOptions, Client, FunctionRegistration, TaskHandle, TaskView};
use serde_json::json;

use super::common::{Common, find_endpoint};
use super::output::print_aside;
use super::source::Source;
use super::{ending, words};
use crate::config::parse_duration;
use crate::exit::{Exit, Failed};
use crate::signal::Stop;

/// What to run, where, and with which arguments.
#[derive(Debug, Args)]
#[command(after_help = "\
Arguments are JSON where they can be, else strings; NAME=VALUE is a named argument.

Examples:
  funcx run analysis.py:mean '[1, 2, 3]'              a function of a file
  funcx run --function ID 40 2                        a registered function
  funcx run --shell 'echo {word}' word=hello          a command
  funcx run --endpoint laptop --walltime '5 min' slow.py

Ctrl-C cancels the task; a second one stops waiting for it.")]
pub struct Options {
    /// Endpoint, by id or name; needed if you have several
    #[arg(long, short, env = "FUNCX_ENDPOINT_ID", value_name = "ID or NAME")]
    pub endpoint: Option<String>,
    /// Run a registered function; all words are its arguments
    #[arg(long, short, value_name = "ID", group = "what")]
    pub function: Option<FunctionId>,
    /// Run a command; `{name}` in it stands for the argument of that name
    #[arg(long, value_name = "COMMAND", group = "what")]
    pub shell: Option<String>,
    /// Run a Rust function that the workers of the endpoint know
    #[arg(long, value_name = "NAME", group = "what")]
    pub native: Option<String>,
    /// How hard, how soon and how long to try.
    #[command(flatten)]
    pub limits: Limits,
    /// Print the id of the task and do not wait for it
    #[arg(long)]
    pub no_wait: bool,
    /// FILE.py, or FILE.py:FUNCTION if there are several in it; then the arguments
    #[arg(allow_negative_numbers = true, value_name = "FILE.py[:FUNCTION]] [ARGUMENTS")]
    pub words: Vec<String>,
}

/// What a task asks for besides its function.
#[derive(Debug, Clone, Args)]
pub struct Limits {
    /// Environment to run in, by its name in the configuration of the endpoint
    #[arg(long, value_name = "NAME")]
    pub environment: Option<String>,
    /// Longest time the task may run, such as `90 s` or `2 h`
    #[arg(long, value_parser = duration, value_name = "TIME")]
    pub walltime: Option<Duration>,
    /// Attempts if workers are lost under it; 1 is "at most once"
    #[arg(long, value_name = "NUMBER")]
    pub max_attempts: Option<u32>,
    /// Place among your own tasks at the endpoint, from -128 to 127: higher ones go first
    #[arg(long, allow_negative_numbers = true, value_name = "NUMBER", default_value_t = 0)]
    pub priority: i8,
    /// Longest time until the task begins to run, such as `10 min`
    #[arg(long, value_parser = duration, value_name = "TIME")]
    pub ttl: Option<Duration>,
    /// Longest time until the task has ended; it is stopped after that
    #[arg(long, value_parser = duration, value_name = "TIME")]
    pub deadline: Option<Duration>,
    /// Take the value of an equal call of yours, if it has returned before
    #[arg(long)]
    pub memoize: bool,
    /// Run even if the function was registered as memoized
    #[arg(long, conflicts_with = "memoize")]
    pub no_memoize: bool,
}

impl Limits {
    pub(super) fn options(&self) -> CallOptions {
        let Self { walltime, max_attempts, priority, ttl, deadline, memoize, no_memoize, .. } = *self;
        let shape = Shape { walltime, environment: self.environment.clone(), ..Shape::default() };
        let memoize = (memoize || no_memoize).then_some(memoize);
        CallOptions { shape, max_attempts, priority, ttl, deadline, memoize, ..CallOptions::default() }
    }
}

/// A time with a unit.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    parse_duration(text)
        .filter(|time| !time.is_zero())
        .ok_or_else(|| "a time such as `90 s` or `2 h` is wanted".to_owned())
}

/// Registers the function if need be, calls it, and shows what becomes of it.
pub(super) async fn run(common: &Common, options: Options) -> Result<ExitCode> {
    let client = common.client()?;
    let (what, arguments) = options.what()?;
    // What is wrong with the arguments is better said before a function is registered for them.
    let prepared = what.kind().map(|kind| words::arguments(kind, arguments)).transpose()?;
    let endpoint = find_endpoint(&client, options.endpoint.as_deref()).await?;
    let (function, kind) = what.resolve(&client).await?;
    let arguments = match prepared {
        Some(arguments) => arguments,
        None => words::arguments(kind, arguments)?,
    };
    let call = Call::new(endpoint.endpoint_id, function, arguments).with_options(options.limits.options());
    let mut stop = Stop::new()?;
    let mut handle = common.patient_client()?.submit(call).await?;
    if options.no_wait {
        let id = handle.id().await?;
        common.output().show(&json!({ "task_id": id, "function_id": function }), |_| id.to_string())?;
        return Ok(ExitCode::SUCCESS);
    }
    if !endpoint.connected {
        print_aside(&format!("endpoint {} is not connected; the task waits for it", endpoint.name))?;
    }
    let task = outcome(&mut handle, &mut stop).await?;
    ending::show(common.output(), &task, Some(kind))
}

/// A function as the command line says it.
pub(super) enum What {
    Registered(FunctionId),
    New(FunctionRegistration),
}

impl What {
    /// Its kind, if that is known without asking the service.
    pub(super) fn kind(&self) -> Option<FunctionKind> {
        match self {
            Self::Registered(_) => None,
            Self::New(registration) => Some(registration.kind),
        }
    }

    pub(super) async fn resolve(self, client: &Client) -> Result<(FunctionId, FunctionKind)> {
        match self {
            Self::Registered(id) => Ok((id, client.function(id).await?.kind)),
            Self::New(registration) => {
                Ok((client.register(&registration).await?.function_id, registration.kind))
            }
        }
    }
}

impl Options {
    /// The function and the words that are its arguments.
    fn what(&self) -> Result<(What, &[String])> {
        if let Some(id) = self.function {
            return Ok((What::Registered(id), &self.words));
        }
        if let Some(template) = &self.shell {
            return Ok((What::New(FunctionRegistration::shell(template, template)), &self.words));
        }
        if let Some(name) = &self.native {
            return Ok((What::New(FunctionRegistration::native(name)), &self.words));
        }
        let Some((file, arguments)) = self.words.split_first() else {
            bail!(Failed::new(
                Exit::Usage,
                "say what to run: FILE.py, --function ID, --shell COMMAND or --native NAME"
            ));
        };
        Ok((What::New(Source::new(file).registration()?), arguments))
    }
}

/// The outcome of a task, which Ctrl-C cancels.
async fn outcome(handle: &mut TaskHandle, stop: &mut Stop) -> Result<TaskView> {
    tokio::select! {
        outcome = &mut *handle => return Ok(outcome?),
        () = stop.wait() => print_aside("cancelling the task")?,
    }
    let cancelled = async {
        handle.cancel().await?;
        handle.await
    };
    tokio::select! {
        outcome = cancelled => Ok(outcome?),
        () = stop.wait() => bail!("gave up waiting; `funcx task list` says how the task ends"),
    }
}
