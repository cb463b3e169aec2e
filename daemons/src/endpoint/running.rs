//! The loop of a running endpoint.

use std::{collections::BTreeMap, future::pending, sync::Arc, time::Duration};

use funcx_core::contract::{Connection, Listener};
use funcx_core::message::Refused;
use funcx_core::state::{Counters, LaneId, Node, Uplink};
use funcx_net::driver::{Clock, NodeHandle, NodeNotice};
use funcx_net::journal::Journal;
use futures::{StreamExt, stream::FuturesUnordered};
use tokio::{
    sync::{mpsc, watch},
    task::{JoinError, JoinHandle},
    time::{Instant, MissedTickBehavior},
};
use tokio_util::sync::CancellationToken;

use super::blocks::{Blocks, EndedBlock, ProviderAnswer, ProviderRequest};
use super::status::{EndpointStatus, StatusFile};
use crate::exit::{Exit, Failed};

/// Between two looks at the load. A first task waits this long for a first block to be asked for, besides the time that
/// the block needs.
const LOOK: Duration = Duration::from_millis(200);

/// How long the service may say "not now" (because another process serves as this endpoint, and may just be ending).
const REFUSAL_PATIENCE: Duration = Duration::from_secs(15);

/// Time for blocks to end besides the grace that their workers have.
pub(super) const FAREWELL: Duration = Duration::from_secs(5);

/// Pause after an error of the listener, such as too many open files, so that it is not tried in a hot loop.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Everything a running endpoint owns.
pub(super) struct Running {
    pub(super) node: NodeHandle,
    pub(super) driver: JoinHandle<()>,
    pub(super) listener: Box<dyn Listener>,
    pub(super) noticed: mpsc::UnboundedReceiver<NodeNotice>,
    pub(super) blocks: Blocks,
    pub(super) journal: Arc<Journal>,
    pub(super) status: watch::Sender<EndpointStatus>,
    pub(super) file: StatusFile,
    pub(super) report_period: Duration,
    pub(super) drain_timeout: Duration,
    pub(super) farewell: Duration,
    pub(super) stop: CancellationToken,
    pub(super) _socket_directory: Option<tempfile::TempDir>,
}

enum Event {
    Noticed(NodeNotice),
    Accepted(funcx_core::Result<Box<dyn Connection>>),
    /// A block may have ended.
    BlocksChanged,
    Answered(ProviderAnswer),
    /// Time to look at the load.
    Look,
    Report,
    Stop,
    /// The node's task is no more, which only a defect can bring about.
    NodeEnded(Result<(), JoinError>),
    /// Whoever is left has had time enough.
    TimeIsUp,
}

/// How far an endpoint that was told to stop has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Leaving {
    /// It was not told.
    No,
    /// Managers finish what has begun.
    Draining { until: Instant, before: Counters },
    /// Managers were told to stop what still runs.
    Stopping { until: Instant, before: Counters },
}

impl Leaving {
    const fn until(self) -> Option<Instant> {
        match self {
            Self::No => None,
            Self::Draining { until, .. } | Self::Stopping { until, .. } => Some(until),
        }
    }
}

impl Running {
    pub(super) async fn run(mut self) -> Result<(), Failed> {
        let clock = Clock::default();
        let provider = self.blocks.provider();
        let mut changed = provider.changed();
        let mut requests: FuturesUnordered<ProviderRequest> = FuturesUnordered::new();
        let mut look = tokio::time::interval(LOOK);
        let mut report = tokio::time::interval(self.report_period);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        report.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut refused_since = None;
        let mut been_in = false;
        let mut node_ended = false;
        let mut leaving = Leaving::No;
        let result = loop {
            let time_is_up = async {
                match leaving.until() {
                    Some(until) => tokio::time::sleep_until(until).await,
                    None => pending().await,
                }
            };
            let event = tokio::select! {
                () = self.stop.cancelled(), if leaving == Leaving::No => Event::Stop,
                ended = &mut self.driver => Event::NodeEnded(ended),
                () = time_is_up => Event::TimeIsUp,
                Some(notice) = self.noticed.recv() => Event::Noticed(notice),
                accepted = self.listener.accept() => Event::Accepted(accepted),
                () = &mut changed => {
                    changed = provider.changed();
                    Event::BlocksChanged
                }
                Some(answer) = requests.next() => Event::Answered(answer),
                _ = look.tick() => Event::Look,
                _ = report.tick() => Event::Report,
            };
            match event {
                Event::Stop => {
                    let before = self.counters().await;
                    tracing::info!(blocks = self.blocks.count(), "draining");
                    leaving = Leaving::Draining { until: Instant::now() + self.drain_timeout, before };
                    let _ = self.node.with(|node, now| node.drain(now)).await;
                }
                Event::NodeEnded(ended) => {
                    let reason = ended.err().map_or_else(|| "it ended".to_owned(), |error| error.to_string());
                    node_ended = true;
                    break Err(Failed::new(Exit::Failure, format!("the node broke down: {reason}")));
                }
                Event::TimeIsUp => match leaving {
                    Leaving::Draining { before, .. } => {
                        tracing::warn!("not all tasks have ended in time; they are stopped");
                        leaving = Leaving::Stopping { until: Instant::now() + self.farewell, before };
                        requests.extend(self.blocks.cancel_all());
                    }
                    Leaving::No | Leaving::Stopping { .. } => break Ok(()),
                },
                Event::Noticed(NodeNotice::Drained) => {
                    // Nothing is left for a later life to know of.
                    if let Err(error) = self.journal.end_session() {
                        tracing::warn!(%error, "the journal stays, and the next start goes on with it");
                    }
                    break Ok(());
                }
                Event::Noticed(NodeNotice::PeerUp(manager)) => {
                    tracing::info!(manager = %manager.node, name = manager.name, slots = manager.capacity.slots, "manager connected");
                    self.blocks.handle_registered(manager.node, clock.now().tick);
                    self.report().await;
                }
                Event::Noticed(NodeNotice::PeerDown(manager)) => {
                    tracing::info!(manager = %manager.node, name = manager.name, "manager disconnected");
                    self.report().await;
                }
                Event::Noticed(NodeNotice::PeerLost(manager)) => {
                    requests.extend(self.blocks.handle_lost(manager.node));
                }
                Event::Noticed(NodeNotice::OpenedAbove) => {
                    tracing::info!("connected to the service");
                    refused_since = None;
                    been_in = true;
                    self.report().await;
                }
                Event::Noticed(NodeNotice::RefusedAbove(refused)) => {
                    let since = *refused_since.get_or_insert_with(Instant::now);
                    tracing::warn!(
                        reason = refused.reason,
                        again = refused.retry,
                        "the service does not take this endpoint"
                    );
                    // One that has served before waits as long as the service takes to be well again.
                    let borne = if been_in { Duration::ZERO } else { since.elapsed() };
                    if let Some(failed) = give_up(&refused, borne) {
                        break Err(failed);
                    }
                }
                // A service that is restarted is away for a while.
                Event::Noticed(NodeNotice::AbsentAbove | NodeNotice::Events(_) | NodeNotice::Resize(..)) => {}
                Event::Accepted(Ok(connection)) => self.node.accept(connection),
                Event::Accepted(Err(error)) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
                // Blocks that end while everything is drained are not made up for.
                Event::BlocksChanged => requests.extend(self.blocks.status()),
                Event::Answered(answer) => {
                    let (ended, next) = self.blocks.handle_answer(answer, clock.now().tick);
                    requests.extend(next);
                    self.bury(ended).await;
                    requests.extend(self.look(&clock, leaving == Leaving::No).await);
                }
                Event::Look => requests.extend(self.look(&clock, leaving == Leaving::No).await),
                Event::Report => self.report().await,
            }
        };
        drop(changed);
        self.say_what_became(leaving).await;
        self.leave(requests, &clock, node_ended).await;
        result
    }

    /// Looks at the load and tells the status; returns what to ask the provider.
    async fn look(&mut self, clock: &Clock, scale: bool) -> Vec<ProviderRequest> {
        let seen = self.node.with(|node, _| {
            let managers = node.peers().filter(|peer| peer.connected);
            let (managers, workers) =
                managers.fold((0, 0), |(n, slots), peer| (n + 1, slots + peer.capacity.slots));
            let counters = node.warm_counters();
            (
                node.load(LaneId(0)),
                managers,
                workers,
                node.uplink().is_some_and(Uplink::is_open),
                warm(node),
                counters,
            )
        });
        let Ok((load, managers, workers, connected, warm, counters)) = seen.await else { return Vec::new() };
        let requests = match scale {
            true => self.blocks.handle_load(load.queued + load.leased, clock.now().tick),
            false => Vec::new(),
        };
        let status = EndpointStatus {
            connected,
            blocks: self.blocks.count(),
            managers,
            workers,
            queued: load.queued as u64,
            running: load.leased as u64,
            warm,
            cold_starts: counters.cold_starts,
            switches: counters.switches,
            retired: counters.retired,
            problem: self
                .blocks
                .problem()
                .map(str::to_owned)
                .or_else(|| self.journal.problem().borrow().clone()),
        };
        self.file.update(&status);
        self.status.send_if_modified(|old| std::mem::replace(old, status.clone()) != status);
        requests
    }

    /// What managers in these blocks had is given out again, now.
    async fn bury(&mut self, ended: Vec<EndedBlock>) {
        for EndedBlock { manager, reason } in ended {
            // A node that has stopped has nothing to give out.
            let _ = self.node.with(move |node, now| node.handle_dead(manager.uuid(), &reason, now)).await;
        }
    }

    async fn counters(&mut self) -> Counters {
        self.node.with(|node, _| node.counters()).await.unwrap_or_default()
    }

    /// Tells the operator what became of the tasks that were here when the endpoint was told to stop.
    async fn say_what_became(&mut self, leaving: Leaving) {
        let (Leaving::Draining { before, .. } | Leaving::Stopping { before, .. }) = leaving else { return };
        let seen = self.node.with(|node, _| (node.counters(), node.load(LaneId(0)))).await;
        let Ok((after, load)) = seen else { return };
        let (finished, handed_back) =
            (after.delivered - before.delivered, after.handed_back - before.handed_back);
        let left = load.queued + load.leased;
        tracing::info!(
            finished,
            handed_back,
            left,
            "drained: tasks that finished, went back to the service, are left"
        );
    }

    async fn report(&mut self) {
        let _ = self.node.with(|node, _| node.report(0)).await;
    }

    /// Gives tasks back to the service and ends the blocks.
    async fn leave(
        mut self,
        mut requests: FuturesUnordered<ProviderRequest>,
        clock: &Clock,
        node_ended: bool,
    ) {
        tracing::info!(blocks = self.blocks.count(), "leaving");
        let _ = self.node.with(|node, _| node.leave()).await;
        requests.extend(self.blocks.cancel_all());
        self.node.stop();
        if !node_ended && let Err(error) = self.driver.await {
            tracing::error!(%error, "the node ended badly");
        }
        let provider = self.blocks.provider();
        let ended = async {
            while self.blocks.count() > 0 {
                tokio::select! {
                    Some(answer) = requests.next() => {
                        let (_, next) = self.blocks.handle_answer(answer, clock.now().tick);
                        requests.extend(next);
                    }
                    () = provider.changed() => requests.extend(self.blocks.status()),
                }
            }
        };
        if tokio::time::timeout(self.farewell, ended).await.is_err() {
            tracing::warn!(blocks = self.blocks.count(), "not all blocks have ended in time");
        }
    }
}

/// Slots of each environment in all managers that are connected.
fn warm(node: &Node) -> BTreeMap<String, u32> {
    let mut slots = BTreeMap::new();
    for worker_type in node.peers().filter(|peer| peer.connected).flat_map(|peer| &peer.warm.types) {
        let name = worker_type.environment.as_deref().unwrap_or("default");
        *slots.entry(name.to_owned()).or_default() += worker_type.slots;
    }
    slots
}

/// Why to go on no longer, if so.
fn give_up(refused: &Refused, since: Duration) -> Option<Failed> {
    let reason = &refused.reason;
    if !refused.retry {
        Some(Failed::new(Exit::Refused, format!("the service refuses this endpoint: {reason}")))
    } else if since >= REFUSAL_PATIENCE {
        Some(Failed::new(
            Exit::Refused,
            format!("the service has refused this endpoint for {} s: {reason}", since.as_secs()),
        ))
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_that_may_pass_is_borne_for_a_while() {
        let refused = |retry| Refused { reason: "busy".to_owned(), retry };
        assert!(give_up(&refused(true), REFUSAL_PATIENCE / 2).is_none());
        for (retry, since) in [(true, REFUSAL_PATIENCE), (false, Duration::ZERO)] {
            let failed = give_up(&refused(retry), since).unwrap();
            assert_eq!(failed.exit, Exit::Refused);
            assert!(failed.to_string().ends_with("busy"));
        }
    }
}
