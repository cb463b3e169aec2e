//! Runs the state machine of a pool over processes and sockets.

use std::{
    collections::BTreeMap,
    sync::Arc,
    thread,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use funcx_core::contract::ExecutorSink;
use funcx_core::model::{AttemptId, Failure, Now, Outcome, OutcomeKind, Task, Tick, Timestamp};
use funcx_core::{contract::ExecutorEvent, model::Result};
use nix::sys::signal::Signal as SystemSignal;
use nix::time::{ClockId, clock_gettime};
use parking_lot::Mutex;
use tokio::{
    net::unix::OwnedWriteHalf,
    sync::{
        mpsc::{self, Receiver, Sender, UnboundedReceiver, UnboundedSender},
        watch,
    },
    task::{AbortHandle, JoinSet, spawn_blocking},
    time::{Instant as TokioInstant, sleep_until},
};

use super::{
    ProcessPoolConfig,
    connection::{FrameReader, write_frames},
    output::{CommandOutput, OutputDir},
    pool::{PoolOutput, PoolSettings, PoolState, Signal},
    private_dir::PrivateDir,
    protocol::{FromWorker, Hello, Welcome},
    slot::Exit,
    zygote::{Zygote, ZygoteNews, command_order, fork_order},
};
use crate::process_group::ProcessGroup;

/// Frames and news that may wait for the loop; readers wait in turn, and so do the workers behind them.
const WAITING_INPUTS: usize = 256;
/// Inputs taken at a time, so that their outcomes go up together.
const INPUTS_AT_ONCE: usize = 64;
/// Commands whose files are read at a time, which bounds what is in memory of them.
const OUTPUTS_AT_ONCE: usize = 16;

/// The number of a command whose files are to be removed; they are read before that if it is said of what template and
/// how it ended.
type Leftover = (u64, Option<(Bytes, Exit)>);

/// From the end of the zygote's input to SIGKILL.
const ZYGOTE_GRACE: Duration = Duration::from_secs(2);

/// What the owner of the pool asks for. Not bounded: the contract bounds what the caller may start, and the state
/// machine refuses what is beyond.
#[derive(Debug)]
pub(super) enum Request {
    Start(Vec<Task>),
    Cancel(Vec<AttemptId>),
    Drain,
    Stop(Failure),
    Resize(u32),
}

/// What happens outside.
#[derive(Debug)]
pub(super) enum Input {
    ZygoteStarted(Box<Zygote>),
    ZygoteNews(ZygoteNews),
    ZygoteLost(String),
    CommandsRead(Vec<(u64, CommandOutput)>),
    Hello { connection: u64, hello: Hello, writer: OwnedWriteHalf },
    Frame(u64, FromWorker),
    Disconnected(u64, Option<String>),
}

/// The process groups of a pool. Shared with the owner, whose drop must end them at once.
#[derive(Debug, Default)]
pub(super) struct Groups(Mutex<GroupSet>);

#[derive(Debug, Default)]
struct GroupSet {
    closed: bool,
    zygote: Option<ProcessGroup>,
    forked: BTreeMap<Forked, ProcessGroup>,
}

/// What a zygote has forked, by its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Forked {
    Worker(u64),
    Command(u64),
}

impl Groups {
    /// Ends all of them, and each one that is still to come. The zygote ends by itself when its input is closed, and with
    /// it what it has just forked and nobody else knows; it is killed if it does not.
    pub(super) fn kill_all(&self) {
        let mut groups = self.0.lock();
        groups.closed = true;
        groups.forked.values().for_each(|group| group.kill());
        groups.forked.clear();
        let Some(zygote) = groups.zygote.take() else { return };
        let kill_later = move || {
            thread::sleep(ZYGOTE_GRACE);
            zygote.kill();
        };
        if thread::Builder::new().name("end-zygote".to_owned()).spawn(kill_later).is_err() {
            zygote.kill();
        }
    }

    fn add(&self, forked: Forked, pid: u32) {
        let Some(group) = ProcessGroup::of_leader(pid) else { return };
        let mut groups = self.0.lock();
        match groups.closed {
            true => group.kill(),
            false => drop(groups.forked.insert(forked, group)),
        }
    }

    fn remove(&self, forked: Forked) {
        self.0.lock().forked.remove(&forked);
    }

    fn set_zygote(&self, zygote: Option<ProcessGroup>) {
        let mut groups = self.0.lock();
        match (groups.closed, zygote) {
            (true, Some(group)) => group.kill(),
            (_, zygote) => groups.zygote = zygote,
        }
    }
}

/// Owns the state machine and everything that it decides about.
#[derive(Debug)]
pub(super) struct Driver {
    state: PoolState,
    sink: Sink,
    config: Arc<ProcessPoolConfig>,
    dir: Arc<PrivateDir>,
    work_dir: String,
    groups: Arc<Groups>,
    requests: UnboundedReceiver<Request>,
    inputs: Receiver<Input>,
    to_self: Sender<Input>,
    /// Readers, writers and the zygote's task; dropping the set ends them.
    tasks: JoinSet<()>,
    orders: Option<UnboundedSender<Vec<Bytes>>>,
    /// Commands whose files are to be read or removed.
    outputs: UnboundedSender<Leftover>,
    stderr: Arc<Mutex<Vec<u8>>>,
    connections: u64,
    /// Readers by connection, before and after it is known which worker they belong to.
    readers: BTreeMap<u64, (AbortHandle, Option<u64>)>,
    /// Connection and writer of each worker.
    links: BTreeMap<u64, (u64, UnboundedSender<Vec<Bytes>>)>,
    drained: watch::Sender<bool>,
}

struct Sink(Arc<dyn ExecutorSink>);

impl std::fmt::Debug for Sink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ExecutorSink")
    }
}

impl Driver {
    pub(super) fn new(
        config: ProcessPoolConfig,
        work_dir: String,
        sink: Arc<dyn ExecutorSink>,
        dir: PrivateDir,
        groups: Arc<Groups>,
        requests: UnboundedReceiver<Request>,
        drained: watch::Sender<bool>,
    ) -> Self {
        let (to_self, inputs) = mpsc::channel(WAITING_INPUTS);
        let files = OutputDir {
            path: dir.output.as_str().into(),
            max_result_bytes: config.max_result_bytes,
            max_output_bytes: config.max_output_bytes,
        };
        let mut tasks = JoinSet::new();
        let (outputs, ended) = mpsc::unbounded_channel();
        tasks.spawn(read_outputs(Arc::new(files), ended, to_self.clone()));
        let settings = PoolSettings {
            workers: config.workers,
            kill_grace: config.kill_grace,
            welcome: Welcome {
                max_result_bytes: config.max_result_bytes,
                max_output_bytes: config.max_output_bytes,
                work_dir: work_dir.clone(),
                endpoint_id: config.endpoint_id,
            },
        };
        Self {
            state: PoolState::new(settings, read_clocks()),
            sink: Sink(sink),
            config: Arc::new(config),
            dir: Arc::new(dir),
            work_dir,
            groups,
            requests,
            inputs,
            to_self,
            tasks,
            orders: None,
            outputs,
            stderr: Arc::default(),
            connections: 0,
            readers: BTreeMap::new(),
            links: BTreeMap::new(),
            drained,
        }
    }

    pub(super) fn capacity(&self) -> funcx_core::contract::Capacity {
        self.state.capacity()
    }

    /// Begins without a zygote; see [`PoolState::start_empty`].
    pub(super) fn start_empty(&mut self) {
        self.state.start_empty();
    }

    /// Serves until the pool is drained or dropped.
    pub(super) async fn run(mut self, zygote: Option<Zygote>) {
        zygote.into_iter().for_each(|zygote| self.adopt_zygote(zygote));
        let mut timer = Box::pin(sleep_until(TokioInstant::now()));
        let mut armed = None;
        let mut batch = Vec::with_capacity(INPUTS_AT_ONCE);
        while self.perform_outputs() {
            let deadline = self.state.poll_timeout();
            let now = read_clocks();
            if deadline.is_some_and(|deadline| deadline <= now.tick) {
                self.state.handle_timeout(now);
                armed = None;
                continue;
            }
            if let Some(tick) = deadline
                && armed != deadline
            {
                timer.as_mut().reset(TokioInstant::now() + tick.since(now.tick));
                armed = deadline;
            }
            tokio::select! {
                _ = self.inputs.recv_many(&mut batch, INPUTS_AT_ONCE) => {}
                request = self.requests.recv() => {
                    let now = read_clocks();
                    match request {
                        Some(request) => self.handle_request(request, now),
                        None => {
                            self.state.abandon(now);
                            self.perform_outputs();
                            break;
                        }
                    }
                }
                accepted = self.dir.listener.accept() => match accepted {
                    Ok((socket, _)) => self.accept(socket),
                    Err(error) => tracing::warn!(%error, "cannot accept a worker"),
                },
                () = &mut timer, if deadline.is_some() => armed = None,
                _ = self.tasks.join_next(), if !self.tasks.is_empty() => {}
            }
            let now = read_clocks();
            batch.drain(..).for_each(|input| self.handle_input(input, now));
        }
        self.finish();
    }

    /// Ends what is left, and answers what was asked too late.
    fn finish(mut self) {
        self.requests.close();
        while let Ok(request) = self.requests.try_recv() {
            if let Request::Start(tasks) = request {
                give_back(&*self.sink.0, &tasks);
            }
        }
        self.drained.send_replace(true);
    }

    fn handle_request(&mut self, request: Request, now: Now) {
        match request {
            Request::Start(tasks) => self.state.start(tasks, now),
            Request::Cancel(attempts) => self.state.cancel(&attempts, now),
            Request::Drain => self.state.drain(now),
            Request::Stop(failure) => self.state.stop(failure, now),
            Request::Resize(slots) => self.state.resize(slots, now),
        }
    }

    fn handle_input(&mut self, input: Input, now: Now) {
        match input {
            Input::ZygoteStarted(zygote) => self.adopt_zygote(*zygote),
            Input::ZygoteNews(ZygoteNews::Ready { .. }) => {}
            Input::ZygoteNews(ZygoteNews::Forked { forked, pid }) => {
                self.groups.add(Forked::Worker(forked), pid);
                self.state.handle_forked(forked, pid, now);
            }
            Input::ZygoteNews(ZygoteNews::Started { started, pid, at }) => {
                self.groups.add(Forked::Command(started), pid);
                self.state.handle_command_started(started, pid, Timestamp::from_nanos(at), now);
            }
            Input::ZygoteNews(ZygoteNews::Ended { ended, status, signal, at }) => {
                self.groups.remove(Forked::Command(ended));
                let exit = Exit { status, signal, stderr: String::new() };
                self.state.handle_command_ended(ended, exit, Timestamp::from_nanos(at), now);
            }
            Input::CommandsRead(outputs) => {
                for (number, output) in outputs {
                    self.state.handle_command_read(number, output, now);
                }
            }
            Input::ZygoteNews(ZygoteNews::Exited { exited, status, signal }) => {
                self.groups.remove(Forked::Worker(exited));
                // What a worker had to say is of interest only if it did not go as it should.
                let stderr = if status == Some(0) { String::new() } else { self.take_stderr() };
                self.state.handle_exited(exited, Exit { status, signal, stderr }, now);
            }
            Input::ZygoteLost(reason) => {
                self.orders = None;
                self.groups.set_zygote(None);
                self.state.handle_zygote_lost(reason, now);
            }
            Input::Hello { connection, hello, writer } => self.handle_hello(connection, &hello, writer, now),
            Input::Frame(connection, frame) => {
                if let Some((_, Some(worker))) = self.readers.get(&connection) {
                    self.state.handle_frame(*worker, frame, now);
                }
            }
            Input::Disconnected(connection, violation) => {
                if let Some((_, Some(worker))) = self.readers.remove(&connection) {
                    self.state.handle_disconnected(worker, violation, now);
                }
            }
        }
    }

    fn handle_hello(&mut self, connection: u64, hello: &Hello, writer: OwnedWriteHalf, now: Now) {
        if !self.state.handle_hello(hello.worker, hello.pid, hello.details(), now) {
            tracing::warn!(worker = hello.worker, pid = hello.pid, "refused a worker that is not expected");
            if let Some((reader, _)) = self.readers.remove(&connection) {
                reader.abort();
            }
            return;
        }
        let (sender, frames) = mpsc::unbounded_channel();
        // If it takes no more, its reader notices that too.
        self.tasks.spawn(async move { drop(write_frames(writer, frames).await) });
        self.links.insert(hello.worker, (connection, sender));
        if let Some((_, worker)) = self.readers.get_mut(&connection) {
            *worker = Some(hello.worker);
        }
    }

    fn accept(&mut self, socket: tokio::net::UnixStream) {
        self.connections += 1;
        let (connection, inputs) = (self.connections, self.to_self.clone());
        let reader = self.tasks.spawn(async move {
            let violation = read(connection, socket, &inputs).await.err().map(|error| error.to_string());
            // The loop ends before its readers only if nobody wants to know any more.
            let _ = inputs.send(Input::Disconnected(connection, violation)).await;
        });
        self.readers.insert(connection, (reader, None));
    }

    fn adopt_zygote(&mut self, zygote: Zygote) {
        self.groups.set_zygote(ProcessGroup::of_leader(zygote.pid()));
        self.stderr = zygote.stderr();
        let (sender, orders) = mpsc::unbounded_channel();
        self.orders = Some(sender);
        let details = zygote.details();
        let (inputs, grace) = (self.to_self.clone(), self.config.kill_grace);
        self.tasks.spawn(async move {
            let reason = zygote.run(orders, grace, &inputs).await;
            let _ = inputs.send(Input::ZygoteLost(reason)).await;
        });
        self.state.handle_zygote_ready(details, read_clocks());
    }

    fn start_zygote(&mut self) {
        let (config, inputs) = (Arc::clone(&self.config), self.to_self.clone());
        let (dir, work_dir) = (Arc::clone(&self.dir), self.work_dir.clone());
        self.tasks.spawn(async move {
            let input = match Zygote::start(&config, &dir.script, &dir.prepare(&config, &work_dir)).await {
                Ok(zygote) => Input::ZygoteStarted(Box::new(zygote)),
                Err(error) => Input::ZygoteLost(error.to_string()),
            };
            let _ = inputs.send(input).await;
        });
    }

    /// Does what the state machine wants; false once it is drained.
    fn perform_outputs(&mut self) -> bool {
        while let Some(output) = self.state.poll_output() {
            match output {
                PoolOutput::Event(event) => self.sink.0.handle(event),
                PoolOutput::StartZygote => self.start_zygote(),
                PoolOutput::StopZygote => self.orders = None,
                PoolOutput::Fork(worker) => self.order(fork_order(worker)),
                PoolOutput::RunCommand { number, task } => self.order(command_order(number, &task)),
                PoolOutput::ReadOutput { number, template, exit } => {
                    self.take_output((number, Some((template, exit))));
                }
                PoolOutput::DropOutput(number) => {
                    self.groups.remove(Forked::Command(number));
                    self.take_output((number, None));
                }
                PoolOutput::Send { worker, pieces } => {
                    // Without a writer the worker is gone, and that news is on its way.
                    let _ = self.links.get(&worker).map(|(_, writer)| writer.send(pieces));
                }
                PoolOutput::Signal { pid, signal } => {
                    let signal = match signal {
                        Signal::Terminate => SystemSignal::SIGTERM,
                        Signal::Kill => SystemSignal::SIGKILL,
                    };
                    if let Some(group) = ProcessGroup::of_leader(pid) {
                        group.signal_forked(signal);
                    }
                }
                PoolOutput::Recall(pid) => {
                    ProcessGroup::of_leader(pid).into_iter().for_each(ProcessGroup::urge_leader);
                }
                PoolOutput::Close(worker) => self.close(worker),
                PoolOutput::Drained => return false,
            }
        }
        true
    }

    fn order(&self, order: Vec<Bytes>) {
        // Without a receiver the zygote is gone, and that news is on its way.
        let _ = self.orders.as_ref().map(|orders| orders.send(order));
    }

    fn take_output(&self, leftover: Leftover) {
        // The reader is one of our own tasks.
        let _ = self.outputs.send(leftover);
    }

    fn close(&mut self, worker: u64) {
        self.groups.remove(Forked::Worker(worker));
        if let Some((connection, _)) = self.links.remove(&worker)
            && let Some((reader, _)) = self.readers.remove(&connection)
        {
            reader.abort();
        }
    }

    fn take_stderr(&self) -> String {
        String::from_utf8_lossy(&std::mem::take(&mut *self.stderr.lock())).trim_end().to_owned()
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.groups.kill_all();
    }
}

/// Reads what commands wrote, and removes it. There may be thousands at once, and disks can be slow.
async fn read_outputs(files: Arc<OutputDir>, mut ended: UnboundedReceiver<Leftover>, inputs: Sender<Input>) {
    let mut batch = Vec::new();
    while ended.recv_many(&mut batch, OUTPUTS_AT_ONCE).await > 0 {
        let (files, batch) = (Arc::clone(&files), std::mem::take(&mut batch));
        let read = move || -> Vec<_> {
            let take = |(number, wanted): Leftover| match wanted {
                Some((template, exit)) => Some((number, files.take(number, &template, &exit))),
                None => {
                    files.remove(number);
                    None
                }
            };
            batch.into_iter().filter_map(take).collect()
        };
        // It fails only when the runtime ends, and then nobody wants to know any more.
        let outputs = spawn_blocking(read).await.unwrap_or_default();
        let _ = inputs.send(Input::CommandsRead(outputs)).await;
    }
}

/// Passes on what comes over one connection, until its end.
async fn read(connection: u64, socket: tokio::net::UnixStream, inputs: &Sender<Input>) -> Result<()> {
    let (hello, mut reader, writer) = FrameReader::accept(socket)
        .await
        .inspect_err(|error| tracing::warn!(%error, "refused a connection to the workers' socket"))?;
    let mut input = Input::Hello { connection, hello, writer };
    while inputs.send(input).await.is_ok() {
        match reader.next().await? {
            Some(frame) => input = Input::Frame(connection, frame),
            None => break,
        }
    }
    Ok(())
}

/// Ends tasks that nobody can take any more, because the pool came to a bad end.
pub(super) fn lose(sink: &dyn ExecutorSink, tasks: &[Task]) {
    let failure = Failure::new("NoWorker", "the executor is gone");
    let lost = tasks.iter().map(|task| Outcome::failed(task, OutcomeKind::Lost, &failure)).collect();
    sink.handle(ExecutorEvent::Outcomes(lost));
}

/// Gives back tasks that came too late.
pub(super) fn give_back(sink: &dyn ExecutorSink, tasks: &[Task]) {
    sink.handle(ExecutorEvent::GaveBack(tasks.iter().map(Task::attempt_id).collect()));
}

/// Ticks are nanoseconds of the system's monotonic clock, so that those in a task mean the same here as where they were
/// written.
fn read_clocks() -> Now {
    let nanos = |duration: Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
    // POSIX has this clock everywhere, and reading it cannot fail then.
    let tick = clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Duration::from);
    let wall = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Now { tick: Tick::from_nanos(nanos(tick)), wall: Timestamp::from_nanos(nanos(wall)) }
}
