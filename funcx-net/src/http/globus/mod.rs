//! The routes and JSON of the Globus Compute web service, as the unmodified `globus-compute-sdk` uses them.
//!
//! Not here: the result stream over AMQP that the SDK's Executor wants, and what the Globus Compute agent needs besides
//! registration. Those routes say so.

mod accounts;
mod endpoints;
mod functions;
mod submit;
mod tasks;
mod wire;

use axum::Json;
use axum::http::StatusCode;
use serde::Deserialize;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::error::ApiError;
use super::extract::{App, Caller, Params};

/// Version of the API that the routes follow, and the oldest clients that they serve.
const API_VERSION: &str = "1.0.0";
const OLDEST_CLIENT: &str = "2.0.0";

/// All of them.
pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(version))
        .routes(routes!(functions::register))
        .routes(routes!(functions::register_v2))
        .routes(routes!(functions::find, functions::delete))
        .routes(routes!(submit::submit))
        .routes(routes!(tasks::find))
        .routes(routes!(tasks::batch_status))
        .routes(routes!(tasks::group))
        .routes(routes!(result_stream))
        .routes(routes!(endpoints::status))
        .routes(routes!(endpoints::find, endpoints::delete))
        .routes(routes!(endpoints::list))
        .routes(routes!(endpoints::allowed_functions))
        .routes(routes!(endpoints::register))
        .routes(routes!(endpoints::register_again))
        .routes(routes!(endpoints::lock))
        .routes(routes!(accounts::token))
        .routes(routes!(accounts::revoke))
        .routes(routes!(accounts::userinfo))
        .routes(routes!(accounts::identities))
}

#[derive(Debug, Deserialize)]
struct WhichVersion {
    service: Option<String>,
}

/// Versions. Answers without a token.
#[utoipa::path(
    get, path = "/v2/version", tag = "globus-compute",
    params(("service" = Option<String>, Query, description = "`all` for an object")),
    responses((status = 200, body = serde_json::Value))
)]
async fn version(Params(which): Params<WhichVersion>) -> Json<serde_json::Value> {
    Json(match which.service.as_deref() {
        Some("all") => serde_json::json!({
            "api": API_VERSION,
            "min_sdk_version": OLDEST_CLIENT,
            "min_ep_version": OLDEST_CLIENT,
            "funcx": env!("CARGO_PKG_VERSION"),
        }),
        _ => API_VERSION.into(),
    })
}

/// Where the SDK's Executor would find its result stream. Not available yet.
#[utoipa::path(get, path = "/v2/get_amqp_result_connection_url", tag = "globus-compute", responses(ApiError))]
async fn result_stream(Caller(_): Caller) -> ApiError {
    // A status that the SDK does not try again.
    let message = "this service has no AMQP result stream: use Client.run and Client.get_result instead of Executor, or \
                   GET /v1/task_groups/{id}/events";
    ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, "RESULT_STREAM_UNAVAILABLE", message)
}
