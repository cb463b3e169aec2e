//! Blocks of an endpoint: asking the provider for them as the scaling decides, and noticing when they end.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use funcx_core::contract::{BlockRequest, Command, JobState, JobStatus, Launcher, Provider};
use funcx_core::message::{Hello, Refused, Role};
use funcx_core::model::{BlockId, JobId, ManagerId, Tick};
use funcx_core::state::{BlockEvent, BlockOutput, BlockPolicy, BlockScaling};
use funcx_core::{Error, Result};
use futures::future::{BoxFuture, FutureExt};
use parking_lot::Mutex;
use subtle::ConstantTimeEq;
use uuid::Uuid;

use super::manager::ManagerTemplate;

/// Bytes of the secret of a block.
const SECRET_BYTES: usize = 32;

/// Which managers may connect, and with which secret. Shared between the blocks, which fill it, and the node's host,
/// which asks it.
#[derive(Debug, Clone, Default)]
pub(super) struct Doorkeeper(Arc<Mutex<HashMap<Uuid, BlockSecret>>>);

struct BlockSecret(String);

impl std::fmt::Debug for BlockSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("BlockSecret(…)")
    }
}

impl Doorkeeper {
    fn let_in(&self, manager: ManagerId, secret: String) {
        self.0.lock().insert(manager.uuid(), BlockSecret(secret));
    }

    fn keep_out(&self, manager: ManagerId) {
        self.0.lock().remove(&manager.uuid());
    }

    /// Whether the node that said `hello` is the manager of a block.
    pub(super) fn check(&self, hello: &Hello) -> std::result::Result<(), Refused> {
        let refuse = |reason: &str| Err(Refused { reason: reason.to_owned(), retry: false });
        if hello.role != Role::Manager {
            return refuse("this is an endpoint: only managers connect to it");
        }
        match self.0.lock().get(&hello.node) {
            None => refuse("this endpoint has no block with such a manager (any more)"),
            Some(secret) if bool::from(secret.0.as_bytes().ct_eq(hello.credential.as_bytes())) => Ok(()),
            Some(_) => refuse("the secret of the block is wrong"),
        }
    }
}

/// What became of a request to the provider.
#[derive(Debug)]
pub(super) enum ProviderAnswer {
    Submitted(BlockId, Result<JobId>),
    Status(Result<BTreeMap<JobId, JobStatus>>),
    Cancelled(Vec<JobId>, Result<()>),
}

/// A request to the provider that is under way.
pub(super) type ProviderRequest = BoxFuture<'static, ProviderAnswer>;

/// A block that has ended, and the manager that was in it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct EndedBlock {
    pub(super) manager: ManagerId,
    pub(super) reason: String,
}

/// The blocks there are. Requests to the provider are returned for the caller to drive, so that a slow scheduler
/// holds up nothing.
pub(super) struct Blocks {
    scaling: BlockScaling,
    provider: Arc<dyn Provider>,
    launcher: Arc<dyn Launcher>,
    template: ManagerTemplate,
    walltime: Option<Duration>,
    door: Doorkeeper,
    blocks: BTreeMap<BlockId, Block>,
    problem: Option<String>,
}

struct Block {
    manager: ManagerId,
    job: Option<JobId>,
    /// We gave it back, so that its end is no news.
    leaving: bool,
    /// The provider did not take it back; it is asked again when it is next asked for states.
    kept: bool,
}

impl Blocks {
    pub(super) fn new(
        policy: BlockPolicy,
        provider: Arc<dyn Provider>,
        launcher: Arc<dyn Launcher>,
        template: ManagerTemplate,
        walltime: Option<Duration>,
        door: Doorkeeper,
    ) -> Self {
        Self {
            scaling: BlockScaling::new(policy),
            provider,
            launcher,
            template,
            walltime,
            door,
            blocks: BTreeMap::new(),
            problem: None,
        }
    }

    /// Blocks that were asked for and have not ended.
    pub(super) fn count(&self) -> u32 {
        self.blocks.len() as u32
    }

    /// Where they come from.
    pub(super) fn provider(&self) -> Arc<dyn Provider> {
        Arc::clone(&self.provider)
    }

    /// Why workers do not start, if they do not.
    pub(super) fn problem(&self) -> Option<&str> {
        self.problem.as_deref()
    }

    /// The load now; returns what to ask the provider.
    pub(super) fn handle_load(&mut self, outstanding: usize, now: Tick) -> Vec<ProviderRequest> {
        let mut requests = Vec::new();
        for output in self.scaling.handle_load(outstanding, now) {
            match output {
                BlockOutput::Submit(block) => requests.push(self.submit(block)),
                BlockOutput::Cancel(block) => {
                    tracing::info!(%block, "block has nothing to do, giving it back");
                    requests.extend(self.cancel(block));
                }
                BlockOutput::Tripped { blocks, reason } => {
                    tracing::error!(
                        blocks,
                        reason,
                        "managers end before they connect: no more are started, and tasks wait; mend the reason and restart the endpoint"
                    );
                    self.problem =
                        Some(format!("{blocks} managers in a row ended before they connected: {reason}"));
                }
            }
        }
        requests
    }

    /// A manager has connected.
    pub(super) fn handle_registered(&mut self, manager: Uuid, now: Tick) {
        let block = self.blocks.iter().find(|(_, block)| block.manager.uuid() == manager).map(|(id, _)| *id);
        if let Some(block) = block {
            self.scaling.handle_event(block, BlockEvent::Registered, now);
            self.problem = None;
        }
    }

    /// A manager is given up by the node. Its block goes, whatever is in it, so that another one is started.
    pub(super) fn handle_lost(&mut self, manager: Uuid) -> Option<ProviderRequest> {
        let block = self.blocks.iter().find(|(_, block)| block.manager.uuid() == manager && !block.leaving);
        let id = block.map(|(id, _)| *id)?;
        tracing::warn!(block = %id, "the manager of the block does not answer, giving the block back");
        self.cancel(id)
    }

    /// Asks the provider which blocks still are; `None` if there is nothing to ask.
    pub(super) fn status(&self) -> Option<ProviderRequest> {
        let jobs: Vec<JobId> = self.blocks.values().filter_map(|block| block.job.clone()).collect();
        let batch = self.provider.capability().max_status_batch.max(1);
        let provider = Arc::clone(&self.provider);
        (!jobs.is_empty()).then(|| {
            async move {
                let mut all = BTreeMap::new();
                for jobs in jobs.chunks(batch) {
                    match provider.status(jobs).await {
                        Ok(states) => all.extend(states),
                        Err(error) => return ProviderAnswer::Status(Err(error)),
                    }
                }
                ProviderAnswer::Status(Ok(all))
            }
            .boxed()
        })
    }

    /// The provider has answered. Returns blocks that have ended, and what to ask next.
    pub(super) fn handle_answer(
        &mut self,
        answer: ProviderAnswer,
        now: Tick,
    ) -> (Vec<EndedBlock>, Option<ProviderRequest>) {
        match answer {
            ProviderAnswer::Submitted(id, Ok(job)) => {
                tracing::debug!(block = %id, %job, "block submitted");
                let Some(block) = self.blocks.get_mut(&id) else { return (Vec::new(), None) };
                block.job = Some(job);
                // It was given back while the provider still worked on it, or it may have ended already.
                let next = if block.leaving { self.cancel(id) } else { self.status() };
                (Vec::new(), next)
            }
            ProviderAnswer::Submitted(id, Err(error)) => {
                (self.end(id, error.to_string(), now).into_iter().collect(), None)
            }
            ProviderAnswer::Status(Ok(states)) => {
                let ended: Vec<_> = self
                    .blocks
                    .iter()
                    .filter_map(|(id, block)| Some((*id, states.get(block.job.as_ref()?)?)))
                    .filter(|(_, status)| status.state.is_final())
                    .map(|(id, status)| (id, describe(status)))
                    .collect();
                let ended = ended.into_iter().filter_map(|(id, reason)| self.end(id, reason, now)).collect();
                (ended, self.cancel_kept())
            }
            ProviderAnswer::Status(Err(error)) => {
                tracing::warn!(%error, "cannot ask for the state of blocks");
                (Vec::new(), None)
            }
            ProviderAnswer::Cancelled(_, Ok(())) => (Vec::new(), None),
            ProviderAnswer::Cancelled(jobs, Err(error)) => {
                tracing::warn!(%error, ?jobs, "cannot give blocks back, trying again later");
                for block in self.blocks.values_mut() {
                    block.kept |= block.job.as_ref().is_some_and(|job| jobs.contains(job));
                }
                (Vec::new(), None)
            }
        }
    }

    /// Gives every block back.
    pub(super) fn cancel_all(&mut self) -> Option<ProviderRequest> {
        self.blocks.values_mut().for_each(|block| block.leaving = true);
        let jobs: Vec<JobId> = self.blocks.values().filter_map(|block| block.job.clone()).collect();
        (!jobs.is_empty()).then(|| self.cancel_jobs(jobs))
    }

    fn submit(&mut self, id: BlockId) -> ProviderRequest {
        let command = self.prepare(id);
        let (provider, walltime) = (Arc::clone(&self.provider), self.walltime);
        async move {
            let job = match command {
                Ok(command) => {
                    provider.submit(&BlockRequest { block: id, nodes: 1, walltime, command }).await
                }
                Err(error) => Err(error),
            };
            ProviderAnswer::Submitted(id, job)
        }
        .boxed()
    }

    /// Makes the identity and the secret of a block, and the command that starts its manager.
    fn prepare(&mut self, id: BlockId) -> Result<Command> {
        let manager = ManagerId::from_random(u128::from_ne_bytes(random()?));
        self.blocks.insert(id, Block { manager, job: None, leaving: false, kept: false });
        let secret = random::<SECRET_BYTES>()?.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let command = self.launcher.launch(self.template.command(id, manager, &secret), 1)?;
        self.door.let_in(manager, secret);
        Ok(command)
    }

    fn cancel(&mut self, id: BlockId) -> Option<ProviderRequest> {
        let block = self.blocks.get_mut(&id)?;
        block.leaving = true;
        let job = block.job.clone()?;
        Some(self.cancel_jobs(vec![job]))
    }

    /// Asks once more to take back what the provider has not.
    fn cancel_kept(&mut self) -> Option<ProviderRequest> {
        let blocks = self.blocks.values_mut();
        let kept = blocks.filter_map(|block| block.job.clone().filter(|_| std::mem::take(&mut block.kept)));
        let jobs: Vec<JobId> = kept.collect();
        (!jobs.is_empty()).then(|| self.cancel_jobs(jobs))
    }

    fn cancel_jobs(&self, jobs: Vec<JobId>) -> ProviderRequest {
        let provider = Arc::clone(&self.provider);
        async move {
            let cancelled = provider.cancel(&jobs).await;
            ProviderAnswer::Cancelled(jobs, cancelled)
        }
        .boxed()
    }

    fn end(&mut self, id: BlockId, reason: String, now: Tick) -> Option<EndedBlock> {
        let block = self.blocks.remove(&id);
        if block.as_ref().is_none_or(|block| !block.leaving) {
            tracing::warn!(block = %id, reason, "block ended");
        }
        self.scaling.handle_event(id, BlockEvent::Ended(reason.clone()), now);
        let manager = block?.manager;
        self.door.keep_out(manager);
        Some(EndedBlock { manager, reason })
    }
}

fn describe(status: &JobStatus) -> String {
    let state = match status.state {
        JobState::Completed => "its manager ended",
        JobState::Failed => "its manager failed",
        JobState::Cancelled => "it was given back",
        JobState::TimedOut => "its walltime is over",
        JobState::Unlisted => "it is no longer known",
        JobState::Pending | JobState::Running | JobState::Held | JobState::Unknown => "it has not ended",
    };
    match &status.reason {
        Some(reason) => format!("{state}: {}", reason.trim()),
        None => state.to_owned(),
    }
}

/// Random bytes from the operating system.
pub(super) fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|error| {
        Error::new(funcx_core::ErrorKind::Io, "draw random bytes", "the operating system gives none")
            .with_source(error.to_string())
    })?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::path::Path;
    use std::sync::atomic::{AtomicU32, Ordering};

    use funcx_core::ErrorKind;
    use funcx_core::contract::ProviderCapability;
    use funcx_provider::launcher::SimpleLauncher;
    use futures::executor::block_on;
    use futures::future::{pending, ready};

    use crate::config::EndpointConfig;

    /// Does not take blocks back at first.
    #[derive(Default)]
    struct Stubborn {
        asked: AtomicU32,
    }

    impl Provider for Stubborn {
        fn capability(&self) -> ProviderCapability {
            ProviderCapability { name: "stubborn", max_status_batch: 8, max_nodes: 1 }
        }

        fn submit<'a>(&'a self, _: &'a BlockRequest) -> BoxFuture<'a, Result<JobId>> {
            ready(Ok(JobId("7".to_owned()))).boxed()
        }

        fn status<'a>(&'a self, jobs: &'a [JobId]) -> BoxFuture<'a, Result<BTreeMap<JobId, JobStatus>>> {
            let running = JobStatus { state: JobState::Running, reason: None };
            ready(Ok(jobs.iter().map(|job| (job.clone(), running.clone())).collect())).boxed()
        }

        fn cancel<'a>(&'a self, _: &'a [JobId]) -> BoxFuture<'a, Result<()>> {
            let first = self.asked.fetch_add(1, Ordering::Relaxed) == 0;
            let busy = || Err(Error::new(ErrorKind::Unavailable, "cancel jobs", "the scheduler is busy"));
            ready(if first { busy() } else { Ok(()) }).boxed()
        }

        fn changed(&self) -> BoxFuture<'_, ()> {
            pending().boxed()
        }
    }

    #[test]
    fn a_block_that_is_not_taken_back_is_given_back_again() {
        let read = EndpointConfig::parse("worker_command: [/opt/w]").unwrap();
        let address = "unix:/run/s".parse().unwrap();
        let id = funcx_core::model::EndpointId::from_u128(1);
        let template = ManagerTemplate::new(&read.config, id, address, Path::new("/home/e")).unwrap();
        let provider = Arc::new(Stubborn::default());
        let mut blocks = Blocks::new(
            BlockPolicy::default(),
            Arc::clone(&provider) as _,
            Arc::new(SimpleLauncher),
            template,
            None,
            Doorkeeper::default(),
        );
        let now = Tick::ZERO;
        let mut requests = blocks.handle_load(1, now);
        let answer = |blocks: &mut Blocks, request| {
            let (ended, next) = blocks.handle_answer(block_on(request), now);
            assert_eq!(ended, []);
            next
        };
        let submitted = requests.pop().expect("one block is asked for");
        let status = answer(&mut blocks, submitted).expect("a new block is looked at");
        assert!(answer(&mut blocks, status).is_none());

        let cancel = blocks.cancel_all().expect("there is a block");
        assert!(answer(&mut blocks, cancel).is_none(), "not at once: the scheduler is busy");
        for asked in [2, 2] {
            let status = blocks.status().expect("it is there still");
            if let Some(again) = answer(&mut blocks, status) {
                assert!(answer(&mut blocks, again).is_none());
            }
            assert_eq!(provider.asked.load(Ordering::Relaxed), asked);
        }
    }
}
