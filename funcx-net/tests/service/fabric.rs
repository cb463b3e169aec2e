//! A service with accounts, and endpoints whose work is done by hand.

use std::sync::{Arc, atomic::AtomicU64, atomic::Ordering};
use std::time::Duration;

use funcx_core::contract::{
    Capacity, Credential, Executor, ExecutorCapability, ExecutorEvent, ExecutorSink, Principal, Scope,
    TaskStore,
};
use funcx_core::message::{Hello, Refused, Role};
use funcx_core::model::{
    AttemptId, EndpointId, FunctionKind, Hop, IdentityId, Outcome, Task, Tick, Timestamp,
};
use funcx_core::state::{JournalEntry, LaneId, Node, NodeConfig, UplinkIdentity};
use funcx_net::auth::LocalAuthority;
use funcx_net::driver::{self, Above, NodeHandle, NodeHost, NodeNotice};
use funcx_net::service::{NewEndpoint, Service, ServiceConfig};
use funcx_net::transport::Transports;
use futures::future::{BoxFuture, FutureExt};
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// Far longer than anything takes; a test that reaches it has failed.
const PATIENCE: Duration = Duration::from_secs(60);

/// Somebody with a token.
pub(crate) struct Person {
    pub(crate) principal: Principal,
    pub(crate) token: String,
}

/// Accounts of one file, so that a restarted service knows the same people.
pub(crate) struct People {
    pub(crate) authority: Arc<LocalAuthority>,
    pub(crate) alice: Person,
    pub(crate) bob: Person,
    _directory: tempfile::TempDir,
}

impl People {
    pub(crate) async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let authority = Arc::new(LocalAuthority::open(directory.path().join("accounts")).unwrap());
        let (alice, bob) = (person(&authority, "alice").await, person(&authority, "bob").await);
        Self { authority, alice, bob, _directory: directory }
    }
}

async fn person(authority: &LocalAuthority, name: &str) -> Person {
    use funcx_core::contract::Authority;
    let identity: IdentityId = authority.create_account(name, &[]).unwrap();
    let token = authority.create_token(identity, &[Scope::Compute, Scope::Endpoint], None, "test").unwrap();
    let principal =
        authority.authenticate(&Credential::Bearer(token.clone()), Timestamp::from_nanos(1)).await.unwrap();
    Person { principal, token }
}

/// A running service, and the address in memory at which endpoints find it.
pub(crate) struct Fabric {
    pub(crate) service: Arc<Service>,
    pub(crate) transports: Transports,
    accepting: JoinHandle<()>,
}

/// The address at which endpoints find the service.
const ADDRESS: &str = "mem:service";

impl Fabric {
    pub(crate) async fn start(config: ServiceConfig, store: Arc<dyn TaskStore>, people: &People) -> Self {
        Self::start_at(config, store, people, Transports::standard()).await
    }

    /// Starts on transports that endpoints of an earlier service dial already.
    pub(crate) async fn start_at(
        config: ServiceConfig,
        store: Arc<dyn TaskStore>,
        people: &People,
        transports: Transports,
    ) -> Self {
        let service = Service::start(config, store, Arc::clone(&people.authority) as _).unwrap();
        let mut listener = transports.listen(&ADDRESS.parse().unwrap()).await.unwrap();
        let accepting = tokio::spawn({
            let service = Arc::clone(&service);
            async move {
                while let Ok(connection) = listener.accept().await {
                    service.accept(connection);
                }
            }
        });
        Self { service, transports, accepting }
    }

    /// Stops as a process does: at once.
    pub(crate) async fn stop(self) {
        self.accepting.abort();
        let _ = self.accepting.await;
        self.service.stop().await;
    }

    /// Registers an endpoint of this person.
    pub(crate) async fn register_endpoint(&self, owner: &Person) -> EndpointId {
        let new = NewEndpoint {
            id: None,
            name: "bench".to_owned(),
            access: Default::default(),
            allowed_functions: None,
            metadata: "{}".to_owned(),
        };
        self.service.register_endpoint(&owner.principal, new).await.unwrap().id
    }

    /// An endpoint that dials the service, with room for `slots` tasks.
    pub(crate) fn connect(&self, endpoint: EndpointId, token: &str, slots: u32) -> Bench {
        let above =
            Above { transports: Arc::new(self.transports.clone()), address: ADDRESS.parse().unwrap() };
        Bench::start(above, endpoint, token, slots)
    }
}

/// An endpoint: a real node with a real link, whose executor hands the work to the test.
pub(crate) struct Bench {
    pub(crate) node: NodeHandle,
    pub(crate) started: mpsc::UnboundedReceiver<Task>,
    pub(crate) cancelled: mpsc::UnboundedReceiver<AttemptId>,
    pub(crate) notices: mpsc::UnboundedReceiver<NodeNotice>,
    sink: Arc<dyn ExecutorSink>,
}

impl Bench {
    pub(crate) fn start(above: Above, endpoint: EndpointId, token: &str, slots: u32) -> Self {
        static EPOCHS: AtomicU64 = AtomicU64::new(1);
        let process = EPOCHS.fetch_add(1, Ordering::Relaxed);
        let config = NodeConfig {
            uplink: Some(UplinkIdentity {
                role: Role::Endpoint,
                node: endpoint.uuid(),
                epoch: process,
                life: 0,
                process,
                ends_at: Tick::NEVER,
                credential: token.to_owned(),
                name: "bench".to_owned(),
                software: "test".to_owned(),
            }),
            retries: true,
            ..NodeConfig::new(Hop::EndpointSent, "test")
        };
        let (tell, notices) = mpsc::unbounded_channel();
        let (node, _) = driver::start(config, Arc::new(Watcher(tell)), Some(above), |_: &mut Node| {});
        let (token, sink) = node.executor_sink();
        let (start, started) = mpsc::unbounded_channel();
        let (cancel, cancelled) = mpsc::unbounded_channel();
        let hands = Hands { slots, start: Mutex::new(start), cancel: Mutex::new(cancel) };
        node.attach(token, Arc::new(hands), None);
        Self { node, started, cancelled, notices, sink }
    }

    /// The next task that is to be run.
    pub(crate) async fn next(&mut self) -> Task {
        tokio::time::timeout(PATIENCE, self.started.recv()).await.expect("a task comes").unwrap()
    }

    /// The next thing that the node tells its host.
    pub(crate) async fn notice(&mut self) -> NodeNotice {
        tokio::time::timeout(PATIENCE, self.notices.recv()).await.expect("a notice comes").unwrap()
    }

    /// Ends a task.
    pub(crate) fn finish(&self, outcome: Outcome) {
        self.sink.handle(ExecutorEvent::Outcomes(vec![outcome]));
    }

    /// Says that a task has begun.
    pub(crate) fn begin(&self, task: &Task) {
        self.sink.handle(ExecutorEvent::Started(vec![(task.attempt_id(), Timestamp::from_nanos(5))]));
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.node.stop();
    }
}

struct Watcher(mpsc::UnboundedSender<NodeNotice>);

impl NodeHost for Watcher {
    fn authorize(&self, _: Hello) -> BoxFuture<'static, Result<LaneId, Refused>> {
        async { Err(Refused { reason: "nobody connects here".to_owned(), retry: false }) }.boxed()
    }

    fn deliver(&self, _: Vec<Outcome>) -> BoxFuture<'static, ()> {
        async {}.boxed()
    }

    fn record(&self, _: Vec<JournalEntry>) -> BoxFuture<'static, ()> {
        futures::future::ready(()).boxed()
    }

    fn notice(&self, notice: NodeNotice) {
        let _ = self.0.send(notice);
    }
}

struct Hands {
    slots: u32,
    start: Mutex<mpsc::UnboundedSender<Task>>,
    cancel: Mutex<mpsc::UnboundedSender<AttemptId>>,
}

impl Executor for Hands {
    fn capability(&self) -> ExecutorCapability {
        ExecutorCapability {
            kinds: FunctionKind::ALL.to_vec(),
            capacity: Capacity { slots: self.slots, prefetch: 0 },
            cancels: true,
        }
    }

    fn start(&self, tasks: Vec<Task>) {
        let start = self.start.lock();
        for task in tasks {
            // A test that is over takes no more.
            let _ = start.send(task);
        }
    }

    fn cancel(&self, attempts: &[AttemptId]) {
        let cancel = self.cancel.lock();
        for attempt in attempts {
            let _ = cancel.send(*attempt);
        }
    }

    fn drain(&self) -> BoxFuture<'static, ()> {
        async {}.boxed()
    }
}
