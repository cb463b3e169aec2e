//! The place of one worker process, or of one command, in a pool.

use std::{collections::VecDeque, fmt};

use bytes::Bytes;
use funcx_core::model::{Now, Tick, Timestamp};

/// One worker process after the other; the state that [`super::pool::PoolState`] keeps about it.
#[derive(Debug)]
pub(super) struct Slot {
    /// Number of the process; each process of a pool has another.
    pub(super) worker: u64,
    pub(super) stage: Stage,
    pub(super) pid: Option<u32>,
    pub(super) connected: bool,
    pub(super) exit: Option<Exit>,
    /// Whether the worker broke the protocol: from then on nothing that it says is believed.
    pub(super) lied: bool,
    /// What the worker says about itself.
    pub(super) details: Bytes,
    /// Keys of the tasks that it was given, in the order in which it runs them.
    pub(super) pipeline: VecDeque<u32>,
    /// How many at the end of the pipeline have not been put into a frame yet.
    pub(super) unsent: usize,
    /// Expected time and size of what is in the pipeline.
    pub(super) cost: u64,
    pub(super) bytes: usize,
    /// When the head of the pipeline began, if it was announced.
    pub(super) started: Option<Tick>,
    /// Since when the head is the head; it began at this time or later.
    pub(super) head_since: Now,
    /// Whether the head was seen to take far longer than was expected, so that nothing is put behind it.
    pub(super) is_stuck: bool,
    /// When the worker was last asked for what stands behind the head.
    pub(super) recalled: Option<Tick>,
    /// Whether the start of the head was reported upwards.
    pub(super) reported: bool,
    /// By function number: whether the process was sent the function.
    pub(super) functions: Vec<bool>,
    /// What runs here instead of tasks of the worker, which waits meanwhile if there is one.
    pub(super) command: Option<Command>,
}

/// A shell command in a process group of its own, from the request for it until its outcome is known.
#[derive(Debug)]
pub(super) struct Command {
    /// Key of its task.
    pub(super) key: u32,
    /// When the zygote was asked for it.
    pub(super) asked: Tick,
    /// Its process group and the time when it began, once that is known.
    pub(super) running: Option<Running>,
    /// That it must end, and why.
    pub(super) ending: Option<Ending>,
    /// When it ended, once it has; then what it wrote is being read.
    pub(super) ended: Option<Timestamp>,
}

/// The process of a command.
#[derive(Debug, Clone, Copy)]
pub(super) struct Running {
    pub(super) pid: u32,
    pub(super) since: Now,
}

/// Where the process of a slot is in its life.
#[derive(Debug)]
pub(super) enum Stage {
    /// There is none; one is asked for at this time.
    Vacant { due: Tick },
    /// It was asked for and has until then to say hello.
    Booting { deadline: Tick },
    /// It takes tasks.
    Ready,
    /// It ended, or it must.
    Ending(Ending),
}

/// The end of a process. Its tasks are settled when it is gone and everything that it sent has been read, so that
/// a task which did end is not taken for one that did not.
#[derive(Debug)]
pub(super) struct Ending {
    pub(super) cause: Cause,
    /// When to send SIGKILL, unless that was done.
    pub(super) kill_at: Option<Tick>,
    /// When to settle its tasks whatever is known by then.
    pub(super) settle_at: Option<Tick>,
}

/// Why a process ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Cause {
    /// By itself, or because somebody outside killed it.
    Died,
    /// It broke the protocol.
    Violation(String),
    /// It never said hello.
    Unborn(String),
    /// To stop the task with this tag, which was cancelled.
    Cancelled(u64),
    /// To stop the task with this tag, which ran past its walltime.
    TimedOut(u64),
    /// To stop the task with this tag, which should have ended by now.
    DeadlinePassed(u64),
    /// To stop whatever runs.
    Stopped,
    /// The zygote was lost, and its workers with it.
    ZygoteLost,
    /// The pool drains, or has fewer slots than before.
    Drained,
}

/// How a process ended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Exit {
    pub(super) status: Option<i32>,
    pub(super) signal: Option<i32>,
    /// End of what it wrote to standard error.
    pub(super) stderr: String,
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.status, self.signal) {
            (Some(status), _) => write!(f, "exited with code {status}"),
            (None, Some(signal)) => write!(f, "was killed by signal {signal}"),
            (None, None) => f.write_str("ended"),
        }
    }
}

impl Slot {
    /// A place without a process. `worker` is the number of its next one.
    pub(super) fn vacant(worker: u64, due: Tick) -> Self {
        Self {
            worker,
            stage: Stage::Vacant { due },
            pid: None,
            connected: false,
            exit: None,
            lied: false,
            details: Bytes::new(),
            pipeline: VecDeque::new(),
            unsent: 0,
            cost: 0,
            bytes: 0,
            started: None,
            head_since: Now::default(),
            is_stuck: false,
            recalled: None,
            reported: false,
            functions: Vec::new(),
            command: None,
        }
    }

    /// The pipeline has another head since now, or none.
    pub(super) fn change_head(&mut self, now: Now) {
        (self.head_since, self.started, self.recalled) = (now, None, None);
        (self.reported, self.is_stuck) = (false, false);
    }

    pub(super) fn is_ready(&self) -> bool {
        matches!(self.stage, Stage::Ready)
    }

    /// Whether there is a process, or was until just now.
    pub(super) fn is_taken(&self) -> bool {
        !matches!(self.stage, Stage::Vacant { .. })
    }

    /// The tasks at the head of the pipeline that may have begun: the one that announced it did, or any number of
    /// those that begin unannounced. An announced one that has not said so has not begun.
    pub(super) fn begun(&self, is_announced: impl Fn(u32) -> bool) -> usize {
        match self.started {
            Some(_) => 1,
            None => self.pipeline.iter().take_while(|key| !is_announced(**key)).count(),
        }
    }

    /// Notes that the process gets this function; whether it had it already.
    pub(super) fn learn(&mut self, function: u32) -> bool {
        let function = function as usize;
        if self.functions.len() <= function {
            self.functions.resize(function + 1, false);
        }
        std::mem::replace(&mut self.functions[function], true)
    }

    /// Notes that the process loses this function; whether it had it.
    pub(super) fn unlearn(&mut self, function: u32) -> bool {
        self.functions.get_mut(function as usize).is_some_and(std::mem::take)
    }
}
