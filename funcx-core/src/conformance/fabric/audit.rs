//! What must hold, whatever happens.

use std::time::Duration;

use super::network::Wire;
use super::store::task_number;
use super::{Fabric, Place, WireId, note};
use crate::message::Message;
use crate::model::{OutcomeKind, Task, Tick, limit};

/// Longest time until a node above has heard how long a block lasts, when nothing is in the way.
const HEARING: Duration = Duration::from_millis(3);

/// What was seen of a task, apart from what the store believes.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Seen {
    outcome: Option<OutcomeKind>,
    starts: u16,
    /// The highest number of an attempt that began, or of the outcome.
    highest_attempt: u16,
    asked_to_stop: bool,
}

/// Whose deaths the run has had, and whether anything but workers can be lost.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Losses {
    pub(super) lossless: bool,
    /// Whether nobody is late: what is decided is said at once, and heard soon.
    pub(super) punctual: bool,
    /// Whether connections break: what ends while its node is away is stopped when that is back.
    pub(super) cuts: bool,
    /// Whether endpoints keep journals.
    pub(super) journals: bool,
    /// An endpoint died and kept no journal, or lost the end of it with the power.
    pub(super) amnesia: bool,
    pub(super) service: u32,
    pub(super) endpoints: u32,
    /// Nodes that the node above gave up, dead or not.
    pub(super) peers: u32,
}

impl Losses {
    /// Whether what ends like this may go on for a while in a node that is away.
    const fn is_stopped_later(self, kind: OutcomeKind) -> bool {
        self.cuts && matches!(kind, OutcomeKind::Cancelled | OutcomeKind::TimedOut)
    }
}

impl Fabric {
    /// A promise is broken; the first one counts.
    pub(super) fn broken(&mut self, what: String) {
        self.broken.get_or_insert(what);
    }

    /// An attempt begins to run.
    pub(super) fn begins(&mut self, place: Place, environment: u32, task: &Task) {
        let attempt = task.attempt_id();
        let number = task_number(attempt.task);
        note!(self, "p{place} runs {number} attempt {}", attempt.number);
        self.figures.executions += 1;
        self.called.extend(self.store.memoized_call(number));
        let accepted = self.store.records[number as usize].accepted.is_some();
        let most = self.store.limits(number).max_attempts;
        let losses = self.losses;
        let seen = &mut self.seen[number as usize];
        seen.starts += 1;
        let Seen { starts, highest_attempt, outcome, .. } = *seen;
        seen.highest_attempt = highest_attempt.max(attempt.number as u16);
        let known = seen.highest_attempt;
        let wrong = if self.store.environment(number) != environment {
            "runs in another environment than it asks for"
        } else if !accepted {
            "runs although it was not accepted"
        } else if task.granted > limit::MAX_GRANTED || attempt.number > most + limit::MAX_GRANTED {
            "has more attempts than it allows"
        } else if starts > 1 && most == 1 && (losses.service == 0 || losses.journals || losses.endpoints == 0)
        {
            "allows one attempt and runs twice"
        } else if starts > known && !losses.amnesia {
            "begins more often than it is attempted"
        } else if losses.lossless && outcome.is_none() && attempt.number <= u32::from(highest_attempt) {
            "runs the same attempt twice although no process was lost"
        } else if losses.lossless && outcome.is_some_and(|kind| !losses.is_stopped_later(kind)) {
            "runs after its end although no process was lost"
        } else {
            return;
        };
        self.broken(format!("task {number} {wrong}: attempt {} at p{place}, start {starts}", attempt.number));
    }

    /// A node gives tasks to the one below: none that outlives it.
    pub(super) fn gives(&mut self, wire: WireId, message: &Message) {
        let Message::Tasks(batch) = message else { return };
        let Some(Wire { lower: (place, life), .. }) = self.wires.get(wire) else { return };
        let ends_at = self.processes[*place].ends_at;
        if !self.losses.punctual || ends_at == Tick::NEVER || !self.is_alive(*place, *life) {
            return;
        }
        let place = *place;
        for head in &batch.heads {
            let number = task_number(head.task);
            if self.store.walltime(number).is_some_and(|walltime| self.now + walltime > ends_at + HEARING) {
                self.broken(format!("task {number} is given to p{place}, whose block ends before it would"));
            }
        }
    }

    /// Somebody cancels a task.
    pub(super) fn asked_to_stop(&mut self, number: u32) {
        self.seen[number as usize].asked_to_stop = true;
    }

    /// The outcome of a task is durable.
    pub(super) fn end(&mut self, number: u32, kind: OutcomeKind, attempt: Option<u32>) {
        note!(self, "outcome {number} {kind}");
        let record = self.store.records[number as usize];
        let limits = self.store.limits(number);
        let seen = &mut self.seen[number as usize];
        let earlier = seen.outcome.replace(kind);
        if let Some(attempt) = attempt {
            // What is stopped while its node is away ends as the attempt of which it was heard last.
            let least = if matches!(kind, OutcomeKind::Cancelled | OutcomeKind::TimedOut) {
                seen.highest_attempt
            } else {
                0
            };
            seen.highest_attempt = least.max(attempt as u16);
        }
        let Seen { starts, asked_to_stop, .. } = *seen;
        let has_run =
            starts > 0 || self.store.memoized_call(number).is_some_and(|call| self.called.contains(&call));
        let known = seen.highest_attempt;
        self.last_progress = self.now;
        let soonest = limits.ttl.into_iter().chain(limits.deadline).min();
        let wrong = match (earlier, record.accepted) {
            (Some(earlier), _) => format!("ends as {kind} after it ended as {earlier}"),
            (None, None) => format!("ends as {kind} but was never accepted"),
            (None, Some(accepted)) => {
                self.figures.open -= 1;
                *self.figures.outcomes.entry(kind).or_insert(0) += 1;
                match kind {
                    OutcomeKind::Cancelled if !asked_to_stop => "is cancelled by nobody".to_owned(),
                    OutcomeKind::Returned if !has_run => "returns without having run".to_owned(),
                    OutcomeKind::TimedOut if soonest.is_none_or(|soonest| self.now < accepted + soonest) => {
                        "times out before its time".to_owned()
                    }
                    _ if attempt.is_some() && starts > known && !self.losses.amnesia => {
                        format!("has begun {starts} times and ends as attempt {known}")
                    }
                    OutcomeKind::Raised if !self.may_lack(number) => "is refused by the fabric".to_owned(),
                    _ if !self.losses.is_stopped_later(kind) && self.runs_somewhere(number) => {
                        format!("runs although it ended as {kind}")
                    }
                    _ => return,
                }
            }
        };
        self.broken(format!("task {number} {wrong}"));
    }

    /// Whether a manager that a task may have come to had no workers of its environment.
    fn may_lack(&self, number: u32) -> bool {
        let environment = self.store.environment(number);
        let endpoint = 1 + self.store.records[number as usize].lane as usize;
        self.processes.iter().enumerate().any(|(place, process)| {
            process.above == Some(endpoint)
                && (0..=process.life).any(|life| self.lacks(place, life, environment))
        })
    }

    /// Whether a worker still runs a task that has ended, when nothing excuses it.
    fn runs_somewhere(&self, number: u32) -> bool {
        let id = super::store::task_id(number);
        self.config.check_every != 0
            && self.losses.lossless
            && self.processes.iter().any(|process| process.running.contains_key(&id))
    }

    /// Connections between correct nodes are not closed for what was said on them.
    pub(super) fn closes(&mut self, place: Place, reason: &str) {
        let protocol = ["unexpected", "task for function", "task head", "it claims", "more functions"];
        if protocol.iter().any(|start| reason.starts_with(start)) {
            self.broken(format!("p{place} closes a connection to a correct peer: {reason}"));
        }
    }

    /// Looks at the promises of a node, all of them only now and then.
    pub(super) fn check(&mut self, place: Place) {
        let every = self.config.check_every;
        let process = &mut self.processes[place];
        process.inputs += 1;
        if every != 0
            && process.inputs.is_multiple_of(every)
            && let Err(violation) = process.node.check()
        {
            self.broken(format!("p{place}: {violation}"));
        }
    }

    /// Whether nothing is left anywhere.
    pub(super) fn is_quiet(&self) -> bool {
        self.unsettled == 0
            && self.figures.open == 0
            && self.store.pending == 0
            && self.processes.iter().all(|process| process.alive && !process.frozen && process.is_empty())
    }

    /// The promises of every node, at the end.
    pub(super) fn check_all(&self) -> Result<(), String> {
        for (place, process) in self.processes.iter().enumerate() {
            process.node.check().map_err(|violation| format!("p{place}: {violation}"))?;
        }
        for (number, (record, seen)) in self.store.records.iter().zip(&self.seen).enumerate() {
            if record.accepted.is_some() != seen.outcome.is_some() || record.outcome != seen.outcome {
                return Err(format!("task {number} is {record:?} in the store, but {seen:?}"));
            }
        }
        Ok(())
    }

    /// Where the tasks are that should have an outcome, and who is not quiet.
    pub(super) fn stuck(&self) -> String {
        let mut text = format!("stuck: {} accepted tasks have no outcome", self.figures.open);
        let open = self.store.records.iter().zip(&self.seen).enumerate();
        for (number, _) in
            open.filter(|(_, (record, seen))| record.accepted.is_some() && seen.outcome.is_none())
        {
            let id = super::store::task_id(number as u32);
            let places = self.processes.iter().enumerate().filter_map(|(place, process)| {
                process.node.state(id).map(|state| format!("p{place} {state:?}"))
            });
            text.push_str(&format!("\ntask {number}: {}", places.collect::<Vec<_>>().join(", ")));
        }
        for (place, process) in self.processes.iter().enumerate().filter(|(_, process)| !process.is_empty()) {
            let held = process.node.uplink().map_or(0, crate::state::Uplink::held);
            let (running, waiting) = (process.running.len(), process.waiting());
            text.push_str(&format!(
                "\np{place} is not empty: {:?}, holds {held}, runs {running}, {waiting} wait",
                process.node.load(crate::state::LaneId(0))
            ));
        }
        text
    }
}
