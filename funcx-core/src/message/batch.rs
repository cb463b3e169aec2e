//! Batches: n heads in the header, n payloads behind it.

use std::{iter, sync::Arc, time::Duration};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::Payloads;
use crate::memo::{MemoKey, MemoKeys};
use crate::model::{
    Accelerators, Function, FunctionBody, FunctionHash, FunctionKind, Hop, HopStamps, IdentityId, Memoize,
    Outcome, OutcomeKind, Shape, Target, Task, TaskId, TaskLimits, TaskSpec, Tick, TraceContext,
};

/// Bodies of functions.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct FunctionBatch {
    /// What each is; its code is the payload with the same index.
    pub heads: Vec<FunctionHead>,
    /// Functions that the receiver can forget: no later task names them before they are sent again.
    pub forget: Vec<FunctionHash>,
    /// Code of each function.
    #[serde(skip)]
    pub payloads: Payloads,
}

/// A function without its code.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FunctionHead {
    /// Kind of its code.
    pub kind: FunctionKind,
    /// Name inside the code.
    pub entry: String,
    /// Length of the code.
    pub code_len: u32,
}

impl FunctionBatch {
    /// Adds a function.
    pub fn push(&mut self, function: &Function) {
        let body = function.body();
        self.heads.push(FunctionHead {
            kind: body.kind,
            entry: body.entry.clone(),
            code_len: length(&body.code),
        });
        self.payloads.push(body.code.clone());
    }

    /// The functions, hashed anew: a body is known by what it is, not by what somebody says it is.
    pub fn into_functions(self) -> impl Iterator<Item = Function> {
        self.heads
            .into_iter()
            .zip(self.payloads)
            .map(|(head, code)| Function::new(FunctionBody { kind: head.kind, entry: head.entry, code }))
    }
}

/// Tasks to run.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct TaskBatch {
    /// What tasks of this batch share.
    pub specs: Vec<SpecHead>,
    /// The tasks.
    pub heads: Vec<TaskHead>,
    /// Arguments of each task.
    #[serde(skip)]
    pub payloads: Payloads,
    /// Keys of the memoized ones, if the receiver has found them.
    #[serde(skip)]
    pub keys: Vec<Option<Arc<MemoKey>>>,
}

/// A [`TaskSpec`] on the wire.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpecHead {
    function: FunctionHash,
    milli_cores: u32,
    memory_bytes: u64,
    accelerator_milli_count: u32,
    accelerator_kind: Option<String>,
    nodes: u32,
    ranks_per_node: u32,
    walltime: Option<Duration>,
    environment: Option<String>,
    container: Option<String>,
    labels: Option<Vec<String>>,
    max_attempts: u32,
    priority: i8,
    ttl: Option<Duration>,
    deadline: Option<Duration>,
    owner: IdentityId,
    options: String,
    map: bool,
    memoize: Memoize,
    trace: (u128, u64, u8),
}

/// A [`Task`] on the wire, without what it shares with others and without its arguments.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskHead {
    /// The task.
    pub task: TaskId,
    /// Number of this attempt.
    pub attempt: u32,
    /// Earlier attempts that do not count.
    pub granted: u32,
    /// Time left until it has to begin, and until it has to end.
    left: [Option<Duration>; 2],
    /// Index into the specifications of the batch.
    pub spec: u32,
    /// Length of the arguments.
    pub payload_len: u32,
    stamps: [u64; Hop::ALL.len()],
}

impl SpecHead {
    fn new(spec: &TaskSpec) -> Self {
        let TaskSpec { function, shape, limits, owner, options, map, memoize, trace } = spec;
        Self {
            function: function.hash(),
            milli_cores: shape.milli_cores,
            memory_bytes: shape.memory_bytes,
            accelerator_milli_count: shape.accelerators.milli_count,
            accelerator_kind: shape.accelerators.kind.clone(),
            nodes: shape.nodes,
            ranks_per_node: shape.ranks_per_node,
            walltime: shape.walltime,
            environment: shape.environment.clone(),
            container: shape.container.clone(),
            labels: match &shape.target {
                Target::Anywhere => None,
                Target::Labels(labels) => Some(labels.clone()),
            },
            max_attempts: limits.max_attempts,
            priority: limits.priority,
            ttl: limits.ttl,
            deadline: limits.deadline,
            owner: *owner,
            options: String::from_utf8_lossy(options).into_owned(),
            map: *map,
            memoize: *memoize,
            trace: (trace.trace_id, trace.span_id, trace.flags),
        }
    }

    /// The function that the tasks call.
    pub const fn function(&self) -> FunctionHash {
        self.function
    }

    /// The trace that the tasks belong to, for logs; 0 if there is none.
    pub const fn trace_id(&self) -> u128 {
        self.trace.0
    }

    fn shape(&self) -> Shape {
        Shape {
            milli_cores: self.milli_cores,
            memory_bytes: self.memory_bytes,
            accelerators: Accelerators {
                milli_count: self.accelerator_milli_count,
                kind: self.accelerator_kind.clone(),
            },
            nodes: self.nodes,
            ranks_per_node: self.ranks_per_node,
            walltime: self.walltime,
            environment: self.environment.clone(),
            container: self.container.clone(),
            target: self.labels.clone().map_or(Target::Anywhere, Target::Labels),
        }
    }

    /// Below the service nobody knows who may see whose values, so all are the owner's.
    fn memo_keys(&self) -> Option<MemoKeys> {
        let keys = || {
            MemoKeys::of_owner(self.owner, self.function, self.map, self.options.as_bytes(), &self.shape())
        };
        (self.memoize != Memoize::Never).then(keys)
    }

    /// The specification, for the function that the receiver has under [`SpecHead::function`].
    pub fn into_spec(self, function: Arc<Function>) -> TaskSpec {
        TaskSpec {
            function,
            shape: self.shape(),
            limits: TaskLimits {
                max_attempts: self.max_attempts,
                priority: self.priority,
                ttl: self.ttl,
                deadline: self.deadline,
            },
            owner: self.owner,
            options: self.options.into(),
            map: self.map,
            memoize: self.memoize,
            trace: TraceContext { trace_id: self.trace.0, span_id: self.trace.1, flags: self.trace.2 },
        }
    }
}

impl TaskBatch {
    /// The batch of these tasks, sent at `now`. Neighbours with the same specification share one entry.
    pub fn new(tasks: impl IntoIterator<Item = Task>, now: Tick) -> Self {
        let mut batch = Self::default();
        let mut last: Option<Arc<TaskSpec>> = None;
        for task in tasks {
            if last.as_ref().is_none_or(|spec| !Arc::ptr_eq(spec, &task.spec)) {
                batch.specs.push(SpecHead::new(&task.spec));
                last = Some(task.spec);
            }
            batch.heads.push(TaskHead {
                task: task.id,
                attempt: task.attempt,
                granted: task.granted,
                left: [task.start_by, task.end_by].map(|due| (due != Tick::NEVER).then(|| due.since(now))),
                spec: batch.specs.len() as u32 - 1,
                payload_len: length(&task.payload),
                stamps: task.stamps.to_nanos(),
            });
            batch.payloads.push(task.payload);
        }
        batch
    }

    /// Finds the keys of memoized tasks, which takes long for large arguments: before the node that is to run them has them.
    pub fn find_keys(&mut self) {
        let specs: Vec<_> = self.specs.iter().map(SpecHead::memo_keys).collect();
        if specs.iter().any(Option::is_some) {
            let key = |(head, arguments): (&TaskHead, &Bytes)| {
                let keys = specs.get(head.spec as usize)?.as_ref()?;
                Some(Arc::new(keys.of(arguments)))
            };
            self.keys = self.heads.iter().zip(&self.payloads).map(key).collect();
        }
    }

    /// The tasks, received at `now`. `function` finds the body for a hash; the error is the hash that it does not find, or `None`
    /// for a head that names no specification.
    pub fn into_tasks(
        self,
        now: Tick,
        mut function: impl FnMut(FunctionHash) -> Option<Arc<Function>>,
    ) -> Result<Vec<Task>, Option<FunctionHash>> {
        let specs = self
            .specs
            .into_iter()
            .map(|head| {
                let hash = head.function();
                function(hash).map(|function| Arc::new(head.into_spec(function))).ok_or(Some(hash))
            })
            .collect::<Result<Vec<_>, _>>()?;
        self.heads
            .into_iter()
            .zip(self.payloads)
            .zip(self.keys.into_iter().chain(iter::repeat(None)))
            .map(|((head, payload), memo)| {
                let spec = specs.get(head.spec as usize).ok_or(None)?;
                Ok(Task {
                    id: head.task,
                    attempt: head.attempt,
                    granted: head.granted,
                    spec: Arc::clone(spec),
                    payload,
                    memo,
                    stamps: HopStamps::from_nanos(head.stamps),
                    start_by: due(head.left[0], now),
                    end_by: due(head.left[1], now),
                })
            })
            .collect()
    }
}

fn due(left: Option<Duration>, now: Tick) -> Tick {
    left.map_or(Tick::NEVER, |left| now + left)
}

/// Outcomes of tasks.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct OutcomeBatch {
    /// Counts the batches of this epoch from 1; acknowledged by this number.
    pub sequence: u64,
    /// Details of the workers that ran the tasks.
    pub workers: Vec<String>,
    /// The outcomes.
    pub heads: Vec<OutcomeHead>,
    /// Payload, standard output and standard error of each outcome, in this order.
    #[serde(skip)]
    pub payloads: Payloads,
}

/// An [`Outcome`] on the wire, without its bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutcomeHead {
    /// The task.
    pub task: TaskId,
    /// The attempt.
    pub attempt: u32,
    /// How it ended.
    pub kind: OutcomeKind,
    /// Index into the workers of the batch, plus one; 0 for unknown.
    pub worker: u32,
    /// Lengths of payload, standard output and standard error.
    pub lens: [u32; 3],
    stamps: [u64; Hop::ALL.len()],
}

impl OutcomeBatch {
    /// The batch of these outcomes. Neighbours from the same worker share one entry.
    pub fn new(sequence: u64, outcomes: impl IntoIterator<Item = Outcome>) -> Self {
        let mut batch = Self { sequence, ..Self::default() };
        let mut last = Bytes::new();
        for outcome in outcomes {
            if !outcome.worker.is_empty() && outcome.worker != last {
                batch.workers.push(String::from_utf8_lossy(&outcome.worker).into_owned());
                last = outcome.worker.clone();
            }
            batch.heads.push(OutcomeHead {
                task: outcome.task,
                attempt: outcome.attempt,
                kind: outcome.kind,
                worker: if outcome.worker.is_empty() { 0 } else { batch.workers.len() as u32 },
                lens: [length(&outcome.payload), length(&outcome.stdout), length(&outcome.stderr)],
                stamps: outcome.stamps.to_nanos(),
            });
            batch.payloads.extend([outcome.payload, outcome.stdout, outcome.stderr]);
        }
        batch
    }

    /// The outcomes.
    pub fn into_outcomes(self) -> Vec<Outcome> {
        let workers: Vec<Bytes> = self.workers.into_iter().map(Bytes::from).collect();
        let mut payloads = self.payloads.into_iter();
        let mut next = || payloads.next().unwrap_or_default();
        self.heads
            .into_iter()
            .map(|head| Outcome {
                task: head.task,
                attempt: head.attempt,
                kind: head.kind,
                payload: next(),
                stdout: next(),
                stderr: next(),
                worker: (head.worker as usize)
                    .checked_sub(1)
                    .and_then(|index| workers.get(index))
                    .cloned()
                    .unwrap_or_default(),
                stamps: HopStamps::from_nanos(head.stamps),
            })
            .collect()
    }
}

/// Length on the wire. Payloads are bounded far below 4 GiB where they enter the fabric.
fn length(bytes: &Bytes) -> u32 {
    u32::try_from(bytes.len()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Timestamp;

    #[test]
    fn tasks_come_back_as_they_went() {
        let function = Arc::new(Function::python("f", "def f(): pass"));
        let mut spec = TaskSpec::new(Arc::clone(&function), IdentityId::from_u128(9));
        spec.shape.walltime = Some(Duration::from_secs(60));
        spec.shape.target = Target::Labels(vec!["gpu".into()]);
        spec.options = "{}".into();
        (spec.map, spec.memoize) = (true, Memoize::Shared);
        let (spec, other) =
            (Arc::new(spec.clone()), Arc::new(TaskSpec::new(Arc::clone(&function), spec.owner)));
        let mut tasks: Vec<_> = (1..=5)
            .map(|n| {
                Task::new(
                    TaskId::from_u128(n),
                    Arc::clone(if n < 4 { &spec } else { &other }),
                    vec![n as u8; n as usize],
                )
            })
            .collect();
        tasks[2].stamps.set(Hop::Accepted, Timestamp::from_nanos(77));

        // Its clock is a second ahead of that of the sender, which is nothing to the time that is left.
        let (sent, second) = (Tick::from_nanos(5), Duration::from_secs(1));
        (tasks[0].start_by, tasks[1].end_by, tasks[1].granted) = (sent + second, sent, 2);
        let batch = TaskBatch::new(tasks.clone(), sent);
        assert_eq!(batch.specs.len(), 2);
        (tasks[0].start_by, tasks[1].end_by) = (sent + second + second, sent + second);
        let back = batch
            .into_tasks(sent + second, |hash| (hash == function.hash()).then(|| Arc::clone(&function)))
            .unwrap();
        assert_eq!(back, tasks);
    }

    #[test]
    fn keys_of_memoized_tasks_are_found_on_arrival_and_never_sent() {
        let owner = IdentityId::from_u128(1);
        let plain = Arc::new(TaskSpec::new(Arc::new(Function::native("f")), owner));
        let memoized = Arc::new(TaskSpec { memoize: Memoize::Shared, ..(*plain).clone() });
        let mut task = Task::new(TaskId::from_u128(1), Arc::clone(&memoized), "x");
        task.memo = Some(Arc::new(MemoKey([7; 32])));
        let other = Task::new(TaskId::from_u128(2), plain, "x");
        let mut batch = TaskBatch::new([task, other], Tick::from_nanos(1));
        assert!(batch.keys.is_empty());
        batch.find_keys();
        let function = Arc::clone(&memoized.function);
        let tasks = batch.into_tasks(Tick::from_nanos(1), |_| Some(Arc::clone(&function))).unwrap();
        let keys: Vec<_> = tasks.iter().map(|task| task.memo.as_deref().copied()).collect();
        assert_eq!(keys, [Some(MemoKey::own(&memoized, b"x")), None]);
    }

    #[test]
    fn a_task_for_an_unknown_function_is_an_error_that_names_it() {
        let function = Arc::new(Function::native("f"));
        let spec = Arc::new(TaskSpec::new(Arc::clone(&function), IdentityId::from_u128(9)));
        let batch = TaskBatch::new([Task::new(TaskId::from_u128(1), spec, "")], Tick::ZERO);
        assert_eq!(batch.clone().into_tasks(Tick::ZERO, |_| None), Err(Some(function.hash())));

        let mut astray = batch;
        astray.heads[0].spec = 7;
        assert_eq!(astray.into_tasks(Tick::ZERO, |_| Some(Arc::clone(&function))), Err(None));
    }

    #[test]
    fn outcomes_come_back_as_they_went() {
        let spec = Arc::new(TaskSpec::new(Arc::new(Function::native("f")), IdentityId::from_u128(9)));
        let outcomes: Vec<_> = (1..=4)
            .map(|n| {
                let mut outcome = Outcome::returned(
                    &Task::new(TaskId::from_u128(n), Arc::clone(&spec), ""),
                    vec![1; n as usize],
                );
                outcome.stdout = "hello".into();
                outcome.worker = if n < 3 { "{\"os\":\"a\"}".into() } else { Bytes::new() };
                outcome
            })
            .collect();
        let batch = OutcomeBatch::new(3, outcomes.clone());
        assert_eq!((batch.sequence, batch.workers.len()), (3, 1));
        assert_eq!(batch.into_outcomes(), outcomes);
    }
}
