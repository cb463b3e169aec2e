//! Runs whole fabrics under a virtual clock with seeded faults, as many as wanted, on every core.
//!
//! ```text
//! simulate [first seed] [how many] [field=number…]    shapes depend on the seed unless a field fixes them
//! simulate --replay '<plan>'                          makes one run again and prints its trace
//! ```
//!
//! A seed that breaks a promise is shrunk to the steps that matter and printed with its trace; the plan in it is what
//! `--replay` takes.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use funcx_core::conformance::fabric::{FabricConfig, FabricReport, Plan, explain};

/// Violations after which looking for more is of no use.
const ENOUGH: usize = 20;

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1).peekable();
    if arguments.next_if(|argument| argument == "--replay").is_some() {
        let plan = arguments.next().ok_or("--replay wants a plan")?;
        return replay(&plan.parse()?);
    }
    if arguments.peek().is_some_and(|argument| matches!(argument.as_str(), "-h" | "--help")) {
        println!("simulate [first seed] [how many] [field=number…]    or    simulate --replay '<plan>'");
        println!("fields and their defaults: {:?}", FabricConfig::default());
        return Ok(());
    }
    let mut numbers = [0, 1000];
    for number in &mut numbers {
        if let Some(argument) = arguments.next_if(|argument| !argument.contains('=')) {
            *number = argument.parse().map_err(|_| format!("`{argument}` is not a number"))?;
        }
    }
    let fixed = arguments.map(|field| {
        let (name, value) = field.split_once('=').ok_or(format!("`{field}` is not field=number"))?;
        let value = value.parse().map_err(|_| format!("`{value}` is not a number"))?;
        FabricConfig::default().set(name, value)?;
        Ok((name.to_owned(), value))
    });
    let fixed = fixed.collect::<Result<Vec<(String, u32)>, String>>()?;
    sweep(numbers[0], numbers[1], &fixed)
}

fn replay(plan: &Plan) -> Result<(), Failure> {
    let (result, trace) = plan.trace();
    print!("{trace}");
    println!("{:#?}", result?);
    Ok(())
}

/// What the runs showed together.
#[derive(Default)]
struct Totals {
    report: FabricReport,
    violations: Vec<(u64, String)>,
}

fn sweep(first: u64, count: u64, fixed: &[(String, u32)]) -> Result<(), Failure> {
    let started = Instant::now();
    let cores = std::thread::available_parallelism()?.get();
    let next = AtomicU64::new(first);
    let enough = AtomicBool::new(false);
    let totals = Mutex::new(Totals::default());
    let lock = || totals.lock().unwrap_or_else(PoisonError::into_inner);
    std::thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| {
                while !enough.load(Ordering::Relaxed) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed - first >= count {
                        break;
                    }
                    let mut config = FabricConfig::of_seed(seed);
                    for (name, value) in fixed {
                        // The names were checked before.
                        let _ = config.set(name, *value);
                    }
                    let plan = Plan::new(config, seed);
                    match plan.run() {
                        Ok(report) => add(&mut lock().report, &report),
                        Err(wrong) => {
                            let text = explain(plan, &wrong);
                            println!("\n--- {text}");
                            let violations = &mut lock().violations;
                            violations.push((seed, wrong));
                            enough.store(violations.len() >= ENOUGH, Ordering::Relaxed);
                        }
                    }
                }
            });
        }
        scope.spawn(|| {
            let mut last = Instant::now();
            while !enough.load(Ordering::Relaxed) && next.load(Ordering::Relaxed) - first < count {
                std::thread::sleep(Duration::from_millis(50));
                if last.elapsed() > Duration::from_secs(10) {
                    last = Instant::now();
                    let done = next.load(Ordering::Relaxed) - first;
                    eprintln!("{done} seeds, {:.0}/s", done as f64 / started.elapsed().as_secs_f64());
                }
            }
        });
    });
    let runs = (next.load(Ordering::Relaxed) - first).min(count);
    let seconds = started.elapsed().as_secs_f64();
    let Totals { report, violations } = totals.into_inner().unwrap_or_else(PoisonError::into_inner);
    println!("{runs} seeds in {seconds:.1} s on {cores} cores: {:.0} seeds/s", runs as f64 / seconds);
    println!(
        "tasks {} executions {} messages {} events {} virtual time {:.1} h",
        report.ended(),
        report.executions,
        report.messages,
        report.events,
        report.elapsed.as_secs_f64() / 3600.0
    );
    println!("outcomes {:?}", report.outcomes);
    println!("steps {:?}", report.steps);
    println!("violations {}", violations.len());
    for (seed, wrong) in &violations {
        println!("  seed {seed}: {}", wrong.lines().next().unwrap_or_default());
    }
    match violations.len() {
        0 => Ok(()),
        found => Err(format!("{found} seeds break a promise").into()),
    }
}

fn add(total: &mut FabricReport, run: &FabricReport) {
    fn merge<K: Ord + Copy>(total: &mut BTreeMap<K, u64>, run: &BTreeMap<K, u64>) {
        run.iter().for_each(|(key, count)| *total.entry(*key).or_insert(0) += count);
    }
    merge(&mut total.outcomes, &run.outcomes);
    merge(&mut total.steps, &run.steps);
    total.executions += run.executions;
    total.messages += run.messages;
    total.events += run.events;
    total.elapsed += run.elapsed;
}
