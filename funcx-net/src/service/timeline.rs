//! What happened to a task, when, and who did it.
//!
//! The hops of the last attempt are stamps in its outcome; what is rare (lost attempts, requests to cancel) are events
//! of their own. Both together are the timeline. Times of different machines are as comparable as their clocks, so hops
//! stand in the order in which a task passes them, whatever their stamps say, and events stand between them by time.

use std::sync::Arc;

use funcx_core::contract::{Principal, TaskRecord};
use funcx_core::model::{EndpointId, Hop, HopStamps, TaskEvent, TaskEventKind, TaskId, Timestamp};

use super::{Answer, Service, TaskView};

/// A task and everything that is known to have happened to it.
#[derive(Debug, Clone)]
pub struct Timeline {
    /// The task and where it is.
    pub task: TaskView,
    /// In the order in which it happened.
    pub transitions: Vec<Transition>,
}

/// Something that happened to a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transition {
    /// When, by the clock of the actor.
    pub at: Timestamp,
    /// A word for it.
    pub what: &'static str,
    /// The attempt that it happened to; none for what concerns the task as a whole, or if it is unknown.
    pub attempt: Option<u32>,
    /// Who did it, in words for people.
    pub actor: String,
    /// More about it, in words for people; empty if there is nothing to say.
    pub detail: String,
}

/// An attempt that has not ended, as far as the service knows.
#[derive(Debug, Clone, Copy, Default)]
struct Progress {
    stamps: HopStamps,
    attempt: Option<u32>,
}

impl Service {
    /// What happened to a task so far.
    ///
    /// # Errors
    /// `NotFound`, `Forbidden`, `Unavailable` (the store).
    pub async fn timeline(self: &Arc<Self>, principal: &Principal, id: TaskId) -> Answer<Timeline> {
        let task = self.task(principal, id).await?;
        let events = self.store.task_events(id).await?;
        let progress = match task.record.outcome {
            Some(_) => Progress::default(),
            None => self.progress_of(id).await?,
        };
        let endpoint = self.endpoint_in_words(task.record.endpoint).await?;
        let transitions = transitions(&task.record, progress, events, &endpoint);
        Ok(Timeline { task, transitions })
    }

    /// How far a task has come that has not ended.
    async fn progress_of(&self, task: TaskId) -> Answer<Progress> {
        let progress = self.node.with(move |node, _| node.progress(task)).await?;
        Ok(progress
            .map_or_else(Progress::default, |(attempt, stamps)| Progress { stamps, attempt: Some(attempt) }))
    }

    /// The name of an endpoint, which may be gone, with its id.
    async fn endpoint_in_words(&self, id: EndpointId) -> Answer<String> {
        Ok(match self.store.endpoint(id).await? {
            Some(record) => format!("endpoint {} ({id})", record.name),
            None => format!("endpoint {id}"),
        })
    }
}

/// Everything that is known, in order.
fn transitions(
    record: &TaskRecord,
    progress: Progress,
    events: Vec<TaskEvent>,
    endpoint: &str,
) -> Vec<Transition> {
    let (mut stamps, attempt) = match &record.outcome {
        Some(finished) => (finished.outcome.stamps, Some(finished.outcome.attempt)),
        None => (progress.stamps, progress.attempt),
    };
    stamps.set(Hop::Accepted, record.accepted);
    let worker = record.outcome.as_ref().and_then(|finished| worker_in_words(&finished.outcome.worker));
    let worker = worker.unwrap_or_else(|| "worker".to_owned());
    // The number of the attempt that was made at this time, if attempts were lost at all.
    let lost_before = |at: Timestamp| {
        let lost = events
            .iter()
            .filter(|event| matches!(event.kind, TaskEventKind::Lost | TaskEventKind::LeaseLost));
        let (before, after): (Vec<_>, Vec<_>) = lost.partition(|event| event.at <= at);
        let next = before.iter().map(|event| event.attempt.number + 1).max();
        next.or(after.iter().map(|event| event.attempt.number).min())
    };
    let mut hops: Vec<Transition> = Hop::ALL
        .into_iter()
        .filter(|hop| stamps.at(*hop).is_set())
        .map(|hop| Transition {
            at: stamps.at(hop),
            what: hop.as_str(),
            attempt: match hop {
                Hop::Accepted => None,
                // An endpoint makes lost attempts again itself: what went to it was an earlier one.
                Hop::ServiceSent => lost_before(stamps.at(hop)).or(attempt),
                _ => attempt,
            },
            actor: match hop {
                Hop::Accepted | Hop::ServiceSent => "service".to_owned(),
                Hop::EndpointSent | Hop::EndpointReturned => endpoint.to_owned(),
                Hop::ManagerSent | Hop::ManagerReturned => "manager".to_owned(),
                Hop::Started | Hop::Ended => worker.clone(),
            },
            detail: String::new(),
        })
        .collect();
    hops.extend(record.outcome.as_ref().map(|finished| Transition {
        at: finished.completed,
        what: "completed",
        attempt,
        actor: "service".to_owned(),
        detail: match finished.outcome.failure() {
            Some(failure) => format!("{}: {}: {}", finished.outcome.kind, failure.code, failure.message),
            None => finished.outcome.kind.to_string(),
        },
    }));
    let known = stamps.at(Hop::Started).is_set();
    merged(hops, events.into_iter().filter(|event| !is_told(event, attempt, known)))
}

/// Whether a stamp says the same as this event.
fn is_told(event: &TaskEvent, attempt: Option<u32>, started: bool) -> bool {
    event.kind == TaskEventKind::Started
        && started
        && attempt.is_none_or(|attempt| attempt == event.attempt.number)
}

/// Puts events, in order of time, between hops, in the order of hops: before the first hop that is later.
fn merged(hops: Vec<Transition>, events: impl Iterator<Item = TaskEvent>) -> Vec<Transition> {
    let mut events = events.map(of_event).peekable();
    let mut all = Vec::with_capacity(hops.len());
    for hop in hops {
        // Whatever clocks say: nothing happens to a task before it is accepted.
        while hop.what != Hop::Accepted.as_str()
            && let Some(event) = events.next_if(|event| event.at < hop.at)
        {
            all.push(event);
        }
        all.push(hop);
    }
    all.extend(events);
    all
}

fn of_event(event: TaskEvent) -> Transition {
    let TaskEvent { attempt, at, kind, actor, detail } = event;
    Transition { at, what: kind.as_str(), attempt: Some(attempt.number), actor, detail }
}

/// What the worker says about itself, as the name of an actor.
fn worker_in_words(worker: &[u8]) -> Option<String> {
    #[derive(Default, serde::Deserialize)]
    #[serde(default)]
    struct Details {
        hostname: String,
        os: String,
        python_version: String,
    }
    let Details { hostname, os, python_version } = serde_json::from_slice(worker).ok()?;
    let python = if python_version.is_empty() { python_version } else { format!("Python {python_version}") };
    let parts: Vec<_> = [hostname, os, python].into_iter().filter(|part| !part.is_empty()).collect();
    (!parts.is_empty()).then(|| format!("worker ({})", parts.join(", ")))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use funcx_core::contract::OutcomeRecord;
    use funcx_core::model::{
        AttemptId, Failure, Function, FunctionBody, FunctionId, FunctionKind, IdentityId, Outcome,
        OutcomeKind, Task, TaskGroupId, TaskSpec,
    };

    use super::*;

    fn at(nanos: u64) -> Timestamp {
        Timestamp::from_nanos(nanos)
    }

    fn record() -> TaskRecord {
        let body = FunctionBody { kind: FunctionKind::Native, entry: "f".to_owned(), code: Bytes::new() };
        TaskRecord {
            id: TaskId::from_u128(1),
            endpoint: EndpointId::from_u128(2),
            group: TaskGroupId::from_u128(3),
            function: FunctionId::from_u128(4),
            spec: Arc::new(TaskSpec::new(Arc::new(Function::new(body)), IdentityId::from_u128(5))),
            accepted: at(10),
            sequence: 1,
            attempt: 1,
            payload: Bytes::new(),
            outcome: None,
        }
    }

    fn event(number: u32, nanos: u64, kind: TaskEventKind) -> TaskEvent {
        let attempt = AttemptId { task: TaskId::from_u128(1), number };
        TaskEvent { attempt, at: at(nanos), kind, actor: "somebody".to_owned(), detail: "why".to_owned() }
    }

    fn words(transitions: &[Transition]) -> Vec<(&str, u64, Option<u32>)> {
        transitions.iter().map(|one| (one.what, one.at.as_nanos(), one.attempt)).collect()
    }

    #[test]
    fn events_stand_between_hops_and_hops_in_the_order_of_the_path() {
        let mut record = record();
        let mut task = Task::new(record.id, Arc::clone(&record.spec), Bytes::new());
        task.attempt = 2;
        let mut outcome = Outcome::failed(&task, OutcomeKind::Raised, &Failure::new("ValueError", "oh dear"));
        outcome.worker = Bytes::from_static(br#"{"os": "Linux", "python_version": "3.11.7", "x": 1}"#);
        // The clock of the worker is behind.
        for (hop, nanos) in
            [(Hop::ServiceSent, 20), (Hop::EndpointSent, 60), (Hop::Started, 15), (Hop::Ended, 70)]
        {
            outcome.stamps.set(hop, at(nanos));
        }
        record.outcome = Some(OutcomeRecord { outcome, completed: at(90) });
        let events = vec![
            event(1, 5, TaskEventKind::Started),
            event(1, 40, TaskEventKind::Lost),
            event(2, 65, TaskEventKind::Started),
            event(2, 95, TaskEventKind::CancelRequested),
        ];
        let all = transitions(&record, Progress::default(), events, "endpoint e");
        assert_eq!(
            words(&all),
            [
                ("accepted", 10, None),
                ("started", 5, Some(1)),
                ("service-sent", 20, Some(1)),
                ("attempt-lost", 40, Some(1)),
                ("endpoint-sent", 60, Some(2)),
                ("started", 15, Some(2)),
                ("ended", 70, Some(2)),
                ("completed", 90, Some(2)),
                ("cancel-requested", 95, Some(2)),
            ]
        );
        assert_eq!(all[4].actor, "endpoint e");
        assert_eq!(all[5].actor, "worker (Linux, Python 3.11.7)");
        assert_eq!(all[7].detail, "raised: ValueError: oh dear");
        assert_eq!((all[3].actor.as_str(), all[3].detail.as_str()), ("somebody", "why"));
    }

    #[test]
    fn a_task_under_way_shows_what_is_known() {
        let record = record();
        let none = transitions(&record, Progress::default(), Vec::new(), "endpoint e");
        assert_eq!(words(&none), [("accepted", 10, None)]);
        let mut progress = Progress { attempt: Some(2), ..Progress::default() };
        progress.stamps.set(Hop::Started, at(30));
        let events = vec![event(1, 20, TaskEventKind::Lost)];
        let some = transitions(&record, progress, events, "endpoint e");
        assert_eq!(
            words(&some),
            [("accepted", 10, None), ("attempt-lost", 20, Some(1)), ("started", 30, Some(2))]
        );
    }
}
