//! One suite per contract, and the simulation of a whole fabric.
//!
//! Each suite takes an implementation and panics with the name of the promise that it breaks. What an
//! implementation declares in its `Capability` selects which promises are checked.

pub mod authority;
pub mod dispatcher_model;
pub mod executor;
pub mod fabric;
pub mod launcher;
pub mod placement;
pub mod provider;
pub mod task_store;
pub mod transport;
pub mod warm_routing;
