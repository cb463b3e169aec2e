//! Our own routes.

use funcx_core::model::{Failure, Outcome, OutcomeKind};
use serde_json::{Value, json};

use crate::site::{NO_ARGUMENTS, Site};

#[tokio::test]
async fn functions_of_every_kind_are_registered_and_listed() {
    let site = Site::new().await;
    let mut ids = Vec::new();
    for body in [
        json!({ "name": "n", "kind": "native", "entry": "work" }),
        json!({ "name": "p", "kind": "python", "entry": "f", "code": "def f(): pass", "metadata": { "a": [1] } }),
        json!({ "name": "s", "kind": "shell", "code": "echo {x}", "public": true }),
        json!({ "name": "g", "kind": "globus-compute", "code": "2\nst", "description": "d" }),
    ] {
        let answer = site.ask("POST", "/v1/functions", Some(body.clone())).await;
        assert_eq!((answer.status.as_u16(), answer.text("hash").len()), (201, 64), "{}", answer.body);
        let id = answer.text("function_id");
        let found = site.ask("GET", &format!("/v1/functions/{id}"), None).await;
        for (key, value) in body.as_object().unwrap() {
            assert_eq!(&found.body[key], value, "{key}");
        }
        ids.push(id);
    }
    ids.sort();
    let mut listed = Vec::new();
    let mut after = String::new();
    loop {
        let page = site.ask("GET", &format!("/v1/functions?limit=3{after}"), None).await;
        for function in page.body["functions"].as_array().unwrap() {
            assert!(function.get("code").is_none());
            listed.push(function["function_id"].as_str().unwrap().to_owned());
        }
        let Some(next) = page.body["next"].as_str() else { break };
        after = format!("&after={next}");
    }
    assert_eq!(listed, ids);
}

#[tokio::test]
async fn arguments_and_values_pass_through_as_they_are() {
    let site = Site::new().await;
    let mut bench = site.bench().await;
    let native = site.native_function().await;
    let python = json!({ "name": "p", "kind": "python", "entry": "f", "code": "x" });
    let python = site.ask("POST", "/v1/functions", Some(python)).await.text("function_id");
    let globus = site.globus_function().await;
    let body = format!(
        r#"{{"endpoint_id": "{}", "walltime_seconds": 2.5, "max_attempts": 2, "cores": 0.5, "nodes": 1, "labels": ["gpu"],
            "container": "image", "options": {{"env": {{"A": "b"}}}}, "tasks": [
            {{"function_id": "{native}", "arguments": [{{"deep":  [1.50, null]}}, "text"]}},
            {{"function_id": "{python}", "arguments": [{{"args": [1], "kwargs": {{"k": 2.0}}}}, {{}}]}},
            {{"function_id": "{globus}", "arguments": [{}]}}]}}"#,
        site.endpoint,
        json!(NO_ARGUMENTS)
    );
    let request = axum::http::Request::builder()
        .method("POST")
        .uri("/v1/submit")
        .header("authorization", format!("Bearer {}", site.people.alice.token))
        .header("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
        .body(body.into())
        .unwrap();
    let answer = site.send(request).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    let ids = answer.body["task_ids"].as_array().unwrap().clone();
    assert_eq!(ids.iter().map(|ids| ids.as_array().unwrap().len()).collect::<Vec<_>>(), [2, 2, 1]);
    let wanted = [
        r#"{"deep":  [1.50, null]}"#,
        r#""text""#,
        r#"{"args": [1], "kwargs": {"k": 2.0}}"#,
        "{}",
        NO_ARGUMENTS,
    ];
    for wanted in wanted {
        let task = bench.next().await;
        assert_eq!(task.payload, wanted);
        assert_eq!(task.spec.trace.span_id, 0x00f0_67aa_0ba9_02b7);
        assert_eq!(task.spec.options, r#"{"env":{"A":"b"}}"#);
        assert_eq!((task.spec.shape.milli_cores, task.spec.limits.max_attempts), (500, 2));
        assert_eq!(task.spec.shape.container.as_deref(), Some("image"));
        let mut outcome = Outcome::returned(&task, r#"{"v":  1e3}"#);
        (outcome.stdout, outcome.stderr, outcome.worker) =
            ("out".into(), "err".into(), r#"{"os":"x"}"#.into());
        bench.finish(outcome);
    }
    let id = ids[0][0].as_str().unwrap();
    let task = site.ask("GET", &format!("/v1/tasks/{id}?wait=30"), None).await.body;
    assert_eq!(
        (&task["status"], &task["outcome"], &task["attempt"]),
        (&json!("finished"), &json!("returned"), &json!(1))
    );
    assert_eq!(
        (&task["stdout"], &task["stderr"], &task["worker"]["os"]),
        (&json!("out"), &json!("err"), &json!("x"))
    );
    assert_eq!(task["result"], json!({ "v": 1e3 }));
    let stamps = task["stamps"].as_object().unwrap();
    assert!(
        ["accepted", "service-sent", "endpoint-sent", "endpoint-returned"]
            .iter()
            .all(|hop| stamps.contains_key(*hop))
    );
    // A serialized value is a string.
    let id = ids[2][0].as_str().unwrap();
    let task = site.ask("GET", &format!("/v1/tasks/{id}?wait=30"), None).await.body;
    assert_eq!(task["result"], json!(r#"{"v":  1e3}"#));
}

#[tokio::test]
async fn an_environment_that_the_endpoint_does_not_have_is_named() {
    let site = Site::new().await;
    let _bench = site.bench().await;
    let body = json!({
        "endpoint_id": site.endpoint,
        "environment": "ml",
        "tasks": [{ "function_id": site.native_function().await, "arguments": [1] }],
    });
    let answer = site.ask("POST", "/v1/submit", Some(body)).await;
    let id = answer.body["task_ids"][0][0].as_str().unwrap().to_owned();
    let task = site.ask("GET", &format!("/v1/tasks/{id}?wait=30"), None).await.body;
    assert_eq!(task["failure"]["code"], "UnknownEnvironment");
    assert!(task["failure"]["message"].as_str().unwrap().contains("`ml`"), "{task}");
}

#[tokio::test]
async fn chunks_of_calls_are_one_task_each() {
    let site = Site::new().await;
    let mut bench = site.bench().await;
    let (native, globus) = (site.native_function().await, site.globus_function().await);
    let body = format!(
        r#"{{"endpoint_id": "{}", "tasks": [
            {{"function_id": "{native}", "chunk": 2, "arguments": [{{"deep":  [1.50]}}, null, "text"]}},
            {{"function_id": "{globus}", "chunk": 65536, "arguments": [{1}, {1}]}},
            {{"function_id": "{native}", "chunk": 1, "arguments": [7]}},
            {{"function_id": "{native}", "arguments": [8]}}]}}"#,
        site.endpoint,
        json!(NO_ARGUMENTS)
    );
    let request = axum::http::Request::builder()
        .method("POST")
        .uri("/v1/submit")
        .header("authorization", format!("Bearer {}", site.people.alice.token))
        .body(body.into())
        .unwrap();
    let answer = site.send(request).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    let ids: Vec<Vec<String>> = serde_json::from_value(answer.body["task_ids"].clone()).unwrap();
    assert_eq!(ids.iter().map(Vec::len).collect::<Vec<_>>(), [2, 1, 1, 1]);
    let frames = json!(NO_ARGUMENTS);
    let value = r#"{"values": [1, null], "failures": {"1": {"code": "E", "message": "m", "traceback": ""}}}"#;
    for (payload, map) in [
        (r#"[{"deep":  [1.50]},null]"#.to_owned(), true),
        (r#"["text"]"#.to_owned(), true),
        (format!("[{frames},{frames}]"), true),
        ("[7]".to_owned(), true),
        ("8".to_owned(), false),
    ] {
        let task = bench.next().await;
        assert_eq!((&task.payload[..], task.spec.map), (payload.as_bytes(), map));
        bench.finish(Outcome::returned(&task, value));
    }
    let map = |view: &Value| view.get("map").cloned();
    for (ids, expected) in [(&ids[0], Some(json!(true))), (&ids[1], Some(json!(true))), (&ids[3], None)] {
        let view = site.ask("GET", &format!("/v1/tasks/{}?wait=30", ids[0]), None).await.body;
        assert_eq!((map(&view), &view["result"]["failures"]["1"]["code"]), (expected, &json!("E")));
    }
}

#[tokio::test]
async fn failures_and_values_that_are_no_json_are_told() {
    let site = Site::new().await;
    let mut bench = site.bench().await;
    let function = site.native_function().await;
    let (_, ids) = site.submit(&function, json!([1, 2])).await;
    let task = bench.next().await;
    let mut failure = Failure::new("Broken", "it broke");
    failure.traceback = "line 1".to_owned();
    bench.finish(Outcome::failed(&task, OutcomeKind::Raised, &failure));
    let task = bench.next().await;
    bench.finish(Outcome::returned(&task, vec![0xff, 0]));
    let failed = site.ask("GET", &format!("/v1/tasks/{}?wait=30", ids[0]), None).await.body;
    assert_eq!(failed["failure"], json!({ "code": "Broken", "message": "it broke", "traceback": "line 1" }));
    assert_eq!(failed["outcome"], "raised");
    let odd = site.ask("GET", &format!("/v1/tasks/{}?wait=30", ids[1]), None).await.body;
    assert_eq!((odd.get("result"), &odd["result_base64"]), (None, &json!("/wA=")));
}

#[tokio::test]
async fn a_timeline_names_every_hop_and_who_did_it() {
    let site = Site::new().await;
    let mut bench = site.bench().await;
    let function = site.native_function().await;
    let (_, ids) = site.submit(&function, json!([1])).await;
    let target = format!("/v1/tasks/{}/timeline", ids[0]);
    let timeline = async || site.ask("GET", &target, None).await.body;
    let words = |timeline: &Value| -> Vec<String> {
        let transitions = timeline["transitions"].as_array().unwrap().iter();
        transitions.map(|one| one["what"].as_str().unwrap().to_owned()).collect()
    };
    let task = bench.next().await;
    let early = timeline().await;
    assert_eq!(early["status"], "dispatched");
    assert_eq!(words(&early), ["accepted", "service-sent"]);
    bench.begin(&task);
    while timeline().await["status"] != "running" {
        tokio::task::yield_now().await;
    }
    assert_eq!(words(&timeline().await).last().unwrap(), "started");
    bench.finish(Outcome::returned(&task, "1"));
    site.ask("GET", &format!("/v1/tasks/{}?wait=30", ids[0]), None).await;
    let done = timeline().await;
    assert_eq!((&done["status"], &done["outcome"]), (&json!("finished"), &json!("returned")));
    let hops = ["accepted", "service-sent", "endpoint-sent", "started", "endpoint-returned", "completed"];
    assert_eq!(
        words(&done),
        hops,
        "what was said of the start counts where the outcome says nothing: {done}"
    );
    let transitions = done["transitions"].as_array().unwrap();
    let others = transitions.iter().filter(|one| one["what"] != "started");
    let times: Vec<_> = others.map(|one| one["at"].as_u64().unwrap()).collect();
    assert!(times.is_sorted(), "one machine, one clock: {times:?}");
    let endpoint = format!("endpoint bench ({})", site.endpoint);
    let actors = ["service", "service", &endpoint, "worker", &endpoint, "service"];
    for (transition, actor) in transitions.iter().zip(actors) {
        assert_eq!(transition["actor"], actor);
    }
    assert_eq!((&transitions[5]["detail"], &transitions[5]["attempt"]), (&json!("returned"), &json!(1)));

    let bob = Some(site.people.bob.token.as_str());
    site.ask_as(bob, "GET", &target, None).await.is_refused(403, "TASK_ACCESS_FORBIDDEN", &[]);
}

#[tokio::test]
async fn tasks_are_listed_page_by_page() {
    let site = Site::new().await;
    let function = site.native_function().await;
    let (group, ids) = site.submit(&function, json!([1, 2, 3, 4, 5])).await;
    site.submit(&function, json!([6])).await;
    let mut listed = Vec::new();
    let mut after = String::new();
    loop {
        let target = format!("/v1/tasks?task_group_id={group}&limit=2{after}");
        let page = site.ask("GET", &target, None).await;
        assert_eq!(page.status, 200, "{}", page.body);
        listed.extend(page.body["tasks"].as_array().unwrap().iter().map(|task| task["task_id"].clone()));
        let Some(next) = page.body["next"].as_str() else { break };
        after = format!("&after={next}");
    }
    assert_eq!(json!(listed), json!(ids));
    let all = site.ask("GET", "/v1/tasks", None).await;
    assert_eq!(all.body["tasks"].as_array().unwrap().len(), 6);
    let none = site.ask_as(Some(&site.people.bob.token), "GET", "/v1/tasks", None).await;
    assert_eq!(none.body["tasks"], json!([]));
}

#[tokio::test]
async fn tasks_are_cancelled_one_by_one_and_by_group() {
    let site = Site::new().await;
    let function = site.native_function().await;
    let (group, ids) = site.submit(&function, json!([1, 2, 3])).await;
    let cancel = async |body: Value| site.ask("POST", "/v1/cancel", Some(body)).await.body;
    let said = |counts: [u32; 4], effects: Value| {
        let [cancelled, asked, finished, unknown] = counts;
        json!({ "cancelled": cancelled, "asked": asked, "finished": finished, "unknown": unknown, "effects": effects })
    };
    let first = cancel(json!({ "task_ids": [ids[0]] })).await;
    assert_eq!(first, said([1, 0, 0, 0], json!(["cancelled"])));
    // A group may be very large, so only counts are told.
    let group = cancel(json!({ "task_group_id": group })).await;
    assert_eq!(group, json!({ "cancelled": 2, "asked": 0, "finished": 1, "unknown": 0 }));
    let task = site.ask("GET", &format!("/v1/tasks/{}", ids[2]), None).await.body;
    assert_eq!(task["outcome"], "cancelled");

    // One that runs is stopped where it runs.
    let mut bench = site.bench().await;
    let (_, running) = site.submit(&function, json!([4])).await;
    let task = bench.next().await;
    let nobody = "00000000-0000-4000-8000-000000000000";
    let mixed = cancel(json!({ "task_ids": [nobody, running[0], ids[0]] })).await;
    assert_eq!(mixed, said([0, 1, 1, 1], json!(["unknown", "asked", "finished"])));
    assert_eq!(bench.cancelled.recv().await, Some(task.attempt_id()));
    let body = json!({ "task_ids": [running[0]] });
    let bob = site.ask_as(Some(&site.people.bob.token), "POST", "/v1/cancel", Some(body)).await;
    assert_eq!(bob.body, said([0, 0, 0, 1], json!(["unknown"])));
}

#[tokio::test]
async fn tasks_that_have_ended_are_forgotten_and_others_stay() {
    let site = Site::new().await;
    let function = site.native_function().await;
    let (group, ids) = site.submit(&function, json!([1, 2, 3])).await;
    site.ask("POST", "/v1/cancel", Some(json!({ "task_ids": [ids[0]] }))).await;
    let purge = async |body: Value| site.ask("POST", "/v1/purge", Some(body)).await.body;
    let bob = Some(site.people.bob.token.as_str());
    let foreign = site.ask_as(bob, "POST", "/v1/purge", Some(json!({ "task_ids": [ids[0]] }))).await;
    assert_eq!(foreign.body, json!({ "purged": 0, "unfinished": 0, "unknown": 1 }));
    assert_eq!(
        purge(json!({ "task_group_id": group })).await,
        json!({ "purged": 1, "unfinished": 2, "unknown": 0 })
    );
    site.ask("GET", &format!("/v1/tasks/{}", ids[0]), None).await.is_refused(404, "TASK_NOT_FOUND", &[]);
    assert_eq!(site.ask("GET", &format!("/v1/tasks/{}", ids[1]), None).await.status, 200);
    assert_eq!(
        purge(json!({ "task_ids": [ids[0], ids[1]] })).await,
        json!({ "purged": 0, "unfinished": 1, "unknown": 1 })
    );
}

#[tokio::test]
async fn ten_thousand_tasks_are_cancelled_by_one_request() {
    let site = Site::new().await;
    let function = site.native_function().await;
    let arguments: Vec<u32> = (0..10_000).collect();
    let (_, ids) = site.submit(&function, json!(arguments)).await;
    let answer = site.ask("POST", "/v1/cancel", Some(json!({ "task_ids": ids }))).await;
    assert_eq!((answer.status.as_u16(), &answer.body["cancelled"]), (200, &json!(10_000)), "{}", answer.body);
    let effects = answer.body["effects"].as_array().unwrap();
    assert!(effects.len() == 10_000 && effects.iter().all(|effect| effect == "cancelled"));
    let last = site.ask("GET", &format!("/v1/tasks/{}", ids[9_999]), None).await.body;
    assert_eq!(last["outcome"], "cancelled");
}

#[tokio::test]
async fn endpoints_are_registered_listed_and_deleted() {
    let site = Site::new().await;
    let body = json!({ "name": "laptop", "allowed_functions": [], "metadata": { "os": "linux" } });
    let answer = site.ask("POST", "/v1/endpoints", Some(body)).await;
    assert_eq!(answer.status, 201);
    let id = answer.text("endpoint_id");
    let found = site.ask("GET", &format!("/v1/endpoints/{id}"), None).await.body;
    assert_eq!(
        (&found["name"], &found["metadata"]["os"], &found["connected"]),
        (&json!("laptop"), &json!("linux"), &json!(false))
    );
    let _bench = site.bench().await;
    let list = site.ask("GET", "/v1/endpoints", None).await.body;
    let list = list["endpoints"].as_array().unwrap();
    assert_eq!(list.len(), 2);
    let connected =
        list.iter().find(|endpoint| endpoint["endpoint_id"] == site.endpoint.to_string()).unwrap();
    assert_eq!((&connected["connected"], &connected["workers"]), (&json!(true), &json!(8)));
    assert_eq!(site.ask("DELETE", &format!("/v1/endpoints/{id}"), None).await.status, 204);
    site.ask("GET", &format!("/v1/endpoints/{id}"), None).await.is_refused(404, "ENDPOINT_NOT_FOUND", &[&id]);
}

#[tokio::test]
async fn a_long_poll_ends_with_the_task_or_with_its_time() {
    let site = Site::new().await;
    let mut bench = site.bench().await;
    let function = site.native_function().await;
    let (_, ids) = site.submit(&function, json!([1])).await;
    let target = format!("/v1/tasks/{}?wait=0.001", ids[0]);
    assert_ne!(site.ask("GET", &target, None).await.body["status"], "finished");
    let task = bench.next().await;
    let target = format!("/v1/tasks/{}?wait=30", ids[0]);
    let mut waiting = Box::pin(site.ask("GET", &target, None));
    assert!(futures::poll!(&mut waiting).is_pending());
    bench.finish(Outcome::returned(&task, "1"));
    assert_eq!(waiting.await.body["result"], json!(1));
}

#[tokio::test]
async fn the_description_names_every_route_and_the_error_body() {
    let site = Site::new().await;
    let description = site.ask_as(None, "GET", "/openapi.json", None).await.body;
    let paths = description["paths"].as_object().unwrap();
    for (path, methods) in [
        ("/v1/functions", vec!["get", "post"]),
        ("/v1/functions/{id}", vec!["get"]),
        ("/v1/submit", vec!["post"]),
        ("/v1/tasks", vec!["get"]),
        ("/v1/tasks/{id}", vec!["get"]),
        ("/v1/tasks/{id}/timeline", vec!["get"]),
        ("/v1/cancel", vec!["post"]),
        ("/v1/purge", vec!["post"]),
        ("/v1/task_groups/{id}/events", vec!["get"]),
        ("/v1/endpoints", vec!["get", "post"]),
        ("/v1/endpoints/{id}", vec!["delete", "get"]),
        ("/v1/link", vec!["get"]),
        ("/healthz", vec!["get"]),
        ("/readyz", vec!["get"]),
        ("/metrics", vec!["get"]),
        ("/v2/version", vec!["get"]),
        ("/v3/functions", vec!["post"]),
        ("/v2/functions", vec!["post"]),
        ("/v2/functions/{id}", vec!["delete", "get"]),
        ("/v3/endpoints/{id}/submit", vec!["post"]),
        ("/v2/tasks/{id}", vec!["get"]),
        ("/v2/batch_status", vec!["post"]),
        ("/v2/taskgroup/{id}", vec!["get"]),
        ("/v2/get_amqp_result_connection_url", vec!["get"]),
        ("/v2/endpoints/{id}/status", vec!["get"]),
        ("/v2/endpoints/{id}", vec!["delete", "get"]),
        ("/v2/endpoints", vec!["get"]),
        ("/v3/endpoints/{id}/allowed_functions", vec!["get"]),
        ("/v3/endpoints", vec!["post"]),
        ("/v3/endpoints/{id}", vec!["put"]),
        ("/v3/endpoints/{id}/lock", vec!["post"]),
        ("/v2/oauth2/token", vec!["post"]),
        ("/v2/oauth2/userinfo", vec!["get"]),
        ("/v2/oauth2/token/revoke", vec!["post"]),
        ("/v2/api/identities", vec!["get"]),
    ] {
        let described =
            paths.get(path).unwrap_or_else(|| panic!("{path} is not described")).as_object().unwrap();
        assert_eq!(described.keys().collect::<Vec<_>>(), methods, "{path}");
    }
    let schemas = description["components"]["schemas"].as_object().unwrap();
    for schema in
        ["ErrorBody", "TaskView", "SubmitRequest", "SubmitAnswer", "FunctionView", "EndpointView", "TaskInfo"]
    {
        assert!(schemas.contains_key(schema), "{schema}");
    }
}

#[tokio::test]
async fn an_answer_that_is_not_read_is_given_again() {
    let site = Site::new().await;
    let (native, globus) = (site.native_function().await, site.globus_function().await);
    let calls = json!([{ "function_id": native, "arguments": [1] }]);
    for (target, body) in [
        ("/v1/submit".to_owned(), json!({ "endpoint_id": site.endpoint, "tasks": calls })),
        (
            format!("/v3/endpoints/{}/submit", site.endpoint),
            json!({ "tasks": { &globus: [crate::site::NO_ARGUMENTS] } }),
        ),
    ] {
        let request = axum::http::Request::builder()
            .method("POST")
            .uri(&target)
            .header("authorization", format!("Bearer {}", site.people.alice.token))
            .body(axum::body::Body::from(body.to_string()))
            .unwrap();
        let unread = tower::ServiceExt::oneshot(site.router.clone(), request).await.unwrap();
        assert_eq!(unread.status(), 200);
        drop(unread);
        let group = async || site.ask("POST", &target, Some(body.clone())).await.text("task_group_id");
        let listed = site.ask("GET", "/v1/tasks", None).await.body;
        let made = &listed["tasks"].as_array().unwrap().last().unwrap()["task_group_id"];
        assert_eq!(group().await, made.as_str().unwrap());
        assert_ne!(group().await, made.as_str().unwrap());
    }
}
