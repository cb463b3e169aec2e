//! One queue of an endpoint: its front is in the dispatcher, its tail in the store.
//!
//! Tasks of an endpoint carry sequence numbers in the order in which they were accepted. Everything of a queue up to
//! `loaded_through` has been handed to the dispatcher, once, and is there or has ended; everything after it up to
//! `tail_through` lies in the store only. A task that is accepted goes straight to the dispatcher if it is the next of its
//! queue and the window has room, else it becomes part of the tail, which is read in order when outcomes make room.
//!
//! - **No task is handed in twice.** `loaded_through` only grows, pages are read behind it by one loader at a time,
//!   and a page counts only up to the `tail_through` of the moment before it was read.
//! - **No task is handed in after its end.** What ends in the dispatcher was loaded before. What ends in the store
//!   alone (cancelled or expired in the tail) is ended under the loader's lock, so no page that still shows it is waiting
//!   to be handed in.
//! - **An endpoint may hold only what is loaded again after a restart.** A task leaves the window when its outcome is
//!   durable. So the tasks that were loaded and have no durable outcome are the first ones of their queue, and no more
//!   than the window; they are what is loaded before the endpoint is let in again. (If an operator makes the window
//!   smaller, what an endpoint holds beyond the new one is stopped there and run again later.)

use std::sync::Arc;

use funcx_core::Result;
use funcx_core::contract::{Backlog, PendingTask, QueueKey};
use funcx_core::memo::MemoKey;
use funcx_core::model::{EndpointId, Hop, IdMap, Now, Task, TaskId, Tick, Timestamp, limit};
use futures::FutureExt;

use super::lane::{FIRST_PAUSE, LONGEST_PAUSE, Lane, State};
use super::publish::Origin;
use super::{Service, ServiceConfig, Tracked, memo};

/// The name of a queue, and the lock of who loads it.
#[derive(Debug)]
pub(super) struct Queue {
    pub(super) endpoint: EndpointId,
    pub(super) key: QueueKey,
    pub(super) loader: tokio::sync::Mutex<()>,
}

/// What of a queue is in the dispatcher, and what is in the store.
#[derive(Debug)]
pub(super) struct Window {
    pub(super) loaded_through: u64,
    pub(super) tail_through: u64,
    /// What is loaded and has no durable outcome.
    tasks: usize,
    bytes: usize,
    /// Tasks without an outcome, wherever they are.
    pub(super) unfinished: u64,
    loading: bool,
}

/// A task that is to be handed in.
pub(super) struct Loaded {
    task: Task,
    origin: Arc<Origin>,
    /// Whether an earlier attempt had begun, so that its time to live does not matter.
    begun: bool,
}

impl Queue {
    pub(super) fn new(endpoint: EndpointId, key: QueueKey) -> Arc<Self> {
        Arc::new(Self { endpoint, key, loader: tokio::sync::Mutex::default() })
    }
}

impl Window {
    /// A queue in which nothing waits; sequence numbers up to this one are used.
    pub(super) const fn empty(through: u64) -> Self {
        let (tasks, bytes, unfinished, loading) = (0, 0, 0, false);
        Self { loaded_through: through, tail_through: through, tasks, bytes, unfinished, loading }
    }

    /// A queue that lies in the store.
    pub(super) const fn stored(through: u64, unfinished: u64) -> Self {
        Self { loaded_through: 0, unfinished, ..Self::empty(through) }
    }

    const fn has_tail(&self) -> bool {
        self.loaded_through < self.tail_through
    }

    const fn has_room(&self, config: &ServiceConfig) -> bool {
        self.tasks < config.window_tasks && self.bytes < config.window_bytes
    }

    fn is_hungry(&self, config: &ServiceConfig) -> bool {
        self.has_tail()
            && self.tasks < config.window_tasks.div_ceil(2)
            && self.bytes < config.window_bytes.div_ceil(2)
    }

    /// Makes durable tasks part of the queue: those that fit are returned, the others become part of the tail.
    pub(super) fn take(
        &mut self,
        config: &ServiceConfig,
        online: bool,
        tasks: Vec<(u64, Task, Arc<Origin>)>,
        last: u64,
    ) -> Vec<Loaded> {
        let mut fitting = Vec::new();
        let mut all_fit = !self.has_tail();
        for (sequence, task, origin) in tasks {
            if !all_fit || !online || !self.has_room(config) {
                all_fit = false;
                break;
            }
            self.loaded_through = sequence;
            self.count(&task);
            fitting.push(Loaded { task, origin, begun: false });
        }
        if all_fit {
            self.loaded_through = last;
        }
        self.tail_through = last;
        fitting
    }

    /// The tasks of a page that fit. The page counts up to `through`.
    fn take_page(
        &mut self,
        config: &ServiceConfig,
        endpoint: EndpointId,
        page: impl ExactSizeIterator<Item = (PendingTask, Option<Arc<MemoKey>>)>,
        through: u64,
    ) -> Vec<Loaded> {
        let mut fitting = Vec::with_capacity(page.len());
        // An empty page has shown that there is nothing up to `through`, and so has one that goes beyond.
        let mut loaded_through = if page.len() == 0 { through } else { self.loaded_through };
        let mut origin = None;
        for (pending, memo) in page {
            if pending.sequence > through {
                loaded_through = through;
                break;
            }
            if !self.has_room(config) {
                break;
            }
            loaded_through = pending.sequence;
            let origin = Arc::clone(origin_of(&pending, endpoint, &mut origin));
            let mut task = Task::new(pending.id, pending.spec, pending.payload);
            (task.attempt, task.granted, task.memo) = (pending.attempt, pending.granted, memo);
            task.stamps.set(Hop::Accepted, pending.accepted);
            self.count(&task);
            fitting.push(Loaded { task, origin, begun: pending.begun });
        }
        self.loaded_through = loaded_through;
        fitting
    }

    fn count(&mut self, task: &Task) {
        self.tasks += 1;
        self.bytes += task.payload.len();
    }

    /// Loaded tasks have durable outcomes.
    pub(super) fn release(&mut self, ended: Backlog) {
        self.tasks -= ended.tasks as usize;
        self.bytes -= ended.bytes as usize;
    }
}

impl Lane {
    /// Loads from the store until the window is full or nothing is left there.
    ///
    /// **Cancellation.** Dropping the future leaves the rest in the store.
    pub(super) async fn load(self: &Arc<Self>, service: &Arc<Service>, queue: &Arc<Queue>) -> Result<()> {
        let _loader = queue.loader.lock().await;
        let config = &service.config;
        loop {
            let (after, through, tasks, bytes) = {
                let state = self.state.lock();
                let Some(window) = state.window(queue.key) else { return Ok(()) };
                if !window.has_tail() || !state.online || state.closed || !window.has_room(config) {
                    return Ok(());
                }
                let tasks = (config.window_tasks - window.tasks).min(limit::MAX_PAGE_TASKS);
                let bytes = (config.window_bytes - window.bytes).min(limit::TARGET_BATCH_BYTES);
                (window.loaded_through, window.tail_through, tasks, bytes)
            };
            let page = service.store.pending(self.endpoint, queue.key, after, tasks, bytes).await?;
            // Before anything is locked: of large arguments that takes long.
            let keys = memo::pending_keys(&page, self.endpoint);
            let mut state = self.state.lock();
            let Some(window) = state.window_mut(queue.key) else { return Ok(()) };
            let fitting = window.take_page(config, self.endpoint, page.into_iter().zip(keys), through);
            self.hand_in(service, queue, fitting);
        }
    }

    /// Gives tasks to the dispatcher. Called with the state locked, so that they get there in order.
    pub(super) fn hand_in(&self, service: &Arc<Service>, queue: &Arc<Queue>, loaded: Vec<Loaded>) {
        if loaded.is_empty() {
            return;
        }
        let mut begun: IdMap<TaskId, ()> = IdMap::default();
        let mut tasks = Vec::with_capacity(loaded.len());
        let mut tracked = service.tracked.lock();
        for Loaded { task, origin, begun: has_begun } in loaded {
            if has_begun {
                begun.insert(task.id, ());
            }
            let queue = Arc::clone(queue);
            let expires = !has_begun && task.spec.limits.ttl.is_some();
            let (bytes, memo) = (task.payload.len(), task.memo.clone());
            tracked.insert(task.id, Tracked { queue, bytes, expires, origin, memo });
            tasks.push(task);
        }
        drop(tracked);
        let id = self.id;
        // The command is sent when the future is polled for the first time, and nobody needs its answer: the
        // dispatcher's lanes have no bound of their own here, so nothing is refused. A node that has stopped leaves the
        // tasks in the store.
        let _ = service
            .node
            .with(move |node, now| {
                tasks.iter_mut().for_each(|task| set_times(task, begun.contains_key(&task.id), now));
                let refused = node.submit(id, tasks, now);
                debug_assert!(refused.is_empty(), "lanes of a service are bounded by its windows");
            })
            .now_or_never();
    }

    /// Starts to load a queue if its window is less than half full and the store has more.
    pub(super) fn wake(self: &Arc<Self>, service: &Arc<Service>, state: &mut State, queue: &Arc<Queue>) {
        if !state.online || state.closed {
            return;
        }
        let Some(window) = state.window_mut(queue.key) else { return };
        if window.loading || !window.is_hungry(&service.config) {
            return;
        }
        window.loading = true;
        let (lane, service, queue) = (Arc::clone(self), Arc::clone(service), Arc::clone(queue));
        tokio::spawn(async move { lane.keep_loading(&service, &queue).await });
    }

    async fn keep_loading(self: Arc<Self>, service: &Arc<Service>, queue: &Arc<Queue>) {
        let mut pause = FIRST_PAUSE;
        loop {
            if let Err(error) = self.load(service, queue).await {
                tracing::warn!(endpoint = %self.endpoint, %error, "cannot load tasks from the store; trying again");
                tokio::select! {
                    () = tokio::time::sleep(pause) => pause = (pause * 2).min(LONGEST_PAUSE),
                    () = service.stopping.cancelled() => {}
                }
            }
            let mut state = self.state.lock();
            let stays = state.online && !state.closed && !service.stopping.is_cancelled();
            let Some(window) = state.window_mut(queue.key) else { return };
            if !stays || !window.is_hungry(&service.config) {
                window.loading = false;
                return;
            }
        }
    }
}

/// Where a task that was read came from. Neighbours mostly came together, so they share it.
fn origin_of<'a>(
    task: &PendingTask,
    endpoint: EndpointId,
    last: &'a mut Option<Arc<Origin>>,
) -> &'a Arc<Origin> {
    let PendingTask { group, function, accepted, .. } = *task;
    let is_same = |origin: &Arc<Origin>| {
        (origin.group, origin.function, origin.accepted) == (group, function, accepted)
            && Arc::ptr_eq(&origin.spec, &task.spec)
    };
    let known = last.take_if(|origin| is_same(origin));
    last.insert(known.unwrap_or_else(|| {
        Arc::new(Origin { endpoint, group, function, spec: Arc::clone(&task.spec), accepted })
    }))
}

/// Sets the ticks by which a task has to begin and to end. Its limits count from its acceptance, by the wall clock: that is
/// the only clock that a restarted service shares with the one that accepted it.
fn set_times(task: &mut Task, begun: bool, now: Now) {
    let passed = now.wall.as_nanos().saturating_sub(task.stamps.at(Hop::Accepted).as_nanos());
    let passed = Timestamp::from_nanos(passed);
    let left = |limit: std::time::Duration| {
        now.tick + limit.saturating_sub(std::time::Duration::from_nanos(passed.as_nanos()))
    };
    let limits = &task.spec.limits;
    task.start_by = limits.ttl.filter(|_| !begun).map_or(Tick::NEVER, left);
    task.end_by = limits.deadline.map_or(Tick::NEVER, left);
}
