//! How cost grows with what: one file for each thing that grows.

mod clients;
mod managers;
mod payload;
mod probe;
mod tasks;
mod workers;

pub(in super::super) use clients::GrowthClients;
pub(in super::super) use managers::GrowthManagers;
pub(in super::super) use payload::GrowthPayload;
pub(in super::super) use probe::Probe;
pub(in super::super) use tasks::GrowthTasks;
pub(in super::super) use workers::GrowthWorkers;

use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;

use super::super::experiment::Run;
use super::super::findings::{Axis, Chart, Form, Series, number};
use super::super::simulated::{Fabric, Size};

/// A growth by more than this factor per task is more than noise.
const NOISE: f64 = 1.5;

/// What tasks cost as something grows: each a series over the same places.
struct Costs {
    rate: Series,
    cpu: Series,
    agent: Series,
}

/// What one run of tasks cost.
struct Cost {
    tasks: u64,
    took: Duration,
    /// On a processor, of all threads and of that of the agent.
    cpu: Duration,
    agent: Duration,
}

impl Costs {
    fn new() -> Self {
        Self {
            rate: Series::ours("tasks/s"),
            cpu: Series::ours("agent and managers"),
            agent: Series::ours("agent"),
        }
    }

    fn add(&mut self, x: f64, costs: &[Cost]) {
        self.rate.add(x, costs.iter().map(|cost| cost.tasks as f64 / cost.took.as_secs_f64()));
        let add = |series: &mut Series, time: fn(&Cost) -> Duration| {
            series.add(x, costs.iter().map(|cost| time(cost).as_secs_f64() * 1e6 / cost.tasks as f64));
        };
        add(&mut self.cpu, |cost| cost.cpu);
        add(&mut self.agent, |cost| cost.agent);
    }

    /// A chart of each, and what stands out.
    fn charts(self, x: &str) -> ([Chart; 2], Vec<String>) {
        let mut notes = growth(&self.cpu, x);
        notes.extend(growth(&self.agent, x));
        let charts = [
            chart("Tasks per second", x, "tasks/s", [self.rate]),
            chart("Processor time of each task", x, "µs", [self.cpu, self.agent]),
        ];
        (charts, notes)
    }
}

/// A chart over something that grows by factors.
fn chart(title: &str, x: &str, y: &str, series: impl IntoIterator<Item = Series>) -> Chart {
    Chart {
        title: title.to_owned(),
        x: Axis::logarithmic(x),
        y: Axis::logarithmic(y),
        form: Form::Lines,
        series: series.into_iter().collect(),
    }
}

/// Where a cost of one grows with their number, so that the cost of all grows faster than linearly.
fn growth(series: &Series, x: &str) -> Vec<String> {
    let positive = series.points.iter().filter(|point| point.y.median > 0.0);
    let Some(least) = positive.min_by(|a, b| a.y.median.total_cmp(&b.y.median)) else {
        return Vec::new();
    };
    let after = series.points.iter().filter(|point| point.x > least.x);
    let most = after.max_by(|a, b| a.y.median.total_cmp(&b.y.median));
    let Some(most) = most.filter(|most| most.y.min > NOISE * least.y.max) else { return Vec::new() };
    let exponent = 1.0 + (most.y.median / least.y.median).ln() / (most.x / least.x).ln();
    vec![format!(
        "{}: least at {} {x} ({}), and {} at {}. The whole grows there as the power {exponent:.2}.",
        series.name,
        number(least.x),
        number(least.y.median),
        number(most.y.median),
        number(most.x),
    )]
}

/// Runs tasks several times on a new fabric.
async fn measure(run: &Run, size: Size, tasks: u64, argument: &Bytes) -> Result<Vec<Cost>> {
    let fabric = Fabric::start(size).await?;
    let mut costs = Vec::new();
    for _ in 0..run.runs() {
        let (cpu, agent) = (processor_time()?, fabric.agent_time().await?);
        let took = fabric.run(tasks, argument).await?;
        let (cpu, agent) =
            (processor_time()?.saturating_sub(cpu), fabric.agent_time().await?.saturating_sub(agent));
        costs.push(Cost { tasks, took, cpu, agent });
    }
    fabric.stop().await?;
    Ok(costs)
}

/// Time that all threads of this process have used.
fn processor_time() -> Result<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_SELF).context("cannot tell the processor time")?;
    let micros = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
    Ok(Duration::from_micros(micros.unsigned_abs()))
}

/// What Linux says about the memory of a process, in bytes.
fn memory_of(pid: u32, field: &str) -> Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))
        .context("cannot tell the memory of a process")?;
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    let kibibytes = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<f64>().ok());
    Ok(kibibytes.context("the memory of a process is not told as it should be")? * 1024.0)
}
