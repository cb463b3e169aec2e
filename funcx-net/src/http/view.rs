//! Records as the JSON of our own routes, and requests of both APIs as what the service takes.

use std::{borrow::Cow, time::Duration};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use funcx_core::contract::{Access, EndpointRecord, FunctionRecord, TaskRecord};
use funcx_core::model::{Accelerators, FunctionKind, Hop, OutcomeKind, Shape, Target, TaskLimits};
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};
use uuid::Uuid;

use super::error::{ApiError, Result};
use super::wire::{
    self, CancelAnswer, EndpointView, FailureView, FunctionView, Resources, TaskView, TimelineView,
    TransitionView,
};
use crate::service::{CancelEffect, CancelReport, EndpointFigures, TaskStatus, Timeline, Transition};

/// Longest walltime that makes sense, in seconds: ten years.
const MAX_TIME_SECONDS: f64 = 10.0 * 365.0 * 86_400.0;

/// Room for the text of a view besides the value.
const VIEW_BYTES: usize = 1024;

/// Who may use something, in the two fields of requests. What everybody may use, a group may use as well.
pub(super) fn access(public: bool, group: Option<Uuid>) -> Access {
    match (public, group) {
        (true, _) => Access::Public,
        (false, Some(group)) => Access::Group(group),
        (false, None) => Access::Private,
    }
}

/// The two fields for who may use something.
fn access_fields(access: Access) -> (bool, Option<Uuid>) {
    match access {
        Access::Public => (true, None),
        Access::Group(group) => (false, Some(group)),
        Access::Private => (false, None),
    }
}

/// Text of a JSON object that a client gave, for records.
pub(super) fn object_text(object: Option<Box<RawValue>>, field: &str) -> Result<String> {
    match object {
        None => Ok("{}".to_owned()),
        Some(object) if object.get().starts_with('{') => Ok(Box::<str>::from(object).into_string()),
        Some(_) => Err(ApiError::invalid(format!("`{field}` must be a JSON object"))),
    }
}

/// JSON that a record holds as text; nothing if it holds none.
pub(super) fn raw(text: &[u8]) -> Option<Box<RawValue>> {
    serde_json::from_slice(text).ok()
}

/// A string as JSON.
fn raw_string(text: &str) -> Option<Box<RawValue>> {
    to_raw_value(text).ok()
}

pub(super) fn function(record: &FunctionRecord, with_code: bool) -> FunctionView {
    let body = record.function.body();
    let (public, group) = access_fields(record.access);
    FunctionView {
        function_id: record.id,
        name: record.name.clone(),
        kind: body.kind,
        entry: body.entry.clone(),
        code: with_code.then(|| String::from_utf8_lossy(&body.code).into_owned()),
        hash: record.function.hash().to_string(),
        description: record.description.clone(),
        owner: record.owner,
        public,
        group,
        memoize: record.memoize,
        metadata: raw(record.metadata.as_bytes()),
        created: record.created.as_secs_f64(),
    }
}

pub(super) fn endpoint(record: &EndpointRecord, figures: EndpointFigures) -> EndpointView {
    let (public, group) = access_fields(record.access);
    let EndpointFigures { connected, managers, workers, queued, leased } = figures;
    EndpointView {
        endpoint_id: record.id,
        name: record.name.clone(),
        owner: record.owner,
        public,
        group,
        allowed_functions: record.allowed_functions.clone(),
        metadata: raw(record.metadata.as_bytes()),
        created: record.created.as_secs_f64(),
        connected,
        managers,
        workers,
        queued,
        leased,
    }
}

pub(super) fn task(record: &TaskRecord, status: TaskStatus) -> TaskView {
    let mut view = without_value(record, status);
    match value(record) {
        None => {}
        Some(Value::Json(value)) => view.result = Some(value.into_owned()),
        Some(Value::Bytes(bytes)) => view.result_base64 = Some(STANDARD.encode(bytes)),
    }
    view
}

/// Text of the view of a task; a value, which may be large, is copied once.
pub(super) fn task_text(record: &TaskRecord, status: TaskStatus) -> serde_json::Result<Vec<u8>> {
    #[derive(Serialize)]
    struct WithValue<'a> {
        #[serde(flatten)]
        view: TaskView,
        result: &'a RawValue,
    }
    let Some(Value::Json(result)) = value(record) else { return serde_json::to_vec(&task(record, status)) };
    let mut text = Vec::with_capacity(result.get().len() + VIEW_BYTES);
    serde_json::to_writer(&mut text, &WithValue { view: without_value(record, status), result: &result })?;
    Ok(text)
}

/// What a task returned.
enum Value<'a> {
    Json(Cow<'a, RawValue>),
    Bytes(&'a [u8]),
}

fn value(record: &TaskRecord) -> Option<Value<'_>> {
    let outcome = &record.outcome.as_ref()?.outcome;
    if outcome.kind != OutcomeKind::Returned {
        return None;
    }
    let json = match record.spec.function.kind() {
        FunctionKind::GlobusCompute if !record.spec.map => {
            std::str::from_utf8(&outcome.payload).ok().and_then(raw_string).map(Cow::Owned)
        }
        _ => serde_json::from_slice(&outcome.payload).ok().map(Cow::Borrowed),
    };
    Some(json.map_or(Value::Bytes(&outcome.payload), Value::Json))
}

fn without_value(record: &TaskRecord, status: TaskStatus) -> TaskView {
    let mut view = TaskView {
        task_id: record.id,
        task_group_id: record.group,
        endpoint_id: record.endpoint,
        function_id: record.function,
        status: status_word(status).to_owned(),
        outcome: None,
        map: record.spec.map,
        result: None,
        result_base64: None,
        failure: None,
        stdout: String::new(),
        stderr: String::new(),
        attempt: None,
        worker: None,
        accepted: record.accepted.as_secs_f64(),
        completed: None,
        stamps: Default::default(),
    };
    let Some(finished) = &record.outcome else { return view };
    let outcome = &finished.outcome;
    view.outcome = Some(outcome.kind);
    view.attempt = Some(outcome.attempt);
    view.completed = Some(finished.completed.as_secs_f64());
    view.stdout = String::from_utf8_lossy(&outcome.stdout).into_owned();
    view.stderr = String::from_utf8_lossy(&outcome.stderr).into_owned();
    view.worker = raw(&outcome.worker);
    view.stamps = Hop::ALL
        .into_iter()
        .filter(|hop| outcome.stamps.at(*hop).is_set())
        .map(|hop| (hop.as_str().to_owned(), outcome.stamps.at(hop).as_nanos()))
        .collect();
    view.failure = outcome.failure().map(|failure| FailureView {
        code: failure.code,
        message: failure.message,
        traceback: failure.traceback,
    });
    view
}

pub(super) fn timeline(timeline: Timeline) -> TimelineView {
    let Timeline { task, transitions } = timeline;
    let trace = task.record.spec.trace.trace_id;
    let transitions = transitions.into_iter().map(|Transition { at, what, attempt, actor, detail }| {
        TransitionView { at: at.as_nanos(), what: what.to_owned(), attempt, actor, detail }
    });
    TimelineView {
        task_id: task.record.id,
        status: status_word(task.status).to_owned(),
        outcome: task.record.outcome.as_ref().map(|finished| finished.outcome.kind),
        trace_id: (trace != 0).then(|| format!("{trace:032x}")),
        transitions: transitions.collect(),
    }
}

pub(super) fn cancelled(report: CancelReport) -> CancelAnswer {
    let CancelReport { cancelled, asked, finished, unknown, effects } = report;
    let effects = effects.into_iter().map(|effect| match effect {
        CancelEffect::Cancelled => wire::CancelEffect::Cancelled,
        CancelEffect::Asked => wire::CancelEffect::Asked,
        CancelEffect::Finished => wire::CancelEffect::Finished,
        CancelEffect::Unknown => wire::CancelEffect::Unknown,
    });
    CancelAnswer { cancelled, asked, finished, unknown, effects: effects.collect() }
}

const fn status_word(status: TaskStatus) -> &'static str {
    match status {
        TaskStatus::WaitingForEndpoint => "waiting-for-endpoint",
        TaskStatus::WaitingForRoom => "queued",
        TaskStatus::Dispatched => "dispatched",
        TaskStatus::Running => "running",
        TaskStatus::Finished => "finished",
    }
}

/// What a task asks for, checked.
pub(super) fn shape(resources: Resources) -> Result<(Shape, TaskLimits)> {
    let mut shape = Shape::default();
    let mut limits = TaskLimits::default();
    shape.walltime = time(resources.walltime_seconds, "walltime")?;
    limits.ttl = time(resources.ttl_seconds, "ttl")?;
    limits.deadline = time(resources.deadline_seconds, "deadline")?;
    if let Some(cores) = resources.cores {
        shape.milli_cores = thousandths(cores, "cores")?;
    }
    if let Some(count) = resources.accelerators {
        let milli_count = thousandths(count, "accelerators")?;
        shape.accelerators = Accelerators { milli_count, kind: resources.accelerator_kind };
    }
    shape.memory_bytes = resources.memory_bytes.unwrap_or(shape.memory_bytes);
    shape.nodes = at_least_one(resources.nodes, "nodes")?;
    shape.ranks_per_node = at_least_one(resources.ranks_per_node, "ranks_per_node")?;
    shape.environment = resources.environment;
    shape.container = resources.container;
    if let Some(labels) = resources.labels.filter(|labels| !labels.is_empty()) {
        shape.target = Target::Labels(labels);
    }
    limits.max_attempts = resources.max_attempts.unwrap_or(limits.max_attempts);
    limits.priority = resources.priority.unwrap_or(limits.priority);
    Ok((shape, limits))
}

fn time(seconds: Option<f64>, what: &str) -> Result<Option<Duration>> {
    match seconds {
        None => Ok(None),
        Some(seconds) if seconds > 0.0 && seconds <= MAX_TIME_SECONDS => {
            Ok(Some(Duration::from_secs_f64(seconds)))
        }
        Some(_) => {
            Err(ApiError::invalid(format!("the {what} must be more than 0 seconds and at most ten years")))
        }
    }
}

fn thousandths(count: f64, field: &str) -> Result<u32> {
    let milli = count * 1000.0;
    match milli >= 1.0 && milli <= f64::from(u32::MAX) {
        true => Ok(milli.round() as u32),
        false => Err(ApiError::invalid(format!("`{field}` must be from 0.001 to {}", u32::MAX / 1000))),
    }
}

fn at_least_one(count: Option<u32>, field: &str) -> Result<u32> {
    match count {
        Some(0) => Err(ApiError::invalid(format!("`{field}` must be at least 1"))),
        count => Ok(count.unwrap_or(1)),
    }
}

/// Text as payload, without a copy.
pub(super) fn payload(text: impl Into<String>) -> Bytes {
    Bytes::from(text.into())
}
