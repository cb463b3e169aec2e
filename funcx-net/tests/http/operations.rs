//! What operators ask: metrics, health, readiness.

use std::collections::BTreeMap;
use std::sync::{Arc, atomic::Ordering};

use funcx_core::conformance::task_store::MemoryStore;
use funcx_core::contract::TaskStore;
use funcx_core::model::{Failure, Outcome, OutcomeKind};
use funcx_net::service::ServiceConfig;
use serde_json::{Value, json};

use crate::fabric::Fabric;
use crate::site::Site;
use crate::stores::Gated;

/// Samples by name and labels, as they stand in the text.
async fn metrics(site: &Site) -> BTreeMap<String, f64> {
    let answer = site.ask_as(None, "GET", "/metrics", None).await;
    assert_eq!(answer.status, 200);
    assert!(answer.headers["content-type"].to_str().unwrap().starts_with("text/plain; version=0.0.4"));
    let text = answer.body.as_str().unwrap().to_owned();
    for secret in [&site.people.alice.token, &site.people.bob.token] {
        assert!(!text.contains(secret.as_str()), "a token is in the metrics");
    }
    let samples = text.lines().filter(|line| !line.starts_with('#'));
    samples
        .map(|line| {
            let (name, value) = line.rsplit_once(' ').unwrap();
            (name.to_owned(), value.parse().unwrap())
        })
        .collect()
}

#[tokio::test]
async fn metrics_count_what_happened() {
    let site = Site::new().await;
    let function = site.native_function().await;
    let fresh = metrics(&site).await;
    for kind in ["returned", "raised", "timed-out", "cancelled", "lost"] {
        assert_eq!(fresh[&format!("funcx_tasks_finished_total{{kind=\"{kind}\"}}")], 0.0);
    }
    assert_eq!((fresh["funcx_tasks_accepted_total"], fresh["funcx_node_running"]), (0.0, 1.0));

    let (_, ids) = site.submit(&function, json!([1, 2, 3])).await;
    let queue =
        |state: &str| format!("funcx_queue_tasks{{endpoint=\"{}\",state=\"{state}\"}}", site.endpoint);
    let waiting = metrics(&site).await;
    assert_eq!((waiting[&queue("queued")], waiting[&queue("leased")]), (3.0, 0.0));
    assert_eq!(
        (waiting["funcx_tasks_accepted_total"], waiting["funcx_peers{state=\"connected\"}"]),
        (3.0, 0.0)
    );
    let mut bench = site.bench().await;
    let tasks = [bench.next().await, bench.next().await, bench.next().await];
    let leased = metrics(&site).await;
    assert_eq!((leased[&queue("queued")], leased[&queue("leased")]), (0.0, 3.0));
    assert_eq!((leased["funcx_window_tasks"], leased["funcx_peers{state=\"connected\"}"]), (3.0, 1.0));
    assert_eq!((leased["funcx_link_sessions_total"], leased["funcx_link_reconnects_total"]), (1.0, 0.0));
    assert_eq!(leased["funcx_worker_slots"], 8.0);

    bench.finish(Outcome::returned(&tasks[0], "1"));
    bench.finish(Outcome::returned(&tasks[1], "2"));
    bench.finish(Outcome::failed(&tasks[2], OutcomeKind::Raised, &Failure::new("E", "e")));
    for id in &ids {
        site.ask("GET", &format!("/v1/tasks/{id}?wait=30"), None).await;
    }
    let done = metrics(&site).await;
    assert_eq!(done["funcx_tasks_finished_total{kind=\"returned\"}"], 2.0);
    assert_eq!(done["funcx_tasks_finished_total{kind=\"raised\"}"], 1.0);
    assert_eq!((done[&queue("queued")], done[&queue("leased")], done["funcx_window_tasks"]), (0.0, 0.0, 0.0));
    assert_eq!(done["funcx_attempts_dispatched_total"], 3.0);
    // Function, endpoint, submission and at least one commit of outcomes.
    assert!(done["funcx_store_commit_duration_seconds_count"] >= 4.0);
    assert_eq!(done["funcx_store_commits_failed_total"], 0.0);
}

#[tokio::test]
async fn requests_are_counted_by_route_and_never_by_what_stands_in_them() {
    let site = Site::new().await;
    for path in ["/v1/tasks/00000000-0000-4000-8000-000000000000", "/v1/tasks/x", "/no/such/route", "/other"]
    {
        site.ask("GET", path, None).await;
    }
    site.ask("FROG", "/v1/tasks", None).await;
    let counted = metrics(&site).await;
    let requests = |method: &str, route: &str, status: u16| {
        counted[&format!(
            "funcx_http_requests_total{{method=\"{method}\",route=\"{route}\",status=\"{status}\"}}"
        )]
    };
    assert_eq!(requests("GET", "/v1/tasks/{id}", 404), 1.0);
    assert_eq!(requests("GET", "/v1/tasks/{id}", 400), 1.0);
    assert_eq!(requests("GET", "unknown", 404), 2.0);
    assert_eq!(requests("other", "/v1/tasks", 405), 1.0);
    assert_eq!(counted["funcx_http_request_duration_seconds_count{route=\"/v1/tasks/{id}\"}"], 2.0);
}

#[tokio::test(start_paused = true)]
async fn readiness_follows_the_store_and_asks_it_rarely() {
    let store = Gated::new(Arc::new(MemoryStore::new()));
    let site = Site::with(ServiceConfig::default(), Arc::clone(&store) as _).await;
    let ready = async || site.ask_as(None, "GET", "/readyz", None).await;
    let fine = ready().await;
    assert_eq!((fine.status.as_u16(), fine.body), (200, json!({ "ok": true })));

    // Known well for a second, then found out.
    store.failures.store(u32::MAX, Ordering::SeqCst);
    assert_eq!(ready().await.status, 200);
    tokio::time::advance(std::time::Duration::from_millis(1001)).await;
    let broken = ready().await;
    assert_eq!((broken.status.as_u16(), &broken.body["ok"]), (503, &json!(false)));
    assert_eq!(broken.headers["retry-after"], "1");
    let reasons = broken.body["reasons"].to_string();
    assert!(reasons.contains("cannot be written") && !reasons.contains("told to fail"), "{reasons}");
    let asked = store.failures.load(Ordering::SeqCst);
    for _ in 0..10 {
        assert_eq!(ready().await.status, 503);
    }
    assert_eq!(store.failures.load(Ordering::SeqCst), asked, "the store was not asked again");
    // A store that does not work is no reason to start the process again.
    assert_eq!(site.ask_as(None, "GET", "/healthz", None).await.status, 200);

    store.failures.store(0, Ordering::SeqCst);
    tokio::time::advance(std::time::Duration::from_millis(1001)).await;
    assert_eq!(ready().await.status, 200);

    // A store that does not answer at all.
    store.close();
    tokio::time::advance(std::time::Duration::from_millis(1001)).await;
    let hanging = ready().await;
    assert!(hanging.body["reasons"][0].as_str().unwrap().contains("has not answered"), "{}", hanging.body);
    store.open();
}

#[tokio::test]
async fn a_service_whose_node_has_ended_is_neither_alive_nor_ready() {
    let site = Site::new().await;
    assert_eq!(site.ask_as(None, "GET", "/healthz", None).await.body, json!({ "ok": true }));
    site.fabric.service.stop().await;
    let health = site.ask_as(None, "GET", "/healthz", None).await;
    assert_eq!((health.status.as_u16(), &health.body["ok"]), (503, &Value::Bool(false)));
    let ready = site.ask_as(None, "GET", "/readyz", None).await;
    assert_eq!((ready.status.as_u16(), ready.body["reasons"].as_array().unwrap().len()), (503, 2));
    let metrics = metrics(&site).await;
    assert_eq!(metrics["funcx_node_running"], 0.0);
    assert!(metrics.contains_key("funcx_tasks_accepted_total"));
}

#[tokio::test]
async fn a_service_that_stops_refuses_work_answers_who_waits_and_says_what_is_left() {
    let site = Site::new().await;
    let function = site.native_function().await;
    let mut bench = site.bench().await;
    let (_, ids) = site.submit(&function, json!((0..10).collect::<Vec<u32>>())).await;
    for _ in 0..8 {
        bench.next().await;
    }
    let target = format!("/v1/tasks/{}?wait=30", ids[0]);
    let mut waiting = Box::pin(site.ask("GET", &target, None));
    assert!(futures::poll!(&mut waiting).is_pending());

    let left = site.fabric.service.begin_stop().await;
    assert_eq!((left.queued, left.leased), (2, 8));
    let body =
        json!({ "endpoint_id": site.endpoint, "tasks": [{ "function_id": function, "arguments": [1] }] });
    let refused = site.ask("POST", "/v1/submit", Some(body)).await;
    refused.is_refused(503, "SERVICE_UNAVAILABLE", &["stopping"]);
    let ready = site.ask_as(None, "GET", "/readyz", None).await;
    assert_eq!(ready.status, 503);
    assert!(ready.body["reasons"][0].as_str().unwrap().contains("stopping"), "{}", ready.body);
    assert_eq!(site.ask_as(None, "GET", "/healthz", None).await.status, 200);
    let answered = waiting.await;
    assert_eq!((answered.status.as_u16(), &answered.body["status"]), (200, &json!("dispatched")));
    // What is read goes on to be answered.
    assert_eq!(site.ask("GET", "/v1/tasks", None).await.body["tasks"].as_array().unwrap().len(), 10);
}

#[tokio::test]
async fn outcomes_that_are_being_stored_when_the_service_stops_are_acknowledged() {
    let memory: Arc<dyn TaskStore> = Arc::new(MemoryStore::new());
    let store = Gated::new(Arc::clone(&memory));
    let site = Site::with(ServiceConfig::default(), Arc::clone(&store) as _).await;
    let function = site.native_function().await;
    let mut bench = site.bench().await;
    let (_, ids) = site.submit(&function, json!([1])).await;
    let task = bench.next().await;
    store.close();
    let asked = store.waiting();
    bench.finish(Outcome::returned(&task, "1"));
    asked.await;
    let transports = site.fabric.transports.clone();
    let Site { people, fabric, endpoint, .. } = site;
    let mut stopping = Box::pin(fabric.stop());
    assert!(futures::poll!(&mut stopping).is_pending());
    store.open();
    stopping.await;

    // The next service is sent nothing that it has already.
    let fabric = Fabric::start_at(ServiceConfig::default(), memory, &people, transports).await;
    let router = funcx_net::http::router(Arc::clone(&fabric.service));
    let site = Site { people, fabric, router, endpoint };
    let done = site.ask("GET", &format!("/v1/tasks/{}", ids[0]), None).await.body;
    assert_eq!(done["outcome"], "returned");
    let (_, ids) = site.submit(&function, json!([2])).await;
    let task = bench.next().await;
    bench.finish(Outcome::returned(&task, "2"));
    site.ask("GET", &format!("/v1/tasks/{}?wait=30", ids[0]), None).await;
    assert_eq!(metrics(&site).await["funcx_outcomes_late_total"], 0.0);
}
