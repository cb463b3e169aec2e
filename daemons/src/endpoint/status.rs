//! What a running endpoint says about itself.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::directory::write_private;

/// Figures and state of a running endpoint, as they stand in `run/status.json`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct EndpointStatus {
    /// Whether the link to the service is open.
    pub connected: bool,
    /// Blocks that were asked for and have not ended.
    pub blocks: u32,
    /// Managers that are connected.
    pub managers: u32,
    /// Worker slots of these managers.
    pub workers: u32,
    /// Tasks that wait at the endpoint.
    pub queued: u64,
    /// Tasks at managers.
    pub running: u64,
    /// Slots of each environment, if managers have several; the default one is called `default`.
    pub warm: BTreeMap<String, u32>,
    /// Slots in which a worker of another environment than before was started.
    pub cold_starts: u64,
    /// Those of them for which a worker of another environment had to go.
    pub switches: u64,
    /// Slots of environments that were given up because nobody had needed them for long.
    pub retired: u64,
    /// What keeps the endpoint from working, such as workers that do not start; `None` if nothing does.
    pub problem: Option<String>,
}

/// Between two complaints about the same thing.
const COMPLAIN_EVERY: Duration = Duration::from_secs(10);

/// Keeps `status.json` up to date. Writes only what has changed.
#[derive(Debug)]
pub(super) struct StatusFile {
    path: PathBuf,
    written: Option<EndpointStatus>,
    complained: Option<Instant>,
}

impl StatusFile {
    pub(super) fn new(run_directory: &Path) -> Self {
        Self { path: run_directory.join("status.json"), written: None, complained: None }
    }

    /// Writes the status down, and says in the log now and then if that cannot be done.
    pub(super) fn update(&mut self, status: &EndpointStatus) {
        match self.write(status) {
            Ok(()) => self.complained = None,
            Err(_) if self.complained.is_some_and(|at| at.elapsed() < COMPLAIN_EVERY) => {}
            Err(error) => {
                self.complained = Some(Instant::now());
                tracing::warn!(error = format!("{error:#}"), "cannot write the status; trying again");
            }
        }
    }

    fn write(&mut self, status: &EndpointStatus) -> Result<()> {
        if self.written.as_ref() != Some(status) {
            write_private(&self.path, &serde_json::to_vec_pretty(status)?)?;
            self.written = Some(status.clone());
        }
        Ok(())
    }
}

impl Drop for StatusFile {
    fn drop(&mut self) {
        // It says how the endpoint is, and the endpoint is no more.
        let _ = std::fs::remove_file(&self.path);
    }
}
