//! What waits for one endpoint: a queue for each owner and priority, and what they have in common.
//!
//! Which task goes next is decided by the dispatcher; here the first ones of every queue are brought to it.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use funcx_core::contract::{Backlog, Due, EndpointRecord, QueueKey, TaskRecord, Write};
use funcx_core::model::{
    EndpointId, Failure, Hop, IdMap, Now, Outcome, OutcomeKind, Retry, Task, TaskId, limit,
};
use funcx_core::state::{LaneId, Node};
use funcx_core::{Error, ErrorKind, Result};
use futures::future::BoxFuture;
use parking_lot::Mutex;

use super::publish::Origin;
use super::queue::{Queue, Window};
use super::tasks::READ_TASKS;
use super::{Service, ServiceConfig};
use crate::driver::wall_clock;

/// First pause after the store could not be read; doubles up to [`LONGEST_PAUSE`].
pub(super) const FIRST_PAUSE: Duration = Duration::from_millis(20);
/// Longest pause between two tries of the store.
pub(super) const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// The queues of one endpoint.
#[derive(Debug)]
pub(super) struct Lane {
    pub(super) endpoint: EndpointId,
    pub(super) id: LaneId,
    pub(super) state: Mutex<State>,
}

#[derive(Debug)]
pub(super) struct State {
    next_sequence: u64,
    arriving: VecDeque<Arrival>,
    /// All that has no outcome, in all queues.
    backlog: Backlog,
    /// Every queue in which something waits, and some that are empty.
    queues: BTreeMap<QueueKey, (Arc<Queue>, Window)>,
    /// Whether the endpoint is there, as far as its connection says.
    connected: bool,
    /// Whether tasks are loaded: from the moment the endpoint asks to be let in until it is gone.
    pub(super) online: bool,
    pub(super) closed: bool,
}

/// A submission that is being committed, or waits for earlier ones that are.
#[derive(Debug)]
struct Arrival {
    first: u64,
    parts: Vec<Part>,
    committed: Option<bool>,
}

/// Its tasks that go to one queue.
#[derive(Debug)]
struct Part {
    queue: Arc<Queue>,
    last: u64,
    tasks: Vec<(u64, Task, Arc<Origin>)>,
}

/// A task that is to end, and where it waits.
#[derive(Debug, Clone, Copy)]
pub(super) struct Doomed {
    pub(super) id: TaskId,
    pub(super) queue: QueueKey,
    pub(super) sequence: u64,
}

impl Lane {
    /// The queues of an endpoint as the store has them; nothing is loaded yet.
    ///
    /// Sequence numbers go on from the wall clock in nanoseconds: later than all earlier ones without a search. Should
    /// the clock have been set back, they go on from the last task that is still there.
    pub(super) async fn open(service: &Service, endpoint: EndpointId) -> Result<Self> {
        let mut next_sequence = wall_clock().as_nanos().max(1);
        let mut stored = Vec::new();
        loop {
            let after = stored.last().map(|(key, _)| *key);
            let page = service.store.queues(endpoint, after, limit::MAX_PAGE_TASKS).await?;
            if page.is_empty() {
                break;
            }
            for (key, _) in &page {
                next_sequence = after_last(service, endpoint, *key, next_sequence).await?;
            }
            stored.extend(page);
        }
        let backlog = service.store.backlog(endpoint).await?;
        let id = service.node.with(|node, _| node.open_lane()).await?;
        let queues = stored.into_iter().map(|(key, Backlog { tasks, .. })| {
            (key, (Queue::new(endpoint, key), Window::stored(next_sequence - 1, tasks)))
        });
        let state = State {
            next_sequence,
            arriving: VecDeque::new(),
            backlog,
            queues: queues.collect(),
            connected: false,
            online: false,
            closed: false,
        };
        Ok(Self { endpoint, id, state: Mutex::new(state) })
    }

    /// Tasks of the endpoint without an outcome.
    pub(super) fn unfinished(&self) -> u64 {
        self.state.lock().backlog.tasks
    }

    /// Whether the endpoint is connected.
    pub(super) fn is_connected(&self) -> bool {
        self.state.lock().connected
    }

    /// The endpoint has come or gone. While it is away its tasks stay in the store.
    pub(super) fn set_connected(self: &Arc<Self>, service: &Arc<Service>, connected: bool) {
        let mut state = self.state.lock();
        (state.connected, state.online) = (connected, connected);
        for queue in state.all_queues() {
            self.wake(service, &mut state, &queue);
        }
    }

    /// The endpoint asks to be let in. Resolves when each window is full or everything is loaded.
    ///
    /// # Errors
    /// Those of the store.
    pub(super) async fn prepare(self: &Arc<Self>, service: &Arc<Service>) -> Result<()> {
        let queues = {
            let mut state = self.state.lock();
            state.online = true;
            state.all_queues()
        };
        for queue in queues {
            self.load(service, &queue).await?;
        }
        Ok(())
    }

    /// Gives tasks their sequence numbers and calls `commit` with the first one; the order of numbers is the order of
    /// commits. What `commit` gave has to be awaited, and [`Lane::settled`] be called with what became of it, if there are any
    /// tasks.
    ///
    /// # Errors
    /// `NotFound` if the endpoint is being deleted, `LimitExceeded` if as much waits for it as may.
    pub(super) fn begin(
        &self,
        tasks: Vec<(Task, Arc<Origin>)>,
        config: &ServiceConfig,
        commit: impl FnOnce(u64) -> BoxFuture<'static, Result<()>>,
    ) -> Result<(Option<u64>, BoxFuture<'static, Result<()>>)> {
        let mut state = self.state.lock();
        if state.closed {
            return Err(Error::new(ErrorKind::NotFound, "submit tasks", "the endpoint is being deleted"));
        }
        let new = Backlog {
            tasks: tasks.len() as u64,
            bytes: tasks.iter().map(|(task, _)| task.payload.len() as u64).sum(),
        };
        state.require_room(new, config)?;
        let parts = state.number(self.endpoint, tasks, config)?;
        let first = state.next_sequence;
        state.next_sequence += new.tasks;
        state.backlog.tasks += new.tasks;
        state.backlog.bytes += new.bytes;
        let committed = commit(first);
        // Without tasks there is nothing to hand in, and the next one has the same first number.
        let arrives = new.tasks > 0;
        if arrives {
            state.arriving.push_back(Arrival { first, parts, committed: None });
        }
        Ok((arrives.then_some(first), committed))
    }

    /// The submission that begins with this sequence number is durable, or never will be.
    pub(super) fn settled(self: &Arc<Self>, service: &Arc<Service>, first: u64, committed: bool) {
        let mut state = self.state.lock();
        if let Some(arrival) = state.arriving.iter_mut().find(|arrival| arrival.first == first) {
            arrival.committed = Some(committed);
        }
        while let Some(arrival) = state.arriving.pop_front_if(|arrival| arrival.committed.is_some()) {
            for Part { queue, last, tasks } in arrival.parts {
                if arrival.committed == Some(true) {
                    let times =
                        tasks.iter().flat_map(|(_, task, origin)| Due::times(&task.spec, origin.accepted));
                    let due = times.map(|(at, _)| at).min();
                    let online = state.online;
                    let Some(window) = state.window_mut(queue.key) else { continue };
                    let fitting = window.take(&service.config, online, tasks, last);
                    self.hand_in(service, &queue, fitting);
                    due.into_iter().for_each(|at| service.sweeper.expect(at));
                } else {
                    let bytes = tasks.iter().map(|(_, task, _)| task.payload.len() as u64).sum();
                    state.ended(queue.key, Backlog { tasks: tasks.len() as u64, bytes });
                }
                self.wake(service, &mut state, &queue);
            }
        }
    }

    /// Tasks of a queue that were loaded have durable outcomes.
    pub(super) fn finished(self: &Arc<Self>, service: &Arc<Service>, queue: &Arc<Queue>, ended: Backlog) {
        let mut state = self.state.lock();
        if let Some(window) = state.window_mut(queue.key) {
            window.release(ended);
        }
        state.ended(queue.key, ended);
        self.wake(service, &mut state, queue);
    }

    /// Ends the tasks among these that are not loaded, and asks the dispatcher to cancel the others. Returns what it did to
    /// those that had not ended before.
    ///
    /// # Errors
    /// Those of the store; then tasks that are not loaded have not ended.
    pub(super) async fn cancel(
        self: &Arc<Self>,
        service: &Arc<Service>,
        tasks: Vec<Doomed>,
        reason: &Failure,
    ) -> Result<Cancelled> {
        let cancelled = |task: &Task| Outcome::failed(task, OutcomeKind::Cancelled, reason);
        let mut done = Cancelled::default();
        for (queue, tasks) in self.by_queue(tasks) {
            let _loader = queue.loader.lock().await;
            let Parted { loaded, tail, arriving } = self.part(queue.key, tasks, true);
            if !loaded.is_empty() {
                let in_node =
                    service.node.with(move |node, now| Cancelled::in_node(node, loaded, now)).await?;
                done.ended.extend(in_node.ended);
                done.asked.extend(in_node.asked);
            }
            if !arriving.is_empty() {
                // Nobody else will hand these in any more, so their end must not be given up.
                Arc::clone(service).finish(arriving.iter().map(cancelled).collect()).await;
                let bytes = arriving.iter().map(|task| task.payload.len() as u64).sum();
                let ended = Backlog { tasks: arriving.len() as u64, bytes };
                self.state.lock().ended(queue.key, ended);
                done.ended.extend(arriving.iter().map(|task| task.id));
            }
            done.ended.extend(self.end_tail(service, &queue, tail, cancelled).await?);
        }
        Ok(done)
    }

    /// Ends the tasks among these that are not loaded and have to end now. Those that are loaded are ended by the
    /// dispatcher, and those that are being accepted come back when they have been.
    ///
    /// # Errors
    /// Those of the store; then some have not ended.
    pub(super) async fn expire(self: &Arc<Self>, service: &Arc<Service>, mut due: Vec<Due>) -> Result<usize> {
        // Time to live and deadline of a task may both have passed since somebody looked; it ends once.
        let mut reasons: IdMap<TaskId, _> = IdMap::default();
        due.retain(|due| reasons.insert(due.task, due.reason).is_none());
        let doomed =
            due.iter().map(|due| Doomed { id: due.task, queue: due.queue, sequence: due.sequence }).collect();
        let mut found = 0;
        for (queue, tasks) in self.by_queue(doomed) {
            let _loader = queue.loader.lock().await;
            let Parted { tail, .. } = self.part(queue.key, tasks, false);
            let timed_out = |task: &Task| super::sweep::timed_out(task, reasons.get(&task.id).copied());
            found += self.end_tail(service, &queue, tail, timed_out).await?.len();
        }
        Ok(found)
    }

    /// Ends tasks of the tail of a queue, and returns those that had not ended. Called with its loader locked.
    async fn end_tail(
        &self,
        service: &Arc<Service>,
        queue: &Queue,
        tail: Vec<TaskId>,
        outcome: impl Fn(&Task) -> Outcome,
    ) -> Result<Vec<TaskId>> {
        let mut ended = Vec::new();
        let mut size = Backlog::default();
        for part in tail.chunks(READ_TASKS) {
            // Read again under the lock: somebody else may have ended them meanwhile.
            for record in service.store.tasks(part).await?.into_iter().flatten() {
                if record.outcome.is_none() {
                    size.tasks += 1;
                    size.bytes += record.payload.len() as u64;
                    ended.push(unloaded(record));
                }
            }
        }
        let ids = ended.iter().map(|(task, _)| task.id).collect();
        if !ended.is_empty() {
            let outcomes = ended.iter().map(|(task, _)| outcome(task)).collect();
            let origins = ended.into_iter().map(|(_, origin)| Some(origin)).collect();
            service.finish_unloaded(outcomes, origins).await?;
            self.state.lock().ended(queue.key, size);
        }
        Ok(ids)
    }

    /// Ends every task of the endpoint and takes no more.
    ///
    /// # Errors
    /// Those of the store; then it can be tried again.
    pub(super) async fn close(
        self: &Arc<Self>,
        service: &Arc<Service>,
        record: Arc<EndpointRecord>,
        reason: &Failure,
    ) -> Result<()> {
        self.state.lock().closed = true;
        // Commits are applied in order: after this one, which changes nothing, all submissions that were under way can
        // be read.
        service.store.commit(vec![Write::PutEndpoint(record)]).await?;
        let queues = self.state.lock().all_queues();
        for queue in queues {
            let mut after = 0;
            loop {
                let (tasks, bytes) = (limit::MAX_PAGE_TASKS, limit::TARGET_BATCH_BYTES);
                let page = service.store.pending(self.endpoint, queue.key, after, tasks, bytes).await?;
                let Some(last) = page.last() else { break };
                after = last.sequence;
                let doomed = page.iter().map(|task| {
                    let (id, sequence) = (task.id, task.sequence);
                    Doomed { id, queue: queue.key, sequence }
                });
                self.cancel(service, doomed.collect(), reason).await?;
            }
        }
        Ok(())
    }

    /// Takes tasks again after [`Lane::close`].
    pub(super) fn reopen(&self) {
        self.state.lock().closed = false;
    }

    /// Tasks by the queue in which they wait. A queue that is not known has none any more.
    fn by_queue(&self, tasks: Vec<Doomed>) -> Vec<(Arc<Queue>, Vec<Doomed>)> {
        let mut by_queue: BTreeMap<QueueKey, Vec<Doomed>> = BTreeMap::new();
        for task in tasks {
            by_queue.entry(task.queue).or_default().push(task);
        }
        let state = self.state.lock();
        let known = |key: &QueueKey| state.queues.get(key).map(|(queue, _)| Arc::clone(queue));
        by_queue.into_iter().filter_map(|(key, tasks)| Some((known(&key)?, tasks))).collect()
    }

    /// Where these tasks of a queue are. Those that are being accepted are taken out of what will be handed in, if that is
    /// asked for.
    fn part(&self, queue: QueueKey, tasks: Vec<Doomed>, take: bool) -> Parted {
        let mut state = self.state.lock();
        let mut parted = Parted { loaded: Vec::new(), tail: Vec::new(), arriving: Vec::new() };
        let Some(window) = state.window(queue) else { return parted };
        let mut arriving: IdMap<TaskId, ()> = IdMap::default();
        for Doomed { id, sequence, .. } in tasks {
            if sequence <= window.loaded_through {
                parted.loaded.push(id);
            } else if sequence <= window.tail_through {
                parted.tail.push(id);
            } else {
                arriving.insert(id, ());
            }
        }
        if take && !arriving.is_empty() {
            for part in state.arriving.iter_mut().flat_map(|arrival| &mut arrival.parts) {
                let taken = part.tasks.extract_if(.., |(_, task, _)| arriving.contains_key(&task.id));
                parted.arriving.extend(taken.map(|(_, task, _)| task));
            }
        }
        parted
    }
}

impl State {
    pub(super) fn window(&self, queue: QueueKey) -> Option<&Window> {
        self.queues.get(&queue).map(|(_, window)| window)
    }

    pub(super) fn window_mut(&mut self, queue: QueueKey) -> Option<&mut Window> {
        self.queues.get_mut(&queue).map(|(_, window)| window)
    }

    fn all_queues(&self) -> Vec<Arc<Queue>> {
        self.queues.values().map(|(queue, _)| Arc::clone(queue)).collect()
    }

    /// Tasks of a queue have ended, or were not accepted.
    fn ended(&mut self, queue: QueueKey, ended: Backlog) {
        self.backlog.tasks = self.backlog.tasks.saturating_sub(ended.tasks);
        self.backlog.bytes = self.backlog.bytes.saturating_sub(ended.bytes);
        if let Some(window) = self.window_mut(queue) {
            window.unfinished = window.unfinished.saturating_sub(ended.tasks);
        }
    }

    /// Refuses what would be more than may wait for an endpoint.
    fn require_room(&self, new: Backlog, config: &ServiceConfig) -> Result<()> {
        let bounds = [
            (
                self.backlog.tasks,
                new.tasks,
                config.endpoint_tasks,
                "the endpoint has as many unfinished tasks as it may (service setting `endpoint_tasks`)",
            ),
            (
                self.backlog.bytes,
                new.bytes,
                config.endpoint_bytes,
                "the unfinished tasks of the endpoint have as many bytes of arguments as they may (service setting \
                 `endpoint_bytes`)",
            ),
        ];
        for (unfinished, new, bound, message) in bounds {
            if unfinished.saturating_add(new) > bound {
                return Err(full(message, unfinished, bound));
            }
        }
        Ok(())
    }

    /// Numbers tasks on, and divides them by queue.
    fn number(
        &mut self,
        endpoint: EndpointId,
        tasks: Vec<(Task, Arc<Origin>)>,
        config: &ServiceConfig,
    ) -> Result<Vec<Part>> {
        let mut parts: Vec<Part> = Vec::new();
        for (sequence, (task, origin)) in (self.next_sequence..).zip(tasks) {
            let key = QueueKey::of(&task.spec);
            if parts.last().is_none_or(|part| part.queue.key != key) {
                let queue = self.queue(endpoint, key, config)?;
                parts.push(Part { queue, last: sequence, tasks: Vec::new() });
            }
            if let Some(part) = parts.last_mut() {
                part.last = sequence;
                part.tasks.push((sequence, task, origin));
            }
        }
        for part in &parts {
            if let Some(window) = self.window_mut(part.queue.key) {
                window.unfinished += part.tasks.len() as u64;
            }
        }
        Ok(parts)
    }

    /// The queue with this key, which is made if there is none.
    fn queue(&mut self, endpoint: EndpointId, key: QueueKey, config: &ServiceConfig) -> Result<Arc<Queue>> {
        if let Some((queue, _)) = self.queues.get(&key) {
            return Ok(Arc::clone(queue));
        }
        if self.queues.len() >= config.endpoint_queues {
            // Whoever works on a queue holds it.
            self.queues.retain(|_, (queue, window)| window.unfinished > 0 || Arc::strong_count(queue) > 1);
        }
        if self.queues.len() >= config.endpoint_queues {
            let message = "as many owners and priorities wait for the endpoint as may (service setting \
                           `endpoint_queues`)";
            return Err(full(message, self.queues.len() as u64, config.endpoint_queues as u64));
        }
        let queue = Queue::new(endpoint, key);
        self.queues.insert(key, (Arc::clone(&queue), Window::empty(self.next_sequence - 1)));
        Ok(queue)
    }
}

/// What a cancel did to tasks that had not ended.
#[derive(Debug, Default)]
pub(super) struct Cancelled {
    /// They have ended, and will not run.
    pub(super) ended: Vec<TaskId>,
    /// They are at the endpoint, which was asked to stop them.
    pub(super) asked: Vec<TaskId>,
}

impl Cancelled {
    /// Cancels tasks of the dispatcher, which ends at once those that no connected endpoint has.
    fn in_node(node: &mut Node, mut tasks: Vec<TaskId>, now: Now) -> Self {
        tasks.retain(|task| node.state(*task).is_some());
        node.cancel(tasks.iter().copied(), now);
        let (asked, ended) = tasks.into_iter().partition(|task| node.state(*task).is_some());
        Self { ended, asked }
    }
}

fn full(message: &'static str, unfinished: u64, bound: u64) -> Error {
    Error::new(ErrorKind::LimitExceeded, "submit tasks", message)
        .with_context("unfinished", unfinished)
        .with_context("limit", bound)
        .with_retry(Retry::After(Some(Duration::from_secs(1))))
}

/// The first sequence number from `next` on after which no task of the queue has one.
async fn after_last(service: &Service, endpoint: EndpointId, queue: QueueKey, mut next: u64) -> Result<u64> {
    loop {
        let (tasks, bytes) = (limit::MAX_PAGE_TASKS, limit::TARGET_BATCH_BYTES);
        let later = service.store.pending(endpoint, queue, next - 1, tasks, bytes).await?;
        match later.last() {
            Some(last) => next = last.sequence + 1,
            None => return Ok(next),
        }
    }
}

/// Where tasks of a queue are.
struct Parted {
    /// In the dispatcher, or they were and have ended.
    loaded: Vec<TaskId>,
    /// In the store only.
    tail: Vec<TaskId>,
    /// Nowhere any more: they were on their way into the dispatcher.
    arriving: Vec<Task>,
}

/// A task of the tail.
fn unloaded(record: TaskRecord) -> (Task, Arc<Origin>) {
    let TaskRecord { id, endpoint, group, function, spec, accepted, attempt, .. } = record;
    let mut task = Task::new(id, Arc::clone(&spec), Bytes::new());
    task.attempt = attempt;
    task.stamps.set(Hop::Accepted, accepted);
    (task, Arc::new(Origin { endpoint, group, function, spec, accepted }))
}
