//! Managers that take one task at a time, or many.

use anyhow::Result;
use clap::Args;

use super::super::experiment::{About, Experiment, Run};
use super::super::findings::{Axis, Chart, Findings, Form, Series};
use super::super::simulated::{Size, Work};
use super::strong_scaling::measure;

/// Options of the experiment.
#[derive(Debug, Clone, Default, Args)]
pub struct InternalBatching {
    /// Tasks of each row; 10,000 if not set
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=100_000_000), value_name = "COUNT")]
    tasks: Option<u64>,
}

const SOURCE: &str =
    "funcX, IEEE TPDS 2022, section 7.5: 10,000 requests, 4 nodes of Theta with 64 containers each";

const MANAGERS: u32 = 4;
const WORKERS: u32 = 4 * 64;

impl Experiment for InternalBatching {
    const ABOUT: About = About {
        name: "internal-batching",
        title: "Internal batching: one task at a time for a manager, or as many as it has idle workers",
        reproduces: "funcX, IEEE TPDS 2022, section 7.5: 10,000 concurrent requests of a function that does nothing, on 4 \
                     nodes of Theta with 64 containers each; managers request one task at a time (118 s), or as many as \
                     they have idle containers (6.7 s).",
    };

    async fn run(&self, run: &Run) -> Result<Findings> {
        let tasks = self.tasks.unwrap_or(10_000);
        let mut here = Series::ours("here");
        for (place, at_a_time) in [(0.0, Some(1)), (1.0, None)] {
            run.say(if at_a_time.is_some() { "one at a time" } else { "as many as there are idle workers" })?;
            let size =
                Size { managers: MANAGERS, workers: WORKERS, prefetch: 0, at_a_time, work: Work::None };
            here.add(place, measure(run, size, tasks).await?.iter().map(|took| took.all.as_secs_f64()));
        }
        let published =
            (tasks == 10_000).then(|| Series::published("Theta", SOURCE, [(0.0, 118.0), (1.0, 6.7)]));
        Ok(Findings {
            setup: vec![super::simulated_setup(), format!("{tasks} tasks, {MANAGERS} managers, {WORKERS} workers.")],
            charts: vec![Chart {
                title: "Seconds until all tasks have ended".to_owned(),
                x: Axis::names("a manager takes", ["one task at a time", "as many as it has idle workers"]),
                y: Axis::logarithmic("seconds"),
                form: Form::Bars,
                series: std::iter::once(here).chain(published).collect(),
            }],
            notes: vec![
                "What batching saves is round trips between manager and endpoint. Here one takes microseconds on loopback; \
                 in the paper it took 47 ms (118 s for 2,500 tasks of each manager)."
                    .to_owned(),
            ],
        })
    }
}
