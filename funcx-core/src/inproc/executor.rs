//! Native functions on threads of their own.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use crossbeam::channel::{Receiver, Sender, unbounded};
use futures::{
    channel::oneshot,
    future::{self, AbortHandle, BoxFuture, FutureExt, Shared},
};
use parking_lot::Mutex;

use super::context::{Call, CallContext, Clock, TimeLimit, run_until};
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

/// Outcomes go up together, but none waits longer than this for a task that ends before the next one begins.
const KEEP: Duration = Duration::from_millis(1);

/// Runs native functions on a fixed number of threads. The reference implementation of [`Executor`].
///
/// | | waiting | asynchronous, running | synchronous, running |
/// | --- | --- | --- | --- |
/// | cancelled | never begins | dropped where it awaits something | goes on; its outcome is `Cancelled` when it returns |
/// | walltime over | – | dropped, `TimedOut` | goes on; `TimedOut` when it returns |
/// | deadline passed | `TimedOut` when its turn comes | dropped, `TimedOut` | goes on; `TimedOut` when it returns |
/// | time to live over | `TimedOut` when its turn comes | – | – |
/// | drained | given back | finished | finished |
///
/// Nobody can stop a thread from outside. A synchronous function that may run long asks its
/// [`CallContext`] whether to give up ([`NativeFunctions::register_with_context`]).
pub struct InProcess {
    inner: Arc<Inner>,
    threads: usize,
    stopped: Shared<oneshot::Receiver<()>>,
}

struct Inner {
    functions: NativeFunctions,
    clock: Clock,
    sink: Arc<dyn ExecutorSink>,
    work: Mutex<Option<Sender<Vec<Task>>>>,
    waiting: Receiver<Vec<Task>>,
    draining: AtomicBool,
    /// Attempts that wait or run. One lock per batch to take them in, two per task to begin and to end it.
    attempts: Mutex<IdMap<AttemptId, Attempt>>,
}

enum Attempt {
    Waiting,
    Cancelled,
    Calling(Arc<Call>),
    Awaiting(AbortHandle),
}

/// What has come of the tasks of a batch.
#[derive(Default)]
struct Ended {
    outcomes: Vec<Outcome>,
    gave_back: Vec<AttemptId>,
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
        clock: Clock,
        sink: Arc<dyn ExecutorSink>,
    ) -> Result<Self> {
        let threads = threads.max(1);
        let (work, waiting) = unbounded();
        let inner = Arc::new(Inner {
            functions,
            clock,
            sink,
            work: Mutex::new(Some(work)),
            waiting,
            draining: AtomicBool::new(false),
            attempts: Mutex::default(),
        });
        let (running, stopped) = oneshot::channel::<()>();
        let running = Arc::new(running);
        for index in 0..threads {
            let (inner, running) = (Arc::clone(&inner), Arc::clone(&running));
            thread::Builder::new()
                .name(format!("native-{index}"))
                .spawn(move || {
                    inner.run();
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
            let late = tasks.iter().map(Task::attempt_id).collect();
            self.inner.sink.handle(ExecutorEvent::GaveBack(late));
            return;
        };
        self.inner.attempts.lock().extend(tasks.iter().map(|task| (task.attempt_id(), Attempt::Waiting)));
        let share = tasks.len().div_ceil(self.threads).clamp(1, SHARE);
        while !tasks.is_empty() {
            let rest = tasks.split_off(share.min(tasks.len()));
            // `Inner` holds the other end.
            let _ = work.send(std::mem::replace(&mut tasks, rest));
        }
    }

    fn cancel(&self, attempts: &[AttemptId]) {
        let mut known = self.inner.attempts.lock();
        for attempt in attempts {
            match known.get_mut(attempt) {
                Some(Attempt::Awaiting(abort)) => abort.abort(),
                Some(waiting_or_calling) => {
                    if let Attempt::Calling(call) = waiting_or_calling {
                        call.cancel();
                    }
                    *waiting_or_calling = Attempt::Cancelled;
                }
                None => {}
            }
        }
    }

    fn drain(&self) -> BoxFuture<'static, ()> {
        self.inner.draining.store(true, Ordering::Relaxed);
        self.inner.work.lock().take();
        // Those that a thread has taken already it gives back itself.
        let waiting: Vec<_> = self.inner.waiting.try_iter().flatten().collect();
        // Nothing shall come in the place of what goes back.
        self.inner.sink.handle(ExecutorEvent::Capacity(Capacity::default()));
        let mut ended = Ended::default();
        waiting.iter().for_each(|task| self.inner.give_back(task, &mut ended));
        self.inner.report(&mut ended);
        self.stopped.clone().map(|_| ()).boxed()
    }
}

impl Drop for InProcess {
    fn drop(&mut self) {
        self.inner.work.lock().take();
    }
}

impl Inner {
    fn run(&self) {
        let context = CallContext::new(Arc::clone(&self.clock));
        while let Ok(tasks) = self.waiting.recv() {
            let mut ended = Ended::default();
            let mut reported = (self.clock)();
            for task in &tasks {
                if self.draining.load(Ordering::Relaxed) {
                    self.give_back(task, &mut ended);
                    continue;
                }
                ended.outcomes.push(self.run_one(task, &context));
                let now = (self.clock)();
                if now.since(reported) > KEEP {
                    self.report(&mut ended);
                    reported = now;
                }
            }
            self.report(&mut ended);
        }
    }

    fn report(&self, ended: &mut Ended) {
        let Ended { outcomes, gave_back } = std::mem::take(ended);
        if !gave_back.is_empty() {
            self.sink.handle(ExecutorEvent::GaveBack(gave_back));
        }
        if !outcomes.is_empty() {
            self.sink.handle(ExecutorEvent::Outcomes(outcomes));
        }
    }

    fn give_back(&self, task: &Task, ended: &mut Ended) {
        let id = task.attempt_id();
        match self.attempts.lock().remove(&id) {
            Some(Attempt::Cancelled) => ended.outcomes.push(cancelled(task)),
            _ => ended.gave_back.push(id),
        }
    }

    fn run_one(&self, task: &Task, context: &CallContext) -> Outcome {
        let id = task.attempt_id();
        let timed_out = |failure| Outcome::failed(task, OutcomeKind::TimedOut, &failure);
        let limit = match TimeLimit::of(task, &self.clock) {
            Ok(limit) => limit,
            Err(failure) => {
                return if self.end(id) { cancelled(task) } else { timed_out(failure) };
            }
        };
        context.begin(limit.until);
        if !context.call().is_some_and(|call| self.begin(id, Attempt::Calling(call))) {
            self.end(id);
            return cancelled(task);
        }
        let outcome = match self.functions.begin(task, context) {
            Begun::Ended(outcome) => limit.check(task, &self.clock).map_or(outcome, timed_out),
            Begun::Running(running) => {
                let (running, abort) = future::abortable(finish(task, running));
                match self.begin(id, Attempt::Awaiting(abort)) {
                    false => cancelled(task),
                    true => match run_until(running, limit.until, &self.clock) {
                        Some(Ok(outcome)) => outcome,
                        Some(Err(future::Aborted)) => cancelled(task),
                        None => limit.check(task, &self.clock).map_or_else(|| cancelled(task), timed_out),
                    },
                }
            }
        };
        if self.end(id) { cancelled(task) } else { outcome }
    }

    /// Notes how an attempt can be stopped from now on; false if it was cancelled before.
    fn begin(&self, id: AttemptId, running: Attempt) -> bool {
        match self.attempts.lock().get_mut(&id) {
            Some(Attempt::Cancelled) | None => false,
            Some(attempt) => {
                *attempt = running;
                true
            }
        }
    }

    /// Forgets an attempt; whether it was cancelled.
    fn end(&self, id: AttemptId) -> bool {
        matches!(self.attempts.lock().remove(&id), Some(Attempt::Cancelled))
    }
}

fn cancelled(task: &Task) -> Outcome {
    Outcome::failed(task, OutcomeKind::Cancelled, &Failure::new("Cancelled", "cancelled before it ended"))
}
