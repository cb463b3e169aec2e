//! The HTTP API: what the unmodified SDK sends and wants, our own routes, and everything that can be wrong with a request.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "http/description.rs"]
mod description;
#[path = "service/fabric.rs"]
mod fabric;
#[path = "http/fixtures.rs"]
mod fixtures;
#[path = "http/globus.rs"]
mod globus;
#[path = "http/operations.rs"]
mod operations;
#[path = "http/own.rs"]
mod own;
#[path = "http/refusals.rs"]
mod refusals;
#[path = "http/site.rs"]
mod site;
#[path = "service/stores.rs"]
mod stores;
#[path = "http/wire_level.rs"]
mod wire_level;
