//! `tower` layers for services that run tasks: anything that is a `Service<Task, Response = Outcome>`.
//!
//! Only what `tower` does not have already. Timeouts, concurrency limits, load shedding and buffers of `tower` work as
//! they are.
//!
//! ```
//! use std::sync::Arc;
//! use funcx_core::inproc::NativeFunctions;
//! use funcx_core::layer::{MemoizeLayer, RetryLost};
//! use funcx_core::model::{Function, IdentityId, Task, TaskId, TaskSpec};
//! use tower::{Layer, Service, ServiceExt, retry::RetryLayer};
//!
//! # futures::executor::block_on(async {
//! let mut functions = NativeFunctions::new();
//! functions.register("double", |x: f64| x * 2.0)?;
//! let retried = RetryLayer::new(RetryLost).layer(functions.into_service());
//! let mut service = MemoizeLayer::with_capacity_bytes(1 << 20).layer(retried);
//!
//! let spec = Arc::new(TaskSpec::new(Arc::new(Function::native("double")), IdentityId::from_u128(1)));
//! for n in 1..=2 {
//!     let task = Task::new(TaskId::from_u128(n), Arc::clone(&spec), "21");
//!     assert_eq!(service.ready().await?.call(task).await?.payload, "42.0");
//! }
//! assert_eq!(service.hits(), 1);
//! # Ok::<(), funcx_core::Error>(()) }).unwrap();
//! ```

mod memoize;
mod retry_lost;

pub use memoize::{Memoize, MemoizeLayer};
pub use retry_lost::RetryLost;
