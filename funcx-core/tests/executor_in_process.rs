//! Native functions on threads: what stops them, and what goes back when they drain.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender, channel, sync_channel},
    },
    thread,
    time::Duration,
};

use funcx_core::contract::{Executor, ExecutorEvent};
use funcx_core::inproc::{CallContext, Clock, InProcess, NativeFunctions};
use funcx_core::model::{
    AttemptId, Function, IdentityId, Outcome, OutcomeKind, Task, TaskId, TaskSpec, Tick,
};
use parking_lot::Mutex;

/// One thread with some functions, a clock that goes on by a millisecond whenever somebody looks at it, and what comes out.
struct Bench {
    executor: InProcess,
    outcomes: Receiver<Outcome>,
    gave_back: Receiver<AttemptId>,
    /// Lets one call of `block` go on.
    release: SyncSender<()>,
    /// Says that `block` or `watch` has begun.
    begun: Receiver<()>,
    clock: Clock,
}

impl Bench {
    fn new() -> Self {
        let (say_begun, begun) = channel();
        let (release, released) = sync_channel::<()>(100);
        let released = Mutex::new(released);
        let say = say_begun.clone();
        let mut functions = NativeFunctions::new();
        functions.register("value", |(): ()| 1).unwrap();
        functions.register_async("never", |(): ()| std::future::pending::<()>()).unwrap();
        functions
            .register("block", move |(): ()| {
                say.send(()).unwrap();
                released.lock().recv().unwrap();
            })
            .unwrap();
        functions
            .register_with_context("watch", move |(): (), context: &CallContext| {
                say_begun.send(()).unwrap();
                while !context.is_stopped() {
                    thread::yield_now();
                }
            })
            .unwrap();
        let (ended, outcomes) = channel();
        let (given, gave_back) = channel();
        let sink = move |event| match event {
            ExecutorEvent::Outcomes(outcomes) => {
                outcomes.into_iter().for_each(|one| ended.send(one).unwrap());
            }
            ExecutorEvent::GaveBack(attempts) => {
                attempts.into_iter().for_each(|one| given.send(one).unwrap());
            }
            ExecutorEvent::Started(_) | ExecutorEvent::Capacity(_) => {}
        };
        let ticks = AtomicU64::new(0);
        let clock: Clock = Arc::new(move || Tick::from_nanos(ticks.fetch_add(1_000_000, Ordering::Relaxed)));
        let executor = functions.into_executor(1, Arc::clone(&clock), Arc::new(sink)).unwrap();
        Self { executor, outcomes, gave_back, release, begun, clock }
    }

    fn start(&self, name: &str, change: impl FnOnce(&mut Task, &mut TaskSpec)) -> AttemptId {
        static IDS: AtomicU64 = AtomicU64::new(1);
        let id = TaskId::from_u128(IDS.fetch_add(1, Ordering::Relaxed).into());
        let mut spec = TaskSpec::new(Arc::new(Function::native(name)), IdentityId::from_u128(1));
        let mut task = Task::new(id, Arc::new(spec.clone()), "null");
        change(&mut task, &mut spec);
        task.spec = Arc::new(spec);
        let attempt = task.attempt_id();
        self.executor.start(vec![task]);
        attempt
    }

    fn next(&self) -> (AttemptId, OutcomeKind, String) {
        let outcome = self.outcomes.recv_timeout(Duration::from_secs(60)).unwrap();
        let code = outcome.failure().map_or_else(String::new, |failure| failure.code);
        (outcome.attempt_id(), outcome.kind, code)
    }
}

fn walltime(_: &mut Task, spec: &mut TaskSpec) {
    spec.shape.walltime = Some(Duration::from_millis(20));
}

#[test]
fn time_limits_stop_what_can_be_stopped() {
    let bench = Bench::new();
    let attempt = bench.start("never", walltime);
    assert_eq!(bench.next(), (attempt, OutcomeKind::TimedOut, "TaskTimedOut".to_owned()));
    let attempt = bench.start("watch", walltime);
    assert_eq!(bench.next(), (attempt, OutcomeKind::TimedOut, "TaskTimedOut".to_owned()));
    let deadline = (bench.clock)() + Duration::from_millis(20);
    let attempt = bench.start("never", |task, _| task.end_by = deadline);
    assert_eq!(bench.next(), (attempt, OutcomeKind::TimedOut, "DeadlinePassed".to_owned()));
    let attempt = bench.start("value", |task, _| task.end_by = Tick::from_nanos(1));
    assert_eq!(bench.next(), (attempt, OutcomeKind::TimedOut, "DeadlinePassed".to_owned()));
    let attempt = bench.start("value", |task, _| task.start_by = Tick::from_nanos(1));
    assert_eq!(bench.next(), (attempt, OutcomeKind::TimedOut, "TaskExpired".to_owned()));
    let attempt = bench.start("value", walltime);
    assert_eq!(bench.next(), (attempt, OutcomeKind::Returned, String::new()));
}

#[test]
fn a_map_that_was_stopped_makes_no_more_calls() {
    let bench = Bench::new();
    let map = |task: &mut Task, spec: &mut TaskSpec| {
        spec.map = true;
        task.payload = "[null,null,null]".into();
    };
    let attempt = bench.start("value", map);
    assert_eq!(bench.next(), (attempt, OutcomeKind::Returned, String::new()));
    let attempt = bench.start("watch", map);
    bench.begun.recv().unwrap();
    bench.executor.cancel(&[attempt]);
    assert_eq!(bench.next(), (attempt, OutcomeKind::Cancelled, "Cancelled".to_owned()));
    let attempt = bench.start("never", |task, spec| {
        map(task, spec);
        walltime(task, spec);
    });
    assert_eq!(bench.next(), (attempt, OutcomeKind::TimedOut, "TaskTimedOut".to_owned()));
    assert!(bench.begun.try_recv().is_err(), "it was called again");
}

#[test]
fn what_was_cancelled_while_it_ran_is_cancelled() {
    let bench = Bench::new();
    for name in ["block", "watch"] {
        let attempt = bench.start(name, |_, _| {});
        bench.begun.recv().unwrap();
        bench.executor.cancel(&[attempt]);
        if name == "block" {
            bench.release.send(()).unwrap();
        }
        assert_eq!(bench.next(), (attempt, OutcomeKind::Cancelled, "Cancelled".to_owned()), "{name}");
    }
    let attempt = bench.start("value", |_, _| {});
    assert_eq!(bench.next().0, attempt);
}

#[tokio::test]
async fn draining_gives_back_what_waits_and_finishes_what_runs() {
    let bench = Bench::new();
    let running = bench.start("block", |_, _| {});
    bench.begun.recv().unwrap();
    let cancelled = bench.start("value", |_, _| {});
    bench.executor.cancel(&[cancelled]);
    let waiting = [bench.start("value", |_, _| {}), bench.start("block", |_, _| {})];
    let drained = bench.executor.drain();
    assert_eq!(bench.gave_back.try_iter().collect::<Vec<_>>(), waiting);
    assert_eq!(bench.next(), (cancelled, OutcomeKind::Cancelled, "Cancelled".to_owned()));
    bench.release.send(()).unwrap();
    drained.await;
    assert_eq!(bench.next(), (running, OutcomeKind::Returned, String::new()));
    let late = bench.start("value", |_, _| {});
    assert_eq!(bench.gave_back.try_iter().collect::<Vec<_>>(), [late]);
}
