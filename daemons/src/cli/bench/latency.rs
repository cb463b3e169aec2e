//! `funcx bench latency`

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use clap::Args;
use funcx_core::model::{FunctionId, OutcomeKind};
use funcx_net::client::{Arguments, Call, Client, FunctionRegistration};
use funcx_net::driver::wall_clock;
use serde_json::{Value, json};

use super::hops::{Row, Times};
use crate::cli::common::{Common, find_endpoint};
use crate::cli::output::table;
use crate::cli::{ending, words};
use crate::exit::{Exit, Failed};

/// Returns what it is given, and needs no module, so that what is measured is the way there and back.
const HELLO: &str = "def hello_world(event):\n    return event\n";

/// What it is given.
const EVENT: &str = "hello-world";

/// What to call, and how often.
#[derive(Debug, Args)]
#[command(after_help = "\
Times between different machines are as exact as their clocks agree; the total is measured by one clock.")]
pub struct Options {
    /// Endpoint, by id or name; needed if you have several
    #[arg(long, short, env = "FUNCX_ENDPOINT_ID", value_name = "ID or NAME")]
    pub endpoint: Option<String>,
    /// Calls that are measured
    #[arg(long, default_value_t = 2000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub calls: u32,
    /// Calls before them, until everything is warm
    #[arg(long, default_value_t = 20)]
    pub warm_up: u32,
    /// A registered function to call instead of a Python function that returns its argument
    #[arg(long, value_name = "ID")]
    pub function: Option<FunctionId>,
    /// Arguments of that function
    #[arg(allow_negative_numbers = true, requires = "function")]
    pub words: Vec<String>,
}

/// Measures, and shows a row for each hop.
pub(super) async fn run(common: &Common, options: Options) -> Result<ExitCode> {
    let client = common.client()?;
    let endpoint = find_endpoint(&client, options.endpoint.as_deref()).await?;
    if !endpoint.connected {
        bail!(Failed::new(Exit::WrongState, format!("endpoint {} is not connected", endpoint.name)));
    }
    let (function, arguments) = what(&client, &options).await?;
    let call = Call::new(endpoint.endpoint_id, function, arguments);
    for _ in 0..options.warm_up {
        measure(&client, &call, &mut Times::default()).await?;
    }
    let mut times = Times::default();
    for _ in 0..options.calls {
        measure(&client, &call, &mut times).await?;
    }
    let rows = times.rows();
    let json: Vec<Value> = rows.iter().map(to_json).collect();
    common.output().show(&json, |_| {
        table(["WAY", "p50 ms", "p99 ms", "max ms", "CALLS"], rows.iter().map(to_cells), "no calls")
    })?;
    Ok(ExitCode::SUCCESS)
}

async fn what(client: &Client, options: &Options) -> Result<(FunctionId, Arguments)> {
    if let Some(id) = options.function {
        let kind = client.function(id).await?.kind;
        return Ok((id, words::arguments(kind, &options.words)?));
    }
    let function = FunctionRegistration::python("hello_world", HELLO);
    let arguments = words::arguments(function.kind, &[EVENT.to_owned()])?;
    Ok((client.register(&function).await?.function_id, arguments))
}

async fn measure(client: &Client, call: &Call, times: &mut Times) -> Result<()> {
    let (sent, begin) = (wall_clock(), Instant::now());
    let task = client.submit(call.clone()).await?.await?;
    let (total, received) = (begin.elapsed(), wall_clock());
    if task.outcome != Some(OutcomeKind::Returned) {
        bail!(Failed::new(Exit::TaskFailed, ending::reason(&task)));
    }
    times.add(sent, &task, received, total);
    Ok(())
}

fn to_json(row: &Row) -> Value {
    json!({
        "way": row.way,
        "calls": row.calls,
        "p50_ms": millis(row.p50),
        "p99_ms": millis(row.p99),
        "max_ms": millis(row.max),
    })
}

fn to_cells(row: &Row) -> [String; 5] {
    let text = |time| format!("{:.3}", millis(time));
    [row.way.to_owned(), text(row.p50), text(row.p99), text(row.max), row.calls.to_string()]
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
