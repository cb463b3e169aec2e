//! Configuration files of the daemons.
//!
//! A file is read in two steps. [`Node`] is the raw form: what stands in the YAML, every key optional, every value with
//! its line. A [`Section`] is asked for the keys that the daemon knows and gives typed values; what is unknown, of the
//! wrong sort or not supported becomes a [`Problem`], so that all of them are reported together. The result is a checked
//! type such as [`EndpointConfig`].

mod document;
mod endpoint;
mod environments;
mod foreign;
mod interpreter;
mod quantity;
mod render;
mod section;

pub use document::{Entry, Node, Value};
pub use endpoint::{
    ConfigError, EndpointConfig, EngineConfig, EngineKind, LauncherKind, ProviderConfig, Read,
};
pub use environments::{EnvironmentConfig, Environments, format_keep_alive, parse_keep_alive};
pub use interpreter::interpreter;
pub use quantity::{LONGEST_DURATION, format_duration, format_size, parse_duration, parse_size};
pub use section::{Findings, Foreign, FromValue, Problem, Section, Size};
