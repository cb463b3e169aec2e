//! The daemons of the funcx fabric, as functions: each binary parses its command line and calls one of them.
#![deny(missing_docs)]

pub mod all_in_one;
pub mod cli;
pub mod config;
pub mod endpoint;
pub mod exit;
pub mod logging;
pub mod service;
pub mod signal;
pub mod worker;
