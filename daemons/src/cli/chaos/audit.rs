//! The checker: whether a history keeps what funcx promises.

use std::collections::{BTreeMap, BTreeSet};

use funcx_core::model::{OutcomeKind, TaskId};
use serde::Serialize;

use super::account::{Accounts, Answer, CallAccount, TaskAccount};
use super::history::{Event, Execution, Line, Seen};

/// A promise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Promise {
    /// Every accepted task has an outcome.
    NothingLost,
    /// Everybody sees the same outcome, and once.
    OneOutcome,
    /// No more executions begin than attempts are recorded.
    CountedAttempts,
    /// A task with one attempt begins once at most.
    AtMostOnce,
    /// A task is not attempted more often than it allows, and not given up before that.
    AllAttempts,
    /// What returned has run to its end, and the value is its own.
    TrueValue,
    /// What was cancelled has an outcome, and only that is.
    CancelConfirmed,
    /// Nothing of a task runs after its outcome is `Cancelled`.
    CancelStops,
    /// A task ends for a reason that it has.
    RightKind,
    /// No process is left.
    NothingLeft,
    /// Daemons end when they are asked to.
    PoliteEnd,
}

/// A broken promise.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Violation {
    pub(super) promise: Promise,
    pub(super) task: Option<TaskId>,
    pub(super) said: String,
    /// All that is known about the task.
    pub(super) history: Vec<String>,
}

/// Looks at every promise.
pub(super) fn check(lines: &[Line], executions: &[Execution], accounts: &Accounts) -> Vec<Violation> {
    let mut checker = Checker { accounts, found: Vec::new() };
    for (id, task) in &accounts.tasks {
        checker.check_task(*id, task);
    }
    for (key, call) in &accounts.calls {
        checker.check_call(key, call);
    }
    checker.check_processes(lines);
    let mut found = checker.found;
    found.sort_by_key(|violation| (violation.promise, violation.task));
    let concerned = found.iter().filter_map(|violation| violation.task).collect();
    let histories = Histories::new(lines, executions, accounts, &concerned);
    for violation in &mut found {
        violation.history = violation.task.map(|task| histories.of(task)).unwrap_or_default();
    }
    found
}

struct Checker<'a> {
    accounts: &'a Accounts,
    found: Vec<Violation>,
}

impl<'a> Checker<'a> {
    fn broken(&mut self, promise: Promise, task: Option<TaskId>, said: impl Into<String>) {
        self.found.push(Violation { promise, task, said: said.into(), history: Vec::new() });
    }

    fn check_task(&mut self, id: TaskId, task: &TaskAccount) {
        self.check_outcome(id, task);
        if task.cancel_answered.is_some() && self.accounts.listed && task.ending().is_none() {
            self.broken(Promise::CancelConfirmed, Some(id), "cancelled, and has no outcome");
        }
        if let (Some(call), Some(_)) = (self.call_of(task), task.ending()) {
            self.check_kind(id, task, call);
        }
    }

    fn check_outcome(&mut self, id: TaskId, task: &TaskAccount) {
        if self.accounts.listed {
            if let Some(status) = &task.unfinished {
                self.broken(Promise::NothingLost, Some(id), format!("has no outcome; it is {status}"));
            } else if !task.is_listed() {
                self.broken(Promise::NothingLost, Some(id), "accepted, and the service does not know it");
            }
        }
        let Some(first) = task.ending() else { return };
        if let Some((_, seen, other)) = task.endings.iter().find(|(_, _, ending)| ending != first) {
            let said = format!("two outcomes: {first:?}, and {other:?} ({seen:?})");
            self.broken(Promise::OneOutcome, Some(id), said);
        }
        for seen in [Seen::Handle, Seen::Stream, Seen::List] {
            let times = task.endings.iter().filter(|(_, by, _)| *by == seen).count();
            if times > 1 {
                self.broken(Promise::OneOutcome, Some(id), format!("told {times} times ({seen:?})"));
            }
        }
    }

    fn check_kind(&mut self, id: TaskId, task: &TaskAccount, call: &CallAccount) {
        let Some(ending) = task.ending() else { return };
        let wanted = &call.wanted;
        let mut broken = |promise, said: String| self.broken(promise, Some(id), said);
        let most = wanted.max_attempts;
        if ending.attempt > most {
            broken(Promise::AllAttempts, format!("attempt {} of {most}", ending.attempt));
        }
        match ending.kind {
            OutcomeKind::Returned => {
                if call.ends() == 0 {
                    broken(Promise::TrueValue, "returned, and no execution has ended".to_owned());
                }
                if task.key.as_ref() != Some(&ending.said) {
                    broken(Promise::TrueValue, format!("returned `{}`", ending.said));
                }
            }
            OutcomeKind::Raised => {
                broken(Promise::RightKind, format!("raised, which the function never does: {}", ending.said));
            }
            OutcomeKind::TimedOut => {
                if wanted.walltime_ms.or(wanted.ttl_ms).or(wanted.deadline_ms).is_none() {
                    broken(Promise::RightKind, format!("timed out without a limit: {}", ending.said));
                }
            }
            OutcomeKind::Cancelled => {
                if task.cancel_asked.is_none() {
                    broken(Promise::CancelConfirmed, "nobody has cancelled it".to_owned());
                }
                self.check_stopped(id, task, call);
            }
            OutcomeKind::Lost => {
                if ending.attempt < most {
                    let said = format!("lost after attempt {} of {most}: {}", ending.attempt, ending.said);
                    broken(Promise::AllAttempts, said);
                }
            }
        }
    }

    fn check_stopped(&mut self, id: TaskId, task: &TaskAccount, call: &CallAccount) {
        let Some((told, ..)) = task.endings.first() else { return };
        // A task of the same call that nobody told us of may be what runs.
        if call.maybe_repeated() && call.wanted.max_attempts > 1 {
            return;
        }
        if let Some(after) = call.executions.iter().find(|execution| execution.at > *told) {
            let what = if after.is_end { "ended" } else { "began" };
            let late = (after.at - told) / 1_000_000;
            let said = format!("an execution {what} {late} ms after the outcome was told");
            self.broken(Promise::CancelStops, Some(id), said);
        }
    }

    fn check_call(&mut self, key: &str, call: &CallAccount) {
        if call.submitted == 0 {
            self.broken(Promise::TrueValue, None, format!("call {key} was executed and never submitted"));
            return;
        }
        let starts = call.starts();
        let once = call.wanted.max_attempts == 1;
        if once && starts > 1 {
            self.broken(Promise::AtMostOnce, call.task, format!("call {key} began {starts} times"));
        }
        if once && call.task.is_some() && !call.doubles.is_empty() {
            self.broken(Promise::AtMostOnce, call.task, format!("call {key} was accepted twice"));
        }
        let Some(id) = call.task else { return };
        let tasks = || call.doubles.iter().chain([&id]).filter_map(|id| self.accounts.tasks.get(id));
        // Without an outcome nobody has recorded attempts yet.
        let recorded: Option<u32> = tasks().map(|task| task.ending().map(|ending| ending.attempt)).sum();
        let Some(mut allowed) = recorded else { return };
        if call.doubles.is_empty() && call.maybe_repeated() && !once && !self.accounts.unclaimed.is_empty() {
            allowed += call.wanted.max_attempts;
        }
        if starts > allowed as usize {
            let said = format!("began {starts} times in {allowed} recorded attempts");
            self.broken(Promise::CountedAttempts, Some(id), said);
        }
    }

    fn check_processes(&mut self, lines: &[Line]) {
        for Line { event, .. } in lines {
            match event {
                Event::Left { pid, command } => {
                    self.broken(Promise::NothingLeft, None, format!("process {pid} is left: {command}"));
                }
                Event::Stuck { process, pid } => {
                    let said = format!("{process} (process {pid}) does not end on SIGTERM");
                    self.broken(Promise::PoliteEnd, None, said);
                }
                _ => {}
            }
        }
        let maybe = |call: &&CallAccount| call.maybe_repeated() || call.answer == Answer::None;
        let most = self.accounts.calls.values().filter(maybe).count();
        let unclaimed = self.accounts.unclaimed.len();
        if unclaimed > most {
            let said = format!("the service has {unclaimed} tasks that nobody submitted, or that few resent");
            self.broken(Promise::OneOutcome, None, said);
        }
    }

    fn call_of(&self, task: &TaskAccount) -> Option<&'a CallAccount> {
        self.accounts.calls.get(task.key.as_ref()?)
    }
}

/// What is known about some tasks, as lines for people.
struct Histories {
    lines: BTreeMap<TaskId, Vec<(u64, String)>>,
    begin: u64,
}

impl Histories {
    fn new(
        lines: &[Line],
        executions: &[Execution],
        accounts: &Accounts,
        concerned: &BTreeSet<TaskId>,
    ) -> Self {
        let begin = lines.first().map_or(0, |line| line.at);
        let lines_of = concerned.iter().map(|task| (*task, Vec::new())).collect();
        let mut histories = Self { lines: lines_of, begin };
        let task_of = |key: &str| accounts.calls.get(key).and_then(|call| call.task);
        for Line { at, event } in lines {
            let text = serde_json::to_string(event).unwrap_or_default();
            match event {
                Event::Submit { key, .. } => histories.add(task_of(key), *at, text),
                Event::Accepted { task, .. }
                | Event::Outcome { task, .. }
                | Event::Unfinished { task, .. } => {
                    histories.add(Some(*task), *at, text);
                }
                Event::Cancel { number, tasks, .. } => {
                    for task in tasks {
                        histories.add(Some(*task), *at, format!("cancel {number} of {} tasks", tasks.len()));
                    }
                }
                _ => {}
            }
        }
        for execution in executions {
            let what = if execution.is_end { "ends" } else { "begins" };
            let text = format!("process {} {what}", execution.pid);
            histories.add(task_of(&execution.key), execution.at, text);
        }
        // What befell the fabric meanwhile is what one looks for next.
        for Line { at, event } in lines {
            if matches!(event, Event::Fault { .. } | Event::Healed { .. } | Event::Exited { .. }) {
                let text = serde_json::to_string(event).unwrap_or_default();
                for known in histories.lines.values_mut() {
                    let within = known.first().is_some_and(|(first, _)| first <= at)
                        && known.iter().any(|(last, _)| last >= at);
                    if within {
                        known.push((*at, text.clone()));
                    }
                }
            }
        }
        histories
    }

    fn add(&mut self, task: Option<TaskId>, at: u64, text: String) {
        if let Some(lines) = task.and_then(|task| self.lines.get_mut(&task)) {
            lines.push((at, text));
        }
    }

    fn of(&self, task: TaskId) -> Vec<String> {
        let mut lines = self.lines.get(&task).cloned().unwrap_or_default();
        lines.sort();
        lines
            .into_iter()
            .map(|(at, text)| format!("{:9.3} s  {text}", at.saturating_sub(self.begin) as f64 / 1e9))
            .collect()
    }
}
