//! Tasks and task groups.

use axum::Json;
use axum::body::Body as ResponseBody;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use funcx_core::contract::{Principal, TaskCursor, TaskRecord};
use funcx_core::model::{Failure, FunctionKind, Hop, Outcome, OutcomeKind, TaskGroupId, TaskId, limit};
use futures::stream;
use serde_json::{Map, Value};

use super::wire::{BatchResults, BatchStatus, TaskInfo};
use crate::http::date::iso;
use crate::http::error::{ApiError, Result};
use crate::http::extract::{App, Body, Caller, PathId};
use crate::service::{READ_TASKS, TaskStatus, TaskView};

/// Bytes of results in one answer to a batch.
const BATCH_BYTES: usize = 64 << 20;

/// A task.
#[utoipa::path(
    get, path = "/v2/tasks/{id}", tag = "globus-compute", operation_id = "globus_get_task",
    params(("id" = uuid::Uuid, Path)),
    responses((status = 200, body = TaskInfo), ApiError)
)]
pub(super) async fn find(
    State(app): State<App>,
    Caller(caller): Caller,
    PathId(id): PathId<TaskId>,
) -> Result<Json<TaskInfo>> {
    Ok(Json(info(&app.service.task(&caller, id).await?)))
}

/// Many tasks.
#[utoipa::path(
    post, path = "/v2/batch_status", tag = "globus-compute", operation_id = "globus_batch_status", request_body = BatchStatus,
    responses((status = 200, body = BatchResults), ApiError)
)]
pub(super) async fn batch_status(
    State(app): State<App>,
    Caller(caller): Caller,
    Body(request): Body<BatchStatus>,
) -> Result<Json<BatchResults>> {
    if request.task_ids.len() > limit::MAX_SUBMIT_TASKS {
        let message = format!("more than {} task ids (limit MAX_SUBMIT_TASKS)", limit::MAX_SUBMIT_TASKS);
        return Err(ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "TOO_MANY_TASKS", message));
    }
    let tasks = app.service.tasks(&caller, &request.task_ids, BATCH_BYTES).await?;
    let results = tasks.iter().flatten().map(|task| (task.record.id, info(task))).collect();
    Ok(Json(BatchResults { response: "batch", results }))
}

/// The tasks of a group.
#[utoipa::path(
    get, path = "/v2/taskgroup/{id}", tag = "globus-compute", operation_id = "globus_get_task_group",
    params(("id" = uuid::Uuid, Path)),
    responses((status = 200, body = Value), ApiError)
)]
pub(super) async fn group(
    State(app): State<App>,
    Caller(caller): Caller,
    PathId(group): PathId<TaskGroupId>,
) -> Result<Response> {
    // Asked for here, so that a failure has its status; what follows streams page by page, however large the group is.
    app.service.check_group(&caller, group).await?;
    let pages = stream::unfold(Some(Listing::new(app, caller, group)), |listing| async move {
        let mut listing = listing?;
        match listing.next().await {
            Ok((text, more)) => Some((Ok(text), more.then_some(listing))),
            Err(refusal) => Some((Err(refusal), None)),
        }
    });
    Ok(([(header::CONTENT_TYPE, "application/json")], ResponseBody::from_stream(pages)).into_response())
}

/// The JSON of a group, piece by piece.
struct Listing {
    app: App,
    caller: Principal,
    group: TaskGroupId,
    after: Option<TaskCursor>,
    tasks: usize,
    begun: bool,
}

impl Listing {
    fn new(app: App, caller: Principal, group: TaskGroupId) -> Self {
        Self { app, caller, group, after: None, tasks: 0, begun: false }
    }

    /// The next piece, and whether there are more.
    async fn next(&mut self) -> Result<(Bytes, bool), crate::service::Refusal> {
        let mut text = String::new();
        if !std::mem::replace(&mut self.begun, true) {
            let group = self.group;
            text += &format!(r#"{{"taskgroup_id":"{group}","create_websockets_queue":true,"tasks":["#);
        }
        let after = self.after.take();
        let (ids, next) =
            self.app.service.task_ids(&self.caller, Some(self.group), after, limit::MAX_PAGE_TASKS).await?;
        // Few at a time, because each comes with its result, which is not wanted here.
        for part in ids.chunks(READ_TASKS) {
            for task in self.app.service.tasks(&self.caller, part, usize::MAX).await?.iter().flatten() {
                let comma = if self.tasks == 0 { "" } else { "," };
                let (id, accepted) = (task.record.id, iso(task.record.accepted));
                text += &format!(r#"{comma}{{"id":"{id}","created_at":"{accepted}"}}"#);
                self.tasks += 1;
            }
        }
        let more = next.is_some();
        self.after = next;
        if !more {
            text += "]}";
        }
        Ok((text.into(), more))
    }
}

/// A task as the SDK reads it.
fn info(task: &TaskView) -> TaskInfo {
    let record = &task.record;
    let mut info = TaskInfo {
        task_id: record.id,
        status: match task.status {
            TaskStatus::WaitingForEndpoint => "waiting-for-ep",
            TaskStatus::WaitingForRoom => "waiting-for-nodes",
            TaskStatus::Dispatched => "waiting-for-launch",
            TaskStatus::Running => "running",
            TaskStatus::Finished => "failed",
        },
        result: None,
        exception: None,
        completion_t: None,
        details: None,
        reason: None,
    };
    let Some(finished) = &record.outcome else { return info };
    let outcome = &finished.outcome;
    let micros = finished.completed.as_nanos() / 1000;
    info.completion_t = Some(format!("{}.{:06}", micros / 1_000_000, micros % 1_000_000));
    info.details = details(record, outcome);
    match outcome.failure() {
        None => {
            info.status = "success";
            info.result = Some(result(record.spec.function.kind(), outcome));
        }
        Some(failure) => {
            info.reason = (outcome.kind != OutcomeKind::Raised).then(|| outcome.kind.to_string());
            info.exception = Some(exception(outcome.kind, failure));
        }
    }
    info
}

/// The value as a serialized string without a frame. Values of our other kinds are JSON, which is strategy `11`.
fn result(kind: FunctionKind, outcome: &Outcome) -> String {
    let text = String::from_utf8_lossy(&outcome.payload);
    match kind {
        FunctionKind::GlobusCompute => text.into_owned(),
        _ => format!("11\n{text}"),
    }
}

/// The text that the SDK raises.
fn exception(kind: OutcomeKind, failure: Failure) -> String {
    match kind {
        OutcomeKind::Raised if !failure.traceback.is_empty() => failure.traceback,
        OutcomeKind::Raised => format!("{}: {}", failure.code, failure.message),
        kind => format!("the task ended as {kind}: {}: {}", failure.code, failure.message),
    }
}

/// What is known about the worker; nothing if it did not say which Python it ran, because the SDK would warn of a
/// difference then.
fn details(record: &TaskRecord, outcome: &Outcome) -> Option<Map<String, Value>> {
    let mut details: Map<String, Value> = serde_json::from_slice(&outcome.worker).ok()?;
    if !["python_version", "dill_version"].iter().all(|key| details.contains_key(*key)) {
        return None;
    }
    details.insert("endpoint_id".to_owned(), record.endpoint.to_string().into());
    let mut transitions = Map::new();
    for (name, hop) in [("execution-start", Hop::Started), ("execution-end", Hop::Ended)] {
        let at = outcome.stamps.at(hop);
        if at.is_set() {
            transitions.insert(name.to_owned(), at.as_secs_f64().into());
        }
    }
    details.insert("task_transitions".to_owned(), transitions.into());
    Some(details)
}
