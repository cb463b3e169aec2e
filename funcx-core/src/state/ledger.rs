//! What an endpoint writes down about what it holds.

use crate::message::OutcomeBatch;
use crate::model::AttemptId;

/// One line of an endpoint's journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JournalEntry {
    /// These attempts are about to be given to peers (managers, executors): from now on they may begin.
    Leased(Vec<AttemptId>),
    /// These attempts are known to have begun.
    Started(Vec<AttemptId>),
    /// These leases came to nothing: not begun, back in the queue (or given back to the node above).
    Returned(Vec<AttemptId>),
    /// Outcomes as they are kept for the node above.
    Outcomes(OutcomeBatch),
    /// The node above has the outcomes through this sequence number.
    Acknowledged(u64),
}

/// What an earlier life of an endpoint left behind.
#[derive(Debug, Clone, Default)]
pub struct Recovered {
    /// Of the session with the node above, which goes on.
    pub epoch: u64,
    /// How often the journal was opened, this time included.
    pub life: u32,
    /// Above every number that an earlier life may have used.
    pub next_sequence: u64,
    /// Outcomes that the node above has not acknowledged.
    pub outbox: Vec<OutcomeBatch>,
    /// Attempts that peers had, and whether they are known to have begun.
    pub leased: Vec<(AttemptId, bool)>,
}
