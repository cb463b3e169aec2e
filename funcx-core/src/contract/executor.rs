//! Where work leaves the tree.

use std::sync::Arc;

use futures::future::BoxFuture;

use crate::model::{AttemptId, FunctionKind, Outcome, Task, Timestamp};

/// Runs tasks of certain kinds on workers of one sort: threads, processes, containers, ranks.
///
/// A manager owns its executors and calls them from its one loop; nothing here may block. An executor is built
/// with an [`ExecutorSink`] and tells it what happens.
///
/// **Order of calls.** [`start`](Self::start) and [`cancel`](Self::cancel) at any time and in any order, then
/// [`drain`](Self::drain) once. Tasks started after `drain` go back, or end as `Lost`.
///
/// **What holds.** Every attempt given to `start` leads to exactly one outcome in the sink (or, once `drain` was called,
/// is given back if it has not begun), whatever happens to the worker that runs it; a worker that dies under an attempt makes it `Lost`, and the caller decides about
/// another attempt. Outcomes come in any order. The caller never exceeds the capacity last advertised.
///
/// **Bounds.** An executor holds at most `slots + prefetch` attempts.
///
/// **Suite.** `funcx_core::conformance::executor`. The reference implementation is
/// [`InProcess`](crate::inproc::InProcess).
///
/// ```
/// use std::sync::Arc;
/// use bytes::Bytes;
/// use funcx_core::contract::*;
/// use funcx_core::model::*;
///
/// /// Returns every payload unchanged, at once.
/// struct Echo(Arc<dyn ExecutorSink>);
///
/// impl Executor for Echo {
///     fn capability(&self) -> ExecutorCapability {
///         ExecutorCapability { kinds: vec![FunctionKind::Native], capacity: Capacity { slots: 1, prefetch: 0 }, cancels: false }
///     }
///     fn start(&self, tasks: Vec<Task>) {
///         let outcomes = tasks.iter().map(|task| Outcome::returned(task, task.payload.clone())).collect();
///         self.0.handle(ExecutorEvent::Outcomes(outcomes));
///     }
///     fn cancel(&self, _attempts: &[AttemptId]) {}
///     fn drain(&self) -> futures::future::BoxFuture<'static, ()> {
///         Box::pin(async {})
///     }
/// }
/// ```
pub trait Executor: Send + Sync + 'static {
    /// What it runs and how much at a time when it starts. Later changes go through
    /// [`ExecutorEvent::Capacity`].
    fn capability(&self) -> ExecutorCapability;

    /// Takes a batch of tasks to run as soon as workers are free, in order of arrival.
    ///
    /// **Shape.** Any number of tasks of the kinds in [`ExecutorCapability::kinds`]; a task of another kind is a
    /// `Raised` outcome. Returns at once.
    fn start(&self, tasks: Vec<Task>);

    /// Stops attempts: those waiting never start, those running are stopped if
    /// [`cancels`](ExecutorCapability::cancels) says so. Each still has its one outcome (`Cancelled`, or how it ended
    /// before the request came). Attempts it does not hold are ignored: their outcome is on its way.
    fn cancel(&self, attempts: &[AttemptId]);

    /// Gives back what has not begun, where the executor can tell, after it has said that it has no more room. Resolves when all the others have their outcome in the
    /// sink and the workers are gone.
    ///
    /// **Cancellation.** Dropping the future does not undo the drain.
    fn drain(&self) -> BoxFuture<'static, ()>;
}

/// What an [`Executor`] runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecutorCapability {
    /// Kinds of functions it takes.
    pub kinds: Vec<FunctionKind>,
    /// How much it takes.
    pub capacity: Capacity,
    /// Whether a running attempt can be stopped.
    pub cancels: bool,
}

/// How many attempts a peer takes: `slots` run at a time, `prefetch` more may wait close to them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Capacity {
    /// Attempts that run at the same time.
    pub slots: u32,
    /// Attempts that may wait besides.
    pub prefetch: u32,
}

impl Capacity {
    /// Attempts it holds at most.
    pub const fn credits(self) -> u32 {
        self.slots.saturating_add(self.prefetch)
    }
}

/// What an executor tells its manager.
#[derive(Debug)]
pub enum ExecutorEvent {
    /// These attempts began to run. Optional: executors whose tasks are too short to be worth it leave it out.
    Started(Vec<(AttemptId, Timestamp)>),
    /// These attempts have not begun and go back, because the executor is being drained.
    GaveBack(Vec<AttemptId>),
    /// These attempts ended.
    Outcomes(Vec<Outcome>),
    /// It takes more or less from now on.
    Capacity(Capacity),
}

/// Takes the events of an executor. Called from any thread; must not block.
pub trait ExecutorSink: Send + Sync + 'static {
    /// Takes one event.
    fn handle(&self, event: ExecutorEvent);
}

impl<F: Fn(ExecutorEvent) + Send + Sync + 'static> ExecutorSink for F {
    fn handle(&self, event: ExecutorEvent) {
        self(event);
    }
}

impl<E: Executor + ?Sized> Executor for Arc<E> {
    fn capability(&self) -> ExecutorCapability {
        (**self).capability()
    }

    fn start(&self, tasks: Vec<Task>) {
        (**self).start(tasks);
    }

    fn cancel(&self, attempts: &[AttemptId]) {
        (**self).cancel(attempts);
    }

    fn drain(&self) -> BoxFuture<'static, ()> {
        (**self).drain()
    }
}
