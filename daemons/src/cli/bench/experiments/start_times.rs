//! Calls that find everything ready, and calls for which something has to be started.

use std::{
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use clap::Args;
use funcx_net::client::{Arguments, Call, FunctionRegistration};
use nix::sys::signal::Signal;
use tokio::process::Command;

use super::super::experiment::{About, Experiment, Run};
use super::super::findings::{Axis, Chart, Findings, Form, Series};
use super::super::real::{Engine, Fabric, call_for, python_arguments};

/// Options of the experiment.
#[derive(Debug, Clone, Default, Args)]
pub struct StartTimes {
    /// Calls of each row that finds everything ready; 2,000 if not set, 200 with --quick
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=10_000_000), value_name = "COUNT")]
    warm: Option<u32>,
    /// Calls of each row for which something has to be started; 40 if not set, 5 with --quick
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=100_000), value_name = "COUNT")]
    cold: Option<u32>,
}

const HELLO: &str = "def hello_world(event):\n    return event\n";

const EVENT: &str = "hello-world";

const WARM_UP: u32 = 50;

/// A manager that has nothing to do for so long ends.
const IDLE: Duration = Duration::from_millis(100);

/// Between two looks whether something has ended.
const LOOK: Duration = Duration::from_millis(2);

const PATIENCE: Duration = Duration::from_secs(60);

const CALLS: &str =
    "funcX, arXiv 1908.04907, table 2: totals of calls from ANL Cooley to US-East, 20.5 ms of it network";
const CONTAINERS: &str =
    "funcX, arXiv 1908.04907, section 6.4.2: means of 100 containers that start Python and import a module";

const WARM: [&str; 3] = ["native", "Python", "shell (a process each)"];
const COLD: [&str; 3] =
    ["new function, warm Python worker", "worker forked from a warm zygote", "manager, zygote and worker"];
const PLATFORMS: [(&str, f64, f64); 4] =
    [("Azure", 125.6, 2748.0), ("Google", 122.0, 160.0), ("Lambda", 116.3, 174.5), ("funcX", 75.9, 2886.0)];
const STARTS: [(&str, f64); 4] = [
    ("Singularity on Theta", 10_400.0),
    ("Shifter on Cori", 8_490.0),
    ("Docker on EC2", 1_790.0),
    ("Singularity on EC2", 1_220.0),
];

impl Experiment for StartTimes {
    const ABOUT: About = About {
        name: "start-times",
        title: "Warm and cold calls of each runtime",
        reproduces: "funcX, arXiv 1908.04907, sections 6.1 and 6.4.2: 2,000 calls of a hello-world that is warm, 40 for which \
                     a container has to be started; 100 starts of containers that run Python and import a module.",
    };

    async fn run(&self, run: &Run) -> Result<Findings> {
        let warm = self.warm.unwrap_or(if run.quick() { 200 } else { 2_000 });
        let cold = self.cold.unwrap_or(if run.quick() { 5 } else { 40 });
        let mut here = Series::ours("here");
        run.say(format!("{warm} warm calls of each kind"))?;
        for (place, times) in (0..).zip(warm_calls(run, warm).await?) {
            here.add(f64::from(place), times);
        }
        run.say(format!("{cold} calls of new functions, and on new workers"))?;
        let first = WARM.len() as u32;
        let [functions, workers] = cold_workers(run, cold).await?;
        run.say(format!("{cold} calls that start a manager"))?;
        let managers = cold_managers(run, cold).await?;
        for (place, times) in (first..).zip([functions, workers, managers]) {
            here.add(f64::from(place), times);
        }
        let first = first + COLD.len() as u32;
        let published: Vec<_> = PLATFORMS
            .iter()
            .flat_map(|(name, warm, cold)| {
                [(format!("{name}, warm"), *warm), (format!("{name}, cold"), *cold)]
            })
            .collect();
        let series = (f64::from(first)..).step(published.iter().map(|(_, millis)| *millis));
        let names = WARM
            .iter()
            .chain(&COLD)
            .map(|name| (*name).to_owned())
            .chain(published.iter().map(|(name, _)| name.clone()));
        Ok(Findings {
            setup: vec![
                "Service, endpoint, manager and workers are processes of this machine; the store is durable. Calls come over \
                 HTTP, one after the other, and each is timed by its client."
                    .to_owned(),
                format!("{warm} calls of each warm row after {WARM_UP} that are not counted, {cold} of each cold row."),
            ],
            charts: vec![
                Chart {
                    title: "Milliseconds from call to result".to_owned(),
                    x: Axis::names("call", names),
                    y: Axis::logarithmic("ms"),
                    form: Form::Bars,
                    series: vec![here, Series::published("papers", CALLS, series)],
                },
                starts(run).await?,
            ],
            notes: vec![
                "Brackets hold the fastest and the slowest call.".to_owned(),
                "A new worker is needed because the one there is was killed just before the call: the time includes that this \
                 is noticed. A new manager is needed because the endpoint has scaled to none."
                    .to_owned(),
                "No container runtime is measured: workers run as plain processes.".to_owned(),
            ],
        })
    }
}

/// Numbers the values of an iterator.
trait Step {
    fn step(self, values: impl Iterator<Item = f64>) -> impl Iterator<Item = (f64, f64)>;
}

impl Step for std::ops::RangeFrom<f64> {
    fn step(self, values: impl Iterator<Item = f64>) -> impl Iterator<Item = (f64, f64)> {
        values.enumerate().map(move |(number, value)| (self.start + number as f64, value))
    }
}

/// Milliseconds of warm calls of a native, a Python and a shell function.
async fn warm_calls(run: &Run, calls: u32) -> Result<[Vec<f64>; 3]> {
    let fabric = Fabric::start(run, Engine::default()).await?;
    let client = fabric.client();
    let registered = async |function: FunctionRegistration| client.register(&function).await;
    let native = registered(FunctionRegistration::native("funcx.echo")).await?.function_id;
    let python = registered(FunctionRegistration::python("hello_world", HELLO)).await?.function_id;
    let shell = registered(FunctionRegistration::shell("echo", "echo {0}")).await?.function_id;
    let call = |function, arguments| Call::new(fabric.endpoint_id, function, arguments);
    let native = call(native, Arguments::value(EVENT)?);
    let (python, shell) =
        (call(python, python_arguments(&[EVENT])?), call(shell, python_arguments(&[EVENT])?));
    let mut times = [const { Vec::new() }; 3];
    for number in 0..WARM_UP + calls {
        let took = [
            timed(call_for(client, &native, &EVENT.to_owned())).await?.0,
            timed(call_for(client, &python, &EVENT.to_owned())).await?.0,
            timed(shell_call(&fabric, &shell)).await?.0,
        ];
        if number >= WARM_UP {
            times.iter_mut().zip(took).for_each(|(times, took)| times.push(took));
        }
    }
    fabric.stop().await?;
    Ok(times)
}

async fn shell_call(fabric: &Fabric, call: &Call) -> Result<()> {
    let task = fabric.client().submit(call.clone()).await?.await?;
    let value: serde_json::Value = task.value()?;
    let said = value.get("stdout").and_then(serde_json::Value::as_str).map(str::trim);
    ensure!(said == Some(EVENT), "a shell function gave {value}");
    Ok(())
}

/// Milliseconds of the first calls of functions, and of calls just after the only worker was killed.
async fn cold_workers(run: &Run, calls: u32) -> Result<[Vec<f64>; 2]> {
    let fabric = Fabric::start(run, Engine::default()).await?;
    let (mut functions, mut workers) = (Vec::new(), Vec::new());
    for number in 0..calls {
        let function = fabric.python("hello_world", &format!("# {number}\n{HELLO}")).await?;
        let call = Call::new(fabric.endpoint_id, function, python_arguments(&[EVENT])?);
        functions.push(timed(call_for(fabric.client(), &call, &EVENT.to_owned())).await?.0);
        let victims = fabric.workers();
        ensure!(!victims.is_empty(), "there is no worker to kill");
        for worker in victims {
            worker.signal(Signal::SIGKILL);
        }
        workers.push(timed(call_for(fabric.client(), &call, &EVENT.to_owned())).await?.0);
    }
    fabric.stop().await?;
    Ok([functions, workers])
}

/// Milliseconds of calls at a time when there is no manager.
async fn cold_managers(run: &Run, calls: u32) -> Result<Vec<f64>> {
    let fabric = Fabric::start(run, Engine { idle: Some(IDLE), ..Engine::default() }).await?;
    let function = fabric.python("hello_world", HELLO).await?;
    let call = Call::new(fabric.endpoint_id, function, python_arguments(&[EVENT])?);
    let mut times = Vec::new();
    for _ in 0..calls {
        let began = Instant::now();
        while !fabric.managers().is_empty() {
            ensure!(began.elapsed() < PATIENCE, "an idle manager does not end");
            tokio::time::sleep(LOOK).await;
        }
        times.push(timed(call_for(fabric.client(), &call, &EVENT.to_owned())).await?.0);
    }
    fabric.stop().await?;
    Ok(times)
}

/// What it takes to start a process at all, and a Python, beside the papers' containers.
async fn starts(run: &Run) -> Result<Chart> {
    let starts = if run.quick() { 10 } else { 100 };
    run.say(format!("{starts} starts of processes"))?;
    let mut here = Series::ours("here");
    let python = [run.options.python.as_str(), "-c", "import json; print(json.__version__)"];
    for (place, command) in [(0.0, ["true"].as_slice()), (1.0, python.as_slice())] {
        let mut times = Vec::new();
        for _ in 0..starts {
            let mut process = Command::new(command[0]);
            process.args(&command[1..]).stdin(Stdio::null()).kill_on_drop(true);
            let (millis, output) =
                timed(async { process.output().await.context("cannot start a process") }).await?;
            ensure!(output.status.success(), "{} ended badly: {}", command[0], output.status);
            times.push(millis);
        }
        here.add(place, times);
    }
    let published = STARTS.iter().enumerate().map(|(number, (_, millis))| (2.0 + number as f64, *millis));
    let names =
        ["a process", "Python that imports a module"].into_iter().chain(STARTS.iter().map(|(name, _)| *name));
    Ok(Chart {
        title: "Milliseconds to start a runtime, without any of funcx".to_owned(),
        x: Axis::names("runtime", names),
        y: Axis::logarithmic("ms"),
        form: Form::Bars,
        series: vec![here, Series::published("papers", CONTAINERS, published)],
    })
}

/// What `work` gives, and the milliseconds that it took.
async fn timed<T>(work: impl Future<Output = Result<T>>) -> Result<(f64, T)> {
    let began = Instant::now();
    let done = work.await?;
    Ok((began.elapsed().as_secs_f64() * 1e3, done))
}
