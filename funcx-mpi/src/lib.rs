//! Executor over MPI ranks: the contract and the layout of what comes; there is no code here yet.
//!
//! The executor will implement [`funcx_core::contract::Executor`] for functions that need a communicator of n ranks:
//! rank 0 of a job manages, the other ranks work, one thread owns the MPI library and is spoken to by channel. It
//! depends on `funcx-core` alone and on no other crate of ours; heartbeats leave rank 0 over a link of `funcx-net`,
//! never over MPI, and a binary puts the two together.
//!
//! The crate is outside the workspace's `default-members`, so that a machine without an MPI library builds the rest.
#![deny(missing_docs)]
