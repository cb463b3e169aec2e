//! Endpoints.

use axum::Json;
use axum::extract::State;
use funcx_core::contract::{Access, Action};
use funcx_core::model::{EndpointId, Timestamp};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::wire::{
    AllowedFunctions, EndpointDetails, EndpointEntry, EndpointStatus, Locked, NewEndpointV3, RegisteredV3,
};
use crate::driver::wall_clock;
use crate::http::date::iso;
use crate::http::error::{ApiError, Result};
use crate::http::extract::{App, Body, Caller, Params, PathId};
use crate::http::view;
use crate::service::NewEndpoint;

/// What goes on at an endpoint.
#[utoipa::path(
    get, path = "/v2/endpoints/{id}/status", tag = "globus-compute", operation_id = "globus_endpoint_status",
    params(("id" = uuid::Uuid, Path)),
    responses((status = 200, body = EndpointStatus), ApiError)
)]
pub(super) async fn status(
    State(app): State<App>,
    Caller(caller): Caller,
    PathId(id): PathId<EndpointId>,
) -> Result<Json<EndpointStatus>> {
    app.service.endpoint(&caller, id, Action::Read).await?;
    let figures = app.service.figures(&[id]).await?.first().copied().unwrap_or_default();
    Ok(Json(EndpointStatus {
        status: if figures.connected { "online" } else { "offline" },
        details: EndpointDetails {
            total_workers: figures.workers,
            idle_workers: u64::from(figures.workers).saturating_sub(figures.leased),
            pending_tasks: figures.queued,
            outstanding_tasks: figures.queued + figures.leased,
            managers: figures.managers,
        },
    }))
}

/// An endpoint.
#[utoipa::path(
    get, path = "/v2/endpoints/{id}", tag = "globus-compute", operation_id = "globus_get_endpoint",
    params(("id" = uuid::Uuid, Path)),
    responses((status = 200, body = Value), ApiError)
)]
pub(super) async fn find(
    State(app): State<App>,
    Caller(caller): Caller,
    PathId(id): PathId<EndpointId>,
) -> Result<Json<Map<String, Value>>> {
    let record = app.service.endpoint(&caller, id, Action::Read).await?;
    let mut info = about(&record.metadata);
    info.insert("uuid".to_owned(), id.to_string().into());
    info.insert("name".to_owned(), record.name.clone().into());
    info.insert("public".to_owned(), (record.access == Access::Public).into());
    for (key, default) in [("display_name", Value::Null), ("multi_user", false.into())] {
        info.entry(key).or_insert(default);
    }
    Ok(Json(info))
}

/// What an endpoint said about itself when it registered.
fn about(metadata: &str) -> Map<String, Value> {
    serde_json::from_str(metadata).unwrap_or_default()
}

#[derive(Debug, Deserialize)]
pub(super) struct Which {
    role: Option<String>,
}

/// Endpoints: the caller's own, or all that the caller may see.
#[utoipa::path(
    get, path = "/v2/endpoints", tag = "globus-compute", operation_id = "globus_list_endpoints",
    params(("role" = Option<String>, Query, description = "`owner` or `any`")),
    responses((status = 200, body = [EndpointEntry]), ApiError)
)]
pub(super) async fn list(
    State(app): State<App>,
    Caller(caller): Caller,
    Params(which): Params<Which>,
) -> Result<Json<Vec<EndpointEntry>>> {
    let records = app.service.endpoints(&caller, which.role.as_deref() != Some("any")).await?;
    let entry = |record: &std::sync::Arc<funcx_core::contract::EndpointRecord>| EndpointEntry {
        uuid: record.id,
        name: record.name.clone(),
        display_name: about(&record.metadata).get("display_name").and_then(Value::as_str).map(str::to_owned),
        owner: record.owner,
    };
    Ok(Json(records.iter().map(entry).collect()))
}

/// Which functions may run on an endpoint.
#[utoipa::path(
    get, path = "/v3/endpoints/{id}/allowed_functions", tag = "globus-compute",
    operation_id = "globus_allowed_functions", params(("id" = uuid::Uuid, Path)),
    responses((status = 200, body = AllowedFunctions), ApiError)
)]
pub(super) async fn allowed_functions(
    State(app): State<App>,
    Caller(caller): Caller,
    PathId(id): PathId<EndpointId>,
) -> Result<Json<AllowedFunctions>> {
    let record = app.service.endpoint(&caller, id, Action::Read).await?;
    Ok(Json(AllowedFunctions {
        endpoint_id: id,
        restricted: record.allowed_functions.is_some(),
        functions: record.allowed_functions.clone().unwrap_or_default(),
    }))
}

/// Register an endpoint for the first time.
#[utoipa::path(
    post, path = "/v3/endpoints", tag = "globus-compute", operation_id = "globus_register_endpoint", request_body = NewEndpointV3,
    responses((status = 200, body = RegisteredV3), ApiError)
)]
pub(super) async fn register(
    state: State<App>,
    caller: Caller,
    Body(request): Body<NewEndpointV3>,
) -> Result<Json<RegisteredV3>> {
    add(state, caller, None, request).await
}

/// Register an endpoint that has an id. One that is not known is adopted.
#[utoipa::path(
    put, path = "/v3/endpoints/{id}", tag = "globus-compute", operation_id = "globus_update_endpoint",
    params(("id" = uuid::Uuid, Path)), request_body = NewEndpointV3,
    responses((status = 200, body = RegisteredV3), ApiError)
)]
pub(super) async fn register_again(
    state: State<App>,
    caller: Caller,
    PathId(id): PathId<EndpointId>,
    Body(request): Body<NewEndpointV3>,
) -> Result<Json<RegisteredV3>> {
    add(state, caller, Some(id), request).await
}

async fn add(
    State(app): State<App>,
    Caller(caller): Caller,
    id: Option<EndpointId>,
    request: NewEndpointV3,
) -> Result<Json<RegisteredV3>> {
    let mut metadata = request.metadata.unwrap_or_default();
    if let Some(name) = request.display_name {
        metadata.insert("display_name".to_owned(), name.into());
    }
    if let Some(multi_user) = request.multi_user {
        metadata.insert("multi_user".to_owned(), multi_user.into());
    }
    let new = NewEndpoint {
        id,
        name: request.endpoint_name,
        access: view::access(request.public.unwrap_or(false), request.group),
        allowed_functions: request.allowed_functions,
        metadata: Value::from(metadata).to_string(),
    };
    let record = app.service.register_endpoint(&caller, new).await?;
    // The Globus Compute agent would look for AMQP queues in this answer; ours connects to /v1/link.
    let warning = "this service has no AMQP queues: use the funcx endpoint, which connects to /v1/link";
    Ok(Json(RegisteredV3 { endpoint_id: record.id, warnings: vec![warning.to_owned()] }))
}

/// Keep an endpoint from registering and connecting for a while.
#[utoipa::path(
    post, path = "/v3/endpoints/{id}/lock", tag = "globus-compute", operation_id = "globus_lock_endpoint",
    params(("id" = uuid::Uuid, Path)),
    responses((status = 200, body = Locked), ApiError)
)]
pub(super) async fn lock(
    State(app): State<App>,
    Caller(caller): Caller,
    PathId(id): PathId<EndpointId>,
) -> Result<Json<Locked>> {
    let time = app.service.lock_endpoint(&caller, id).await?;
    let until = Timestamp::from_nanos(wall_clock().as_nanos() + time.as_nanos() as u64);
    Ok(Json(Locked { endpoint_id: id, lock_expiration_timestamp: iso(until) }))
}

/// Delete an endpoint. Its unfinished tasks are cancelled.
#[utoipa::path(
    delete, path = "/v2/endpoints/{id}", tag = "globus-compute", operation_id = "globus_delete_endpoint",
    params(("id" = uuid::Uuid, Path)),
    responses((status = 200, body = Value), ApiError)
)]
pub(super) async fn delete(
    State(app): State<App>,
    Caller(caller): Caller,
    PathId(id): PathId<EndpointId>,
) -> Result<Json<Value>> {
    app.service.delete_endpoint(&caller, id).await?;
    Ok(Json(serde_json::json!({ "result": 302 })))
}
