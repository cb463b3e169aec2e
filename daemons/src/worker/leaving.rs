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

use funcx_core::contract::{Executor, ExecutorEvent, ExecutorSink};
use funcx_core::model::{Failure, OutcomeKind};
use funcx_provider::worker::ProcessPool;
use futures::future::join;
use tokio::time::{Instant, sleep_until, timeout};

use super::native::PacedNative;
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

/// Ends the executors: they take nothing more, give back what has not begun, and finish what runs if that goes in time. A
/// signal ends the wait; then what is left ends with the processes, when the caller drops the pool.
pub(super) async fn drain(
    reason: Reason,
    drain_timeout: Duration,
    kill_grace: Duration,
    pool: &ProcessPool,
    native: &PacedNative,
    tally: &Tally,
    stop: &mut Stop,
) {
    let counts = tally.begin();
    tracing::info!(%reason, "taking no more tasks");
    let give_up = match reason {
        Reason::Signal => Instant::now() + drain_timeout,
        Reason::Block(end) => end.stop_at,
    };
    let mut drained = std::pin::pin!(join(pool.drain(), native.drain()));
    let in_time = tokio::select! {
        _ = &mut drained => true,
        () = sleep_until(give_up) => false,
        () = stop.wait() => {
            tracing::warn!("a signal came while tasks were running: leaving at once");
            return say(&format!("{reason}: {counts}; what still ran is lost"));
        }
    };
    if !in_time {
        pool.stop(reason.failure());
        tokio::select! {
            // A native function that does not return goes with this process.
            _ = timeout(kill_grace + LAST_WORDS, &mut drained) => {}
            () = stop.wait() => {}
        }
    }
    say(&format!("{reason}: {counts}"));
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
