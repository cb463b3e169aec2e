//! What a run has shown, for people and programs.

use std::collections::BTreeMap;

use funcx_core::model::OutcomeKind;
use serde::Serialize;

use super::account::{Accounts, Answer};
use super::audit::{Violation, check};
use super::history::{Event, Execution, Line, Seen};
use crate::cli::output::fields;

/// Violations that are shown to people with all that is known about them; programs get all.
const SHOWN: usize = 20;

/// The figures of a run, and what was wrong.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    seed: u64,
    seconds: f64,
    submitted: usize,
    accepted: usize,
    refused: usize,
    /// Tasks of submissions whose answer was lost.
    unclaimed: usize,
    outcomes: BTreeMap<String, usize>,
    executions: usize,
    retried_tasks: usize,
    executed_again: usize,
    cancels_answered: usize,
    faults: BTreeMap<String, usize>,
    exits: BTreeMap<String, usize>,
    worst_latency_seconds: f64,
    longest_silence_seconds: f64,
    /// Whether the run came to its end, so that all promises could be looked at.
    pub(super) complete: bool,
    pub(super) violations: Vec<Violation>,
}

impl Report {
    /// Audits a history.
    pub(super) fn new(lines: &[Line], executions: &[Execution]) -> Self {
        let accounts = Accounts::new(lines, executions);
        let violations = check(lines, executions, &accounts);
        let mut report = Self {
            seed: 0,
            seconds: seconds(lines.first().map_or(0, |line| line.at), lines.last().map_or(0, |line| line.at)),
            submitted: accounts.calls.len(),
            accepted: accounts.calls.values().filter(|call| call.task.is_some()).count(),
            refused: accounts
                .calls
                .values()
                .filter(|call| matches!(call.answer, Answer::Refused { .. }))
                .count(),
            unclaimed: accounts.unclaimed.len(),
            outcomes: BTreeMap::new(),
            executions: executions.iter().filter(|execution| !execution.is_end).count(),
            retried_tasks: 0,
            executed_again: accounts.calls.values().filter(|call| call.starts() > 1).count(),
            cancels_answered: 0,
            faults: BTreeMap::new(),
            exits: BTreeMap::new(),
            worst_latency_seconds: worst_latency(&accounts),
            longest_silence_seconds: longest_silence(lines),
            complete: accounts.ended && accounts.listed,
            violations,
        };
        for ending in accounts.tasks.values().filter_map(|task| task.ending()) {
            *report.outcomes.entry(OutcomeKind::to_string(&ending.kind)).or_default() += 1;
            report.retried_tasks += usize::from(ending.attempt > 1);
        }
        for line in lines {
            match &line.event {
                Event::Began { seed, .. } => report.seed = *seed,
                Event::Fault { kind, target, .. } => {
                    *report.faults.entry(format!("{kind} {target}")).or_default() += 1;
                }
                Event::NoFault { .. } => {
                    *report.faults.entry("not brought about".to_owned()).or_default() += 1;
                }
                Event::Exited { process, .. } => *report.exits.entry(process.clone()).or_default() += 1,
                Event::Cancelled { .. } => report.cancels_answered += 1,
                _ => {}
            }
        }
        report
    }

    /// The report for people.
    pub(super) fn to_text(&self) -> String {
        let counts = |counts: &BTreeMap<String, usize>| {
            let texts: Vec<_> = counts.iter().map(|(what, count)| format!("{count} {what}")).collect();
            texts.join(", ")
        };
        let faults: usize = self.faults.values().sum();
        let mut text = fields([
            ("seed", self.seed.to_string()),
            ("took", format!("{:.0} s", self.seconds)),
            (
                "calls",
                format!(
                    "{} submitted, {} accepted, {} without an answer",
                    self.submitted, self.accepted, self.refused
                ),
            ),
            ("tasks of lost answers", self.unclaimed.to_string()),
            ("outcomes", counts(&self.outcomes)),
            ("executions", format!("{}; {} calls ran more than once", self.executions, self.executed_again)),
            ("tasks attempted again", self.retried_tasks.to_string()),
            ("cancels confirmed", self.cancels_answered.to_string()),
            ("faults", format!("{faults}: {}", counts(&self.faults))),
            ("daemons that ended by themselves", counts(&self.exits)),
            ("worst latency", format!("{:.1} s", self.worst_latency_seconds)),
            ("longest time without any outcome", format!("{:.1} s", self.longest_silence_seconds)),
            ("violations", self.violations.len().to_string()),
        ]);
        if !self.complete {
            text +=
                "\nThe run did not come to its end: what is lost cannot be told from what would have come.\n";
        }
        for violation in self.violations.iter().take(SHOWN) {
            let Violation { promise, task, said, history, call: _ } = violation;
            let task = task.map(|task| format!(" task {task}")).unwrap_or_default();
            text += &format!("\n{promise:?} is broken:{task} {said}\n");
            history.iter().for_each(|line| text += &format!("  {line}\n"));
        }
        if self.violations.len() > SHOWN {
            text += &format!("\n… and {} more; --json shows all\n", self.violations.len() - SHOWN);
        }
        text
    }
}

fn seconds(from: u64, to: u64) -> f64 {
    to.saturating_sub(from) as f64 / 1e9
}

/// Longest time from a submission until its client had the outcome.
fn worst_latency(accounts: &Accounts) -> f64 {
    let latencies = accounts.calls.values().filter_map(|call| {
        let told = accounts.tasks.get(&call.task?)?.endings.first()?;
        Some(seconds(call.submitted, told.0))
    });
    latencies.fold(0.0, f64::max)
}

/// Longest time in which tasks were submitted and no outcome came.
fn longest_silence(lines: &[Line]) -> f64 {
    let mut last = None;
    let mut longest: f64 = 0.0;
    for line in lines {
        match &line.event {
            Event::Outcome { seen: Seen::Handle | Seen::Stream, .. } => {
                longest = longest.max(last.map_or(0.0, |last| seconds(last, line.at)));
                last = Some(line.at);
            }
            Event::AllHealed => break,
            _ => {}
        }
    }
    longest
}
