//! More clients.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Args;
use funcx_net::client::{Arguments, Call, FunctionRegistration};
use tokio::task::JoinSet;

use super::{chart, growth, memory_of};
use crate::cli::bench::experiment::{About, Experiment, Run};
use crate::cli::bench::findings::{Axis, Chart, Findings, Form, Series, Spread, number};
use crate::cli::bench::real::{Engine, Fabric, call_for};
use crate::cli::process::Process;

/// Options of the experiment.
#[derive(Debug, Clone, Default, Args)]
pub struct GrowthClients {
    /// Clients of each row
    #[arg(long, value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..=4096), value_name = "COUNT,…")]
    clients: Vec<u32>,
    /// Calls of all clients together; 5,000 if not set, 2,000 with --quick
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=10_000_000), value_name = "COUNT")]
    calls: Option<u32>,
}

impl Experiment for GrowthClients {
    const ABOUT: About = About {
        name: "growth-clients",
        title: "How cost grows with the number of clients",
        reproduces: "No paper. Clients with connections of their own, each of which calls a native function, waits for the \
                     result and calls again.",
    };

    async fn run(&self, run: &Run) -> Result<Findings> {
        let sizes: &[u32] = match (self.clients.as_slice(), run.quick()) {
            ([], false) => &[1, 3, 10, 30, 100, 300, 1_000],
            ([], true) => &[1, 10, 100],
            (asked, _) => asked,
        };
        let calls = self.calls.unwrap_or(if run.quick() { 2_000 } else { 5_000 });
        let mut rate = Series::ours("calls/s");
        let mut cpu = Series::ours("µs of the service's processor time per call");
        let (mut median, mut slow) = (Series::ours("median"), Series::ours("99th percentile"));
        let mut memory = Series::ours("KiB of the service per client");
        let fabric = Fabric::start(run, Engine::default()).await?;
        for &clients in sizes {
            run.say(format!("{} clients", number(f64::from(clients))))?;
            let rows = measure(run, &fabric, clients, calls.div_ceil(clients)).await?;
            let x = f64::from(clients);
            rate.add(x, rows.iter().map(|row| row.rate));
            cpu.add(x, rows.iter().map(|row| row.cpu_micros));
            median.add(x, rows.iter().map(|row| row.median));
            slow.add(x, rows.iter().map(|row| row.slow));
            memory.add(x, rows.iter().map(|row| row.memory / 1024.0 / x));
        }
        fabric.stop().await?;
        let mut notes = growth(&cpu, "clients");
        notes.push(
            "All clients are in one process and share the processors with service, endpoint and manager: where they are all \
             used, more clients wait longer, each in proportion."
                .to_owned(),
        );
        let latency = Chart {
            title: "Milliseconds from call to result".to_owned(),
            x: Axis::logarithmic("clients"),
            y: Axis::logarithmic("ms"),
            form: Form::Lines,
            series: vec![median, slow],
        };
        Ok(Findings {
            setup: vec![
                "Service, endpoint and manager are processes of this machine, clients are in the process that measures; the \
                 store is durable. The function is native."
                    .to_owned(),
                format!("{} calls of all clients together in each run.", number(f64::from(calls))),
            ],
            charts: vec![
                chart("Calls per second", "clients", "calls/s", [rate]),
                latency,
                chart("Processor time of the service for each call", "clients", "µs", [cpu]),
                chart("Memory of the service for each client", "clients", "KiB", [memory]),
            ],
            notes,
        })
    }
}

/// One run.
struct Row {
    rate: f64,
    cpu_micros: f64,
    median: f64,
    slow: f64,
    /// Bytes that the service grew by.
    memory: f64,
}

async fn measure(run: &Run, fabric: &Fabric, clients: u32, calls_each: u32) -> Result<Vec<Row>> {
    let native = FunctionRegistration::native("funcx.echo");
    let function = fabric.client().register(&native).await?.function_id;
    let service = fabric.service().context("the service has ended")?;
    let mut rows = Vec::new();
    for _ in 0..run.runs() {
        let before = memory_of(service.pid, "VmRSS")?;
        // The first call of each client opens its connections.
        let mut opening = JoinSet::new();
        for number in 0..clients {
            let client = fabric.another_client()?;
            let call = Call::new(fabric.endpoint_id, function, Arguments::value(&number)?);
            opening.spawn(async move {
                call_for(&client, &call, &number).await?;
                Ok::<_, anyhow::Error>((client, call, number))
            });
        }
        let ready: Result<Vec<_>> = opening.join_all().await.into_iter().collect();
        let (began, cpu) = (Instant::now(), processor_time_of(service)?);
        let mut calling = JoinSet::new();
        for (client, call, number) in ready? {
            calling.spawn(async move {
                let mut times = Vec::new();
                for _ in 0..calls_each {
                    let began = Instant::now();
                    call_for(&client, &call, &number).await?;
                    times.push(began.elapsed().as_secs_f64() * 1e3);
                }
                Ok::<_, anyhow::Error>((client, times))
            });
        }
        // The clients stay until memory has been looked at.
        let done: Result<Vec<_>> = calling.join_all().await.into_iter().collect();
        let (took, done) = (began.elapsed(), done?);
        let cpu = processor_time_of(service)?.saturating_sub(cpu);
        let memory = memory_of(service.pid, "VmRSS")? - before;
        let mut times: Vec<f64> = done.iter().flat_map(|(_, times)| times).copied().collect();
        ensure!(
            times.len() as u32 == clients * calls_each,
            "{} of {} calls came back",
            times.len(),
            clients * calls_each
        );
        times.sort_by(f64::total_cmp);
        let calls = times.len() as f64;
        rows.push(Row {
            rate: calls / took.as_secs_f64(),
            cpu_micros: cpu.as_secs_f64() * 1e6 / calls,
            median: Spread::of(times.iter().copied()).map_or(0.0, |spread| spread.median),
            slow: times[(times.len() * 99).div_ceil(100).saturating_sub(1)],
            memory: memory.max(0.0),
        });
    }
    Ok(rows)
}

fn processor_time_of(process: Process) -> Result<Duration> {
    process.processor_time().context("a process has ended that should not")
}
