//! Blocks, launchers, and the processes in them.
//!
//! | Module | Holds |
//! | --- | --- |
//! | [`worker`] | the executor over worker processes: Python, Globus Compute, shell |
//! | [`local`] | blocks that are processes on this machine |
//! | [`launcher`] | from the command of one manager to the line that starts it on every node |
#![deny(missing_docs)]

pub mod launcher;
pub mod local;
mod process_group;
pub mod worker;
