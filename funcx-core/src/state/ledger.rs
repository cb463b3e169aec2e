//! What a node must still know when it is back after a crash: an outcome kept for the node above, a lease given out.
//!
//! A journal on disk holds [`JournalEntry`]s in the order in which things happened; a [`Ledger`] is what they add up
//! to. Applying the same run of entries once more changes nothing, so a journal may be written twice where its writer
//! cannot know what reached the disk.

use std::collections::BTreeMap;

use crate::message::OutcomeBatch;
use crate::model::{AttemptId, IdMap, TaskId};

/// Lives of one epoch. After the last one a new epoch begins.
pub const MAX_LIVES: u32 = 1 << 24;

/// One thing that happened to attempts at a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JournalEntry {
    /// These attempts are about to be given to peers (managers, executors): from now on they may begin.
    Leased(Vec<AttemptId>),
    /// These attempts are known to have begun.
    Started(Vec<AttemptId>),
    /// These leases came to nothing: not begun, back in the queue or given back to the node above.
    Returned(Vec<AttemptId>),
    /// Outcomes as they are kept for the node above, with their sequence number.
    Outcomes(OutcomeBatch),
    /// The node above has the outcomes through this sequence number.
    Acknowledged(u64),
}

/// What the entries of a journal add up to.
///
/// A task has at most one lease, the one with the highest attempt number. A lease ends with an outcome of the task
/// whose attempt number is not lower, or when it is returned. What is said about attempts that have no lease changes
/// nothing: an attempt that ended does not come back because the news that it began was late.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ledger {
    leases: IdMap<TaskId, Lease>,
    outbox: BTreeMap<u64, OutcomeBatch>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Lease {
    number: u32,
    began: bool,
}

/// What a node finds when it is back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recovered {
    /// The session's epoch: an old one if the journal could be read, so that the session goes on, or a new one.
    pub epoch: u64,
    /// Counts the processes that had this epoch, from 1.
    pub life: u32,
    /// Sequence number of the first batch of outcomes of this life.
    pub next_sequence: u64,
    /// Outcomes that the node above has not acknowledged, oldest first.
    pub outbox: Vec<OutcomeBatch>,
    /// Attempts that were given out and have not ended, and whether they are known to have begun.
    pub leased: Vec<(AttemptId, bool)>,
    /// Whether every attempt that may have begun is among `leased` or has ended. Not so after the loss of power or
    /// damage to the journal: leases are written before they are given out, but only outcomes wait for the disk.
    pub complete: bool,
}

impl Ledger {
    /// Counts one more entry.
    pub fn apply(&mut self, entry: &JournalEntry) {
        match entry {
            JournalEntry::Leased(attempts) => attempts.iter().for_each(|attempt| self.lease(*attempt)),
            JournalEntry::Started(attempts) => {
                for attempt in attempts {
                    if let Some(lease) = self.leases.get_mut(&attempt.task)
                        && lease.number == attempt.number
                    {
                        lease.began = true;
                    }
                }
            }
            JournalEntry::Returned(attempts) => attempts.iter().for_each(|attempt| self.end(*attempt)),
            JournalEntry::Outcomes(batch) => {
                for head in &batch.heads {
                    self.end(AttemptId { task: head.task, number: head.attempt });
                }
                self.outbox.insert(batch.sequence, batch.clone());
            }
            JournalEntry::Acknowledged(through) => {
                while self.outbox.first_key_value().is_some_and(|(sequence, _)| sequence <= through) {
                    self.outbox.pop_first();
                }
            }
        }
    }

    /// Batches of outcomes that are not acknowledged, in the order of their sequence numbers.
    pub fn outbox(&self) -> impl ExactSizeIterator<Item = &OutcomeBatch> {
        self.outbox.values()
    }

    /// Whether the batch with this sequence number is there and not acknowledged.
    pub fn keeps(&self, sequence: u64) -> bool {
        self.outbox.contains_key(&sequence)
    }

    /// Attempts that were given out and have not ended, and whether they are known to have begun. In no order.
    pub fn leased(&self) -> impl ExactSizeIterator<Item = (AttemptId, bool)> {
        self.leases.iter().map(|(task, lease)| (AttemptId { task: *task, number: lease.number }, lease.began))
    }

    /// What the node is told that begins this life of this epoch.
    pub fn into_recovered(self, epoch: u64, life: u32, complete: bool) -> Recovered {
        let mut leased: Vec<_> = self.leased().collect();
        leased.sort_unstable();
        Recovered {
            epoch,
            life,
            next_sequence: first_sequence(life),
            outbox: self.outbox.into_values().collect(),
            leased,
            complete,
        }
    }

    fn lease(&mut self, AttemptId { task, number }: AttemptId) {
        let lease = self.leases.entry(task).or_insert(Lease { number, began: false });
        if lease.number < number {
            *lease = Lease { number, began: false };
        }
    }

    fn end(&mut self, AttemptId { task, number }: AttemptId) {
        if self.leases.get(&task).is_some_and(|lease| lease.number <= number) {
            self.leases.remove(&task);
        }
    }
}

/// The first sequence number that a life uses: its number, and then 40 bits to count in.
///
/// The end of a journal may be lost, and with it the last sequence numbers that an earlier life used. The node above
/// may have acknowledged them, so they must not be used again for something else.
pub const fn first_sequence(life: u32) -> u64 {
    (life as u64) << 40 | 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    use crate::model::{Function, IdentityId, Outcome, Task, TaskSpec};

    const fn attempt(task: u128, number: u32) -> AttemptId {
        AttemptId { task: TaskId::from_u128(task), number }
    }

    fn outcomes(sequence: u64, attempts: &[AttemptId]) -> JournalEntry {
        let spec = Arc::new(TaskSpec::new(Arc::new(Function::native("f")), IdentityId::from_u128(9)));
        JournalEntry::Outcomes(OutcomeBatch::new(
            sequence,
            attempts.iter().map(|attempt| {
                let mut outcome = Outcome::returned(&Task::new(attempt.task, Arc::clone(&spec), ""), "1");
                outcome.attempt = attempt.number;
                outcome
            }),
        ))
    }

    /// Leases and sequence numbers of the outbox after these entries, applied once and then all once more.
    fn check(entries: &[JournalEntry], leased: &[(AttemptId, bool)], outbox: &[u64]) {
        let mut ledger = Ledger::default();
        for _ in 0..2 {
            entries.iter().for_each(|entry| ledger.apply(entry));
            let recovered = ledger.clone().into_recovered(7, 3, true);
            assert_eq!(recovered.leased, leased);
            assert_eq!(recovered.outbox.iter().map(|batch| batch.sequence).collect::<Vec<_>>(), outbox);
        }
    }

    #[test]
    fn a_lease_ends_once_with_an_outcome_or_by_being_returned() {
        use JournalEntry::{Leased, Returned, Started};
        let (one, two, three) = (attempt(1, 1), attempt(2, 1), attempt(3, 4));
        check(&[Leased(vec![one, two])], &[(one, false), (two, false)], &[]);
        check(&[Leased(vec![one, two]), Started(vec![two])], &[(one, false), (two, true)], &[]);
        check(&[Leased(vec![one, two]), Returned(vec![one])], &[(two, false)], &[]);
        check(&[Leased(vec![one, three]), outcomes(1, &[three])], &[(one, false)], &[1]);
        check(&[Leased(vec![three]), outcomes(1, &[attempt(3, 5)])], &[], &[1]);
        check(&[outcomes(1, &[one]), Started(vec![one])], &[], &[1]);
    }

    #[test]
    fn the_later_attempt_is_the_lease() {
        use JournalEntry::{Leased, Returned, Started};
        let (first, second) = (attempt(1, 1), attempt(1, 2));
        check(&[Leased(vec![first]), Started(vec![first]), Leased(vec![second])], &[(second, false)], &[]);
        check(&[Leased(vec![second]), Leased(vec![first])], &[(second, false)], &[]);
        check(&[Leased(vec![second]), Returned(vec![first]), Started(vec![first])], &[(second, false)], &[]);
        check(&[outcomes(1, &[first]), Leased(vec![second])], &[(second, false)], &[1]);
        check(&[Leased(vec![first]), Started(vec![first]), Leased(vec![first])], &[(first, true)], &[]);
    }

    #[test]
    fn outcomes_stay_until_acknowledged_and_in_order() {
        use JournalEntry::Acknowledged;
        let batch = |sequence| outcomes(sequence, &[attempt(sequence.into(), 1)]);
        check(&[batch(1), batch(2), batch(3), Acknowledged(2)], &[], &[3]);
        check(&[batch(2), batch(1)], &[], &[1, 2]);
        check(&[batch(1), Acknowledged(9)], &[], &[]);
        check(&[Acknowledged(u64::MAX), batch(1), Acknowledged(0)], &[], &[1]);
    }

    #[test]
    fn a_life_counts_above_all_lives_before_it() {
        assert_eq!(first_sequence(1), (1 << 40) + 1);
        assert!(first_sequence(MAX_LIVES - 1) > first_sequence(MAX_LIVES - 2));
        assert!(first_sequence(MAX_LIVES - 1).checked_add(1 << 40).is_none(), "the last one that has room");
    }
}
