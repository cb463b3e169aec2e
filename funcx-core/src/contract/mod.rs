//! The places where a third party can put their own part: one extension trait per file.
//!
//! | Trait | Called | Suite in `funcx_core::conformance` |
//! | --- | --- | --- |
//! | [`Transport`] | per connection | `transport` |
//! | [`Executor`] | per batch of tasks | `executor` |
//! | [`BatchSystem`] | per block | with its first implementation |
//! | [`Provider`] | per block | `provider` |
//! | [`Launcher`] | per block | `launcher` |
//! | [`ContainerRuntime`] | per worker | with its first implementation |
//! | [`TaskStore`] | per batch of tasks | `task_store` |
//! | [`Authority`] | per request | `authority` |
//! | [`PlacementPolicy`] | per batch of tasks, no I/O | `placement` |
//!
//! Contracts that are called seldom return boxed futures and are object-safe, so that a daemon can choose an
//! implementation by a name from its configuration. The ones that render or parse text are pure.

mod any_peer;
mod authority;
mod batch_system;
mod command;
mod container_runtime;
mod executor;
mod launcher;
mod placement_policy;
mod provider;
mod registry;
mod task_store;
mod transport;

pub use any_peer::AnyPeer;
pub use authority::{Access, Action, Authority, Credential, Object, Principal, Scope};
pub use batch_system::{BatchCapability, BatchSystem, CommandOutput};
pub use command::Command;
pub use container_runtime::{ContainerCapability, ContainerRuntime, ContainerSpec, Mount};
pub use executor::{Capacity, Executor, ExecutorCapability, ExecutorEvent, ExecutorSink};
pub use launcher::Launcher;
pub use placement_policy::{IdleFirst, PeerId, PlacementPolicy, Room};
pub use provider::{BlockRequest, JobState, JobStatus, Provider, ProviderCapability};
pub use registry::Registry;
pub use task_store::{
    Backlog, Due, DueReason, EndpointRecord, FunctionRecord, OutcomeRecord, PendingTask, QueueKey,
    Submission, TaskCursor, TaskQuery, TaskRecord, TaskStore, Write,
};
pub use transport::{Address, Connection, Frame, Listener, Transport, TransportCapability};
