//! Native functions through `tower`, with and without layers.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use bytes::Bytes;
use funcx_core::inproc::NativeFunctions;
use funcx_core::layer::{MemoizeLayer, RetryLost};
use funcx_core::model::{
    Failure, Function, IdentityId, MapValue, Outcome, OutcomeKind, Task, TaskId, TaskSpec, limit,
};
use funcx_core::{Error, ErrorKind};
use futures::FutureExt;
use tower::{Layer, Service, ServiceExt, limit::ConcurrencyLimit, retry::RetryLayer, service_fn};

fn task(function: Function, arguments: &'static str) -> Task {
    Task::new(
        TaskId::from_u128(1),
        Arc::new(TaskSpec::new(Arc::new(function), IdentityId::from_u128(1))),
        arguments,
    )
}

fn functions() -> NativeFunctions {
    let mut functions = NativeFunctions::new();
    functions.register("add", |(a, b): (i32, i32)| a + b).unwrap();
    functions.register("panic", |(): ()| -> () { panic!("no luck") }).unwrap();
    functions.register_async("later", |name: String| async move { format!("hello {name}") }).unwrap();
    functions.register_async("later_panic", |(): ()| async { panic!("no luck later") as () }).unwrap();
    functions
        .register_raw("reverse", |bytes| Ok(bytes.iter().rev().copied().collect::<Vec<_>>().into()))
        .unwrap();
    functions.register_raw("refuse", |_| Err(Failure::new("Refused", "I refuse"))).unwrap();
    functions
}

async fn run(task: Task) -> Outcome {
    functions().into_service().oneshot(task).await.unwrap()
}

#[tokio::test]
async fn values_come_back_in_json_or_as_the_function_writes_them() {
    for (name, arguments, value) in
        [("add", "[1, 2]", "3"), ("later", "\"you\"", "\"hello you\""), ("reverse", "abc", "cba")]
    {
        let outcome = run(task(Function::native(name), arguments)).await;
        assert_eq!((outcome.kind, outcome.payload), (OutcomeKind::Returned, value.into()), "{name}");
    }
}

fn map(name: &str, payload: &'static str) -> Task {
    let mut spec = TaskSpec::new(Arc::new(Function::native(name)), IdentityId::from_u128(1));
    spec.map = true;
    Task::new(TaskId::from_u128(1), Arc::new(spec), payload)
}

/// What became of each call: its value, or the code of its failure.
fn results(outcome: &Outcome) -> Vec<Result<String, String>> {
    assert_eq!(outcome.kind, OutcomeKind::Returned, "{:?}", outcome.failure());
    let value: MapValue = serde_json::from_slice(&outcome.payload).unwrap();
    let results = value.into_results();
    results.map(|result| result.map(|value| value.get().to_owned()).map_err(|failure| failure.code)).collect()
}

#[tokio::test]
async fn a_map_calls_its_function_with_each_element() {
    let (value, code) = (|text: &str| Ok(text.to_owned()), |text: &str| Err(text.to_owned()));
    for (name, payload, expected) in [
        (
            "add",
            "[[1, 2],[3,4], 5, [6, 7]]",
            vec![value("3"), value("7"), code("InvalidArguments"), value("13")],
        ),
        ("add", "[]", vec![]),
        (
            "later",
            r#"["a", 1, "b"]"#,
            vec![value("\"hello a\""), code("InvalidArguments"), value("\"hello b\"")],
        ),
        ("panic", "[null, null]", vec![code("Panicked"), code("Panicked")]),
        ("later_panic", "[null]", vec![code("Panicked")]),
        ("refuse", "[1]", vec![code("Refused")]),
        // Raw functions get the text of their element, and what they give has to be JSON.
        ("reverse", r#"[12, "a", [0, 1]]"#, vec![value("21"), value("\"a\""), code("InvalidResult")]),
    ] {
        assert_eq!(results(&run(map(name, payload)).await), expected, "{name}");
    }
    for (name, payload, expected) in [
        ("add", "{}", "InvalidArguments"),
        ("later", "[1", "InvalidArguments"),
        ("subtract", "[]", "UnknownNativeFunction"),
    ] {
        let outcome = run(map(name, payload)).await;
        assert_eq!((outcome.kind, outcome.failure().unwrap().code.as_str()), (OutcomeKind::Raised, expected));
    }
}

#[tokio::test]
async fn a_failure_that_says_too_much_leaves_room_for_the_others() {
    let mut functions = NativeFunctions::new();
    functions
        .register_raw("talk", |bytes| match &bytes[..] {
            b"0" => Ok("\"fine\"".into()),
            _ => Err(Failure::new("Long", "\u{1}".repeat(64 << 10))),
        })
        .unwrap();
    let mut task = map("talk", "");
    task.payload = format!("[0{}]", ",1".repeat(6000)).into();
    let outcome = functions.into_service().oneshot(task).await.unwrap();
    assert!(outcome.payload.len() <= limit::MAX_PAYLOAD_BYTES, "{}", outcome.payload.len());
    let results = results(&outcome);
    assert_eq!(results[0], Ok("\"fine\"".to_owned()));
    assert!(results[1..].iter().all(|result| *result == Err("Long".to_owned())));
}

#[tokio::test]
async fn values_that_do_not_fit_into_a_map_fail_alone() {
    let mut functions = NativeFunctions::new();
    let text = |payload: &Bytes| {
        let length: usize = serde_json::from_slice(payload).unwrap();
        Ok([&b"\""[..], &vec![b'x'; length], b"\""].concat().into())
    };
    functions.register_raw("text", text).unwrap();
    let large = limit::MAX_PAYLOAD_BYTES / 2 - 1000;
    let payload = format!("[{large}, 1, {large}, {large}, 2]");
    let mut task = map("text", "");
    task.payload = payload.into();
    let outcome = functions.into_service().oneshot(task).await.unwrap();
    assert!(outcome.payload.len() <= limit::MAX_PAYLOAD_BYTES);
    let kept: Vec<_> = results(&outcome).into_iter().map(|result| result.map(|value| value.len())).collect();
    let too_large = Err("MaxResultSizeExceeded".to_owned());
    assert_eq!(kept, [Ok(large + 2), Ok(3), Ok(large + 2), too_large, Ok(4)]);
}

#[tokio::test]
async fn whatever_goes_wrong_is_an_outcome_that_says_what() {
    for (function, arguments, code, message) in [
        (Function::native("add"), "[1]", "InvalidArguments", "tuple of size 2"),
        (Function::native("panic"), "null", "Panicked", "no luck"),
        (Function::native("later_panic"), "", "Panicked", "no luck later"),
        (Function::native("refuse"), "", "Refused", "I refuse"),
        (Function::native("subtract"), "[1, 2]", "UnknownNativeFunction", "`subtract`"),
        (Function::shell("true"), "", "UnsupportedFunctionKind", "shell"),
    ] {
        let outcome = run(task(function, arguments)).await;
        let failure = outcome.failure().unwrap();
        assert_eq!((outcome.kind, failure.code.as_str()), (OutcomeKind::Raised, code));
        assert!(failure.message.contains(message), "{failure:?}");
    }
}

#[test]
fn a_name_is_taken_once() {
    let error = functions().register("add", |(): ()| ()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert!(error.to_string().contains("add"));
}

#[tokio::test]
async fn lost_tasks_are_attempted_again_as_often_as_they_allow() {
    let calls = Arc::new(AtomicU32::new(0));
    let inner = {
        let calls = Arc::clone(&calls);
        service_fn(move |task: Task| {
            let call = calls.fetch_add(1, Ordering::Relaxed) + 1;
            assert_eq!(task.attempt, call, "each call is a new attempt");
            let lost = Failure::new("WorkerLost", "it crashed");
            async move { Ok::<_, Error>(Outcome::failed(&task, OutcomeKind::Lost, &lost)) }
        })
    };
    let outcome =
        RetryLayer::new(RetryLost).layer(inner).oneshot(task(Function::native("f"), "")).await.unwrap();
    assert_eq!((outcome.kind, outcome.attempt, calls.load(Ordering::Relaxed)), (OutcomeKind::Lost, 3, 3));
}

#[tokio::test]
async fn failures_are_not_remembered_but_values_are() {
    let calls = Arc::new(AtomicU32::new(0));
    let inner = {
        let calls = Arc::clone(&calls);
        service_fn(move |task: Task| {
            let first = calls.fetch_add(1, Ordering::Relaxed) == 0;
            async move {
                Ok::<_, Error>(match first {
                    true => Outcome::failed(&task, OutcomeKind::Raised, &Failure::new("E", "once")),
                    false => Outcome::returned(&task, "value"),
                })
            }
        })
    };
    let mut service = MemoizeLayer::with_capacity_bytes(1 << 20).layer(inner);
    let mut kinds = Vec::new();
    for _ in 0..4 {
        kinds.push(service.ready().await.unwrap().call(task(Function::native("f"), "x")).await.unwrap().kind);
    }
    use OutcomeKind::{Raised, Returned};
    assert_eq!(kinds, [Raised, Returned, Returned, Returned]);
    assert_eq!((calls.load(Ordering::Relaxed), service.hits()), (2, 2));
}

#[tokio::test]
async fn equal_calls_under_way_run_once_and_the_next_one_runs_if_that_fails() {
    let (calls, gate) = (Arc::new(AtomicU32::new(0)), Arc::new(tokio::sync::Semaphore::new(0)));
    let inner = {
        let (calls, gate) = (Arc::clone(&calls), Arc::clone(&gate));
        service_fn(move |task: Task| {
            let first = calls.fetch_add(1, Ordering::Relaxed) == 0;
            let gate = Arc::clone(&gate);
            async move {
                gate.acquire().await.unwrap().forget();
                Ok::<_, Error>(match first {
                    true => Outcome::failed(&task, OutcomeKind::Raised, &Failure::new("E", "once")),
                    false => Outcome::returned(&task, "value"),
                })
            }
        })
    };
    let mut service = MemoizeLayer::with_capacity_bytes(1 << 20).layer(inner);
    let mut running = Vec::new();
    for _ in 0..5 {
        running.push(tokio::spawn(service.ready().await.unwrap().call(task(Function::native("f"), "x"))));
    }
    gate.add_permits(1);
    assert_eq!(running.remove(0).await.unwrap().unwrap().kind, OutcomeKind::Raised);
    // One of the others runs now; whoever stops waiting leaves the rest alone.
    running.pop().unwrap().abort();
    gate.add_permits(1);
    for running in running {
        assert_eq!(running.await.unwrap().unwrap().payload, "value");
    }
    assert_eq!((calls.load(Ordering::Relaxed), service.hits()), (2, 2));
}

#[tokio::test]
async fn a_call_that_is_dropped_leaves_its_turn_to_one_who_waits() {
    let calls = Arc::new(AtomicU32::new(0));
    let inner = {
        let calls = Arc::clone(&calls);
        service_fn(move |task: Task| {
            let first = calls.fetch_add(1, Ordering::Relaxed) == 0;
            async move {
                if first {
                    std::future::pending::<()>().await;
                }
                Ok::<_, Error>(Outcome::returned(&task, "value"))
            }
        })
    };
    let mut service = MemoizeLayer::with_capacity_bytes(1 << 20).layer(inner);
    let dropped = service.ready().await.unwrap().call(task(Function::native("f"), "x"));
    let waiting = service.ready().await.unwrap().call(task(Function::native("f"), "x"));
    drop(dropped);
    assert_eq!(waiting.await.unwrap().payload, "value");
}

#[tokio::test]
async fn a_call_that_does_not_run_takes_no_room_from_others() {
    let gate = Arc::new(tokio::sync::Semaphore::new(1));
    let inner = {
        let gate = Arc::clone(&gate);
        service_fn(move |task: Task| {
            let gate = Arc::clone(&gate);
            async move {
                gate.acquire().await.unwrap().forget();
                Ok::<_, Error>(Outcome::returned(&task, "value"))
            }
        })
    };
    let mut service = MemoizeLayer::with_capacity_bytes(1 << 20).layer(ConcurrencyLimit::new(inner, 2));
    let call = |arguments: &'static str| task(Function::native("f"), arguments);
    service.ready().await.unwrap().call(call("x")).await.unwrap();
    let [mut answered, mut waits, mut other] = [service.clone(), service.clone(), service.clone()];
    answered.ready().await.unwrap().call(call("x")).await.unwrap();
    let leader = service.ready().await.unwrap().call(call("y"));
    let waiting = waits.ready().await.unwrap().call(call("y"));
    // One of two runs; neither who was answered nor who waits has the other place.
    let running = other.ready().now_or_never().expect("there is room").unwrap().call(call("z"));
    gate.add_permits(2);
    let ended = futures::future::join3(leader, waiting, running).await;
    assert_eq!(ended.1.unwrap().payload, "value");
    assert_eq!(service.hits(), 2);
}
