//! Keeps a connection to the node above.

use std::{error::Error as _, io, sync::Arc, time::Duration};

use funcx_core::Error;
use funcx_core::contract::Address;
use funcx_core::model::limit;
use tokio::{sync::mpsc, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{Received, connection, outgoing};
use crate::transport::Transports;

/// First pause after a failed dial; doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Time for a connection to be opened.
const DIAL: Duration = Duration::from_millis(limit::HANDSHAKE_MILLIS);

/// Where nobody listens for this long, and at two dials at least, the process is gone.
const ABSENCE: Duration = Duration::from_millis(500);

/// Where the node above is.
#[derive(Debug, Clone)]
pub struct Above {
    /// How to get there.
    pub transports: Arc<Transports>,
    /// Where.
    pub address: Address,
}

impl Above {
    /// Dials, serves the connection until it ends, and dials again; for ever, or until it is stopped.
    pub(super) async fn run(
        self,
        finds_keys: bool,
        received: mpsc::Sender<Received>,
        stop: CancellationToken,
    ) {
        let mut pause = FIRST_PAUSE;
        // Since when nobody listens there, and whether that was said.
        let mut absence: Option<(Instant, bool)> = None;
        while !stop.is_cancelled() {
            let dialled = tokio::select! {
                dialled = tokio::time::timeout(DIAL, self.transports.dial(&self.address)) => dialled,
                () = stop.cancelled() => return,
            };
            match &dialled {
                Ok(Err(error)) if nobody_listens(error) => {
                    let (since, said) = absence.get_or_insert_with(|| (Instant::now(), false));
                    if since.elapsed() >= ABSENCE && !std::mem::replace(said, true) {
                        let _ = received.send(Received::AbsentAbove).await;
                    }
                }
                _ => absence = None,
            }
            match dialled {
                Ok(Ok(connection)) => {
                    let (outgoing, to_send) = outgoing();
                    let _ = received.send(Received::ConnectedAbove(outgoing)).await;
                    let started = Instant::now();
                    let ended =
                        connection::run(connection, to_send, finds_keys, Received::Above, received.clone());
                    let ended = ended.await;
                    let reason = ended.map_or_else(|error| error.to_string(), |()| "closed".to_owned());
                    tracing::info!(address = %self.address, reason, "connection to the node above ended");
                    let _ = received.send(Received::ClosedAbove).await;
                    if started.elapsed() > LONGEST_PAUSE {
                        pause = FIRST_PAUSE;
                    }
                }
                Ok(Err(error)) => {
                    tracing::debug!(address = %self.address, %error, "cannot reach the node above");
                }
                Err(_) => tracing::debug!(address = %self.address, "the node above does not answer"),
            }
            tokio::select! {
                () = tokio::time::sleep(jittered(pause)) => {}
                () = stop.cancelled() => return,
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }
}

/// Whether the operating system has answered that no process listens: no socket, or a connection that is refused.
fn nobody_listens(error: &Error) -> bool {
    let cause = error.source().and_then(|source| source.downcast_ref::<io::Error>());
    cause.is_some_and(|cause| {
        matches!(cause.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound)
    })
}

/// Between half and all of `pause`, so that a thousand peers do not come back in step.
fn jittered(pause: Duration) -> Duration {
    let mut random = [0; 1];
    // Without random numbers they come in step, which is no error.
    let _ = getrandom::fill(&mut random);
    pause.mul_f64(0.5 + f64::from(random[0]) / 512.0)
}
