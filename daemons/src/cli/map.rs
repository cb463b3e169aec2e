//! `funcx map`

use std::{path::PathBuf, pin::pin, process::ExitCode};

use anyhow::{Context, Result, bail};
use clap::Args;
use funcx_core::model::{FunctionId, FunctionKind, limit};
use funcx_net::client::{CallFailure, CallResult, Chunk, FunctionRegistration, MapChunk, MapOptions, MapRun};
use futures::FutureExt;
use serde_json::{Value, json, value::RawValue};
use tokio::sync::oneshot;

use super::common::{Common, find_endpoint};
use super::lines;
use super::output::{Output, print_aside, print_while_read};
use super::run::{Limits, What};
use super::source::Source;
use crate::exit::{Exit, Failed};
use crate::signal::Stop;

/// What to call, where, and with which arguments.
#[derive(Debug, Args)]
#[command(after_help = "\
Each line of the input is the arguments of one call, in JSON. An array is its positional arguments, an object its named ones,
anything else its only argument; a native function takes each value as it is. Lines that are no JSON are texts, unless they begin
with `[`, `{` or `\"`: then nothing is called, and the line is named, for the file may have been cut there. Blank lines count for
nothing.

Each line of the output is the value of one call, in JSON and in the order of the input, or `error:` and the reason. With
--json it is an object with `index`, from 0, and `value` or `outcome` and `failure`. What the calls wrote, and tracebacks,
go to standard error. If any call has failed, the exit code is 12.

Examples:
  seq 100000 | funcx map analysis.py:square
  funcx map --native sqrt --chunk 1000 --input numbers.jsonl --json
  ls *.tif | funcx map --function ID --walltime '5 min'

The calls of a chunk are one task: they run one after the other in one worker, and time limits are for all of them together.
With --memoize it is the chunk that is remembered: say --chunk, and the same calls in the same order are found again.
Ctrl-C cancels what has not ended; a second one stops waiting for it. So does a reader such as `head` that has enough.")]
pub struct Options {
    /// Endpoint, by id or name; needed if you have several
    #[arg(long, short, env = "FUNCX_ENDPOINT_ID", value_name = "ID or NAME")]
    pub endpoint: Option<String>,
    /// Call a registered function
    #[arg(long, short, value_name = "ID", group = "what")]
    pub function: Option<FunctionId>,
    /// Call a Rust function that the workers of the endpoint know
    #[arg(long, value_name = "NAME", group = "what")]
    pub native: Option<String>,
    /// Function of a Python file; FILE.py if it is the only one in it
    #[arg(group = "what", required_unless_present_any = ["function", "native"], value_name = "FILE.py[:FUNCTION]")]
    pub source: Option<String>,
    /// Arguments, one call in each line; `-` is standard input
    #[arg(long, short, value_name = "FILE", default_value = "-")]
    pub input: PathBuf,
    /// Calls in one task; if not given, what suits their number and the workers of the endpoint
    #[arg(long, allow_negative_numbers = true, value_parser = chunk, value_name = "NUMBER")]
    pub chunk: Option<usize>,
    /// How hard, how soon and how long to try.
    #[command(flatten)]
    pub limits: Limits,
}

/// Registers the function if need be, calls it with each line, and shows what becomes of the calls.
pub(super) async fn run(common: &Common, options: Options) -> Result<ExitCode> {
    let client = common.client()?;
    let what = options.what()?;
    // What is wrong with the arguments is better said before a function is registered for them.
    let prepared = what.kind().map(|kind| lines::read(&options.input, kind)).transpose()?;
    let endpoint = find_endpoint(&client, options.endpoint.as_deref()).await?;
    let (function, kind) = what.resolve(&client).await?;
    can_be_mapped(kind)?;
    let arguments = match prepared {
        Some(arguments) => arguments,
        None => lines::read(&options.input, kind)?,
    };
    let mut stop = Stop::new()?;
    let client = common.patient_client()?;
    let group = client.task_group();
    let map = MapOptions {
        chunk: options.chunk.map_or(Chunk::Auto, Chunk::Fixed),
        call: options.limits.options(),
        group: Some(group),
    };
    let (tell, told) = oneshot::channel();
    let (mut tell, told) = (Some(tell), told.map(drop));
    let mut submitting = pin!(client.map_until(endpoint.endpoint_id, function, arguments, map, told));
    let mut run = loop {
        tokio::select! {
            run = &mut submitting => break run.with_context(|| format!("task group {group}"))?,
            () = stop.wait() => match tell.take() {
                // An error means that the map has just been submitted: then the next signal is for what runs.
                Some(tell) => {
                    let _ = tell.send(());
                    print_aside("cancelling the calls that were submitted")?;
                }
                None => bail!("gave up waiting; `funcx task list --group {group}` shows what was accepted"),
            },
        }
    };
    if !endpoint.connected {
        print_aside(&format!("endpoint {} is not connected; the tasks wait for it", endpoint.name))?;
    }
    match show_all(common.output(), &mut run, &mut stop).await? {
        0 => Ok(ExitCode::SUCCESS),
        failed => {
            print_aside(&format!("{failed} calls failed"))?;
            Ok(Exit::TaskFailed.into())
        }
    }
}

impl Options {
    fn what(&self) -> Result<What> {
        Ok(match (self.function, &self.native, &self.source) {
            (Some(id), ..) => What::Registered(id),
            (None, Some(name), _) => What::New(FunctionRegistration::native(name)),
            (None, None, Some(source)) => What::New(Source::new(source).registration()?),
            (None, None, None) => {
                bail!(Failed::new(Exit::Usage, "say what to call: FILE.py, --function ID or --native NAME"))
            }
        })
    }
}

fn chunk(text: &str) -> std::result::Result<usize, String> {
    const MOST: usize = limit::MAX_CHUNK_CALLS;
    let calls = text.parse().ok().filter(|calls| (1..=MOST).contains(calls));
    calls.ok_or_else(|| format!("a task takes 1..={MOST} calls"))
}

fn can_be_mapped(kind: FunctionKind) -> Result<()> {
    let why = match kind {
        FunctionKind::Native | FunctionKind::Python => return Ok(()),
        FunctionKind::Shell => "each command is a process of its own: use `funcx run` for each",
        _ => "it takes serialized arguments: call it with the Globus Compute SDK or the Rust client",
    };
    bail!(Failed::new(Exit::Usage, format!("a {kind} function cannot be mapped here: {why}")))
}

/// Shows the results as they come, in order. Ctrl-C cancels what has not ended. Gives the number of calls that failed.
async fn show_all(output: Output, run: &mut MapRun, stop: &mut Stop) -> Result<usize> {
    let (mut failed, mut is_cancelled) = (0, false);
    loop {
        let chunk = tokio::select! {
            chunk = run.next_chunk() => chunk.transpose()?,
            () = stop.wait() => match is_cancelled {
                true => bail!("gave up waiting; `funcx task list --group {}` says how the tasks end", run.group()),
                false => {
                    is_cancelled = true;
                    print_aside(&format!("cancelling the {} calls that have not ended", run.calls_left()))?;
                    run.cancel().await?;
                    continue;
                }
            },
        };
        let Some(chunk) = chunk else { return Ok(failed) };
        let (is_read, failures) = show(output, &chunk)?;
        failed += failures;
        if !is_read && !is_cancelled {
            print_aside(&format!("nobody reads any further: cancelling {} calls", run.calls_left()))?;
            run.cancel().await?;
            return Ok(failed);
        }
    }
}

/// Prints the results of a chunk. Gives whether somebody reads them, and the number of its calls that failed.
fn show(output: Output, chunk: &MapChunk) -> Result<(bool, usize)> {
    print_aside(&chunk.task.stdout)?;
    print_aside(&chunk.task.stderr)?;
    let (mut lines, mut aside, mut failed) = (String::new(), String::new(), 0);
    for (index, result) in (chunk.first..).zip(&chunk.results) {
        match output.is_json() {
            true => lines += &json_line(index, result)?,
            false => lines += &line(result)?,
        }
        lines.push('\n');
        if let Err(CallFailure { failure, .. }) = result {
            failed += 1;
            if !failure.traceback.is_empty() {
                aside += &format!("call {index}: {}\n", failure.traceback.trim_end());
            }
        }
    }
    let is_read = print_while_read(&lines)?;
    print_aside(&aside)?;
    Ok((is_read, failed))
}

fn line(result: &CallResult) -> Result<String> {
    Ok(match result {
        Ok(value) => one_line(value)?,
        Err(error) => {
            // Where user code has raised, the last line of its traceback says it best.
            let said = error.failure.traceback.lines().next_back().map(str::to_owned);
            format!("error: {}", said.unwrap_or_else(|| error.to_string().replace('\n', " ")))
        }
    })
}

fn json_line(index: usize, result: &CallResult) -> Result<String> {
    Ok(match result {
        Ok(value) => format!(r#"{{"index":{index},"value":{}}}"#, one_line(value)?),
        Err(CallFailure { outcome, failure }) => {
            json!({ "index": index, "outcome": outcome, "failure": failure }).to_string()
        }
    })
}

/// JSON text without the line breaks that stand between its parts.
fn one_line(value: &RawValue) -> Result<String> {
    match value.get() {
        text if text.contains('\n') => Ok(serde_json::from_str::<Value>(text)?.to_string()),
        text => Ok(text.to_owned()),
    }
}
