//! The client: against a service that misbehaves on purpose, and against a real one.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[expect(dead_code, reason = "other tests use the rest of it")]
#[path = "service/fabric.rs"]
mod fabric;
#[path = "client/front.rs"]
mod front;
#[path = "client/real.rs"]
mod real;
#[path = "client/scripted.rs"]
mod scripted;
