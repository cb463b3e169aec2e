//! Logs every transition of every task, for those who look for one of them.
//!
//! All lines have the target `funcx_net::task`, the level `debug`, and the id of the task in the field `task`; what comes
//! and goes with its specification has the trace of its submission in `trace_id` as well. Nothing is put together unless
//! somebody listens.

use funcx_core::contract::ExecutorEvent;
use funcx_core::message::Message;
use funcx_core::model::{AttemptId, Outcome, Task, TaskEvent, TaskEventKind};
use tracing::Level;

const TARGET: &str = "funcx_net::task";

fn is_on() -> bool {
    tracing::enabled!(target: TARGET, Level::DEBUG)
}

fn log(what: &'static str, attempt: AttemptId) {
    tracing::debug!(target: TARGET, task = %attempt.task, attempt = attempt.number, "{what}");
}

fn log_traced(what: &'static str, attempt: AttemptId, trace: u128) {
    match trace {
        0 => log(what, attempt),
        trace => {
            let trace_id = format_args!("{trace:032x}");
            tracing::debug!(target: TARGET, task = %attempt.task, attempt = attempt.number, %trace_id, "{what}");
        }
    }
}

fn log_ended(what: &'static str, attempt: AttemptId, outcome: &str) {
    tracing::debug!(target: TARGET, task = %attempt.task, attempt = attempt.number, outcome, "{what}");
}

/// A message that goes down, or has come from above.
pub(super) fn down(message: &Message, tasks: &'static str, cancels: &'static str) {
    match message {
        Message::Tasks(batch) if is_on() => {
            for head in &batch.heads {
                let trace = batch.specs.get(head.spec as usize).map_or(0, |spec| spec.trace_id());
                log_traced(tasks, AttemptId { task: head.task, number: head.attempt }, trace);
            }
        }
        Message::Cancel(attempts) if is_on() => {
            attempts.iter().for_each(|attempt| log(cancels, (*attempt).into()));
        }
        _ => {}
    }
}

/// A message that has come from below.
pub(super) fn up(message: &Message) {
    match message {
        Message::Outcomes(batch) if is_on() => {
            for head in &batch.heads {
                let attempt = AttemptId { task: head.task, number: head.attempt };
                log_ended("outcome received", attempt, head.kind.as_str());
            }
        }
        Message::TaskEvents(events) if is_on() => {
            let events = events.iter().cloned().map(TaskEvent::from);
            for event in events.filter(|event| event.kind == TaskEventKind::Started) {
                log("started below", event.attempt);
            }
        }
        Message::GaveBack(attempts) if is_on() => {
            attempts.iter().for_each(|attempt| log("given back from below", (*attempt).into()));
        }
        _ => {}
    }
}

/// Tasks that an executor is to run.
pub(super) fn run(tasks: &[Task]) {
    if is_on() {
        for task in tasks {
            log_traced("given to the executor", task.attempt_id(), task.spec.trace.trace_id);
        }
    }
}

/// Attempts that were lost here or below, which everybody may want to know. That others have begun is logged where it is
/// heard.
pub(super) fn lost(events: &[TaskEvent]) {
    let is_lost = |event: &&TaskEvent| matches!(event.kind, TaskEventKind::Lost | TaskEventKind::LeaseLost);
    for TaskEvent { attempt, kind, actor, detail, .. } in events.iter().filter(is_lost) {
        tracing::info!(task = %attempt.task, attempt = attempt.number, actor, detail, "{}", kind.as_str());
    }
}

/// Attempts that an executor is to stop.
pub(super) fn stop(attempts: &[AttemptId]) {
    if is_on() {
        attempts.iter().for_each(|attempt| log("the executor is asked to stop it", *attempt));
    }
}

/// What an executor says.
pub(super) fn executor(event: &ExecutorEvent) {
    match event {
        ExecutorEvent::Started(started) if is_on() => {
            started.iter().for_each(|(attempt, _)| log("started", *attempt));
        }
        ExecutorEvent::Outcomes(outcomes) if is_on() => ended("ended", outcomes),
        ExecutorEvent::GaveBack(attempts) if is_on() => {
            attempts.iter().for_each(|attempt| log("given back by the executor", *attempt));
        }
        _ => {}
    }
}

/// Outcomes that are to be made safe.
pub(super) fn deliver(outcomes: &[Outcome]) {
    if is_on() {
        ended("outcome is being made safe", outcomes);
    }
}

fn ended(what: &'static str, outcomes: &[Outcome]) {
    outcomes.iter().for_each(|outcome| log_ended(what, outcome.attempt_id(), outcome.kind.as_str()));
}
