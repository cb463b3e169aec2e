//! How a manager ends: what has not begun goes back, what runs is finished as far as there is time.

use std::{
    fmt,
    io::Write,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use funcx_core::contract::{ExecutorEvent, ExecutorSink};
use funcx_core::model::{Failure, OutcomeKind, Tick};
use funcx_net::driver::{Clock, NodeHandle};
use tokio::time::{Instant, sleep_until, timeout};

use super::pools::Pools;
use crate::exit::Failed;
use crate::signal::Stop;

/// Time beyond the grace in which killed processes are collected and their outcomes go up.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// Part of the walltime that is kept free for the end of the block, and the longest such time.
const MARGIN_PART: u32 = 20;
const LONGEST_MARGIN: Duration = Duration::from_secs(60);

/// When the block of a manager ends, and what is done before that.
#[derive(Debug, Clone, Copy)]
pub(super) struct BlockEnd {
    /// It takes no more tasks.
    pub(super) drain_at: Instant,
    /// It stops what still runs.
    pub(super) stop_at: Instant,
}

impl BlockEnd {
    /// For a block that lasts so long from `now` on. Of a block that is shorter than all margins, half is used.
    pub(super) fn new(walltime: Duration, kill_grace: Duration, now: Instant) -> Self {
        let margin = (kill_grace + LAST_WORDS).max((walltime / MARGIN_PART).min(LONGEST_MARGIN));
        let at = |before: Duration| now + walltime.saturating_sub(before.min(walltime / 2));
        Self { drain_at: at(margin), stop_at: at(kill_grace) }
    }

    /// When what still runs is stopped, as the node above and the workers read it.
    pub(super) fn tick(self) -> Tick {
        Clock::default().now().tick + self.stop_at.saturating_duration_since(Instant::now())
    }

    /// Resolves when no more tasks are to be taken; never for a block without end.
    pub(super) async fn near(this: Option<Self>) -> Self {
        match this {
            Some(end) => {
                sleep_until(end.drain_at).await;
                end
            }
            None => std::future::pending().await,
        }
    }
}

/// Why a manager ends.
#[derive(Debug, Clone, Copy)]
pub(super) enum Reason {
    Signal,
    Block(BlockEnd),
}

impl Reason {
    fn failure(self) -> Failure {
        match self {
            Self::Signal => Failure::new("ManagerStopped", "the manager was told to end while the task ran"),
            Self::Block(_) => {
                Failure::new("BlockEnded", "the block reached the end of its walltime while the task ran")
            }
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Signal => "told to end",
            Self::Block(_) => "the walltime of the block is nearly over",
        })
    }
}

/// Counts what comes out of the executors from the moment in which they begin to drain.
#[derive(Default)]
pub(super) struct Tally {
    counts: OnceLock<Counts>,
}

/// What became of the tasks of a manager that ends.
#[derive(Debug, Default)]
pub(super) struct Counts {
    finished: AtomicUsize,
    given_back: AtomicUsize,
    stopped: AtomicUsize,
}

impl Tally {
    fn begin(&self) -> &Counts {
        self.counts.get_or_init(Counts::default)
    }

    fn count(&self, event: &ExecutorEvent) {
        let Some(counts) = self.counts.get() else { return };
        match event {
            ExecutorEvent::Outcomes(outcomes) => {
                let lost = outcomes.iter().filter(|outcome| outcome.kind == OutcomeKind::Lost).count();
                counts.stopped.fetch_add(lost, Ordering::Relaxed);
                counts.finished.fetch_add(outcomes.len() - lost, Ordering::Relaxed);
            }
            ExecutorEvent::GaveBack(attempts) => {
                counts.given_back.fetch_add(attempts.len(), Ordering::Relaxed);
            }
            ExecutorEvent::Started(_) | ExecutorEvent::Capacity(_) => {}
        }
    }

    /// A sink that counts what it passes on.
    pub(super) fn counting(self: &Arc<Self>, sink: Arc<dyn ExecutorSink>) -> Arc<dyn ExecutorSink> {
        let tally = Arc::clone(self);
        Arc::new(move |event| {
            tally.count(&event);
            sink.handle(event);
        })
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [finished, given_back, stopped] =
            [&self.finished, &self.given_back, &self.stopped].map(|count| count.load(Ordering::Relaxed));
        write!(f, "{finished} tasks finished, {given_back} given back, {stopped} stopped")
    }
}

/// What a manager that ends consists of.
pub(super) struct Leaving<'a> {
    pub(super) node: &'a NodeHandle,
    pub(super) pools: &'a Pools,
    pub(super) tally: &'a Tally,
    pub(super) drain_timeout: Duration,
    pub(super) kill_grace: Duration,
    pub(super) block: Option<BlockEnd>,
}

impl Leaving<'_> {
    /// Takes nothing more, gives back what has not begun, and finishes what runs if that goes in time; the rest is stopped.
    /// `drained` resolves when the endpoint knows all of it, or is lost. A signal ends the wait; then what is left ends with
    /// the processes, when the caller drops the pool.
    pub(super) async fn drain(
        self,
        reason: Reason,
        drained: impl Future<Output = Result<(), Failed>>,
        stop: &mut Stop,
    ) -> Result<(), Failed> {
        let counts = self.tally.begin();
        tracing::info!(%reason, "taking no more tasks");
        // A node that has stopped has nothing to drain.
        let _ = self.node.with(|node, now| node.drain(now)).await;
        let give_up = match (reason, self.block) {
            (Reason::Signal, None) => Instant::now() + self.drain_timeout,
            (Reason::Signal, Some(end)) => end.stop_at.min(Instant::now() + self.drain_timeout),
            (Reason::Block(end), _) => end.stop_at,
        };
        let mut drained = std::pin::pin!(drained);
        let in_time = tokio::select! {
            ended = &mut drained => Some(ended),
            () = sleep_until(give_up) => None,
            () = stop.wait() => {
                tracing::warn!("a signal came while tasks were running: leaving at once");
                say(&format!("{reason}: {counts}; what still ran is lost"));
                return Ok(());
            }
        };
        let ended = match in_time {
            Some(ended) => ended,
            None => {
                self.pools.stop(&reason.failure());
                tokio::select! {
                    // A native function that does not return goes with this process, and so do outcomes that an endpoint
                    // out of reach has not taken.
                    ended = timeout(self.kill_grace + LAST_WORDS, &mut drained) => ended.unwrap_or(Ok(())),
                    () = stop.wait() => Ok(()),
                }
            }
        };
        say(&format!("{reason}: {counts}"));
        ended
    }
}

/// One line for whoever ended it. It may have closed our output already.
fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "funcx-worker: {line}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn margins_leave_room_for_the_grace_and_for_work() {
        let now = Instant::now();
        let grace = Duration::from_secs(2);
        for (walltime, drain_at, stop_at) in
            [(3600, 3540, 3598), (400, 380, 398), (60, 56, 58), (6, 3, 4), (2, 1, 1), (0, 0, 0)]
        {
            let end = BlockEnd::new(Duration::from_secs(walltime), grace, now);
            let seconds = |at: Instant| at.duration_since(now).as_secs();
            assert_eq!((seconds(end.drain_at), seconds(end.stop_at)), (drain_at, stop_at), "{walltime} s");
        }
    }
}
