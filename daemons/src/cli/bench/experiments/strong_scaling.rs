//! The same tasks on more and more workers.

use std::time::Duration;

use anyhow::Result;
use bytes::Bytes;
use clap::Args;

use super::super::experiment::{About, Experiment, Run};
use super::super::findings::{Axis, Chart, Findings, Form, Series, number};
use super::super::simulated::{Fabric, Size, Work};

/// Options of the experiment.
#[derive(Debug, Clone, Default, Args)]
pub struct StrongScaling {
    /// Simulated workers of each row
    #[arg(long, value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..=1 << 20), value_name = "COUNT,…")]
    workers: Vec<u32>,
    /// Tasks of each row; 100,000 if not set
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=100_000_000), value_name = "COUNT")]
    tasks: Option<u64>,
}

const SOURCE: &str = "funcX, IEEE TPDS 2022, section 7.2, from the data of its experiments: 100,000 requests on Theta \
                      (64 containers per node) and Cori (256 per node)";

/// Workers, and seconds for 100,000 tasks: no-op, 100 ms and 1 s on Theta, no-op on Cori; 0 where nothing was published.
const PUBLISHED: [(u32, [f64; 4]); 11] = [
    (64, [183.0, 185.5, 1587.5, 342.7]),
    (128, [88.9, 93.8, 801.3, 204.2]),
    (256, [63.0, 62.5, 411.9, 176.1]),
    (512, [68.5, 61.2, 216.9, 86.3]),
    (1_024, [62.9, 60.3, 99.2, 68.2]),
    (2_048, [63.8, 61.1, 67.5, 68.8]),
    (4_096, [61.8, 61.6, 62.7, 0.0]),
    (8_192, [63.2, 63.8, 67.0, 69.5]),
    (16_384, [63.1, 61.0, 64.8, 69.4]),
    (32_768, [62.0, 62.5, 58.9, 70.7]),
    (65_536, [65.7, 62.0, 64.6, 107.0]),
];

const PUBLISHED_NAMES: [&str; 4] = ["no-op, Theta", "100 ms, Theta", "1 s, Theta", "no-op, Cori"];

/// How `Size::of_workers` gives workers to managers.
pub(super) const MANAGERS: &str =
    "64 workers for each manager as on Theta, 256 at 131,072 as on Cori, 1,000 beyond.";

const WORKS: [(&str, Work); 3] = [
    ("no-op", Work::None),
    ("100 ms", Work::Sleep(Duration::from_millis(100))),
    ("1 s", Work::Sleep(Duration::from_secs(1))),
];

impl Experiment for StrongScaling {
    const ABOUT: About = About {
        name: "strong-scaling",
        title: "Strong scaling: the same tasks on more workers",
        reproduces: "funcX, IEEE TPDS 2022, section 7.2: 100,000 concurrent requests of a function that does nothing, \
                     sleeps 100 ms or sleeps 1 s, from the agent to containers that are warm and connected; the time \
                     until all have ended. Its agent reached at most 1,694 requests/s on Theta and 1,466 on Cori.",
    };

    async fn run(&self, run: &Run) -> Result<Findings> {
        let sizes: &[u32] = match (self.workers.as_slice(), run.quick()) {
            ([], false) => {
                &[64, 128, 256, 512, 1_024, 2_048, 4_096, 8_192, 16_384, 32_768, 65_536, 131_072, 1_000_000]
            }
            ([], true) => &[64, 1_024, 8_192],
            (asked, _) => asked,
        };
        let tasks = self.tasks.unwrap_or(if run.quick() { 10_000 } else { 100_000 });
        let mut times = WORKS.map(|(name, _)| Series::ours(format!("{name}, here")));
        let mut rates = Series::ours("no-op, here");
        let mut agent = Series::ours("no-op, here");
        let mut left_out = Vec::new();
        for &workers in sizes {
            for ((name, work), times) in WORKS.into_iter().zip(&mut times) {
                if ideal(tasks, workers, work) > run.longest() {
                    left_out.push(format!("{name} on {} workers", number(f64::from(workers))));
                    continue;
                }
                run.say(format!("{} workers, {name}", number(f64::from(workers))))?;
                let took = measure(run, Size::of_workers(workers, work), tasks).await?;
                times.add(f64::from(workers), took.iter().map(|took| took.all.as_secs_f64()));
                if work == Work::None {
                    rates.add(
                        f64::from(workers),
                        took.iter().map(|took| tasks as f64 / took.all.as_secs_f64()),
                    );
                    let per_task = |took: &Took| took.agent.as_secs_f64() * 1e6 / tasks as f64;
                    agent.add(f64::from(workers), took.iter().map(per_task));
                }
            }
        }
        let published = |column: usize, of: &dyn Fn(f64) -> f64| {
            let rows = PUBLISHED.iter().map(|(workers, seconds)| (f64::from(*workers), seconds[column]));
            let points: Vec<_> =
                rows.filter(|(_, seconds)| *seconds > 0.0).map(|(x, y)| (x, of(y))).collect();
            Series::published(PUBLISHED_NAMES[column], SOURCE, points)
        };
        // Other numbers of tasks take other times; the rates may be compared all the same.
        let comparable = if tasks == 100_000 { 0..4 } else { 0..0 };
        let times = times.into_iter().chain(comparable.map(|column| published(column, &|seconds| seconds)));
        let rates = [rates, published(0, &|seconds| 1e5 / seconds), published(3, &|seconds| 1e5 / seconds)];
        let mut notes = vec![
            "Tasks that do nothing depend on the number of managers more than on that of workers; `funcx bench \
             growth-managers` varies that alone."
                .to_owned(),
            "The managers are simulated beside the agent and take most of this machine's processors, so the rate is that of the \
             whole fabric on it. What the agent alone could do is told by the time that its thread needs for a task."
                .to_owned(),
        ];
        if !left_out.is_empty() {
            notes.push(format!(
                "Left out because sleeping alone would take longer than {} s (--longest): {}.",
                run.longest().as_secs(),
                left_out.join(", ")
            ));
        }
        Ok(Findings {
            setup: vec![
                super::simulated_setup(),
                MANAGERS.to_owned(),
                format!("{} tasks in each row.", number(tasks as f64)),
            ],
            charts: vec![
                Chart {
                    title: format!("Seconds until {} tasks have ended", number(tasks as f64)),
                    x: Axis::logarithmic("workers"),
                    y: Axis::logarithmic("seconds"),
                    form: Form::Lines,
                    series: times.collect(),
                },
                Chart {
                    title: "Tasks per second that do nothing".to_owned(),
                    x: Axis::logarithmic("workers"),
                    y: Axis::logarithmic("tasks/s"),
                    form: Form::Lines,
                    series: rates.into(),
                },
                Chart {
                    title: "Processor time of the agent for each task that does nothing".to_owned(),
                    x: Axis::logarithmic("workers"),
                    y: Axis::logarithmic("µs"),
                    form: Form::Lines,
                    series: vec![agent],
                },
            ],
            notes,
        })
    }
}

/// The time that the tasks alone would take.
pub(super) fn ideal(tasks: u64, workers: u32, work: Work) -> Duration {
    match work {
        Work::None | Work::Echo => Duration::ZERO,
        Work::Sleep(each) => {
            each.saturating_mul(tasks.div_ceil(u64::from(workers)).try_into().unwrap_or(u32::MAX))
        }
    }
}

/// How long tasks took.
pub(super) struct Took {
    /// From the first submission to the last outcome.
    pub(super) all: Duration,
    /// On a processor, in the thread of the agent.
    pub(super) agent: Duration,
}

/// Some runs on one fabric, whose connections and sessions are warm.
pub(super) async fn measure(run: &Run, size: Size, tasks: u64) -> Result<Vec<Took>> {
    let fabric = Fabric::start(size).await?;
    let mut runs = Vec::new();
    for _ in 0..run.runs() {
        let before = fabric.agent_time().await?;
        let all = fabric.run(tasks, &Bytes::new()).await?;
        runs.push(Took { all, agent: fabric.agent_time().await?.saturating_sub(before) });
    }
    fabric.stop().await?;
    Ok(runs)
}
