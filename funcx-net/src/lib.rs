//! Links between the processes of the funcx fabric, the service that they meet in, and its client.
#![deny(missing_docs)]

pub mod auth;
pub mod client;
pub mod codec;
pub mod driver;
pub mod http;
pub mod journal;
pub mod metrics;
pub mod service;
pub mod store;
pub mod transport;
