//! What a history says about each task.

use std::collections::{BTreeMap, HashMap};

use funcx_core::model::TaskId;

use super::history::{Ending, Event, Execution, Line, Seen, Wanted};

/// A request that took this long may have been made twice by the client: the service recognises a repeated one, unless
/// it was killed in between. So two tasks may have come from it.
const MAYBE_REPEATED_NANOS: u64 = 200_000_000;

/// What became of a call.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    /// The run ended before.
    #[default]
    None,
    Accepted {
        at: u64,
    },
    /// The service may have it or not.
    Refused {
        at: u64,
    },
}

/// One call that was submitted.
#[derive(Debug, Default)]
pub(super) struct CallAccount {
    pub(super) submitted: u64,
    pub(super) wanted: Wanted,
    pub(super) answer: Answer,
    pub(super) task: Option<TaskId>,
    /// Tasks that the client was not told of and that returned the key of this call.
    pub(super) doubles: Vec<TaskId>,
    pub(super) executions: Vec<Execution>,
}

impl CallAccount {
    /// Whether the client may have asked twice.
    pub(super) const fn maybe_repeated(&self) -> bool {
        match self.answer {
            Answer::None | Answer::Refused { .. } => true,
            Answer::Accepted { at } => at - self.submitted >= MAYBE_REPEATED_NANOS,
        }
    }

    pub(super) fn starts(&self) -> usize {
        self.executions.iter().filter(|execution| !execution.is_end).count()
    }

    pub(super) fn ends(&self) -> usize {
        self.executions.len() - self.starts()
    }
}

/// One task that somebody has heard of.
#[derive(Debug, Default)]
pub(super) struct TaskAccount {
    pub(super) key: Option<String>,
    pub(super) endings: Vec<(u64, Seen, Ending)>,
    /// In the list at the end, without an outcome.
    pub(super) unfinished: Option<String>,
    /// When a cancel was asked for, first.
    pub(super) cancel_asked: Option<u64>,
    /// When one was answered, first.
    pub(super) cancel_answered: Option<u64>,
}

impl TaskAccount {
    /// How it ended, as it was seen first.
    pub(super) fn ending(&self) -> Option<&Ending> {
        self.endings.first().map(|(_, _, ending)| ending)
    }

    pub(super) fn is_listed(&self) -> bool {
        self.unfinished.is_some() || self.endings.iter().any(|(_, seen, _)| *seen == Seen::List)
    }
}

/// Everything that is known about a run.
#[derive(Debug, Default)]
pub(super) struct Accounts {
    pub(super) calls: BTreeMap<String, CallAccount>,
    pub(super) tasks: HashMap<TaskId, TaskAccount>,
    /// The service was asked for all tasks at the end.
    pub(super) listed: bool,
    /// The run has come to its end.
    pub(super) ended: bool,
    /// Tasks of which no answer was told to the client.
    pub(super) unclaimed: Vec<TaskId>,
}

impl Accounts {
    pub(super) fn new(lines: &[Line], executions: &[Execution]) -> Self {
        let mut accounts = Self::default();
        let mut cancels: HashMap<u64, &[TaskId]> = HashMap::new();
        for Line { at, event } in lines {
            match event {
                Event::Submit { key, wanted } => {
                    let call = CallAccount { submitted: *at, wanted: *wanted, ..CallAccount::default() };
                    accounts.calls.insert(key.clone(), call);
                }
                Event::Accepted { key, task } => {
                    let call = accounts.calls.entry(key.clone()).or_default();
                    (call.answer, call.task) = (Answer::Accepted { at: *at }, Some(*task));
                    accounts.tasks.entry(*task).or_default().key = Some(key.clone());
                }
                Event::Refused { key, .. } => {
                    accounts.calls.entry(key.clone()).or_default().answer = Answer::Refused { at: *at };
                }
                Event::Outcome { task, seen, ending } => {
                    accounts.tasks.entry(*task).or_default().endings.push((*at, *seen, ending.clone()));
                }
                Event::Unfinished { task, status } => {
                    accounts.tasks.entry(*task).or_default().unfinished = Some(status.clone());
                }
                Event::Listed { .. } => accounts.listed = true,
                Event::Ended => accounts.ended = true,
                Event::Cancel { number, tasks, .. } => {
                    cancels.insert(*number, tasks);
                    for task in tasks {
                        accounts.tasks.entry(*task).or_default().cancel_asked.get_or_insert(*at);
                    }
                }
                Event::Cancelled { number, .. } => {
                    for task in cancels.get(number).copied().unwrap_or_default() {
                        accounts.tasks.entry(*task).or_default().cancel_answered.get_or_insert(*at);
                    }
                }
                _ => {}
            }
        }
        for execution in executions {
            let call = accounts.calls.entry(execution.key.clone()).or_default();
            call.executions.push(execution.clone());
        }
        accounts.claim();
        accounts
    }

    /// Finds the calls of tasks that the client was not told of, by what they returned.
    fn claim(&mut self) {
        for (id, task) in self.tasks.iter_mut().filter(|(_, task)| task.key.is_none()) {
            self.unclaimed.push(*id);
            let returned = task.ending().map(|ending| ending.said.clone());
            if let Some(call) = returned.as_ref().and_then(|key| self.calls.get_mut(key)) {
                call.doubles.push(*id);
                task.key = returned;
            }
        }
        self.unclaimed.sort_unstable();
    }
}
