//! What needs a real connection: lost clients, absolute-form targets, event streams, links.

use std::net::SocketAddr;
use std::sync::Arc;

use funcx_core::conformance::task_store::MemoryStore;
use funcx_core::model::Outcome;
use funcx_net::driver::{Above, NodeNotice};
use funcx_net::http::serve;
use funcx_net::service::ServiceConfig;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::fabric::Bench;
use crate::site::Site;
use crate::stores::Gated;

/// A site that listens.
struct Open {
    address: SocketAddr,
    stop: oneshot::Sender<()>,
    serving: JoinHandle<std::io::Result<()>>,
}

impl Open {
    async fn new(site: &Site) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let shutdown = async move { drop(stopped.await) };
        let serving = tokio::spawn(serve(listener, site.router.clone(), shutdown));
        Self { address, stop, serving }
    }

    async fn send(&self, site: &Site, method: &str, target: &str, body: &str) -> BufReader<TcpStream> {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let token = &site.people.alice.token;
        let length = body.len();
        let head = format!(
            "{method} {target} HTTP/1.1\r\nHost: localhost:5000\r\nAuthorization: Bearer {token}\r\n"
        );
        let rest = format!("Accept-Encoding: identity\r\nContent-Length: {length}\r\n\r\n{body}");
        stream.write_all((head + &rest).as_bytes()).await.unwrap();
        BufReader::new(stream)
    }
}

/// Reads the head of an answer, and as much of its body as the head says.
async fn read(stream: &mut BufReader<TcpStream>) -> (String, Value) {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        assert_ne!(stream.read_line(&mut head).await.unwrap(), 0, "closed after: {head}");
    }
    let length =
        head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap().parse().unwrap();
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.unwrap();
    (head, serde_json::from_slice(&body).unwrap())
}

#[tokio::test]
async fn targets_in_absolute_form_are_understood() {
    let site = Site::new().await;
    let open = Open::new(&site).await;
    let mut stream = open.send(&site, "GET", "http://localhost:5000/v2/version?service=all", "").await;
    let (head, body) = read(&mut stream).await;
    assert!(head.starts_with("HTTP/1.1 200") && !head.contains("content-encoding"), "{head}");
    assert!(body["min_sdk_version"].is_string());
    open.stop.send(()).unwrap();
    drop(stream);
    open.serving.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_client_that_is_cut_off_gets_the_same_tasks_when_it_repeats() {
    let store = Gated::new(Arc::new(MemoryStore::new()));
    let site = Site::with(ServiceConfig::default(), Arc::clone(&store) as _).await;
    let open = Open::new(&site).await;
    let mut bench = site.bench().await;
    let function = site.native_function().await;
    // The endpoint's queue is open from here on, so that the next submission goes straight to the store.
    site.submit(&function, json!([0])).await;
    bench.next().await;
    let group = "11111111-2222-4333-8444-555555555555";
    for body in [
        json!({ "endpoint_id": site.endpoint, "tasks": [{ "function_id": function, "arguments": [1, 2] }] }),
        json!({ "endpoint_id": site.endpoint, "task_group_id": group, "tasks": [{ "function_id": function, "arguments": [3] }] }),
    ] {
        let body = body.to_string();
        store.close();
        let waiting = store.waiting();
        let stream = open.send(&site, "POST", "/v1/submit", &body).await;
        waiting.await;
        // The service is asking its store when the client goes away, and has noticed that once it has answered another.
        drop(stream);
        read(&mut open.send(&site, "GET", "/v2/version", "").await).await;
        store.open();
        let task = bench.next().await;
        let mut again = open.send(&site, "POST", "/v1/submit", &body).await;
        let (_, answer) = read(&mut again).await;
        assert_eq!(answer["task_ids"][0][0], task.id.to_string(), "the repeat made new tasks");
        // After an answer that arrived, the same body is a new request.
        let mut new = open.send(&site, "POST", "/v1/submit", &body).await;
        let (_, second) = read(&mut new).await;
        assert_ne!(second["task_ids"], answer["task_ids"]);
        assert_eq!(second["task_group_id"] == answer["task_group_id"], body.contains(group));
        for _ in 1..answer["task_ids"][0].as_array().unwrap().len()
            + second["task_ids"][0].as_array().unwrap().len()
        {
            bench.next().await;
        }
    }
}

/// Reads events until one has a name; its fields.
async fn event(stream: &mut BufReader<TcpStream>) -> (String, String, Value) {
    let (mut name, mut id, mut data) = (String::new(), String::new(), String::new());
    loop {
        let mut line = String::new();
        assert_ne!(stream.read_line(&mut line).await.unwrap(), 0, "the stream ended");
        let line = line.trim_end();
        if let Some(value) = line.strip_prefix("event: ") {
            name = value.to_owned();
        } else if let Some(value) = line.strip_prefix("id: ") {
            id = value.to_owned();
        } else if let Some(value) = line.strip_prefix("data: ") {
            data += value;
        } else if line.is_empty() && !name.is_empty() {
            return (name, id, serde_json::from_str(&data).unwrap());
        }
    }
}

#[tokio::test]
async fn outcomes_stream_from_where_the_client_was() {
    let site = Site::new().await;
    let open = Open::new(&site).await;
    let mut bench = site.bench().await;
    let function = site.native_function().await;
    let (group, ids) = site.submit(&function, json!([1, 2, 3, 4])).await;
    for _ in 0..2 {
        let task = bench.next().await;
        bench.finish(Outcome::returned(&task, task.payload.clone()));
        site.ask("GET", &format!("/v1/tasks/{}?wait=30", task.id), None).await;
    }
    let target = format!("/v1/task_groups/{group}/events");
    let mut stream = open.send(&site, "GET", &target, "").await;
    let (name, cursor, task) = event(&mut stream).await;
    assert_eq!((name.as_str(), &task["task_id"], &task["result"]), ("outcome", &json!(ids[0]), &json!(1)));
    drop(stream);
    let mut stream = open.send(&site, "GET", &format!("{target}?after={cursor}"), "").await;
    assert_eq!(event(&mut stream).await.2["task_id"], json!(ids[1]));
    for id in &ids[2..] {
        let task = bench.next().await;
        bench.finish(Outcome::returned(&task, "null"));
        let (_, _, told) = event(&mut stream).await;
        assert_eq!((&told["task_id"], &told["outcome"]), (&json!(id), &json!("returned")));
    }
    // A service that stops ends its streams.
    site.fabric.stop().await;
    let mut rest = Vec::new();
    tokio::time::timeout(std::time::Duration::from_secs(60), async {
        while !rest.ends_with(b"0\r\n\r\n") {
            assert_ne!(stream.read_buf(&mut rest).await.unwrap(), 0);
        }
    })
    .await
    .expect("the stream ends");
}

#[tokio::test]
async fn an_endpoint_connects_through_the_link_route() {
    let site = Site::new().await;
    let open = Open::new(&site).await;
    let address = format!("ws:{}/v1/link", open.address).parse().unwrap();
    let above = Above { transports: Arc::new(site.fabric.transports.clone()), address };
    let mut bench = Bench::start(above, site.endpoint, &site.people.alice.token, 2);
    assert!(matches!(bench.notice().await, NodeNotice::OpenedAbove));
    let function = site.native_function().await;
    // Larger than a WebSocket message may be by default.
    let large = "x".repeat(20 << 20);
    let (_, ids) = site.submit(&function, json!([large])).await;
    let task = bench.next().await;
    assert_eq!(task.payload.len(), (20 << 20) + 2);
    bench.finish(Outcome::returned(&task, task.payload.clone()));
    let answer = site.ask("GET", &format!("/v1/tasks/{}?wait=30", ids[0]), None).await;
    assert_eq!(answer.body["result"], json!(large));
}
