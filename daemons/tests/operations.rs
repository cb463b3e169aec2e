//! What an operator sees of a fabric of real processes: one id that follows a task through all logs, and a service that
//! stops in order.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

#[expect(dead_code, reason = "other tests use the rest of it")]
mod fabric;

use std::collections::{BTreeMap, BTreeSet};

use fabric::Fabric;
use funcx_core::model::OutcomeKind;
use funcx_net::client::{Arguments, Call, FunctionRegistration};
use serde_json::Value;

const WORK: &str = "\
def work(n):
    return 2 * n
";

/// The lines about this task, as (level, message).
fn lines_about(log: &str, task: &str) -> Vec<(String, String)> {
    let lines = log.lines().map(|line| {
        serde_json::from_str::<Value>(line).unwrap_or_else(|error| panic!("not JSON: {error}: {line}"))
    });
    let text = |line: &Value, field: &str| line[field].as_str().unwrap().to_owned();
    lines
        .filter(|line| line["task"] == task)
        .map(|line| (text(&line, "level"), text(&line, "message")))
        .collect()
}

fn traces(log: &str, task: &str) -> BTreeSet<String> {
    let lines = log.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines
        .filter(|line| line["task"] == task)
        .filter_map(|line| line["trace_id"].as_str().map(str::to_owned))
        .collect()
}

#[tokio::test]
async fn one_id_follows_a_task_through_the_logs_of_all_processes() {
    let mut fabric =
        Fabric::start_with(1, &[("FUNCX_LOG", "info,funcx_net=debug"), ("FUNCX_LOG_FORMAT", "json")]).await;
    let client = fabric.client();
    let function = client.register(&FunctionRegistration::python("work", WORK)).await.unwrap().function_id;
    let endpoint = client.endpoint_named("faulty").await.unwrap().endpoint_id;
    let arguments = Arguments::python(&[21], &BTreeMap::<String, ()>::new()).unwrap();
    let mut handle = client.submit(Call::new(endpoint, function, arguments)).await.unwrap();
    let task = handle.id().await.unwrap();
    assert_eq!(handle.await.unwrap().value::<u32>().unwrap(), 42);
    let trace = client.timeline(task).await.unwrap().trace_id.unwrap();
    fabric.stop_all().await;

    let task = task.to_string();
    for (log, expected) in [
        (fabric.log("service"), vec!["accepted", "sent down", "outcome received", "completed"]),
        (fabric.log("endpoint"), vec!["received", "sent down", "outcome received"]),
        (fabric.log("manager"), vec!["received", "given to the executor", "ended"]),
    ] {
        let lines = lines_about(&log, &task);
        let mut messages = lines.iter().map(|(_, message)| message.as_str());
        for word in expected {
            assert!(messages.any(|message| message == word), "no `{word}` in its place: {lines:?}");
        }
        assert!(lines.iter().all(|(level, _)| level == "DEBUG"), "{lines:?}");
        assert_eq!(traces(&log, &task), BTreeSet::from([trace.clone()]));
    }
}

#[tokio::test]
async fn a_service_that_is_told_to_stop_says_what_is_left_and_the_next_one_goes_on_with_it() {
    let mut fabric = Fabric::start(1).await;
    let client = fabric.client();
    let function = client.register(&FunctionRegistration::python("work", WORK)).await.unwrap().function_id;
    let endpoint = client.endpoint_named("faulty").await.unwrap().endpoint_id;
    fabric.stop_endpoint().await;
    let mut handles = Vec::new();
    for n in 0..5 {
        let arguments = Arguments::python(&[n], &BTreeMap::<String, ()>::new()).unwrap();
        handles.push(client.submit(Call::new(endpoint, function, arguments)).await.unwrap());
    }
    for handle in &mut handles {
        handle.id().await.unwrap();
    }
    // Somebody follows the group all the while, and does not keep the service from stopping.
    fabric.stop_service().await;
    let log = fabric.log("service");
    let last = log.lines().last().unwrap();
    assert!(last.contains("stopped") && last.contains("queued=5") && last.contains("leased=0"), "{log}");

    fabric.start_again();
    for (n, handle) in (0..).zip(handles) {
        let task = handle.await.unwrap();
        assert_eq!((task.outcome, task.value::<u32>().unwrap()), (Some(OutcomeKind::Returned), 2 * n));
    }
    fabric.stop_all().await;
}
