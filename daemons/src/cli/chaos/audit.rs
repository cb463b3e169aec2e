//! The checker: whether a history keeps what funcx promises.

use funcx_core::model::{Failure, OutcomeKind, TaskId, limit};
use serde::Serialize;

use super::account::{Accounts, Answer, CallAccount, TaskAccount};
use super::history::{Ending, Event, Execution, Line, Seen, Wanted};

/// A promise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Promise {
    /// Every accepted task has an outcome.
    NothingLost,
    /// Everybody sees the same outcome, and once.
    OneOutcome,
    /// Who follows a task group is told of every outcome.
    FollowersTold,
    /// No more executions begin than the outcome records attempts.
    CountedAttempts,
    /// A task with one attempt begins once at most.
    AtMostOnce,
    /// A task is not attempted more often than it allows, and not given up before that.
    AllAttempts,
    /// What returned has run to its end, and the value is its own.
    TrueValue,
    /// What was cancelled has an outcome, and only that is.
    CancelConfirmed,
    /// Nothing of a task begins or ends after its outcome is `Cancelled`, unless that says that nobody has confirmed it.
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
    /// The key of the call, which is what its executions write down.
    pub(super) call: Option<String>,
    pub(super) said: String,
    /// All that is known about the call and its task.
    pub(super) history: Vec<String>,
}

/// Violations that come with their history.
const TOLD: usize = 100;

/// Looks at every promise.
pub(super) fn check(lines: &[Line], executions: &[Execution], accounts: &Accounts) -> Vec<Violation> {
    let mut checker = Checker { accounts, found: Vec::new() };
    for (id, task) in &accounts.tasks {
        checker.check_task(*id, task);
    }
    for (key, call) in &accounts.calls {
        checker.check_call(key, call);
    }
    checker.check_run(lines);
    let mut found = checker.found;
    found.sort_by_key(|violation| (violation.promise, violation.task));
    for violation in found.iter_mut().take(TOLD) {
        violation.history = history_of(violation, lines, executions, accounts);
    }
    found
}

struct Checker<'a> {
    accounts: &'a Accounts,
    found: Vec<Violation>,
}

impl<'a> Checker<'a> {
    fn broken(&mut self, promise: Promise, task: Option<TaskId>, said: impl Into<String>) {
        let call = task.and_then(|task| self.accounts.tasks.get(&task)?.key.clone());
        self.found.push(Violation { promise, task, call, said: said.into(), history: Vec::new() });
    }

    fn broken_call(&mut self, promise: Promise, key: &str, call: &CallAccount, said: String) {
        let call_key = Some(key.to_owned());
        self.found.push(Violation { promise, task: call.task, call: call_key, said, history: Vec::new() });
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
        if self.accounts.ended
            && task.is_listed()
            && self.call_of(task).is_some_and(|call| call.task == Some(id))
        {
            let told = task.endings.iter().any(|(_, seen, _)| *seen == Seen::Stream);
            if !told {
                self.broken(Promise::FollowersTold, Some(id), "no stream has told of its outcome");
            }
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
        let (least, most) = (wanted.max_attempts, most_attempts(wanted));
        if ending.attempt > most {
            broken(Promise::AllAttempts, format!("attempt {} of {most} at most", ending.attempt));
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
                if ending.attempt < least {
                    let said = format!("lost after attempt {} of {least}: {}", ending.attempt, ending.said);
                    broken(Promise::AllAttempts, said);
                }
            }
        }
    }

    fn check_stopped(&mut self, id: TaskId, task: &TaskAccount, call: &CallAccount) {
        let Some((told, _, ending)) = task.endings.first() else { return };
        // The node that has it was not connected, and stops it when it is. The outcome says so.
        if has_code(ending, &[Failure::CANCELLED_AWAY]) {
            return;
        }
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
            let said = format!("call {key} was executed and never submitted");
            self.broken_call(Promise::TrueValue, key, call, said);
            return;
        }
        let starts = call.starts();
        let once = call.wanted.max_attempts == 1;
        if once && starts > 1 {
            self.broken_call(Promise::AtMostOnce, key, call, format!("call {key} began {starts} times"));
        }
        if once && call.task.is_some() && !call.doubles.is_empty() {
            self.broken_call(Promise::AtMostOnce, key, call, format!("call {key} was accepted twice"));
        }
        let Some(id) = call.task else { return };
        let tasks = || call.doubles.iter().chain([&id]).filter_map(|id| self.accounts.tasks.get(id));
        // Without an outcome nobody has recorded attempts yet.
        let recorded: Option<u32> =
            tasks().map(|task| task.ending().map(|ending| recorded_attempts(ending, &call.wanted))).sum();
        let Some(mut allowed) = recorded else { return };
        if call.doubles.is_empty() && call.maybe_repeated() && !once && !self.accounts.unclaimed.is_empty() {
            allowed += most_attempts(&call.wanted);
        }
        if starts > allowed as usize {
            let said = format!("began {starts} times in {allowed} recorded attempts");
            self.broken(Promise::CountedAttempts, Some(id), said);
        }
    }

    fn check_run(&mut self, lines: &[Line]) {
        for Line { event, .. } in lines {
            match event {
                Event::Left { pid, command } => {
                    self.broken(Promise::NothingLeft, None, format!("process {pid} is left: {command}"));
                }
                // Only tasks that were accepted are ever cancelled.
                Event::Cancelled { number, unknown, .. } if *unknown > 0 => {
                    let said = format!("cancel {number}: the service does not know {unknown} of its tasks");
                    self.broken(Promise::NothingLost, None, said);
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

/// Attempts that a task can have: those that it allows, and those that were lost before anybody said that they had begun.
const fn most_attempts(wanted: &Wanted) -> u32 {
    match wanted.max_attempts {
        1 => 1,
        several => several + limit::MAX_GRANTED,
    }
}

/// Executions that may have begun if a task ended like this. Where it ended although a node that has it was not connected,
/// that node may have made further attempts by itself.
fn recorded_attempts(ending: &Ending, wanted: &Wanted) -> u32 {
    match has_code(ending, &[Failure::CANCELLED_AWAY, "DeadlinePassed", "TaskExpired"]) {
        true => most_attempts(wanted),
        false => ending.attempt,
    }
}

fn has_code(ending: &Ending, codes: &[&str]) -> bool {
    ending.said.split_once(':').is_some_and(|(code, _)| codes.contains(&code))
}

/// What is known about a call and its task, and what befell the fabric meanwhile, as lines for people.
fn history_of(
    violation: &Violation,
    lines: &[Line],
    executions: &[Execution],
    accounts: &Accounts,
) -> Vec<String> {
    let Violation { task, call, .. } = violation;
    let concerns_task = |other: &TaskId| task.as_ref() == Some(other);
    let concerns_call = |key: &String| call.as_ref() == Some(key);
    let concerned = lines.iter().filter(|line| match &line.event {
        Event::Submit { key, .. } | Event::Refused { key, .. } => concerns_call(key),
        Event::Accepted { key, task } => concerns_call(key) || concerns_task(task),
        Event::Outcome { task, .. } | Event::Unfinished { task, .. } => concerns_task(task),
        Event::Cancel { tasks, .. } => tasks.iter().any(concerns_task),
        _ => false,
    });
    let executed = executions.iter().filter(|execution| concerns_call(&execution.key)).map(|execution| {
        let what = if execution.is_end { "ends" } else { "begins" };
        (execution.at, format!("process {} {what}", execution.pid))
    });
    let mut known: Vec<_> = concerned.map(to_text).chain(executed).collect();
    known.sort();
    let told = task.and_then(|task| accounts.tasks.get(&task)?.endings.first());
    let (first, last) = (known.first().map(|(at, _)| *at), known.last().map(|(at, _)| *at));
    if let (Some(first), Some(last)) = (first, told.map(|(at, ..)| *at).or(last)) {
        let befell = lines.iter().filter(|line| (first..=last).contains(&line.at)).filter(|line| {
            matches!(line.event, Event::Fault { .. } | Event::Healed { .. } | Event::Exited { .. })
        });
        known.extend(befell.map(to_text));
        known.sort();
    }
    let begin = lines.first().map_or(0, |line| line.at);
    let seconds = |at: u64| at.saturating_sub(begin) as f64 / 1e9;
    known.into_iter().map(|(at, text)| format!("{:9.3} s  {text}", seconds(at))).collect()
}

fn to_text(line: &Line) -> (u64, String) {
    let text = match &line.event {
        Event::Cancel { number, tasks, .. } => format!("cancel {number} asked for, of {} tasks", tasks.len()),
        event => serde_json::to_string(event).unwrap_or_default(),
    };
    (line.at, text)
}

#[cfg(test)]
mod tests {
    use super::super::history::{Ending, Wanted};
    use super::*;

    const TASK: TaskId = TaskId::from_u128(7);

    /// A call that was accepted, cancelled if so, and ended like this, seen by the client and in the list.
    fn lines(max_attempts: u32, cancel: bool, ending: &Ending) -> Vec<Event> {
        let key = || "1".to_owned();
        let mut events = vec![
            Event::Submit { key: key(), wanted: Wanted { max_attempts, ..Wanted::default() } },
            Event::Accepted { key: key(), task: TASK },
        ];
        if cancel {
            events.push(Event::Cancel { number: 1, tasks: vec![TASK], group: None });
            events.push(Event::Cancelled { number: 1, cancelled: 1, unknown: 0 });
        }
        for seen in [Seen::Handle, Seen::Stream, Seen::List] {
            events.push(Event::Outcome { task: TASK, seen, ending: ending.clone() });
        }
        events.extend([Event::Listed { tasks: 1 }, Event::Ended]);
        events
    }

    fn ending(kind: OutcomeKind, attempt: u32) -> Ending {
        Ending { kind, attempt, said: "1".to_owned() }
    }

    /// Events at 100, 200, … and executions, each with its time and whether it is an end.
    fn promises_broken(events: Vec<Event>, executions: &[(u64, bool)]) -> Vec<Promise> {
        let lines: Vec<_> =
            (1..).zip(events).map(|(number, event)| Line { at: 100 * number, event }).collect();
        let executions: Vec<_> = executions
            .iter()
            .map(|(at, is_end)| Execution { at: *at, key: "1".to_owned(), pid: 9, is_end: *is_end })
            .collect();
        let found = check(&lines, &executions, &Accounts::new(&lines, &executions));
        for violation in &found {
            assert_eq!(violation.history.is_empty(), violation.call.is_none(), "{violation:?}");
        }
        found.into_iter().map(|violation| violation.promise).collect()
    }

    const ONCE: [(u64, bool); 2] = [(210, false), (220, true)];
    const TWICE: [(u64, bool); 4] = [(210, false), (220, true), (230, false), (240, true)];

    #[test]
    fn what_goes_well_breaks_nothing() {
        let returned = ending(OutcomeKind::Returned, 1);
        assert_eq!(promises_broken(lines(1, false, &returned), &ONCE), []);
        assert_eq!(promises_broken(lines(3, true, &returned), &ONCE), []);
        assert_eq!(promises_broken(lines(3, false, &ending(OutcomeKind::Returned, 2)), &TWICE), []);
        assert_eq!(promises_broken(lines(2, false, &ending(OutcomeKind::Lost, 2)), &TWICE), []);
        assert_eq!(promises_broken(lines(3, true, &ending(OutcomeKind::Cancelled, 1)), &ONCE[..1]), []);
    }

    #[test]
    fn each_broken_promise_is_found() {
        let returned = ending(OutcomeKind::Returned, 1);
        assert_eq!(promises_broken(lines(3, false, &returned), &TWICE), [Promise::CountedAttempts]);
        assert_eq!(
            promises_broken(lines(1, false, &returned), &TWICE),
            [Promise::CountedAttempts, Promise::AtMostOnce]
        );
        assert_eq!(promises_broken(lines(1, false, &returned), &ONCE[..1]), [Promise::TrueValue]);
        let other = Ending { said: "2".to_owned(), ..returned.clone() };
        assert_eq!(promises_broken(lines(1, false, &other), &ONCE), [Promise::TrueValue]);
        for (max_attempts, attempt) in [(3, 4 + limit::MAX_GRANTED), (1, 2)] {
            let again = ending(OutcomeKind::Returned, attempt);
            assert_eq!(promises_broken(lines(max_attempts, false, &again), &ONCE), [Promise::AllAttempts]);
        }
        let lost = ending(OutcomeKind::Lost, 1);
        assert_eq!(promises_broken(lines(3, false, &lost), &[]), [Promise::AllAttempts]);
        for kind in [OutcomeKind::Raised, OutcomeKind::TimedOut] {
            assert_eq!(promises_broken(lines(3, false, &ending(kind, 1)), &ONCE), [Promise::RightKind]);
        }
        let cancelled = ending(OutcomeKind::Cancelled, 1);
        assert_eq!(promises_broken(lines(3, false, &cancelled), &[]), [Promise::CancelConfirmed]);
        assert_eq!(promises_broken(lines(3, true, &cancelled), &[(590, false)]), [Promise::CancelStops]);
    }

    #[test]
    fn what_nobody_could_confirm_may_still_run_but_not_beyond_its_attempts() {
        let away =
            |code: &str| Ending { said: format!("{code}: it was away"), ..ending(OutcomeKind::Cancelled, 1) };
        let running = [(210, false), (590, false), (600, true)];
        assert_eq!(promises_broken(lines(3, true, &away(Failure::CANCELLED_AWAY)), &running), []);
        assert_eq!(
            promises_broken(lines(3, true, &away("Cancelled")), &running),
            [Promise::CountedAttempts, Promise::CancelStops]
        );
        assert_eq!(
            promises_broken(lines(1, true, &away(Failure::CANCELLED_AWAY)), &running),
            [Promise::CountedAttempts, Promise::AtMostOnce]
        );
    }

    #[test]
    fn a_second_outcome_and_a_missing_one_are_found() {
        let returned = ending(OutcomeKind::Returned, 1);
        let mut two = lines(3, false, &returned);
        two[4] = Event::Outcome { task: TASK, seen: Seen::List, ending: ending(OutcomeKind::Lost, 1) };
        assert_eq!(promises_broken(two, &ONCE), [Promise::OneOutcome]);
        let mut repeated = lines(3, false, &returned);
        repeated.push(repeated[2].clone());
        assert_eq!(promises_broken(repeated, &ONCE), [Promise::OneOutcome]);
        let mut forgotten = lines(3, false, &returned);
        forgotten.remove(4);
        assert_eq!(promises_broken(forgotten, &ONCE), [Promise::NothingLost]);
        let mut untold = lines(3, false, &returned);
        untold.remove(3);
        assert_eq!(promises_broken(untold, &ONCE), [Promise::FollowersTold]);
        let mut unfinished = lines(3, true, &returned);
        unfinished.drain(4..7);
        unfinished.push(Event::Unfinished { task: TASK, status: "queued".to_owned() });
        assert_eq!(promises_broken(unfinished, &[]), [Promise::NothingLost, Promise::CancelConfirmed]);
    }

    #[test]
    fn what_a_killed_run_cannot_know_is_not_held_against_it() {
        let events = lines(3, false, &ending(OutcomeKind::Returned, 1));
        assert_eq!(promises_broken(events[..2].to_vec(), &TWICE), []);
    }

    #[test]
    fn a_cancel_of_what_the_service_has_forgotten_is_found() {
        let mut events = lines(3, true, &ending(OutcomeKind::Cancelled, 1));
        events[3] = Event::Cancelled { number: 1, cancelled: 0, unknown: 1 };
        assert_eq!(promises_broken(events, &[]), [Promise::NothingLost]);
    }

    #[test]
    fn a_process_that_is_left_is_found() {
        let events = vec![Event::Left { pid: 3, command: "funcx worker".to_owned() }];
        assert_eq!(promises_broken(events, &[]), [Promise::NothingLeft]);
    }
}
