//! The queue of one endpoint: its front is in the dispatcher, its tail in the store.
//!
//! Tasks of an endpoint carry sequence numbers in the order in which they were accepted. Everything up to
//! `loaded_through` has been handed to the dispatcher, once, and is there or has ended; everything after it up to
//! `tail_through` lies in the store only. A task that is accepted goes straight to the dispatcher if it is the next in
//! order and the window has room, else it becomes part of the tail, which is read in order when outcomes make room.
//!
//! - **No task is handed in twice.** `loaded_through` only grows, pages are read behind it by one loader at a time,
//!   and a page counts only up to the `tail_through` of the moment before it was read.
//! - **No task is handed in after its end.** What ends in the dispatcher was loaded before. What ends in the store
//!   alone (cancelled in the tail) is ended under the loader's lock, so no page that still shows it is waiting to be
//!   handed in.
//! - **An endpoint may hold only what is loaded again after a restart.** A task leaves the window when its outcome is
//!   durable. So the tasks that were loaded and have no durable outcome are the first ones of the endpoint, and no more
//!   than the window; they are what is loaded before the endpoint is let in again. (If an operator makes the window
//!   smaller, what an endpoint holds beyond the new one is stopped there and run again later.)

use std::{collections::VecDeque, sync::Arc, time::Duration};

use bytes::Bytes;
use funcx_core::contract::{EndpointRecord, PendingTask, TaskRecord, Write};
use funcx_core::model::{EndpointId, Failure, Hop, IdMap, Now, Outcome, OutcomeKind, Task, TaskId, limit};
use funcx_core::state::{LaneId, Node, TaskState};
use funcx_core::{Error, ErrorKind, Result};
use futures::FutureExt;
use futures::future::BoxFuture;
use parking_lot::Mutex;

use super::publish::Origin;
use super::tasks::READ_TASKS;
use super::{Service, ServiceConfig, Tracked};
use crate::driver::wall_clock;

/// First pause after the store could not be read; doubles up to [`LONGEST_PAUSE`].
pub(super) const FIRST_PAUSE: Duration = Duration::from_millis(20);
/// Longest pause between two tries of the store.
pub(super) const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// The queue of one endpoint.
#[derive(Debug)]
pub(super) struct Lane {
    pub(super) endpoint: EndpointId,
    pub(super) id: LaneId,
    loader: tokio::sync::Mutex<()>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    next_sequence: u64,
    loaded_through: u64,
    tail_through: u64,
    arriving: VecDeque<Arrival>,
    window_tasks: usize,
    window_bytes: usize,
    unfinished: u64,
    /// Whether the endpoint is there, as far as its connection says.
    connected: bool,
    /// Whether tasks are loaded: from the moment the endpoint asks to be let in until it is gone.
    online: bool,
    loading: bool,
    closed: bool,
}

/// A submission that is being committed, or waits for earlier ones that are.
#[derive(Debug)]
struct Arrival {
    first: u64,
    last: u64,
    tasks: Vec<Arriving>,
    committed: Option<bool>,
}

#[derive(Debug)]
struct Arriving {
    sequence: u64,
    task: Task,
    origin: Arc<Origin>,
}

impl Lane {
    /// The queue of an endpoint as the store has it; nothing is loaded yet.
    ///
    /// Sequence numbers go on from the wall clock in nanoseconds: later than all earlier ones without a search. Should
    /// the clock have been set back, they go on from the last task that is still there.
    pub(super) async fn open(service: &Service, endpoint: EndpointId) -> Result<Self> {
        let unfinished = service.store.pending_count(endpoint).await?;
        let mut next_sequence = wall_clock().as_nanos().max(1);
        loop {
            let later = service
                .store
                .pending(endpoint, next_sequence - 1, limit::MAX_PAGE_TASKS, limit::TARGET_BATCH_BYTES)
                .await?;
            match later.last() {
                Some(last) => next_sequence = last.sequence + 1,
                None => break,
            }
        }
        let id = service.node.with(|node, _| node.open_lane()).await?;
        let tail_through = next_sequence - 1;
        let state = State {
            next_sequence,
            loaded_through: if unfinished == 0 { tail_through } else { 0 },
            tail_through,
            arriving: VecDeque::new(),
            window_tasks: 0,
            window_bytes: 0,
            unfinished,
            connected: false,
            online: false,
            loading: false,
            closed: false,
        };
        Ok(Self { endpoint, id, loader: tokio::sync::Mutex::new(()), state: Mutex::new(state) })
    }

    /// Tasks of the endpoint without an outcome.
    pub(super) fn unfinished(&self) -> u64 {
        self.state.lock().unfinished
    }

    /// Whether the endpoint is connected.
    pub(super) fn is_connected(&self) -> bool {
        self.state.lock().connected
    }

    /// The endpoint has come or gone. While it is away its tasks stay in the store.
    pub(super) fn set_connected(self: &Arc<Self>, service: &Arc<Service>, connected: bool) {
        let mut state = self.state.lock();
        (state.connected, state.online) = (connected, connected);
        self.wake(service, &mut state);
    }

    /// The endpoint asks to be let in. Resolves when the window is full or everything is loaded.
    ///
    /// # Errors
    /// Those of the store.
    pub(super) async fn prepare(self: &Arc<Self>, service: &Arc<Service>) -> Result<()> {
        self.state.lock().online = true;
        self.load(service).await
    }

    /// Gives tasks their sequence numbers and calls `commit` with the first one; the order of numbers is the order of
    /// commits. What `commit` gave has to be awaited, and [`Lane::settled`] be called with what became of it.
    ///
    /// # Errors
    /// `NotFound` if the endpoint is being deleted, `LimitExceeded` if it has `bound` unfinished tasks.
    pub(super) fn begin(
        &self,
        tasks: Vec<(Task, Arc<Origin>)>,
        bound: u64,
        commit: impl FnOnce(u64) -> BoxFuture<'static, Result<()>>,
    ) -> Result<(u64, BoxFuture<'static, Result<()>>)> {
        let mut state = self.state.lock();
        let count = tasks.len() as u64;
        if state.closed {
            return Err(Error::new(ErrorKind::NotFound, "submit tasks", "the endpoint is being deleted"));
        }
        if state.unfinished + count > bound {
            let message =
                "the endpoint has as many unfinished tasks as it may (service setting `endpoint_tasks`)";
            return Err(Error::new(ErrorKind::LimitExceeded, "submit tasks", message)
                .with_context("unfinished", state.unfinished)
                .with_context("limit", bound)
                .with_retry(funcx_core::model::Retry::After(Some(Duration::from_secs(1)))));
        }
        let first = state.next_sequence;
        state.next_sequence += count;
        state.unfinished += count;
        let committed = commit(first);
        let tasks =
            (first..).zip(tasks).map(|(sequence, (task, origin))| Arriving { sequence, task, origin });
        let arrival = Arrival { first, last: first + count - 1, tasks: tasks.collect(), committed: None };
        state.arriving.push_back(arrival);
        Ok((first, committed))
    }

    /// The submission that begins with this sequence number is durable, or never will be.
    pub(super) fn settled(self: &Arc<Self>, service: &Arc<Service>, first: u64, committed: bool) {
        let mut state = self.state.lock();
        if let Some(arrival) = state.arriving.iter_mut().find(|arrival| arrival.first == first) {
            arrival.committed = Some(committed);
        }
        while let Some(arrival) = state.arriving.pop_front_if(|arrival| arrival.committed.is_some()) {
            match arrival.committed {
                Some(true) => self.take(service, &mut state, arrival),
                _ => state.unfinished -= arrival.tasks.len() as u64,
            }
        }
        self.wake(service, &mut state);
    }

    /// Tasks that were loaded have durable outcomes.
    pub(super) fn finished(self: &Arc<Self>, service: &Arc<Service>, tasks: usize, bytes: usize) {
        let mut state = self.state.lock();
        state.window_tasks -= tasks;
        state.window_bytes -= bytes;
        state.unfinished = state.unfinished.saturating_sub(tasks as u64);
        self.wake(service, &mut state);
    }

    /// Loads from the store until the window is full or nothing is left there.
    ///
    /// **Cancellation.** Dropping the future leaves the rest in the store.
    async fn load(self: &Arc<Self>, service: &Arc<Service>) -> Result<()> {
        let _loader = self.loader.lock().await;
        loop {
            let (after, through, tasks, bytes) = {
                let state = self.state.lock();
                if !state.has_tail() || state.closed || !state.has_room(&service.config) {
                    return Ok(());
                }
                let tasks = (service.config.window_tasks - state.window_tasks).min(limit::MAX_PAGE_TASKS);
                let bytes = (service.config.window_bytes - state.window_bytes).min(limit::TARGET_BATCH_BYTES);
                (state.loaded_through, state.tail_through, tasks, bytes)
            };
            let page = service.store.pending(self.endpoint, after, tasks, bytes).await?;
            self.take_page(service, page, through);
        }
    }

    /// Ends the tasks among these that are not loaded, and asks the dispatcher to cancel the others. Returns what it did to
    /// those that had not ended before. `tasks` are ids with their sequence numbers.
    ///
    /// # Errors
    /// Those of the store; then tasks that are not loaded have not ended.
    pub(super) async fn cancel(
        self: &Arc<Self>,
        service: &Arc<Service>,
        tasks: Vec<(TaskId, u64)>,
        reason: &Failure,
    ) -> Result<Cancelled> {
        let _loader = self.loader.lock().await;
        let Parted { loaded, tail, arriving } = self.part(tasks);
        let mut done = match loaded.is_empty() {
            true => Cancelled::default(),
            false => service.node.with(move |node, now| Cancelled::in_node(node, loaded, now)).await?,
        };
        let cancelled = |task: &Task| Outcome::failed(task, OutcomeKind::Cancelled, reason);
        if !arriving.is_empty() {
            // Nobody else will hand these in any more, so their end must not be given up.
            Arc::clone(service).finish(arriving.iter().map(cancelled).collect()).await;
            self.ended(arriving.len());
            done.ended.extend(arriving.iter().map(|task| task.id));
        }
        let mut ended = Vec::new();
        for part in tail.chunks(READ_TASKS) {
            // Read again under the lock: somebody else may have cancelled them meanwhile.
            let records = service.store.tasks(part).await?.into_iter().flatten();
            ended.extend(records.filter(|record| record.outcome.is_none()).map(unloaded));
        }
        if !ended.is_empty() {
            let outcomes = ended.iter().map(|(task, _)| cancelled(task)).collect();
            let ids: Vec<_> = ended.iter().map(|(task, _)| task.id).collect();
            service
                .finish_unloaded(outcomes, ended.into_iter().map(|(_, origin)| Some(origin)).collect())
                .await?;
            self.ended(ids.len());
            done.ended.extend(ids);
        }
        Ok(done)
    }

    /// So many tasks have ended that were not in the dispatcher.
    fn ended(&self, tasks: usize) {
        let mut state = self.state.lock();
        state.unfinished = state.unfinished.saturating_sub(tasks as u64);
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
        let mut after = 0;
        loop {
            let page = service
                .store
                .pending(self.endpoint, after, limit::MAX_PAGE_TASKS, limit::TARGET_BATCH_BYTES)
                .await?;
            let Some(last) = page.last() else { return Ok(()) };
            after = last.sequence;
            self.cancel(service, page.iter().map(|task| (task.id, task.sequence)).collect(), reason).await?;
        }
    }

    /// Takes tasks again after [`Lane::close`].
    pub(super) fn reopen(&self) {
        self.state.lock().closed = false;
    }

    /// Where these tasks are. Those that are being accepted are taken out of what will be handed in.
    fn part(&self, tasks: Vec<(TaskId, u64)>) -> Parted {
        let mut state = self.state.lock();
        let mut parted = Parted { loaded: Vec::new(), tail: Vec::new(), arriving: Vec::new() };
        let mut arriving: IdMap<TaskId, ()> = IdMap::default();
        for (id, sequence) in tasks {
            if sequence <= state.loaded_through {
                parted.loaded.push(id);
            } else if sequence <= state.tail_through {
                parted.tail.push(id);
            } else {
                arriving.insert(id, ());
            }
        }
        if !arriving.is_empty() {
            for arrival in &mut state.arriving {
                let taken = arrival.tasks.extract_if(.., |one| arriving.contains_key(&one.task.id));
                parted.arriving.extend(taken.map(|taken| taken.task));
            }
        }
        parted
    }

    /// Hands in a durable submission as far as there is room; the rest of it becomes part of the tail.
    fn take(self: &Arc<Self>, service: &Arc<Service>, state: &mut State, arrival: Arrival) {
        let mut fitting = Vec::new();
        if !state.has_tail() {
            let mut rest = arrival.tasks.into_iter();
            while state.has_room(&service.config)
                && let Some(arriving) = rest.next()
            {
                state.loaded_through = arriving.sequence;
                state.window_tasks += 1;
                state.window_bytes += arriving.task.payload.len();
                fitting.push((arriving.task, Some(arriving.origin)));
            }
            if rest.len() == 0 {
                state.loaded_through = arrival.last;
            }
        }
        state.tail_through = arrival.last;
        self.hand_in(service, fitting);
    }

    fn take_page(self: &Arc<Self>, service: &Arc<Service>, page: Vec<PendingTask>, through: u64) {
        let mut state = self.state.lock();
        let mut fitting = Vec::with_capacity(page.len());
        // An empty page has shown that there is nothing up to `through`, and so has one that goes beyond.
        let mut loaded_through = if page.is_empty() { through } else { state.loaded_through };
        for pending in page {
            if pending.sequence > through {
                loaded_through = through;
                break;
            }
            if !state.has_room(&service.config) {
                break;
            }
            loaded_through = pending.sequence;
            state.window_tasks += 1;
            state.window_bytes += pending.payload.len();
            let mut task = Task::new(pending.id, pending.spec, pending.payload);
            task.stamps.set(Hop::Accepted, pending.accepted);
            fitting.push((task, None));
        }
        state.loaded_through = loaded_through;
        self.hand_in(service, fitting);
    }

    /// Gives tasks to the dispatcher. Called with the state locked, so that they get there in order.
    fn hand_in(self: &Arc<Self>, service: &Arc<Service>, tasks: Vec<(Task, Option<Arc<Origin>>)>) {
        if tasks.is_empty() {
            return;
        }
        let (tasks, origins): (Vec<_>, Vec<_>) = tasks.into_iter().unzip();
        service.tracked.lock().extend(tasks.iter().zip(origins).map(|(task, origin)| {
            (task.id, Tracked { lane: Arc::clone(self), bytes: task.payload.len(), origin })
        }));
        let id = self.id;
        // The command is sent when the future is polled for the first time, and nobody needs its answer: the
        // dispatcher's lanes have no bound of their own here, so nothing is refused. A node that has stopped leaves the
        // tasks in the store.
        let _ = service
            .node
            .with(move |node, now| {
                let refused = node.submit(id, tasks, now);
                debug_assert!(refused.is_empty(), "lanes of a service are bounded by its windows");
            })
            .now_or_never();
    }

    /// Starts to load if the window is less than half full and the store has more.
    fn wake(self: &Arc<Self>, service: &Arc<Service>, state: &mut State) {
        if state.loading || !state.is_hungry(&service.config) {
            return;
        }
        state.loading = true;
        let (lane, service) = (Arc::clone(self), Arc::clone(service));
        tokio::spawn(async move { lane.keep_loading(&service).await });
    }

    async fn keep_loading(self: Arc<Self>, service: &Arc<Service>) {
        let mut pause = FIRST_PAUSE;
        loop {
            if let Err(error) = self.load(service).await {
                tracing::warn!(endpoint = %self.endpoint, %error, "cannot load tasks from the store; trying again");
                tokio::select! {
                    () = tokio::time::sleep(pause) => pause = (pause * 2).min(LONGEST_PAUSE),
                    () = service.stopping.cancelled() => {}
                }
            }
            let mut state = self.state.lock();
            if !state.is_hungry(&service.config) || service.stopping.is_cancelled() {
                state.loading = false;
                return;
            }
        }
    }
}

impl State {
    fn has_tail(&self) -> bool {
        self.loaded_through < self.tail_through
    }

    fn has_room(&self, config: &ServiceConfig) -> bool {
        self.online && self.window_tasks < config.window_tasks && self.window_bytes < config.window_bytes
    }

    fn is_hungry(&self, config: &ServiceConfig) -> bool {
        self.has_tail()
            && self.online
            && !self.closed
            && self.window_tasks < config.window_tasks.div_ceil(2)
            && self.window_bytes < config.window_bytes.div_ceil(2)
    }
}

/// What a cancel did to tasks that had not ended.
#[derive(Debug, Default)]
pub(super) struct Cancelled {
    /// They have ended, and nothing of them runs.
    pub(super) ended: Vec<TaskId>,
    /// They are at the endpoint, which was asked to stop them.
    pub(super) asked: Vec<TaskId>,
}

impl Cancelled {
    /// Cancels tasks of the dispatcher.
    fn in_node(node: &mut Node, tasks: Vec<TaskId>, now: Now) -> Self {
        let mut done = Self::default();
        for task in &tasks {
            match node.state(*task) {
                Some(TaskState::Queued) => done.ended.push(*task),
                Some(TaskState::Leased { .. }) => done.asked.push(*task),
                None => {}
            }
        }
        node.cancel(tasks, now);
        done
    }
}

/// Where tasks of a lane are.
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
    let TaskRecord { id, endpoint, group, function, spec, accepted, .. } = record;
    let mut task = Task::new(id, Arc::clone(&spec), Bytes::new());
    task.stamps.set(Hop::Accepted, accepted);
    (task, Arc::new(Origin { endpoint, group, function, spec, accepted }))
}
