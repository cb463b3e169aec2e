//! What operators and their tools ask: metrics, and whether the service is alive and takes work. No token is needed, and
//! nothing is told that is anybody's secret.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use funcx_core::Result;
use prometheus::{HistogramOpts, HistogramVec, IntCounterVec, Opts};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::error::ApiError;
use super::extract::App;
use super::wire::HealthView;
use crate::metrics::{CONTENT_TYPE, Exposition};
use crate::service::LATENCY_BUCKETS;

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(health)).routes(routes!(ready)).routes(routes!(metrics))
}

/// Whether the service is alive: its process answers and its node runs. If not, it has to be started again.
#[utoipa::path(
    get, path = "/healthz", tag = "operations",
    responses((status = 200, body = HealthView), (status = 503, body = HealthView))
)]
async fn health(State(app): State<App>) -> Response {
    let reason = "the node of the service has ended; the service must be started again";
    let reasons = if app.service.node().is_running() { Vec::new() } else { vec![reason.to_owned()] };
    answer(reasons)
}

/// Whether the service takes work: its node runs, its store can be read and written, and it is not stopping.
#[utoipa::path(
    get, path = "/readyz", tag = "operations",
    responses((status = 200, body = HealthView), (status = 503, body = HealthView))
)]
async fn ready(State(app): State<App>) -> Response {
    answer(app.service.readiness().await.reasons)
}

/// Figures about the service, in the text format of Prometheus.
#[utoipa::path(
    get, path = "/metrics", tag = "operations",
    responses((status = 200, body = String, content_type = "text/plain"), (status = 503, body = super::wire::ErrorBody))
)]
async fn metrics(State(app): State<App>) -> super::error::Result<Response> {
    let text = app.service.metrics().await? + &app.requests.to_text().map_err(ApiError::from)?;
    Ok(([(header::CONTENT_TYPE, CONTENT_TYPE)], text).into_response())
}

fn answer(reasons: Vec<String>) -> Response {
    let ok = reasons.is_empty();
    let status = if ok { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let mut response = (status, Json(HealthView { ok, reasons })).into_response();
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if !ok {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}

/// Counts requests. Routes are those of the API and not what stands in requests, so there are as many labels as routes.
#[derive(Debug, Clone)]
pub(super) struct Requests {
    answered: IntCounterVec,
    took: HistogramVec,
}

impl Default for Requests {
    fn default() -> Self {
        let answered = Opts::new(
            "funcx_http_requests_total",
            "Requests that were answered, by method, route and status of the answer.",
        );
        let took = HistogramOpts::new(
            "funcx_http_request_duration_seconds",
            "Time until the head of the answer, by route. Answers may be held back because the client asked for it.",
        );
        let fine = "the names above are well formed, and a test makes them";
        Self {
            answered: IntCounterVec::new(answered, &["method", "route", "status"]).expect(fine),
            took: HistogramVec::new(took.buckets(LATENCY_BUCKETS.to_vec()), &["route"]).expect(fine),
        }
    }
}

impl Requests {
    pub(super) fn count(&self, method: &Method, route: &str, status: StatusCode, took: Duration) {
        let method = match *method {
            Method::GET | Method::POST | Method::PUT | Method::DELETE | Method::HEAD | Method::OPTIONS => {
                method.as_str()
            }
            // Clients may make up their own.
            _ => "other",
        };
        self.answered.with_label_values(&[method, route, status.as_str()]).inc();
        self.took.with_label_values(&[route]).observe(took.as_secs_f64());
    }

    fn to_text(&self) -> Result<String> {
        let mut exposition = Exposition::new();
        exposition.add(self.answered.clone())?;
        exposition.add(self.took.clone())?;
        exposition.to_text()
    }
}
