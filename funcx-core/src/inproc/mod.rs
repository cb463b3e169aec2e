//! Native functions in this process: no daemon, no socket, no other process.
//!
//! [`NativeFunctions`] maps names to Rust functions. It becomes a [`NativeService`] to call them through `tower`, or an
//! [`InProcess`] executor for a manager.

mod context;
mod executor;
mod functions;
mod map;
mod service;

pub use context::{CallContext, Clock};
pub use executor::InProcess;
pub use functions::{NativeCall, NativeFunctions};
pub use service::NativeService;
