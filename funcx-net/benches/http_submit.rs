//! Cost of a submission over HTTP, from the bytes of the request to the answer: parsed, checked, numbered, kept. Without
//! sockets, and with a store in memory, so that what is measured is ours; the endpoint is away.

use std::sync::Arc;

use axum::{
    Router,
    body::{Body, Bytes, to_bytes},
    http::{Request, StatusCode},
};
use divan::{Bencher, counter::ItemsCount};
use funcx_core::conformance::task_store::MemoryStore;
use funcx_core::contract::{Access, Authority, Credential, Scope};
use funcx_core::model::{Function, Memoize, Timestamp};
use funcx_net::auth::LocalAuthority;
use funcx_net::http::router;
use funcx_net::service::{NewEndpoint, NewFunction, Service, ServiceConfig};
use tokio::runtime::Runtime;
use tower::ServiceExt;

fn main() {
    divan::main();
}

/// A service and the requests to it.
struct Site {
    runtime: Runtime,
    router: Router,
    authorization: String,
    body: Bytes,
    _directory: tempfile::TempDir,
}

impl Site {
    fn new(tasks: usize, memoize: bool) -> Self {
        let runtime = Runtime::new().expect("a runtime");
        let directory = tempfile::tempdir().expect("a temporary directory");
        let authority = LocalAuthority::open(directory.path().join("accounts")).expect("accounts");
        let identity = authority.create_account("somebody", &[]).expect("an account");
        let token = authority.create_token(identity, &[Scope::Compute, Scope::Endpoint], None, "bench");
        let token = token.expect("a token");
        let (router, body) = runtime.block_on(async {
            let credential = Credential::Bearer(token.clone());
            let principal = authority.authenticate(&credential, Timestamp::from_nanos(1)).await;
            let principal = principal.expect("a principal");
            let store = Arc::new(MemoryStore::new());
            let service = Service::start(ServiceConfig::default(), store, Arc::new(authority));
            let service = service.expect("a service");
            let endpoint = NewEndpoint {
                id: None,
                name: "bench".to_owned(),
                access: Access::Private,
                allowed_functions: None,
                metadata: "{}".to_owned(),
            };
            let function = NewFunction {
                function: Function::native("noop"),
                name: "noop".to_owned(),
                description: String::new(),
                access: Access::Private,
                memoize: Memoize::Never,
                metadata: "{}".to_owned(),
            };
            let endpoint = service.register_endpoint(&principal, endpoint).await.expect("an endpoint").id;
            let function = service.register_function(&principal, function).await.expect("a function").id;
            let body = serde_json::json!({
                "endpoint_id": endpoint,
                "memoize": memoize,
                "tasks": [{"function_id": function, "arguments": (0..tasks).collect::<Vec<_>>()}],
            });
            (router(service), Bytes::from(body.to_string()))
        });
        Self { runtime, router, authorization: format!("Bearer {token}"), body, _directory: directory }
    }

    fn submit(&self) {
        let request = Request::post("/v1/submit")
            .header("authorization", &self.authorization)
            .header("content-type", "application/json")
            .body(Body::from(self.body.clone()))
            .expect("a request");
        self.runtime.block_on(async {
            let answer = self.router.clone().oneshot(request).await.expect("an answer");
            assert_eq!(answer.status(), StatusCode::OK);
            // An answer that is not taken would be that of the next request too, which has the same body.
            to_bytes(answer.into_body(), usize::MAX).await.expect("the ids of the tasks");
        });
    }
}

#[divan::bench(args = [1, 100, 1_000], sample_count = 20, sample_size = 5)]
fn plain(bencher: Bencher<'_, '_>, tasks: usize) {
    let site = Site::new(tasks, false);
    bencher.counter(ItemsCount::new(tasks)).bench_local(|| site.submit());
}

/// Their keys are found and looked for; no value is known.
#[divan::bench(args = [1, 100, 1_000], sample_count = 20, sample_size = 5)]
fn memoized(bencher: Bencher<'_, '_>, tasks: usize) {
    let site = Site::new(tasks, true);
    bencher.counter(ItemsCount::new(tasks)).bench_local(|| site.submit());
}
