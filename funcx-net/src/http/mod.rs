//! The HTTP API: the routes of the Globus Compute web service, and our own under `/v1`.
//!
//! | Folder | Holds |
//! | --- | --- |
//! | `globus` | what the unmodified `globus-compute-sdk` calls |
//! | `own` | functions, tasks, cancel, events, endpoints and links in our own words |
//! | `operations` | metrics, health and readiness, for operators |
//! | [`wire`] | JSON of our own routes |
//! | `extract`, `error` | who asks, bodies, and failures |
//!
//! Every failure has the same body ([`wire::ErrorBody`]), also those of unknown routes and malformed requests. The
//! description of all routes in OpenAPI is at `/openapi.json`.

mod date;
mod error;
mod extract;
mod framing;
mod globus;
mod operations;
mod own;
mod serve;
mod view;
pub mod wire;

use std::convert::Infallible;
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};
use std::time::Instant;

use axum::body::Body;
use axum::extract::{DefaultBodyLimit, MatchedPath, Request, State};
use axum::http::{HeaderValue, Method, StatusCode, Uri, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::{Router, routing::get};
use bytes::Bytes;
use funcx_core::contract::Principal;
use futures::stream;
use serde::Serialize;
use tracing::Instrument;
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;

use crate::service::{Accepted, Service, Submit};
use error::ApiError;
use extract::App;
use operations::Requests;

pub use serve::{MAX_CONNECTIONS, serve};

/// Head of the OpenAPI description; the routes describe themselves.
#[derive(OpenApi)]
#[openapi(
    info(title = "funcx", description = "Registers functions and runs them on endpoints."),
    components(schemas(wire::ErrorBody))
)]
struct Description;

/// All routes of a service.
pub fn router(service: Arc<Service>) -> Router {
    let app = App::new(service);
    let requests = Arc::clone(&app.requests);
    let (router, description) = OpenApiRouter::with_openapi(Description::openapi())
        .merge(globus::routes())
        .merge(own::routes())
        .merge(operations::routes())
        .split_for_parts();
    let description = Arc::new(described(description));
    router
        .route("/openapi.json", get(openapi).with_state(description))
        .fallback(unknown_route)
        .method_not_allowed_fallback(wrong_method)
        // Bodies are bounded where they are read, with our own words for what is too large.
        .layer(DefaultBodyLimit::disable())
        .layer(from_fn_with_state((Arc::new(AtomicU64::new(1)), requests), traced))
        .with_state(app)
}

/// The description as the text that is served.
fn described(description: utoipa::openapi::OpenApi) -> String {
    description.to_json().unwrap_or_else(|error| {
        tracing::error!(%error, "the OpenAPI description has no JSON form");
        "{}".to_owned()
    })
}

async fn openapi(State(description): State<Arc<String>>) -> Response {
    ([("content-type", "application/json")], description.as_str().to_owned()).into_response()
}

async fn unknown_route(method: Method, uri: Uri) -> ApiError {
    ApiError::new(StatusCode::NOT_FOUND, "NOT_FOUND", format!("there is no route {method} {}", uri.path()))
}

async fn wrong_method(method: Method, uri: Uri) -> ApiError {
    let message = format!("{} does not take the method {method}", uri.path());
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "METHOD_NOT_ALLOWED", message)
}

/// Counts every request, and puts it into a span with a number, which the answer repeats in `x-request-id`.
async fn traced(
    State((numbers, requests)): State<(Arc<AtomicU64>, Arc<Requests>)>,
    request: Request,
    next: Next,
) -> Response {
    let number = numbers.fetch_add(1, Ordering::Relaxed);
    let method = request.method().clone();
    let path = request.extensions().get::<MatchedPath>().cloned();
    let route = path.as_ref().map_or("unknown", MatchedPath::as_str);
    let span = tracing::debug_span!("request", number, method = %request.method(), route);
    let began = Instant::now();
    let mut response = next.run(request).instrument(span.clone()).await;
    let took = began.elapsed();
    span.in_scope(|| tracing::debug!(status = response.status().as_u16(), elapsed = ?took, "answered"));
    requests.count(&method, route, response.status(), took);
    response.headers_mut().insert("x-request-id", HeaderValue::from(number));
    response
}

/// Submits tasks and answers with what `view` makes of them. The answer counts as delivered when its body has been
/// taken by the connection; if the connection is closed before, an equal request gets it again.
async fn submitted<T: Serialize>(
    app: &App,
    caller: Principal,
    submit: Submit,
    hash: u128,
    view: impl FnOnce(&Accepted) -> T,
) -> error::Result<Response> {
    let (answer, delivery) = app.service.submit_once(caller, submit, hash).await;
    let accepted = (*answer).as_ref().map_err(ApiError::from)?;
    let text = serde_json::to_vec(&view(accepted)).map_err(|error| {
        let message = format!("the tasks were accepted, but the answer has no JSON form: {error}");
        ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "INTERNAL_ERROR", message)
    })?;
    let head = [
        (header::CONTENT_TYPE, HeaderValue::from_static("application/json")),
        (header::CONTENT_LENGTH, HeaderValue::from(text.len())),
    ];
    // One piece, so that who has asked for the first has taken all of it.
    let body = stream::once(async move {
        delivery.delivered();
        Ok::<_, Infallible>(Bytes::from(text))
    });
    Ok((head, Body::from_stream(body)).into_response())
}
