//! The client: registers functions, submits calls, and has their outcomes streamed to it.
//!
//! ```no_run
//! use std::collections::BTreeMap;
//! use funcx_net::client::{Arguments, Call, Client, FunctionRegistration, Token};
//!
//! # async fn example() -> funcx_net::client::Result<()> {
//! let client = Client::builder()
//!     .service("http://127.0.0.1:5000")
//!     .token(Token::new("the text in ~/.funcx/token")?)
//!     .build()?;
//! let source = "def add(a, b):\n    return a + b\n";
//! let add = client.register(&FunctionRegistration::python("add", source)).await?.function_id;
//! let endpoint = client.endpoint_named("laptop").await?.endpoint_id;
//!
//! let arguments = Arguments::python(&(40, 2), &BTreeMap::<String, i64>::new())?;
//! let task = client.submit(Call::new(endpoint, add, arguments)).await?.await?;
//! assert_eq!(task.value::<i64>()?, 42);
//! # Ok(()) }
//! ```
//!
//! | Type | What it is for |
//! | --- | --- |
//! | [`Client`] | every route of the service; cheap to clone |
//! | [`TaskHandle`] | one submitted call: its id, its outcome, a way to stop it |
//! | [`Outcomes`] | the outcomes of a task group, for those who submit in bulk |
//! | [`MapRun`] | many calls of one function, many in each task ([`Client::map`]) |
//! | [`CallService`] | a client as a `tower::Service`, to put layers around |
//!
//! **Batches.** Calls are submitted as they come; those that come while a request is under way go together into the
//! next one. **Results** of all calls come over one connection, which is opened again where it ended if it breaks.
//! **Retries** follow the [`RetryPolicy`]. **Bounds**: calls that the service has not accepted yet hold at most
//! [`QUEUE_BYTES`]; more of them wait in [`Client::submit`].
//!
//! Not here: TLS. The client speaks plain HTTP, to a service on this machine or to a proxy that adds TLS.

mod api;
mod builder;
mod call;
mod chunks;
mod dropped;
mod event_parser;
mod handle;
mod lanes;
mod map;
mod outcomes;
mod registration;
mod requests;
mod retry;
mod service;
mod session;
mod submission;
mod token;
mod value;

pub use builder::ClientBuilder;
pub use call::{Arguments, Call, CallOptions};
pub use chunks::Chunk;
pub use funcx_core::{Error, ErrorKind, Result};
pub use handle::TaskHandle;
pub use map::{CallFailure, CallResult, MapChunk, MapOptions, MapRun};
pub use outcomes::Outcomes;
pub use requests::Client;
pub use retry::RetryPolicy;
pub use service::CallService;
pub use submission::{QUEUE_BYTES, Submitted};
pub use token::Token;

pub use crate::http::wire::{
    CancelAnswer, CancelEffect, EndpointView, FailureView, FunctionPage, FunctionRegistered,
    FunctionRegistration, FunctionView, PurgeAnswer, TaskPage, TaskView, TimelineView, TransitionView,
};
