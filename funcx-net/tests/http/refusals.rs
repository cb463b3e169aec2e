//! Everything that can be wrong with a request.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::body::Body;
use axum::http::Request;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use funcx_core::conformance::task_store::MemoryStore;
use funcx_core::contract::Scope;
use funcx_core::model::Timestamp;
use funcx_net::service::ServiceConfig;
use serde_json::{Value, json};

use crate::site::{NO_ARGUMENTS, Site};
use crate::stores::Gated;

const NOBODY: &str = "00000000-0000-4000-8000-000000000000";

#[tokio::test]
async fn unknown_things_are_not_found() {
    let site = Site::new().await;
    let function = site.globus_function().await;
    let endpoint = site.endpoint;
    for (method, target, body, code) in [
        ("GET", format!("/v2/functions/{NOBODY}"), None, "FUNCTION_NOT_FOUND"),
        ("GET", format!("/v1/functions/{NOBODY}"), None, "FUNCTION_NOT_FOUND"),
        ("GET", format!("/v2/endpoints/{NOBODY}"), None, "ENDPOINT_NOT_FOUND"),
        ("GET", format!("/v2/endpoints/{NOBODY}/status"), None, "ENDPOINT_NOT_FOUND"),
        ("GET", format!("/v1/endpoints/{NOBODY}"), None, "ENDPOINT_NOT_FOUND"),
        ("DELETE", format!("/v2/endpoints/{NOBODY}"), None, "ENDPOINT_NOT_FOUND"),
        ("GET", format!("/v2/tasks/{NOBODY}"), None, "TASK_NOT_FOUND"),
        ("GET", format!("/v1/tasks/{NOBODY}"), None, "TASK_NOT_FOUND"),
        ("GET", format!("/v2/taskgroup/{NOBODY}"), None, "TASK_GROUP_NOT_FOUND"),
        ("GET", format!("/v1/task_groups/{NOBODY}/events"), None, "TASK_GROUP_NOT_FOUND"),
        ("GET", format!("/v1/tasks?task_group_id={NOBODY}"), None, "TASK_GROUP_NOT_FOUND"),
        (
            "POST",
            format!("/v3/endpoints/{endpoint}/submit"),
            Some(json!({ "tasks": { NOBODY: [NO_ARGUMENTS] } })),
            "FUNCTION_NOT_FOUND",
        ),
        (
            "POST",
            format!("/v3/endpoints/{NOBODY}/submit"),
            Some(json!({ "tasks": { &function: [NO_ARGUMENTS] } })),
            "ENDPOINT_NOT_FOUND",
        ),
        (
            "POST",
            "/v1/submit".to_owned(),
            Some(
                json!({ "endpoint_id": NOBODY, "tasks": [{ "function_id": function, "arguments": [NO_ARGUMENTS] }] }),
            ),
            "ENDPOINT_NOT_FOUND",
        ),
    ] {
        site.ask(method, &target, body).await.is_refused(404, code, &[NOBODY]);
    }
    site.ask("GET", "/v9/nothing", None).await.is_refused(404, "NOT_FOUND", &["/v9/nothing"]);
    site.ask("PATCH", "/v2/version", None).await.is_refused(405, "METHOD_NOT_ALLOWED", &["PATCH"]);
    site.ask("GET", "/v1/link", None).await.is_refused(400, "REQUEST_MALFORMED", &["WebSocket"]);
}

#[tokio::test]
async fn malformed_requests_are_told_where() {
    let site = Site::new().await;
    let submit = format!("/v3/endpoints/{}/submit", site.endpoint);
    let send = async |target: &str, body: &str| {
        let request = Request::builder()
            .method("POST")
            .uri(target)
            .header("authorization", format!("Bearer {}", site.people.alice.token))
            .body(Body::from(body.to_owned()))
            .unwrap();
        site.send(request).await
    };
    for target in
        [submit.as_str(), "/v1/submit", "/v3/functions", "/v2/batch_status", "/v1/cancel", "/v1/endpoints"]
    {
        send(target, "{\"ta").await.is_refused(400, "REQUEST_MALFORMED", &["not JSON", "line 1 column"]);
        send(target, "").await.is_refused(400, "REQUEST_MALFORMED", &["not JSON"]);
        send(target, "[1]").await.is_refused(400, "REQUEST_KEY_ERROR", &["form"]);
    }
    for (target, body, words) in [
        (submit.as_str(), json!({}), vec!["missing field `tasks`"]),
        (
            &submit,
            json!({ "tasks": { NOBODY: [NO_ARGUMENTS, 3] } }),
            vec!["tasks", NOBODY, "[1]", "integer `3`"],
        ),
        (&submit, json!({ "tasks": { "x": [] } }), vec!["tasks"]),
        (&submit, json!({ "tasks": {}, "task_group_id": "x" }), vec!["task_group_id"]),
        ("/v1/submit", json!({ "endpoint_id": 1, "tasks": [] }), vec!["endpoint_id"]),
        (
            "/v1/submit",
            json!({ "endpoint_id": NOBODY, "tasks": [], "walltime": 3 }),
            vec!["unknown field `walltime`"],
        ),
        (
            "/v1/submit",
            json!({ "endpoint_id": NOBODY, "tasks": [{ "function_id": NOBODY }] }),
            vec!["arguments"],
        ),
        (
            "/v1/submit",
            json!({ "endpoint_id": NOBODY, "tasks": [{ "function_id": NOBODY, "arguments": [], "chunk": -1 }] }),
            vec!["chunk", "1 to 65536", "-1"],
        ),
        ("/v1/functions", json!({ "name": "f", "kind": "cobol" }), vec!["kind", "cobol"]),
        ("/v3/functions", json!({ "function_name": 1, "function_code": "" }), vec!["function_name"]),
        ("/v2/batch_status", json!({ "task_ids": ["frog"] }), vec!["task_ids[0]"]),
    ] {
        send(target, &body.to_string()).await.is_refused(400, "REQUEST_KEY_ERROR", &words);
    }
    for target in ["/v2/tasks/frog", "/v2/functions/1", "/v1/endpoints/x", "/v2/taskgroup/%20"] {
        site.ask("GET", target, None).await.is_refused(400, "INVALID_UUID", &["UUID"]);
    }
    site.ask("GET", "/v1/tasks?limit=many", None).await.is_refused(
        400,
        "REQUEST_MALFORMED",
        &["query", "limit"],
    );
    site.ask("GET", "/v1/tasks?after=%21", None).await.is_refused(422, "SEMANTICALLY_INVALID", &["after"]);
    site.ask("GET", &format!("/v1/tasks/{NOBODY}?wait=-1"), None).await.is_refused(
        422,
        "SEMANTICALLY_INVALID",
        &["wait"],
    );
}

#[tokio::test]
async fn requests_that_make_no_sense_are_told_why() {
    let site = Site::new().await;
    let (globus, native) = (site.globus_function().await, site.native_function().await);
    let python = json!({ "name": "p", "kind": "python", "entry": "f", "code": "x" });
    let python = site.ask("POST", "/v1/functions", Some(python)).await.text("function_id");
    let shell = json!({ "name": "s", "kind": "shell", "code": "echo {x}" });
    let shell = site.ask("POST", "/v1/functions", Some(shell)).await.text("function_id");
    let map = |function: &str, arguments: Value, chunk: Value| json!({ "endpoint_id": site.endpoint, "tasks": [{ "function_id": function, "arguments": arguments, "chunk": chunk }] });
    let submit = format!("/v3/endpoints/{}/submit", site.endpoint);
    let own = |function: &str, arguments: Value| json!({ "endpoint_id": site.endpoint, "tasks": [{ "function_id": function, "arguments": arguments }] });
    for (target, body, words) in [
        // Serialized payloads that are not what they should be.
        (submit.as_str(), json!({ "tasks": { &globus: ["no frames"] } }), vec!["[0]", "frame 1 of 2"]),
        (&submit, json!({ "tasks": { &globus: [NO_ARGUMENTS, "3\nab2\ncd"] } }), vec!["[1]", "frame 2 of 2"]),
        (&submit, json!({ "tasks": { &globus: ["1\na"] } }), vec!["missing"]),
        (&submit, json!({ "tasks": { &globus: ["1\na1\nb1\nc"] } }), vec!["follow"]),
        (&submit, json!({ "tasks": { &native: [NO_ARGUMENTS] } }), vec!["native", "/v1/submit"]),
        (&submit, json!({ "tasks": {} }), vec!["no tasks"]),
        ("/v3/functions", json!({ "function_name": "f", "function_code": "9\nshort" }), vec!["fewer"]),
        (
            "/v2/functions",
            json!({ "function_name": "f", "function_code": "def f(): pass" }),
            vec!["function_code"],
        ),
        ("/v1/submit", own(&globus, json!([{ "args": [] }])), vec!["arguments[0]", "framed"]),
        ("/v1/submit", own(&globus, json!(["x"])), vec!["frame"]),
        ("/v1/submit", own(&python, json!([{}, [1, 2]])), vec!["arguments[1]", "kwargs"]),
        ("/v1/submit", own(&python, json!([{ "args": 1 }])), vec!["args"]),
        ("/v1/submit", own(&python, json!([{ "arg": [] }])), vec!["arg"]),
        ("/v1/submit", map(&native, json!([1]), json!(0)), vec!["`chunk`", "1 to 65536", "MAX_CHUNK_CALLS"]),
        ("/v1/submit", map(&native, json!([1]), json!(65_537)), vec!["`chunk`", "1 to 65536"]),
        ("/v1/submit", map(&native, json!([]), json!(1)), vec!["no tasks"]),
        ("/v1/submit", map(&python, json!([{}, {}, 3]), json!(2)), vec!["arguments[2]", "kwargs"]),
        ("/v1/submit", map(&globus, json!([NO_ARGUMENTS, "x"]), json!(2)), vec!["arguments[1]", "frame"]),
        ("/v1/submit", map(&shell, json!([{}]), json!(2)), vec!["command", "without `chunk`", &shell]),
        ("/v1/cancel", json!({}), vec!["task_ids", "task_group_id"]),
        ("/v1/purge", json!({}), vec!["task_ids", "task_group_id"]),
        ("/v1/cancel", json!({ "task_ids": [], "task_group_id": NOBODY }), vec!["either"]),
        ("/v1/functions", json!({ "name": "f", "kind": "python", "code": "x" }), vec!["needs `entry`"]),
        ("/v1/functions", json!({ "name": "f", "kind": "shell" }), vec!["needs `code`"]),
        (
            "/v1/functions",
            json!({ "name": "f", "kind": "native", "entry": "e", "code": "c" }),
            vec!["no `code`"],
        ),
        ("/v1/functions", json!({ "name": "f", "kind": "globus-compute", "code": "c" }), vec!["framed"]),
        (
            "/v1/functions",
            json!({ "name": "f", "kind": "native", "entry": "e", "metadata": [1] }),
            vec!["metadata"],
        ),
    ] {
        site.ask("POST", target, Some(body)).await.is_refused(422, "SEMANTICALLY_INVALID", &words);
    }
    for (key, value) in [
        ("walltime_seconds", json!(0)),
        ("cores", json!(-1)),
        ("nodes", json!(0)),
        ("max_attempts", json!(5000)),
    ] {
        let mut body = own(&native, json!([1]));
        body[key] = value;
        let word = key.trim_end_matches("_seconds");
        site.ask("POST", "/v1/submit", Some(body)).await.is_refused(422, "SEMANTICALLY_INVALID", &[word]);
    }
}

#[tokio::test]
async fn what_is_too_large_is_refused_with_the_limit() {
    let config = ServiceConfig { body_bytes: 300_000, payload_bytes: 1000, ..ServiceConfig::default() };
    let site = Site::with(config, Arc::new(MemoryStore::new())).await;
    let function = site.native_function().await;
    let own = |arguments: Value| json!({ "endpoint_id": site.endpoint, "tasks": [{ "function_id": function, "arguments": arguments }] });
    let long = own(json!(["x".repeat(300_000)]));
    site.ask("POST", "/v1/submit", Some(long.clone())).await.is_refused(
        413,
        "PAYLOAD_TOO_LARGE",
        &["300000", "body_bytes"],
    );
    // Without a length in its head the body is read up to the limit.
    let pieces = futures::stream::iter(
        long.to_string()
            .into_bytes()
            .chunks(10_000)
            .map(|piece| Ok::<_, std::io::Error>(piece.to_vec()))
            .collect::<Vec<_>>(),
    );
    let request = Request::builder()
        .method("POST")
        .uri("/v1/submit")
        .header("authorization", format!("Bearer {}", site.people.alice.token))
        .body(Body::from_stream(pieces))
        .unwrap();
    site.send(request).await.is_refused(413, "PAYLOAD_TOO_LARGE", &["body_bytes"]);
    let arguments = own(json!([1, "x".repeat(1000)]));
    site.ask("POST", "/v1/submit", Some(arguments)).await.is_refused(
        413,
        "TASK_PAYLOAD_TOO_LARGE",
        &["1002", "payload_bytes"],
    );
    let mut chunk = own(json!(vec!["x".repeat(398); 3]));
    chunk["tasks"][0]["chunk"] = json!(3);
    site.ask("POST", "/v1/submit", Some(chunk)).await.is_refused(
        413,
        "TASK_PAYLOAD_TOO_LARGE",
        &["1204", "payload_bytes", "smaller chunks"],
    );
    let many = own(json!(vec![1; 100_001]));
    site.ask("POST", "/v1/submit", Some(many)).await.is_refused(413, "TOO_MANY_TASKS", &["MAX_SUBMIT_TASKS"]);
    // What fits still fits.
    site.submit(&function, json!(["x".repeat(998)])).await;
}

#[tokio::test]
async fn only_valid_tokens_are_taken() {
    let site = Site::new().await;
    let identity = site.people.alice.principal.identity;
    let expired = site
        .people
        .authority
        .create_token(identity, &[Scope::Compute], Some(Timestamp::from_nanos(1)), "old")
        .unwrap();
    let mut wrong = site.people.alice.token.clone();
    wrong.pop();
    for target in ["/v2/endpoints", "/v1/tasks", "/v2/oauth2/userinfo", "/v2/get_amqp_result_connection_url"]
    {
        for token in [None, Some(""), Some("frog"), Some(wrong.as_str()), Some(expired.as_str())] {
            let answer = site.ask_as(token, "GET", target, None).await;
            answer.is_refused(401, "USER_UNAUTHENTICATED", &[]);
            if let Some(token) = token.filter(|token| token.len() > 4) {
                assert!(!answer.body.to_string().contains(token), "the token is in the answer");
            }
        }
    }
    for header in ["Basic abc", "Bearer", "bearer  ", "\u{e9}"] {
        let request =
            Request::builder().uri("/v1/tasks").header("authorization", header).body(Body::empty()).unwrap();
        site.send(request).await.is_refused(401, "USER_UNAUTHENTICATED", &[]);
    }
    // The body of somebody unknown is not even read.
    let request = Request::builder().method("POST").uri("/v1/submit").body(Body::from("{")).unwrap();
    site.send(request).await.is_refused(401, "USER_UNAUTHENTICATED", &[]);
    // A token for endpoints does not submit.
    let serving = site.people.authority.create_token(identity, &[Scope::Endpoint], None, "endpoint").unwrap();
    let body = json!({ "name": "f", "kind": "native", "entry": "f" });
    assert_eq!(site.ask_as(Some(&serving), "POST", "/v1/functions", Some(body)).await.status, 403);
}

#[tokio::test]
async fn what_belongs_to_others_is_forbidden() {
    let site = Site::new().await;
    let function = site.globus_function().await;
    let (group, task) = site.globus_submit(&function).await;
    let endpoint = site.endpoint;
    let bob = Some(site.people.bob.token.as_str());
    for (method, target, body, code) in [
        ("GET", format!("/v2/functions/{function}"), None, "FUNCTION_ACCESS_FORBIDDEN"),
        ("DELETE", format!("/v2/functions/{function}"), None, "FUNCTION_ACCESS_FORBIDDEN"),
        ("GET", format!("/v2/tasks/{task}"), None, "TASK_ACCESS_FORBIDDEN"),
        ("GET", format!("/v1/tasks/{task}"), None, "TASK_ACCESS_FORBIDDEN"),
        ("GET", format!("/v2/taskgroup/{group}"), None, "TASK_GROUP_ACCESS_FORBIDDEN"),
        ("GET", format!("/v1/task_groups/{group}/events"), None, "TASK_GROUP_ACCESS_FORBIDDEN"),
        (
            "POST",
            "/v1/cancel".to_owned(),
            Some(json!({ "task_group_id": group })),
            "TASK_GROUP_ACCESS_FORBIDDEN",
        ),
        ("GET", format!("/v1/functions/{function}"), None, "FUNCTION_ACCESS_FORBIDDEN"),
        ("GET", format!("/v1/tasks?task_group_id={group}"), None, "TASK_GROUP_ACCESS_FORBIDDEN"),
        ("GET", format!("/v1/endpoints/{endpoint}"), None, "ENDPOINT_ACCESS_FORBIDDEN"),
        ("GET", format!("/v2/endpoints/{endpoint}/status"), None, "ENDPOINT_ACCESS_FORBIDDEN"),
        ("GET", format!("/v3/endpoints/{endpoint}/allowed_functions"), None, "ENDPOINT_ACCESS_FORBIDDEN"),
        ("DELETE", format!("/v2/endpoints/{endpoint}"), None, "ENDPOINT_ACCESS_FORBIDDEN"),
        (
            "POST",
            format!("/v3/endpoints/{endpoint}/submit"),
            Some(json!({ "tasks": { &function: [NO_ARGUMENTS] } })),
            "FUNCTION_ACCESS_FORBIDDEN",
        ),
        (
            "POST",
            "/v1/submit".to_owned(),
            Some(
                json!({ "endpoint_id": endpoint, "tasks": [{ "function_id": function, "arguments": [NO_ARGUMENTS] }] }),
            ),
            "FUNCTION_ACCESS_FORBIDDEN",
        ),
        (
            "POST",
            "/v1/endpoints".to_owned(),
            Some(json!({ "endpoint_id": endpoint, "name": "x" })),
            "ENDPOINT_ACCESS_FORBIDDEN",
        ),
        ("GET", format!("/v2/endpoints/{endpoint}"), None, "ENDPOINT_ACCESS_FORBIDDEN"),
        ("DELETE", format!("/v1/endpoints/{endpoint}"), None, "ENDPOINT_ACCESS_FORBIDDEN"),
        ("POST", format!("/v3/endpoints/{endpoint}/lock"), None, "ENDPOINT_ACCESS_FORBIDDEN"),
        (
            "PUT",
            format!("/v3/endpoints/{endpoint}"),
            Some(json!({ "endpoint_name": "x" })),
            "ENDPOINT_ACCESS_FORBIDDEN",
        ),
    ] {
        site.ask_as(bob, method, &target, body).await.is_refused(403, code, &[]);
    }
    let batch = site.ask_as(bob, "POST", "/v2/batch_status", Some(json!({ "task_ids": [task] }))).await;
    assert_eq!(batch.body["results"], json!({}));
    // Somebody else's own function does not open the endpoint, and somebody else's cancel finds no task.
    let body = json!({ "name": "bob's", "kind": "native", "entry": "work" });
    let bobs = site.ask_as(bob, "POST", "/v1/functions", Some(body)).await.text("function_id");
    let body = json!({ "endpoint_id": endpoint, "tasks": [{ "function_id": bobs, "arguments": [1] }] });
    let submitted = site.ask_as(bob, "POST", "/v1/submit", Some(body)).await;
    submitted.is_refused(403, "ENDPOINT_ACCESS_FORBIDDEN", &[]);
    let cancel = site.ask_as(bob, "POST", "/v1/cancel", Some(json!({ "task_ids": [task] }))).await;
    assert_eq!((&cancel.body["cancelled"], &cancel.body["unknown"]), (&json!(0), &json!(1)));
    // A public function on a shared endpoint that does not run it.
    let put = json!({ "endpoint_name": "x", "public": true, "allowed_functions": [] });
    assert_eq!(site.ask("PUT", &format!("/v3/endpoints/{endpoint}"), Some(put)).await.status, 200);
    let body = json!({ "tasks": { &function: [NO_ARGUMENTS] } });
    site.ask("POST", &format!("/v3/endpoints/{endpoint}/submit"), Some(body)).await.is_refused(
        403,
        "FUNCTION_NOT_PERMITTED",
        &[&function],
    );
}

#[tokio::test]
async fn a_busy_service_says_when_to_come_back() {
    let config = ServiceConfig { endpoint_tasks: 2, ..ServiceConfig::default() };
    let store = Gated::new(Arc::new(MemoryStore::new()));
    let site = Site::with(config, Arc::clone(&store) as _).await;
    let function = site.native_function().await;
    let body =
        json!({ "endpoint_id": site.endpoint, "tasks": [{ "function_id": function, "arguments": [1, 2] }] });
    store.failures.store(1, Ordering::SeqCst);
    let away = site.ask("POST", "/v1/submit", Some(body.clone())).await;
    away.is_refused(503, "SERVICE_UNAVAILABLE", &["told to fail"]);
    assert_eq!(site.ask("POST", "/v1/submit", Some(body.clone())).await.status, 200);
    // The routes of the SDK say the same.
    let globus = site.globus_function().await;
    let sdk = format!("/v3/endpoints/{}/submit", site.endpoint);
    let calls = json!({ "tasks": { &globus: [NO_ARGUMENTS] } });
    for (target, body) in [("/v1/submit", body), (&sdk, calls)] {
        let full = site.ask("POST", target, Some(body.clone())).await;
        full.is_refused(429, "LIMIT_EXCEEDED", &["endpoint_tasks"]);
        assert_eq!(full.headers["retry-after"], "1");
        // Nothing was accepted of what was refused.
        let listed = site.ask("GET", "/v1/tasks", None).await.body;
        assert_eq!(listed["tasks"].as_array().unwrap().len(), 2);
    }
    store.failures.store(u32::MAX, Ordering::SeqCst);
    let broken = json!({ "name": "f", "kind": "native", "entry": "f" });
    let broken = site.ask("POST", "/v1/functions", Some(broken)).await;
    broken.is_refused(503, "SERVICE_UNAVAILABLE", &["told to fail"]);
}

#[tokio::test]
async fn only_known_clients_are_read_when_they_ask_for_a_token_and_only_little() {
    let site = Site::new().await;
    let identity = site.people.alice.principal.identity;
    let (id, secret) = site.people.authority.create_client(identity, &[Scope::Compute]).unwrap();
    let ask = async |secret: &str, body: Body| {
        let basic = format!("Basic {}", STANDARD.encode(format!("{id}:{secret}")));
        let request = Request::builder()
            .method("POST")
            .uri("/v2/oauth2/token")
            .header("authorization", basic)
            .body(body)
            .unwrap();
        site.send(request).await
    };
    let unread =
        futures::stream::once(async { panic!("the body is read") as Result<Vec<u8>, std::io::Error> });
    ask("wrong", Body::from_stream(unread)).await.is_refused(401, "USER_UNAUTHENTICATED", &[]);
    let form = |padding: usize| format!("grant_type=client_credentials&state={}", "x".repeat(padding));
    ask(&secret, Body::from(form(64 << 10))).await.is_refused(413, "PAYLOAD_TOO_LARGE", &["65536"]);
    assert_eq!(ask(&secret, Body::from(form(1000))).await.status, 200);
}
