//! What the client does when the service is slow, busy, away, or says strange things.

use std::{sync::atomic::Ordering, time::Duration};

use axum::{Json, http::StatusCode};
use funcx_core::model::{OutcomeKind, Retry, TaskGroupId, TaskId};
use funcx_net::client::{Arguments, Call, CallOptions, Client, ErrorKind, Token};
use futures::{FutureExt, StreamExt, future::join_all};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tower::{Service, ServiceExt};

use crate::front::{Asked, ENDPOINT, FUNCTION, RETRY, Running, call, ended, event};

#[tokio::test]
async fn calls_made_while_a_request_is_under_way_go_together_into_the_next() {
    let mut front = Running::start().await;
    let client = front.client();
    let mut handles = vec![client.submit(call(0)).await.unwrap()];
    assert_eq!(front.next_submit().await, [json!(0)], "a call alone goes at once");
    for argument in 1..=900 {
        handles.push(client.submit(call(argument)).await.unwrap());
    }
    front.answer_submits();
    assert_eq!(front.next_submit().await, (1..=900).map(Value::from).collect::<Vec<_>>());
    let ids: Vec<_> = join_all(handles.iter_mut().map(|handle| handle.id())).await;
    let ids: Vec<_> = ids.into_iter().map(|id| id.unwrap().as_u128()).collect();
    assert_eq!(ids, (1..=901).collect::<Vec<_>>(), "each call has the id of its own task");
}

#[tokio::test]
async fn what_is_called_otherwise_does_not_travel_together() {
    let mut front = Running::start().await;
    let client = front.client();
    let _first = client.submit(call(0)).await.unwrap();
    let _other = client.submit(call(1).with_walltime(Duration::from_secs(5))).await.unwrap();
    // Both are under way at the same time: none has been answered.
    let mut seen = [front.next_submit().await, front.next_submit().await];
    seen.sort_by_key(|arguments| arguments[0].as_u64());
    assert_eq!(seen, [[json!(0)], [json!(1)]]);
}

#[tokio::test]
async fn outcomes_reach_their_handles_even_before_the_answer_to_the_submission() {
    let mut front = Running::start().await;
    let events = front.open_stream();
    let client = front.client();
    front.front.submits.add_permits(1);
    let first = client.submit(call(0)).await.unwrap();
    front.next_submit().await;
    assert_eq!(front.asked.recv().await.unwrap(), Asked::Events { after: None });

    let second = client.submit(call(1)).await.unwrap();
    front.next_submit().await;
    // Task 2 has ended although the client does not know yet that its call is task 2.
    events.send(event(2, 10, 20)).unwrap();
    events.send(event(1, 11, 21)).unwrap();
    assert_eq!(first.await.unwrap().value::<u64>().unwrap(), 21);
    front.answer_submits();
    let second = second.await.unwrap();
    assert_eq!((second.outcome, second.value::<u64>().unwrap()), (Some(OutcomeKind::Returned), 20));
}

#[tokio::test]
async fn a_stream_that_breaks_goes_on_where_it_ended() {
    let mut front = Running::start().await;
    front.answer_submits();
    let second = event(2, 6, 20);
    // The second event does not come whole, so it has to come again.
    front.cut_stream(event(1, 5, 10) + &second[..second.len() - 2]);
    front.cut_stream("");
    let events = front.open_stream();
    events.send(second).unwrap();
    let client = front.client();
    let mut service = client.clone().into_service();
    let results = join_all([0, 1].map(|argument| service.call(call(argument)))).await;
    let values: Vec<_> = results.into_iter().map(|task| task.unwrap().value::<u64>().unwrap()).collect();
    assert_eq!(values, [10, 20]);
    let mut streams = Vec::new();
    while let Ok(asked) = front.asked.try_recv() {
        if let Asked::Events { after } = asked {
            streams.push(after);
        }
    }
    assert_eq!(streams, [None, Some("5".to_owned()), Some("5".to_owned())]);
}

#[tokio::test]
async fn a_stream_that_stays_away_fails_those_who_wait_and_is_tried_again_with_the_next_call() {
    let mut front = Running::start().await;
    front.answer_submits();
    front.cut_stream(event(1, 5, 10));
    front.front.away.store(true, Ordering::SeqCst);
    let mut service = front.client().into_service();
    assert_eq!(service.call(call(0)).await.unwrap().value::<u64>().unwrap(), 10);
    let error = service.call(call(1)).await.unwrap_err();
    assert_eq!((error.kind(), error.retry()), (ErrorKind::Unavailable, Retry::GaveUp(RETRY.max_attempts)));
    assert!(error.to_string().contains(&front.address), "{error}");

    front.open_stream().send(event(3, 7, 30)).unwrap();
    let task = service.ready().await.unwrap().call(call(2)).await.unwrap();
    assert_eq!(task.value::<u64>().unwrap(), 30);
    let mut first = true;
    while let Ok(asked) = front.asked.try_recv() {
        if let Asked::Events { after } = asked {
            assert_eq!(after.as_deref(), (!first).then_some("5"));
            first = false;
        }
    }
}

#[tokio::test]
async fn outcomes_of_a_group_are_a_stream_with_a_cursor() {
    let front = Running::start().await;
    front.answer_submits();
    front.cut_stream(
        ": hello\n\n".to_owned() + &event(1, 5, 10) + "event: lagged\ndata: {}\n\n" + &event(2, 6, 20),
    );
    let client = front.client();
    let arguments = (0..3).map(|argument| Arguments::value(&argument).unwrap()).collect();
    let submitted = client.submit_many(ENDPOINT, FUNCTION, CallOptions::default(), arguments).await.unwrap();
    assert_eq!(submitted.tasks, [1, 2, 3].map(TaskId::from_u128));
    assert_ne!(submitted.group, client.task_group());
    let mut outcomes = client.outcomes(submitted.group, Some("4"));
    assert_eq!(outcomes.cursor(), Some("4"));
    for (task, cursor) in [(1, "5"), (2, "6")] {
        let outcome = outcomes.next().await.unwrap().unwrap();
        assert_eq!((outcome.task_id, outcomes.cursor()), (TaskId::from_u128(task), Some(cursor)));
    }
}

#[tokio::test]
async fn a_busy_service_is_asked_again_and_others_are_not() {
    let front = Running::start().await;
    front.answer_submits();
    let client = front.client();
    let busy = || (StatusCode::TOO_MANY_REQUESTS, [("retry-after", "0")], "");
    front.refuse(busy());
    front.refuse(StatusCode::SERVICE_UNAVAILABLE);
    let mut handle = client.submit(call(0)).await.unwrap();
    assert_eq!(handle.id().await.unwrap(), TaskId::from_u128(1));

    (0..RETRY.max_attempts).for_each(|_| front.refuse(busy()));
    let error = client.submit(call(1)).await.unwrap().await.unwrap_err();
    assert_eq!((error.kind(), error.retry()), (ErrorKind::LimitExceeded, Retry::GaveUp(RETRY.max_attempts)));

    let body = json!({ "code": "FUNCTION_NOT_FOUND", "message": "no such function is registered" });
    front.refuse((StatusCode::NOT_FOUND, Json(body)));
    let mut handle = client.submit(call(2)).await.unwrap();
    let error = handle.id().await.unwrap_err();
    assert_eq!((error.kind(), error.retry()), (ErrorKind::NotFound, Retry::Never));
    assert!(error.to_string().contains("no such function is registered"), "{error}");
    assert_eq!(handle.await.unwrap_err().kind(), ErrorKind::Conflict, "the reason was told already");

    front.refuse(StatusCode::UNAUTHORIZED);
    assert_eq!(client.task(TaskId::from_u128(1)).await.unwrap_err().kind(), ErrorKind::Unauthenticated);
    front.refuse((StatusCode::OK, "<html>"));
    assert_eq!(client.task(TaskId::from_u128(1)).await.unwrap_err().kind(), ErrorKind::Protocol);
}

#[tokio::test]
async fn a_call_that_may_run_once_is_not_repeated_when_nobody_knows_what_became_of_it() {
    let mut front = Running::start().await;
    front.answer_submits();
    let client = front.client();
    front.refuse(StatusCode::BAD_GATEWAY);
    let error = client.submit(call(0).with_max_attempts(1)).await.unwrap().await.unwrap_err();
    assert_eq!((error.kind(), error.retry()), (ErrorKind::Unavailable, Retry::Never));
    assert_eq!(front.next_submit().await, [json!(0)]);

    front.refuse(StatusCode::BAD_GATEWAY);
    client.submit(call(1)).await.unwrap().id().await.unwrap();
    assert_eq!([front.next_submit().await, front.next_submit().await], [[json!(1)], [json!(1)]]);
}

#[tokio::test]
async fn a_service_that_is_not_there_is_named() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let client = Client::builder().service(&address).retry(RETRY).build().unwrap();
    let error = client.task(TaskId::from_u128(1)).await.unwrap_err();
    assert_eq!((error.kind(), error.retry()), (ErrorKind::Unavailable, Retry::GaveUp(RETRY.max_attempts)));
    let text = error.to_string();
    assert!(text.contains(&address) && text.contains("refused"), "{text}");
}

#[tokio::test]
async fn dropping_a_handle_does_not_cancel_and_cancelling_does() {
    let mut front = Running::start().await;
    front.answer_submits();
    let events = front.open_stream();
    let client = front.client();
    let mut kept = client.submit(call(0)).await.unwrap();
    drop(client.submit(call(1)).await.unwrap());
    kept.cancel().await.unwrap();
    let mut cancelled = Vec::new();
    let mut submitted = 0;
    while cancelled.is_empty() || submitted < 2 {
        match front.asked.recv().await.unwrap() {
            Asked::Submit(arguments) => submitted += arguments.len(),
            Asked::Cancel(body) => cancelled.push(body),
            Asked::Events { .. } => {}
        }
    }
    let id = kept.id().await.unwrap();
    assert_eq!(cancelled, [json!({ "task_ids": [id] })]);
    let mut cancelled = ended(id, "cancelled");
    cancelled["failure"] = json!({ "code": "Cancelled", "message": "by request" });
    events.send(format!("event: outcome\ndata: {cancelled}\n\n")).unwrap();
    let task = kept.await.unwrap();
    assert_eq!(task.outcome, Some(OutcomeKind::Cancelled));
    assert!(task.value::<u64>().unwrap_err().to_string().contains("by request"));
}

#[tokio::test]
async fn calls_are_submitted_although_client_and_handles_are_gone() {
    let mut front = Running::start().await;
    let client = front.client();
    for argument in 0..3 {
        drop(client.submit(call(argument)).await.unwrap());
    }
    drop(client);
    front.answer_submits();
    let mut seen = 0;
    while seen < 3 {
        seen += front.next_submit().await.len();
    }
    assert_eq!(seen, 3);
}

#[tokio::test]
async fn a_full_queue_holds_callers_back_until_the_service_has_answered() {
    let mut front = Running::start().await;
    let client = Client::builder()
        .service(&front.address)
        .token(Token::new("fnx_test").unwrap())
        .queue_bytes(8 << 10)
        .build()
        .unwrap();
    // Each takes more than three of the eight KiB.
    let long = || Call::new(ENDPOINT, FUNCTION, Arguments::value(&"x".repeat(2 << 10)).unwrap());
    let mut first = client.submit(long()).await.unwrap();
    front.next_submit().await;
    let mut second = client.submit(long()).await.unwrap();
    assert!(client.submit(long()).now_or_never().is_none(), "there is no room for a third");
    front.answer_submits();
    first.id().await.unwrap();
    second.id().await.unwrap();
    client.submit(long()).await.unwrap().id().await.unwrap();
}

#[tokio::test]
async fn a_group_is_cancelled_as_one() {
    let mut front = Running::start().await;
    let group = TaskGroupId::from_u128(9);
    let answer = front.client().cancel_group(group).await.unwrap();
    assert_eq!((answer.cancelled, answer.unknown), (1, 0));
    assert_eq!(front.asked.recv().await.unwrap(), Asked::Cancel(json!({ "task_group_id": group })));
}
