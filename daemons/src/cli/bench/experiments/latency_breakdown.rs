//! Where the time of a warm call goes.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Args;
use funcx_core::model::Hop;
use funcx_net::client::{Call, TaskView};
use funcx_net::driver::wall_clock;

use super::super::experiment::{About, Experiment, Run};
use super::super::findings::{Axis, Chart, Findings, Form, Point, Series, Spread};
use super::super::real::{Engine, Fabric, call_for, python_arguments};

/// Options of the experiment.
#[derive(Debug, Clone, Default, Args)]
pub struct LatencyBreakdown {
    /// Calls that are measured; 2,000 if not set, 200 with --quick
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=10_000_000), value_name = "COUNT")]
    calls: Option<u32>,
}

/// The function of the papers, which also returns what it was given, so that this can be checked.
const HELLO: &str = "def hello_world(event):\n    print(event)\n    return event\n";

const EVENT: &str = "hello-world";

/// Calls until everything is warm.
const WARM_UP: u32 = 50;

/// Between endpoint and forwarder in the paper, there and back.
const DELAY: Duration = Duration::from_millis(18);

const NEW: &str =
    "funcX, IEEE TPDS 2022, figure 3: service in AWS US-East, endpoint on ANL Cooley, 18 ms between them";
const OLD: &str = "funcX, arXiv 1908.04907, figure 5: service and endpoint in AWS US-East";

const TERMS: [&str; 6] = ["client", "t_s", "t_f + network", "t_e", "t_w", "sum without client"];

/// Milliseconds of one call in each term.
type Terms = [f64; TERMS.len()];

impl Experiment for LatencyBreakdown {
    const ABOUT: About = About {
        name: "latency-breakdown",
        title: "Latency of a warm call, term by term",
        reproduces: "funcX, IEEE TPDS 2022, section 7.1 and figure 3: single calls of a warm hello-world; 72 ms in the \
                     service (authentication, storing the task), 2 ms in the forwarder, 15 ms at the endpoint, 2 ms in the \
                     function, and 18 ms of network between forwarder and endpoint.",
    };

    async fn run(&self, run: &Run) -> Result<Findings> {
        let calls = self.calls.unwrap_or(if run.quick() { 200 } else { 2_000 });
        let (near, delayed) = (measure(run, calls, Duration::ZERO).await?, measure(run, calls, DELAY).await?);
        let mut series = Vec::new();
        for (name, terms) in [("loopback", &near), ("18 ms added", &delayed)] {
            series.push(of(format!("{name}, median"), terms, |values| Spread::of(values.iter().copied())));
            series.push(of(format!("{name}, 99th percentile"), terms, |values| {
                Some(Spread::exactly(percentile_99(values)?))
            }));
        }
        series.push(Series::published(
            "2022",
            NEW,
            [(1.0, 72.0), (2.0, 20.0), (3.0, 15.0), (4.0, 2.0), (5.0, 109.0)],
        ));
        series.push(Series::published(
            "2019",
            OLD,
            [(0.0, 21.5), (1.0, 15.2), (2.0, 1.0), (3.0, 37.9), (4.0, 1.31), (5.0, 55.41)],
        ));
        Ok(Findings {
            setup: vec![
                "Service, endpoint, manager and Python worker are processes of this machine; the store is durable. Calls \
                 come over HTTP, one after the other."
                    .to_owned(),
                format!("{calls} calls of `hello_world`, after {WARM_UP} that are not counted."),
                "For the second pair of rows a proxy between service and endpoint holds everything back for 9 ms in each \
                 direction."
                    .to_owned(),
            ],
            charts: vec![Chart {
                title: "Milliseconds of a call".to_owned(),
                x: Axis::names("term", TERMS),
                y: Axis::logarithmic("ms"),
                form: Form::Bars,
                series,
            }],
            notes: vec![
                "From stamps that a task carries: t_s from acceptance until the service sends it on (it is in the store \
                 then); t_f + network from there until the endpoint sends it on, and from the endpoint's sending the outcome \
                 until the service has it stored; t_e between the endpoint and the function, both ways; t_w in the \
                 function; client is the rest: HTTP there and back, and the client. Authentication is part of client."
                    .to_owned(),
                "Brackets hold the fastest and the slowest of all calls. Service and forwarder of 2022 are one process here, \
                 and the endpoint has no stamp for arrivals, so t_f cannot be told from the network."
                    .to_owned(),
            ],
        })
    }
}

async fn measure(run: &Run, calls: u32, delay: Duration) -> Result<Vec<Terms>> {
    let fabric = Fabric::start(run, Engine { delay, ..Engine::default() }).await?;
    run.say(format!("{calls} calls with {} ms of network added", delay.as_millis()))?;
    let function = fabric.python("hello_world", HELLO).await?;
    let call = Call::new(fabric.endpoint_id, function, python_arguments(&[EVENT])?);
    let mut terms = Vec::new();
    for number in 0..WARM_UP + calls {
        let (sent, begin) = (wall_clock(), Instant::now());
        let task = call_for(fabric.client(), &call, &EVENT.to_owned()).await?;
        let total = begin.elapsed();
        if number >= WARM_UP {
            terms.push(split(&task, sent.as_nanos(), total).context("a call has no stamps")?);
        }
    }
    fabric.stop().await?;
    Ok(terms)
}

/// The terms of a call that left the client at `sent` and whose outcome came `total` later.
fn split(task: &TaskView, sent: u64, total: Duration) -> Option<Terms> {
    let at = |hop: Hop| task.stamps.get(hop.as_str()).copied();
    let millis = |from: u64, to: u64| to.saturating_sub(from) as f64 / 1e6;
    let completed = (task.completed? * 1e9) as u64;
    let (accepted, forwarded) = (at(Hop::Accepted)?, at(Hop::ServiceSent)?);
    let (down, up) = (at(Hop::EndpointSent)?, at(Hop::EndpointReturned)?);
    let (started, ended) = (at(Hop::Started)?, at(Hop::Ended)?);
    let service = millis(accepted, forwarded);
    let forwarder = millis(forwarded, down) + millis(up, completed);
    let endpoint = millis(down, started) + millis(ended, up);
    let function = millis(started, ended);
    let inside = millis(accepted, completed);
    let client = (total.as_secs_f64() * 1e3 - inside).max(millis(sent, accepted));
    Some([client, service, forwarder, endpoint, function, service + forwarder + endpoint + function])
}

fn of(name: String, calls: &[Terms], figure: impl Fn(&[f64]) -> Option<Spread>) -> Series {
    let mut series = Series::ours(name);
    for place in 0..TERMS.len() {
        let values: Vec<f64> = calls.iter().map(|terms| terms[place]).collect();
        series.points.extend(figure(&values).map(|y| Point { x: place as f64, y }));
    }
    series
}

/// The smallest value that 99 of 100 do not exceed.
fn percentile_99(values: &[f64]) -> Option<f64> {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values.get((values.len() * 99).div_ceil(100).saturating_sub(1)).copied()
}
