//! What has happened in a run, written down as it happens, so that also a run that was killed can be audited.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, Result};
use funcx_core::model::{OutcomeKind, TaskGroupId, TaskId};
use nix::time::{ClockId, clock_gettime};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

/// Name of the history in the directory of a run.
const HISTORY: &str = "history.jsonl";

/// Name of the file to which tasks write that they run.
const EXECUTIONS: &str = "executions.log";

/// What a task is asked to do, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct Wanted {
    pub(super) sleep_ms: u64,
    pub(super) max_attempts: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) walltime_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) ttl_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) deadline_ms: Option<u64>,
    #[serde(default)]
    pub(super) priority: i8,
}

/// How a task ended, as somebody saw it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Ending {
    pub(super) kind: OutcomeKind,
    pub(super) attempt: u32,
    /// The value, or the reason why there is none.
    pub(super) said: String,
}

/// Who saw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Seen {
    /// The handle of the call.
    Handle,
    /// The stream of outcomes of the task group, in which each outcome comes once.
    Stream,
    /// The list of all tasks, at the end.
    List,
}

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(super) enum Event {
    /// The run.
    Began { seed: u64, seconds: u64, faults: String },
    /// A daemon was started.
    Started { process: String, pid: u32 },
    /// A daemon ended although nobody asked it to.
    Exited { process: String, pid: u32, status: String },
    /// A daemon did not end although it was asked to.
    Stuck { process: String, pid: u32 },
    /// The client is about to submit a call.
    Submit { key: String, wanted: Wanted },
    /// The service has accepted it.
    Accepted { key: String, task: TaskId },
    /// The client was told that it could not be submitted. Whether the service has it nobody knows.
    Refused { key: String, error: String },
    /// A task ended.
    Outcome { task: TaskId, seen: Seen, ending: Ending },
    /// The list of all tasks has one that has not ended.
    Unfinished { task: TaskId, status: String },
    /// The list of all tasks was read to its end.
    Listed { tasks: usize },
    /// The client asks to cancel these tasks, by their group if one is said.
    Cancel {
        number: u64,
        tasks: Vec<TaskId>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        group: Option<TaskGroupId>,
    },
    /// The service has answered.
    Cancelled { number: u64, cancelled: usize, unknown: usize },
    /// The service has not answered.
    CancelFailed { number: u64, error: String },
    /// A fault begins.
    Fault { number: u64, kind: String, target: String, detail: String },
    /// It could not be brought about.
    NoFault { number: u64, error: String },
    /// It is over.
    Healed { number: u64 },
    /// No more calls are submitted, and all faults are over.
    AllHealed,
    /// A process is there that should have ended.
    Left { pid: u32, command: String },
    /// The run has come to its end.
    Ended,
}

/// An event, and when it was: nanoseconds of the clock that tasks read too.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Line {
    pub(super) at: u64,
    #[serde(flatten)]
    pub(super) event: Event,
}

/// One line that a task wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Execution {
    pub(super) at: u64,
    pub(super) key: String,
    pub(super) pid: u32,
    pub(super) is_end: bool,
}

/// Writes the history of a run. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct History(Arc<Mutex<Writer>>);

#[derive(Debug)]
struct Writer {
    file: File,
    failed: Option<io::Error>,
}

impl History {
    pub(super) fn create(directory: &Path) -> Result<Self> {
        let path = directory.join(HISTORY);
        let file = OpenOptions::new().append(true).create_new(true).open(&path);
        let file = file.with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Self(Arc::new(Mutex::new(Writer { file, failed: None }))))
    }

    /// Writes down that this happens now. An error is kept for [`History::check`].
    pub(super) fn record(&self, event: Event) {
        let mut writer = self.0.lock();
        // Inside of the lock, so that the lines are in the order of their times.
        let line = Line { at: now(), event };
        let written = serde_json::to_string(&line)
            .map_err(io::Error::other)
            .and_then(|text| writer.file.write_all((text + "\n").as_bytes()));
        if let Err(error) = written {
            writer.failed.get_or_insert(error);
        }
    }

    /// Whether all was written.
    pub(super) fn check(&self) -> Result<()> {
        match self.0.lock().failed.take() {
            Some(error) => Err(error).context("cannot write the history"),
            None => Ok(()),
        }
    }
}

/// The file to which tasks of a run write.
pub(super) fn executions_path(directory: &Path) -> PathBuf {
    directory.join(EXECUTIONS)
}

/// Reads the history of a run. A last line that is not whole is left out.
pub(super) fn read(directory: &Path) -> Result<Vec<Line>> {
    let path = directory.join(HISTORY);
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    whole_lines(&text)
        .enumerate()
        .map(|(index, line)| {
            serde_json::from_str(line).with_context(|| format!("{} line {}", path.display(), index + 1))
        })
        .collect()
}

/// Reads what tasks have written.
pub(super) fn read_executions(directory: &Path) -> Result<Vec<Execution>> {
    let path = executions_path(directory);
    let text = match fs::read_to_string(&path) {
        // No task has run.
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        text => text.with_context(|| format!("cannot read {}", path.display()))?,
    };
    whole_lines(&text)
        .enumerate()
        .map(|(index, line)| {
            execution(line).with_context(|| format!("{} line {}: `{line}`", path.display(), index + 1))
        })
        .collect()
}

fn whole_lines(text: &str) -> impl Iterator<Item = &str> {
    text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n'))
}

fn execution(line: &str) -> Option<Execution> {
    let mut words = line.split(' ');
    let is_end = match words.next()? {
        "start" => false,
        "end" => true,
        _ => return None,
    };
    let key = words.next()?.to_owned();
    let pid = words.next()?.parse().ok()?;
    Some(Execution { at: words.next()?.parse().ok()?, key, pid, is_end })
}

/// `CLOCK_MONOTONIC`, which is the same for all processes of a machine.
fn now() -> u64 {
    // It fails for clocks that a system does not have, and every system has this one.
    clock_gettime(ClockId::CLOCK_MONOTONIC)
        .map_or(0, |time| time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_again_also_after_a_kill() {
        let directory = tempfile::tempdir().unwrap();
        let history = History::create(directory.path()).unwrap();
        let events = [
            Event::Submit { key: "1".to_owned(), wanted: Wanted { max_attempts: 3, ..Wanted::default() } },
            Event::Healed { number: 4 },
        ];
        events.iter().cloned().for_each(|event| history.record(event));
        history.check().unwrap();
        history.0.lock().file.write_all(b"{\"at\": 12, \"ev").unwrap();
        let read: Vec<_> = read(directory.path()).unwrap().into_iter().map(|line| line.event).collect();
        assert_eq!(read, events);
    }

    #[test]
    fn lines_of_tasks_are_understood() {
        let line = execution("end 17 4242 99").unwrap();
        assert_eq!(line, Execution { at: 99, key: "17".to_owned(), pid: 4242, is_end: true });
        assert_eq!(execution("begin 17 4242 99"), None);
        assert_eq!(execution("start 17 4242"), None);
    }
}
