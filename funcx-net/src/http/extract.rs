//! What handlers take out of requests: who asks, what for, and the body, with our own words for what is wrong.

use std::{
    hash::{BuildHasher, RandomState},
    str::FromStr,
    sync::Arc,
};

use axum::Json;
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::{HeaderMap, StatusCode, header, request::Parts};
use bytes::{Bytes, BytesMut};
use funcx_core::contract::{Credential, Principal};
use funcx_core::model::{TraceContext, limit};
use futures::StreamExt;
use serde::de::DeserializeOwned;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use xxhash_rust::xxh3::xxh3_128_with_seed;

use super::error::{ApiError, Result};
use super::operations::Requests;
use crate::service::Service;

/// Memory for the bodies of all requests that are under way.
const BODIES_BYTES: usize = 1 << 30;
/// Unit in which it is counted; smaller bodies are not counted.
const BODY_UNIT_BYTES: usize = 64 << 10;
/// Bodies from this size on are read by a thread that may take its time.
const LARGE_BODY_BYTES: usize = 1 << 20;
/// Largest body of a route that takes little.
const SMALL_BODY_BYTES: usize = 64 << 10;

/// What handlers share.
#[derive(Debug, Clone)]
pub(super) struct App {
    pub(super) service: Arc<Service>,
    pub(super) requests: Arc<Requests>,
    bodies: Arc<Semaphore>,
    /// Nobody can make two bodies with the same hash who does not know it.
    body_seed: u64,
}

impl App {
    pub(super) fn new(service: Arc<Service>) -> Self {
        let bodies = BODIES_BYTES.max(service.config().body_bytes).div_ceil(BODY_UNIT_BYTES);
        let bodies = Arc::new(Semaphore::new(bodies));
        Self { service, requests: Arc::default(), bodies, body_seed: RandomState::new().hash_one(()) }
    }

    /// Largest body, and what it says about it to who sends a larger one.
    fn body_limit(&self) -> (usize, &'static str) {
        (self.service.config().body_bytes, "limit body_bytes; split the request")
    }
}

/// Somebody with a valid bearer token.
pub(super) struct Caller(pub(super) Principal);

impl FromRequestParts<App> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self> {
        let credential = match authorization(&parts.headers, "Bearer")? {
            Some(token) if !token.is_empty() => Credential::Bearer(token.to_owned()),
            _ => return Err(ApiError::unauthenticated("send `Authorization: Bearer <token>`")),
        };
        Ok(Self(app.service.authenticate(&credential).await?))
    }
}

/// What follows this scheme in the `Authorization` header.
pub(super) fn authorization<'a>(headers: &'a HeaderMap, scheme: &str) -> Result<Option<&'a str>> {
    let Some(value) = headers.get(header::AUTHORIZATION) else { return Ok(None) };
    let value =
        value.to_str().ok().filter(|value| value.len() <= limit::MAX_TEXT_BYTES).ok_or_else(|| {
            ApiError::unauthenticated("the Authorization header is not readable text of a sensible length")
        })?;
    let (named, rest) = value.split_once(' ').unwrap_or((value, ""));
    Ok(named.eq_ignore_ascii_case(scheme).then(|| rest.trim()))
}

/// The id in the path.
pub(super) struct PathId<T>(pub(super) T);

impl<T: FromStr<Err: std::fmt::Display>, S: Send + Sync> FromRequestParts<S> for PathId<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self> {
        let Path(text) = Path::<String>::from_request_parts(parts, state)
            .await
            .map_err(|rejection| ApiError::malformed(rejection.body_text()))?;
        let id = text.parse().map_err(|error: T::Err| {
            ApiError::new(StatusCode::BAD_REQUEST, "INVALID_UUID", format!("in the path: {error}"))
        })?;
        Ok(Self(id))
    }
}

/// The parameters behind the question mark.
pub(super) struct Params<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Params<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self> {
        let Query(params) = Query::try_from_uri(&parts.uri)
            .map_err(|rejection| ApiError::malformed(format!("in the query: {}", rejection.body_text())))?;
        Ok(Self(params))
    }
}

/// The trace that the request belongs to (W3C trace context, "traceparent"); none if the header is not understood.
pub(super) struct Trace(pub(super) TraceContext);

impl<S: Send + Sync> FromRequestParts<S> for Trace {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self> {
        let header = parts.headers.get("traceparent").and_then(|value| value.to_str().ok());
        Ok(Self(header.and_then(traceparent).unwrap_or_default()))
    }
}

fn traceparent(text: &str) -> Option<TraceContext> {
    let mut fields = text.trim().split('-');
    let (version, trace, span, flags) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
    if version.len() != 2 || version == "ff" || trace.len() != 32 || span.len() != 16 || flags.len() != 2 {
        return None;
    }
    let trace_id = u128::from_str_radix(trace, 16).ok()?;
    let span_id = u64::from_str_radix(span, 16).ok()?;
    let flags = u8::from_str_radix(flags, 16).ok()?;
    (trace_id != 0 && span_id != 0).then_some(TraceContext { trace_id, span_id, flags })
}

/// The body, read as JSON.
pub(super) struct Body<T>(pub(super) T);

impl<T: DeserializeOwned + Send + 'static> FromRequest<App> for Body<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &App) -> Result<Self> {
        let (bytes, _permit) = read(request, app, app.body_limit()).await?;
        Ok(Self(off_thread(bytes.len(), move || parse(&bytes)).await?))
    }
}

/// The body, read as JSON, and its hash.
pub(super) struct HashedBody<T>(pub(super) T, pub(super) u128, pub(super) BodyPermit);

/// Keeps the room that a large body takes from other large bodies.
pub(super) struct BodyPermit(#[expect(dead_code, reason = "held for its Drop")] Option<OwnedSemaphorePermit>);

impl<T: DeserializeOwned + Send + 'static> FromRequest<App> for HashedBody<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &App) -> Result<Self> {
        let (bytes, permit) = read(request, app, app.body_limit()).await?;
        let seed = app.body_seed;
        let work = move || Ok((parse(&bytes)?, xxh3_128_with_seed(&bytes, seed)));
        let length = permit.1;
        let (value, digest) = off_thread(length, work).await?;
        Ok(Self(value, digest, permit.0))
    }
}

/// A body that is never large, such as a form.
pub(super) async fn small_body(request: Request, app: &App) -> Result<Bytes> {
    Ok(read(request, app, (SMALL_BODY_BYTES, "the most that this route takes")).await?.0)
}

/// Reads a body up to the limit, which has a name. The length that the client states counts before anything is read.
async fn read(
    request: Request,
    app: &App,
    (limit, name): (usize, &str),
) -> Result<(Bytes, (BodyPermit, usize))> {
    let too_large = || {
        let message = format!("the request body is larger than {limit} bytes ({name})");
        ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "PAYLOAD_TOO_LARGE", message)
    };
    let stated =
        request.headers().get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    if stated.is_some_and(|stated: usize| stated > limit) {
        return Err(too_large());
    }
    let expected = stated.unwrap_or(limit);
    let permit = match expected < BODY_UNIT_BYTES {
        true => None,
        false => {
            let units = expected.div_ceil(BODY_UNIT_BYTES) as u32;
            let permit = Arc::clone(&app.bodies).try_acquire_many_owned(units);
            Some(
                permit
                    .map_err(|_| ApiError::busy("the service is reading as many large requests as it can"))?,
            )
        }
    };
    let mut pieces = request.into_body().into_data_stream();
    let mut body = BytesMut::new();
    let mut whole: Option<Bytes> = None;
    while let Some(piece) = pieces.next().await {
        let piece =
            piece.map_err(|error| ApiError::malformed(format!("cannot read the request body: {error}")))?;
        if body.len() + whole.as_ref().map_or(0, Bytes::len) + piece.len() > limit {
            return Err(too_large());
        }
        // A body that comes in one piece is not copied.
        match whole.take() {
            None if body.is_empty() => whole = Some(piece),
            first => {
                if let Some(first) = first {
                    // Room that nothing is written to takes no memory, and the permit counts it.
                    body.reserve(stated.unwrap_or(0));
                    body.extend_from_slice(&first);
                }
                body.extend_from_slice(&piece);
            }
        }
    }
    let bytes = whole.unwrap_or_else(|| body.freeze());
    let length = bytes.len();
    Ok((bytes, (BodyPermit(permit), length)))
}

/// Runs work whose time grows with `bytes` where it holds up nobody.
async fn off_thread<T: Send + 'static>(
    bytes: usize,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    if bytes < LARGE_BODY_BYTES {
        return work();
    }
    tokio::task::spawn_blocking(work).await.map_err(|_| {
        ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "INTERNAL_ERROR", "cannot read the request body")
    })?
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    serde_json::from_slice(bytes).map_err(|error| {
        // The parser that knows the path to each field is slower, so it is asked only what is wrong.
        let text = match Json::<T>::from_bytes(bytes) {
            Err(rejection) => rejection.body_text(),
            Ok(_) => error.to_string(),
        };
        // Before the first colon stands that JSON is wanted, in the words of somebody else.
        let place = text.split_once(": ").map_or(&*text, |(_, rest)| rest);
        match error.classify() {
            serde_json::error::Category::Data => {
                let message = format!("the request body does not have the right form: {place}");
                ApiError::new(StatusCode::BAD_REQUEST, "REQUEST_KEY_ERROR", message)
            }
            _ => ApiError::malformed(format!("the request body is not JSON: {place}")),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_is_taken_from_a_wellformed_header_only() {
        let text = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let trace = traceparent(text).unwrap();
        assert_eq!(
            (trace.trace_id, trace.span_id, trace.flags),
            (0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736, 0x00f0_67aa_0ba9_02b7, 1)
        );
        for wrong in ["", "00", &text[..54], &text.replace('4', "g"), &text.replacen("00", "ff", 1)] {
            assert_eq!(traceparent(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn what_is_wrong_with_a_body_is_said_with_its_place() {
        #[derive(Debug, serde::Deserialize)]
        struct Form {
            #[expect(dead_code, reason = "only its type counts")]
            tasks: Vec<Inner>,
        }
        #[derive(Debug, serde::Deserialize)]
        struct Inner {
            #[expect(dead_code, reason = "only its type counts")]
            name: String,
        }
        let message = |body: &str| parse::<Form>(body.as_bytes()).unwrap_err().body().message;
        let wrong_type = message(r#"{"tasks": [{"name": "a"}, {"name": 3}]}"#);
        assert!(wrong_type.contains("tasks[1].name") && wrong_type.contains("column"), "{wrong_type}");
        assert!(message("{").contains("not JSON"));
        assert!(message("{}").contains("missing field `tasks`"));
    }
}
