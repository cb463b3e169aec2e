//! The decisions of the fabric as state machines without I/O.
//!
//! | Type | Decides |
//! | --- | --- |
//! | [`Dispatcher`] | which task goes to which peer, what happens to it when a peer is lost, that it ends once |
//! | [`Uplink`] | the session with the node above: handshake, what is held, outcomes until acknowledged |
//! | [`Downlink`] | the session with a node below: handshake, functions sent once, heartbeats |
//! | [`Node`] | one node of the tree: a dispatcher, its links and its executors |
//! | [`Ledger`] | what a node still knows when it is back after a crash |
//! | [`WarmSlots`] | which type of worker has how many slots of a manager, and for how long |
//! | [`BlockScaling`] | how many blocks an endpoint asks for, and when to stop asking |
//!
//! **One rule for all.** Methods named `handle_*` take input together with `now`; others are commands of the
//! application. After each of them the caller polls `poll_output` until it is empty, and before it sleeps it asks
//! `poll_timeout` for the next deadline (with the reason, so that logs explain wake-ups). Nothing here blocks,
//! reads a clock or draws random numbers, so a whole fabric can run in one thread under a virtual clock.

mod arrivals;
mod block_scaling;
mod dispatcher;
mod downlink;
pub mod invariant;
mod ledger;
mod node;
mod uplink;
mod warm_slots;

pub use block_scaling::{BlockEvent, BlockOutput, BlockPolicy, BlockScaling};
pub use dispatcher::{Counters, Dispatcher, DispatcherLimits, DispatcherOutput, LaneId, LaneLoad, TaskState};
pub use downlink::{Downlink, DownlinkEvent, LinkPolicy};
pub use ledger::{JournalEntry, Ledger, MAX_LIVES, Recovered, first_sequence};
pub use node::{DeliveryId, LinkCounters, LinkId, Node, NodeConfig, NodeOutput, PeerInfo, RecordId};
pub use uplink::{Uplink, UplinkEvent, UplinkIdentity};
pub use warm_slots::{KeepAlive, PATIENCE, WarmCounters, WarmSlots};
