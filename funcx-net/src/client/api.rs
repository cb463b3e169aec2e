//! One request to the service and its answer: addresses, retries, errors.

use std::{error::Error as _, net::IpAddr, time::Duration};

use bytes::{Bytes, BytesMut};
use funcx_core::model::{Retry, limit};
use funcx_core::{Error, ErrorKind, Result};
use reqwest::{
    Method, RequestBuilder, Response, StatusCode, Url,
    header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, RETRY_AFTER},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{RetryPolicy, Token};

/// Time to connect.
const CONNECT: Duration = Duration::from_secs(10);

/// Time from a request to the end of its answer, unless the request says how long the service may take.
const ANSWER: Duration = Duration::from_secs(60);

/// The service takes an equal request for a repeated one once it has noticed that the first client is gone. This leaves
/// it the time.
const REPEAT_AFTER: Duration = Duration::from_millis(250);

/// Largest answer that is read: a page of tasks, or one outcome of the largest size.
const MAX_ANSWER_BYTES: usize = limit::MAX_FRAME_BYTES;

/// Largest part of an error's body that is read.
const MAX_ERROR_BYTES: usize = 64 << 10;

/// Whether a request may be made again when nobody knows what became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Repeat {
    /// Yes: doing it twice is doing it once.
    Freely,
    /// Yes: the service recognises it.
    IfRecognised,
    /// No. It is made again only if the service cannot have done it, because it refused or was not reached.
    Never,
}

/// The service, and who asks it.
#[derive(Debug)]
pub(super) struct Api {
    client: reqwest::Client,
    service: Url,
    token: Option<Token>,
    pub(super) retry: RetryPolicy,
}

impl Api {
    pub(super) fn new(service: &str, token: Option<Token>, retry: RetryPolicy) -> Result<Self> {
        const OPERATION: &str = "use service address";
        let refused = |why: &'static str| Error::new(ErrorKind::InvalidInput, OPERATION, why);
        let url = Url::parse(service).map_err(|error| refused("it is not a URL").with_source(error))?;
        if !url.username().is_empty() || url.password().is_some() {
            // Addresses are shown in errors and logs.
            return Err(refused("it holds a user name or password; use a token"));
        }
        if url.scheme() != "http" || url.cannot_be_a_base() {
            return Err(refused("it does not begin with http://").with_context("service", url));
        }
        let builder = match is_on_this_machine(&url) {
            // A site's proxy leads away from here.
            true => reqwest::Client::builder().no_proxy(),
            false => reqwest::Client::builder(),
        };
        let client = builder
            .connect_timeout(CONNECT)
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("funcx/", env!("CARGO_PKG_VERSION")))
            .tcp_nodelay(true)
            .build()
            .map_err(|error| Error::new(ErrorKind::Internal, "make HTTP client", root_cause(&error)))?;
        Ok(Self { client, service: url, token, retry })
    }

    /// Where the service is.
    pub(super) fn service(&self) -> &str {
        self.service.as_str().trim_end_matches('/')
    }

    pub(super) async fn fetch<T: DeserializeOwned>(
        &self,
        operation: &'static str,
        path: &str,
        query: &[(&str, String)],
    ) -> Result<T> {
        self.exchange(operation, Method::GET, path, query, None, Repeat::Freely, ANSWER).await
    }

    /// As [`fetch`](Self::fetch), of an answer that the service holds back for up to `wait`.
    pub(super) async fn fetch_waiting<T: DeserializeOwned>(
        &self,
        operation: &'static str,
        path: &str,
        query: &[(&str, String)],
        wait: Duration,
    ) -> Result<T> {
        self.exchange(operation, Method::GET, path, query, None, Repeat::Freely, ANSWER + wait).await
    }

    pub(super) async fn post<T: DeserializeOwned>(
        &self,
        operation: &'static str,
        path: &str,
        body: &impl Serialize,
        repeat: Repeat,
    ) -> Result<T> {
        let body = serde_json::to_vec(body).map_err(|error| {
            Error::new(ErrorKind::InvalidInput, operation, "the request has no JSON form").with_source(error)
        })?;
        if body.len() > limit::MAX_BODY_BYTES {
            return Err(Error::new(
                ErrorKind::LimitExceeded,
                operation,
                "the request is longer than MAX_BODY_BYTES",
            )
            .with_context("bytes", body.len()));
        }
        self.exchange(operation, Method::POST, path, &[], Some(body.into()), repeat, ANSWER).await
    }

    /// Opens a stream of events. One attempt: the reader of the stream knows when to try again.
    pub(super) async fn open_events(
        &self,
        operation: &'static str,
        path: &str,
        after: Option<&str>,
    ) -> Result<Response> {
        let mut request =
            self.request(operation, Method::GET, path, &[])?.header(ACCEPT, "text/event-stream");
        if let Some(after) = after {
            request = request.header("last-event-id", after);
        }
        let answer = tokio::time::timeout(ANSWER, self.send(operation, request))
            .await
            .map_err(|_| self.broken(operation, ErrorKind::TimedOut, "the service does not answer"))??;
        let kind = answer.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        if !kind.starts_with("text/event-stream") {
            return Err(Error::new(ErrorKind::Protocol, operation, "the answer is no event stream")
                .with_context("content_type", kind));
        }
        Ok(answer)
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "the three public forms above name what each of them means"
    )]
    async fn exchange<T: DeserializeOwned>(
        &self,
        operation: &'static str,
        method: Method,
        path: &str,
        query: &[(&str, String)],
        body: Option<Bytes>,
        repeat: Repeat,
        within: Duration,
    ) -> Result<T> {
        let mut attempts = 0;
        loop {
            attempts += 1;
            let mut request = self.request(operation, method.clone(), path, query)?.timeout(within);
            if let Some(body) = &body {
                request = request.header(CONTENT_TYPE, "application/json").body(body.clone());
            }
            let Attempt { error, maybe_done } = match self.attempt(operation, request).await {
                Ok(body) => return parse(operation, &body),
                Err(attempt) => attempt,
            };
            if maybe_done && repeat == Repeat::Never {
                return Err(error.with_retry(Retry::Never));
            }
            let mut pause = self.retry.after(attempts, error)?;
            if maybe_done && repeat == Repeat::IfRecognised {
                pause = pause.max(REPEAT_AFTER);
            }
            tracing::debug!(operation, attempts, ?pause, "the service is busy or away; trying again");
            tokio::time::sleep(pause).await;
        }
    }

    async fn attempt(&self, operation: &'static str, request: RequestBuilder) -> Result<Bytes, Attempt> {
        let answer = self.send(operation, request).await?;
        read(answer, MAX_ANSWER_BYTES)
            .await
            .map_err(|why| Attempt { error: self.unread(operation, why), maybe_done: true })
    }

    /// Sends one request; an answer that is not a success is an error.
    async fn send(&self, operation: &'static str, request: RequestBuilder) -> Result<Response, Attempt> {
        let answer = request.send().await.map_err(|error| {
            let kind = if error.is_timeout() { ErrorKind::TimedOut } else { ErrorKind::Unavailable };
            let maybe_done = !error.is_connect();
            let message = if maybe_done {
                "the connection to the service broke"
            } else {
                "the service cannot be reached"
            };
            Attempt {
                error: self.broken(operation, kind, message).with_source(root_cause(&error)),
                maybe_done,
            }
        })?;
        let status = answer.status();
        if status.is_success() {
            return Ok(answer);
        }
        // These say that something between us and the service, or the service itself, does not know either.
        let maybe_done =
            matches!(status, StatusCode::BAD_GATEWAY | StatusCode::GATEWAY_TIMEOUT) || status == 500;
        let retry_after = retry_after(answer.headers());
        let body = read(answer, MAX_ERROR_BYTES).await.unwrap_or_default();
        Err(Attempt { error: refusal(operation, status, retry_after, &body), maybe_done })
    }

    fn request(
        &self,
        operation: &'static str,
        method: Method,
        path: &str,
        query: &[(&str, String)],
    ) -> Result<RequestBuilder> {
        let text = format!("{}{path}", self.service());
        let mut url = Url::parse(&text).map_err(|error| {
            Error::new(ErrorKind::InvalidInput, operation, "not an address").with_source(error)
        })?;
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        let request = self.client.request(method, url);
        Ok(match &self.token {
            Some(token) => request.header(AUTHORIZATION, token.header()),
            None => request,
        })
    }

    fn broken(&self, operation: &'static str, kind: ErrorKind, message: &'static str) -> Error {
        Error::new(kind, operation, message).with_context("service", self.service())
    }

    fn unread(&self, operation: &'static str, why: Unread) -> Error {
        match why {
            Unread::TooLong => {
                Error::new(ErrorKind::LimitExceeded, operation, "the answer is longer than MAX_FRAME_BYTES")
            }
            Unread::Broken(error) => self
                .broken(operation, ErrorKind::Unavailable, "the connection to the service broke")
                .with_source(root_cause(&error)),
        }
    }
}

fn is_on_this_machine(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let address = host.trim_start_matches('[').trim_end_matches(']').parse();
    host == "localhost" || address.is_ok_and(|address: IpAddr| address.is_loopback())
}

/// Why one attempt failed, and whether the service may have done what was asked nevertheless.
struct Attempt {
    error: Error,
    maybe_done: bool,
}

impl From<Attempt> for Error {
    fn from(attempt: Attempt) -> Self {
        attempt.error
    }
}

/// Why a body was not read to its end.
enum Unread {
    TooLong,
    Broken(reqwest::Error),
}

async fn read(mut answer: Response, most: usize) -> Result<Bytes, Unread> {
    let mut body = BytesMut::new();
    while let Some(piece) = answer.chunk().await.map_err(Unread::Broken)? {
        if body.len() + piece.len() > most {
            return Err(Unread::TooLong);
        }
        body.extend_from_slice(&piece);
    }
    Ok(body.freeze())
}

fn parse<T: DeserializeOwned>(operation: &'static str, body: &[u8]) -> Result<T> {
    serde_json::from_slice(body).map_err(|error| {
        Error::new(ErrorKind::Protocol, operation, "the answer of the service is not understood")
            .with_source(error)
    })
}

/// The parts of an error's body that we show. Answers of proxies have none of them.
#[derive(Deserialize, Default)]
#[serde(default)]
struct ErrorBody {
    code: String,
    message: String,
}

/// The error that a status and a body stand for.
fn refusal(operation: &'static str, status: StatusCode, retry_after: Option<Duration>, body: &[u8]) -> Error {
    let body: ErrorBody = serde_json::from_slice(body).unwrap_or_default();
    let kind = kind_of(status);
    let message = match body.message {
        message if message.is_empty() => {
            format!("the service answers {}", status.canonical_reason().unwrap_or("with an unknown status"))
        }
        message => format!("the service says: {message}"),
    };
    let error = Error::new(kind, operation, message).with_context("status", status.as_u16());
    let error = if body.code.is_empty() { error } else { error.with_context("code", body.code) };
    match status {
        StatusCode::TOO_MANY_REQUESTS
        | StatusCode::SERVICE_UNAVAILABLE
        | StatusCode::BAD_GATEWAY
        | StatusCode::GATEWAY_TIMEOUT
        | StatusCode::REQUEST_TIMEOUT => error.with_retry(Retry::After(retry_after)),
        // A lock that passes by itself, as opposed to one that does not.
        StatusCode::LOCKED if retry_after.is_some() => error.with_retry(Retry::After(retry_after)),
        _ => error.with_retry(Retry::Never),
    }
}

fn kind_of(status: StatusCode) -> ErrorKind {
    match status {
        StatusCode::UNAUTHORIZED => ErrorKind::Unauthenticated,
        StatusCode::FORBIDDEN => ErrorKind::Forbidden,
        StatusCode::NOT_FOUND | StatusCode::GONE => ErrorKind::NotFound,
        StatusCode::CONFLICT | StatusCode::LOCKED => ErrorKind::Conflict,
        StatusCode::PAYLOAD_TOO_LARGE | StatusCode::TOO_MANY_REQUESTS => ErrorKind::LimitExceeded,
        StatusCode::REQUEST_TIMEOUT | StatusCode::GATEWAY_TIMEOUT => ErrorKind::TimedOut,
        StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE => ErrorKind::Unavailable,
        StatusCode::NOT_IMPLEMENTED => ErrorKind::Unsupported,
        status if status.is_client_error() => ErrorKind::InvalidInput,
        status if status.is_server_error() => ErrorKind::Internal,
        // A redirection, most likely: the address is not that of a service.
        _ => ErrorKind::Protocol,
    }
}

/// `Retry-After` in seconds. The form with a date is left out: it needs a clock that agrees with the service's.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok().map(Duration::from_secs)
}

/// The innermost cause, which is the one that says something ("connection refused"); addresses are in our own text.
fn root_cause(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    if error.source().is_none() {
        return "no more is known".to_owned();
    }
    cause.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_status_has_its_kind_and_says_whether_to_try_again() {
        for (status, kind, retryable) in [
            (400, ErrorKind::InvalidInput, false),
            (401, ErrorKind::Unauthenticated, false),
            (403, ErrorKind::Forbidden, false),
            (404, ErrorKind::NotFound, false),
            (408, ErrorKind::TimedOut, true),
            (409, ErrorKind::Conflict, false),
            (413, ErrorKind::LimitExceeded, false),
            (422, ErrorKind::InvalidInput, false),
            (423, ErrorKind::Conflict, false),
            (429, ErrorKind::LimitExceeded, true),
            (500, ErrorKind::Internal, false),
            (501, ErrorKind::Unsupported, false),
            (502, ErrorKind::Unavailable, true),
            (503, ErrorKind::Unavailable, true),
            (504, ErrorKind::TimedOut, true),
            (302, ErrorKind::Protocol, false),
        ] {
            let error = refusal("try", StatusCode::from_u16(status).unwrap(), None, b"<html>");
            assert_eq!((error.kind(), error.is_retryable()), (kind, retryable), "{status}");
        }
    }

    #[test]
    fn the_words_of_the_service_are_kept() {
        let body = br#"{"status":"Failed","code":"ENDPOINT_NOT_FOUND","message":"no endpoint e1","reason":"x","error_args":[]}"#;
        let error = refusal("submit tasks", StatusCode::NOT_FOUND, None, body);
        assert_eq!(
            error.to_string(),
            "cannot submit tasks: the service says: no endpoint e1 (status: 404, code: ENDPOINT_NOT_FOUND)"
        );
    }

    #[test]
    fn addresses_of_this_machine_are_known() {
        for (address, here) in [
            ("http://localhost:5000", true),
            ("http://127.0.0.2", true),
            ("http://[::1]:5000", true),
            ("http://10.0.0.1", false),
            ("http://localhost.example", false),
        ] {
            assert_eq!(is_on_this_machine(&Url::parse(address).unwrap()), here, "{address}");
        }
    }

    #[test]
    fn addresses_that_cannot_be_used_are_refused() {
        for address in ["", "service.example", "ftp://service.example", "http://me:secret@service.example"] {
            let error = Api::new(address, None, RetryPolicy::default()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{address}");
            assert!(!error.to_string().contains("secret"));
        }
        assert_eq!(
            Api::new("http://service.example:80/", None, RetryPolicy::default()).unwrap().service(),
            "http://service.example"
        );
    }
}
