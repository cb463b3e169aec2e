//! Managers that have tasks at hand when a worker becomes idle.

use std::time::Duration;

use anyhow::Result;
use clap::Args;

use super::super::experiment::{About, Experiment, Run};
use super::super::findings::{Axis, Chart, Findings, Form, Series};
use super::super::simulated::{Size, Work};
use super::strong_scaling::{ideal, measure};

/// Options of the experiment.
#[derive(Debug, Clone, Default, Args)]
pub struct Prefetch {
    /// Tasks that a manager takes besides those that its workers run, of each row
    #[arg(long, value_delimiter = ',', value_parser = clap::value_parser!(u32).range(0..=65_536), value_name = "COUNT,…")]
    prefetch: Vec<u32>,
    /// Tasks of each row; 10,000 if not set
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=100_000_000), value_name = "COUNT")]
    tasks: Option<u64>,
}

const SOURCE: &str = "funcX, arXiv 1908.04907, section 6.4.5 and figure 9 (read off the plot): 10,000 requests, 4 nodes of \
                      Theta with 64 containers each";

const MANAGERS: u32 = 4;
const WORKERS: u32 = 4 * 64;

/// Milliseconds of each task.
const MILLIS: [u64; 4] = [0, 1, 10, 100];

/// Prefetch, and seconds for tasks of 0, 1, 10 and 100 ms; 0 where the plot cannot be read.
const PUBLISHED: [(u32, [f64; 4]); 6] = [
    (0, [120.0, 120.0, 145.0, 650.0]),
    (16, [6.8, 6.8, 6.8, 19.0]),
    (32, [0.0, 0.0, 0.0, 9.6]),
    (64, [6.5; 4]),
    (128, [6.5; 4]),
    (256, [6.5; 4]),
];

impl Experiment for Prefetch {
    const ABOUT: About = About {
        name: "prefetch",
        title: "Prefetch: tasks that wait at the manager",
        reproduces: "funcX, arXiv 1908.04907, section 6.4.5 (in IEEE TPDS 2022 as figure 9): 10,000 concurrent requests of \
                     functions of 0, 1, 10 and 100 ms on 4 nodes of Theta with 64 containers each; prefetch of 0 to 256 for \
                     each node. The time falls until the prefetch is about the number of containers of a node.",
    };

    async fn run(&self, run: &Run) -> Result<Findings> {
        let asked: &[u32] = match (self.prefetch.as_slice(), run.quick()) {
            ([], false) => &[0, 16, 32, 64, 128, 256],
            ([], true) => &[0, 64],
            (asked, _) => asked,
        };
        let tasks = self.tasks.unwrap_or(if run.quick() { 2_000 } else { 10_000 });
        let mut series = Vec::new();
        let mut floors = Vec::new();
        for millis in MILLIS {
            let work = if millis == 0 { Work::None } else { Work::Sleep(Duration::from_millis(millis)) };
            let mut here = Series::ours(format!("{millis} ms, here"));
            for &prefetch in asked {
                run.say(format!("{millis} ms, prefetch {prefetch}"))?;
                let size = Size { managers: MANAGERS, workers: WORKERS, prefetch, at_a_time: None, work };
                here.add(
                    f64::from(prefetch),
                    measure(run, size, tasks).await?.iter().map(|took| took.all.as_secs_f64()),
                );
            }
            floors.push(format!("{:.3} s for {millis} ms", ideal(tasks, WORKERS, work).as_secs_f64()));
            series.push(here);
        }
        if tasks == 10_000 {
            series.extend(MILLIS.into_iter().enumerate().map(|(column, millis)| {
                let rows =
                    PUBLISHED.iter().map(|(prefetch, seconds)| (f64::from(*prefetch), seconds[column]));
                Series::published(
                    format!("{millis} ms, Theta"),
                    SOURCE,
                    rows.filter(|(_, seconds)| *seconds > 0.0),
                )
            }));
        }
        Ok(Findings {
            setup: vec![super::simulated_setup(), format!("{tasks} tasks, {MANAGERS} managers, {WORKERS} workers.")],
            charts: vec![Chart {
                title: "Seconds until all tasks have ended".to_owned(),
                x: Axis::linear("prefetch of each manager"),
                y: Axis::logarithmic("seconds"),
                form: Form::Lines,
                series,
            }],
            notes: vec![
                format!("Sleeping alone takes {}.", floors.join(", ")),
                "Without prefetch the managers of the paper ask for one task at a time; ours for as many as they have idle \
                 workers, which is their internal batching. So the row of 0 is not the same thing."
                    .to_owned(),
            ],
        })
    }
}
