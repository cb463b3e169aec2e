//! More tasks.

use anyhow::Result;
use bytes::Bytes;
use clap::Args;
use funcx_core::model::limit;

use super::{Costs, Probe, chart, growth, measure};
use crate::cli::bench::experiment::{About, Experiment, Run};
use crate::cli::bench::findings::{Findings, Series, number};
use crate::cli::bench::simulated::{Size, Work};

/// Options of the experiment.
#[derive(Debug, Clone, Default, Args)]
pub struct GrowthTasks {
    /// Tasks of each row
    #[arg(long, value_delimiter = ',', value_parser = clap::value_parser!(u64).range(1..=100_000_000), value_name = "COUNT,…")]
    tasks: Vec<u64>,
}

/// What the papers of funcX used in most experiments.
const SIZE: Size = Size { managers: 4, workers: 256, prefetch: 0, at_a_time: None, work: Work::None };

/// What an endpoint's node may hold.
const QUEUE: u64 = limit::MAX_LANE_TASKS as u64;

impl Experiment for GrowthTasks {
    const ABOUT: About = About {
        name: "growth-tasks",
        title: "How cost grows with the number of tasks",
        reproduces: "No paper. 4 managers with 64 workers each, tasks that do nothing, all submitted at once.",
    };

    async fn run(&self, run: &Run) -> Result<Findings> {
        let sizes: &[u64] = match (self.tasks.as_slice(), run.quick()) {
            ([], false) => &[1_000, 10_000, 100_000, 1_000_000, 10_000_000],
            ([], true) => &[1_000, 10_000, 100_000],
            (asked, _) => asked,
        };
        let mut memory_of_one = Series::ours("bytes of a queued task");
        for &tasks in sizes.iter().filter(|tasks| **tasks <= QUEUE) {
            run.say(format!("{} tasks, queued", number(tasks as f64)))?;
            let bytes = Probe { queued: tasks, ..Probe::default() }.bytes().await?;
            memory_of_one.add(tasks as f64, [bytes / tasks as f64]);
        }
        let mut costs = Costs::new();
        for &tasks in sizes {
            run.say(format!("{} tasks", number(tasks as f64)))?;
            costs.add(tasks as f64, &measure(run, SIZE, tasks, &Bytes::new()).await?);
        }
        let (charts, mut notes) = costs.charts("tasks");
        notes.extend(growth(&memory_of_one, "tasks"));
        notes.push(format!(
            "An endpoint queues {} tasks at most (MAX_LANE_TASKS): that ends the row of memory. Of more tasks the rest is \
             submitted as there is room, as a service does.",
            number(QUEUE as f64)
        ));
        notes.push(
            "Memory is what a process of its own grew by while the tasks were queued at an endpoint without managers; what \
             the process needs in any case is in it, and shows in the small rows."
                .to_owned(),
        );
        let memory_of_one = chart("Memory of each queued task", "tasks", "bytes", [memory_of_one]);
        Ok(Findings {
            setup: vec![super::super::simulated_setup(), "4 managers, 256 workers.".to_owned()],
            charts: charts.into_iter().chain([memory_of_one]).collect(),
            notes,
        })
    }
}
