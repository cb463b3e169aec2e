//! Whether the service is fit to take work.

use std::time::Duration;

use funcx_core::contract::Write;
use funcx_core::model::EndpointId;
use parking_lot::Mutex;
use tokio::time::{Instant, timeout};

use super::Service;

/// How long an answer about the store is good enough. Those who ask more often share it.
const FRESH: Duration = Duration::from_secs(1);
/// A store that takes longer is not fit for work.
const PATIENCE: Duration = Duration::from_secs(2);

/// Whether the service takes work, and why not.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Readiness {
    /// What is in the way, in words for people, without secrets; empty if nothing is.
    pub reasons: Vec<String>,
}

impl Readiness {
    /// Whether it takes work.
    pub fn is_ready(&self) -> bool {
        self.reasons.is_empty()
    }
}

/// What was last found out about the store.
#[derive(Debug, Default)]
pub(super) struct StoreCheck {
    /// Whoever asks the store holds it, and the others wait for the answer.
    asking: tokio::sync::Mutex<()>,
    last: Mutex<Option<(Instant, Option<String>)>>,
}

impl StoreCheck {
    fn fresh(&self) -> Option<Option<String>> {
        let last = self.last.lock();
        last.as_ref().filter(|(at, _)| at.elapsed() < FRESH).map(|(_, reason)| reason.clone())
    }
}

impl Service {
    /// Whether the service takes work: it is not stopping, its node runs, and its store can be read and committed to.
    ///
    /// The store is asked at most once a second, however many ask.
    pub async fn readiness(&self) -> Readiness {
        let mut reasons = Vec::new();
        if self.stopping.is_cancelled() {
            reasons.push("the service is stopping".to_owned());
        }
        if !self.node.is_running() {
            reasons.push("the node of the service has ended; the service must be started again".to_owned());
        }
        reasons.extend(self.store_trouble().await);
        Readiness { reasons }
    }

    /// What is wrong with the store, if anything.
    async fn store_trouble(&self) -> Option<String> {
        if let Some(known) = self.store_check.fresh() {
            return known;
        }
        let _asking = self.store_check.asking.lock().await;
        if let Some(known) = self.store_check.fresh() {
            return known;
        }
        let nobody = EndpointId::from_u128(0);
        let tried = timeout(PATIENCE, async {
            self.store.endpoint(nobody).await.map_err(|error| ("read", error))?;
            // Changes nothing, and goes to the disk like everything else.
            let committed = self.store.commit(vec![Write::DeleteEndpoint(nobody)]);
            committed.await.map_err(|error| ("written", error))
        });
        let trouble = match tried.await {
            Ok(Ok(())) => None,
            Ok(Err((what, error))) => {
                // Paths and the like are for the log only.
                tracing::warn!(%error, "the store cannot be {what}");
                Some(format!("the store cannot be {what}; the log of the service says why"))
            }
            Err(_) => Some(format!("the store has not answered for {} s", PATIENCE.as_secs())),
        };
        *self.store_check.last.lock() = Some((Instant::now(), trouble.clone()));
        trouble
    }
}
