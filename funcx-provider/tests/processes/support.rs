//! What the tests of the process pool share.

use std::{path::PathBuf, sync::Arc, time::Duration};

use bytes::Bytes;
use funcx_core::contract::{Capacity, Executor, ExecutorEvent, ExecutorSink};
use funcx_core::model::{AttemptId, Failure, Function, IdentityId, Outcome, Task, TaskId, TaskSpec};
use funcx_provider::worker::{ProcessPool, ProcessPoolConfig};
use tempfile::TempDir;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// Far longer than anything here takes; a test that waits so long has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A pool and what comes out of it.
pub(crate) struct Bench {
    pub(crate) pool: ProcessPool,
    pub(crate) work_dir: TempDir,
    events: UnboundedReceiver<ExecutorEvent>,
    outcomes: Vec<Outcome>,
    pub(crate) started: Vec<AttemptId>,
    pub(crate) gave_back: Vec<AttemptId>,
    pub(crate) capacities: Vec<Capacity>,
    next_id: u128,
}

struct Channel(UnboundedSender<ExecutorEvent>);

impl ExecutorSink for Channel {
    fn handle(&self, event: ExecutorEvent) {
        let _ = self.0.send(event);
    }
}

/// Defaults with a grace that suits tests.
pub(crate) fn config(workers: u32, work_dir: impl Into<PathBuf>) -> ProcessPoolConfig {
    ProcessPoolConfig { kill_grace: Duration::from_millis(300), ..ProcessPoolConfig::new(workers, work_dir) }
}

impl Bench {
    pub(crate) async fn new(workers: u32) -> Self {
        Self::with(workers, |config| config).await
    }

    pub(crate) async fn with(
        workers: u32,
        change: impl FnOnce(ProcessPoolConfig) -> ProcessPoolConfig,
    ) -> Self {
        let work_dir = tempfile::tempdir().unwrap();
        let (sender, events) = unbounded_channel();
        let config = change(config(workers, work_dir.path()));
        let pool = ProcessPool::start(config, Arc::new(Channel(sender))).await.unwrap();
        Self {
            pool,
            work_dir,
            events,
            outcomes: Vec::new(),
            started: Vec::new(),
            gave_back: Vec::new(),
            capacities: Vec::new(),
            next_id: 0,
        }
    }

    /// A task that calls `f` of this Python source with JSON arguments.
    pub(crate) fn task(&mut self, source: &str, args: &str) -> Task {
        self.task_of(Function::python("f", source.to_owned()), args, |_| {})
    }

    pub(crate) fn task_of(
        &mut self,
        function: Function,
        args: &str,
        change: impl FnOnce(&mut TaskSpec),
    ) -> Task {
        let mut spec = TaskSpec::new(Arc::new(function), IdentityId::from_u128(1));
        change(&mut spec);
        self.next_id += 1;
        let payload = match args {
            "" => Bytes::new(),
            args => format!(r#"{{"args":[{args}]}}"#).into(),
        };
        Task::new(TaskId::from_u128(self.next_id), Arc::new(spec), payload)
    }

    /// Starts one task and waits for its outcome.
    pub(crate) async fn run(&mut self, task: Task) -> Outcome {
        let attempt = task.attempt_id();
        self.pool.start(vec![task]);
        self.outcome(attempt).await
    }

    pub(crate) async fn run_source(&mut self, source: &str, args: &str) -> Outcome {
        let task = self.task(source, args);
        self.run(task).await
    }

    /// The outcome of one attempt; others are kept.
    pub(crate) async fn outcome(&mut self, attempt: AttemptId) -> Outcome {
        loop {
            if let Some(at) = self.outcomes.iter().position(|outcome| outcome.attempt_id() == attempt) {
                return self.outcomes.swap_remove(at);
            }
            self.next_event().await;
        }
    }

    /// The outcomes of tasks. As a node above does, it starts those again that are not known to have begun when their worker
    /// was lost.
    pub(crate) async fn outcomes_of(&mut self, tasks: &[Task]) -> Vec<Outcome> {
        let mut outcomes = Vec::with_capacity(tasks.len());
        for task in tasks {
            let mut task = task.clone();
            let mut outcome = self.outcome(task.attempt_id()).await;
            while outcome.failure().is_some_and(|failure| failure.code == Failure::LEASE_LOST) {
                (task.attempt, task.granted) = (task.attempt + 1, task.granted + 1);
                outcome = self.run(task.clone()).await;
            }
            outcomes.push(outcome);
        }
        outcomes
    }

    /// A command, started, which writes a line to the FIFO that takes the place of `{0}`. What it has written.
    pub(crate) async fn start_shell(&mut self, template: &str) -> (Task, String) {
        let fifo = self.work_dir.path().join(format!("fifo{}", self.next_id));
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let task = self.task_of(Function::shell(template.to_owned()), &format!("{fifo:?}"), |_| {});
        self.pool.start(vec![task.clone()]);
        let line = tokio::time::timeout(PATIENCE, tokio::fs::read_to_string(fifo));
        (task, line.await.expect("it says nothing").unwrap())
    }

    /// Waits until this attempt is reported as started.
    pub(crate) async fn started(&mut self, attempt: AttemptId) {
        while !self.started.contains(&attempt) {
            self.next_event().await;
        }
    }

    pub(crate) async fn next_event(&mut self) {
        match tokio::time::timeout(PATIENCE, self.events.recv())
            .await
            .expect("nothing happens")
            .expect("no pool")
        {
            ExecutorEvent::Outcomes(outcomes) => self.outcomes.extend(outcomes),
            ExecutorEvent::Started(started) => {
                self.started.extend(started.iter().map(|(attempt, _)| *attempt));
            }
            ExecutorEvent::GaveBack(attempts) => self.gave_back.extend(attempts),
            ExecutorEvent::Capacity(capacity) => self.capacities.push(capacity),
        }
    }

    /// Drains the pool and checks that no outcome is left over.
    pub(crate) async fn finish(mut self) {
        tokio::time::timeout(PATIENCE, self.pool.drain()).await.expect("the pool does not drain");
        while let Ok(event) = self.events.try_recv() {
            if let ExecutorEvent::Outcomes(outcomes) = event {
                self.outcomes.extend(outcomes);
            }
        }
        assert_eq!(self.outcomes, [], "outcomes that nobody waits for");
    }
}

/// The value of an outcome, as JSON text.
pub(crate) fn value(outcome: &Outcome) -> &str {
    assert_eq!(outcome.failure(), None);
    std::str::from_utf8(&outcome.payload).unwrap()
}

/// Waits until no process has this id, or only one that is dead and not yet collected.
pub(crate) async fn gone(pid: u32) {
    let dead = || match std::fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(stat) => stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with(['Z', 'X'])),
        Err(_) => true,
    };
    let wait = async {
        while !dead() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("process {pid} is still there"));
}
