//! Forgetting tasks that have ended.

use std::sync::Arc;

use funcx_core::contract::Principal;
use funcx_core::{Error, ErrorKind};

use super::{Answer, CancelTarget, Service};

/// What a purge did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PurgeReport {
    /// Tasks that had ended and are forgotten.
    pub purged: usize,
    /// Tasks that have not ended and stay.
    pub unfinished: usize,
    /// Tasks that are not there, or not the caller's.
    pub unknown: usize,
}

impl Service {
    /// Forgets tasks that have ended.
    ///
    /// # Errors
    /// `Unsupported` as long as stores forget nothing.
    #[expect(clippy::unused_async, reason = "it will commit to the store")]
    pub async fn purge(self: &Arc<Self>, _: &Principal, _: CancelTarget) -> Answer<PurgeReport> {
        Err(Error::new(ErrorKind::Unsupported, "purge tasks", "this store forgets nothing").into())
    }
}
