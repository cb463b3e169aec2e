//! The durable store of the service: what was accepted and how it ended; and the part of it that the service has loaded.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use super::agenda::{Event, Input};
use super::{Fabric, FabricConfig, note};
use crate::model::{
    Function, IdentityId, Memoize, Outcome, OutcomeKind, Task, TaskEvent, TaskEventKind, TaskId, TaskLimits,
    TaskSpec, Tick,
};
use crate::state::{DeliveryId, LaneId};

/// Time that a commit takes.
const COMMIT: Duration = Duration::from_micros(200);
/// Time between a commit and the word of it.
const WORD: Duration = Duration::from_micros(50);
/// Bit of a variant whose tasks may be answered with values of equal ones.
const MEMOIZED: u8 = 128;
/// Different calls of memoized tasks; few, so that many are equal.
const CALLS: u32 = 5;
/// Pause after which a refused commit is tried again.
const AGAIN: Duration = Duration::from_millis(250);

/// What is made durable at once.
#[derive(Debug)]
pub(super) enum Commit {
    Outcomes(DeliveryId, Vec<Outcome>),
    Events(Vec<TaskEvent>),
    Tasks { tasks: Range<u32>, lane: u32, variant: u8 },
}

/// What the store has of a task.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Record {
    pub(super) accepted: Option<Tick>,
    pub(super) outcome: Option<OutcomeKind>,
    pub(super) lane: u16,
    pub(super) variant: u8,
    /// Attempts that were lost, and how many of them do not count.
    lost: u8,
    granted: u8,
    /// An attempt with a time to live has begun.
    begun: bool,
    /// The dispatcher of the service has it, or had it since the service started.
    pub(super) loaded: bool,
}

#[derive(Debug, Default)]
struct Queue {
    /// Everything that was accepted, in order.
    order: Vec<u32>,
    /// The first one that is not loaded.
    next: usize,
    /// Loaded and without an outcome.
    window: u32,
}

#[derive(Debug)]
pub(super) struct Store {
    pub(super) records: Vec<Record>,
    queues: Vec<Queue>,
    /// By variant and environment.
    specs: Vec<Arc<TaskSpec>>,
    environments: u32,
    last_commit: Tick,
    pub(super) full_until: Tick,
    pub(super) slow: (Tick, Duration),
    /// Commits under way.
    pub(super) pending: u32,
    last_outcome: Option<u32>,
}

impl Store {
    pub(super) fn new(config: &FabricConfig) -> Self {
        let FabricConfig { endpoints, tasks, .. } = *config;
        Self {
            records: vec![Record::default(); tasks as usize],
            queues: (0..endpoints).map(|_| Queue::default()).collect(),
            specs: (0..=u8::MAX)
                .flat_map(|variant| (0..=config.environments).map(move |environment| (variant, environment)))
                .map(|(variant, environment)| Arc::new(spec(variant, environment, config)))
                .collect(),
            environments: config.environments,
            last_commit: Tick::ZERO,
            full_until: Tick::ZERO,
            slow: (Tick::ZERO, Duration::ZERO),
            pending: 0,
            last_outcome: None,
        }
    }

    fn spec(&self, number: u32) -> &Arc<TaskSpec> {
        let variant = u32::from(self.records[number as usize].variant);
        &self.specs[(variant * (self.environments + 1) + self.environment(number)) as usize]
    }

    pub(super) fn limits(&self, number: u32) -> TaskLimits {
        self.spec(number).limits
    }

    /// Which environment a task asks for; 0 is the default one. Equal calls ask for the same.
    pub(super) const fn environment(&self, number: u32) -> u32 {
        number % CALLS % (self.environments + 1)
    }

    /// What a memoized task calls, and for whom.
    pub(super) fn memoized_call(&self, number: u32) -> Option<(u8, u32)> {
        let variant = self.records[number as usize].variant;
        (variant & MEMOIZED != 0).then_some((variant & 3, number % CALLS))
    }

    /// How long a task says that it takes.
    pub(super) fn walltime(&self, number: u32) -> Option<Duration> {
        self.spec(number).shape.walltime
    }

    /// The service has started: nothing is loaded.
    pub(super) fn unload(&mut self) {
        self.pending = 0;
        self.records.iter_mut().for_each(|record| record.loaded = false);
        self.queues.iter_mut().for_each(|queue| (queue.next, queue.window) = (0, 0));
    }

    /// What happened to an attempt is durable.
    fn note(&mut self, event: &TaskEvent) {
        let record = &mut self.records[task_number(event.attempt.task) as usize];
        match event.kind {
            TaskEventKind::Lost | TaskEventKind::LeaseLost if event.attempt.number > record.lost.into() => {
                record.lost = event.attempt.number as u8;
                record.granted += u8::from(event.kind == TaskEventKind::LeaseLost);
            }
            TaskEventKind::Started => record.begun = true,
            _ => {}
        }
    }

    /// The planted bug: the last outcome is not there any more.
    pub(super) fn forget(&mut self) {
        if let Some(number) = self.last_outcome.take() {
            self.records[number as usize].outcome = None;
        }
    }

    /// The next tasks of a queue, as many as its window has room for.
    fn load(&mut self, lane: usize, window: u32, now: Tick, local: Tick) -> Vec<Task> {
        let mut tasks = Vec::new();
        while self.queues[lane].window < window && self.queues[lane].next < self.queues[lane].order.len() {
            let queue = &mut self.queues[lane];
            let number = queue.order[queue.next];
            queue.next += 1;
            let record = &mut self.records[number as usize];
            let (None, Some(accepted)) = (record.outcome, record.accepted) else { continue };
            record.loaded = true;
            queue.window += 1;
            let (begun, lost, granted) = (record.begun, record.lost, record.granted);
            let spec = self.spec(number);
            let arguments = match spec.memoize {
                Memoize::Never => String::new(),
                _ => (number % CALLS).to_string(),
            };
            let mut task = Task::new(task_id(number), Arc::clone(spec), arguments);
            let age = now.since(accepted);
            let left = |limit: Option<Duration>| {
                limit.map_or(Tick::NEVER, |limit| local + limit.saturating_sub(age))
            };
            let ttl = spec.limits.ttl.filter(|_| !begun);
            (task.start_by, task.end_by) = (left(ttl), left(spec.limits.deadline));
            (task.attempt, task.granted) = (1 + u32::from(lost), granted.into());
            tasks.push(task);
        }
        tasks
    }
}

pub(super) const fn task_id(number: u32) -> TaskId {
    TaskId::from_u128(number as u128 + 1)
}

pub(super) fn task_number(id: TaskId) -> u32 {
    id.as_u128() as u32 - 1
}

/// What tasks and managers call an environment; the default one has no name.
pub(super) fn environment_name(environment: u32) -> Option<String> {
    (environment != 0).then(|| format!("e{environment}"))
}

/// What tasks of a variant are like: two bits for the owner, one of whom says how long tasks take, two for the priority, one
/// each for a single attempt, a time to live, a deadline, and whether values of equal tasks will do.
fn spec(variant: u8, environment: u32, config: &FabricConfig) -> TaskSpec {
    let owner = variant & 3;
    let function = Function::native(if owner == 0 { "work" } else { "play" });
    let mut spec = TaskSpec::new(Arc::new(function), IdentityId::from_u128(1 + u128::from(owner)));
    spec.limits = TaskLimits {
        max_attempts: if variant & 16 == 0 { config.max_attempts } else { 1 },
        priority: [0, 5, -3, 0][usize::from(variant >> 2 & 3)],
        ttl: (variant & 32 != 0).then_some(Duration::from_secs(3)),
        deadline: (variant & 64 != 0).then_some(Duration::from_secs(8)),
    };
    let longest = Duration::from_millis(config.longest_task_millis.into());
    if variant & MEMOIZED != 0 {
        spec.memoize = Memoize::Own;
    }
    spec.shape.environment = environment_name(environment);
    spec.shape.walltime = (owner == 3).then_some(longest + Duration::from_millis(1));
    spec
}

impl Fabric {
    /// Begins a commit. Commits are in order; a full store refuses tasks, and outcomes are tried again.
    pub(super) fn commit(&mut self, commit: Commit) {
        let store = &mut self.store;
        let mut at = self.now + if self.now < store.slow.0 { store.slow.1 } else { COMMIT };
        if self.now < store.full_until {
            match &commit {
                Commit::Outcomes(..) | Commit::Events(_) => at = at.max(store.full_until + AGAIN),
                Commit::Tasks { tasks, .. } => {
                    note!(self, "submission {tasks:?} is refused, the store is full");
                    return;
                }
            }
        }
        at = at.max(store.last_commit);
        (store.last_commit, store.pending) = (at, store.pending + 1);
        let life = self.processes[0].life;
        self.agenda.add(at, Event::At(0, life, Input::Durable(commit)));
    }

    /// Keeps what a later life of the service has to know about attempts.
    pub(super) fn keep(&mut self, mut events: Vec<TaskEvent>) {
        events.retain(|event| match event.kind {
            TaskEventKind::Started => self.store.limits(task_number(event.attempt.task)).ttl.is_some(),
            kind => matches!(kind, TaskEventKind::Lost | TaskEventKind::LeaseLost),
        });
        if !events.is_empty() {
            self.commit(Commit::Events(events));
        }
    }

    /// A commit is done.
    pub(super) fn durable(&mut self, commit: Commit) {
        self.store.pending -= 1;
        match commit {
            Commit::Tasks { tasks, lane, variant } => {
                note!(self, "accepted {tasks:?} for lane {lane}");
                self.figures.open += tasks.len() as u64;
                let queue = &mut self.store.queues[lane as usize];
                let tail = queue.next < queue.order.len();
                queue.order.extend(tasks.clone());
                for number in tasks {
                    let record = &mut self.store.records[number as usize];
                    (record.accepted, record.lane, record.variant) = (Some(self.now), lane as u16, variant);
                }
                if !tail || queue.window < self.config.window_tasks / 2 {
                    self.load(lane);
                }
            }
            Commit::Events(events) => events.iter().for_each(|event| self.store.note(event)),
            Commit::Outcomes(delivery, outcomes) => {
                let mut lanes = Vec::new();
                for outcome in outcomes {
                    let number = task_number(outcome.task);
                    self.end(number, outcome.kind, Some(outcome.attempt));
                    let record = &mut self.store.records[number as usize];
                    if record.outcome.replace(outcome.kind).is_none() && record.loaded {
                        self.store.queues[usize::from(record.lane)].window -= 1;
                        if !lanes.contains(&record.lane) {
                            lanes.push(record.lane);
                        }
                    }
                    self.store.last_outcome = Some(number);
                }
                for lane in lanes {
                    if self.store.queues[usize::from(lane)].window < self.config.window_tasks.div_ceil(2) {
                        self.load(u32::from(lane));
                    }
                }
                let life = self.processes[0].life;
                self.agenda.add(self.now + WORD, Event::At(0, life, Input::Committed(delivery)));
            }
        }
    }

    /// Loads what fits into the window of an endpoint.
    pub(super) fn load(&mut self, lane: u32) {
        let now = self.clock(0);
        let tasks = self.store.load(lane as usize, self.config.window_tasks, self.now, now.tick);
        let refused = self.processes[0].node.submit(LaneId(lane), tasks, now);
        if !refused.is_empty() {
            self.broken(format!("the service refuses {} tasks of its own store", refused.len()));
        }
    }

    /// Somebody cancels these tasks, known or not. What is not loaded ends in the store alone.
    pub(super) fn cancel(&mut self, tasks: Range<u32>) {
        let mut loaded = Vec::new();
        for number in tasks {
            match self.store.records.get(number as usize).copied() {
                Some(Record { accepted: Some(_), outcome: None, loaded: false, .. }) => {
                    if self.store.full_until <= self.now {
                        self.asked_to_stop(number);
                        self.store.records[number as usize].outcome = Some(OutcomeKind::Cancelled);
                        self.end(number, OutcomeKind::Cancelled, None);
                    }
                }
                Some(_) => {
                    self.asked_to_stop(number);
                    loaded.push(task_id(number));
                }
                None => loaded.push(task_id(number)),
            }
        }
        let now = self.clock(0);
        self.processes[0].node.cancel(loaded, now);
    }
}
