//! A service that does what a test tells it to: hold answers back, cut streams, refuse.

use std::{
    collections::VecDeque,
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::{
    Json, Router,
    body::{Body, Bytes},
    extract::{Path, State},
    http::HeaderMap,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use funcx_core::model::{EndpointId, FunctionId, TaskId};
use funcx_net::client::{Arguments, Call, Client, RetryPolicy, Token};
use futures::stream;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::{
    net::TcpListener,
    sync::{Semaphore, mpsc},
    task::JoinSet,
};

pub(crate) const ENDPOINT: EndpointId = EndpointId::from_u128(1);
pub(crate) const FUNCTION: FunctionId = FunctionId::from_u128(2);

/// Pauses short enough for tests; the number of attempts is what they look at.
pub(crate) const RETRY: RetryPolicy = RetryPolicy {
    max_attempts: 4,
    first_pause: Duration::from_millis(1),
    max_pause: Duration::from_millis(4),
};

/// What the front was asked, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Asked {
    Submit(Vec<Value>),
    Cancel(Value),
    Events { after: Option<String> },
}

/// A service with one script per route.
pub(crate) struct Front {
    pub(crate) asked: mpsc::UnboundedSender<Asked>,
    /// Submissions are answered as permits allow.
    pub(crate) submits: Semaphore,
    /// Answers that come before the proper ones.
    pub(crate) refusals: Mutex<VecDeque<Response>>,
    /// What each connection to the event stream gets, one after the other.
    pub(crate) streams: Mutex<VecDeque<Stream>>,
    /// Whether connections after these end at once; otherwise they stay open, and nothing comes.
    pub(crate) away: AtomicBool,
    pub(crate) next_task: Mutex<u128>,
}

pub(crate) enum Stream {
    /// This text, then the end.
    Cut(String),
    /// What is sent here.
    Open(mpsc::UnboundedReceiver<String>),
}

/// The test's side of a running front.
pub(crate) struct Running {
    pub(crate) front: Arc<Front>,
    pub(crate) address: String,
    pub(crate) asked: mpsc::UnboundedReceiver<Asked>,
    _serving: JoinSet<()>,
}

impl Running {
    pub(crate) async fn start() -> Self {
        let (asked_by, asked) = mpsc::unbounded_channel();
        let front = Arc::new(Front {
            asked: asked_by,
            submits: Semaphore::new(0),
            refusals: Mutex::default(),
            streams: Mutex::default(),
            away: AtomicBool::new(false),
            next_task: Mutex::new(1),
        });
        let routes = Router::new()
            .route("/v1/submit", post(submit))
            .route("/v1/cancel", post(cancel))
            .route("/v1/tasks/{id}", get(task))
            .route("/v1/task_groups/{id}/events", get(events))
            .with_state(Arc::clone(&front));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let mut serving = JoinSet::new();
        serving.spawn(async move { axum::serve(listener, routes).await.unwrap() });
        Self { front, address, asked, _serving: serving }
    }

    pub(crate) fn client(&self) -> Client {
        Client::builder()
            .service(&self.address)
            .token(Token::new("fnx_test").unwrap())
            .retry(RETRY)
            .build()
            .unwrap()
    }

    /// Answers every submission from now on.
    pub(crate) fn answer_submits(&self) {
        self.front.submits.add_permits(Semaphore::MAX_PERMITS / 2);
    }

    pub(crate) fn refuse(&self, answer: impl IntoResponse) {
        self.front.refusals.lock().push_back(answer.into_response());
    }

    pub(crate) fn cut_stream(&self, text: impl Into<String>) {
        self.front.streams.lock().push_back(Stream::Cut(text.into()));
    }

    pub(crate) fn open_stream(&self) -> mpsc::UnboundedSender<String> {
        let (sender, events) = mpsc::unbounded_channel();
        self.front.streams.lock().push_back(Stream::Open(events));
        sender
    }

    pub(crate) async fn next_submit(&mut self) -> Vec<Value> {
        loop {
            if let Asked::Submit(arguments) = self.asked.recv().await.unwrap() {
                return arguments;
            }
        }
    }
}

async fn submit(State(front): State<Arc<Front>>, headers: HeaderMap, Json(body): Json<Value>) -> Response {
    assert_eq!(headers["authorization"], "Bearer fnx_test");
    let arguments = body["tasks"][0]["arguments"].as_array().unwrap().clone();
    let count = arguments.len();
    front.asked.send(Asked::Submit(arguments)).unwrap();
    front.submits.acquire().await.unwrap().forget();
    if let Some(refusal) = front.refusals.lock().pop_front() {
        return refusal;
    }
    let first = std::mem::replace(&mut *front.next_task.lock(), 0);
    let ids: Vec<_> = (first..first + count as u128).map(TaskId::from_u128).collect();
    *front.next_task.lock() = first + count as u128;
    Json(json!({ "task_group_id": body["task_group_id"], "task_ids": [ids] })).into_response()
}

async fn cancel(State(front): State<Arc<Front>>, Json(body): Json<Value>) -> Json<Value> {
    front.asked.send(Asked::Cancel(body)).unwrap();
    Json(json!({ "cancelled": 1, "asked": 0, "finished": 0, "unknown": 0 }))
}

async fn task(State(front): State<Arc<Front>>, Path(id): Path<TaskId>) -> Response {
    let refusal = front.refusals.lock().pop_front();
    refusal.unwrap_or_else(|| Json(view(id, 0)).into_response())
}

async fn events(State(front): State<Arc<Front>>, headers: HeaderMap) -> Response {
    let after = headers.get("last-event-id").map(|id| id.to_str().unwrap().to_owned());
    front.asked.send(Asked::Events { after }).unwrap();
    let content_type = [("content-type", "text/event-stream")];
    match front.streams.lock().pop_front() {
        Some(Stream::Cut(text)) => (content_type, text).into_response(),
        Some(Stream::Open(events)) => {
            let pieces = stream::unfold(events, |mut events| async move {
                let piece = events.recv().await?;
                Some((Ok::<_, Infallible>(Bytes::from(piece)), events))
            });
            (content_type, Body::from_stream(pieces)).into_response()
        }
        None if front.away.load(Ordering::SeqCst) => (content_type, "").into_response(),
        None => {
            (content_type, Body::from_stream(stream::pending::<Result<Bytes, Infallible>>())).into_response()
        }
    }
}

/// The record of a task that returned a number.
pub(crate) fn view(id: TaskId, value: u64) -> Value {
    let mut view = ended(id, "returned");
    view["result"] = value.into();
    view
}

/// The record of a task that ended.
pub(crate) fn ended(id: TaskId, outcome: &str) -> Value {
    json!({
        "task_id": id, "task_group_id": id, "endpoint_id": ENDPOINT, "function_id": FUNCTION,
        "status": "finished", "outcome": outcome, "accepted": 1.0,
    })
}

/// The event that tells so.
pub(crate) fn event(task: u128, cursor: u64, value: u64) -> String {
    format!("event: outcome\nid: {cursor}\ndata: {}\n\n", view(TaskId::from_u128(task), value))
}

pub(crate) fn call(argument: u64) -> Call {
    Call::new(ENDPOINT, FUNCTION, Arguments::value(&argument).unwrap())
}
