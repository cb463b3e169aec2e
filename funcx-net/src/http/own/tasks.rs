//! Tasks.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use funcx_core::contract::TaskCursor;
use funcx_core::model::{TaskGroupId, TaskId, limit};
use serde::Deserialize;
use utoipa::IntoParams;

use crate::http::error::{ApiError, Result};
use crate::http::extract::{App, Body, Caller, Params, PathId};
use crate::http::view;
use crate::http::wire::{CancelAnswer, CancelRequest, PurgeAnswer, TaskPage, TaskView, TimelineView};
use crate::service::{CancelTarget, PurgeReport};

/// Longest time that an answer is held back.
const MAX_WAIT_SECONDS: f64 = 30.0;
/// Longest text of a cursor.
const MAX_CURSOR_BYTES: usize = 1024;
/// Bytes of results on a page; a page ends early when they are reached.
const PAGE_BYTES: usize = 32 << 20;

/// Which page of tasks.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Page {
    /// Only tasks of this group.
    #[param(value_type = Option<uuid::Uuid>)]
    task_group_id: Option<TaskGroupId>,
    /// `next` of the last page.
    after: Option<String>,
    /// Tasks on the page, at most 1000.
    limit: Option<usize>,
}

/// The caller's tasks, oldest first.
#[utoipa::path(
    get, path = "/v1/tasks", tag = "tasks", params(Page),
    responses((status = 200, body = TaskPage), ApiError)
)]
pub(super) async fn list(
    State(app): State<App>,
    Caller(caller): Caller,
    Params(page): Params<Page>,
) -> Result<Json<TaskPage>> {
    let after = page.after.as_deref().map(cursor).transpose()?;
    let limit = page.limit.unwrap_or(100).clamp(1, limit::MAX_PAGE_TASKS);
    let (ids, mut next) = app.service.task_ids(&caller, page.task_group_id, after.clone(), limit).await?;
    let tasks = app.service.tasks(&caller, &ids, PAGE_BYTES).await?;
    if tasks.len() < ids.len() {
        // Large results: the page is shorter, and its end is asked for again so that its cursor is right.
        next = app.service.task_ids(&caller, page.task_group_id, after, tasks.len()).await?.1;
    }
    let tasks = tasks.into_iter().flatten().map(|task| view::task(&task.record, task.status)).collect();
    Ok(Json(TaskPage { tasks, next: next.map(|cursor| URL_SAFE_NO_PAD.encode(cursor.0)) }))
}

fn cursor(text: &str) -> Result<TaskCursor> {
    Some(text)
        .filter(|text| text.len() <= MAX_CURSOR_BYTES)
        .and_then(|text| URL_SAFE_NO_PAD.decode(text).ok())
        .map(TaskCursor)
        .ok_or_else(|| ApiError::invalid("`after` is not the `next` of a page"))
}

/// How long to wait.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Wait {
    /// Seconds to hold the answer back for a task that has not ended, at most 30.
    wait: Option<f64>,
}

/// A task.
#[utoipa::path(
    get, path = "/v1/tasks/{id}", tag = "tasks", params(("id" = uuid::Uuid, Path), Wait),
    responses((status = 200, body = TaskView), ApiError)
)]
pub(super) async fn find(
    State(app): State<App>,
    Caller(caller): Caller,
    PathId(id): PathId<TaskId>,
    Params(wait): Params<Wait>,
) -> Result<Json<TaskView>> {
    let task = match wait.wait {
        None | Some(0.0) => app.service.task(&caller, id).await?,
        Some(seconds) if seconds > 0.0 => {
            let patience = Duration::from_secs_f64(seconds.min(MAX_WAIT_SECONDS));
            app.service.wait(&caller, id, patience).await?
        }
        Some(_) => return Err(ApiError::invalid("`wait` must be a number of seconds, 0 or more")),
    };
    Ok(Json(view::task(&task.record, task.status)))
}

/// What happened to a task: when, and who did it.
#[utoipa::path(
    get, path = "/v1/tasks/{id}/timeline", tag = "tasks", params(("id" = uuid::Uuid, Path)),
    responses((status = 200, body = TimelineView), ApiError)
)]
pub(super) async fn timeline(
    State(app): State<App>,
    Caller(caller): Caller,
    PathId(id): PathId<TaskId>,
) -> Result<Json<TimelineView>> {
    Ok(Json(view::timeline(app.service.timeline(&caller, id).await?)))
}

/// Cancel tasks: up to 100,000 in one request, or all of a group.
#[utoipa::path(
    post, path = "/v1/cancel", tag = "tasks", request_body = CancelRequest,
    responses((status = 200, body = CancelAnswer), ApiError)
)]
pub(super) async fn cancel(
    State(app): State<App>,
    Caller(caller): Caller,
    Body(request): Body<CancelRequest>,
) -> Result<Json<CancelAnswer>> {
    let report = app.service.cancel(&caller, target(request)?).await?;
    Ok(Json(view::cancelled(report)))
}

/// Forget tasks that have ended, with their arguments and results: up to 100,000 in one request, or all of a group. Those that
/// have not ended stay; cancel them first.
#[utoipa::path(
    post, path = "/v1/purge", tag = "tasks", request_body = CancelRequest,
    responses((status = 200, body = PurgeAnswer), ApiError)
)]
pub(super) async fn purge(
    State(app): State<App>,
    Caller(caller): Caller,
    Body(request): Body<CancelRequest>,
) -> Result<Json<PurgeAnswer>> {
    let PurgeReport { purged, unfinished, unknown } = app.service.purge(&caller, target(request)?).await?;
    Ok(Json(PurgeAnswer { purged, unfinished, unknown }))
}

/// The tasks that a request names.
fn target(request: CancelRequest) -> Result<CancelTarget> {
    match (request.task_ids, request.task_group_id) {
        (Some(ids), None) if ids.len() <= limit::MAX_SUBMIT_TASKS => Ok(CancelTarget::Tasks(ids)),
        (Some(_), None) => {
            let message = format!(
                "`task_ids` holds more than {} ids (limit MAX_SUBMIT_TASKS)",
                limit::MAX_SUBMIT_TASKS
            );
            Err(ApiError::new(axum::http::StatusCode::PAYLOAD_TOO_LARGE, "TOO_MANY_TASKS", message))
        }
        (None, Some(group)) => Ok(CancelTarget::Group(group)),
        _ => Err(ApiError::invalid("give either `task_ids` or `task_group_id`")),
    }
}
