//! Calls that repeat earlier ones.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use clap::Args;
use funcx_core::model::{FunctionId, OutcomeKind};
use funcx_net::client::{Call, TaskView};

use super::super::experiment::{About, Experiment, Run};
use super::super::findings::{Axis, Chart, Findings, Form, Series, number};
use super::super::real::{self, Engine, python_arguments};
use super::super::simulated::{self, Size, Work};
use super::strong_scaling::ideal;

/// Options of the experiment.
#[derive(Debug, Clone, Default, Args)]
pub struct Memoization {
    /// Calls of each row; 100,000 if not set, 5,000 with --quick
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=10_000_000), value_name = "COUNT")]
    calls: Option<u32>,
}

const SOURCE: &str = "funcX, arXiv 1908.04907, section 6.4.1: 100,000 requests of a function that sleeps 1 s";

/// Percent of calls that repeat an earlier one, and seconds.
const PUBLISHED: [(f64, f64); 5] = [(0.0, 403.8), (25.0, 318.5), (50.0, 233.6), (75.0, 147.9), (100.0, 63.2)];

const PERCENTS: [u32; 5] = [0, 25, 50, 75, 100];

/// Different calls of which the values are known before.
///
/// Prime, so that each share of the calls repeats all of them.
const KNOWN: usize = 997;

const WORKERS: u32 = 2;

/// Doubles its argument as that of the paper, and says which run in which process this was.
const DOUBLE: &str = "import itertools, os\n\n\
                      def double(x, runs=itertools.count(1)):\n    return x * 2, os.getpid(), next(runs)\n";

/// What [`DOUBLE`] returns.
type Doubled = (u64, u32, u64);

const SIMULATED_WORKERS: u32 = 256;

const SIMULATED: Work = Work::Sleep(Duration::from_secs(1));

/// Memory of the simulated endpoint for values. Those that are repeated stay in it, whatever else comes.
const SIMULATED_BYTES: usize = 64 << 20;

impl Experiment for Memoization {
    const ABOUT: About = About {
        name: "memoization",
        title: "Memoization: calls that repeat earlier ones",
        reproduces: "funcX, arXiv 1908.04907, sections 5.5 and 6.4.1: 100,000 concurrent requests of a function that sleeps \
                     1 s and returns the doubled input, of which a share repeats a pair of function and input whose value \
                     is known. 63.2 s when all do, which is what its service takes to accept them.",
    };

    async fn run(&self, run: &Run) -> Result<Findings> {
        let calls = self.calls.unwrap_or(if run.quick() { 5_000 } else { 100_000 });
        let mut real = Series::ours("no-op in Python, 2 workers, through the service");
        let mut rates = Series::ours("here");
        let fabric = real::Fabric::start(run, Engine { workers: WORKERS, ..Engine::default() }).await?;
        for percent in PERCENTS {
            run.say(format!("{} calls, {percent} % known", number(f64::from(calls))))?;
            let mut times = Vec::new();
            for repetition in 0..run.runs() {
                times.push(measure(&fabric, calls, percent, repetition).await?.as_secs_f64());
            }
            real.add(f64::from(percent), times.iter().copied());
            rates.add(f64::from(percent), times.iter().map(|seconds| f64::from(calls) / seconds));
        }
        fabric.stop().await?;
        let (simulated, left_out) = simulate(run, calls).await?;
        let mut series = vec![real, simulated];
        if f64::from(calls) == 1e5 {
            series.push(Series::published("1 s, about 256 workers, the paper", SOURCE, PUBLISHED));
        }
        let published = PUBLISHED.map(|(percent, seconds)| (percent, 1e5 / seconds));
        let mut notes = vec![
            "The rows of the paper are to be compared with those of simulated workers, whose tasks take 1 s too; Python \
             workers that would sleep 1 s for 100,000 calls do not fit on one machine. The number of its workers is what \
             403.8 s imply."
                .to_owned(),
            "Each value was checked, that known calls did not run, and that all others ran once: a value names its run."
                .to_owned(),
        ];
        if !left_out.is_empty() {
            notes.push(format!(
                "Left out of the simulated rows because sleeping alone would take longer than {} s (--longest): {} % known.",
                run.longest().as_secs(),
                left_out.join(", ")
            ));
        }
        let axis = || Axis::linear("% of calls whose value is known");
        Ok(Findings {
            setup: vec![
                format!(
                    "Through the service: service, endpoint, manager and {WORKERS} Python workers are processes of this \
                     machine; the store is durable. The function returns the doubled argument at once. Calls come over HTTP \
                     from one client, which puts many of them into one request, and are memoized each by its own option; the time is \
                     from the first call until the client has the last outcome."
                ),
                format!(
                    "Simulated: {SIMULATED_WORKERS} workers of {} managers. {} Values are remembered at the endpoint.",
                    size().managers,
                    super::simulated_setup()
                ),
                format!(
                    "{} calls in each row; those that are known repeat {} that were made before.",
                    number(f64::from(calls)),
                    number(KNOWN as f64)
                ),
            ],
            charts: vec![
                Chart {
                    title: format!("Seconds until {} calls have ended", number(f64::from(calls))),
                    x: axis(),
                    y: Axis::logarithmic("seconds"),
                    form: Form::Lines,
                    series,
                },
                Chart {
                    title: "Calls per second through the service".to_owned(),
                    x: axis(),
                    y: Axis::logarithmic("calls/s"),
                    form: Form::Lines,
                    series: vec![rates, Series::published("calls of 1 s, the paper", SOURCE, published)],
                },
            ],
            notes,
        })
    }
}

/// Whether the value of a call is known: evenly spread, so many of each hundred.
fn is_known(call: usize, percent: u32) -> bool {
    let known = |calls: usize| calls * percent as usize / 100;
    known(call + 1) > known(call)
}

/// Time of calls through the service, of a function that is new to it.
async fn measure(fabric: &real::Fabric, calls: u32, percent: u32, run: usize) -> Result<Duration> {
    // Another source is another function, of which no value is known.
    let source = format!("# {percent} %, run {run}\n{DOUBLE}");
    let function = fabric.python("double", &source).await?;
    let known: Vec<u64> = (0..KNOWN as u64).collect();
    let (_, first) = call_all(fabric, function, &known).await?;
    let arguments: Vec<u64> = (0..calls as usize)
        .map(|call| if is_known(call, percent) { call % KNOWN } else { KNOWN + call } as u64)
        .collect();
    let (took, tasks) = call_all(fabric, function, &arguments).await?;
    let unknown = arguments.iter().filter(|argument| **argument >= KNOWN as u64).count();
    let memoized = tasks.iter().filter(|task| is_memoized(task)).count();
    ensure!(
        memoized + unknown == arguments.len(),
        "{memoized} of {} calls did not run; {unknown} were not known",
        arguments.len()
    );
    check(first.iter().zip(&known).chain(tasks.iter().zip(&arguments)))?;
    Ok(took)
}

/// Calls the function with each argument, without waiting for one before the next. The time, and the tasks in the order of
/// the arguments.
async fn call_all(
    fabric: &real::Fabric,
    function: FunctionId,
    arguments: &[u64],
) -> Result<(Duration, Vec<TaskView>)> {
    let call = |argument| {
        let call = Call::new(fabric.endpoint_id, function, python_arguments(&[argument])?);
        Ok(call.with_memoize(true))
    };
    let calls: Vec<Call> = arguments.iter().map(call).collect::<Result<_>>()?;
    let began = Instant::now();
    let mut handles = Vec::with_capacity(calls.len());
    for call in calls {
        handles.push(fabric.client().submit(call).await?);
    }
    let mut tasks = Vec::with_capacity(handles.len());
    for handle in handles {
        tasks.push(handle.await?);
    }
    Ok((began.elapsed(), tasks))
}

fn is_memoized(task: &TaskView) -> bool {
    task.worker.as_ref().is_some_and(|worker| worker.get().contains(r#""memoized":true"#))
}

/// Every call has the right value, equal ones that of the same run, and there were no other runs.
fn check<'a>(calls: impl Iterator<Item = (&'a TaskView, &'a u64)>) -> Result<()> {
    let (mut values, mut runs) = (BTreeMap::<u64, Doubled>::new(), BTreeSet::new());
    for (task, argument) in calls {
        ensure!(task.outcome == Some(OutcomeKind::Returned), "a call that should have returned: {task:?}");
        let value: Doubled = task.value()?;
        let first = *values.entry(*argument).or_insert(value);
        ensure!(value.0 == argument * 2, "a call with {argument} returned {value:?}");
        ensure!(value == first, "a call with {argument} ran again: {value:?} after {first:?}");
        runs.insert((value.1, value.2));
    }
    // Runs of a process are numbered from 1, so the last one's number is how many there were.
    let last: BTreeMap<u32, u64> = runs.iter().copied().collect();
    let (told, all) = (runs.len() as u64, last.values().sum::<u64>());
    ensure!(
        told == values.len() as u64 && told == all,
        "{} different calls, {told} runs with a value, {all} runs",
        values.len()
    );
    Ok(())
}

fn size() -> Size {
    Size { managers: 4, ..Size::of_workers(SIMULATED_WORKERS, SIMULATED) }
}

/// Times of calls of 1 s on simulated workers, and the shares that would take too long.
async fn simulate(run: &Run, calls: u32) -> Result<(Series, Vec<String>)> {
    let mut here = Series::ours("1 s, 256 simulated workers");
    let mut left_out = Vec::new();
    for percent in PERCENTS {
        let unknown = (0..calls as usize).filter(|call| !is_known(*call, percent)).count();
        if ideal(unknown as u64, SIMULATED_WORKERS, SIMULATED) > run.longest() {
            left_out.push(percent.to_string());
            continue;
        }
        run.say(format!("{} simulated calls, {percent} % known", number(f64::from(calls))))?;
        let mut fabric = simulated::Fabric::start(size()).await?;
        fabric.memoize(SIMULATED_BYTES).await?;
        let (_, known) = fabric.run_memoized(vec![None; KNOWN]).await?;
        let mut times = Vec::new();
        for _ in 0..run.runs() {
            let repeat = |call| is_known(call, percent).then(|| known[call % KNOWN]);
            let (took, _) = fabric.run_memoized((0..calls as usize).map(repeat).collect()).await?;
            times.push(took.as_secs_f64());
        }
        here.add(f64::from(percent), times);
        fabric.stop().await?;
    }
    Ok((here, left_out))
}
