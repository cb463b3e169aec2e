//! What a node with a journal writes down, and what waits for that.
//!
//! An attempt leaves the node when its lease is written down: so a later life knows which attempts may have begun. An
//! outcome is acknowledged below when it is written down: so either the node or the one below has it, whoever is killed.
//! It is sent above at once, since nothing depends on it there that the node could take back.

use std::collections::VecDeque;

use super::{Node, NodeOutput, RecordId};
use crate::contract::{PeerId, PlacementPolicy};
use crate::model::{AttemptId, Failure, HopStamps, Outcome, OutcomeKind, Task, TaskEvent, TaskEventKind};
use crate::state::ledger::{JournalEntry, Recovered};

/// What waits until something is written down.
#[derive(Debug)]
pub(super) enum Withheld {
    /// Attempts that are leased to a peer, and whether that is written down.
    Tasks(RecordId, bool, PeerId, Vec<Task>),
    /// A request to stop some of them.
    Stop(PeerId, Vec<AttemptId>, Halt),
}

/// Why a peer is asked to stop attempts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Halt {
    /// Somebody wants the task to end.
    Cancel,
    /// The attempt has no place any more.
    Abandon,
}

/// Outcomes that are being written down, whether they have been, and which batch of which peer they came in.
type OutcomesRecord = (RecordId, bool, Option<(PeerId, u64)>);

/// What was given to the journal and is not known to be there yet.
#[derive(Debug, Default)]
pub(super) struct Recorder {
    next: u64,
    leases: VecDeque<Withheld>,
    /// Acknowledgements of batches of outcomes to the peers that sent them, in order.
    outcomes: VecDeque<OutcomesRecord>,
}

impl Recorder {
    fn record(&mut self, entries: Vec<JournalEntry>) -> (RecordId, NodeOutput) {
        let id = RecordId(self.next);
        self.next += 1;
        (id, NodeOutput::Record(id, entries))
    }

    /// Whether attempts that are leased to this peer have not left yet.
    pub(super) fn withholds_for(&self, peer: PeerId) -> bool {
        self.leases.iter().any(|withheld| match withheld {
            Withheld::Tasks(_, _, to, _) | Withheld::Stop(to, ..) => *to == peer,
        })
    }

    pub(super) fn withhold(&mut self, what: Withheld) {
        self.leases.push_back(what);
    }
}

impl<P: PlacementPolicy + Default> Node<P> {
    /// Goes on with what an earlier life has left in the journal. Call it before anything else.
    ///
    /// Attempts that were out end as `Lost`: their peers ended with the earlier life. The node above decides whether they
    /// are made again; those that are not known to have begun do not count.
    pub fn restore(&mut self, recovered: Recovered) {
        let Some(uplink) = &mut self.uplink else { return };
        uplink.restore(recovered.outbox, recovered.next_sequence);
        let mut lost = Vec::with_capacity(recovered.leased.len());
        for (attempt, begun) in recovered.leased {
            uplink.hold(attempt);
            let failure = match begun {
                true => Failure::new("EndpointLost", "the endpoint was killed while it ran"),
                false => Failure::new(
                    Failure::LEASE_LOST,
                    "the endpoint was killed before it was known to have begun",
                ),
            };
            lost.push(lost_outcome(attempt, &failure));
        }
        self.deliver(lost);
        self.pump();
    }

    /// What was given out with this number is written down.
    pub fn recorded(&mut self, record: RecordId) {
        let Some(recorder) = &mut self.recorder else { return };
        if let Some(entry) = recorder.outcomes.iter_mut().find(|(id, ..)| *id == record) {
            entry.1 = true;
        } else {
            let leases = recorder.leases.iter_mut();
            leases.for_each(|withheld| {
                if let Withheld::Tasks(id, written, ..) = withheld {
                    *written |= *id == record;
                }
            });
        }
        while let Some((_, _, source)) =
            self.recorder.as_mut().and_then(|recorder| recorder.outcomes.pop_front_if(|(_, done, _)| *done))
        {
            if let Some((peer, sequence)) = source {
                self.acknowledge(peer, sequence);
            }
        }
        self.release();
        self.pump();
    }

    /// Lets out what does not wait for anything any more.
    fn release(&mut self) {
        while let Some(recorder) = &mut self.recorder {
            let is_free = |withheld: &mut Withheld| !matches!(withheld, Withheld::Tasks(_, false, ..));
            match recorder.leases.pop_front_if(is_free) {
                Some(Withheld::Tasks(_, _, peer, tasks)) => self.give(peer, tasks),
                Some(Withheld::Stop(peer, attempts, how)) => self.ask_to_stop(peer, &attempts, how),
                None => return,
            }
        }
    }

    /// What was withheld for a peer does not reach it any more. Returns the attempts: they have certainly not begun.
    pub(super) fn withdraw(&mut self, peer: PeerId) -> Vec<AttemptId> {
        let mut withdrawn = Vec::new();
        if let Some(recorder) = &mut self.recorder {
            recorder.leases.retain(|withheld| match withheld {
                Withheld::Tasks(_, _, to, tasks) if *to == peer => {
                    withdrawn.extend(tasks.iter().map(Task::attempt_id));
                    false
                }
                Withheld::Tasks(..) => true,
                Withheld::Stop(to, ..) => *to != peer,
            });
            for (_, _, source) in &mut recorder.outcomes {
                // Its place may be taken by another process, to which acknowledgements for this one mean nothing.
                source.take_if(|(sender, _)| *sender == peer);
            }
        }
        if !withdrawn.is_empty() {
            self.record_returned(&withdrawn);
        }
        withdrawn
    }

    pub(super) fn record_leases(&mut self, peer: PeerId, tasks: Vec<Task>) {
        let leased = tasks.iter().map(Task::attempt_id).collect();
        // For a task with one attempt every doubt counts: it may begin at any moment from now on.
        let once = tasks.iter().filter(|task| task.spec.limits.max_attempts <= 1);
        let begun: Vec<_> = once.map(Task::attempt_id).collect();
        let mut entries = vec![JournalEntry::Leased(leased)];
        if !begun.is_empty() {
            entries.push(JournalEntry::Started(begun));
        }
        let Some(recorder) = &mut self.recorder else { return };
        let (id, output) = recorder.record(entries);
        recorder.withhold(Withheld::Tasks(id, false, peer, tasks));
        self.outputs.push_back(output);
    }

    /// Outcomes that go above, from this sequence number, and whom to tell that they are safe.
    pub(super) fn record_outcomes(&mut self, first: Option<u64>, source: Option<(PeerId, u64)>) {
        let (Some(recorder), Some(uplink)) = (&mut self.recorder, &self.uplink) else { return };
        let batches = first.into_iter().flat_map(|first| uplink.unacknowledged(first));
        let entries: Vec<_> = batches.cloned().map(JournalEntry::Outcomes).collect();
        let (id, output) = recorder.record(entries);
        recorder.outcomes.push_back((id, false, source));
        self.outputs.push_back(output);
    }

    /// What happened to attempts at a peer. One that it has lost goes on there as the next one.
    pub(super) fn record_events(&mut self, events: &[TaskEvent]) {
        if self.recorder.is_none() {
            return;
        }
        let (mut started, mut leased) = (Vec::new(), Vec::new());
        for TaskEvent { attempt, kind, .. } in events {
            match kind {
                TaskEventKind::Started => started.push(*attempt),
                TaskEventKind::Lost | TaskEventKind::LeaseLost => {
                    leased.push(AttemptId { number: attempt.number.saturating_add(1), ..*attempt });
                }
                TaskEventKind::CancelRequested => {}
            }
        }
        if !leased.is_empty() {
            self.record_only(JournalEntry::Leased(leased));
        }
        if !started.is_empty() {
            self.record_only(JournalEntry::Started(started));
        }
    }

    pub(super) fn record_returned(&mut self, attempts: &[AttemptId]) {
        self.record_only(JournalEntry::Returned(attempts.to_vec()));
    }

    pub(super) fn record_acknowledged(&mut self, through: u64) {
        self.record_only(JournalEntry::Acknowledged(through));
    }

    /// Writes down what nothing waits for.
    fn record_only(&mut self, entry: JournalEntry) {
        if let Some(recorder) = &mut self.recorder {
            let (_, output) = recorder.record(vec![entry]);
            self.outputs.push_back(output);
        }
    }
}

/// The end of an attempt of which nothing but its number is known.
pub(super) fn lost_outcome(attempt: AttemptId, failure: &Failure) -> Outcome {
    Outcome {
        task: attempt.task,
        attempt: attempt.number,
        kind: OutcomeKind::Lost,
        // A struct of three strings always has a JSON form.
        payload: serde_json::to_vec(failure).unwrap_or_default().into(),
        stdout: bytes::Bytes::new(),
        stderr: bytes::Bytes::new(),
        worker: bytes::Bytes::new(),
        stamps: HopStamps::default(),
    }
}
