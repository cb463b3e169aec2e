//! The load: calls at a steady rate, as the client of a service makes them.

use std::{
    collections::{BTreeMap, HashSet},
    path::Path,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result};
use funcx_core::model::{EndpointId, FunctionId, TaskGroupId, TaskId};
use funcx_net::client::{
    Arguments, Call, CallOptions, Client, FunctionRegistration, RetryPolicy, TaskView, Token,
};
use futures::StreamExt;
use parking_lot::Mutex;
use tokio::{task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;

use super::history::{Ending, Event, History, Seen, Wanted};
use super::random::Random;

/// Outages last for up to a minute; a client that gives up in them would not see the end.
const RETRY: RetryPolicy = RetryPolicy {
    max_attempts: 100,
    first_pause: Duration::from_millis(100),
    max_pause: Duration::from_secs(2),
};

/// After an error of something that is tried until it works.
const PAUSE: Duration = Duration::from_millis(500);

/// Tasks on one page of the list at the end.
const PAGE: usize = 500;

/// What is submitted.
#[derive(Debug, Clone)]
pub(super) struct LoadOptions {
    pub(super) seed: u64,
    pub(super) rate: u32,
    /// Whether some tasks have a time to live or a deadline.
    pub(super) time_limits: bool,
}

/// When things are over.
#[derive(Debug, Clone, Default)]
pub(super) struct Phases {
    /// Nothing is submitted any more.
    pub(super) submitted: CancellationToken,
    /// What has not ended by now is not waited for.
    pub(super) patience_over: CancellationToken,
}

/// Who submits, where.
#[derive(Debug)]
pub(super) struct Load {
    client: Client,
    endpoints: Vec<EndpointId>,
    function: FunctionId,
    history: History,
    /// Tasks that a later request may cancel.
    running: Mutex<Vec<TaskId>>,
    /// Accepted tasks of whose outcomes no stream has told yet, and tasks of which one has.
    unheard: Mutex<Heard>,
    cancels: Mutex<u64>,
}

#[derive(Debug, Default)]
struct Heard {
    accepted: HashSet<TaskId>,
    /// A stream may be faster than the answer to the submission.
    early: HashSet<TaskId>,
}

/// A function that writes down, with one write each, when it begins and ends.
fn source(executions: &Path) -> String {
    format!(
        r#"
def work(key, seconds):
    import os, time
    log = os.open({path}, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(log, f"start {{key}} {{os.getpid()}} {{time.monotonic_ns()}}\n".encode())
        if seconds:
            time.sleep(seconds)
        os.write(log, f"end {{key}} {{os.getpid()}} {{time.monotonic_ns()}}\n".encode())
    finally:
        os.close(log)
    return key
"#,
        path = serde_json::Value::from(executions.to_string_lossy())
    )
}

impl Load {
    /// Finds the endpoints and registers the function.
    pub(super) async fn prepare(
        service: &str,
        token: &str,
        endpoints: &[String],
        executions: &Path,
        history: History,
    ) -> Result<Arc<Self>> {
        let client = Client::builder().service(service).token(Token::new(token)?).retry(RETRY).build()?;
        let function = client.register(&FunctionRegistration::python("work", source(executions))).await?;
        let mut found = Vec::new();
        for name in endpoints {
            found.push(client.endpoint_named(name).await?.endpoint_id);
        }
        Ok(Arc::new(Self {
            client,
            endpoints: found,
            function: function.function_id,
            history,
            running: Mutex::default(),
            unheard: Mutex::default(),
            cancels: Mutex::default(),
        }))
    }

    /// Waits until every endpoint has workers.
    pub(super) async fn online(&self, patience: Duration) -> Result<()> {
        let begun = Instant::now();
        for endpoint in &self.endpoints {
            while self.client.endpoint(*endpoint).await?.workers == 0 {
                anyhow::ensure!(begun.elapsed() < patience, "endpoint {endpoint} has no workers");
                tokio::time::sleep(PAUSE).await;
            }
        }
        Ok(())
    }

    /// Submits until that is over, waits until all has ended, and lists what the service knows.
    pub(super) async fn run(self: Arc<Self>, options: LoadOptions, phases: Phases) -> Result<()> {
        let mut calls = JoinSet::new();
        let watching = tokio::spawn(Arc::clone(&self).watch());
        let mut random = Random::new(options.seed);
        let mut tick = tokio::time::interval(Duration::from_secs(1) / options.rate);
        let mut number = 0;
        let mut debt = 0;
        loop {
            tokio::select! {
                _ = tick.tick() => {}
                () = phases.submitted.cancelled() => break,
            }
            while let Some(done) = calls.try_join_next() {
                done??;
            }
            if debt > 0 {
                // A batch has had this turn.
                debt -= 1;
                continue;
            }
            let count = if random.percent(1) { 5 + random.below(30) } else { 1 };
            let keys: Vec<String> = (number..number + count).map(|key| key.to_string()).collect();
            (number, debt) = (number + count, count - 1);
            let wanted = draw(&mut random, options.time_limits);
            let endpoint = *random.pick(&self.endpoints);
            let cancel = random.percent(if count > 1 { 30 } else { 6 }).then(|| random.millis(0, 3000));
            let share = random.below(4);
            let load = Arc::clone(&self);
            if count > 1 {
                calls.spawn(load.call_many(endpoint, wanted, keys, cancel));
            } else if let Some(key) = keys.into_iter().next() {
                calls.spawn(load.call(endpoint, wanted, key, cancel, share == 0));
            }
        }
        loop {
            tokio::select! {
                done = calls.join_next() => match done {
                    Some(done) => done??,
                    None => break,
                },
                () = phases.patience_over.cancelled() => break,
            }
        }
        calls.shutdown().await;
        self.list(&phases).await?;
        while !self.unheard.lock().accepted.is_empty() && !phases.patience_over.is_cancelled() {
            tokio::time::sleep(PAUSE).await;
        }
        watching.abort();
        Ok(())
    }

    /// One call, from its submission to its outcome. `many`: it is cancelled together with others.
    async fn call(
        self: Arc<Self>,
        endpoint: EndpointId,
        wanted: Wanted,
        key: String,
        cancel: Option<Duration>,
        many: bool,
    ) -> Result<()> {
        let call = Call::new(endpoint, self.function, arguments(&key, &wanted)?);
        self.history.record(Event::Submit { key: key.clone(), wanted });
        let mut handle = self.client.submit(call.with_options(how(&wanted))).await?;
        let task = match handle.id().await {
            Ok(task) => task,
            Err(error) => {
                self.history.record(Event::Refused { key, error: error.to_string() });
                return Ok(());
            }
        };
        self.accepted(key, task);
        self.running.lock().push(task);
        let cancelling = async {
            if let Some(delay) = cancel {
                tokio::time::sleep(delay).await;
                let tasks =
                    if many { self.running.lock().iter().copied().take(10).collect() } else { vec![task] };
                self.cancel(tasks, None).await;
            }
        };
        let ending = async {
            let view = match handle.await {
                Ok(view) => view,
                // The stream of results was given up in an outage; the task goes on, and so do we.
                Err(_) => self.wait(task).await,
            };
            self.running.lock().retain(|running| *running != task);
            self.saw(&view, Seen::Handle);
        };
        tokio::join!(cancelling, ending);
        Ok(())
    }

    /// Many calls in one request, as a task group of their own.
    async fn call_many(
        self: Arc<Self>,
        endpoint: EndpointId,
        wanted: Wanted,
        keys: Vec<String>,
        cancel: Option<Duration>,
    ) -> Result<()> {
        let calls = keys.iter().map(|key| arguments(key, &wanted)).collect::<Result<Vec<_>>>()?;
        for key in &keys {
            self.history.record(Event::Submit { key: key.clone(), wanted });
        }
        let submitted = self.client.submit_many(endpoint, self.function, how(&wanted), calls).await;
        let submitted = match submitted {
            Ok(submitted) => submitted,
            Err(error) => {
                for key in keys {
                    self.history.record(Event::Refused { key, error: error.to_string() });
                }
                return Ok(());
            }
        };
        for (key, task) in keys.into_iter().zip(&submitted.tasks) {
            self.accepted(key, *task);
        }
        let cancelling = async {
            if let Some(delay) = cancel {
                tokio::time::sleep(delay).await;
                self.cancel(submitted.tasks.clone(), Some(submitted.group)).await;
            }
        };
        let ending = async {
            // A request whose answer was lost may have made others in the group.
            let mut left: HashSet<TaskId> = submitted.tasks.iter().copied().collect();
            let mut outcomes = self.client.outcomes(submitted.group, None);
            while !left.is_empty() {
                match outcomes.next().await {
                    Some(Ok(view)) => {
                        self.saw(&view, Seen::Stream);
                        left.remove(&view.task_id);
                    }
                    Some(Err(_)) => tokio::time::sleep(PAUSE).await,
                    None => break,
                }
            }
        };
        tokio::join!(cancelling, ending);
        Ok(())
    }

    async fn cancel(&self, tasks: Vec<TaskId>, group: Option<TaskGroupId>) {
        let number = {
            let mut cancels = self.cancels.lock();
            *cancels += 1;
            *cancels
        };
        self.history.record(Event::Cancel { number, tasks: tasks.clone(), group });
        let answer = match group {
            Some(group) => self.client.cancel_group(group).await,
            None => self.client.cancel(&tasks).await,
        };
        self.history.record(match answer {
            Ok(answer) => Event::Cancelled { number, cancelled: answer.cancelled, unknown: answer.unknown },
            Err(error) => Event::CancelFailed { number, error: error.to_string() },
        });
    }

    async fn wait(&self, task: TaskId) -> TaskView {
        loop {
            match self.client.wait(task).await {
                Ok(view) => return view,
                Err(_) => tokio::time::sleep(PAUSE).await,
            }
        }
    }

    /// Sees all outcomes of the client's own task group once more, as a second observer would.
    async fn watch(self: Arc<Self>) {
        let mut outcomes = self.client.outcomes(self.client.task_group(), None);
        while let Some(outcome) = outcomes.next().await {
            match outcome {
                Ok(view) => self.saw(&view, Seen::Stream),
                // The group is not there before its first task.
                Err(_) => tokio::time::sleep(PAUSE).await,
            }
        }
    }

    /// Asks the service for all tasks, until all of them have ended or that is waited for no longer.
    async fn list(&self, phases: &Phases) -> Result<()> {
        loop {
            let tasks = self.all_tasks().await.context("cannot list the tasks")?;
            let ended = tasks.iter().all(|task| task.outcome.is_some());
            if !ended && !phases.patience_over.is_cancelled() {
                tokio::time::sleep(PAUSE).await;
                continue;
            }
            for task in &tasks {
                match task.outcome {
                    Some(_) => self.saw(task, Seen::List),
                    None => self
                        .history
                        .record(Event::Unfinished { task: task.task_id, status: task.status.clone() }),
                }
            }
            self.history.record(Event::Listed { tasks: tasks.len() });
            return Ok(());
        }
    }

    async fn all_tasks(&self) -> Result<Vec<TaskView>> {
        let (mut tasks, mut after) = (Vec::new(), None);
        loop {
            let page = self.client.tasks(None, after.as_deref(), PAGE).await?;
            tasks.extend(page.tasks);
            match page.next {
                Some(next) => after = Some(next),
                None => return Ok(tasks),
            }
        }
    }

    fn accepted(&self, key: String, task: TaskId) {
        self.history.record(Event::Accepted { key, task });
        let mut heard = self.unheard.lock();
        if !heard.early.remove(&task) {
            heard.accepted.insert(task);
        }
    }

    fn saw(&self, task: &TaskView, seen: Seen) {
        let Some(kind) = task.outcome else { return };
        let said = match &task.failure {
            Some(failure) => format!("{}: {}", failure.code, failure.message),
            None => task.value::<String>().unwrap_or_else(|error| error.to_string()),
        };
        let ending = Ending { kind, attempt: task.attempt.unwrap_or_default(), said };
        self.history.record(Event::Outcome { task: task.task_id, seen, ending });
        if seen == Seen::Stream {
            let mut heard = self.unheard.lock();
            if !heard.accepted.remove(&task.task_id) {
                heard.early.insert(task.task_id);
            }
        }
    }
}

/// Draws what a task does. On average it occupies a worker for about 0.15 s.
fn draw(random: &mut Random, time_limits: bool) -> Wanted {
    let sleep_ms = match random.below(100) {
        0..70 => 0,
        70..94 => 100,
        _ => 1000 + random.below(2000),
    };
    let limited = |random: &mut Random, from, to| {
        (random.percent(6) && time_limits).then(|| random.millis(from, to).as_millis() as u64)
    };
    Wanted {
        sleep_ms,
        max_attempts: *random.pick(&[1, 1, 1, 3, 3, 3, 3, 3, 10, 10]),
        walltime_ms: random.percent(8).then(|| *random.pick(&[500, 60_000])),
        ttl_ms: limited(random, 500, 10_000),
        deadline_ms: limited(random, 500, 10_000),
        priority: if random.percent(10) { random.below(3) as i8 - 1 } else { 0 },
    }
}

fn how(wanted: &Wanted) -> CallOptions {
    let mut how = CallOptions {
        max_attempts: Some(wanted.max_attempts),
        priority: wanted.priority,
        ttl: wanted.ttl_ms.map(Duration::from_millis),
        deadline: wanted.deadline_ms.map(Duration::from_millis),
        ..CallOptions::default()
    };
    how.shape.walltime = wanted.walltime_ms.map(Duration::from_millis);
    how
}

fn arguments(key: &str, wanted: &Wanted) -> Result<Arguments> {
    let seconds = wanted.sleep_ms as f64 / 1e3;
    Ok(Arguments::python(&(key, seconds), &BTreeMap::<String, ()>::new())?)
}
