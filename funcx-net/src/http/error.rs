//! Failures as answers: one body for all of them.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use funcx_core::ErrorKind;
use funcx_core::model::{Retry, limit};
use utoipa::openapi::{Content, Ref, RefOr, ResponseBuilder, response::Response as Described};

use super::wire::ErrorBody;
use crate::service::Refusal;

/// What a handler gives.
pub(super) type Result<T, E = ApiError> = std::result::Result<T, E>;

/// A failure on its way to the client.
#[derive(Debug)]
pub(super) struct ApiError {
    status: StatusCode,
    code: &'static str,
    message: String,
    retry_after: Option<Duration>,
}

impl ApiError {
    pub(super) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: clipped(message.into()), retry_after: None }
    }

    /// The request cannot be read.
    pub(super) fn malformed(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "REQUEST_MALFORMED", message)
    }

    /// The request can be read and makes no sense.
    pub(super) fn invalid(message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "SEMANTICALLY_INVALID", message)
    }

    /// Nobody knows who asks.
    pub(super) fn unauthenticated(message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "USER_UNAUTHENTICATED", message)
    }

    /// There is no room for the request now.
    pub(super) fn busy(message: impl Into<String>) -> Self {
        let retry_after = Some(Duration::from_secs(1));
        Self { retry_after, ..Self::new(StatusCode::SERVICE_UNAVAILABLE, "SERVICE_UNAVAILABLE", message) }
    }

    pub(super) fn body(&self) -> ErrorBody {
        ErrorBody {
            status: "Failed".to_owned(),
            code: self.code.to_owned(),
            message: self.message.clone(),
            reason: self.message.clone(),
            error_args: Vec::new(),
            http_status_code: self.status.as_u16(),
        }
    }
}

/// A message may quote the request, which may be long, and stands in the answer twice.
fn clipped(mut message: String) -> String {
    if message.len() > limit::MAX_TEXT_BYTES {
        message.truncate(message.floor_char_boundary(limit::MAX_TEXT_BYTES - '…'.len_utf8()));
        message.push('…');
    }
    message
}

impl From<&Refusal> for ApiError {
    fn from(refusal: &Refusal) -> Self {
        let error = refusal.error();
        let status = match error.kind() {
            // A lock and a full queue pass by themselves; their kinds alone do not say so.
            ErrorKind::Conflict if error.is_retryable() => StatusCode::LOCKED,
            ErrorKind::LimitExceeded if error.is_retryable() => StatusCode::TOO_MANY_REQUESTS,
            ErrorKind::InvalidInput => StatusCode::UNPROCESSABLE_ENTITY,
            ErrorKind::NotFound => StatusCode::NOT_FOUND,
            ErrorKind::Conflict => StatusCode::CONFLICT,
            ErrorKind::Unauthenticated => StatusCode::UNAUTHORIZED,
            ErrorKind::Forbidden => StatusCode::FORBIDDEN,
            ErrorKind::LimitExceeded => StatusCode::PAYLOAD_TOO_LARGE,
            ErrorKind::Unavailable | ErrorKind::TimedOut => StatusCode::SERVICE_UNAVAILABLE,
            // Permanent, so nothing that clients would try again.
            ErrorKind::Unsupported => StatusCode::UNPROCESSABLE_ENTITY,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        let retry_after = match error.retry() {
            Retry::After(after) => Some(after.unwrap_or(Duration::from_secs(1))),
            _ => None,
        };
        if status.is_server_error() {
            tracing::error!(code = refusal.code(), error = %refusal, "request failed");
        }
        Self { status, code: refusal.code(), message: clipped(refusal.to_string()), retry_after }
    }
}

impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> Self {
        Self::from(&refusal)
    }
}

impl From<funcx_core::Error> for ApiError {
    fn from(error: funcx_core::Error) -> Self {
        Self::from(&Refusal::from(error))
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status, axum::Json(self.body())).into_response();
        if let Some(after) = self.retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(after.as_secs().max(1)));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

/// The failures of every route that wants to know who asks.
impl utoipa::IntoResponses for ApiError {
    fn responses() -> BTreeMap<String, RefOr<Described>> {
        let described = |(status, description): (&str, &str)| {
            let body = Content::new(Some(Ref::from_schema_name("ErrorBody")));
            let response = ResponseBuilder::new().description(description).content("application/json", body);
            (status.to_owned(), response.build().into())
        };
        let failures = [
            ("401", "the request does not say who asks, or not credibly"),
            ("4XX", "the request cannot be served; the code says why"),
            ("503", "the service cannot serve it now; `Retry-After` says when to ask again"),
        ];
        failures.map(described).into()
    }
}
