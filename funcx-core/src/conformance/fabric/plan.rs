//! A run as a value: configuration, seed, and everything that is done from outside, by time.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::str::FromStr;
use std::time::Duration;

use super::random::Random;
use super::{Fabric, FabricConfig, FabricReport, FaultKind, Step};

/// A run that can be made again. Its text, on one line, gives the same plan back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// What is simulated.
    pub config: FabricConfig,
    /// Decides what is not in the steps: how long messages and tasks take, which workers crash.
    pub seed: u64,
    /// What is done from outside, in order of time.
    pub steps: Vec<(Duration, Step)>,
}

impl Plan {
    /// The plan that a seed stands for.
    pub fn new(config: FabricConfig, seed: u64) -> Self {
        let mut random = Random::new(seed);
        let mut steps = Vec::new();
        let mut first = 0;
        while first < config.tasks {
            let count = (1 + random.below(config.submission_tasks)).min(config.tasks - first);
            let lane = random.below(config.endpoints);
            let variant = if config.varied == 0 { 0 } else { random.below(256) };
            let step = Step::Submit { first, count, lane, variant };
            steps.push((micros_within(&mut random, config.submit_millis), step));
            first += count;
        }
        let kinds: Vec<_> =
            FaultKind::ALL.into_iter().filter(|kind| config.fault_kinds & (1 << *kind as u32) != 0).collect();
        for _ in 0..if kinds.is_empty() { 0 } else { config.faults } {
            let kind = kinds[random.below(kinds.len() as u32) as usize];
            let step = fault(kind, &config, &mut random);
            steps.push((micros_within(&mut random, config.fault_millis), step));
        }
        steps.sort_by_key(|(at, _)| *at);
        Self { config, seed, steps }
    }

    /// Runs it until everything is quiet.
    ///
    /// # Errors
    /// What went wrong: a broken promise, a panic, or a fabric that is stuck.
    pub fn run(&self) -> Result<FabricReport, String> {
        self.finish(&mut Fabric::new(self))
    }

    /// Runs it and writes down every event, one line each.
    pub fn trace(&self) -> (Result<FabricReport, String>, String) {
        let mut fabric = Fabric::new(self).traced();
        let result = self.finish(&mut fabric);
        (result, fabric.take_trace())
    }

    fn finish(&self, fabric: &mut Fabric) -> Result<FabricReport, String> {
        // The state machines assert their promises in debug builds; such a panic is a finding like another.
        let run = catch_unwind(AssertUnwindSafe(|| {
            fabric.start();
            while !fabric.advance(u64::MAX)? {}
            Ok(fabric.report())
        }));
        run.unwrap_or_else(|panic| {
            let said = panic.downcast_ref::<String>().map(String::as_str);
            Err(format!("panic: {}", said.or(panic.downcast_ref::<&str>().copied()).unwrap_or("?")))
        })
    }
}

fn micros_within(random: &mut Random, millis: u32) -> Duration {
    Duration::from_micros(1 + random.next() % (1000 * u64::from(millis.max(1))))
}

fn fault(kind: FaultKind, config: &FabricConfig, random: &mut Random) -> Step {
    let place = random.below(config.places());
    // Not the service, which has nothing above it.
    let linked = 1 + random.below(config.places() - 1);
    let manager = 1 + config.endpoints + random.below(config.endpoints * config.managers);
    let down_millis = random.spread(1, 20_000);
    // Sometimes beyond the silence after which a connection is given up, sometimes beyond the grace of a lease.
    let millis = random.spread(50, 40_000);
    match kind {
        FaultKind::Cancel => Step::Cancel {
            first: random.below(config.tasks + 1),
            count: random.spread(1, config.tasks.max(1)),
        },
        FaultKind::Storm => Step::Storm { times: 1 + random.below(3) },
        FaultKind::Kill => Step::Kill { place, down_millis },
        FaultKind::Vanish => Step::Vanish { place, down_millis },
        FaultKind::Leave => Step::Leave { place, down_millis },
        FaultKind::Drain => Step::Drain { place, down_millis },
        FaultKind::Freeze => Step::Freeze { place, millis },
        FaultKind::Cut => Step::Cut { place: linked },
        FaultKind::Partition => Step::Partition { place: linked, millis },
        FaultKind::Mute => Step::Mute { place: linked, millis },
        FaultKind::Deafen => Step::Deafen { place: linked, millis },
        FaultKind::Slow => Step::Slow { place, millis, lag_millis: random.spread(5, 8_000) },
        FaultKind::SlowStore => Step::SlowStore { millis, lag_millis: random.spread(5, 4_000) },
        FaultKind::FullStore => Step::FullStore { millis },
        FaultKind::Clock if random.below(2) == 0 => {
            Step::ClockForward { place, millis: random.spread(1, u32::MAX / 2) }
        }
        FaultKind::Clock => Step::ClockBack { place, millis: random.spread(1, u32::MAX / 2) },
        FaultKind::Crash => Step::Crash { place: manager },
        FaultKind::FullJournal => Step::FullJournal { place: 1 + random.below(config.endpoints), millis },
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} seed={}", self.config, self.seed)?;
        for (at, step) in &self.steps {
            write!(f, "; {}us {step}", at.as_micros())?;
        }
        Ok(())
    }
}

impl FromStr for Plan {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut parts = text.split(';').map(str::trim);
        let head = parts.next().unwrap_or_default();
        let (config, seed) = head.rsplit_once("seed=").ok_or("`seed=number` must stand before the steps")?;
        let seed = seed.trim().parse().map_err(|_| format!("`{seed}` is not a seed"))?;
        let steps = parts.filter(|part| !part.is_empty()).map(|part| {
            let (at, step) = part.split_once("us ").ok_or(format!("`{part}` is not `<time>us <step>`"))?;
            let at = at.parse().map_err(|_| format!("`{at}` is not a number of microseconds"))?;
            Ok((Duration::from_micros(at), step.parse()?))
        });
        Ok(Self { config: config.parse()?, seed, steps: steps.collect::<Result<_, String>>()? })
    }
}
