//! Blocks, launchers, and the processes in them.
#![warn(missing_docs)]

pub mod launcher;
pub mod local;
pub mod worker;
