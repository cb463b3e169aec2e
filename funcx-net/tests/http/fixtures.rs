//! Requests of the unmodified SDK as they were recorded, and answers of the form that it was content with.

use std::collections::BTreeMap;

use axum::body::Body;
use axum::http::Request;
use funcx_core::model::{Failure, Hop, Outcome, OutcomeKind, Task, Timestamp};
use serde_json::{Value, json};

use crate::fabric::Bench;
use crate::site::{Answer, Site};

/// Ids in recordings, and what they are in the service under test.
type Ids = BTreeMap<String, String>;

fn recording(name: &str) -> Vec<Value> {
    let path = format!("{}/tests/data/globus_compute/{name}.json", env!("CARGO_MANIFEST_DIR"));
    let fixture: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    fixture["exchanges"].as_array().unwrap().clone()
}

/// The exchanges over HTTP of one recording.
fn http(name: &str) -> Vec<Value> {
    let exchanges = recording(name).into_iter().filter(|exchange| exchange["kind"] == "http");
    let exchanges: Vec<Value> = exchanges.collect();
    assert!(!exchanges.is_empty(), "{name} holds no exchange over HTTP");
    exchanges
}

/// Sends a recorded request, with ids of this service and Alice's token.
async fn replay(site: &Site, ids: &Ids, exchange: &Value) -> Answer {
    let text = ids.iter().fold(exchange["request"].to_string(), |text, (old, new)| text.replace(old, new));
    let recorded: Value = serde_json::from_str(&text).unwrap();
    let target = recorded["target"].as_str().unwrap();
    let mut request = Request::builder().method(recorded["method"].as_str().unwrap()).uri(target);
    for (name, value) in recorded["headers"].as_object().unwrap() {
        let value = value.as_str().unwrap();
        let value = match (name.as_str(), value.split_once(' ')) {
            ("Authorization", Some(("Bearer", _))) => format!("Bearer {}", site.people.alice.token),
            _ => value.to_owned(),
        };
        request = request.header(name, value);
    }
    let body = match &recorded["body"] {
        Value::Null => Body::empty(),
        Value::String(form) => Body::from(form.clone()),
        json => Body::from(json.to_string()),
    };
    site.send(request.body(body).unwrap()).await
}

/// Every field of the recorded answer is there, with a value of the same type, at every depth.
#[track_caller]
fn has_form(answer: &Value, recorded: &Value, path: &str) {
    match (answer, recorded) {
        (Value::Object(answer), Value::Object(recorded)) => {
            for (key, value) in recorded {
                // Keys that are ids differ; then any entry stands for all.
                let found = answer.get(key).or_else(|| answer.values().next().filter(|_| key.len() == 36));
                let found = found.unwrap_or_else(|| panic!("{path}.{key} is missing in {answer:?}"));
                has_form(found, value, &format!("{path}.{key}"));
            }
        }
        (Value::Array(answer), Value::Array(recorded)) => {
            if let (Some(answer), Some(recorded)) = (answer.first(), recorded.first()) {
                has_form(answer, recorded, &format!("{path}[0]"));
            }
            assert_eq!(answer.is_empty(), recorded.is_empty(), "{path}");
        }
        // Optional values.
        (Value::Null, _) | (_, Value::Null) => {}
        _ => assert_eq!(
            std::mem::discriminant(answer),
            std::mem::discriminant(recorded),
            "{path}: {answer} instead of {recorded}"
        ),
    }
}

#[track_caller]
fn matches(answer: &Answer, exchange: &Value, leave_out: &[&str]) {
    let mut recorded = exchange["response"]["body"].clone();
    for field in leave_out {
        recorded.as_object_mut().unwrap().remove(*field);
    }
    assert_eq!(json!(answer.status.as_u16()), exchange["response"]["status"], "{}", answer.body);
    has_form(&answer.body, &recorded, "");
}

/// Replays the registrations of a recording and notes the new ids.
async fn register(site: &Site, ids: &mut Ids, name: &str) {
    for exchange in http(name) {
        if exchange["request"]["target"] != "/v3/functions" {
            continue;
        }
        let answer = replay(site, ids, &exchange).await;
        matches(&answer, &exchange, &[]);
        let recorded = exchange["response"]["body"]["function_uuid"].as_str().unwrap().to_owned();
        ids.insert(recorded, answer.text("function_uuid"));
    }
}

/// Replays the submissions of a recording and notes the new ids.
async fn submit(site: &Site, ids: &mut Ids, name: &str) {
    for exchange in http(name) {
        if !exchange["request"]["target"].as_str().unwrap().ends_with("/submit") {
            continue;
        }
        let answer = replay(site, ids, &exchange).await;
        matches(&answer, &exchange, &[]);
        let recorded = &exchange["response"]["body"];
        for (function, tasks) in recorded["tasks"].as_object().unwrap() {
            let new = &answer.body["tasks"][&ids[function]];
            assert_eq!(new.as_array().unwrap().len(), tasks.as_array().unwrap().len());
            for (old, new) in tasks.as_array().unwrap().iter().zip(new.as_array().unwrap()) {
                ids.insert(old.as_str().unwrap().to_owned(), new.as_str().unwrap().to_owned());
            }
        }
        ids.insert(recorded["task_group_id"].as_str().unwrap().to_owned(), answer.text("task_group_id"));
    }
}

/// Does what the recorded worker did with its tasks: checks what reached it, and returns what it returned.
async fn work(site: &Site, bench: &mut Bench, ids: &Ids, name: &str) {
    let exchanges = recording(name);
    let data = |kind: &str| {
        let exchanges = exchanges.iter().filter(move |exchange| exchange["kind"] == kind);
        exchanges.map(|exchange| exchange["body"]["json"]["data"].clone()).collect::<Vec<_>>()
    };
    let (tasks, results) = (data("task_message"), data("amqp_result"));
    for _ in 0..tasks.len() {
        let task = bench.next().await;
        let recorded =
            |message: &&Value| ids.get(message["task_id"].as_str().unwrap()) == Some(&task.id.to_string());
        let message = tasks.iter().find(recorded).expect("the task was recorded");
        let code = task.spec.function.body().code.clone();
        let buffer = [code, task.payload.clone()].concat();
        assert_eq!(message["task_buffer"].as_str().unwrap().as_bytes(), buffer);
        let result = results.iter().find(recorded).expect("the result was recorded");
        bench.finish(outcome(&task, result));
        let target = format!("/v1/tasks/{}?wait=30", task.id);
        assert_eq!(site.ask("GET", &target, None).await.body["status"], "finished");
    }
}

/// The outcome that a recorded result message stands for.
fn outcome(task: &Task, result: &Value) -> Outcome {
    let mut outcome = match result["error_details"].as_object() {
        None => Outcome::returned(task, result["data"].as_str().unwrap().to_owned()),
        Some(error) => {
            let text = |field: &str| error[field].as_str().unwrap().to_owned();
            let mut failure = Failure::new(text("code"), text("user_message"));
            failure.traceback = result["data"].as_str().unwrap().to_owned();
            Outcome::failed(task, OutcomeKind::Raised, &failure)
        }
    };
    outcome.worker = result["details"].to_string().into();
    for status in result["task_statuses"].as_array().unwrap() {
        let hop = if status["state"] == "execution-start" { Hop::Started } else { Hop::Ended };
        outcome.stamps.set(hop, Timestamp::from_nanos(status["timestamp"].as_u64().unwrap()));
    }
    outcome
}

/// A site whose endpoint has the place of the recorded one.
async fn site() -> (Site, Ids) {
    let site = Site::new().await;
    let ids = Ids::from([
        ("22222222-2222-4222-8222-222222222222".to_owned(), site.endpoint.to_string()),
        ("74063483-1e43-4277-9ac1-181619a14dd2".to_owned(), site.endpoint.to_string()),
    ]);
    (site, ids)
}

#[tokio::test]
async fn the_client_finds_the_version() {
    let (site, ids) = site().await;
    for exchange in http("version") {
        matches(&replay(&site, &ids, &exchange).await, &exchange, &["git_sha"]);
    }
    let bare = site.ask_as(None, "GET", "/v2/version", None).await;
    assert!(bare.status == 200 && bare.body.is_string());
}

#[tokio::test]
async fn the_client_registers_reads_and_deletes_functions() {
    let (site, mut ids) = site().await;
    register(&site, &mut ids, "register_function_dillcode").await;
    register(&site, &mut ids, "register_source_code").await;
    for name in ["get_function", "get_function_source"] {
        for exchange in http(name) {
            let answer = replay(&site, &ids, &exchange).await;
            matches(&answer, &exchange, &[]);
            // The code comes back as it was, or in the form in which workers take source text.
            assert_eq!(answer.body["function_code"], exchange["response"]["body"]["function_code"]);
            assert_eq!(answer.body["metadata"], exchange["response"]["body"]["metadata"]);
        }
    }
    for exchange in http("delete_function") {
        matches(&replay(&site, &ids, &exchange).await, &exchange, &[]);
        replay(&site, &ids, &exchange).await.is_refused(404, "FUNCTION_NOT_FOUND", &[]);
    }
}

#[tokio::test]
async fn the_client_runs_tasks_and_reads_their_results() {
    let (site, mut ids) = site().await;
    let mut bench = site.bench().await;
    register(&site, &mut ids, "register_function_dillcode").await;
    submit(&site, &mut ids, "submit_client_run").await;
    work(&site, &mut bench, &ids, "submit_client_run").await;
    let [exchange] = <[Value; 1]>::try_from(http("get_task_success")).unwrap();
    let answer = replay(&site, &ids, &exchange).await;
    matches(&answer, &exchange, &[]);
    let recorded = &exchange["response"]["body"];
    assert_eq!(answer.body["result"], recorded["result"]);
    assert_eq!(answer.body["details"]["task_transitions"], recorded["details"]["task_transitions"]);
    assert_eq!(answer.body["details"]["endpoint_id"], site.endpoint.to_string());
}

#[tokio::test]
async fn the_client_submits_batches_and_asks_for_many_tasks() {
    let (site, mut ids) = site().await;
    register(&site, &mut ids, "register_function_dillcode").await;
    // The second function of the batch was registered outside the recording.
    ids.insert("1a81dfc7-adbe-4c4b-be10-7961dbab0421".to_owned(), site.globus_function().await);
    submit(&site, &mut ids, "batch_submit_two_functions").await;
    let [exchange] = <[Value; 1]>::try_from(http("batch_status")).unwrap();
    let pending = replay(&site, &ids, &exchange).await;
    let task = &ids["679255de-d5a1-4709-86c6-b2d564fe859c"];
    assert_eq!(pending.body["results"][task], json!({ "task_id": task, "status": "waiting-for-ep" }));

    let mut bench = site.bench().await;
    let results: Vec<Value> = recording("batch_submit_two_functions")
        .into_iter()
        .filter(|exchange| exchange["kind"] == "amqp_result")
        .map(|exchange| exchange["body"]["json"]["data"].clone())
        .collect();
    for _ in 0..3 {
        let task = bench.next().await;
        let id = task.id.to_string();
        let result =
            results.iter().find(|result| ids.get(result["task_id"].as_str().unwrap()) == Some(&id)).unwrap();
        bench.finish(outcome(&task, result));
        site.ask("GET", &format!("/v1/tasks/{id}?wait=30"), None).await;
    }
    let answer = replay(&site, &ids, &exchange).await;
    let recorded = &exchange["response"]["body"]["results"];
    for (old, task) in recorded.as_object().unwrap() {
        let Some(new) = ids.get(old) else {
            assert!(answer.body["results"].get(old).is_none(), "an unknown task is left out");
            continue;
        };
        let found = &answer.body["results"][new];
        has_form(found, task, old);
        for field in ["status", "result", "exception"] {
            assert_eq!(found[field], task[field], "{old}.{field}");
        }
    }
}

#[tokio::test]
async fn the_client_reads_a_failure() {
    let (site, ids) = site().await;
    let mut bench = site.bench().await;
    let function = site.globus_function().await;
    let (_, task) = site.globus_submit(&function).await;
    let failed = recording("batch_submit_two_functions")
        .into_iter()
        .find(|exchange| exchange["body"]["json"]["data"]["error_details"].is_object())
        .unwrap();
    let running = bench.next().await;
    bench.finish(outcome(&running, &failed["body"]["json"]["data"]));
    site.ask("GET", &format!("/v1/tasks/{task}?wait=30"), None).await;
    let mut ids = ids;
    ids.insert("484291f2-1469-4359-85cb-5e83649153e8".to_owned(), task);
    let [exchange] = <[Value; 1]>::try_from(http("get_task_failed")).unwrap();
    let answer = replay(&site, &ids, &exchange).await;
    matches(&answer, &exchange, &[]);
    assert_eq!(answer.body["exception"], exchange["response"]["body"]["exception"]);
}

#[tokio::test]
async fn the_executor_submits_and_finds_its_tasks_again() {
    let (site, mut ids) = site().await;
    let mut bench = site.bench().await;
    register(&site, &mut ids, "executor_submit").await;
    submit(&site, &mut ids, "executor_submit").await;
    work(&site, &mut bench, &ids, "executor_submit").await;
    // A later batch of the same group, which asks for a serializer.
    submit(&site, &mut ids, "executor_result_serializers").await;
    let task = bench.next().await;
    let options: Value = serde_json::from_slice(&task.spec.options).unwrap();
    assert_eq!(options["result_serializers"], json!(["globus_compute_sdk.serialize.concretes.JSONData"]));

    let exchanges = http("executor_reload_tasks");
    let group = replay(&site, &ids, &exchanges[0]).await;
    matches(&group, &exchanges[0], &[]);
    let recorded_group = "b5707f38-0423-45f3-876d-2a7091f45247";
    assert_eq!(group.body["taskgroup_id"], ids[recorded_group]);
    assert_eq!(group.body["tasks"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn the_client_reads_about_endpoints() {
    let (site, mut ids) = site().await;
    for exchange in http("endpoint_register_put") {
        let answer = replay(&site, &ids, &exchange).await;
        // Queues are for agents that speak AMQP.
        matches(&answer, &exchange, &["command_queue_info", "heartbeat_queue_info", "warnings"]);
        assert_eq!(answer.body["endpoint_id"], site.endpoint.to_string());
    }
    for exchange in http("endpoint_register_post") {
        let answer = replay(&site, &ids, &exchange).await;
        matches(&answer, &exchange, &["command_queue_info", "heartbeat_queue_info", "warnings"]);
        assert_ne!(answer.body["endpoint_id"], site.endpoint.to_string());
    }
    let offline = site.ask("GET", &format!("/v2/endpoints/{}/status", site.endpoint), None).await;
    assert_eq!(offline.body["status"], "offline");
    let _bench = site.bench().await;
    for name in ["endpoint_status", "endpoint_metadata", "endpoints_list", "endpoint_allowed_functions"] {
        for exchange in http(name) {
            let answer = replay(&site, &ids, &exchange).await;
            let leave_out: &[&str] =
                if exchange["response"]["body"].is_array() { &[] } else { &["subscription_uuid"] };
            matches(&answer, &exchange, leave_out);
        }
    }
    let status = site.ask("GET", &format!("/v2/endpoints/{}/status", site.endpoint), None).await;
    assert_eq!(
        (&status.body["status"], &status.body["details"]["total_workers"]),
        (&json!("online"), &json!(8))
    );
    for exchange in http("endpoint_lock") {
        matches(&replay(&site, &ids, &exchange).await, &exchange, &[]);
    }
    let put = &http("endpoint_register_put")[0];
    replay(&site, &ids, put).await.is_refused(423, "ENDPOINT_LOCKED", &["locked"]);
    // An endpoint that a service without its store does not know is adopted under its id.
    ids.insert(
        "74063483-1e43-4277-9ac1-181619a14dd2".to_owned(),
        "74063483-1e43-4277-9ac1-181619a14dd3".to_owned(),
    );
    let adopted = replay(&site, &ids, put).await;
    assert_eq!(adopted.body["endpoint_id"], "74063483-1e43-4277-9ac1-181619a14dd3");
}

#[tokio::test]
async fn scripts_without_a_change_get_their_tokens() {
    let (site, ids) = site().await;
    let identity = site.people.alice.principal.identity;
    let (client, secret) =
        site.people.authority.create_client(identity, &[funcx_core::contract::Scope::Compute]).unwrap();
    let basic = base64_of(&format!("{client}:{secret}"));
    let mut token = String::new();
    for mut exchange in http("auth_client_credentials_token") {
        exchange["request"]["headers"]["Authorization"] = json!(format!("Basic {basic}"));
        let answer = replay(&site, &ids, &exchange).await;
        matches(&answer, &exchange, &[]);
        assert_eq!(answer.body["resource_server"], exchange["response"]["body"]["resource_server"]);
        token = answer.text("access_token");
    }
    let info = site.ask_as(Some(&token), "GET", "/v2/oauth2/userinfo", None).await;
    assert_eq!(info.body["sub"], identity.to_string());
    for exchange in http("auth_userinfo") {
        matches(&replay(&site, &ids, &exchange).await, &exchange, &[]);
    }
    let known = site.ask_as(Some(&token), "GET", &format!("/v2/api/identities?ids={identity}"), None).await;
    assert_eq!(known.body["identities"][0]["id"], identity.to_string());
    assert_eq!(site.ask("POST", "/v2/oauth2/token/revoke", None).await.body, json!({ "active": false }));

    for exchange in http("auth_client_credentials_token") {
        let mut wrong = exchange.clone();
        wrong["request"]["headers"]["Authorization"] =
            json!(format!("Basic {}", base64_of(&format!("{client}:no"))));
        replay(&site, &ids, &wrong).await.is_refused(401, "USER_UNAUTHENTICATED", &[]);
        let mut grant = exchange;
        grant["request"]["headers"]["Authorization"] = json!(format!("Basic {basic}"));
        grant["request"]["body"] = json!("grant_type=password");
        replay(&site, &ids, &grant).await.is_refused(422, "SEMANTICALLY_INVALID", &["client_credentials"]);
    }
}

fn base64_of(text: &str) -> String {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.encode(text)
}

#[tokio::test]
async fn failures_have_the_form_that_the_client_shows() {
    let (site, mut ids) = site().await;
    let mut anonymous = http("error_401").remove(0);
    anonymous["response"]["body"]["code"] = json!("");
    matches(&replay(&site, &ids, &anonymous).await, &anonymous, &[]);
    register(&site, &mut ids, "register_function_dillcode").await;
    for (name, code) in [("error_404_endpoint", "ENDPOINT_NOT_FOUND"), ("error_404_task", "TASK_NOT_FOUND")] {
        for exchange in http(name) {
            let answer = replay(&site, &ids, &exchange).await;
            matches(&answer, &exchange, &[]);
            answer.is_refused(404, code, &["00000000-0000-4000-8000-000000000000"]);
        }
    }
}
