//! From an image and a command to the command line that runs it inside.

use std::path::PathBuf;

use super::Command;
use crate::model::Result;

/// Builds the command line that runs a worker inside a container. Pure.
///
/// **Errors.** `Unsupported` if it cannot isolate what is asked; never a silent no-op.
pub trait ContainerRuntime: Send + Sync + 'static {
    /// What it can isolate.
    fn capability(&self) -> ContainerCapability;

    /// The command that enters a container as `spec` says and runs `worker` in it.
    fn enter(&self, spec: &ContainerSpec, worker: Command) -> Result<Command>;
}

/// What a [`ContainerRuntime`] can isolate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ContainerCapability {
    /// The word for it in configuration.
    pub name: &'static str,
    /// Whether memory can be limited.
    pub limits_memory: bool,
    /// Whether cores can be limited.
    pub limits_cores: bool,
    /// Whether the network can be taken away.
    pub isolates_network: bool,
}

/// One container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerSpec {
    /// The image, in the runtime's own words.
    pub image: String,
    /// What is visible inside.
    pub mounts: Vec<Mount>,
    /// Memory in bytes; no limit if `None`.
    pub memory_bytes: Option<u64>,
    /// Cores in thousandths; no limit if `None`.
    pub milli_cores: Option<u32>,
    /// Options that the operator passes through unseen.
    pub options: Vec<String>,
}

/// A directory of the host that is visible in the container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Path on the host.
    pub source: PathBuf,
    /// Path inside.
    pub target: PathBuf,
    /// Whether it can be written.
    pub writable: bool,
}
