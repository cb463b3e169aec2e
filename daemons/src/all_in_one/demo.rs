//! `funcx demo`: a fabric, a few functions of every kind, their results, and where the time went.

use std::{collections::BTreeMap, process::ExitCode, time::Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use clap::Args;
use comfy_table::{Table, presets::UTF8_FULL_CONDENSED};
use funcx_core::model::{FunctionId, Hop};
use funcx_net::client::{Arguments, Call, Client, FunctionRegistration, TaskView, Token};
use futures::{StreamExt, stream::FuturesUnordered};
use indicatif::{ProgressBar, ProgressStyle};

use super::{Fabric, FabricOptions};
use crate::signal;

/// Command line of `funcx demo`.
#[derive(Debug, Clone, Args)]
pub struct DemoOptions {
    /// Worker processes; one per core if not given
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub workers: Option<u32>,
    /// Python interpreter of the workers
    #[arg(long, default_value = "python3", value_parser = crate::config::interpreter)]
    pub python: String,
    /// Calls of the estimate of pi
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    pub calls: u64,
}

const HELLO: &str = "\
def hello(name):
    import platform
    return f'hello {name}, from Python {platform.python_version()}'
";

const PI: &str = "\
def pi(seed, points):
    import random
    draw = random.Random(seed).random
    return sum(draw() ** 2 + draw() ** 2 < 1 for _ in range(points))
";

/// Points that one call of the estimate draws.
const POINTS: u64 = 20_000;

/// Calls one after the other, to see the latency of each hop.
const ROUND_TRIPS: usize = 200;

/// The way of a task, from hop to hop.
const WAY: [(&str, Hop, Hop); 6] = [
    ("accepted and durable at the service", Hop::Accepted, Hop::ServiceSent),
    ("service → endpoint", Hop::ServiceSent, Hop::EndpointSent),
    ("endpoint → manager", Hop::EndpointSent, Hop::ManagerSent),
    ("manager → worker", Hop::ManagerSent, Hop::Started),
    ("in the function", Hop::Started, Hop::Ended),
    ("worker → manager → endpoint", Hop::Ended, Hop::EndpointReturned),
];

/// Runs the demonstration.
///
/// # Errors
/// Why a part could not start, or a function did not do what it should.
pub async fn run(options: DemoOptions) -> Result<ExitCode> {
    let mut signals = signal::Stop::new()?;
    println!("Starting a service, an endpoint and workers …");
    let began = Instant::now();
    let fabric_options =
        FabricOptions { port: 0, data_dir: None, workers: options.workers, python: options.python.clone() };
    let fabric = tokio::select! {
        fabric = Fabric::start(&fabric_options) => fabric?,
        () = signals.wait() => bail!("interrupted"),
    };
    println!("Ready after {:.2} s at {}.\n", began.elapsed().as_secs_f64(), fabric.url());
    let shown = tokio::select! {
        shown = show(&fabric, &options) => shown,
        () = signals.wait() => Err(anyhow!("interrupted")),
    };
    fabric.shutdown().await?;
    shown.map(|()| ExitCode::SUCCESS)
}

async fn show(fabric: &Fabric, options: &DemoOptions) -> Result<()> {
    let client =
        Client::builder().service(fabric.url()).token(Token::new(&fabric.credentials().token)?).build()?;
    let endpoint = fabric.credentials().endpoint_id;

    println!("Functions of every kind, each registered once:\n");
    let hello = register(&client, &FunctionRegistration::python("hello", HELLO)).await?;
    let pi = register(&client, &FunctionRegistration::python("pi", PI)).await?;
    let uname = register(&client, &FunctionRegistration::shell("uname", "uname -sm; echo {0}")).await?;
    let sum = register(&client, &FunctionRegistration::native("funcx.sum")).await?;
    let calls = [
        ("Python", "hello('world')", Call::new(endpoint, hello, python(&["world"])?)),
        ("shell", "uname -sm; echo done", Call::new(endpoint, uname, python(&["done"])?)),
        ("Rust", "funcx.sum([1.5, 2.5, 38])", Call::new(endpoint, sum, Arguments::value(&[1.5, 2.5, 38.0])?)),
    ];
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED).set_header(["kind", "call", "result"]);
    for (kind, call, made) in calls {
        let task = client.submit(made).await?.await?;
        table.add_row([kind, call, &value(&task)?]);
    }
    println!("{table}\n");

    println!("{} calls of one Python function at once, {POINTS} random points each:\n", options.calls);
    let bar = ProgressBar::new(options.calls).with_style(
        ProgressStyle::with_template("  {bar:40} {pos}/{len} tasks, {per_sec}")
            .context("the template is valid")?,
    );
    let began = Instant::now();
    let mut running = FuturesUnordered::new();
    for seed in 0..options.calls {
        running.push(client.submit(Call::new(endpoint, pi, python(&[seed, POINTS])?)).await?);
    }
    let mut inside = 0;
    while let Some(task) = running.next().await {
        inside += task?.value::<u64>()?;
        bar.inc(1);
    }
    bar.finish_and_clear();
    let estimate = 4.0 * inside as f64 / (options.calls * POINTS) as f64;
    println!(
        "  {} tasks in {:.2} s; pi is about {estimate:.4}\n",
        options.calls,
        began.elapsed().as_secs_f64()
    );
    ensure!((3.0..3.3).contains(&estimate), "that is not pi");

    println!("{ROUND_TRIPS} calls one after the other, and where the time went (milliseconds):\n");
    let mut tasks = Vec::with_capacity(ROUND_TRIPS);
    let mut totals = Vec::with_capacity(ROUND_TRIPS);
    for _ in 0..ROUND_TRIPS {
        let began = Instant::now();
        tasks.push(client.submit(Call::new(endpoint, hello, python(&["again"])?)).await?.await?);
        totals.push(began.elapsed().as_secs_f64());
    }
    println!("{}", latencies(&tasks, totals));
    Ok(())
}

async fn register(client: &Client, registration: &FunctionRegistration) -> Result<FunctionId> {
    Ok(client.register(registration).await?.function_id)
}

fn python<T: serde::Serialize>(args: &[T]) -> Result<Arguments> {
    Ok(Arguments::python(args, &BTreeMap::<String, ()>::new())?)
}

/// What a call gave, for people.
fn value(task: &TaskView) -> Result<String> {
    let value: serde_json::Value = task.value()?;
    Ok(match value.get("stdout") {
        Some(stdout) => stdout.as_str().unwrap_or_default().trim().replace('\n', ", "),
        None if value.is_string() => value.as_str().unwrap_or_default().to_owned(),
        None => value.to_string(),
    })
}

fn latencies(tasks: &[TaskView], totals: Vec<f64>) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED).set_header(["hop", "median", "99th percentile"]);
    for (name, from, to) in WAY {
        let took = tasks
            .iter()
            .filter_map(|task| Some((*task.stamps.get(to.as_str())?, *task.stamps.get(from.as_str())?)))
            .map(|(to, from)| to.saturating_sub(from) as f64 / 1e9)
            .collect();
        add_row(&mut table, name, took);
    }
    add_row(&mut table, "call to result, in all", totals);
    table
}

fn add_row(table: &mut Table, name: &str, mut seconds: Vec<f64>) {
    seconds.sort_by(f64::total_cmp);
    let at = |share: f64| {
        let index = (seconds.len() as f64 * share) as usize;
        seconds.get(index).map_or_else(String::new, |second| format!("{:.3}", second * 1e3))
    };
    table.add_row([name.to_owned(), at(0.5), at(0.99)]);
}
