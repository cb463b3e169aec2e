//! The service without its HTTP API: it accepts tasks, keeps them until they have ended, and hands them to endpoints.
//!
//! | File | Holds |
//! | --- | --- |
//! | `submit` | how tasks are accepted |
//! | `lane` | what waits for one endpoint: its queues |
//! | `queue` | one of them, half in memory and half in the store |
//! | `sweep` | what ends because of its time, and what is forgotten |
//! | `memo` | values of calls that were made before |
//! | `finish` | how outcomes are made safe |
//! | `publish` | who is told about them |
//! | `tasks` | what became of tasks |
//! | `cancel` | cancelling them, and forgetting them |
//! | `timeline` | what happened to a task, when, and who did it |
//! | `follow` | the outcomes of a task group as they come |
//! | `groups` | whose task groups are |
//! | `records` | functions and endpoints |
//! | `repeat` | requests that clients send again |
//! | `host` | what the node asks |
//! | `health` | whether it takes work |
//! | `metrics` | what it counts |

mod cache;
mod cancel;
mod finish;
mod follow;
mod groups;
mod health;
mod host;
mod lane;
mod memo;
mod metrics;
mod publish;
mod queue;
mod records;
mod refusal;
mod repeat;
mod submit;
mod sweep;
mod tasks;
mod timeline;
mod trouble;
mod unstoppable;

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    sync::{Arc, Weak},
    time::Duration,
};

use funcx_core::contract::{
    Authority, Connection, Credential, EndpointRecord, FunctionRecord, IdleFirst, Principal, TaskStore,
};
use funcx_core::memo::{MemoCache, MemoKey};
use funcx_core::model::{
    EndpointId, FunctionId, Hop, IdMap, IdentityId, TaskGroupId, TaskId, Timestamp, limit,
};
use funcx_core::state::{DispatcherLimits, LinkPolicy, Node, NodeConfig};
use funcx_core::{Error, ErrorKind, Result};
use parking_lot::Mutex;
use tokio::{sync::OnceCell, task::JoinHandle, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::auth::LocalAuthority;
use crate::driver::{self, NodeHandle, wall_clock};
use cache::Cache;
use groups::Claims;
use health::StoreCheck;
use host::Host;
use lane::Lane;
use metrics::{Metered, ServiceMetrics};
use publish::{Origin, Publisher};
use queue::Queue;
use repeat::Repeats;
use sweep::Sweeper;
use trouble::Trouble;

pub use cancel::{CancelEffect, CancelReport, CancelTarget, PurgeReport};
pub use follow::{FollowEvent, Follower};
pub use health::Readiness;
pub(crate) use metrics::LATENCY_BUCKETS;
pub use records::{EndpointFigures, NewEndpoint, NewFunction};
pub use refusal::{Answer, Refusal};
pub use repeat::{Delivery, RequestKey};
pub use submit::{Accepted, Batch, SharedAnswer, Submit};
pub(crate) use tasks::READ_TASKS;
pub use tasks::{TaskStatus, TaskView};
pub use timeline::{Timeline, Transition};

/// Functions that are kept at hand.
const CACHED_FUNCTIONS: usize = 4096;
/// Bytes of their code.
const CACHED_FUNCTION_BYTES: usize = 256 << 20;
/// Endpoints that are kept at hand.
const CACHED_ENDPOINTS: usize = 4096;
/// Bytes of what they say about themselves.
const CACHED_ENDPOINT_BYTES: usize = 64 << 20;
/// Task groups whose owner is kept at hand.
const CACHED_GROUPS: usize = 65_536;

/// Time that the store has to finish what was being committed when the service stops.
const SETTLING: Duration = Duration::from_secs(5);

/// How a [`Service`] is set up.
#[derive(Clone)]
pub struct ServiceConfig {
    /// Tasks of one queue of an endpoint that are held in memory; the others lie in the store. There is a queue for each
    /// owner and priority, so an endpoint takes at most [`endpoint_queues`](Self::endpoint_queues) times this.
    pub window_tasks: usize,
    /// Bytes of their arguments.
    pub window_bytes: usize,
    /// Unfinished tasks of one endpoint that are accepted.
    pub endpoint_tasks: u64,
    /// Bytes of their arguments.
    pub endpoint_bytes: u64,
    /// Queues of one endpoint in which something may wait at a time.
    pub endpoint_queues: usize,
    /// Bytes of values that are at hand for equal memoized calls; more of them are in the store.
    pub memo_bytes: usize,
    /// How long tasks can be read after they have ended, whether or not somebody has; for ever if `None`.
    pub result_retention: Option<Duration>,
    /// Shares of owners in an endpoint for which several wait; 1 for those that are not named.
    pub weights: BTreeMap<IdentityId, u32>,
    /// Largest arguments of one task, in bytes; at most [`limit::MAX_PAYLOAD_BYTES`].
    pub payload_bytes: usize,
    /// Largest HTTP request body, in bytes.
    pub body_bytes: usize,
    /// How long the answer to a submission is kept for a client that went away without it.
    pub keep_answers: Duration,
    /// Outcomes that wait for one follower of a group. One that is further behind has to search the store, which takes
    /// longer the more tasks its group has; at full speed outcomes come in thousands.
    pub follower_outcomes: usize,
    /// Bytes of those that wait as they are. Of the others only the ids wait, and they are read from the store.
    pub follower_bytes: usize,
    /// Times of the links to endpoints.
    pub link: LinkPolicy,
    /// Makes the access tokens of `POST /v2/oauth2/token`; without it that route is not there.
    pub issuer: Option<Arc<dyn TokenIssuer>>,
    /// How long such a token lasts.
    pub token_lifetime: Duration,
}

impl Default for ServiceConfig {
    fn default() -> Self {
        Self {
            window_tasks: 100_000,
            window_bytes: 512 << 20,
            endpoint_tasks: limit::MAX_ENDPOINT_TASKS as u64,
            endpoint_bytes: 64 << 30,
            endpoint_queues: 256,
            memo_bytes: limit::DEFAULT_MEMO_BYTES,
            result_retention: Some(Duration::from_secs(14 * 86_400)),
            weights: BTreeMap::new(),
            payload_bytes: limit::MAX_PAYLOAD_BYTES,
            body_bytes: limit::MAX_BODY_BYTES,
            keep_answers: Duration::from_secs(120),
            follower_outcomes: 1 << 20,
            follower_bytes: 32 << 20,
            link: LinkPolicy::default(),
            issuer: None,
            token_lifetime: Duration::from_secs(48 * 3600),
        }
    }
}

impl fmt::Debug for ServiceConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServiceConfig")
            .field("window_tasks", &self.window_tasks)
            .field("window_bytes", &self.window_bytes)
            .field("endpoint_tasks", &self.endpoint_tasks)
            .field("endpoint_bytes", &self.endpoint_bytes)
            .field("endpoint_queues", &self.endpoint_queues)
            .field("memo_bytes", &self.memo_bytes)
            .field("result_retention", &self.result_retention)
            .field("payload_bytes", &self.payload_bytes)
            .field("body_bytes", &self.body_bytes)
            .field("follower_outcomes", &self.follower_outcomes)
            .field("follower_bytes", &self.follower_bytes)
            .field("issues_tokens", &self.issuer.is_some())
            .finish_non_exhaustive()
    }
}

/// What a service that stops leaves for the next one. All of it is in the store. Tasks of endpoints that have neither
/// connected nor got tasks since the service was started are not counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Left {
    /// Tasks that wait.
    pub queued: u64,
    /// Tasks at endpoints, which go on with them and come back with the outcomes.
    pub leased: u64,
}

/// Makes access tokens for clients that have proved who they are.
pub trait TokenIssuer: Send + Sync + 'static {
    /// A token for the client `client_id`, which has authenticated as `principal`, that the service's authority takes
    /// until `lifetime` after `now`.
    ///
    /// # Errors
    /// `Unauthenticated` if there is no such client any more, or those of the place where clients are kept.
    fn issue_access_token(
        &self,
        client_id: &str,
        principal: &Principal,
        lifetime: Duration,
        now: Timestamp,
    ) -> Result<String>;
}

impl TokenIssuer for LocalAuthority {
    fn issue_access_token(
        &self,
        client_id: &str,
        principal: &Principal,
        lifetime: Duration,
        now: Timestamp,
    ) -> Result<String> {
        Self::issue_access_token(self, client_id, principal, lifetime, now)
    }
}

/// A running service.
///
/// Everything it promises outlives it: accepted tasks and outcomes are in the store, and a service that is started on
/// the same store goes on where this one stopped.
pub struct Service {
    config: ServiceConfig,
    store: Metered,
    authority: Arc<dyn Authority>,
    node: NodeHandle,
    running: Mutex<Vec<JoinHandle<()>>>,
    sweeper: Arc<Sweeper>,
    stopping: CancellationToken,
    lanes: Mutex<HashMap<EndpointId, Arc<OnceCell<Arc<Lane>>>>>,
    metrics: Arc<ServiceMetrics>,
    store_check: StoreCheck,
    /// Tasks in the dispatcher.
    tracked: Mutex<IdMap<TaskId, Tracked>>,
    /// Values of memoized calls.
    memo: Mutex<MemoCache>,
    /// Commits of events of tasks that are under way.
    recording: tokio::sync::watch::Sender<finish::Recording>,
    publisher: Arc<Publisher>,
    trouble: Trouble,
    repeats: Arc<Repeats<SharedAnswer>>,
    functions: Cache<FunctionId, Arc<FunctionRecord>>,
    endpoints: Cache<EndpointId, Arc<EndpointRecord>>,
    groups: Cache<TaskGroupId, IdentityId>,
    claims: Arc<Claims>,
    /// Endpoints that are being registered or deleted.
    changes: Mutex<HashMap<EndpointId, Arc<tokio::sync::Mutex<()>>>>,
    /// Endpoints that are kept out for a while, and until when.
    locks: Mutex<HashMap<EndpointId, Instant>>,
}

/// What the service knows about a task in the dispatcher.
#[derive(Debug)]
struct Tracked {
    queue: Arc<Queue>,
    bytes: usize,
    /// Whether it matters when it begins, because it has a time to live.
    expires: bool,
    origin: Arc<Origin>,
    /// The key under which its value is remembered, if that is wanted.
    memo: Option<Arc<MemoKey>>,
}

impl fmt::Debug for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Service")
            .field("config", &self.config)
            .field("node", &self.node)
            .finish_non_exhaustive()
    }
}

impl Service {
    /// Starts a service on a store. It runs on the current tokio runtime.
    ///
    /// # Errors
    /// `InvalidInput` if a bound of the configuration is zero, or larger than a link can carry; `Internal` if a metric is
    /// not well formed.
    pub fn start(
        config: ServiceConfig,
        store: Arc<dyn TaskStore>,
        authority: Arc<dyn Authority>,
    ) -> Result<Arc<Self>> {
        if config.window_tasks == 0 || config.window_bytes == 0 || config.endpoint_queues == 0 {
            let message = "`window_tasks`, `window_bytes` and `endpoint_queues` must be at least 1";
            return Err(Error::new(ErrorKind::InvalidInput, "start service", message));
        }
        if config.payload_bytes > limit::MAX_PAYLOAD_BYTES {
            let message =
                "`payload_bytes` must not be more than MAX_PAYLOAD_BYTES: links carry no larger arguments";
            return Err(Error::new(ErrorKind::InvalidInput, "start service", message)
                .with_context("payload_bytes", config.payload_bytes)
                .with_context("limit", limit::MAX_PAYLOAD_BYTES));
        }
        let node = NodeConfig {
            link: config.link,
            // Windows bound what is in a lane, so that nothing is ever refused there.
            limits: DispatcherLimits { lane_tasks: usize::MAX, lane_bytes: usize::MAX },
            retries: true,
            ..NodeConfig::new(Hop::ServiceSent, concat!("funcx/", env!("CARGO_PKG_VERSION")))
        };
        let metrics = Arc::new(ServiceMetrics::new()?);
        let store = Metered { store, metrics: Arc::clone(&metrics) };
        let service = Arc::new_cyclic(|weak: &Weak<Self>| {
            let (node, running) =
                driver::start(node, Arc::new(Host(weak.clone())), None, |node: &mut Node<IdleFirst>| {
                    config.weights.iter().for_each(|(owner, weight)| node.set_weight(*owner, *weight));
                    // Values are remembered by the service, so that they are at hand before a task is queued. The node
                    // keeps those of the last moments: for calls that were on their way to it when equal ones ended.
                    node.memoize(config.memo_bytes.min(memo::LANDED_BYTES));
                });
            // A refusal is not kept: the next try may fare better.
            let repeats = Repeats::new(config.keep_answers, |answer: &SharedAnswer| answer.is_ok());
            Self {
                memo: Mutex::new(MemoCache::new(config.memo_bytes)),
                config,
                store,
                authority,
                node,
                running: Mutex::new(vec![running]),
                sweeper: Arc::default(),
                stopping: CancellationToken::new(),
                lanes: Mutex::default(),
                metrics,
                store_check: StoreCheck::default(),
                tracked: Mutex::default(),
                recording: tokio::sync::watch::Sender::default(),
                publisher: Arc::new(Publisher::starting(wall_clock())),
                trouble: Trouble::default(),
                repeats,
                functions: Cache::new(CACHED_FUNCTIONS, CACHED_FUNCTION_BYTES),
                endpoints: Cache::new(CACHED_ENDPOINTS, CACHED_ENDPOINT_BYTES),
                groups: Cache::new(CACHED_GROUPS, usize::MAX),
                claims: Arc::default(),
                changes: Mutex::default(),
                locks: Mutex::default(),
            }
        });
        let sweeper = Arc::clone(&service.sweeper);
        let sweeping = sweep::run(Arc::downgrade(&service), sweeper, service.stopping.clone());
        service.running.lock().push(tokio::spawn(sweeping));
        Ok(service)
    }

    /// How it is set up.
    pub const fn config(&self) -> &ServiceConfig {
        &self.config
    }

    /// Its node.
    pub const fn node(&self) -> &NodeHandle {
        &self.node
    }

    /// Resolves when the service has begun to stop.
    pub async fn stopping(&self) {
        self.stopping.cancelled().await;
    }

    /// Takes a connection that an endpoint has opened.
    pub fn accept(&self, connection: Box<dyn Connection>) {
        self.node.accept(connection);
    }

    /// Who presents this credential.
    ///
    /// # Errors
    /// `Unauthenticated`, or `Unavailable` if the authority cannot be asked.
    pub async fn authenticate(&self, credential: &Credential) -> Answer<Principal> {
        Ok(self.authority.authenticate(credential, wall_clock()).await?)
    }

    /// Begins to stop: no more tasks are accepted, the service is not ready, and those who follow a group or wait for a
    /// task are answered, to come back later. Resolves when what was being committed is durable, or the store takes too
    /// long.
    pub async fn begin_stop(&self) -> Left {
        self.stopping.cancel();
        // Commits are applied in order, so this one, which changes nothing, is done when all before it are.
        let settled = self.store.commit(Vec::new());
        if !matches!(tokio::time::timeout(SETTLING, settled).await, Ok(Ok(()))) {
            tracing::warn!("the store does not answer; what it has not taken was not accepted either");
        }
        self.left().await
    }

    /// What is not done.
    async fn left(&self) -> Left {
        let lanes: Vec<_> = self.lanes.lock().values().filter_map(|lane| lane.get().cloned()).collect();
        let unfinished: u64 = lanes.iter().map(|lane| lane.unfinished()).sum();
        let ids: Vec<_> = lanes.iter().map(|lane| lane.id).collect();
        let leased =
            self.node.with(move |node, _| ids.iter().map(|lane| node.load(*lane).leased as u64).sum());
        // A node that has ended has given everything back.
        let leased = leased.await.unwrap_or(0);
        Left { queued: unfinished.saturating_sub(leased), leased }
    }

    /// Stops: followers and connections of endpoints are closed. Nothing that was accepted is lost. Without
    /// [`begin_stop`](Self::begin_stop) before, who waits for an answer may be left without one.
    pub async fn stop(&self) {
        self.stopping.cancel();
        self.node.stop();
        let running = std::mem::take(&mut *self.running.lock());
        for running in running {
            // They only end by themselves or with the runtime.
            let _ = running.await;
        }
    }

    /// The lane of an endpoint, opened on first use.
    async fn lane(self: &Arc<Self>, endpoint: EndpointId) -> Result<Arc<Lane>> {
        let cell = Arc::clone(self.lanes.lock().entry(endpoint).or_default());
        cell.get_or_try_init(|| async { Lane::open(self, endpoint).await.map(Arc::new) }).await.cloned()
    }

    /// The lane of an endpoint if it is open.
    fn open_lane(&self, endpoint: EndpointId) -> Option<Arc<Lane>> {
        self.lanes.lock().get(&endpoint)?.get().cloned()
    }

    fn set_connected(self: &Arc<Self>, endpoint: EndpointId, connected: bool) {
        if let Some(lane) = self.open_lane(endpoint) {
            lane.set_connected(self, connected);
        }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.stopping.cancel();
        self.node.stop();
    }
}
