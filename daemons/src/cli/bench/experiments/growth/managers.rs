//! More managers.

use anyhow::Result;
use bytes::Bytes;
use clap::Args;

use super::{Costs, Probe, chart, growth, measure};
use crate::cli::bench::experiment::{About, Experiment, Run};
use crate::cli::bench::findings::{Findings, Series, number};
use crate::cli::bench::simulated::{Size, Work};

/// Options of the experiment.
#[derive(Debug, Clone, Default, Args)]
pub struct GrowthManagers {
    /// Managers of each row
    #[arg(long, value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..=8192), value_name = "COUNT,…")]
    managers: Vec<u32>,
    /// Tasks of each row; 500,000 if not set, 20,000 with --quick
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=100_000_000), value_name = "COUNT")]
    tasks: Option<u64>,
}

const PER_MANAGER: u32 = 64;

impl Experiment for GrowthManagers {
    const ABOUT: About = About {
        name: "growth-managers",
        title: "How cost grows with the number of managers",
        reproduces: "No paper. The same tasks, which do nothing, on more managers with 64 workers each, as many as a node of \
                     Theta had.",
    };

    async fn run(&self, run: &Run) -> Result<Findings> {
        let sizes: &[u32] = match (self.managers.as_slice(), run.quick()) {
            ([], false) => &[1, 4, 16, 64, 256, 1_024, 4_096],
            ([], true) => &[1, 16, 128],
            (asked, _) => asked,
        };
        let tasks = self.tasks.unwrap_or(if run.quick() { 20_000 } else { 500_000 });
        let (mut costs, mut memory_of_one) =
            (Costs::new(), Series::ours("KiB of a manager and its connection"));
        for &managers in sizes {
            run.say(format!("{} managers", number(f64::from(managers))))?;
            let workers = managers * PER_MANAGER;
            let size = Size { managers, workers, prefetch: 0, at_a_time: None, work: Work::None };
            costs.add(f64::from(managers), &measure(run, size, tasks, &Bytes::new()).await?);
            let idle = Probe { managers, workers, queued: 0 }.bytes().await?;
            memory_of_one.add(f64::from(managers), [idle / 1024.0 / f64::from(managers)]);
        }
        let (charts, mut notes) = costs.charts("managers");
        notes.extend(growth(&memory_of_one, "managers"));
        notes.push(
            "What grows with managers is the number of frames: rooms of many managers become free a few at a time, and are \
             filled at once."
                .to_owned(),
        );
        notes.push(
            "Endpoint and managers share the processors of this machine and one process, so what managers cost is in the \
             figures, too. Memory is that of both ends of a connection and the manager's node."
                .to_owned(),
        );
        Ok(Findings {
            setup: vec![
                super::super::simulated_setup(),
                format!("{} tasks; {PER_MANAGER} workers for each manager.", number(tasks as f64)),
            ],
            charts: charts
                .into_iter()
                .chain([chart("Memory of each manager", "managers", "KiB", [memory_of_one])])
                .collect(),
            notes,
        })
    }
}
