//! More workers.

use anyhow::Result;
use bytes::Bytes;
use clap::Args;

use super::{Costs, Probe, chart, growth, measure};
use crate::cli::bench::experiment::{About, Experiment, Run};
use crate::cli::bench::findings::{Findings, Series, number};
use crate::cli::bench::simulated::{Size, Work};

/// Options of the experiment.
#[derive(Debug, Clone, Default, Args)]
pub struct GrowthWorkers {
    /// Simulated workers of each row
    #[arg(long, value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..=1 << 20), value_name = "COUNT,…")]
    workers: Vec<u32>,
    /// Tasks of each row; 1,000,000 if not set, 20,000 with --quick
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=100_000_000), value_name = "COUNT")]
    tasks: Option<u64>,
}

/// As many as on a node of Theta, or whatever is needed for [`MANAGERS`] to be enough.
const PER_MANAGER: u32 = 64;
const MANAGERS: u32 = 16;

/// Few workers take long for many tasks, each of which is a round trip then.
const MOST_PER_WORKER: u64 = 20_000;

impl Experiment for GrowthWorkers {
    const ABOUT: About = About {
        name: "growth-workers",
        title: "How cost grows with the number of workers",
        reproduces: "No paper. The same tasks, which do nothing, on more workers of at most 16 managers: the cost of managers is \
                     that of another experiment.",
    };

    async fn run(&self, run: &Run) -> Result<Findings> {
        let sizes: &[u32] = match (self.workers.as_slice(), run.quick()) {
            ([], false) => &[1, 10, 100, 1_000, 10_000, 100_000, 1_000_000],
            ([], true) => &[1, 100, 10_000],
            (asked, _) => asked,
        };
        let tasks = self.tasks.unwrap_or(if run.quick() { 20_000 } else { 1_000_000 });
        let (mut costs, mut memory_of_one) = (Costs::new(), Series::ours("bytes of an idle worker"));
        for &workers in sizes {
            run.say(format!("{} workers", number(f64::from(workers))))?;
            let managers = workers.div_ceil(PER_MANAGER).min(MANAGERS);
            let size = Size { managers, workers, prefetch: 0, at_a_time: None, work: Work::None };
            let tasks = tasks.min(u64::from(workers) * MOST_PER_WORKER);
            costs.add(f64::from(workers), &measure(run, size, tasks, &Bytes::new()).await?);
            let idle = Probe { managers, workers, queued: 0 }.bytes().await?;
            memory_of_one.add(f64::from(workers), [idle / f64::from(workers)]);
        }
        let (charts, mut notes) = costs.charts("workers");
        notes.extend(growth(&memory_of_one, "workers"));
        notes.push(
            "A worker is a number here: memory of an idle one is what the fabric takes before any task, with its \
             connections, shared among the workers. A row with one worker makes one round trip for each task."
                .to_owned(),
        );
        Ok(Findings {
            setup: vec![
                super::super::simulated_setup(),
                format!(
                    "{} tasks, or {MOST_PER_WORKER} for each worker; {PER_MANAGER} workers for each manager, more if {MANAGERS} managers are not enough.",
                    number(tasks as f64)
                ),
            ],
            charts: charts
                .into_iter()
                .chain([chart("Memory of each idle worker", "workers", "bytes", [memory_of_one])])
                .collect(),
            notes,
        })
    }
}
