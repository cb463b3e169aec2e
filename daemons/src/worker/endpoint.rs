//! What a manager sees of its endpoint.

use std::{sync::Arc, time::Duration};

use funcx_core::state::Uplink;
use funcx_net::driver::{NodeHandle, NodeNotice};
use tokio::{
    sync::mpsc::UnboundedReceiver,
    time::{Instant, Interval, interval},
};

use super::native::PacedNative;
use crate::config::format_duration;
use crate::exit::{Exit, Failed};

/// Between two looks whether the endpoint is still there.
const LOOK: Duration = Duration::from_secs(1);

/// The endpoint, as far as its manager can tell.
pub(super) struct Endpoint {
    node: NodeHandle,
    noticed: UnboundedReceiver<NodeNotice>,
    native: Arc<PacedNative>,
    patience: Duration,
    look: Interval,
    last_open: Instant,
    /// Whether it has ever taken this manager.
    was_open: bool,
}

impl Endpoint {
    /// An endpoint that is expected to be there within `patience`.
    pub(super) fn new(
        node: NodeHandle,
        noticed: UnboundedReceiver<NodeNotice>,
        native: Arc<PacedNative>,
        patience: Duration,
    ) -> Self {
        let (look, last_open) = (interval(LOOK), Instant::now());
        Self { node, noticed, native, patience, look, last_open, was_open: false }
    }

    /// Resolves when the manager is drained and the endpoint knows it, or when the endpoint wants no more of this manager, is
    /// gone, or is out of reach for too long.
    ///
    /// **Cancellation.** Dropping the future loses nothing; a later call goes on.
    pub(super) async fn watch(&mut self) -> Result<(), Failed> {
        loop {
            tokio::select! {
                Some(notice) = self.noticed.recv() => match notice {
                    NodeNotice::OpenedAbove => {
                        self.was_open = true;
                        tracing::info!("connected to the endpoint");
                    }
                    NodeNotice::RefusedAbove(refused) if refused.retry => {
                        tracing::warn!(reason = refused.reason, "the endpoint does not take this manager now");
                    }
                    NodeNotice::RefusedAbove(refused) => {
                        let reason = refused.reason;
                        return Err(Failed::new(Exit::Refused, format!("the endpoint refuses this manager: {reason}")));
                    }
                    // Another process of the endpoint would not take this manager: it has other secrets. What runs here
                    // would run again elsewhere. One that was never there may be about to start.
                    NodeNotice::AbsentAbove if self.was_open => {
                        let message = "the process of the endpoint is gone; ending with all workers";
                        return Err(Failed::new(Exit::LostAbove, message.to_owned()));
                    }
                    NodeNotice::Drained => {
                        tracing::info!("drained, and the endpoint knows it");
                        return Ok(());
                    }
                    NodeNotice::AbsentAbove
                    | NodeNotice::Resize(..)
                    | NodeNotice::PeerUp(_)
                    | NodeNotice::PeerDown(_)
                    | NodeNotice::PeerLost(_)
                    | NodeNotice::Events(_) => {}
                },
                _ = self.look.tick() => {
                    self.native.look();
                    if self.has_nothing_to_say().await {
                        return Ok(());
                    }
                    if self.last_open.elapsed() > self.patience {
                        let patience = format_duration(self.patience);
                        return Err(Failed::new(Exit::LostAbove, format!("the endpoint was out of reach for {patience}")));
                    }
                }
            }
        }
    }

    /// Whether the manager has been drained while the endpoint was out of reach, and holds nothing that it would want.
    async fn has_nothing_to_say(&mut self) -> bool {
        let look = self.node.with(|node, _| {
            let open = node.uplink().is_some_and(Uplink::is_open);
            (open, node.is_draining() && node.uplink().is_none_or(|uplink| uplink.held() == 0))
        });
        let (open, done) = look.await.unwrap_or_default();
        if open {
            self.last_open = Instant::now();
        }
        done && !open
    }
}
