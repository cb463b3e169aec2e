//! The process pool's decisions over a world that exists only here: processes that do their work, and processes that
//! write whatever they like.
//!
//! What a process writes goes through the same reader of frames as from a socket. After every step, and at the end:
//!
//! - every attempt that was taken in ends or goes back, exactly once, and nothing that was not taken in does;
//! - a process that breaks the protocol ends alone: no other process is signalled, no other connection closed;
//! - what ends is within its bounds, whatever the process claimed;
//! - what is written to a process are whole frames of the protocol, with no task that it cannot run;
//! - what may run at most once is not given to another process once it has begun;
//! - a pool that drains gets there, if its processes do what they are told from then on, and gives back what it has not
//!   begun.

mod process;

use std::collections::{BTreeMap, BTreeSet};
use std::{sync::Arc, time::Duration};

use bytes::{BufMut, Bytes, BytesMut};
use funcx_core::contract::ExecutorEvent;
use funcx_core::model::{
    AttemptId, Failure, Function, IdentityId, Now, Outcome, OutcomeKind, Task, TaskId, TaskSpec, Tick,
    Timestamp,
};

use self::process::{Connection, Process, outcome_frame, pid_of, put_frame};
use super::output::CommandOutput;
use super::pool::{PoolOutput, PoolSettings, PoolState, Signal};
use super::protocol::{FRAME_SPARE_BYTES, FromWorker, OUTPUT_SPARE_BYTES, Welcome, take_frame};
use super::slot::Exit;
use super::zygote::ZygoteNews;

/// Worker processes of the pool.
const WORKERS: u32 = 3;
/// Largest result, and captured output; small, so that they are reached.
const MAX_RESULT_BYTES: usize = 100;
const MAX_OUTPUT_BYTES: usize = 10;
/// Rounds in which a pool must have drained.
const MAX_ROUNDS: usize = 10_000;

/// One thing that happens. Numbers are taken modulo what there is, so that every value is meaningful.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are what the sentence above each variant says")]
pub enum Step<'a> {
    /// Tasks are started. By `how` they may run at most once (1), have a walltime (2), a time to live (4), a deadline (8),
    /// are commands (16).
    Start { tasks: u8, function: u8, how: u8 },
    /// A task is cancelled.
    Cancel { task: u8 },
    /// Time passes: two to this power of nanoseconds.
    Pass { power: u8 },
    /// Time passes until something is due.
    PassToNext,
    /// The zygote tells that a process was forked, and one for a command.
    Fork { process: u8 },
    /// A process connects, if need be, and says hello.
    Greet { process: u8 },
    /// A process runs its next tasks, each for `nanos` squared.
    Work { process: u8, tasks: u8, nanos: u8, raises: bool },
    /// A process writes an outcome frame that is wrong in some way: for the task at `which` in its pipeline, or in that of
    /// another process; of this kind; with lengths that are claimed, and bytes that follow.
    Forge { process: u8, other: u8, which: u8, kind: u8, claimed: u8, actual: u8 },
    /// A process writes these bytes.
    Write { process: u8, bytes: &'a [u8] },
    /// A process closes its connection.
    HangUp { process: u8 },
    /// A process ends, and a command.
    Exit { process: u8, status: u8 },
    /// The zygote writes this line.
    ZygoteWrites { line: &'a [u8] },
    /// The zygote is lost; if it was asked for, it is ready, or cannot be started.
    ZygoteChanges { fails: bool },
    /// The pool takes no more tasks; it also ends those that run if it `stops`.
    Drain { stops: bool },
}

/// Process ids from here on are those of commands.
const COMMAND_PIDS: u32 = 1 << 30;

/// A command that the zygote was asked for.
#[derive(Debug)]
struct Command {
    attempt: AttemptId,
    /// Once it has begun.
    pid: Option<u32>,
    is_killed: bool,
}

/// A pool and its world.
#[derive(Debug)]
pub struct ScriptedPool {
    state: PoolState,
    now: Now,
    processes: BTreeMap<u64, Process>,
    /// Commands that were asked for, by number.
    commands: BTreeMap<u64, Command>,
    /// Numbers of commands that have ended and whose output is wanted.
    unread: Vec<u64>,
    /// Attempts without an outcome, and whether they may run at most once.
    open: BTreeMap<AttemptId, bool>,
    /// Those of them that have begun and may do so only once.
    begun: BTreeSet<TaskId>,
    attempts: Vec<AttemptId>,
    next_pid: u32,
    ended: usize,
    zygote_wanted: bool,
    zygote_lives: bool,
    zygote_stops: bool,
    draining: bool,
    drained: bool,
    /// The process that was heard last, if nothing else happened.
    speaker: Option<u64>,
}

impl Default for ScriptedPool {
    fn default() -> Self {
        let welcome = Welcome {
            max_result_bytes: MAX_RESULT_BYTES,
            max_output_bytes: MAX_OUTPUT_BYTES,
            work_dir: "/w".to_owned(),
            endpoint_id: None,
        };
        let now = Now { tick: Tick::from_nanos(1), wall: Timestamp::from_nanos(1) };
        let settings = PoolSettings { workers: WORKERS, kill_grace: Duration::from_secs(3), welcome };
        let mut pool = Self {
            state: PoolState::new(settings, now),
            now,
            processes: BTreeMap::new(),
            commands: BTreeMap::new(),
            unread: Vec::new(),
            open: BTreeMap::new(),
            begun: BTreeSet::new(),
            attempts: Vec::new(),
            next_pid: 0,
            ended: 0,
            zygote_wanted: true,
            zygote_lives: false,
            zygote_stops: false,
            draining: false,
            drained: false,
            speaker: None,
        };
        pool.change_zygote(false);
        pool.wake();
        pool
    }
}

impl ScriptedPool {
    /// Lets one thing happen and sees that what comes of it is allowed.
    ///
    /// # Panics
    /// If it is not.
    pub fn step(&mut self, step: Step<'_>) {
        self.speaker = None;
        self.read_outputs();
        match step {
            Step::Start { tasks, function, how } => self.start(tasks, function, how),
            Step::Cancel { task } => {
                if let Some(attempt) = pick(&self.attempts, task).copied() {
                    self.state.cancel(&[attempt], self.now);
                }
            }
            Step::Pass { power } => self.pass(Duration::from_nanos(1 << (power % 42))),
            Step::PassToNext => self.pass_to_next(),
            Step::Fork { process } => {
                self.with(process, Self::fork);
                self.with_command(process, Self::begin_command);
            }
            Step::Greet { process } => self.with(process, Self::greet),
            Step::Work { process, tasks, nanos, raises } => {
                self.with(process, |pool, worker| pool.work(worker, usize::from(tasks), nanos, raises));
            }
            Step::Forge { process, other, which, kind, claimed, actual } => {
                let tag = self.tag(other, which);
                let frame = outcome_frame(tag, kind, u32::from(claimed), usize::from(actual), 1);
                self.with(process, |pool, worker| pool.write(worker, &frame));
            }
            Step::Write { process, bytes } => self.with(process, |pool, worker| pool.write(worker, bytes)),
            Step::HangUp { process } => self.with(process, Self::hang_up),
            Step::Exit { process, status } => {
                self.with(process, |pool, worker| pool.exit(worker, i32::from(status)));
                self.with_command(process, |pool, number| pool.end_command(number, i32::from(status)));
            }
            Step::ZygoteWrites { line } => self.hear_zygote(line),
            Step::ZygoteChanges { fails } => self.change_zygote(fails),
            Step::Drain { stops } => {
                self.draining = true;
                match stops {
                    true => self.state.stop(Failure::new("BlockEnds", "the block ends"), self.now),
                    false => self.state.drain(self.now),
                }
            }
        }
        self.perform();
    }

    /// From here on everybody does what they are told; the pool drains, and every task has ended. How many did.
    ///
    /// # Panics
    /// If that is not so.
    pub fn finish(mut self) -> usize {
        self.step(Step::Drain { stops: false });
        for _ in 0..MAX_ROUNDS {
            if self.drained {
                assert!(self.open.is_empty(), "drained with open tasks: {:?}", self.open);
                self.step(Step::Start { tasks: 1, function: 0, how: 0 });
                assert!(self.open.is_empty(), "a task that comes too late goes back at once");
                return self.ended;
            }
            self.speaker = None;
            if !self.behave() {
                self.pass_to_next();
            }
            self.perform();
        }
        panic!("the pool does not drain: {self:?}");
    }

    /// Everybody does what is due; whether there was anything.
    fn behave(&mut self) -> bool {
        if self.zygote_wanted || self.zygote_stops {
            self.change_zygote(false);
            return true;
        }
        if !self.unread.is_empty() {
            self.read_outputs();
            return true;
        }
        if let Some((&number, command)) = self.commands.first_key_value() {
            match command.pid {
                None => self.begin_command(number),
                Some(_) => self.end_command(number, 0),
            }
            return true;
        }
        let workers: Vec<u64> = self.processes.keys().copied().collect();
        for worker in workers {
            let process = &self.processes[&worker];
            match process.connection {
                _ if process.ends || !process.unread.is_empty() => self.exit(worker, 0),
                Connection::Closed => self.exit(worker, 0),
                Connection::None => self.greet(worker),
                Connection::Greeted if process.tasks.is_empty() => continue,
                Connection::Greeted => self.work(worker, 1, 9, false),
            }
            return true;
        }
        false
    }

    fn with(&mut self, choice: u8, action: impl FnOnce(&mut Self, u64)) {
        let worker = self.processes.keys().nth(usize::from(choice) % self.processes.len().max(1)).copied();
        if let Some(worker) = worker {
            action(self, worker);
        }
    }

    fn with_command(&mut self, choice: u8, action: impl FnOnce(&mut Self, u64)) {
        let number = self.commands.keys().nth(usize::from(choice) % self.commands.len().max(1)).copied();
        if let Some(number) = number {
            action(self, number);
        }
    }

    fn begin_command(&mut self, number: u64) {
        let Some(command) = self.commands.get_mut(&number) else { return };
        if command.pid.is_none() {
            let pid = COMMAND_PIDS + self.next_pid;
            self.next_pid += 1;
            command.pid = Some(pid);
            if self.open.get(&command.attempt) == Some(&true) {
                self.begun.insert(command.attempt.task);
            }
            self.state.handle_command_started(number, pid, self.now.wall, self.now);
        }
    }

    /// A command ends; if it has not begun, the zygote could not fork it.
    fn end_command(&mut self, number: u64, status: i32) {
        if let Some(command) = self.commands.remove(&number) {
            let (status, signal) = if command.is_killed { (None, Some(9)) } else { (Some(status), None) };
            let exit = Exit { status, signal, stderr: String::new() };
            self.state.handle_command_ended(number, exit, self.now.wall, self.now);
        }
    }

    fn read_outputs(&mut self) {
        for number in std::mem::take(&mut self.unread) {
            let output = CommandOutput::Returned(Bytes::from("{}"));
            self.state.handle_command_read(number, output, self.now);
        }
        self.perform();
    }

    fn process(&mut self, worker: u64) -> &mut Process {
        self.processes.get_mut(&worker).expect("chosen from those that are there")
    }

    fn start(&mut self, tasks: u8, function: u8, how: u8) {
        let once = how & 1 == 1;
        let name = ["f", "g", "h"][usize::from(function) % 3];
        let function = if how & 16 == 16 { Function::shell(name) } else { Function::python(name, "") };
        let mut spec = TaskSpec::new(Arc::new(function), IdentityId::from_u128(1));
        spec.limits.max_attempts = if once { 1 } else { 3 };
        spec.shape.walltime = (how & 2 == 2).then_some(Duration::from_secs(1));
        let spec = Arc::new(spec);
        let first = self.attempts.len() as u128;
        let new: Vec<_> = (0..u128::from(tasks % 16))
            .map(|number| {
                let mut task = Task::new(TaskId::from_u128(first + number), Arc::clone(&spec), "[]");
                if how & 4 == 4 {
                    task.start_by = self.now.tick + Duration::from_millis(50);
                }
                if how & 8 == 8 {
                    task.end_by = self.now.tick + Duration::from_millis(100);
                }
                task
            })
            .collect();
        self.attempts.extend(new.iter().map(Task::attempt_id));
        self.open.extend(new.iter().map(|task| (task.attempt_id(), once)));
        self.state.start(new, self.now);
    }

    fn pass(&mut self, time: Duration) {
        self.now.tick = self.now.tick + time;
        self.now.wall = Timestamp::from_nanos(self.now.tick.as_nanos());
        self.wake();
    }

    fn pass_to_next(&mut self) {
        if let Some(due) = self.state.poll_timeout() {
            let wait = due.since(self.now.tick);
            self.pass(wait);
        }
    }

    /// Does what is due.
    fn wake(&mut self) {
        self.perform();
        for _ in 0..MAX_ROUNDS {
            if self.state.poll_timeout().is_none_or(|due| due > self.now.tick) {
                return;
            }
            self.state.handle_timeout(self.now);
            self.perform();
        }
        panic!("what is due is not done: {self:?}");
    }

    fn fork(&mut self, worker: u64) {
        self.process(worker).forked = true;
        self.state.handle_forked(worker, pid_of(worker), self.now);
    }

    fn greet(&mut self, worker: u64) {
        let hello = format!(
            r#"{{"protocol":1,"worker":{worker},"pid":{},"language":"python","details":{{}}}}"#,
            pid_of(worker)
        );
        let mut frame = BytesMut::new();
        put_frame(&mut frame, b'H', hello.as_bytes());
        self.write(worker, &frame);
    }

    fn work(&mut self, worker: u64, tasks: usize, nanos: u8, raises: bool) {
        for _ in 0..tasks.max(1) {
            let Some(next) = self.processes.get(&worker).and_then(|process| process.tasks.front().copied())
            else {
                return;
            };
            if next.announce && !next.begun {
                let mut frame = BytesMut::new();
                put_frame(&mut frame, b'S', &next.tag.to_le_bytes());
                if let Some(given) = self.process(worker).tasks.front_mut() {
                    given.begun = true;
                }
                self.write(worker, &frame);
                let is_heard = self.process(worker).is_heard();
                let attempt = AttemptId { task: next.task, number: 1 };
                if is_heard && self.open.get(&attempt) == Some(&true) {
                    self.begun.insert(next.task);
                }
            }
            if let Some(process) = self.processes.get_mut(&worker) {
                process.tasks.pop_front();
                let nanos = u64::from(nanos).pow(2) * 1000;
                self.write(worker, &outcome_frame(next.tag, u8::from(raises), 2, 6, nanos));
            }
            self.perform();
        }
    }

    /// A tag that was given out, if there is any.
    fn tag(&self, process: u8, which: u8) -> u64 {
        let tags: Vec<u64> = self
            .processes
            .values()
            .nth(usize::from(process) % self.processes.len().max(1))
            .map(|process| process.tasks.iter().map(|given| given.tag).collect())
            .unwrap_or_default();
        pick(&tags, which).copied().unwrap_or_else(|| u64::from(which))
    }

    /// What the reader of a connection and the loop behind it do.
    fn write(&mut self, worker: u64, bytes: &[u8]) {
        self.speaker = Some(worker);
        let process = self.process(worker);
        if process.connection == Connection::Closed {
            return;
        }
        process.unread.put_slice(bytes);
        loop {
            let process = self.process(worker);
            let before = process.unread.len();
            let violation = match take_frame(&mut process.unread) {
                Ok(None) => return,
                Ok(Some(frame)) => {
                    assert!(process.unread.len() < before, "a frame takes bytes");
                    match (process.connection, frame) {
                        (Connection::Greeted, frame) => {
                            self.state.handle_frame(worker, frame, self.now);
                            continue;
                        }
                        // A hello must name the process that the system names.
                        (_, FromWorker::Hello(hello)) if hello.pid == pid_of(worker) => {
                            let details = hello.details();
                            // Who pretends to be another is refused, as that one has another process.
                            if hello.worker == worker
                                && self.state.handle_hello(worker, hello.pid, details, self.now)
                            {
                                self.process(worker).connection = Connection::Greeted;
                                continue;
                            }
                            None
                        }
                        _ => None,
                    }
                }
                Err(error) => {
                    let text = error.to_string();
                    assert!(text.len() < 1000, "a violation of {} bytes", text.len());
                    Some(text)
                }
            };
            let was_greeted = self.process(worker).connection == Connection::Greeted;
            self.process(worker).connection = Connection::Closed;
            if was_greeted {
                self.state.handle_disconnected(worker, violation, self.now);
            }
            return;
        }
    }

    fn hang_up(&mut self, worker: u64) {
        self.speaker = Some(worker);
        let process = self.process(worker);
        let was = std::mem::replace(&mut process.connection, Connection::Closed);
        if was == Connection::Greeted {
            self.state.handle_disconnected(worker, None, self.now);
        }
    }

    fn exit(&mut self, worker: u64, status: i32) {
        let exit = Exit { status: Some(status), ..Exit::default() };
        // Either news can be the first.
        if status % 2 == 0 {
            self.hang_up(worker);
            self.state.handle_exited(worker, exit, self.now);
        } else {
            self.state.handle_exited(worker, exit, self.now);
            self.hang_up(worker);
        }
        self.perform();
        self.processes.remove(&worker);
    }

    fn hear_zygote(&mut self, line: &[u8]) {
        let Ok(news) = serde_json::from_slice::<ZygoteNews>(line) else { return };
        match news {
            ZygoteNews::Ready { .. } => {}
            ZygoteNews::Forked { forked, .. } => {
                self.state.handle_forked(forked, pid_of(forked), self.now);
            }
            ZygoteNews::Exited { exited, status, signal } => {
                let exit = Exit { status, signal, stderr: String::new() };
                self.state.handle_exited(exited, exit, self.now);
            }
            ZygoteNews::Started { started, pid, at } => {
                self.state.handle_command_started(started, pid, Timestamp::from_nanos(at), self.now);
            }
            ZygoteNews::Ended { ended, status, signal, at } => {
                let exit = Exit { status, signal, stderr: String::new() };
                self.state.handle_command_ended(ended, exit, Timestamp::from_nanos(at), self.now);
            }
        }
    }

    fn change_zygote(&mut self, fails: bool) {
        let is_wanted = std::mem::take(&mut self.zygote_wanted);
        if is_wanted && !fails {
            self.zygote_lives = true;
            self.state.handle_zygote_ready(Bytes::from("{}"), self.now);
        } else if is_wanted || self.zygote_lives {
            (self.zygote_lives, self.zygote_stops) = (false, false);
            // Its processes end with it, and their connections.
            self.processes.values_mut().for_each(|process| process.ends = true);
            self.commands.clear();
            self.state.handle_zygote_lost("it ended".to_owned(), self.now);
        }
    }

    /// Takes what the pool wants, and finds it allowed.
    fn perform(&mut self) {
        while let Some(output) = self.state.poll_output() {
            match output {
                PoolOutput::Event(event) => self.hear(event),
                PoolOutput::StartZygote => self.zygote_wanted = true,
                PoolOutput::StopZygote => self.zygote_stops = true,
                PoolOutput::Fork(worker) => {
                    let old = self.processes.insert(worker, Process::default());
                    assert!(old.is_none(), "the number of worker {worker} is new");
                }
                PoolOutput::RunCommand { number, task } => {
                    assert!(!self.begun.contains(&task.id), "{} has begun already and may run once", task.id);
                    let command = Command { attempt: task.attempt_id(), pid: None, is_killed: false };
                    let old = self.commands.insert(number, command);
                    assert!(old.is_none(), "the number of command {number} is new");
                }
                PoolOutput::ReadOutput { number, .. } => self.unread.push(number),
                PoolOutput::DropOutput(number) => {
                    assert!(!self.unread.contains(&number), "the output of command {number} is wanted");
                }
                PoolOutput::Signal { pid, signal } if pid >= COMMAND_PIDS => {
                    self.is_alone(u64::MAX, "left for a command");
                    let command = self.commands.values_mut().find(|command| command.pid == Some(pid));
                    if let (Some(command), Signal::Kill) = (command, signal) {
                        command.is_killed = true;
                    }
                }
                PoolOutput::Send { worker, pieces } => self.deliver(worker, &pieces),
                PoolOutput::Signal { pid, signal } => {
                    self.is_alone(u64::from(pid - pid_of(0)), "signalled");
                    let process = self.processes.get_mut(&u64::from(pid - pid_of(0)));
                    if let (Some(process), Signal::Kill) = (process, signal) {
                        process.ends = true;
                    }
                }
                PoolOutput::Recall(pid) => self.recall(u64::from(pid - pid_of(0))),
                PoolOutput::Close(worker) => {
                    self.is_alone(worker, "closed");
                    if let Some(process) = self.processes.get_mut(&worker) {
                        process.connection = Connection::Closed;
                        process.ends = true;
                    }
                }
                PoolOutput::Drained => self.drained = true,
            }
        }
    }

    /// A process is asked for what it has not begun. Some do not hear it, and between tasks nobody does.
    fn recall(&mut self, worker: u64) {
        let Some(process) = self.processes.get_mut(&worker).filter(|process| process.is_heard()) else {
            return;
        };
        let Some(head) = process.tasks.front().copied() else { return };
        if worker.is_multiple_of(2) && (head.begun || !head.announce) {
            process.tasks.truncate(1);
            let mut frame = BytesMut::new();
            put_frame(&mut frame, b'G', &head.tag.to_le_bytes());
            let speaker = self.speaker;
            self.write(worker, &frame);
            self.speaker = speaker;
        }
    }

    /// What one process says is no reason to end another, unless all of them end.
    fn is_alone(&self, worker: u64, what: &str) {
        if let Some(speaker) = self.speaker.filter(|_| !self.draining) {
            assert_eq!(worker, speaker, "worker {worker} is {what} for what worker {speaker} said");
        }
    }

    fn hear(&mut self, event: ExecutorEvent) {
        match event {
            ExecutorEvent::Outcomes(outcomes) => outcomes.iter().for_each(|outcome| self.end(outcome)),
            ExecutorEvent::Started(started) => {
                for (attempt, _) in started {
                    assert!(self.open.contains_key(&attempt), "{attempt:?} begins and is not open");
                }
            }
            ExecutorEvent::GaveBack(attempts) => {
                for attempt in attempts {
                    assert!(self.open.remove(&attempt).is_some(), "{attempt:?} goes back and is not open");
                    assert!(!self.begun.contains(&attempt.task), "{attempt:?} goes back and has begun");
                }
            }
            ExecutorEvent::Capacity(_) => {}
        }
    }

    fn end(&mut self, outcome: &Outcome) {
        let attempt = outcome.attempt_id();
        assert!(self.open.remove(&attempt).is_some(), "{attempt:?} ends and is not open");
        self.begun.remove(&attempt.task);
        self.ended += 1;
        let most = match outcome.kind {
            OutcomeKind::Returned => MAX_RESULT_BYTES,
            _ => FRAME_SPARE_BYTES,
        };
        assert!(outcome.payload.len() <= most, "{} bytes of a {:?}", outcome.payload.len(), outcome.kind);
        for stream in [&outcome.stdout, &outcome.stderr] {
            assert!(
                stream.len() <= MAX_OUTPUT_BYTES + OUTPUT_SPARE_BYTES,
                "{} bytes of output",
                stream.len()
            );
        }
    }

    fn deliver(&mut self, worker: u64, pieces: &[Bytes]) {
        let begun = &self.begun;
        if let Some(process) = self.processes.get_mut(&worker) {
            process.read(pieces, |task| begun.contains(&task));
        }
    }
}

fn pick<T>(list: &[T], choice: u8) -> Option<&T> {
    list.get(usize::from(choice) % list.len().max(1))
}
