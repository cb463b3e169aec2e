//! How tasks are accepted.

use std::{iter, sync::Arc, time::Duration};

use bytes::Bytes;
use funcx_core::contract::{Action, EndpointRecord, Object, Principal, Submission, Write};
use funcx_core::model::{
    EndpointId, FunctionId, FunctionKind, Hop, Outcome, Shape, Target, Task, TaskGroupId, TaskId, TaskLimits,
    TaskSpec, Timestamp, TraceContext, is_environment_name, limit,
};
use funcx_core::{Error, ErrorKind, Result};

use super::memo::Known;
use super::publish::Origin;
use super::records::bounded;
use super::repeat::{Delivery, RequestKey};
use super::unstoppable::Unstoppable;
use super::{Answer, Refusal, Service, memo};
use crate::driver::wall_clock;

/// Largest options of a batch: they travel with each frame of its tasks.
const MAX_OPTIONS_BYTES: usize = 64 << 10;
/// Labels that a task may ask for.
const MAX_LABELS: usize = 64;

/// Tasks that somebody wants to have run.
#[derive(Debug, Clone)]
pub struct Submit {
    /// Where.
    pub endpoint: EndpointId,
    /// The group they shall belong to; a new one if `None`.
    pub group: Option<TaskGroupId>,
    /// Trace that the request belongs to.
    pub trace: TraceContext,
    /// The tasks, by function.
    pub batches: Vec<Batch>,
}

/// Calls of one function.
#[derive(Debug, Clone)]
pub struct Batch {
    /// Which.
    pub function: FunctionId,
    /// What each call asks for.
    pub shape: Shape,
    /// How hard to try.
    pub limits: TaskLimits,
    /// JSON object for the worker; empty for none.
    pub options: Bytes,
    /// Whether each of the arguments is a JSON array with those of many calls.
    pub map: bool,
    /// Whether values of equal calls will do; as the function was registered if `None`.
    pub memoize: Option<bool>,
    /// Arguments of each call.
    pub arguments: Vec<Bytes>,
}

/// Tasks that were accepted, and are durable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accepted {
    /// Drawn anew for each request.
    pub request: uuid::Uuid,
    /// The group they belong to.
    pub group: TaskGroupId,
    /// Ids in the order of the arguments, batch by batch.
    pub tasks: Vec<Vec<TaskId>>,
}

/// An answer that several requests may get.
pub type SharedAnswer = Arc<Answer<Accepted>>;

impl Service {
    /// Accepts tasks as [`Service::submit`] does; a repeat of a request whose answer was not delivered gets that answer.
    pub async fn submit_once(
        self: &Arc<Self>,
        principal: Principal,
        submit: Submit,
        body: u128,
    ) -> (SharedAnswer, Delivery<SharedAnswer>) {
        let key = RequestKey { identity: principal.identity, endpoint: submit.endpoint, body };
        let service = Arc::clone(self);
        self.repeats.once(key, async move { Arc::new(service.submit(&principal, submit).await) }).await
    }

    /// Accepts tasks: when this resolves with `Ok`, they are durable and each will have exactly one outcome.
    ///
    /// **Cancellation.** Once the store has been asked, the tasks are accepted even if the future is dropped.
    ///
    /// # Errors
    /// `NotFound` (endpoint, function), `Forbidden` (endpoint, function, group), `InvalidInput`, `LimitExceeded` (not
    /// retryable: too many tasks or too large; retryable: the endpoint's queue is full), `Unavailable` (the store, or the
    /// service's node has ended).
    pub async fn submit(self: &Arc<Self>, principal: &Principal, submit: Submit) -> Answer<Accepted> {
        let count = self.check_sizes(&submit)?;
        if self.stopping.is_cancelled() || !self.node.is_running() {
            let message = "the service is stopping, or its node broke down and it must be restarted";
            return Err(Error::new(ErrorKind::Unavailable, "submit tasks", message).into());
        }
        let endpoint = self.endpoint(principal, submit.endpoint, Action::Use).await?;
        let (group, claim) = self.group_of(principal, submit.group).await?;
        let accepted = wall_clock();
        let (request, ids) = random_ids(count)?;
        let trace = traced(submit.trace, request);
        let mut origins = Vec::with_capacity(submit.batches.len());
        for batch in &submit.batches {
            origins.push(Arc::new(Origin {
                endpoint: submit.endpoint,
                group,
                function: batch.function,
                spec: self.spec(principal, &endpoint, batch, trace).await?,
                accepted,
            }));
        }
        let lane = self.lane(submit.endpoint).await?;

        let mut ids = ids.into_iter();
        let mut new = New::default();
        let mut room = memo::MAX_ANSWER_BYTES;
        let mut answer = Vec::with_capacity(origins.len());
        for (origin, batch) in origins.into_iter().zip(submit.batches) {
            let known = self.known_values(&origin.spec, submit.endpoint, &batch, &mut room).await?;
            let calls: Vec<(TaskId, Bytes)> = ids.by_ref().zip(batch.arguments).collect();
            answer.push(calls.iter().map(|(id, _)| *id).collect());
            new.add(&origin, calls, known);
        }
        let New { tasks, submissions, answers } = new;
        let mut answered = None;
        let commit = |first| {
            let mut writes = writes(submissions, first);
            answered = self.answer(answers, &mut writes);
            self.store.commit(writes)
        };
        let (first, committed) = lane.begin(tasks, &self.config, commit)?;
        let (service, owner) = (Arc::clone(self), principal.identity);
        // Others wait for what becomes of this one, so it must be seen to its end.
        Unstoppable::new(async move {
            let committed = committed.await;
            if committed.is_ok() {
                service.groups.put(group, owner, 1);
                service.metrics.accepted(count);
            }
            answered.into_iter().for_each(|answered| service.answered(answered, committed.is_ok()));
            drop(claim);
            first.into_iter().for_each(|first| lane.settled(&service, first, committed.is_ok()));
            committed
        })
        .await?;
        log(&answer, trace, submit.endpoint);
        Ok(Accepted { request, group, tasks: answer })
    }

    fn check_sizes(&self, submit: &Submit) -> Answer<usize> {
        let operation = "submit tasks";
        let count = submit.batches.iter().map(|batch| batch.arguments.len()).sum();
        if count == 0 {
            return Err(Error::new(ErrorKind::InvalidInput, operation, "the request holds no tasks").into());
        }
        if count > limit::MAX_SUBMIT_TASKS {
            let error =
                Error::new(ErrorKind::LimitExceeded, operation, "too many tasks in one request; split it")
                    .with_context("tasks", count)
                    .with_context("limit MAX_SUBMIT_TASKS", limit::MAX_SUBMIT_TASKS);
            return Err(Refusal::new("TOO_MANY_TASKS", error));
        }
        for batch in &submit.batches {
            if let Some(payload) =
                batch.arguments.iter().find(|payload| payload.len() > self.config.payload_bytes)
            {
                let what = match batch.map {
                    true => "the arguments of a chunk are too large together; use smaller chunks",
                    false => "the arguments of a task are too large",
                };
                let error = Error::new(ErrorKind::LimitExceeded, operation, what)
                    .with_context("bytes", payload.len())
                    .with_context("limit payload_bytes", self.config.payload_bytes);
                return Err(Refusal::new("TASK_PAYLOAD_TOO_LARGE", error));
            }
            bounded(operation, "text of the options", batch.options.len(), MAX_OPTIONS_BYTES)?;
            check_shape(operation, &batch.shape)?;
            check_times(operation, batch)?;
            if !(1..=limit::MAX_MAX_ATTEMPTS).contains(&batch.limits.max_attempts) {
                let message = format!("max_attempts must be between 1 and {}", limit::MAX_MAX_ATTEMPTS);
                return Err(Error::new(ErrorKind::InvalidInput, operation, message).into());
            }
        }
        Ok(count)
    }

    async fn spec(
        &self,
        principal: &Principal,
        endpoint: &EndpointRecord,
        batch: &Batch,
        trace: TraceContext,
    ) -> Answer<Arc<TaskSpec>> {
        if endpoint.allowed_functions.as_ref().is_some_and(|allowed| !allowed.contains(&batch.function)) {
            let error =
                Error::new(ErrorKind::Forbidden, "submit tasks", "the endpoint does not run this function")
                    .with_context("function", batch.function)
                    .with_context("endpoint", endpoint.id);
            return Err(Refusal::new("FUNCTION_NOT_PERMITTED", error));
        }
        let record = self.function(principal, batch.function, Action::Use).await?;
        if batch.map && record.function.kind() == FunctionKind::Shell {
            let message = "a command cannot be mapped, because each is a process of its own: submit one task for each, \
                           without `chunk`, or call the command from a Python function";
            return Err(Error::new(ErrorKind::InvalidInput, "submit tasks", message)
                .with_context("function", batch.function)
                .into());
        }
        Ok(Arc::new(TaskSpec {
            function: Arc::clone(&record.function),
            shape: batch.shape.clone(),
            limits: batch.limits,
            owner: principal.identity,
            options: batch.options.clone(),
            map: batch.map,
            memoize: memo::wanted(&record, batch.memoize),
            trace,
        }))
    }

    /// Whether the authority lets this principal do something to an object; the refusal carries `code`.
    pub(super) fn check(
        &self,
        principal: &Principal,
        action: Action,
        object: &Object,
        code: &'static str,
    ) -> Answer<()> {
        self.authority.authorize(principal, action, object).map_err(|error| match error.kind() {
            ErrorKind::Forbidden => Refusal::new(code, error),
            _ => error.into(),
        })
    }
}

/// Refuses texts that the header of a frame has no room for.
fn check_shape(operation: &'static str, shape: &Shape) -> Answer<()> {
    let text = |what, text: &str| bounded(operation, what, text.len(), limit::MAX_TEXT_BYTES);
    if let Some(environment) = shape.environment.as_deref().filter(|name| !is_environment_name(name)) {
        let message = format!(
            "`environment` must be 1 to 64 letters, digits, `.`, `_` and `-`, not `{}`",
            environment.chars().take(64).collect::<String>()
        );
        return Err(Error::new(ErrorKind::InvalidInput, operation, message).into());
    }
    text("`container` (MAX_TEXT_BYTES)", shape.container.as_deref().unwrap_or_default())?;
    text("`accelerator_kind` (MAX_TEXT_BYTES)", shape.accelerators.kind.as_deref().unwrap_or_default())?;
    if let Target::Labels(labels) = &shape.target {
        bounded(operation, "number of `labels`", labels.len(), MAX_LABELS)?;
        labels.iter().try_for_each(|label| text("text of one of the `labels` (MAX_TEXT_BYTES)", label))?;
    }
    Ok(())
}

/// The trace of a submission. One that does not say belongs to a trace of its own, so that logs can be searched for it.
fn traced(trace: TraceContext, request: uuid::Uuid) -> TraceContext {
    match trace.trace_id {
        0 => {
            let trace_id = request.as_u128();
            // Never zero, which would mean that there is none; not sampled, because nobody asked.
            TraceContext { trace_id, span_id: trace_id as u64 | 1, flags: 0 }
        }
        _ => trace,
    }
}

fn log(accepted: &[Vec<TaskId>], trace: TraceContext, endpoint: EndpointId) {
    if tracing::enabled!(target: "funcx_net::task", tracing::Level::DEBUG) {
        let trace_id = format_args!("{:032x}", trace.trace_id);
        for task in accepted.iter().flatten() {
            tracing::debug!(target: "funcx_net::task", %task, %trace_id, %endpoint, "accepted");
        }
    }
}

/// Refuses times in which nothing can be done, and those that are as good as for ever.
fn check_times(operation: &'static str, batch: &Batch) -> Answer<()> {
    let longest = Duration::from_secs(limit::MAX_TASK_SECONDS);
    for (name, time) in
        [("walltime", batch.shape.walltime), ("ttl", batch.limits.ttl), ("deadline", batch.limits.deadline)]
    {
        if let Some(time) = time.filter(|time| time.is_zero() || *time > longest) {
            let message = format!("`{name}` must be more than zero and at most ten years (MAX_TASK_SECONDS)");
            return Err(Error::new(ErrorKind::InvalidInput, operation, message)
                .with_context("seconds", time.as_secs_f64())
                .into());
        }
    }
    Ok(())
}

/// The tasks of a request: those that have to run, and those whose values are known.
#[derive(Default)]
struct New {
    tasks: Vec<(Task, Arc<Origin>)>,
    submissions: Vec<Numbered>,
    answers: Vec<(Numbered, Vec<Outcome>)>,
}

impl New {
    /// Adds calls of one function. `known` has one entry for each, or none at all.
    fn add(&mut self, origin: &Arc<Origin>, calls: Vec<(TaskId, Bytes)>, known: Vec<Known>) {
        let values = known.into_iter().chain(iter::repeat((None, None)));
        let (mut waiting, mut known, mut outcomes) =
            (Vec::with_capacity(calls.len()), Vec::new(), Vec::new());
        for ((id, payload), (memo, value)) in calls.into_iter().zip(values) {
            let mut task = Task::new(id, Arc::clone(&origin.spec), payload.clone());
            task.memo = memo;
            task.stamps.set(Hop::Accepted, origin.accepted);
            match value {
                Some(value) => {
                    outcomes.push(Outcome::remembered(&task, value));
                    known.push((id, payload));
                }
                None => {
                    self.tasks.push((task, Arc::clone(origin)));
                    waiting.push((id, payload));
                }
            }
        }
        if !waiting.is_empty() {
            self.submissions.push((Arc::clone(origin), waiting));
        }
        if !known.is_empty() {
            self.answers.push(((Arc::clone(origin), known), outcomes));
        }
    }
}

/// Ids and arguments of the calls of one function.
pub(super) type Numbered = (Arc<Origin>, Vec<(TaskId, Bytes)>);

/// The submissions of one request, numbered on from `first`.
fn writes(submissions: Vec<Numbered>, mut first: u64) -> Vec<Write> {
    let submissions = submissions.into_iter().map(|numbered| {
        let first_sequence = first;
        first += numbered.1.len() as u64;
        Write::Submit(submission(numbered, first_sequence))
    });
    submissions.collect()
}

pub(super) fn submission((origin, tasks): Numbered, first_sequence: u64) -> Submission {
    Submission {
        endpoint: origin.endpoint,
        group: origin.group,
        function: origin.function,
        spec: Arc::clone(&origin.spec),
        accepted: origin.accepted,
        first_sequence,
        tasks,
    }
}

/// 128 random bits.
pub(super) fn random_bits() -> Result<u128> {
    let mut bytes = [0; 16];
    fill(&mut bytes)?;
    Ok(u128::from_ne_bytes(bytes))
}

/// An id for a request and ids for its tasks, in one call of the operating system.
fn random_ids(count: usize) -> Result<(uuid::Uuid, Vec<TaskId>)> {
    let mut bytes = vec![0; 16 * (count + 1)];
    fill(&mut bytes)?;
    let (ids, _) = bytes.as_chunks::<16>();
    let mut ids = ids.iter().map(|bytes| TaskId::from_random(u128::from_ne_bytes(*bytes)));
    let request = ids.next().map_or(uuid::Uuid::nil(), TaskId::uuid);
    Ok((request, ids.collect()))
}

fn fill(bytes: &mut [u8]) -> Result<()> {
    getrandom::fill(bytes).map_err(|error| {
        Error::new(ErrorKind::Unavailable, "draw an id", "the operating system gives no random numbers")
            .with_source(error)
    })
}

/// Now, for records.
pub(super) fn now() -> Timestamp {
    wall_clock()
}
