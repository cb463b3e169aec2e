//! Bytes as a request to the HTTP API: whatever they are, the answer is a success or the one body that all failures have.
//!
//! The router and the service are the real ones, over a store in memory and people who exist only here.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{HeaderName, HeaderValue, Request, StatusCode, header};
use funcx_core::conformance::task_store::MemoryStore;
use funcx_core::contract::{Action, Authority, Credential, Object, Principal, Scope};
use funcx_core::model::{Error, ErrorKind, IdentityId, Result, Timestamp, limit};
use funcx_net::http::router;
use funcx_net::service::{Service, ServiceConfig, TokenIssuer};
use futures::future::{BoxFuture, FutureExt};
use serde_json::{Value, json};
use tokio::runtime::{Builder, Runtime};
use tower::ServiceExt;

/// What nobody is ever told.
const TOKEN: &str = "token-4f0c2d6a";
const SECRET: &str = "secret-9be1a7c3";
/// The same as a header of Globus Auth's client credentials: `client:secret-9be1a7c3`.
const BASIC: &str = "Y2xpZW50OnNlY3JldC05YmUxYTdjMw==";

/// Largest body and largest arguments; small, so that they are reached.
const BODY_BYTES: usize = 2048;
const PAYLOAD_BYTES: usize = 256;
/// What is read of an answer.
const MAX_ANSWER_BYTES: usize = 1 << 20;

thread_local! {
    /// Kept until a request changes something in it, as it takes longer to make than to ask.
    static SITE: RefCell<Option<Site>> = const { RefCell::new(None) };
}

/// A line with method and target, lines with headers, an empty line, and the body. In all of them `$E` stands for the id of
/// an endpoint, `$N`, `$P`, `$S` and `$G` for functions of each kind, `$T` for a task and `$R` for its group.
pub fn check(data: &[u8]) {
    let site = SITE.take().unwrap_or_else(Site::new);
    if !site.runtime.block_on(site.check(data)) {
        SITE.set(Some(site));
    }
}

struct Site {
    runtime: Runtime,
    router: Router,
    ids: Vec<(&'static str, String)>,
}

struct Answer {
    status: StatusCode,
    is_json: bool,
    body: Option<Value>,
}

impl Site {
    fn new() -> Self {
        // A clock that jumps to the next deadline when there is nothing else to do.
        let runtime =
            Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime");
        let config = ServiceConfig {
            body_bytes: BODY_BYTES,
            payload_bytes: PAYLOAD_BYTES,
            endpoint_tasks: 8,
            issuer: Some(Arc::new(People)),
            ..ServiceConfig::default()
        };
        let router = runtime.block_on(async {
            router(Service::start(config, Arc::new(MemoryStore::new()), Arc::new(People)).expect("a service"))
        });
        let mut site = Self { runtime, router, ids: Vec::new() };
        site.fill();
        site
    }

    /// Something for requests to name.
    fn fill(&mut self) {
        self.make("$E", "/v1/endpoints", json!({ "name": "e" }), "/endpoint_id");
        for (name, function) in [
            ("$N", json!({ "name": "n", "kind": "native", "entry": "n" })),
            ("$P", json!({ "name": "p", "kind": "python", "entry": "p", "code": "def p(): pass" })),
            ("$S", json!({ "name": "s", "kind": "shell", "code": "echo" })),
            ("$G", json!({ "name": "g", "kind": "globus-compute", "code": "8\nst\nadd:x" })),
        ] {
            self.make(name, "/v1/functions", function, "/function_id");
        }
        let (endpoint, function) = (&self.ids[0].1, &self.ids[1].1);
        let submit = |arguments: Value| json!({ "endpoint_id": endpoint, "tasks": [{ "function_id": function, "arguments": [arguments] }] });
        let (first, second) = (submit(json!(1)), submit(json!(2)));
        self.make("$T", "/v1/submit", first, "/task_ids/0/0");
        self.make("$R", "/v1/submit", second, "/task_group_id");
    }

    fn make(&mut self, name: &'static str, target: &str, body: Value, id: &str) {
        let request = Request::post(target)
            .header(header::AUTHORIZATION, format!("Bearer {TOKEN}"))
            .body(Body::from(body.to_string()))
            .expect("a request");
        let answer = self.runtime.block_on(self.ask(request));
        let made = answer.body.as_ref().and_then(|body| body.pointer(id)).and_then(Value::as_str);
        self.ids.push((name, made.expect("what was asked for is there").to_owned()));
    }

    /// Whether the request changed something.
    async fn check(&self, data: &[u8]) -> bool {
        let Some(request) = self.request(data) else { return false };
        let (method, target) = (request.method().clone(), request.uri().clone());
        let said = data.windows(TOKEN.len()).any(|bytes| bytes == TOKEN.as_bytes());
        let answer = self.ask(request).await;
        let status = answer.status;
        let context = || format!("{method} {target}: {status} {:?}", answer.body);
        assert!(!status.is_server_error(), "{}", context());
        if method == "HEAD" {
            return false;
        }
        if !status.is_success() {
            answer.is_failure(&context());
        }
        let text = answer.body.as_ref().map(Value::to_string).unwrap_or_default();
        let is_token = target.path() == "/v2/oauth2/token" && status.is_success();
        assert!(said || is_token || !(text.contains(TOKEN) || text.contains(SECRET)), "{}", context());
        if status.is_success() && answer.is_json && target.path().ends_with("/submit") {
            self.are_there(&answer).await;
        }
        status.is_success() && !["GET", "OPTIONS"].contains(&method.as_str())
    }

    /// Tasks that were accepted can be asked for at once.
    async fn are_there(&self, answer: &Answer) {
        let body = answer.body.as_ref().expect("an answer");
        let lists: Vec<&Value> = match (&body["task_ids"], &body["tasks"]) {
            (Value::Array(lists), _) => lists.iter().collect(),
            (_, Value::Object(lists)) => lists.values().collect(),
            _ => panic!("no tasks in {body}"),
        };
        for id in lists.into_iter().flat_map(|list| list.as_array().expect("a list")) {
            let request = Request::get(format!("/v1/tasks/{}", id.as_str().expect("an id")))
                .header(header::AUTHORIZATION, format!("Bearer {TOKEN}"))
                .body(Body::empty())
                .expect("a request");
            let found = self.ask(request).await;
            assert_eq!(found.status, 200, "the accepted task {id} is not there: {:?}", found.body);
        }
    }

    /// The request that the bytes say; nothing if HTTP has no such request.
    fn request(&self, data: &[u8]) -> Option<Request<Body>> {
        let data = self.with_ids(data);
        let mut lines = data.split_inclusive(|byte| *byte == b'\n');
        let first = std::str::from_utf8(lines.next()?).ok()?.trim_end();
        let (method, target) = first.split_once(' ')?;
        let mut read = first.len() + 1;
        let mut request = Request::builder().method(method).uri(target).body(Body::empty()).ok()?;
        let token = match request.uri().path() {
            "/v2/oauth2/token" => format!("Basic {BASIC}"),
            _ => format!("Bearer {TOKEN}"),
        };
        let headers = request.headers_mut();
        headers.insert(header::AUTHORIZATION, HeaderValue::from_str(&token).ok()?);
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        for line in lines.take(8) {
            read += line.len();
            let line = line.trim_ascii();
            if line.is_empty() {
                break;
            }
            let colon = line.iter().position(|byte| *byte == b':')?;
            let name = HeaderName::from_bytes(&line[..colon]).ok()?;
            headers.insert(name, HeaderValue::from_bytes(line[colon + 1..].trim_ascii()).ok()?);
        }
        *request.body_mut() = Body::from(data.get(read..).unwrap_or_default().to_vec());
        Some(request)
    }

    fn with_ids(&self, data: &[u8]) -> Vec<u8> {
        let mut text = Vec::with_capacity(data.len());
        let mut rest = data;
        while let Some((first, after)) = rest.split_first() {
            let id = self.ids.iter().find(|(name, _)| rest.starts_with(name.as_bytes()));
            match id {
                Some((name, id)) => {
                    text.extend(id.as_bytes());
                    rest = &rest[name.len()..];
                }
                None => {
                    text.push(*first);
                    rest = after;
                }
            }
        }
        text
    }

    async fn ask(&self, request: Request<Body>) -> Answer {
        let response = self.router.clone().oneshot(request).await.expect("a router always answers");
        let status = response.status();
        let kind = response.headers().get(header::CONTENT_TYPE).map(|value| value.as_bytes().to_vec());
        let kind = kind.unwrap_or_default();
        // A stream of events does not end.
        if kind.starts_with(b"text/event-stream") {
            return Answer { status, is_json: false, body: None };
        }
        let bytes =
            to_bytes(response.into_body(), MAX_ANSWER_BYTES).await.expect("an answer of bounded length");
        let body = (!bytes.is_empty()).then(|| serde_json::from_slice(&bytes).expect("every answer is JSON"));
        Answer { status, is_json: kind == b"application/json", body }
    }
}

impl Answer {
    /// The one body that all failures have.
    fn is_failure(&self, context: &str) {
        assert!(self.is_json, "{context}");
        let body = self.body.as_ref().unwrap_or_else(|| panic!("no body: {context}"));
        assert_eq!((&body["status"], &body["error_args"]), (&json!("Failed"), &json!([])), "{context}");
        assert_eq!(body["http_status_code"], self.status.as_u16(), "{context}");
        assert_eq!(body["message"], body["reason"], "{context}");
        let code = body["code"].as_str().unwrap_or_default();
        assert!(!code.is_empty() && code.bytes().all(|byte| matches!(byte, b'A'..=b'Z' | b'_')), "{context}");
        let message = body["message"].as_str().unwrap_or_default();
        assert!((1..=limit::MAX_TEXT_BYTES).contains(&message.len()), "{} bytes: {context}", message.len());
    }
}

/// The one person there is, who may do everything.
#[derive(Debug)]
struct People;

impl Authority for People {
    fn authenticate<'a>(
        &'a self,
        credential: &'a Credential,
        _at: Timestamp,
    ) -> BoxFuture<'a, Result<Principal>> {
        let is_known = match credential {
            Credential::Bearer(token) => token == TOKEN,
            Credential::Client { id, secret } => id == "client" && secret == SECRET,
        };
        let answer = match is_known {
            true => Ok(Principal {
                identity: IdentityId::from_u128(1),
                username: "alice".to_owned(),
                groups: Vec::new(),
                scopes: Scope::ALL.to_vec(),
            }),
            false => {
                Err(Error::new(ErrorKind::Unauthenticated, "authenticate", "nobody knows this credential"))
            }
        };
        async { answer }.boxed()
    }

    fn authorize(&self, principal: &Principal, action: Action, object: &Object) -> Result<()> {
        match object.permits(principal, action) {
            true => Ok(()),
            false => Err(Error::new(ErrorKind::Forbidden, "authorize", "it is somebody else's")),
        }
    }
}

impl TokenIssuer for People {
    fn issue_access_token(
        &self,
        _client_id: &str,
        _principal: &Principal,
        _lifetime: Duration,
        _now: Timestamp,
    ) -> Result<String> {
        Ok(TOKEN.to_owned())
    }
}
