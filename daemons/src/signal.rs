//! When to stop.

use anyhow::{Context, Result};
use futures::future::{Either, pending};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Ctrl-C, SIGTERM, or the end of the terminal (SIGHUP, unless it was ignored when we were started, as `nohup` does). Made
/// before anything is started, so that no signal is missed.
#[derive(Debug)]
pub struct Stop {
    interrupt: Signal,
    terminate: Signal,
    hangup: Option<Signal>,
}

impl Stop {
    /// Begins to listen for signals.
    ///
    /// # Errors
    /// If the system does not let us.
    pub fn new() -> Result<Self> {
        let listen = |kind| signal(kind).context("cannot listen for signals");
        let hangup = if hangup_is_ignored() { None } else { Some(listen(SignalKind::hangup())?) };
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
            hangup,
        })
    }

    /// Resolves with the first signal, and at once if one came before.
    ///
    /// **Cancellation.** Dropping the future loses no signal.
    pub async fn wait(&mut self) {
        let hangup = match &mut self.hangup {
            Some(signal) => Either::Left(signal.recv()),
            None => Either::Right(pending()),
        };
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = hangup => {}
        }
    }
}

/// Whether whoever started us wants us to outlive the terminal. Told by Linux only; elsewhere we do not know and listen.
fn hangup_is_ignored() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    // Bit 0 is signal 1, which is SIGHUP.
    ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask & 1 == 1)
}
