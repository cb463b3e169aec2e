//! Model, contracts and state machines of funcx, a federated function-serving fabric.
//!
//! A person registers a function once and runs it on any endpoint. Work travels down a tree of nodes (service,
//! endpoint, manager) that all run the same [`state::Dispatcher`], and leaves it through an
//! [`Executor`](contract::Executor). This crate holds the words, the contracts and the decisions; it opens no socket,
//! starts no process and reads no clock. `funcx-net` and `funcx-provider` add those.
//!
//! ```
//! use std::sync::Arc;
//! use funcx_core::inproc::NativeFunctions;
//! use funcx_core::model::{Function, IdentityId, OutcomeKind, Task, TaskId, TaskSpec};
//! use tower::{Service, ServiceExt};
//!
//! # futures::executor::block_on(async {
//! let mut functions = NativeFunctions::new();
//! functions.register("add", |(a, b): (i64, i64)| a + b)?;
//!
//! let spec = Arc::new(TaskSpec::new(Arc::new(Function::native("add")), IdentityId::from_u128(1)));
//! let task = Task::new(TaskId::from_u128(7), spec, "[40, 2]");
//! let outcome = functions.into_service().ready().await?.call(task).await?;
//! assert_eq!((outcome.kind, &outcome.payload[..]), (OutcomeKind::Returned, b"42".as_slice()));
//! # Ok::<(), funcx_core::Error>(()) }).unwrap();
//! ```
//!
//! - [`model`]: what a function, a task, an outcome and a shape are; [`model::limit`] is the table of bounds.
//! - [`contract`]: one extension trait per file.
//! - [`message`]: what crosses a link.
//! - [`state`]: the state machines, and the named invariants that they keep.
//! - [`layer`]: `tower` layers for services that run tasks.
//! - [`memo`]: values of calls, found again by what was called.
//! - [`inproc`]: native functions in this process.
//! - `conformance` (feature `conformance`): one suite per contract, and the simulation.
//!
//! Not here: anything that needs an operating system, MPI, or an async runtime. The map of the whole workspace is
//! `ARCHITECTURE.md` at the root of the repository.
#![deny(missing_docs)]

#[cfg(feature = "conformance")]
pub mod conformance;
pub mod contract;
pub mod inproc;
pub mod layer;
pub mod memo;
pub mod message;
pub mod model;
pub mod state;

pub use model::{Error, ErrorKind, Result};
