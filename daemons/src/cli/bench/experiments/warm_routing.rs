//! Tasks that go where workers of their type are warm, or anywhere.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Args;
use funcx_core::conformance::warm_routing::{Routing, WarmFigures, WarmRouting as Setup};

use super::super::experiment::{About, Experiment, Run};
use super::super::findings::{Axis, Chart, Findings, Form, Series};

/// Options of the experiment.
#[derive(Debug, Clone, Default, Args)]
pub struct WarmRouting {
    /// Tasks of each row
    #[arg(long, value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..=100_000), value_name = "COUNT,…")]
    tasks: Vec<u32>,
}

const SOURCE: &str = "funcX, IEEE TPDS 2022, section 7.4 and figures 6 and 7 (read off the plots): 10 nodes of Theta with 10 \
                      workers each, 10 types of containers";

const ROUTINGS: [(&str, Routing); 2] = [("random", Routing::Random), ("warm", Routing::Warm)];

/// What was published for tasks of one duration: seconds, random and warm, for so many tasks; switches for 3,000.
struct Published {
    seconds: u64,
    completion: &'static [(f64, [f64; 2])],
    switches: [f64; 2],
}

const PUBLISHED: [Published; 4] = [
    Published {
        seconds: 0,
        completion: &[(1_000.0, [110.0, 24.0]), (3_000.0, [146.0, 59.0])],
        switches: [104.0, 1.0],
    },
    Published {
        seconds: 1,
        completion: &[(1_000.0, [129.0, 38.0]), (3_000.0, [187.0, 117.0])],
        switches: [111.0, 36.0],
    },
    Published { seconds: 5, completion: &[(3_000.0, [286.0, 218.0])], switches: [99.0, 23.0] },
    Published { seconds: 20, completion: &[(3_000.0, [740.0, 668.0])], switches: [98.0, 21.0] },
];

impl Experiment for WarmRouting {
    const ABOUT: About = About {
        name: "warm-routing",
        title: "Warm routing: tasks go where a worker of their type is warm",
        reproduces: "funcX, IEEE TPDS 2022, section 7.4: batches of 100 to 3,000 tasks of 0, 1, 5 and 20 s, each of which asks \
                     for one of 10 types of containers at random, on 10 nodes with 10 workers each; against a choice of node \
                     at random. At most 61 % less time, and 22 cold starts for 3,000 tasks.",
    };

    async fn run(&self, run: &Run) -> Result<Findings> {
        let sizes: &[u32] = match (self.tasks.as_slice(), run.quick()) {
            ([], false) => &[100, 300, 1_000, 2_000, 3_000],
            ([], true) => &[100, 1_000],
            (asked, _) => asked,
        };
        let mut charts = Vec::new();
        for published in &PUBLISHED {
            run.say(format!("tasks of {} s", published.seconds))?;
            charts.extend(measure(run, sizes, published).await?);
        }
        let Setup { cold_start, .. } = Setup::default();
        Ok(Findings {
            setup: vec![
                format!(
                    "The nodes of an endpoint and of 10 managers with 10 slots each, under a virtual clock; 10 types. Links \
                     take no time, workers are simulated and take {:.1} s to start (Singularity on Theta).",
                    cold_start.as_secs_f64()
                ),
                "Brackets hold the least and the greatest of runs in which types come in other orders.".to_owned(),
            ],
            charts,
            notes: vec![
                "All times are virtual: they say what the routing decides, not how fast this machine is, and they are the \
                 same on every machine."
                    .to_owned(),
                "The baseline is not the paper's. Its managers kept a worker without tasks, and saw about 100 cold starts with \
                 random routing, about as many as there are slots; ours give an idle slot to another type at once, so with \
                 random routing they switch many times as often. Compare the times with warm routing, and the gain over \
                 random routing only with this in mind."
                    .to_owned(),
                "A switch is a worker that is started in a slot from which one of another type has to go; the first worker of \
                 a slot is none."
                    .to_owned(),
            ],
        })
    }
}

/// Completion times and switches of tasks of one duration.
async fn measure(run: &Run, sizes: &[u32], published: &Published) -> Result<[Chart; 2]> {
    let seconds = published.seconds;
    let (mut times, mut switches) = (Vec::new(), Vec::new());
    for (column, (name, routing)) in ROUTINGS.into_iter().enumerate() {
        let mut time = Series::ours(format!("{name}, here"));
        let mut switch = Series::ours(format!("{name}, here"));
        for &tasks in sizes {
            let setup = Setup { tasks, duration: Duration::from_secs(seconds), routing, ..Setup::default() };
            let figures = simulate(setup, run.runs() as u64).await?;
            let x = f64::from(tasks);
            time.add(x, figures.iter().map(|figures| figures.completion.as_secs_f64()));
            switch.add(x, figures.iter().map(|figures| figures.slots.switches as f64));
        }
        let completion = published.completion.iter().map(|(tasks, times)| (*tasks, times[column]));
        let theta = format!("{name}, Theta");
        times.extend([time, Series::published(theta.clone(), SOURCE, completion)]);
        let published = Series::published(theta, SOURCE, [(3_000.0, published.switches[column])]);
        switches.extend([switch, published]);
    }
    let chart =
        |title: String, y, series| Chart { title, x: Axis::linear("tasks"), y, form: Form::Lines, series };
    Ok([
        chart(
            format!("Seconds until all tasks of {seconds} s have ended"),
            Axis::logarithmic("seconds"),
            times,
        ),
        chart(format!("Switches for tasks of {seconds} s"), Axis::linear("switches"), switches),
    ])
}

/// The figures with so many different orders of types. A task that does not end, or runs on a worker of another type, is an
/// error.
async fn simulate(setup: Setup, seeds: u64) -> Result<Vec<WarmFigures>> {
    let mut all = Vec::new();
    for seed in 1..=seeds {
        let figures = tokio::task::spawn_blocking(move || Setup { seed, ..setup }.run());
        let figures = figures.await.with_context(|| format!("a simulation went wrong: {setup:?}"))?;
        let ideal = setup.duration * setup.tasks.div_ceil(setup.managers * setup.slots);
        let took = figures.completion;
        ensure!(
            took >= ideal,
            "{} tasks have ended in {took:?}, sooner than they can: {setup:?}",
            setup.tasks
        );
        all.push(figures);
    }
    Ok(all)
}
