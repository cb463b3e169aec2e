//! A service with its router, an endpoint and a function, and requests to it without a socket.

use std::sync::Arc;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, Request, StatusCode};
use funcx_core::conformance::task_store::MemoryStore;
use funcx_core::contract::TaskStore;
use funcx_core::model::EndpointId;
use funcx_net::http::router;
use funcx_net::service::ServiceConfig;
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::fabric::{Bench, Fabric, People};

/// What the SDK makes of `def add(a, b)`: one framed buffer.
pub(crate) const CODE: &str = "8\nst\nadd:x";
/// Framed arguments of a call without any.
pub(crate) const NO_ARGUMENTS: &str = "12\n00\ngAQpLg==\n12\n00\ngAR9lC4=\n";

/// Everything that a test of the API needs.
pub(crate) struct Site {
    pub(crate) people: People,
    pub(crate) fabric: Fabric,
    pub(crate) router: Router,
    pub(crate) endpoint: EndpointId,
}

/// An answer.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Value,
}

impl Site {
    pub(crate) async fn new() -> Self {
        Self::with(ServiceConfig::default(), Arc::new(MemoryStore::new())).await
    }

    pub(crate) async fn with(mut config: ServiceConfig, store: Arc<dyn TaskStore>) -> Self {
        let people = People::new().await;
        config.issuer = Some(Arc::clone(&people.authority) as _);
        let fabric = Fabric::start(config, store, &people).await;
        let endpoint = fabric.register_endpoint(&people.alice).await;
        let router = router(Arc::clone(&fabric.service));
        Self { people, fabric, router, endpoint }
    }

    /// The endpoint, connected.
    pub(crate) async fn bench(&self) -> Bench {
        let mut bench = self.fabric.connect(self.endpoint, &self.people.alice.token, 8);
        bench.notice().await;
        bench
    }

    /// Sends a request as Alice.
    pub(crate) async fn ask(&self, method: &str, target: &str, body: Option<Value>) -> Answer {
        self.ask_as(Some(&self.people.alice.token), method, target, body).await
    }

    pub(crate) async fn ask_as(
        &self,
        token: Option<&str>,
        method: &str,
        target: &str,
        body: Option<Value>,
    ) -> Answer {
        let mut request = Request::builder().method(method).uri(target);
        if let Some(token) = token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let body = match body {
            Some(body) => {
                request = request.header("content-type", "application/json");
                Body::from(body.to_string())
            }
            None => Body::empty(),
        };
        self.send(request.body(body).unwrap()).await
    }

    pub(crate) async fn send(&self, request: Request<Body>) -> Answer {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let bytes = to_bytes(body, usize::MAX).await.unwrap();
        let is_text =
            parts.headers.get("content-type").is_some_and(|kind| kind.as_bytes().starts_with(b"text/plain"));
        let body = match bytes.is_empty() {
            true => Value::Null,
            false if is_text => Value::String(String::from_utf8(bytes.to_vec()).unwrap()),
            false => serde_json::from_slice(&bytes).unwrap_or_else(|_| panic!("not JSON: {bytes:?}")),
        };
        Answer { status: parts.status, headers: parts.headers, body }
    }

    /// Registers a Globus Compute function as the SDK does.
    pub(crate) async fn globus_function(&self) -> String {
        let body = json!({ "function_name": "add", "function_code": CODE, "serialized": true, "meta": {} });
        self.ask("POST", "/v3/functions", Some(body)).await.created("function_uuid")
    }

    /// Registers a function of one of our own kinds.
    pub(crate) async fn native_function(&self) -> String {
        let body = json!({ "name": "work", "kind": "native", "entry": "work" });
        self.ask("POST", "/v1/functions", Some(body)).await.created("function_id")
    }

    /// Submits one call as the SDK does, and gives the ids of group and task.
    pub(crate) async fn globus_submit(&self, function: &str) -> (String, String) {
        let target = format!("/v3/endpoints/{}/submit", self.endpoint);
        let answer = self.ask("POST", &target, Some(json!({ "tasks": { function: [NO_ARGUMENTS] } }))).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        (answer.text("task_group_id"), answer.body["tasks"][function][0].as_str().unwrap().to_owned())
    }

    /// Submits calls of a native function, and gives the ids of group and tasks.
    pub(crate) async fn submit(&self, function: &str, arguments: Value) -> (String, Vec<String>) {
        let body = json!({
            "endpoint_id": self.endpoint,
            "tasks": [{ "function_id": function, "arguments": arguments }],
        });
        let answer = self.ask("POST", "/v1/submit", Some(body)).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        let ids = answer.body["task_ids"][0].as_array().unwrap().iter();
        (answer.text("task_group_id"), ids.map(|id| id.as_str().unwrap().to_owned()).collect())
    }
}

impl Answer {
    /// A text in the body.
    pub(crate) fn text(&self, field: &str) -> String {
        self.body[field].as_str().unwrap_or_else(|| panic!("no `{field}` in {}", self.body)).to_owned()
    }

    fn created(&self, field: &str) -> String {
        assert_eq!(self.status, 201, "{}", self.body);
        self.text(field)
    }

    /// A refusal with this status and code, and a message that holds these words.
    #[track_caller]
    pub(crate) fn is_refused(&self, status: u16, code: &str, words: &[&str]) {
        let body = &self.body;
        assert_eq!((self.status.as_u16(), body["code"].as_str()), (status, Some(code)), "{body}");
        assert_eq!(body["status"], "Failed");
        assert_eq!(body["http_status_code"], status);
        assert_eq!(body["message"], body["reason"]);
        assert_eq!(body["error_args"], json!([]));
        assert_eq!(self.headers["content-type"], "application/json");
        let message = body["message"].as_str().unwrap();
        for word in words {
            assert!(message.contains(word), "no `{word}` in: {message}");
        }
        assert_eq!(self.headers.contains_key("www-authenticate"), status == 401);
        assert_eq!(self.headers.contains_key("retry-after"), matches!(status, 423 | 429 | 503));
    }
}
