//! Suite for the [`Executor`] contract.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use futures::{StreamExt, channel::mpsc};
use parking_lot::Mutex;

use crate::contract::{Executor, ExecutorEvent, ExecutorSink};
use crate::model::{
    AttemptId, Failure, Function, FunctionKind, Hop, IdentityId, Outcome, OutcomeKind, Task, TaskId,
    TaskSpec, Timestamp,
};

/// What the suite needs to know about an executor.
pub trait Subject {
    /// The implementation.
    type Executor: Executor;

    /// Makes a new executor.
    fn start(&self, sink: Arc<dyn ExecutorSink>) -> impl Future<Output = Self::Executor>;

    /// A function that returns, some arguments, and the payload of its value.
    fn returns(&self) -> (Function, Bytes, Bytes);

    /// A function that raises, panics or whatever failing is to it, and some arguments.
    fn raises(&self) -> (Function, Bytes);

    /// A function that takes long, and some arguments: a second or so, or for ever if the executor can stop it.
    fn lasts(&self) -> (Function, Bytes);
}

/// Keeps what an executor says.
struct Recorder {
    outcomes: mpsc::UnboundedSender<Outcome>,
    started: Mutex<Vec<AttemptId>>,
    gave_back: Mutex<Vec<AttemptId>>,
}

impl ExecutorSink for Recorder {
    fn handle(&self, event: ExecutorEvent) {
        match event {
            ExecutorEvent::Outcomes(outcomes) => {
                // The test may have seen enough.
                outcomes.into_iter().for_each(|outcome| drop(self.outcomes.unbounded_send(outcome)));
            }
            ExecutorEvent::Started(started) => {
                self.started.lock().extend(started.iter().map(|(attempt, _)| *attempt));
            }
            ExecutorEvent::GaveBack(attempts) => self.gave_back.lock().extend(attempts),
            ExecutorEvent::Capacity(_) => {}
        }
    }
}

/// An executor under test and what came out of it.
struct Bench<E> {
    executor: E,
    recorder: Arc<Recorder>,
    outcomes: mpsc::UnboundedReceiver<Outcome>,
    next_id: u128,
}

impl<E: Executor> Bench<E> {
    async fn new<S: Subject<Executor = E>>(subject: &S) -> Self {
        let (sender, outcomes) = mpsc::unbounded();
        let recorder =
            Arc::new(Recorder { outcomes: sender, started: Mutex::default(), gave_back: Mutex::default() });
        let executor = subject.start(Arc::clone(&recorder) as Arc<dyn ExecutorSink>).await;
        Self { executor, recorder, outcomes, next_id: 0 }
    }

    fn tasks(&mut self, (function, payload): (Function, Bytes), count: usize) -> Vec<Task> {
        let spec = Arc::new(TaskSpec::new(Arc::new(function), IdentityId::from_u128(1)));
        let task = |id| {
            let mut task = Task::new(TaskId::from_u128(id), Arc::clone(&spec), payload.clone());
            task.stamps.set(Hop::ManagerSent, Timestamp::from_nanos(7));
            task
        };
        let first = self.next_id + 1;
        self.next_id += count as u128;
        (first..=self.next_id).map(task).collect()
    }

    /// The next `count` outcomes by attempt.
    async fn outcomes(&mut self, count: usize) -> BTreeMap<AttemptId, Outcome> {
        let mut seen = BTreeMap::new();
        while seen.len() < count {
            let outcome = self.outcomes.next().await.expect("the executor holds the sink");
            let attempt = outcome.attempt_id();
            assert!(seen.insert(attempt, outcome).is_none(), "a second outcome of {attempt:?}");
        }
        seen
    }

    /// Drains the executor and checks that nothing else comes out of it.
    async fn finish(self) {
        let (rest, gave_back) = self.drain().await;
        assert!(rest.is_empty(), "outcomes that nobody waits for: {rest:?}");
        assert!(gave_back.is_empty(), "given back though they have an outcome: {gave_back:?}");
    }

    /// What comes out of the executor while it drains: outcomes, and attempts that have not begun.
    async fn drain(mut self) -> (Vec<Outcome>, Vec<AttemptId>) {
        // A dropped drain is still a drain.
        drop(self.executor.drain());
        self.executor.drain().await;
        drop(self.executor);
        let outcomes = std::iter::from_fn(|| self.outcomes.try_recv().ok()).collect();
        let gave_back = std::mem::take(&mut *self.recorder.gave_back.lock());
        let started = self.recorder.started.lock();
        let begun = gave_back.iter().find(|attempt| started.contains(attempt));
        assert_eq!(begun, None, "given back after it was reported as started");
        (outcomes, gave_back)
    }
}

/// Checks everything that the contract promises.
///
/// # Panics
/// With the promise that is broken. A lost outcome is a test that hangs; run the suite under a timeout.
pub async fn suite<S: Subject>(subject: &S) {
    says_what_it_can(subject).await;
    every_attempt_has_one_outcome(subject).await;
    a_failing_function_is_raised(subject).await;
    a_kind_it_does_not_run_is_raised(subject).await;
    attempts_are_told_apart(subject).await;
    waiting_attempts_are_cancelled(subject).await;
    running_attempts_are_cancelled(subject).await;
    unknown_attempts_are_not_cancelled(subject).await;
    drain_finishes_or_gives_back(subject).await;
    drain_ends_though_much_waits(subject).await;
    what_starts_late_goes_back_or_is_lost(subject).await;
}

async fn says_what_it_can<S: Subject>(subject: &S) {
    let bench = Bench::new(subject).await;
    let capability = bench.executor.capability();
    assert!(capability.capacity.slots > 0, "it has no slots");
    assert!(
        capability.kinds.contains(&subject.returns().0.kind()),
        "it does not name the kind that it is tested with"
    );
    bench.finish().await;
}

async fn every_attempt_has_one_outcome<S: Subject>(subject: &S) {
    let mut bench = Bench::new(subject).await;
    let (function, payload, value) = subject.returns();
    let credits = bench.executor.capability().capacity.credits() as usize;
    let tasks = bench.tasks((function, payload), credits.min(1000));
    let mut rest = tasks.clone();
    // In batches of many sizes, an empty one too.
    for size in 0.. {
        if rest.is_empty() {
            break;
        }
        let batch = rest.split_off(rest.len().saturating_sub(size));
        bench.executor.start(batch);
    }
    let outcomes = bench.outcomes(tasks.len()).await;
    for task in &tasks {
        let outcome = &outcomes[&task.attempt_id()];
        assert_eq!(
            (outcome.kind, &outcome.payload),
            (OutcomeKind::Returned, &value),
            "{:?}",
            outcome.failure()
        );
        assert_eq!(outcome.stamps.at(Hop::ManagerSent).as_nanos(), 7, "it loses the stamps of a task");
    }
    bench.finish().await;
}

async fn a_failing_function_is_raised<S: Subject>(subject: &S) {
    let mut bench = Bench::new(subject).await;
    let failing = bench.tasks(subject.raises(), 3);
    bench.executor.start(failing);
    for outcome in bench.outcomes(3).await.values() {
        assert_eq!(outcome.kind, OutcomeKind::Raised);
        let failure: Failure =
            serde_json::from_slice(&outcome.payload).expect("the payload is a failure in JSON");
        assert!(
            !failure.code.is_empty() && !failure.message.is_empty(),
            "a failure without words: {failure:?}"
        );
    }
    // The worker goes on.
    let (function, payload, value) = subject.returns();
    let tasks = bench.tasks((function, payload), 1);
    bench.executor.start(tasks);
    assert!(bench.outcomes(1).await.values().all(|outcome| outcome.payload == value));
    bench.finish().await;
}

async fn a_kind_it_does_not_run_is_raised<S: Subject>(subject: &S) {
    let mut bench = Bench::new(subject).await;
    let kinds = bench.executor.capability().kinds;
    let Some(function) =
        FunctionKind::ALL.into_iter().find(|kind| !kinds.contains(kind)).map(|kind| match kind {
            FunctionKind::Shell => Function::shell("true"),
            FunctionKind::Native => Function::native("f"),
            FunctionKind::Python | FunctionKind::GlobusCompute => Function::python("f", "def f(): pass"),
        })
    else {
        return bench.finish().await;
    };
    let tasks = bench.tasks((function, Bytes::new()), 1);
    bench.executor.start(tasks);
    assert!(bench.outcomes(1).await.values().all(|outcome| outcome.kind == OutcomeKind::Raised));
    bench.finish().await;
}

async fn attempts_are_told_apart<S: Subject>(subject: &S) {
    let mut bench = Bench::new(subject).await;
    let (function, payload, _) = subject.returns();
    let mut task = bench.tasks((function, payload), 1).remove(0);
    for number in 1..=2 {
        task.attempt = number;
        bench.executor.start(vec![task.clone()]);
        assert_eq!(bench.outcomes(1).await.keys().next(), Some(&task.attempt_id()));
    }
    bench.finish().await;
}

async fn waiting_attempts_are_cancelled<S: Subject>(subject: &S) {
    let mut bench = Bench::new(subject).await;
    let capability = bench.executor.capability();
    let slots = capability.capacity.slots as usize;
    if capability.capacity.prefetch == 0 {
        return bench.finish().await;
    }
    let running = bench.tasks(subject.lasts(), slots);
    let (function, payload, _) = subject.returns();
    let waiting = bench.tasks((function, payload), 1);
    bench.executor.start(running.iter().chain(&waiting).cloned().collect());
    let id = |task: &Task| task.attempt_id();
    bench.executor.cancel(&waiting.iter().map(id).collect::<Vec<_>>());
    if capability.cancels {
        bench.executor.cancel(&running.iter().map(id).collect::<Vec<_>>());
    }
    let outcomes = bench.outcomes(slots + 1).await;
    assert_eq!(
        outcomes[&waiting[0].attempt_id()].kind,
        OutcomeKind::Cancelled,
        "a waiting attempt was not cancelled"
    );
    bench.finish().await;
}

async fn running_attempts_are_cancelled<S: Subject>(subject: &S) {
    let mut bench = Bench::new(subject).await;
    if !bench.executor.capability().cancels {
        return bench.finish().await;
    }
    let running = bench.tasks(subject.lasts(), 1);
    bench.executor.start(running.clone());
    bench.executor.cancel(&[running[0].attempt_id()]);
    // A second request changes nothing.
    bench.executor.cancel(&[running[0].attempt_id()]);
    let outcomes = bench.outcomes(1).await;
    assert_eq!(outcomes[&running[0].attempt_id()].kind, OutcomeKind::Cancelled);
    // The slot is free again.
    let (function, payload, value) = subject.returns();
    let tasks = bench.tasks((function, payload), 1);
    bench.executor.start(tasks);
    assert!(bench.outcomes(1).await.values().all(|outcome| outcome.payload == value));
    bench.finish().await;
}

async fn unknown_attempts_are_not_cancelled<S: Subject>(subject: &S) {
    let mut bench = Bench::new(subject).await;
    bench.executor.cancel(&[AttemptId { task: TaskId::from_u128(999), number: 1 }]);
    bench.executor.cancel(&[]);
    let (function, payload, value) = subject.returns();
    let tasks = bench.tasks((function, payload), 1);
    bench.executor.start(tasks.clone());
    // Another attempt at the same task is another attempt.
    bench.executor.cancel(&[AttemptId { task: tasks[0].id, number: 2 }]);
    assert!(bench.outcomes(1).await.values().all(|outcome| outcome.payload == value));
    bench.finish().await;
}

async fn drain_finishes_or_gives_back<S: Subject>(subject: &S) {
    let mut bench = Bench::new(subject).await;
    let (function, payload, value) = subject.returns();
    let tasks = bench.tasks((function, payload), 3);
    bench.executor.start(tasks.clone());
    let recorder = Arc::clone(&bench.recorder);
    let (outcomes, gave_back) = bench.drain().await;
    assert_each_once(&tasks, &outcomes, &gave_back);
    assert!(outcomes.iter().all(|outcome| outcome.payload == value));
    assert!(
        recorder.started.lock().iter().all(|attempt| attempt.task <= TaskId::from_u128(3)),
        "a start of an unknown attempt"
    );
}

async fn drain_ends_though_much_waits<S: Subject>(subject: &S) {
    let mut bench = Bench::new(subject).await;
    let capability = bench.executor.capability();
    let (slots, prefetch) = (capability.capacity.slots as usize, capability.capacity.prefetch as usize);
    let running = bench.tasks(subject.lasts(), slots);
    let (function, payload, _) = subject.returns();
    let waiting = bench.tasks((function, payload), prefetch.min(100));
    let tasks: Vec<_> = running.iter().chain(&waiting).cloned().collect();
    bench.executor.start(tasks.clone());
    drop(bench.executor.drain());
    if capability.cancels {
        bench.executor.cancel(&running.iter().map(Task::attempt_id).collect::<Vec<_>>());
    }
    let (outcomes, gave_back) = bench.drain().await;
    assert_each_once(&tasks, &outcomes, &gave_back);
}

/// Each task was given back or has an outcome, once, and nothing else was.
fn assert_each_once(tasks: &[Task], outcomes: &[Outcome], gave_back: &[AttemptId]) {
    let mut seen: Vec<_> =
        outcomes.iter().map(Outcome::attempt_id).chain(gave_back.iter().copied()).collect();
    let mut expected: Vec<_> = tasks.iter().map(Task::attempt_id).collect();
    seen.sort_unstable();
    expected.sort_unstable();
    assert_eq!(seen, expected, "an attempt does not have exactly one outcome, nor was given back once");
}

async fn what_starts_late_goes_back_or_is_lost<S: Subject>(subject: &S) {
    let mut bench = Bench::new(subject).await;
    bench.executor.drain().await;
    let (function, payload, _) = subject.returns();
    let late = bench.tasks((function, payload), 2);
    bench.executor.start(late.clone());
    let (outcomes, gave_back) = bench.drain().await;
    assert!(outcomes.iter().all(|outcome| outcome.kind == OutcomeKind::Lost));
    assert_each_once(&late, &outcomes, &gave_back);
}
