//! Larger arguments and results.

use anyhow::Result;
use bytes::Bytes;
use clap::Args;
use funcx_core::model::limit;

use super::{Costs, chart, measure};
use crate::cli::bench::experiment::{About, Experiment, Run};
use crate::cli::bench::findings::{Findings, Series, number};
use crate::cli::bench::simulated::{Size, Work};
use crate::config::format_size;

/// Options of the experiment.
#[derive(Debug, Clone, Default, Args)]
pub struct GrowthPayload {
    /// Bytes of argument and result of each row
    #[arg(long, value_delimiter = ',', value_parser = clap::value_parser!(u64).range(0..=limit::MAX_PAYLOAD_BYTES as u64), value_name = "BYTES,…")]
    bytes: Vec<u64>,
}

const SIZE: Size = Size { managers: 4, workers: 64, prefetch: 0, at_a_time: None, work: Work::Echo };

/// Bytes of all arguments of a row, about.
const ROW_BYTES: u64 = 2 << 30;
const QUICK_ROW_BYTES: u64 = 128 << 20;

/// Tasks of a row.
const MOST_TASKS: u64 = 200_000;
const FEWEST_TASKS: u64 = 8;

impl Experiment for GrowthPayload {
    const ABOUT: About = About {
        name: "growth-payload",
        title: "How cost grows with the size of arguments and results",
        reproduces: "No paper (the service of funcX takes 10 MB at most). Tasks that return their argument, on 4 managers with \
                     16 workers each.",
    };

    async fn run(&self, run: &Run) -> Result<Findings> {
        let sizes: &[u64] = match (self.bytes.as_slice(), run.quick()) {
            ([], false) => {
                &[0, 1 << 10, 4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20, 4 << 20, 16 << 20, 64 << 20]
            }
            ([], true) => &[0, 4 << 10, 1 << 20, 16 << 20],
            (asked, _) => asked,
        };
        let row = if run.quick() { QUICK_ROW_BYTES } else { ROW_BYTES };
        let (mut costs, mut stream) = (Costs::new(), Series::ours("MiB/s, there and back"));
        let mut per_byte = Series::ours("ns of processor per KiB");
        for &bytes in sizes {
            let tasks = (row / bytes.max(1)).clamp(FEWEST_TASKS, MOST_TASKS);
            run.say(format!("{}, {} tasks", format_size(bytes), number(tasks as f64)))?;
            let argument = Bytes::from(vec![0x5a; bytes as usize]);
            let cost = measure(run, SIZE, tasks, &argument).await?;
            // A place on a logarithmic scale is needed for what is empty.
            let place = bytes.max(1) as f64;
            costs.add(place, &cost);
            if bytes > 0 {
                let moved = 2.0 * (tasks * bytes) as f64;
                stream
                    .add(place, cost.iter().map(|cost| moved / f64::from(1 << 20) / cost.took.as_secs_f64()));
                per_byte.add(place, cost.iter().map(|cost| cost.cpu.as_secs_f64() * 1e9 / (moved / 1024.0)));
            }
        }
        let (charts, _) = costs.charts("bytes");
        Ok(Findings {
            setup: vec![
                super::super::simulated_setup(),
                format!(
                    "As many tasks as make {} of arguments, but from {FEWEST_TASKS} to {}.",
                    format_size(row),
                    number(MOST_TASKS as f64)
                ),
            ],
            charts: charts
                .into_iter()
                .chain([
                    chart("Bytes per second", "bytes", "MiB/s", [stream]),
                    chart("Processor time of each KiB", "bytes", "ns", [per_byte]),
                ])
                .collect(),
            notes: vec![
                format!(
                    "A payload may have {} (MAX_PAYLOAD_BYTES): that ends the rows.",
                    format_size(limit::MAX_PAYLOAD_BYTES as u64)
                ),
                format!(
                    "An endpoint holds {} of arguments at most (MAX_LANE_BYTES); more tasks are submitted as there is room.",
                    format_size(limit::MAX_LANE_BYTES as u64)
                ),
            ],
        })
    }
}
