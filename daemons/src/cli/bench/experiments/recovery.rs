//! What the loss of a manager and of an endpoint costs.

use std::{collections::BTreeMap, path::Path, time::Duration};

use anyhow::{Context, Result, ensure};
use clap::Args;
use funcx_core::model::Hop;
use funcx_net::client::{Call, TaskView};
use funcx_net::driver::wall_clock;
use nix::sys::signal::Signal;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep_until},
};

use super::super::experiment::{About, Experiment, Run};
use super::super::findings::{Axis, Chart, Findings, Form, Point, Series, Spread};
use super::super::real::{Engine, Fabric, call_for, python_arguments};

/// Options of the experiment.
#[derive(Debug, Clone, Default, Args)]
pub struct Recovery {}

/// Notes when it begins and when it ends, so that what ran twice can be counted.
const WORK: &str = "\
def work(n, log):
    import time
    def note(word):
        with open(log, 'a') as file:
            file.write(f'{word} {n}\\n')
    note('begin')
    time.sleep(0.1)
    note('end')
    return n
";

/// Tasks until everything is warm.
const WARM_UP: u32 = 16;

const TASKS: u32 = 300;
const BATCH: u32 = 8;
const BATCH_EVERY: Duration = Duration::from_millis(150);
const MANAGER_DIES: Duration = Duration::from_millis(2000);
/// The papers' means are over so much time.
const BIN: Duration = Duration::from_millis(500);

const MANAGER: &str = "funcX, arXiv 1908.04907, section 6.3 and figure 7, from the committed script and log: two managers of \
                       four workers, heartbeat 1 s, threshold 2 s";
const ENDPOINT: &str = "funcX, HPDC 2020, figure of endpoint failure in the talk: endpoint lost at 44 s, back at 86 s, a task \
                        about every 4 s";

/// One task and what became of it.
struct Ended {
    number: u32,
    submitted: Duration,
    latency: Duration,
    task: TaskView,
}

/// A figure, its value in each run, and what was published: from, to.
struct Figure {
    name: &'static str,
    values: Vec<f64>,
    published: Option<(f64, f64)>,
}

/// The outage of an endpoint.
struct Outage {
    every: Duration,
    tasks: u32,
    begins: Duration,
    lasts: Duration,
}

impl Experiment for Recovery {
    const ABOUT: About = About {
        name: "recovery",
        title: "Recovery: a manager is killed, an endpoint is away",
        reproduces: "Manager: funcX, arXiv 1908.04907, section 6.3 and figure 7: 300 tasks of 100 ms, 8 every 0.15 s (53/s), \
                     two managers of four workers; one is killed 2 s after the first task. Endpoint: funcX, HPDC 2020: a \
                     task every 4 s, the endpoint is away for 42 s.",
    };

    async fn run(&self, run: &Run) -> Result<Findings> {
        let mut runs = Vec::new();
        let mut seen = Vec::new();
        for number in 1..=run.runs() {
            run.say(format!("a manager is killed, run {number}"))?;
            let (figures, ended) = lose_manager(run).await?;
            runs.push(figures);
            seen = ended;
        }
        let outage = if run.quick() { Outage::short() } else { Outage::published() };
        run.say(format!("an endpoint is away for {} s", outage.lasts.as_secs_f64()))?;
        let (away, waited) = lose_endpoint(run, &outage).await?;
        Ok(Findings {
            setup: vec![
                "Service, endpoint, managers and Python workers are processes of this machine; the store is durable, and the \
                 endpoint keeps a journal. What is lost is killed with SIGKILL."
                    .to_owned(),
                format!(
                    "Endpoint: {} tasks, one every {} s, once; it is started again {} s after it was killed.",
                    outage.tasks,
                    outage.every.as_secs_f64(),
                    outage.lasts.as_secs_f64()
                ),
            ],
            charts: vec![
                table("A manager is killed: milliseconds and tasks", merged(runs), "funcX", MANAGER),
                latencies("Latency of each task, a manager killed at 2 s", &seen),
                table(
                    "An endpoint is away: milliseconds and tasks",
                    away.into_iter().map(|figure| Figure { published: figure.published.filter(|_| !run.quick()), ..figure }).collect(),
                    "funcX",
                    ENDPOINT,
                ),
                latencies("Latency of each task, an endpoint away", &waited),
            ],
            notes: vec![
                "Every task returned its own number, or the experiment would have failed. A task that had begun on what was \
                 killed begins again elsewhere."
                    .to_owned(),
                "The paper's threshold was 2 s without a heartbeat. Here the connection of a process that is killed closes, and \
                 that is noticed at once; heartbeats are for peers that hang."
                    .to_owned(),
                format!(
                    "Half seconds begin {} ms before the loss, at the batch that it interrupts: means over half seconds from \
                     the loss on would leave that batch out.",
                    BATCH_EVERY.as_millis()
                ),
            ],
        })
    }
}

impl Outage {
    /// As in the paper; the endpoint is killed 50 ms after the third task, which runs then.
    fn published() -> Self {
        Self {
            every: Duration::from_secs(4),
            tasks: 18,
            begins: Duration::from_millis(8_050),
            lasts: Duration::from_secs(42),
        }
    }

    /// The same, ten times as fast.
    fn short() -> Self {
        Self {
            every: Duration::from_millis(400),
            tasks: 18,
            begins: Duration::from_millis(850),
            lasts: Duration::from_millis(4_200),
        }
    }
}

async fn lose_manager(run: &Run) -> Result<(Vec<Figure>, Vec<Ended>)> {
    let fabric = Fabric::start(run, Engine { managers: 2, workers: 4, ..Engine::default() }).await?;
    let log = fabric.file("tasks.log");
    let begun = warm(&fabric, &log).await?;
    let killing = async {
        sleep_until(begun + MANAGER_DIES).await;
        let manager = fabric.managers().into_iter().next().context("there is no manager to kill")?;
        ensure!(manager.signal(Signal::SIGKILL), "the manager has ended by itself");
        Ok(wall_clock().as_nanos())
    };
    let due = |number: u32| BATCH_EVERY * (number / BATCH);
    let (killed, ended) = tokio::try_join!(killing, load(&fabric, &log, begun, TASKS, due))?;
    // What began and ended with the manager was back in the queue before the endpoint gave it out again.
    let twice = more_than_once(&log, "begin ")?;
    let sent = |ended: &Ended| ended.task.stamps.get(Hop::EndpointSent.as_str()).copied().unwrap_or_default();
    let again = ended.iter().filter(|ended| twice.contains(&ended.number));
    let again = Spread::of(again.map(|ended| sent(ended).saturating_sub(killed) as f64 / 1e6));
    let quiet = |ended: &&Ended| ended.submitted < MANAGER_DIES - BIN;
    let base = Spread::of(ended.iter().filter(quiet).map(millis)).map_or(0.0, |spread| spread.median);
    // Means of the tasks submitted in each half second from the loss on; the batch that it interrupts is in the first.
    let bin = |number: u32| {
        let from = MANAGER_DIES + BIN * number;
        let inside = |ended: &&Ended| (from..from + BIN).contains(&(ended.submitted + BATCH_EVERY));
        mean(ended.iter().filter(inside).map(millis))
    };
    let slow = (0..7).rev().find(|number| bin(*number) > 1.5 * base);
    let recovered = slow.map_or(Duration::ZERO, |number| BIN * (number + 1));
    let mut figures = vec![
        figure("in-flight tasks given out again: first", again.map_or(0.0, |again| again.min), None),
        figure(
            "in-flight tasks given out again: last",
            again.map_or(0.0, |again| again.max),
            // Theirs waits for the threshold of its heartbeats, two seconds; when it gave tasks out again was not published.
            None,
        ),
        figure("median latency before", base, Some((120.0, 130.0))),
        figure("worst latency", worst(&ended), Some((2_150.0, 2_150.0))),
        figure("mean latency, half second of the loss", bin(0), Some((580.0, 580.0))),
        figure("mean latency, the half second after", bin(1), Some((350.0, 350.0))),
        figure(
            "mean latency below 1.5 medians again after",
            recovered.as_secs_f64() * 1e3,
            Some((1_500.0, 1_500.0)),
        ),
    ];
    figures.extend(audit(&log, Some((5.0, 5.0)))?);
    fabric.stop().await?;
    Ok((figures, ended))
}

async fn lose_endpoint(run: &Run, outage: &Outage) -> Result<(Vec<Figure>, Vec<Ended>)> {
    let mut fabric = Fabric::start(run, Engine { workers: 4, ..Engine::default() }).await?;
    let log = fabric.file("tasks.log");
    let begun = warm(&fabric, &log).await?;
    let calls = Calls::register(&fabric, &log).await?;
    let back = outage.begins + outage.lasts;
    let away = async {
        sleep_until(begun + outage.begins).await;
        fabric.kill_endpoint().await?;
        sleep_until(begun + back).await;
        fabric.start_endpoint()?;
        fabric.wait_for_workers(4).await?;
        Ok(begun.elapsed())
    };
    let (online, ended) =
        tokio::try_join!(away, calls.load(begun, outage.tasks, |number| outage.every * number))?;
    let waited = ended.iter().filter(|ended| {
        (outage.begins.saturating_sub(Duration::from_millis(100))..back).contains(&ended.submitted)
    });
    let late = waited.map(|ended| (ended.submitted + ended.latency).saturating_sub(back));
    let after = Spread::of(ended.iter().filter(|ended| ended.submitted > online).map(millis));
    let mut figures = vec![
        figure(
            "endpoint started to last waiting outcome",
            late.max().unwrap_or_default().as_secs_f64() * 1e3,
            None,
        ),
        figure("worst latency", worst(&ended), Some((42_000.0, 44_000.0))),
        figure("median latency after", after.map_or(0.0, |after| after.median), Some((1_200.0, 1_500.0))),
    ];
    figures.extend(audit(&log, None)?);
    fabric.stop().await?;
    Ok((figures, ended))
}

/// Runs a few tasks until everything is warm; the time from which the experiment counts.
async fn warm(fabric: &Fabric, log: &Path) -> Result<Instant> {
    load(fabric, log, Instant::now(), WARM_UP, |_| Duration::ZERO).await?;
    std::fs::write(log, "").context("cannot empty the log of tasks")?;
    Ok(Instant::now() + BIN)
}

async fn load(
    fabric: &Fabric,
    log: &Path,
    begun: Instant,
    tasks: u32,
    due: impl Fn(u32) -> Duration,
) -> Result<Vec<Ended>> {
    Calls::register(fabric, log).await?.load(begun, tasks, due).await
}

/// What is called, without the fabric, which may be changed meanwhile.
struct Calls {
    client: funcx_net::client::Client,
    calls: Box<dyn Fn(u32) -> Result<Call>>,
}

impl Calls {
    async fn register(fabric: &Fabric, log: &Path) -> Result<Self> {
        let (endpoint, function) = (fabric.endpoint_id, fabric.python("work", WORK).await?);
        let log = log.to_owned();
        let calls = move |number| Ok(Call::new(endpoint, function, python_arguments(&(number, &log))?));
        Ok(Self { client: fabric.client().clone(), calls: Box::new(calls) })
    }

    /// Submits so many tasks, each when it is due, whatever became of those before.
    async fn load(&self, begun: Instant, tasks: u32, due: impl Fn(u32) -> Duration) -> Result<Vec<Ended>> {
        let mut running = JoinSet::new();
        for number in 0..tasks {
            let (client, call, submitted) = (self.client.clone(), (self.calls)(number)?, due(number));
            sleep_until(begun + submitted).await;
            running.spawn(async move {
                let started = Instant::now();
                let task = call_for(&client, &call, &number).await?;
                Ok(Ended { number, submitted, latency: started.elapsed(), task })
            });
        }
        running.join_all().await.into_iter().collect()
    }
}

/// How many tasks ran twice. None was lost, or we would not have come here.
fn audit(log: &Path, begun_twice: Option<(f64, f64)>) -> Result<[Figure; 3]> {
    Ok([
        figure("tasks lost", 0.0, Some((0.0, 0.0))),
        figure("tasks begun twice", more_than_once(log, "begin ")?.len() as f64, begun_twice),
        figure("tasks run to their end twice", more_than_once(log, "end ")?.len() as f64, None),
    ])
}

/// The tasks that noted this word more than once.
fn more_than_once(log: &Path, word: &str) -> Result<Vec<u32>> {
    let mut counts = BTreeMap::new();
    for line in std::fs::read_to_string(log).context("cannot read the log of tasks")?.lines() {
        if let Some(number) = line.strip_prefix(word) {
            *counts.entry(number.parse().context("the log of tasks is damaged")?).or_insert(0) += 1;
        }
    }
    Ok(counts.into_iter().filter(|(_, count)| *count > 1).map(|(number, _)| number).collect())
}

fn figure(name: &'static str, value: f64, published: Option<(f64, f64)>) -> Figure {
    Figure { name, values: vec![value], published }
}

/// The figures of several runs as one list.
fn merged(runs: Vec<Vec<Figure>>) -> Vec<Figure> {
    runs.into_iter()
        .reduce(|mut all, run| {
            all.iter_mut().zip(run).for_each(|(all, figure)| all.values.extend(figure.values));
            all
        })
        .unwrap_or_default()
}

fn table(title: &str, figures: Vec<Figure>, paper: &str, source: &'static str) -> Chart {
    let (mut here, mut published) = (Series::ours("here"), Series::published(paper, source, []));
    for (place, figure) in figures.iter().enumerate() {
        here.add(place as f64, figure.values.iter().copied());
        published.points.extend(figure.published.map(|(min, max)| Point {
            x: place as f64,
            y: Spread { median: f64::midpoint(min, max), min, max, values: 1 },
        }));
    }
    Chart {
        title: title.to_owned(),
        x: Axis::names("", figures.iter().map(|figure| figure.name)),
        y: Axis::linear("ms"),
        form: Form::Table,
        series: vec![here, published],
    }
}

fn latencies(title: &str, ended: &[Ended]) -> Chart {
    let mut here = Series::ours("here");
    let mut points: Vec<_> = ended
        .iter()
        .map(|ended| Point { x: ended.submitted.as_secs_f64(), y: Spread::exactly(millis(ended)) })
        .collect();
    points.sort_by(|a, b| a.x.total_cmp(&b.x));
    here.points = points;
    Chart {
        title: title.to_owned(),
        x: Axis::linear("seconds at which it was submitted"),
        y: Axis::linear("ms"),
        form: Form::Points,
        series: vec![here],
    }
}

fn millis(ended: &Ended) -> f64 {
    ended.latency.as_secs_f64() * 1e3
}

fn worst(ended: &[Ended]) -> f64 {
    ended.iter().map(millis).fold(0.0, f64::max)
}

fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let values: Vec<_> = values.collect();
    values.iter().sum::<f64>() / values.len().max(1) as f64
}
