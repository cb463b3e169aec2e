//! Many calls in one task.

use std::{
    ops::Range,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use clap::Args;
use funcx_core::model::FunctionId;
use funcx_net::client::{Chunk, MapOptions};

use super::super::experiment::{About, Experiment, Run};
use super::super::findings::{Axis, Chart, Findings, Form, Point, Series, number};
use super::super::real::{Engine, Fabric, python_arguments};

/// Options of the experiment.
#[derive(Debug, Clone, Default, Args)]
pub struct Map {
    /// Calls in one task, of each row of calls per second
    #[arg(long, value_delimiter = ',', value_parser = clap::value_parser!(u16).range(1..=4096), value_name = "COUNT,…")]
    chunks: Vec<u16>,
}

const BATCHES: &str =
    "funcX, arXiv 1908.04907, section 6.4.4 and figure 8: batches of five science functions, one worker";
const RATES: &str =
    "funcX, HPDC 2020, fmap, from the slides of the talk: no-op functions in batches, as many as workers";

/// Calls in a batch, and milliseconds of each of them.
const PUBLISHED: [(&str, [(f64, f64); 4]); 5] = [
    ("MNIST", [(1.0, 1_780.0), (16.0, 113.0), (128.0, 17.0), (1_024.0, 6.0)]),
    ("DIALS stills", [(1.0, 2_050.0), (16.0, 520.0), (128.0, 310.0), (1_024.0, 265.0)]),
    ("metadata", [(1.0, 700.0), (16.0, 330.0), (128.0, 310.0), (1_024.0, 306.0)]),
    ("neurocartography", [(1.0, 5_900.0), (16.0, 5_500.0), (128.0, 5_900.0), (1_024.0, 6_200.0)]),
    ("XPCS", [(1.0, 49_500.0), (16.0, 50_200.0), (128.0, 50_700.0), (256.0, 50_700.0)]),
];

/// Workers, and calls per second.
const PUBLISHED_RATES: [(f64, f64); 6] =
    [(1.0, 0.1e6), (2.0, 0.2e6), (4.0, 0.39e6), (8.0, 0.72e6), (16.0, 1.18e6), (32.0, 1.25e6)];

/// Functions that return what they are given: what they do, their name, their source.
const FUNCTIONS: [(&str, &str, &str); 2] = [
    ("no-op", NOTHING.0, NOTHING.1),
    ("1 ms", "sleep", "import time\n\ndef sleep(x):\n    time.sleep(0.001)\n    return x\n"),
];

const NOTHING: (&str, &str) = ("nothing", "def nothing(x):\n    return x\n");

/// Calls in a batch.
const SIZES: [usize; 6] = [1, 4, 16, 64, 256, 1_024];

/// Batches of each size in a run.
const REPEATS: usize = 5;

impl Experiment for Map {
    const ABOUT: About = About {
        name: "map",
        title: "User batching: many calls in one task",
        reproduces: "funcX, arXiv 1908.04907, section 6.4.4: batches of 1 to 1,024 calls of five functions on one worker, the \
                     time of a batch by its size. And its fmap, HPDC 2020: no-op functions in batches, 1.25 million calls/s on \
                     32 workers.",
    };

    async fn run(&self, run: &Run) -> Result<Findings> {
        let asked: &[u16] = match (self.chunks.as_slice(), run.quick()) {
            ([], false) => &[1, 4, 16, 64, 256, 1_024, 4_096],
            ([], true) => &[1, 64, 4_096],
            (asked, _) => asked,
        };
        let mut rates = Vec::new();
        let mut best = Series::ours("here, at the best of these sizes");
        let mut batches = Vec::new();
        for workers in 1..=2 {
            let fabric = Fabric::start(run, Engine { workers, ..Engine::default() }).await?;
            if workers == 1 {
                batches = batch_times(run, &fabric).await?;
            }
            let here = rates_of(run, &fabric, workers, asked).await?;
            fabric.stop().await?;
            let highest = here.points.iter().max_by(|one, other| one.y.median.total_cmp(&other.y.median));
            best.points.extend(highest.map(|point| Point { x: f64::from(workers), ..*point }));
            rates.push(here);
        }
        batches.extend(PUBLISHED.iter().map(|(name, rows)| Series::published(*name, BATCHES, *rows)));
        Ok(Findings {
            setup: vec![
                "Service, endpoint, manager and Python workers are processes of this machine; the store is durable. The Rust \
                 client maps over HTTP; the time is from its first request until it has the last value."
                    .to_owned(),
                format!("Times per call: one worker, one task at a time, {REPEATS} tasks in each run, after one that is not counted."),
                format!(
                    "Calls per second: {} calls for each of those in a task, but from {} to {}.",
                    number(calls_per_chunk(run) as f64),
                    number(call_range(run).start as f64),
                    number(call_range(run).end as f64)
                ),
            ],
            charts: vec![
                Chart {
                    title: "Milliseconds of each call in a batch".to_owned(),
                    x: Axis::logarithmic("calls in the batch"),
                    y: Axis::logarithmic("ms"),
                    form: Form::Lines,
                    series: batches,
                },
                Chart {
                    title: "Calls per second of a function that does nothing".to_owned(),
                    x: Axis::logarithmic("calls in a task"),
                    y: Axis::logarithmic("calls/s"),
                    form: Form::Lines,
                    series: rates,
                },
                Chart {
                    title: "Calls per second by workers".to_owned(),
                    x: Axis::logarithmic("workers"),
                    y: Axis::logarithmic("calls/s"),
                    form: Form::Lines,
                    series: vec![best, Series::published("paper", RATES, PUBLISHED_RATES)],
                },
            ],
            notes: vec![
                "Each value was checked. Client, service, endpoint, manager and workers share the processors, which the more \
                 workers there are the more they have to."
                    .to_owned(),
                "The functions of the paper gain what they do once for a whole batch, such as loading a model; ours do nothing \
                 once, so what falls is the share of the fabric."
                    .to_owned(),
            ],
        })
    }
}

/// Milliseconds per call of batches, one after the other on one worker.
async fn batch_times(run: &Run, fabric: &Fabric) -> Result<Vec<Series>> {
    let mut series = Vec::new();
    for (what, name, source) in FUNCTIONS {
        let function = fabric.python(name, source).await?;
        let mut here = Series::ours(format!("{what}, here"));
        run.say(format!("batches of {what}"))?;
        for size in SIZES {
            map(fabric, function, size, size).await?;
            let mut times = Vec::new();
            for _ in 0..REPEATS * run.runs() {
                let took = map(fabric, function, size, size).await?;
                times.push(took.as_secs_f64() * 1e3 / size as f64);
            }
            here.add(size as f64, times);
        }
        series.push(here);
    }
    Ok(series)
}

/// Calls per second with so many calls in a task.
async fn rates_of(run: &Run, fabric: &Fabric, workers: u32, chunks: &[u16]) -> Result<Series> {
    let function = fabric.python(NOTHING.0, NOTHING.1).await?;
    let mut here =
        Series::ours(format!("{workers} {}, here", if workers == 1 { "worker" } else { "workers" }));
    for &chunk in chunks {
        let Range { start: least, end: most } = call_range(run);
        let calls = (usize::from(chunk) * calls_per_chunk(run)).clamp(least, most);
        run.say(format!("{} calls, {chunk} in a task; workers: {workers}", number(calls as f64)))?;
        let mut rates = Vec::new();
        for _ in 0..run.runs() {
            rates.push(calls as f64 / map(fabric, function, calls, chunk.into()).await?.as_secs_f64());
        }
        here.add(f64::from(chunk), rates);
    }
    Ok(here)
}

/// Calls for each of those in a task.
fn calls_per_chunk(run: &Run) -> usize {
    if run.quick() { 100 } else { 2_000 }
}

/// Least and most calls of a row: long enough to tell, and short enough to wait for.
fn call_range(run: &Run) -> Range<usize> {
    if run.quick() { 2_000..100_000 } else { 20_000..2_000_000 }
}

/// Maps a function that returns its argument, and checks every value. The time until the last value is there.
async fn map(fabric: &Fabric, function: FunctionId, calls: usize, chunk: usize) -> Result<Duration> {
    let arguments: Result<Vec<_>> = (0..calls).map(|call| python_arguments(&[call])).collect();
    let (arguments, options) =
        (arguments?, MapOptions { chunk: Chunk::Fixed(chunk), ..MapOptions::default() });
    let began = Instant::now();
    let mut mapped = fabric.client().map(fabric.endpoint_id, function, arguments, options).await?;
    let mut values = Vec::with_capacity(calls);
    while let Some(chunk) = mapped.next_chunk().await {
        values.extend(chunk?.results);
    }
    let took = began.elapsed();
    ensure!(values.len() == calls, "{} of {calls} calls came back", values.len());
    for (call, value) in values.into_iter().enumerate() {
        let value = value?;
        ensure!(value.get() == call.to_string(), "a call with {call} returned {value}");
    }
    Ok(took)
}
