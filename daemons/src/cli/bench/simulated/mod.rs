//! A fabric whose workers are simulated: the node of an endpoint, and those of managers, in one process, joined by the real
//! link protocol over TCP on loopback. A manager has an executor that keeps workers as numbers, not as processes.
//!
//! Tasks are given to the endpoint's node directly: there is no service above it and no journal, as in the papers'
//! measurements of the agent.

mod agent;
mod ledger;
mod workers;

use std::{
    ops::Range,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use funcx_core::contract::{Address, Capacity, IdleFirst};
use funcx_core::message::Role;
use funcx_core::model::{Function, Hop, IdentityId, Memoize, Task, TaskId, TaskSpec, Tick};
use funcx_core::state::{DispatcherLimits, LaneId, LinkPolicy, Node, NodeConfig, UplinkIdentity};
use funcx_net::driver::{self, Above, NodeHandle};
use funcx_net::transport::Transports;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use self::agent::Agent;
use self::ledger::{Expected, Ledger, ManagerHost};
pub(super) use self::workers::Work;
use self::workers::{Returns, Sleepers, Workers};
use crate::endpoint::SOFTWARE;

/// The only lane of the endpoint's node.
const LANE: LaneId = LaneId(0);

/// Managers that connect at the same time.
const AT_ONCE: u32 = 256;

/// Tasks that the endpoint's node is given at a time.
const CHUNK: u64 = 10_000;

/// When nothing has moved for so long, nothing will.
const STALLED: Duration = Duration::from_secs(60);

/// Between two looks whether managers have come.
const LOOK: Duration = Duration::from_millis(2);

/// Open files besides the two of each connection.
const OTHER_FILES: u64 = 256;

/// How large a simulated fabric is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Size {
    pub(super) managers: u32,
    /// Workers of all managers together.
    pub(super) workers: u32,
    /// Tasks that each manager takes besides those that its workers run.
    pub(super) prefetch: u32,
    /// Tasks that a manager takes at a time, workers or not.
    pub(super) at_a_time: Option<u32>,
    pub(super) work: Work,
}

/// A running simulated fabric. Dropping it ends it, too, but waits for nothing.
#[derive(Debug)]
pub(super) struct Fabric {
    agent: Agent,
    endpoint: NodeHandle,
    managers: Vec<NodeHandle>,
    drivers: Vec<JoinHandle<()>>,
    ledger: Arc<Ledger>,
    spec: Arc<TaskSpec>,
    accepting: CancellationToken,
    limits: DispatcherLimits,
    returns: Returns,
}

impl Size {
    /// So many workers with the managers that the papers had: 64 workers for each up to 65,536 (a node of Theta), 256 up to
    /// 131,072 (a node of Cori), and beyond that 1,000.
    pub(super) fn of_workers(workers: u32, work: Work) -> Self {
        let each = match workers {
            ..=65_536 => 64,
            65_537..=131_072 => 256,
            131_073.. => 1_000,
        };
        Self { managers: workers.div_ceil(each), workers, prefetch: 0, at_a_time: None, work }
    }

    /// Workers of one of the managers: as even as it goes.
    fn workers_of(&self, manager: u32) -> u32 {
        self.workers / self.managers + u32::from(manager < self.workers % self.managers)
    }
}

impl Fabric {
    /// Starts it; on return all managers are connected and all workers are known to the endpoint.
    pub(super) async fn start(size: Size) -> Result<Self> {
        allow_files(u64::from(size.managers) * 2 + OTHER_FILES)?;
        let transports = Arc::new(Transports::standard());
        let ledger = Arc::new(Ledger::default());
        // As many as are queued by default, besides those that run.
        let lane_tasks = DispatcherLimits::default().lane_tasks + size.workers as usize;
        let limits = DispatcherLimits { lane_tasks, ..DispatcherLimits::default() };
        let agent = Agent::start()?;
        let accepting = CancellationToken::new();
        let begin = {
            let (transports, ledger, accepting) =
                (Arc::clone(&transports), Arc::clone(&ledger), accepting.clone());
            async move { endpoint(transports, ledger, limits, accepting).await }
        };
        let (endpoint, driver, address) = agent.run(begin).await??;
        let above = Above { transports, address };
        let function = Arc::new(Function::native("simulated"));
        let spec = Arc::new(TaskSpec::new(function, IdentityId::from_u128(1)));
        let mut fabric = Self {
            agent,
            endpoint,
            managers: Vec::new(),
            drivers: vec![driver],
            ledger,
            spec,
            accepting,
            limits,
            returns: size.work.returns(),
        };
        let sleepers = Sleepers::start(size.work)?;
        for manager in 0..size.managers {
            fabric.add_manager(manager, &size, &above, &sleepers);
            if (manager + 1) % AT_ONCE == 0 || manager + 1 == size.managers {
                fabric.wait_for_managers().await?;
            }
        }
        Ok(fabric)
    }

    fn add_manager(&mut self, number: u32, size: &Size, above: &Above, sleepers: &Sleepers) {
        let config = config(Some(number), DispatcherLimits::default());
        let (node, driver) =
            driver::start::<IdleFirst>(config, Arc::new(ManagerHost), Some(above.clone()), |_| {});
        let (token, sink) = node.executor_sink();
        let slots = size.at_a_time.unwrap_or_else(|| size.workers_of(number));
        let capacity = Capacity { slots, prefetch: size.prefetch };
        let workers = Workers::new(capacity, size.work.returns(), sink, sleepers.clone());
        node.attach(token, Arc::new(workers), None);
        self.managers.push(node);
        self.drivers.push(driver);
    }

    /// Waits until the endpoint's node knows the workers of every manager.
    async fn wait_for_managers(&self) -> Result<()> {
        let managers = self.managers.len();
        let began = Instant::now();
        while began.elapsed() < STALLED {
            let ready =
                self.endpoint.with(|node, _| node.peers().filter(|peer| peer.capacity.slots > 0).count());
            if ready.await? == managers {
                return Ok(());
            }
            tokio::time::sleep(LOOK).await;
        }
        bail!("{managers} managers do not connect within {} s", STALLED.as_secs())
    }

    /// From now on equal calls run once, and so many bytes of their values are remembered.
    pub(super) async fn memoize(&mut self, bytes: usize) -> Result<()> {
        self.spec = Arc::new(TaskSpec { memoize: Memoize::Own, ..TaskSpec::clone(&self.spec) });
        Ok(self.endpoint.with(move |node, _| node.memoize(bytes)).await?)
    }

    /// Runs so many tasks with this argument and checks every outcome; the time from the first submission to the last
    /// outcome. Tasks that do not fit into the endpoint's queue are submitted as soon as there is room.
    pub(super) async fn run(&self, tasks: u64, argument: &Bytes) -> Result<Duration> {
        let expected = match self.returns {
            Returns::Argument => Expected::Value(argument.clone()),
            Returns::Number => Expected::Number,
        };
        let generation = self.ledger.begin(tasks, expected);
        self.run_begun(generation, tasks, argument.len(), |_| argument.clone()).await
    }

    /// Runs a task for each entry, equal to an earlier task or to none, and checks every outcome. The time, and the tasks.
    pub(super) async fn run_memoized(&self, earlier: Vec<Option<TaskId>>) -> Result<(Duration, Vec<TaskId>)> {
        let tasks = earlier.len() as u64;
        let generation = self.ledger.begin(tasks, Expected::Memoized(earlier.clone()));
        let made: Vec<TaskId> = (0..tasks).map(|number| ledger::id(generation, number)).collect();
        // Equal tasks are those with the number of the same task for an argument.
        let argument =
            |number: u64| ledger::number_of(earlier[number as usize].unwrap_or(made[number as usize]));
        let took = self.run_begun(generation, tasks, size_of::<u64>(), argument).await?;
        Ok((took, made))
    }

    /// Runs the tasks of a run that the ledger knows of, each with an argument of so many bytes.
    async fn run_begun(
        &self,
        generation: u64,
        tasks: u64,
        argument_bytes: usize,
        argument: impl Fn(u64) -> Bytes,
    ) -> Result<Duration> {
        let began = Instant::now();
        let lane = self.lane(argument_bytes);
        let mut submitted = 0;
        while submitted < tasks {
            let chunk = CHUNK.min(tasks - submitted).min(lane);
            self.progress((submitted + chunk).saturating_sub(lane)).await?;
            self.submit(generation, submitted..submitted + chunk, &argument).await?;
            submitted += chunk;
        }
        self.progress(tasks).await?;
        let took = began.elapsed();
        self.ledger.check()?;
        let load = self.endpoint.with(|node, _| node.load(LANE)).await?;
        ensure!(
            load.queued + load.leased == 0,
            "the endpoint still holds tasks when all have ended: {load:?}"
        );
        Ok(took)
    }

    /// Tasks with arguments of this size that the endpoint's queue has room for.
    fn lane(&self, argument_bytes: usize) -> u64 {
        let DispatcherLimits { lane_tasks, lane_bytes, .. } = self.limits;
        lane_tasks.min(lane_bytes / argument_bytes.max(1)) as u64
    }

    /// Gives the endpoint so many tasks for which nobody is there.
    pub(super) async fn queue(&self, tasks: u64) -> Result<()> {
        let generation = self.ledger.begin(tasks, Expected::Number);
        for first in (0..tasks).step_by(CHUNK as usize) {
            self.submit(generation, first..tasks.min(first + CHUNK), |_| Bytes::new()).await?;
        }
        let load = self.endpoint.with(|node, _| node.load(LANE)).await?;
        ensure!(load.queued as u64 == tasks, "the endpoint has queued {} of {tasks} tasks", load.queued);
        Ok(())
    }

    async fn submit(
        &self,
        generation: u64,
        numbers: Range<u64>,
        argument: impl Fn(u64) -> Bytes,
    ) -> Result<()> {
        let made = numbers
            .map(|number| Task::new(ledger::id(generation, number), Arc::clone(&self.spec), argument(number)))
            .collect();
        let refused = self.endpoint.submit(LANE, made).await?;
        ensure!(refused.is_empty(), "the endpoint refused {} tasks", refused.len());
        Ok(())
    }

    /// Waits until so many tasks have ended.
    async fn progress(&self, ended: u64) -> Result<()> {
        while self.ledger.ended() < ended {
            let before = self.ledger.ended();
            let moved = tokio::time::timeout(STALLED, self.ledger.until(ended)).await;
            self.ledger.check()?;
            if moved.is_err() && self.ledger.ended() == before {
                bail!("no task has ended for {} s; {before} have", STALLED.as_secs());
            }
        }
        Ok(())
    }

    /// Time on a processor that the endpoint's node with its connections has had.
    pub(super) async fn agent_time(&self) -> Result<Duration> {
        self.agent.processor_time().await
    }

    /// Ends it; resolves when nothing of it runs any more.
    pub(super) async fn stop(mut self) -> Result<()> {
        self.end();
        for driver in std::mem::take(&mut self.drivers) {
            driver.await.context("a node has ended badly")?;
        }
        Ok(())
    }

    fn end(&self) {
        self.accepting.cancel();
        self.managers.iter().for_each(NodeHandle::stop);
        self.endpoint.stop();
    }
}

impl Drop for Fabric {
    fn drop(&mut self) {
        self.end();
    }
}

/// Starts the node of the endpoint where this is called, and lets managers connect until `accepting` is cancelled.
async fn endpoint(
    transports: Arc<Transports>,
    ledger: Arc<Ledger>,
    limits: DispatcherLimits,
    accepting: CancellationToken,
) -> Result<(NodeHandle, JoinHandle<()>, Address)> {
    let anywhere: Address = "tcp:127.0.0.1:0".parse()?;
    let mut listener = transports.listen(&anywhere).await?;
    let address = listener.address();
    let (endpoint, driver) =
        driver::start(config(None, limits), ledger, None, |node: &mut Node<IdleFirst>| {
            node.open_lane();
        });
    let node = endpoint.clone();
    tokio::spawn(async move {
        while let Some(Ok(connection)) = accepting.run_until_cancelled(listener.accept()).await {
            node.accept(connection);
        }
    });
    Ok((endpoint, driver, address))
}

fn config(manager: Option<u32>, limits: DispatcherLimits) -> NodeConfig {
    let uplink = manager.map(|number| UplinkIdentity {
        role: Role::Manager,
        node: Uuid::from_u128(u128::from(number) + 1),
        epoch: 1,
        life: 0,
        process: 1,
        ends_at: Tick::NEVER,
        credential: String::new(),
        name: format!("manager {number}"),
        software: SOFTWARE.to_owned(),
    });
    let sent = if uplink.is_some() { Hop::ManagerSent } else { Hop::EndpointSent };
    NodeConfig {
        retries: uplink.is_none(),
        uplink,
        link: LinkPolicy::with_heartbeat(Duration::from_secs(10)),
        limits,
        ..NodeConfig::new(sent, SOFTWARE)
    }
}

/// Raises the limit of open files if that is needed.
fn allow_files(files: u64) -> Result<()> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).context("cannot tell the limit of open files")?;
    ensure!(
        files <= hard,
        "so many managers need {files} open files, and the system allows {hard} (`ulimit -Hn`)"
    );
    if soft < files {
        setrlimit(Resource::RLIMIT_NOFILE, files, hard).context("cannot raise the limit of open files")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_are_spread_over_the_managers_of_the_papers() {
        for (workers, managers) in
            [(1, 1), (64, 1), (65, 2), (65_536, 1024), (131_072, 512), (1_000_000, 1000)]
        {
            let size = Size::of_workers(workers, Work::None);
            assert_eq!(size.managers, managers);
            assert_eq!((0..managers).map(|manager| size.workers_of(manager)).sum::<u32>(), workers);
        }
    }

    #[tokio::test]
    async fn every_task_of_every_run_has_its_outcome() {
        for work in [Work::None, Work::Echo, Work::Sleep(Duration::from_millis(1))] {
            let size = Size { managers: 3, workers: 8, prefetch: 2, at_a_time: None, work };
            let fabric = Fabric::start(size).await.unwrap();
            for tasks in [1, 100, 0] {
                fabric.run(tasks, &Bytes::from_static(b"argument")).await.unwrap();
            }
            fabric.stop().await.unwrap();
        }
    }

    #[tokio::test]
    async fn memoized_tasks_run_once() {
        let size = Size { managers: 2, workers: 8, prefetch: 0, at_a_time: None, work: Work::None };
        let mut fabric = Fabric::start(size).await.unwrap();
        fabric.memoize(1 << 20).await.unwrap();
        let (_, first) = fabric.run_memoized(vec![None; 10]).await.unwrap();
        let later = (0..100).map(|number| (number % 2 == 0).then(|| first[number % 10])).collect();
        fabric.run_memoized(later).await.unwrap();
        fabric.stop().await.unwrap();
    }
}
