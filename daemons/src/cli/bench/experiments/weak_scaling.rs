//! More and more workers, and as many more tasks.

use std::time::Duration;

use anyhow::Result;
use clap::Args;

use super::super::experiment::{About, Experiment, Run};
use super::super::findings::{Axis, Chart, Findings, Form, Series, number};
use super::super::simulated::{Size, Work};
use super::strong_scaling::{MANAGERS, measure};

/// Options of the experiment.
#[derive(Debug, Clone, Default, Args)]
pub struct WeakScaling {
    /// Simulated workers of each row
    #[arg(long, value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..=1 << 20), value_name = "COUNT,…")]
    workers: Vec<u32>,
}

const TASKS_PER_WORKER: u64 = 10;

const SOURCE: &str = "funcX, IEEE TPDS 2022, section 7.2, from the data of its experiments: 10 requests per container on \
                      Theta and Cori";

/// Workers, and seconds for 10 tasks each: no-op and 1 s on Theta, no-op on Cori; 0 where nothing was published.
const PUBLISHED: [(u32, [f64; 3]); 10] = [
    (64, [1.3, 10.3, 1.8]),
    (256, [1.8, 10.8, 8.0]),
    (1_024, [6.8, 11.1, 8.9]),
    (2_048, [13.2, 13.3, 13.8]),
    (4_096, [25.0, 26.8, 28.0]),
    (8_192, [53.8, 51.7, 66.4]),
    (16_384, [104.6, 99.0, 114.4]),
    (32_768, [202.1, 195.3, 228.2]),
    (65_536, [400.1, 415.0, 464.4]),
    (131_072, [0.0, 0.0, 989.1]),
];

const PUBLISHED_NAMES: [&str; 3] = ["no-op, Theta", "1 s, Theta", "no-op, Cori"];

impl Experiment for WeakScaling {
    const ABOUT: About = About {
        name: "weak-scaling",
        title: "Weak scaling: ten tasks for each worker",
        reproduces: "funcX, IEEE TPDS 2022, section 7.2: 10 requests per container of a function that does nothing or \
                     sleeps 1 s; the time until all have ended. On Cori up to 131,072 containers and 1.31 million requests, \
                     which took 989 s (1,325/s).",
    };

    async fn run(&self, run: &Run) -> Result<Findings> {
        let sizes: &[u32] = match (self.workers.as_slice(), run.quick()) {
            ([], false) => &[64, 256, 1_024, 2_048, 4_096, 8_192, 16_384, 32_768, 65_536, 131_072, 1_000_000],
            ([], true) => &[64, 1_024, 8_192],
            (asked, _) => asked,
        };
        // Ten tasks of this length are what each worker does, so a row takes ten times as long whatever its size.
        let sleep = Duration::from_millis(if run.quick() { 100 } else { 1000 });
        let works = [("no-op", Work::None), (if run.quick() { "100 ms" } else { "1 s" }, Work::Sleep(sleep))];
        let mut series = works.map(|(name, _)| Series::ours(format!("{name}, here")));
        for &workers in sizes {
            for ((name, work), series) in works.into_iter().zip(&mut series) {
                run.say(format!("{} workers, {name}", number(f64::from(workers))))?;
                let tasks = u64::from(workers) * TASKS_PER_WORKER;
                let took = measure(run, Size::of_workers(workers, work), tasks).await?;
                series.add(f64::from(workers), took.iter().map(|took| took.all.as_secs_f64()));
            }
        }
        let published = (0..3).map(|column| {
            let rows = PUBLISHED.iter().map(|(workers, seconds)| (f64::from(*workers), seconds[column]));
            Series::published(PUBLISHED_NAMES[column], SOURCE, rows.filter(|(_, seconds)| *seconds > 0.0))
        });
        Ok(Findings {
            setup: vec![
                super::simulated_setup(),
                MANAGERS.to_owned(),
                format!("{TASKS_PER_WORKER} tasks for each worker."),
            ],
            charts: vec![Chart {
                title: "Seconds until ten tasks for each worker have ended".to_owned(),
                x: Axis::logarithmic("workers"),
                y: Axis::logarithmic("seconds"),
                form: Form::Lines,
                series: series.into_iter().chain(published).collect(),
            }],
            notes: Vec::new(),
        })
    }
}
