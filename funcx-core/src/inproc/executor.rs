//! Native functions on threads of their own.

use std::{fmt, sync::Arc, thread};

use crossbeam::channel::{Receiver, Sender, unbounded};
use futures::{
    channel::oneshot,
    future::{self, AbortHandle, BoxFuture, FutureExt, Shared},
};
use parking_lot::Mutex;

use super::functions::{Begun, NativeFunctions, finish};
use crate::contract::{Capacity, Executor, ExecutorCapability, ExecutorEvent, ExecutorSink};
use crate::model::{
    AttemptId, Error, ErrorKind, Failure, FunctionKind, IdMap, Outcome, OutcomeKind, Result, Task,
};

/// Attempts that may wait for each thread. Native functions can take well under a microsecond, so that a round trip
/// to the node above (tens of microseconds) covers many.
const PREFETCH_PER_THREAD: u32 = 4096;

/// Tasks that one thread takes at a time: enough to share the cost of handing over, few enough to spread.
const SHARE: usize = 256;

/// Runs native functions on a fixed number of threads. The reference implementation of [`Executor`].
///
/// Waiting attempts and asynchronous functions can be cancelled; a synchronous function that runs cannot be stopped.
pub struct InProcess {
    inner: Arc<Inner>,
    threads: usize,
    stopped: Shared<oneshot::Receiver<()>>,
}

struct Inner {
    functions: NativeFunctions,
    sink: Arc<dyn ExecutorSink>,
    work: Mutex<Option<Sender<Vec<Task>>>>,
    /// Attempts that wait or run as futures. One lock per batch to take them in, one per task to begin it.
    attempts: Mutex<IdMap<AttemptId, Attempt>>,
}

enum Attempt {
    Waiting,
    Cancelled,
    Running(AbortHandle),
}

impl fmt::Debug for InProcess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InProcess")
            .field("functions", &self.inner.functions)
            .field("threads", &self.threads)
            .finish()
    }
}

impl InProcess {
    pub(super) fn new(
        functions: NativeFunctions,
        threads: usize,
        sink: Arc<dyn ExecutorSink>,
    ) -> Result<Self> {
        let threads = threads.max(1);
        let (work, waiting) = unbounded();
        let inner =
            Arc::new(Inner { functions, sink, work: Mutex::new(Some(work)), attempts: Mutex::default() });
        let (running, stopped) = oneshot::channel::<()>();
        let running = Arc::new(running);
        for index in 0..threads {
            let (inner, waiting, running) = (Arc::clone(&inner), waiting.clone(), Arc::clone(&running));
            thread::Builder::new()
                .name(format!("native-{index}"))
                .spawn(move || {
                    inner.run(&waiting);
                    // The last thread to leave drops the sender, which resolves `stopped`.
                    drop(running);
                })
                .map_err(|error| {
                    Error::new(ErrorKind::Io, "start native executor", "no thread").with_source(error)
                })?;
        }
        Ok(Self { inner, threads, stopped: stopped.shared() })
    }
}

impl Executor for InProcess {
    fn capability(&self) -> ExecutorCapability {
        let slots = self.threads as u32;
        ExecutorCapability {
            kinds: vec![FunctionKind::Native],
            capacity: Capacity { slots, prefetch: slots * PREFETCH_PER_THREAD },
            cancels: false,
        }
    }

    fn start(&self, mut tasks: Vec<Task>) {
        let work = self.inner.work.lock();
        let Some(work) = work.as_ref() else {
            let failure = Failure::new("ExecutorDrained", "the executor takes no more tasks");
            let lost = tasks.iter().map(|task| Outcome::failed(task, OutcomeKind::Lost, &failure)).collect();
            self.inner.sink.handle(ExecutorEvent::Outcomes(lost));
            return;
        };
        self.inner.attempts.lock().extend(tasks.iter().map(|task| (task.attempt_id(), Attempt::Waiting)));
        let share = tasks.len().div_ceil(self.threads).clamp(1, SHARE);
        while !tasks.is_empty() {
            let rest = tasks.split_off(share.min(tasks.len()));
            // The threads hold the other end until `drain` takes the sender away.
            let _ = work.send(std::mem::replace(&mut tasks, rest));
        }
    }

    fn cancel(&self, attempts: &[AttemptId]) {
        let mut known = self.inner.attempts.lock();
        for attempt in attempts {
            match known.get_mut(attempt) {
                Some(Attempt::Running(abort)) => abort.abort(),
                Some(waiting) => *waiting = Attempt::Cancelled,
                None => {}
            }
        }
    }

    fn drain(&self) -> BoxFuture<'static, ()> {
        self.inner.work.lock().take();
        self.stopped.clone().map(|_| ()).boxed()
    }
}

impl Drop for InProcess {
    fn drop(&mut self) {
        self.inner.work.lock().take();
    }
}

impl Inner {
    fn run(&self, waiting: &Receiver<Vec<Task>>) {
        while let Ok(tasks) = waiting.recv() {
            let outcomes: Vec<_> = tasks.into_iter().map(|task| self.run_one(&task)).collect();
            self.sink.handle(ExecutorEvent::Outcomes(outcomes));
        }
    }

    fn run_one(&self, task: &Task) -> Outcome {
        let id = task.attempt_id();
        if self.is_cancelled(id) {
            return cancelled(task);
        }
        let outcome = match self.functions.begin(task) {
            Begun::Ended(outcome) => outcome,
            Begun::Running(running) => {
                let (running, abort) = future::abortable(finish(task, running));
                match self.attempts.lock().insert(id, Attempt::Running(abort)) {
                    Some(Attempt::Cancelled) => cancelled(task),
                    _ => {
                        let ended = futures::executor::block_on(running);
                        ended.unwrap_or_else(|future::Aborted| cancelled(task))
                    }
                }
            }
        };
        self.attempts.lock().remove(&id);
        outcome
    }

    /// Whether a waiting attempt was cancelled; then it is forgotten.
    fn is_cancelled(&self, id: AttemptId) -> bool {
        let mut attempts = self.attempts.lock();
        let cancelled = matches!(attempts.get(&id), Some(Attempt::Cancelled));
        if cancelled {
            attempts.remove(&id);
        }
        cancelled
    }
}

fn cancelled(task: &Task) -> Outcome {
    Outcome::failed(task, OutcomeKind::Cancelled, &Failure::new("Cancelled", "cancelled before it ended"))
}
