//! How tasks travel over a link: one alone at once, many together.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use funcx_core::contract::{Address, Capacity, Connection, Executor, ExecutorCapability, Frame, IdleFirst};
use funcx_core::message::{Hello, Message, Refused, Role};
use funcx_core::model::{
    AttemptId, Error, Function, FunctionKind, Hop, IdentityId, Outcome, Result, Task, TaskId, TaskSpec, Tick,
    limit,
};
use funcx_core::state::{JournalEntry, LaneId, LinkPolicy, Node, NodeConfig, UplinkIdentity};
use funcx_net::codec;
use funcx_net::driver::{self, Above, NodeHost, NodeNotice};
use funcx_net::transport::Transports;
use futures::future::{BoxFuture, FutureExt, ready};
use futures::{Sink, Stream, StreamExt};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use uuid::Uuid;

const TASKS: u32 = 10_000;

/// Lets everybody in.
struct Host;

impl NodeHost for Host {
    fn authorize(&self, _: Hello) -> BoxFuture<'static, std::result::Result<LaneId, Refused>> {
        ready(Ok(LaneId(0))).boxed()
    }

    fn deliver(&self, _: Vec<Outcome>) -> BoxFuture<'static, ()> {
        ready(()).boxed()
    }

    fn record(&self, _: Vec<JournalEntry>) -> BoxFuture<'static, ()> {
        ready(()).boxed()
    }

    fn notice(&self, _: NodeNotice) {}
}

/// Tells how many tasks it gets at a time and never ends one.
struct Holder(UnboundedSender<usize>);

impl Executor for Holder {
    fn capability(&self) -> ExecutorCapability {
        ExecutorCapability {
            kinds: vec![FunctionKind::Native],
            capacity: Capacity { slots: TASKS + 1, prefetch: 0 },
            cancels: false,
        }
    }

    fn start(&self, tasks: Vec<Task>) {
        self.0.send(tasks.len()).expect("the test listens");
    }

    fn cancel(&self, _: &[AttemptId]) {}

    fn drain(&self) -> BoxFuture<'static, ()> {
        ready(()).boxed()
    }
}

/// Tells how many tasks there are in each frame that is sent.
struct Watched {
    inner: Box<dyn Connection>,
    sent: UnboundedSender<usize>,
}

impl Stream for Watched {
    type Item = Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.inner.poll_next_unpin(context)
    }
}

impl Sink<Frame> for Watched {
    type Error = Error;

    fn poll_ready(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        Sink::<Frame>::poll_ready(Pin::new(&mut self.inner), context)
    }

    fn start_send(mut self: Pin<&mut Self>, frame: Frame) -> Result<()> {
        let bytes: Vec<u8> = frame.clone().into_pieces().into_iter().flatten().collect();
        if let Message::Tasks(batch) = codec::decode(bytes.into())? {
            self.sent.send(batch.heads.len()).expect("the test listens");
        }
        Pin::new(&mut self.inner).start_send(frame)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        Sink::<Frame>::poll_flush(Pin::new(&mut self.inner), context)
    }

    fn poll_close(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        Sink::<Frame>::poll_close(Pin::new(&mut self.inner), context)
    }
}

fn config(uplink: Option<UplinkIdentity>) -> NodeConfig {
    NodeConfig {
        uplink,
        link: LinkPolicy::with_heartbeat(Duration::from_secs(60)),
        retries: true,
        ..NodeConfig::new(Hop::EndpointSent, "test")
    }
}

fn manager() -> UplinkIdentity {
    UplinkIdentity {
        role: Role::Manager,
        node: Uuid::from_u128(1),
        epoch: 1,
        life: 0,
        process: 1,
        ends_at: Tick::NEVER,
        credential: String::new(),
        name: "test".to_owned(),
        software: "test".to_owned(),
    }
}

#[tokio::test]
async fn a_task_alone_goes_at_once_and_many_go_in_large_frames() {
    let transports = Arc::new(Transports::standard());
    let address: Address = "mem:coalescing".parse().unwrap();
    let mut listener = transports.listen(&address).await.unwrap();
    let (upper, _) = driver::start(config(None), Arc::new(Host), None, |node: &mut Node<IdleFirst>| {
        node.open_lane();
    });
    let above = Above { transports, address };
    let (lower, _) = driver::start::<IdleFirst>(config(Some(manager())), Arc::new(Host), Some(above), |_| {});
    let (sent, mut frames) = unbounded_channel();
    upper.accept(Box::new(Watched { inner: listener.accept().await.unwrap(), sent }));
    let (started, mut batches) = unbounded_channel();
    let (token, _) = lower.executor_sink();
    lower.attach(token, Arc::new(Holder(started)), None);

    let spec = Arc::new(TaskSpec::new(Arc::new(Function::native("f")), IdentityId::from_u128(1)));
    let tasks = |ids: std::ops::Range<u32>| {
        ids.map(|id| Task::new(TaskId::from_u128(u128::from(id) + 1), Arc::clone(&spec), "")).collect()
    };
    assert!(upper.submit(LaneId(0), tasks(0..1)).await.unwrap().is_empty());
    assert_eq!((frames.recv().await, batches.recv().await), (Some(1), Some(1)));

    assert!(upper.submit(LaneId(0), tasks(1..TASKS + 1)).await.unwrap().is_empty());
    let mut held = 0;
    while held < TASKS as usize {
        held += batches.recv().await.unwrap();
    }
    let frames: Vec<usize> = std::iter::from_fn(|| frames.try_recv().ok()).collect();
    assert_eq!(frames.iter().sum::<usize>(), TASKS as usize);
    assert_eq!(frames.len(), (TASKS as usize).div_ceil(limit::MAX_BATCH_TASKS), "{frames:?}");
}
