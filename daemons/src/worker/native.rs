//! Native functions beside worker processes, without taking their share.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use funcx_core::Result;
use funcx_core::contract::{Capacity, Executor, ExecutorCapability, ExecutorEvent, ExecutorSink};
use funcx_core::inproc::{InProcess, NativeFunctions};
use funcx_core::model::{AttemptId, Task};
use funcx_net::driver::Clock;
use futures::future::BoxFuture;
use parking_lot::Mutex;

/// The room for native functions follows what ended in the last period of this length. It is many round trips to the
/// endpoint, so that the room never holds up functions that take microseconds.
const PERIOD: Duration = Duration::from_millis(50);

/// Room for each thread at most. Functions that take a microsecond need this much for a round trip of milliseconds.
const MOST_PER_THREAD: u32 = 4096;

/// Runs native functions, and asks for as many as it has shown to run in [`PERIOD`].
///
/// A manager has one number for the room of all its executors. [`InProcess`] has room for thousands of functions that
/// take microseconds; if it said so from the beginning, thousands of Python functions would be heaped on the first
/// manager, and those that start later would have nothing to do.
#[derive(Debug)]
pub(super) struct PacedNative {
    functions: InProcess,
    pace: Arc<Pace>,
}

struct Pace {
    sink: Arc<dyn ExecutorSink>,
    least: u32,
    most: u32,
    seen: Mutex<Seen>,
}

#[derive(Debug)]
struct Seen {
    since: Instant,
    ended: usize,
    prefetch: u32,
    draining: bool,
}

impl std::fmt::Debug for Pace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pace").field("seen", &self.seen).finish_non_exhaustive()
    }
}

impl PacedNative {
    pub(super) fn start(
        functions: NativeFunctions,
        threads: usize,
        sink: Arc<dyn ExecutorSink>,
    ) -> Result<Self> {
        let clock = Clock::default();
        let least = threads as u32;
        let most = least.saturating_mul(MOST_PER_THREAD);
        let seen = Mutex::new(Seen { since: Instant::now(), ended: 0, prefetch: least, draining: false });
        let pace = Arc::new(Pace { sink, least, most, seen });
        let functions =
            functions.into_executor(threads, Arc::new(move || clock.now().tick), Arc::clone(&pace) as _)?;
        Ok(Self { functions, pace })
    }

    /// Lowers the room if nothing has ended for a while. Called now and then.
    pub(super) fn look(&self) {
        self.pace.ended(0, Instant::now());
    }
}

impl Executor for PacedNative {
    fn capability(&self) -> ExecutorCapability {
        let prefetch = self.pace.seen.lock().prefetch;
        // Without slots, a manager counts as idle when its worker processes are.
        ExecutorCapability { capacity: Capacity { slots: 0, prefetch }, ..self.functions.capability() }
    }

    fn start(&self, tasks: Vec<Task>) {
        self.functions.start(tasks);
    }

    fn cancel(&self, attempts: &[AttemptId]) {
        self.functions.cancel(attempts);
    }

    fn drain(&self) -> BoxFuture<'static, ()> {
        self.pace.seen.lock().draining = true;
        self.functions.drain()
    }
}

impl ExecutorSink for Pace {
    fn handle(&self, event: ExecutorEvent) {
        let ended = if let ExecutorEvent::Outcomes(outcomes) = &event { outcomes.len() } else { 0 };
        self.sink.handle(event);
        self.ended(ended, Instant::now());
    }
}

impl Pace {
    fn ended(&self, count: usize, now: Instant) {
        let changed = {
            let mut seen = self.seen.lock();
            seen.ended += count;
            if seen.draining || now.saturating_duration_since(seen.since) < PERIOD {
                return;
            }
            let prefetch = u32::try_from(seen.ended).unwrap_or(u32::MAX).clamp(self.least, self.most);
            seen.since = now;
            seen.ended = 0;
            // A rate that varies a little is the same rate.
            let changed = prefetch / 2 >= seen.prefetch || prefetch <= seen.prefetch / 2;
            if changed {
                seen.prefetch = prefetch;
            }
            changed.then_some(prefetch)
        };
        if let Some(prefetch) = changed {
            self.sink.handle(ExecutorEvent::Capacity(Capacity { slots: 0, prefetch }));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_follows_the_rate_between_its_bounds() {
        let told = Arc::new(Mutex::new(Vec::new()));
        let listener = Arc::clone(&told);
        let sink = Arc::new(move |event: ExecutorEvent| {
            if let ExecutorEvent::Capacity(capacity) = event {
                listener.lock().push((capacity.slots, capacity.prefetch));
            }
        });
        let start = Instant::now();
        let seen = Mutex::new(Seen { since: start, ended: 0, prefetch: 2, draining: false });
        let pace = Pace { sink, least: 2, most: 8192, seen };
        let mut now = start;
        for ended in [1000, 1100, 1_000_000, 7000, 0, 0] {
            pace.ended(ended, now + PERIOD / 2);
            now += PERIOD;
            pace.ended(0, now);
        }
        assert_eq!(*told.lock(), [(0, 1000), (0, 8192), (0, 2)]);
    }
}
