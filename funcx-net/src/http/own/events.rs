//! The outcomes of a task group as server-sent events.

use std::{convert::Infallible, time::Duration};

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::IntoResponse;
use axum::response::sse::{Event, KeepAlive, Sse};
use funcx_core::model::{TaskGroupId, Timestamp};
use futures::stream;
use serde::Deserialize;
use utoipa::IntoParams;

use crate::http::error::{ApiError, Result};
use crate::http::extract::{App, Caller, Params, PathId};
use crate::http::view;
use crate::http::wire::TaskView;
use crate::service::{FollowEvent, Follower, TaskStatus};

/// Time between comments that keep idle connections open.
pub(in crate::http) const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Where to go on.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct From {
    /// `id` of the last event that was seen; the header `Last-Event-ID` says the same and wins.
    after: Option<u64>,
}

/// The outcomes of a task group, in the order in which the service had them: those that are there, then those that come.
///
/// Each event `outcome` holds a task as `GET /v1/tasks/{id}` shows it; its `id` is where to go on after it. An event
/// `lagged` says that outcomes came faster than they were read; they follow from the store, and nothing is left out.
#[utoipa::path(
    get, path = "/v1/task_groups/{id}/events", tag = "tasks", params(("id" = uuid::Uuid, Path), From),
    responses(
        (status = 200, body = TaskView, content_type = "text/event-stream"),
        ApiError
    )
)]
pub(super) async fn follow(
    State(app): State<App>,
    Caller(caller): Caller,
    PathId(group): PathId<TaskGroupId>,
    Params(from): Params<From>,
    headers: HeaderMap,
) -> Result<impl IntoResponse> {
    let after =
        match headers.get("last-event-id") {
            None => from.after.unwrap_or(0),
            Some(id) => id.to_str().ok().and_then(|id| id.trim().parse().ok()).ok_or_else(|| {
                ApiError::invalid("`Last-Event-ID` is not the id of an event of this stream")
            })?,
        };
    let follower = app.service.follow(&caller, group, Timestamp::from_nanos(after)).await?;
    let events = stream::unfold(follower, |mut follower| async move {
        let event = next(&mut follower).await?;
        Some((Ok::<_, Infallible>(event), follower))
    });
    Ok(Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)))
}

/// The next event; none ends the stream, and the client comes back where it was.
async fn next(follower: &mut Follower) -> Option<Event> {
    match follower.next().await {
        Ok(Some(FollowEvent::Outcome(record))) => {
            let id = record.outcome.as_ref().map_or(0, |outcome| outcome.completed.as_nanos());
            // A view holds text and numbers only, so it always has a JSON form. It is made in one piece: an event looks for line
            // ends in each that it is given, and there are some forty in a view.
            let view = view::task_text(&record, TaskStatus::Finished).ok()?;
            let view = String::from_utf8(view).ok()?;
            Some(Event::default().event("outcome").id(id.to_string()).data(view))
        }
        Ok(Some(FollowEvent::Lagged)) => Some(Event::default().event("lagged").data("{}")),
        Ok(None) => None,
        Err(refusal) => {
            tracing::warn!(%refusal, "a stream of outcomes ends early");
            None
        }
    }
}
