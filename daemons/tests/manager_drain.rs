//! How a manager ends: told to, told to twice, and because its block does. The node above it is in this process.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::{path::Path, process::Stdio, sync::Arc, time::Duration};

use funcx_core::contract::{Address, IdleFirst};
use funcx_core::message::{Hello, Refused};
use funcx_core::model::{
    Function, FunctionKind, Hop, IdentityId, Outcome, OutcomeKind, Task, TaskId, TaskSpec,
};
use funcx_core::state::{JournalEntry, LaneId, Node, NodeConfig};
use funcx_daemons::exit::Exit;
use funcx_net::driver::{self, NodeHandle, NodeHost, NodeNotice};
use funcx_net::transport::Transports;
use futures::future::{BoxFuture, FutureExt, ready};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::{
    io::{AsyncBufReadExt, BufReader, Lines},
    process::{Child, ChildStderr, Command},
    sync::mpsc,
    time::timeout,
};

/// How long anything here may take. Nothing is measured by it.
const PATIENCE: Duration = Duration::from_secs(60);

const LANE: LaneId = LaneId(0);

struct Host(mpsc::UnboundedSender<Outcome>);

impl NodeHost for Host {
    fn authorize(&self, _: Hello) -> BoxFuture<'static, Result<LaneId, Refused>> {
        ready(Ok(LANE)).boxed()
    }

    fn deliver(&self, outcomes: Vec<Outcome>) -> BoxFuture<'static, ()> {
        outcomes.into_iter().for_each(|outcome| drop(self.0.send(outcome)));
        ready(()).boxed()
    }

    fn record(&self, _: Vec<JournalEntry>) -> BoxFuture<'static, ()> {
        ready(()).boxed()
    }

    fn notice(&self, _: NodeNotice) {}
}

/// A manager with one worker, and the node above it.
struct Site {
    directory: tempfile::TempDir,
    node: NodeHandle,
    outcomes: mpsc::UnboundedReceiver<Outcome>,
    manager: Child,
    said: Lines<BufReader<ChildStderr>>,
}

impl Site {
    async fn new(options: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let address: Address = format!("unix:{}", directory.path().join("s").display()).parse().unwrap();
        let mut listener = Transports::standard().listen(&address).await.unwrap();
        let (sender, outcomes) = mpsc::unbounded_channel();
        let config = NodeConfig { retries: true, ..NodeConfig::new(Hop::EndpointSent, "test") };
        let (node, _) = driver::start(config, Arc::new(Host(sender)), None, |node: &mut Node<IdleFirst>| {
            let lane = node.open_lane();
            node.route(FunctionKind::Shell, lane);
        });
        let mut manager = Command::new(env!("CARGO_BIN_EXE_funcx-worker"))
            .args(["--endpoint", &address.to_string(), "--workers", "1", "--native-threads", "1"])
            .args(["--work-dir".as_ref(), directory.path()])
            .args(options)
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        node.accept(timeout(PATIENCE, listener.accept()).await.unwrap().unwrap());
        let said = BufReader::new(manager.stderr.take().unwrap()).lines();
        Self { directory, node, outcomes, manager, said }
    }

    /// One task that says that it has begun and waits for the file `go`, and two more that only wait.
    async fn start_tasks(&self) {
        let command = "touch begun; while [ ! -e go ]; do sleep 0.01; done";
        let mut spec = TaskSpec::new(Arc::new(Function::shell(command)), IdentityId::from_u128(1));
        spec.limits.max_attempts = 1;
        let spec = Arc::new(spec);
        let tasks = (1..=3).map(|id| Task::new(TaskId::from_u128(id), Arc::clone(&spec), "")).collect();
        assert!(self.node.submit(LANE, tasks).await.unwrap().is_empty());
        let begun = self.directory.path().join("begun");
        timeout(PATIENCE, exists(&begun)).await.unwrap();
    }

    fn signal(&self) {
        let pid = i32::try_from(self.manager.id().unwrap()).unwrap();
        kill(Pid::from_raw(pid), Signal::SIGTERM).unwrap();
    }

    /// The next line of the manager that holds this text.
    async fn says(&mut self, text: &str) -> String {
        let mut all = Vec::new();
        while let Some(line) = timeout(PATIENCE, self.said.next_line()).await.unwrap().unwrap() {
            if line.contains(text) {
                return line;
            }
            all.push(line);
        }
        panic!("it never says `{text}`: {all:#?}");
    }

    async fn ends(&mut self) {
        let status = timeout(PATIENCE, self.manager.wait()).await.unwrap().unwrap();
        assert_eq!(status.code(), Some(Exit::Success as i32));
    }

    async fn outcome(&mut self) -> Outcome {
        timeout(PATIENCE, self.outcomes.recv()).await.unwrap().unwrap()
    }

    /// Tasks that the node above has queued again, as they were.
    async fn queued(&self) -> usize {
        // If the manager is gone, its farewell may still be on the way.
        let look = async {
            loop {
                let (queued, leased) =
                    self.node.with(|node, _| (node.load(LANE).queued, node.load(LANE).leased)).await.unwrap();
                if leased == 0 {
                    return queued;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(PATIENCE, look).await.unwrap()
    }
}

async fn exists(path: &Path) {
    while !path.exists() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_manager_that_is_told_to_end_finishes_what_runs() {
    let mut site = Site::new(&[]).await;
    site.start_tasks().await;
    site.signal();
    site.says("taking no more tasks").await;
    std::fs::write(site.directory.path().join("go"), "").unwrap();
    let said = site.says("told to end: 1 tasks finished").await;
    assert!(said.ends_with("2 given back, 0 stopped"), "{said}");
    site.ends().await;
    assert_eq!(site.outcome().await.kind, OutcomeKind::Returned);
    assert_eq!(site.queued().await, 2);
}

#[tokio::test]
async fn what_does_not_finish_in_time_is_stopped_and_says_why() {
    let mut site = Site::new(&["--drain-timeout", "10 ms", "--kill-grace", "1 s"]).await;
    site.start_tasks().await;
    site.signal();
    let said = site.says("told to end: 0 tasks finished").await;
    assert!(said.ends_with("2 given back, 1 stopped"), "{said}");
    site.ends().await;
    let outcome = site.outcome().await;
    assert_eq!(
        (outcome.kind, outcome.failure().unwrap().code.as_str()),
        (OutcomeKind::Lost, "ManagerStopped")
    );
    assert_eq!(site.queued().await, 2);
}

#[tokio::test]
async fn a_manager_that_its_endpoint_drains_ends_by_itself() {
    let mut site = Site::new(&[]).await;
    site.start_tasks().await;
    site.node.with(|node, now| node.drain(now)).await.unwrap();
    // What was not begun comes back before what runs has finished.
    while site.node.with(|node, _| node.load(LANE).leased).await.unwrap() > 1 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    std::fs::write(site.directory.path().join("go"), "").unwrap();
    site.says("drained").await;
    site.ends().await;
    assert_eq!(site.outcome().await.kind, OutcomeKind::Returned);
    assert_eq!(site.queued().await, 2);
}

#[tokio::test]
async fn a_block_that_ends_soon_gets_no_task_that_takes_longer() {
    let site = Site::new(&["--walltime", "60 s"]).await;
    let task = |id, seconds| {
        let mut spec = TaskSpec::new(Arc::new(Function::shell("true")), IdentityId::from_u128(1));
        spec.shape.walltime = Some(Duration::from_secs(seconds));
        Task::new(TaskId::from_u128(id), Arc::new(spec), "")
    };
    assert!(site.node.submit(LANE, vec![task(1, 3600), task(2, 10)]).await.unwrap().is_empty());
    let mut site = site;
    let outcome = site.outcome().await;
    assert_eq!((outcome.task, outcome.kind), (TaskId::from_u128(2), OutcomeKind::Returned));
    assert_eq!(site.queued().await, 1);
}

#[tokio::test]
async fn a_second_signal_ends_a_manager_at_once() {
    let mut site = Site::new(&[]).await;
    site.start_tasks().await;
    site.signal();
    // What has not begun goes back first.
    while site.node.with(|node, _| node.load(LANE).leased).await.unwrap() > 1 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    site.signal();
    site.says("what still ran is lost").await;
    site.ends().await;
    assert_eq!(site.outcome().await.kind, OutcomeKind::Lost);
    assert_eq!(site.queued().await, 2);
}

#[tokio::test]
async fn a_manager_ends_before_its_block_does() {
    let mut site = Site::new(&["--walltime", "4 s", "--kill-grace", "500 ms"]).await;
    site.start_tasks().await;
    site.says("the walltime of the block is nearly over").await;
    let said = site.says("0 tasks finished").await;
    assert!(said.ends_with("2 given back, 1 stopped"), "{said}");
    site.ends().await;
    let outcome = site.outcome().await;
    assert_eq!((outcome.kind, outcome.failure().unwrap().code.as_str()), (OutcomeKind::Lost, "BlockEnded"));
    assert_eq!(site.queued().await, 2);
}
