//! What the service's node asks the service.

use std::sync::{Arc, Weak};

use funcx_core::ErrorKind;
use funcx_core::contract::{Action, Credential, Scope};
use funcx_core::message::{Hello, Refused, Role};
use funcx_core::model::{EndpointId, Outcome};
use funcx_core::state::{JournalEntry, LaneId};
use futures::future::{BoxFuture, FutureExt};

use super::refusal::Refusal;
use super::{Answer, Service};
use crate::driver::{NodeHost, NodeNotice};

/// The service as its node sees it. The service owns the node, so this end is weak.
pub(super) struct Host(pub(super) Weak<Service>);

impl NodeHost for Host {
    fn authorize(&self, hello: Hello) -> BoxFuture<'static, Result<LaneId, Refused>> {
        let service = self.0.upgrade();
        async move {
            let stopping = Refused { reason: "the service is stopping".to_owned(), retry: true };
            let service = service.ok_or(stopping)?;
            let (node, name) = (hello.node, hello.name.clone());
            service.let_in(hello).await.map_err(|refusal| {
                tracing::info!(endpoint = %node, name, %refusal, "endpoint not let in");
                let retry = refusal.error().is_retryable() || refusal.error().kind() == ErrorKind::Conflict;
                Refused { reason: refusal.to_string(), retry }
            })
        }
        .boxed()
    }

    fn deliver(&self, outcomes: Vec<Outcome>) -> BoxFuture<'static, ()> {
        match self.0.upgrade() {
            Some(service) => service.finish(outcomes).boxed(),
            // Not safe, and never will be: who sent them keeps them for the next service.
            None => futures::future::pending().boxed(),
        }
    }

    fn record(&self, _: Vec<JournalEntry>) -> BoxFuture<'static, ()> {
        futures::future::ready(()).boxed()
    }

    fn notice(&self, notice: NodeNotice) {
        let Some(service) = self.0.upgrade() else { return };
        match notice {
            NodeNotice::PeerUp(info) => {
                tracing::info!(endpoint = %info.node, name = info.name, software = info.software, "endpoint connected");
                service.set_connected(EndpointId::from(info.node), true);
            }
            NodeNotice::PeerDown(info) => {
                tracing::info!(endpoint = %info.node, name = info.name, "endpoint disconnected");
                service.set_connected(EndpointId::from(info.node), false);
            }
            NodeNotice::Events(events) => {
                tokio::spawn(service.keep_events(events));
            }
            NodeNotice::PeerLost(_)
            | NodeNotice::Resize(..)
            | NodeNotice::OpenedAbove
            | NodeNotice::RefusedAbove(_)
            | NodeNotice::AbsentAbove
            | NodeNotice::Drained => {}
        }
    }
}

impl Service {
    /// Whether a node may serve as the endpoint that it says it is. When this resolves, every task that the endpoint may
    /// hold from before a restart of the service is in the dispatcher, which would tell it to stop others.
    async fn let_in(self: &Arc<Self>, hello: Hello) -> Answer<LaneId> {
        let refuse = |kind, message: &'static str| {
            Refusal::from(funcx_core::Error::new(kind, "let the endpoint in", message))
        };
        if hello.role != Role::Endpoint {
            return Err(refuse(ErrorKind::InvalidInput, "only endpoints connect to a service"));
        }
        let principal = self.authenticate(&Credential::Bearer(hello.credential)).await?;
        if !principal.scopes.iter().any(|scope| matches!(scope, Scope::Endpoint | Scope::Admin)) {
            return Err(refuse(ErrorKind::Forbidden, "the token does not have the scope `endpoint`"));
        }
        let endpoint = EndpointId::from(hello.node);
        let record = self.endpoint(&principal, endpoint, Action::Serve).await?;
        self.check_lock(endpoint)?;
        let lane = self.lane(record.id).await?;
        lane.prepare(self).await?;
        Ok(lane.id)
    }
}
