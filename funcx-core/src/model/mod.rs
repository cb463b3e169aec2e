//! The words of the fabric as types: what a function, a task, an attempt, an outcome and a shape are.
//!
//! These types carry no behaviour that needs I/O. Wire and file formats are types of their own
//! ([`crate::message`] for links); a model type is not made serializable because a daemon needs it.

mod error;
mod event;
mod function;
mod id;
pub mod limit;
mod map;
mod outcome;
mod shape;
mod task;
mod time;

pub use error::{Error, ErrorKind, Result, Retry};
pub use event::{TaskEvent, TaskEventKind};
pub use function::{Function, FunctionBody, FunctionHash, FunctionKind};
pub use id::{
    BlockId, EndpointId, FunctionId, IdMap, IdentityId, JobId, ManagerId, TaskGroupId, TaskId, UnknownId,
};
pub use map::MapValue;
pub use outcome::{Failure, Outcome, OutcomeKind};
pub use shape::{Accelerators, Shape, Target, is_environment_name};
pub use task::{AttemptId, Hop, HopStamps, Memoize, Task, TaskLimits, TaskSpec, TraceContext};
pub use time::{Now, Tick, Timestamp};
