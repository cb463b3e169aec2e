//! Globus Compute routes beyond what was recorded.

use funcx_core::model::{Failure, Outcome, OutcomeKind};
use serde_json::json;

use crate::site::{CODE, NO_ARGUMENTS, Site};

#[tokio::test]
async fn functions_of_old_clients_are_taken() {
    let site = Site::new().await;
    let body = json!({
        "function_name": "add", "function_code": CODE, "container_uuid": null, "description": null,
        "metadata": null, "public": false, "group": null,
    });
    let answer = site.ask("POST", "/v2/functions", Some(body)).await;
    assert_eq!(answer.status, 201);
    site.globus_submit(&answer.text("function_uuid")).await;
}

#[tokio::test]
async fn a_resource_specification_becomes_a_shape_and_reaches_the_worker() {
    let site = Site::new().await;
    let mut bench = site.bench().await;
    let function = site.globus_function().await;
    let specification =
        json!({ "walltime": 90, "max_attempts": 1, "cores": 2.5, "memory": 1024, "priority": 7 });
    let body = json!({
        "tasks": { &function: [NO_ARGUMENTS] }, "resource_specification": specification, "create_queue": false,
        "user_endpoint_config": { "workers": 3 },
    });
    let target = format!("/v3/endpoints/{}/submit", site.endpoint);
    let answer = site.ask("POST", &target, Some(body)).await;
    assert!(answer.text("ha_warning").contains("user_endpoint_config"));
    let task = bench.next().await;
    assert_eq!(task.spec.shape.walltime, Some(std::time::Duration::from_secs(90)));
    assert_eq!((task.spec.shape.milli_cores, task.spec.shape.memory_bytes), (2500, 1024));
    assert_eq!(task.spec.limits.max_attempts, 1);
    let options: serde_json::Value = serde_json::from_slice(&task.spec.options).unwrap();
    assert_eq!(options, json!({ "resource_specification": specification }));

    for (key, value) in [
        ("walltime", json!("long")),
        ("walltime", json!(-1)),
        ("cores", json!(0)),
        ("max_attempts", json!(0)),
    ] {
        let body =
            json!({ "tasks": { &function: [NO_ARGUMENTS] }, "resource_specification": { key: value } });
        site.ask("POST", &target, Some(body)).await.is_refused(422, "SEMANTICALLY_INVALID", &[key]);
    }
}

#[tokio::test]
async fn how_a_task_ended_is_told_in_words() {
    let site = Site::new().await;
    let mut bench = site.bench().await;
    let function = site.globus_function().await;
    for (kind, words) in [
        (OutcomeKind::Raised, "Broken: it broke"),
        (OutcomeKind::TimedOut, "timed-out"),
        (OutcomeKind::Cancelled, "cancelled"),
        (OutcomeKind::Lost, "lost"),
    ] {
        let (_, id) = site.globus_submit(&function).await;
        let mut task = bench.next().await;
        // A lost attempt is made again while attempts are left.
        while kind == OutcomeKind::Lost && task.attempt < task.spec.limits.max_attempts {
            bench.finish(Outcome::failed(&task, kind, &Failure::new("Broken", "it broke")));
            task = bench.next().await;
        }
        bench.finish(Outcome::failed(&task, kind, &Failure::new("Broken", "it broke")));
        site.ask("GET", &format!("/v1/tasks/{id}?wait=30"), None).await;
        let answer = site.ask("GET", &format!("/v2/tasks/{id}"), None).await;
        assert_eq!(answer.body["status"], "failed");
        assert!(answer.text("exception").contains(words), "{}", answer.body);
        // Without the versions that the SDK compares there are no details.
        assert!(answer.body.get("details").is_none());
        assert_eq!(answer.body.get("reason").is_some(), kind != OutcomeKind::Raised);
    }
}

#[tokio::test]
async fn values_of_our_kinds_are_readable_for_the_sdk() {
    let site = Site::new().await;
    let mut bench = site.bench().await;
    let function = site.native_function().await;
    let (_, ids) = site.submit(&function, json!([1])).await;
    let task = bench.next().await;
    bench.finish(Outcome::returned(&task, "[1, 2]"));
    site.ask("GET", &format!("/v1/tasks/{}?wait=30", ids[0]), None).await;
    assert_eq!(site.ask("GET", &format!("/v2/tasks/{}", ids[0]), None).await.body["result"], "11\n[1, 2]");
}

#[tokio::test]
async fn a_group_of_several_pages_comes_whole() {
    let site = Site::new().await;
    let function = site.native_function().await;
    let (group, ids) = site.submit(&function, json!((0..2345).collect::<Vec<_>>())).await;
    let answer = site.ask("GET", &format!("/v2/taskgroup/{group}"), None).await;
    let listed: Vec<_> =
        answer.body["tasks"].as_array().unwrap().iter().map(|task| task["id"].clone()).collect();
    assert_eq!(json!(listed), json!(ids));
}

#[tokio::test]
async fn the_missing_result_stream_says_what_to_do() {
    let site = Site::new().await;
    site.ask("GET", "/v2/get_amqp_result_connection_url", None).await.is_refused(
        422,
        "RESULT_STREAM_UNAVAILABLE",
        &["Client", "/v1/task_groups"],
    );
}

#[tokio::test]
async fn a_task_says_where_it_is_in_the_words_of_the_sdk() {
    let site = Site::new().await;
    let function = site.globus_function().await;
    let (_, id) = site.globus_submit(&function).await;
    let target = format!("/v2/tasks/{id}");
    let status = async || site.ask("GET", &target, None).await.text("status");
    assert_eq!(status().await, "waiting-for-ep");
    let mut bench = site.bench().await;
    let task = bench.next().await;
    assert_eq!(status().await, "waiting-for-launch");
    bench.begin(&task);
    while status().await != "running" {
        tokio::task::yield_now().await;
    }
    bench.finish(Outcome::returned(&task, "00\ngARLBy4=\n"));
    site.ask("GET", &format!("/v1/tasks/{id}?wait=30"), None).await;
    assert_eq!(status().await, "success");
}
