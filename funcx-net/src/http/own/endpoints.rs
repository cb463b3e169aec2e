//! Endpoints, and the link on which they connect.

use axum::Json;
use axum::extract::State;
use axum::extract::ws::{WebSocketUpgrade, rejection::WebSocketUpgradeRejection};
use axum::http::StatusCode;
use axum::response::Response;
use funcx_core::contract::Action;
use funcx_core::model::EndpointId;
use serde::Deserialize;
use utoipa::IntoParams;

use crate::http::error::{ApiError, Result};
use crate::http::extract::{App, Body, Caller, Params, PathId};
use crate::http::view;
use crate::http::wire::{EndpointList, EndpointRegistered, EndpointRegistration, EndpointView, ErrorBody};
use crate::service::NewEndpoint;
use crate::transport::websocket::{limited, upgraded};

/// Register an endpoint, or say anew what it is.
#[utoipa::path(
    post, path = "/v1/endpoints", tag = "endpoints", request_body = EndpointRegistration,
    responses((status = 201, body = EndpointRegistered), ApiError)
)]
pub(super) async fn register(
    State(app): State<App>,
    Caller(caller): Caller,
    Body(request): Body<EndpointRegistration>,
) -> Result<(StatusCode, Json<EndpointRegistered>)> {
    let new = NewEndpoint {
        id: request.endpoint_id,
        name: request.name,
        access: view::access(request.public, request.group),
        allowed_functions: request.allowed_functions,
        metadata: view::object_text(request.metadata, "metadata")?,
    };
    let record = app.service.register_endpoint(&caller, new).await?;
    Ok((StatusCode::CREATED, Json(EndpointRegistered { endpoint_id: record.id })))
}

/// Which endpoints.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Which {
    /// `owner` (the default): the caller's own. `any`: all that the caller may see.
    role: Option<String>,
}

/// Endpoints, in order of id.
#[utoipa::path(
    get, path = "/v1/endpoints", tag = "endpoints", params(Which),
    responses((status = 200, body = EndpointList), ApiError)
)]
pub(super) async fn list(
    State(app): State<App>,
    Caller(caller): Caller,
    Params(which): Params<Which>,
) -> Result<Json<EndpointList>> {
    let owned = match which.role.as_deref() {
        None | Some("owner") => true,
        Some("any") => false,
        Some(_) => return Err(ApiError::invalid("`role` is `owner` or `any`")),
    };
    let records = app.service.endpoints(&caller, owned).await?;
    let ids: Vec<_> = records.iter().map(|record| record.id).collect();
    let figures = app.service.figures(&ids).await?;
    let endpoints =
        records.iter().zip(figures).map(|(record, figures)| view::endpoint(record, figures)).collect();
    Ok(Json(EndpointList { endpoints }))
}

/// An endpoint, with what goes on there now.
#[utoipa::path(
    get, path = "/v1/endpoints/{id}", tag = "endpoints", params(("id" = uuid::Uuid, Path)),
    responses((status = 200, body = EndpointView), ApiError)
)]
pub(super) async fn find(
    State(app): State<App>,
    Caller(caller): Caller,
    PathId(id): PathId<EndpointId>,
) -> Result<Json<EndpointView>> {
    let record = app.service.endpoint(&caller, id, Action::Read).await?;
    let figures = app.service.figures(&[id]).await?.first().copied().unwrap_or_default();
    Ok(Json(view::endpoint(&record, figures)))
}

/// Delete an endpoint. Its unfinished tasks are cancelled.
#[utoipa::path(
    delete, path = "/v1/endpoints/{id}", tag = "endpoints", params(("id" = uuid::Uuid, Path)),
    responses((status = 204), ApiError)
)]
pub(super) async fn delete(
    State(app): State<App>,
    Caller(caller): Caller,
    PathId(id): PathId<EndpointId>,
) -> Result<StatusCode> {
    app.service.delete_endpoint(&caller, id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The link of an endpoint: a WebSocket whose binary messages are frames of the link protocol. The endpoint proves who it
/// is in its first message.
#[utoipa::path(
    get, path = "/v1/link", tag = "endpoints",
    responses((status = 101, description = "a WebSocket"), (status = "4XX", body = ErrorBody))
)]
pub(super) async fn link(
    State(app): State<App>,
    upgrade: std::result::Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response> {
    let upgrade = upgrade.map_err(|rejection| {
        ApiError::malformed(format!("this route is a WebSocket: {}", rejection.body_text()))
    })?;
    Ok(limited(upgrade).on_upgrade(async move |socket| app.service.accept(upgraded(socket))))
}
