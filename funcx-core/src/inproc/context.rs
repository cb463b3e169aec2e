//! What a running function knows about its call, and how long it may take.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    thread::{self, Thread},
};

use futures::future::FutureExt;

use crate::model::{Failure, Task, Tick};

/// Reads the monotonic clock of this process, the one that the ticks of its tasks are made with.
pub type Clock = Arc<dyn Fn() -> Tick + Send + Sync>;

/// What a function is told about its call. The default is that of a call that nobody stops.
#[derive(Default)]
pub struct CallContext {
    call: Option<Arc<Call>>,
}

/// The call that a thread is in. One for each thread, which has one call at a time.
pub(super) struct Call {
    clock: Clock,
    cancelled: AtomicBool,
    /// Nanoseconds of the tick at which it has to end.
    until: AtomicU64,
}

impl fmt::Debug for CallContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CallContext").field("is_stopped", &self.is_stopped()).finish()
    }
}

impl CallContext {
    pub(super) fn new(clock: Clock) -> Self {
        let call = Call { clock, cancelled: AtomicBool::new(false), until: AtomicU64::new(u64::MAX) };
        Self { call: Some(Arc::new(call)) }
    }

    /// Whether the call was cancelled or has run out of time, so that its value is of no use to anybody. Quick enough to be
    /// asked every few microseconds.
    pub fn is_stopped(&self) -> bool {
        self.call.as_ref().is_some_and(|call| {
            let until = call.until.load(Ordering::Relaxed);
            call.cancelled.load(Ordering::Relaxed)
                || (until != u64::MAX && until <= (call.clock)().as_nanos())
        })
    }

    pub(super) fn call(&self) -> Option<Arc<Call>> {
        self.call.clone()
    }

    /// Another call begins, which has to end by `until`.
    pub(super) fn begin(&self, until: Tick) {
        if let Some(call) = &self.call {
            call.cancelled.store(false, Ordering::Relaxed);
            call.until.store(until.as_nanos(), Ordering::Relaxed);
        }
    }
}

impl Call {
    pub(super) fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }
}

/// When a call has to end, and what to say if it has not.
pub(super) struct TimeLimit {
    pub(super) until: Tick,
    is_deadline: bool,
}

impl TimeLimit {
    /// The limit of a task that is about to begin; an error if its time is over already. Tasks without limits read no
    /// clock.
    pub(super) fn of(task: &Task, clock: &Clock) -> Result<Self, Failure> {
        let walltime = task.walltime();
        if walltime.is_none() && task.start_by.min(task.end_by) == Tick::NEVER {
            return Ok(Self { until: Tick::NEVER, is_deadline: true });
        }
        let now = clock();
        if task.end_by <= now {
            return Err(Failure::new("DeadlinePassed", "the task still waited when its deadline passed"));
        }
        if task.start_by <= now {
            return Err(Failure::new("TaskExpired", "the task still waited when its time to live was over"));
        }
        let expiry = walltime.map_or(Tick::NEVER, |walltime| now + walltime);
        Ok(Self { until: expiry.min(task.end_by), is_deadline: task.end_by <= expiry })
    }

    /// Why the task is out of time, if it is.
    pub(super) fn check(&self, task: &Task, clock: &Clock) -> Option<Failure> {
        (self.until != Tick::NEVER && self.until <= clock()).then(|| match self.is_deadline {
            true => Failure::new("DeadlinePassed", "the task had not ended when its deadline passed"),
            false => {
                let walltime = task.walltime().unwrap_or_default();
                Failure::new("TaskTimedOut", format!("the task ran longer than its walltime of {walltime:?}"))
            }
        })
    }
}

/// Runs a future on this thread until it ends or its time is over; `None` then, and the future is dropped.
pub(super) fn run_until<F: Future>(future: F, until: Tick, clock: &Clock) -> Option<F::Output> {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let mut future = std::pin::pin!(future);
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut context = Context::from_waker(&waker);
    loop {
        if let Poll::Ready(value) = future.poll_unpin(&mut context) {
            return Some(value);
        }
        if until == Tick::NEVER {
            thread::park();
            continue;
        }
        let left = until.since(clock());
        if left.is_zero() {
            return None;
        }
        thread::park_timeout(left);
    }
}
