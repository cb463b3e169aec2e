//! Every decision of the process pool, without I/O: which worker gets which task, what happens to it when a worker
//! dies, is too slow or lies.
//!
//! **What a slot is for.** A slot has a worker with its tasks, or one command, whose process the zygote forks for it.
//! A command takes a slot without a worker if there is one, else one whose worker has no task and waits until the
//! command has ended. A free slot goes to what came first, a task for a worker or a command.
//!
//! **Which worker.** Workers without tasks first. A worker is given tasks ahead, so that it need not wait for the next
//! one, but no more than take about [`PIPELINE_NANOS`](super::functions::PIPELINE_NANOS) by the measured mean of their
//! functions: a task of ten milliseconds or more holds up nobody. The others wait here.
//!
//! **Who is to blame.** A worker says when it begins a task only for tasks sent with the flag *announce*, since that
//! costs a message. Announced are tasks with a walltime, tasks that may run at most once, suspects, and whatever
//! stands behind an announced task in a pipeline. When a worker dies, the announced task that began, or the only
//! task that can have begun, is to blame and `Lost`. If several can have begun, none is known to: they are `Lost` with the
//! code [`LEASE_LOST`](Failure::LEASE_LOST), so that they come again under another attempt number. A task that comes
//! again in this way is a suspect: it runs announced and has a pipeline to itself, so that the next death tells. Only
//! tasks that have certainly not begun go back to the queue: no attempt begins twice.
//!
//! **Recalling.** A head of a pipeline that takes longer than [`PATIENCE`](life::PATIENCE) is not what the mean has promised.
//! Its worker is asked for those that stand behind it, and gives them back unless it is busy in code that hears no signals.
//!
//! **Cancelling.** A waiting task is cancelled at once. A task in a pipeline is cancelled when it is given back; if it is the
//! head for [`PATIENCE`](life::PATIENCE), its worker is stopped. Whatever else comes of it, its outcome is `Cancelled`. Its
//! neighbours in the pipeline fare as in a death for which nobody is to blame. A command is stopped at once.

mod commands;
mod drain;
mod frames;
mod life;
mod schedule;
mod settle;
mod size;
mod slots;
#[cfg(test)]
mod tests;
mod waiting;

use std::{
    collections::{BTreeSet, VecDeque},
    time::Duration,
};

use bytes::Bytes;
use funcx_core::contract::{Capacity, ExecutorEvent};
use funcx_core::model::{
    AttemptId, Failure, FunctionKind, IdMap, Now, Outcome, OutcomeKind, Task, Tick, Timestamp, limit,
};
use slab::Slab;

use super::functions::{FunctionTable, MeanTime};
use super::protocol::{FrameWriter, Welcome, kind_code, unsendable};
use super::slot::{Cause, Exit};

use self::slots::Slots;
use self::waiting::Queue;

/// What the driver should do next.
#[derive(Debug)]
pub(super) enum PoolOutput {
    /// Tell the sink.
    Event(ExecutorEvent),
    /// Start a zygote; `handle_zygote_ready` or `handle_zygote_lost` follows.
    StartZygote,
    /// Stop the zygote; `handle_zygote_lost` follows.
    StopZygote,
    /// Ask the zygote for the worker with this number.
    Fork(u64),
    /// Ask the zygote for the command of this task, by this number.
    RunCommand { number: u64, task: Task },
    /// Read what the command with this number wrote, and then forget that; `handle_command_read` follows.
    ReadOutput { number: u64, template: Bytes, exit: Exit },
    /// Forget what the command with this number wrote.
    DropOutput(u64),
    /// Write to a worker.
    Send { worker: u64, pieces: Vec<Bytes> },
    /// Send a signal to the process group of a worker or a command.
    Signal { pid: u32, signal: Signal },
    /// Ask the worker with this process id to give back what has not begun.
    Recall(u32),
    /// Close the connection of a worker.
    Close(u64),
    /// Everything has its outcome, no process is left.
    Drained,
}

/// The two ways to end a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Signal {
    Terminate,
    Kill,
}

/// The part of the configuration that decisions depend on.
#[derive(Debug, Clone)]
pub(super) struct PoolSettings {
    pub(super) workers: u32,
    pub(super) kill_grace: Duration,
    pub(super) welcome: Welcome,
}

/// The state machine of a pool. Feed it input, then poll [`poll_output`](Self::poll_output) until it is empty, and
/// before sleeping ask [`poll_timeout`](Self::poll_timeout).
#[derive(Debug)]
pub(super) struct PoolState {
    settings: PoolSettings,
    functions: FunctionTable,
    entries: Slab<Entry>,
    index: IdMap<AttemptId, u32>,
    /// Waiting tasks for workers.
    calls: Queue,
    /// Waiting commands.
    commands: Queue,
    arrivals: u64,
    /// Waiting tasks that must begin or end by some time, and that time.
    expiries: BTreeSet<(Tick, u32)>,
    slots: Slots,
    /// How many of them may be used.
    allowed: usize,
    /// Whether the slots are those of others too: nobody else runs what comes here.
    is_shared: bool,
    /// Tasks of all functions.
    mean: MeanTime,
    serial: u32,
    /// Slot that is filled first next time.
    turn: usize,
    advertised: Capacity,
    zygote: Zygote,
    /// What the zygote says about its Python.
    details: Bytes,
    /// Commands in a row for which the system had no process, and when to ask again.
    refused: u32,
    ask_again: Tick,
    /// Zygotes in a row without a living worker.
    zygotes_lost: u32,
    /// Processes in a row that ended before their hello, and how the last one did.
    unborn: u32,
    last_unborn: String,
    /// Workers in a row that died by themselves while no task ended.
    deaths: u32,
    /// Why no task can run, once that has been found out.
    broken: Option<String>,
    /// What to say about tasks that are stopped because the pool is.
    stopped: Option<Failure>,
    draining: bool,
    drained: bool,
    outputs: VecDeque<PoolOutput>,
    started: Vec<(AttemptId, Timestamp)>,
    finished: Vec<Outcome>,
    given_back: Vec<AttemptId>,
    now: Now,
    dirty: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Zygote {
    NotWanted,
    Starting,
    Ready,
    Waiting { until: Tick },
    Stopping,
    Gone,
}

#[derive(Debug)]
struct Entry {
    task: Task,
    /// Key in the low half, a serial number in the high half: an old tag never fits another task.
    tag: u64,
    /// Grows with every task that comes.
    arrival: u64,
    function: u32,
    /// Share of a pipeline that it takes, while it is in one.
    cost: u64,
    slot: Option<u32>,
    announced: bool,
    /// It came again after a death that nobody was blamed for.
    suspect: bool,
    cancelled: bool,
    /// Workers that were lost with this task at their head before it began.
    setbacks: u8,
}

impl Entry {
    fn at_most_once(&self) -> bool {
        self.task.spec.limits.max_attempts <= 1
    }

    /// Whether it needs no worker.
    fn is_command(&self) -> bool {
        is_command(&self.task)
    }

    /// Whether it must begin or end by some time. Then it is put behind no other task: nobody could take it back.
    fn is_urgent(&self) -> bool {
        self.task.start_by.min(self.task.end_by) != Tick::NEVER
    }

    fn bytes(&self) -> usize {
        self.task.payload.len() + self.task.spec.options.len()
    }
}

/// What a slot does next if nothing happens before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    GiveUpBooting,
    ReportStart,
    Recall,
    StopCancelled,
    StopTimedOut,
    StopAtDeadline,
    Kill,
    Settle,
    /// Something for its command.
    Command,
}

impl PoolState {
    /// A pool whose zygote is being started.
    pub(super) fn new(settings: PoolSettings, now: Now) -> Self {
        let slots = Slots::new(settings.workers, now.tick);
        let allowed = slots.len();
        let mut state = Self {
            settings,
            functions: FunctionTable::new(limit::MAX_WORKER_FUNCTIONS),
            entries: Slab::new(),
            index: IdMap::default(),
            calls: Queue::default(),
            commands: Queue::default(),
            arrivals: 0,
            expiries: BTreeSet::new(),
            slots,
            allowed,
            is_shared: false,
            mean: MeanTime::default(),
            serial: 0,
            turn: 0,
            advertised: Capacity::default(),
            zygote: Zygote::Starting,
            details: Bytes::new(),
            refused: 0,
            ask_again: now.tick,
            zygotes_lost: 0,
            unborn: 0,
            last_unborn: String::new(),
            deaths: 0,
            broken: None,
            stopped: None,
            draining: false,
            drained: false,
            outputs: VecDeque::new(),
            started: Vec::new(),
            finished: Vec::new(),
            given_back: Vec::new(),
            now,
            dirty: false,
        };
        state.advertised = state.capacity();
        state
    }

    /// How much it takes. Twice what fills the pipelines, so that the next tasks are here when there is room.
    pub(super) fn capacity(&self) -> Capacity {
        match &self.broken {
            _ if self.draining => return Capacity::default(),
            // Who waits here for workers would wait in vain, and is told why instead.
            Some(_) if self.is_shared => return Capacity { slots: self.allowed as u32, prefetch: 0 },
            Some(_) => return Capacity::default(),
            None => {}
        }
        let ahead = 2 * self.allowed as u64 * self.mean.depth();
        Capacity {
            // Never more than `workers`.
            slots: self.allowed.max(self.in_use()) as u32,
            prefetch: u32::try_from(ahead).unwrap_or(u32::MAX).min(limit::MAX_PEER_CREDITS / 2),
        }
    }

    /// Takes tasks in, in order.
    pub(super) fn start(&mut self, tasks: Vec<Task>, now: Now) {
        self.touch(now);
        for task in tasks {
            let attempt = task.attempt_id();
            if self.draining {
                self.given_back.push(attempt);
                continue;
            }
            if let Some((kind, failure)) = self.refusal(&task) {
                self.finished.push(Outcome::failed(&task, kind, &failure));
                continue;
            }
            if self.index.contains_key(&attempt) {
                continue;
            }
            let (function, forgotten) = self.functions.add_task(&task.spec.function);
            if let Some(forgotten) = forgotten {
                self.drop_function(forgotten);
            }
            let suspect = task.granted > 0;
            self.arrivals += 1;
            let key = self.entries.insert(Entry {
                task,
                tag: 0,
                arrival: self.arrivals,
                function,
                cost: 0,
                slot: None,
                announced: false,
                suspect,
                cancelled: false,
                setbacks: 0,
            }) as u32;
            self.index.insert(attempt, key);
            self.enqueue(key, false);
        }
    }

    fn refusal(&self, task: &Task) -> Option<(OutcomeKind, Failure)> {
        let lost = |code: &str, message: String| Some((OutcomeKind::Lost, Failure::new(code, message)));
        if kind_code(task.spec.function.kind()).is_none() && !is_command(task) {
            let message = format!("no worker here runs {} functions", task.spec.function.kind());
            return Some((OutcomeKind::Raised, Failure::new("UnsupportedFunctionKind", message)));
        }
        if is_command(task) && task.spec.map {
            let failure =
                Failure::new("UnsupportedMap", "commands cannot be mapped: each is a process of its own");
            return Some((OutcomeKind::Raised, failure));
        }
        if let Some(message) = unsendable(task) {
            return Some((OutcomeKind::Raised, Failure::new("TaskTooLarge", message)));
        }
        if let Some(reason) = &self.broken {
            return lost("NoWorker", format!("no worker process can be started: {reason}"));
        }
        if self.entries.len() >= limit::MAX_PEER_CREDITS as usize {
            return lost("ExecutorFull", format!("the executor holds {} tasks", self.entries.len()));
        }
        None
    }

    /// Cancels attempts; those that are not here are ignored.
    pub(super) fn cancel(&mut self, attempts: &[AttemptId], now: Now) {
        self.touch(now);
        for attempt in attempts {
            let Some(&key) = self.index.get(attempt) else { continue };
            let entry = &mut self.entries[key as usize];
            if let Some(slot) = entry.slot {
                entry.cancelled = true;
                let cause = Cause::Cancelled(entry.tag);
                match entry.is_command() {
                    true => self.stop_command(slot as usize, cause),
                    false => self.slots.touch(slot as usize),
                }
            } else {
                self.dequeue(key);
                self.fail(key, OutcomeKind::Cancelled, &cancelled());
            }
        }
        self.tidy_queues();
    }

    /// The time is later.
    pub(super) fn handle_timeout(&mut self, now: Now) {
        self.touch(now);
        if let Zygote::Waiting { until } = self.zygote
            && until <= now.tick
            && self.needs_workers()
        {
            self.zygote = Zygote::Starting;
            self.outputs.push_back(PoolOutput::StartZygote);
        }
        self.file_slots();
        while let Some(slot) = self.slots.due(now.tick) {
            while let Some((due, step)) = self.plan(slot)
                && due <= now.tick
            {
                self.take_step(slot, step);
            }
            self.file(slot);
        }
        while let Some(&(due, key)) = self.expiries.first()
            && due <= now.tick
        {
            self.expire(key);
        }
        self.tidy_queues();
    }

    /// Files the slots that have changed where they belong now.
    fn file_slots(&mut self) {
        while let Some(slot) = self.slots.take_touched() {
            self.file(slot);
        }
    }

    fn file(&mut self, slot: usize) {
        let timer = self.plan(slot).map(|(due, _)| due);
        self.slots.file(slot, timer);
    }

    /// When [`handle_timeout`](Self::handle_timeout) has something to do.
    pub(super) fn poll_timeout(&self) -> Option<Tick> {
        let zygote = match self.zygote {
            Zygote::Waiting { until } if self.needs_workers() => Some(until),
            _ => None,
        };
        let fork = self.next_fork().map(|(due, _)| due);
        let expiry = self.expiries.first().map(|(due, _)| *due);
        let ask_again =
            (self.commands.waiting > 0 && self.ask_again > self.now.tick).then_some(self.ask_again);
        [zygote, fork, expiry, ask_again, self.slots.next_timer()].into_iter().flatten().min()
    }

    pub(super) fn poll_output(&mut self) -> Option<PoolOutput> {
        if std::mem::take(&mut self.dirty) {
            self.trim();
            self.schedule();
            self.advance_drain();
            self.file_slots();
            self.fork_workers();
            self.advertise();
            if !self.started.is_empty() {
                let started = std::mem::take(&mut self.started);
                self.outputs.push_back(PoolOutput::Event(ExecutorEvent::Started(started)));
            }
            if !self.given_back.is_empty() {
                let given_back = std::mem::take(&mut self.given_back);
                self.outputs.push_back(PoolOutput::Event(ExecutorEvent::GaveBack(given_back)));
            }
            if !self.finished.is_empty() {
                let finished = std::mem::take(&mut self.finished);
                self.outputs.push_back(PoolOutput::Event(ExecutorEvent::Outcomes(finished)));
            }
            if self.drained {
                self.outputs.push_back(PoolOutput::Drained);
            }
        }
        self.outputs.pop_front()
    }

    /// Whether there is, or can still be, anything to run.
    fn needs_workers(&self) -> bool {
        !self.draining || !self.entries.is_empty()
    }

    fn touch(&mut self, now: Now) {
        (self.now, self.dirty) = (now, true);
    }

    /// The slot whose current process has this number.
    fn slot_of(&self, worker: u64) -> Option<usize> {
        let slot = (worker % self.slots.len().max(1) as u64) as usize;
        self.slots.get(slot).filter(|place| place.worker == worker && place.is_taken()).map(|_| slot)
    }

    fn fail(&mut self, key: u32, kind: OutcomeKind, failure: &Failure) {
        let outcome = Outcome::failed(&self.entries[key as usize].task, kind, failure);
        self.finish(key, outcome);
    }

    /// The one place where a task gets its outcome.
    fn finish(&mut self, key: u32, outcome: Outcome) {
        self.forget(key);
        self.finished.push(outcome);
    }

    /// The one place where a task leaves without an outcome.
    fn give_back(&mut self, key: u32) {
        let attempt = self.forget(key);
        self.given_back.push(attempt);
    }

    fn forget(&mut self, key: u32) -> AttemptId {
        let entry = self.entries.remove(key as usize);
        self.functions.end_task(entry.function);
        let attempt = entry.task.attempt_id();
        self.index.remove(&attempt);
        attempt
    }

    fn renew_tag(&mut self, key: u32) -> u64 {
        self.serial = self.serial.wrapping_add(1);
        let tag = u64::from(self.serial) << 32 | u64::from(key);
        self.entries[key as usize].tag = tag;
        tag
    }

    fn drop_function(&mut self, function: u32) {
        for slot in 0..self.slots.len() {
            let place = &mut self.slots[slot];
            if place.unlearn(function) {
                let mut writer = FrameWriter::default();
                writer.drop_function(function);
                self.outputs.push_back(PoolOutput::Send { worker: place.worker, pieces: writer.finish() });
            }
        }
    }

    fn advertise(&mut self) {
        let (old, new) = (self.advertised.credits(), self.capacity().credits());
        // Small changes are not worth a message, unless others wait for the slots.
        let is_resized = self.advertised.slots != self.capacity().slots;
        if is_resized || new != old && (new >= old.saturating_mul(2) || new <= old / 2) {
            self.advertised = self.capacity();
            self.outputs.push_back(PoolOutput::Event(ExecutorEvent::Capacity(self.advertised)));
        }
    }
}

/// Whether a task is run by the zygote and not by a worker.
fn is_command(task: &Task) -> bool {
    task.spec.function.kind() == FunctionKind::Shell
}

const fn key_of(tag: u64) -> usize {
    (tag & u32::MAX as u64) as usize
}

fn cancelled() -> Failure {
    Failure::new("Cancelled", "cancelled before it ended")
}

/// How long to wait before the next try: not at all at first, then twice as long each time.
fn pause(tries: Option<u32>, first: Duration, longest: Duration) -> Duration {
    match tries {
        None => Duration::ZERO,
        Some(tries) => (first * 2_u32.saturating_pow(tries.min(16))).min(longest),
    }
}
