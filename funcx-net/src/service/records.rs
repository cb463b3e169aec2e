//! Functions and endpoints.

use std::{sync::Arc, time::Duration};

use funcx_core::contract::{Access, Action, EndpointRecord, FunctionRecord, Object, Principal, Write};
use funcx_core::model::{EndpointId, Failure, Function, FunctionId, IdentityId, Memoize, Retry, limit};
use funcx_core::state::Node;
use funcx_core::{Error, ErrorKind};
use tokio::{sync::OwnedMutexGuard, time::Instant};

use super::submit::{now, random_bits};
use super::unstoppable::Unstoppable;
use super::{Answer, Refusal, Service};

/// Largest description or metadata of a function or an endpoint.
const MAX_METADATA_BYTES: usize = 1 << 20;
/// Functions on the allow list of an endpoint.
const MAX_ALLOWED_FUNCTIONS: usize = 10_000;
/// How long a lock keeps an endpoint out.
const LOCK: Duration = Duration::from_secs(30);

/// A function that somebody registers.
#[derive(Debug, Clone)]
pub struct NewFunction {
    /// Its code.
    pub function: Function,
    /// Name for people.
    pub name: String,
    /// Description for people.
    pub description: String,
    /// Who else may use it.
    pub access: Access,
    /// Whether its calls may be answered with values of equal ones.
    pub memoize: Memoize,
    /// What the client says about it, a JSON object.
    pub metadata: String,
}

/// An endpoint that somebody registers.
#[derive(Debug, Clone)]
pub struct NewEndpoint {
    /// The id it has already; a new one if `None`.
    pub id: Option<EndpointId>,
    /// Name for people.
    pub name: String,
    /// Who else may run on it.
    pub access: Access,
    /// The only functions that may run on it; any if `None`.
    pub allowed_functions: Option<Vec<FunctionId>>,
    /// What it says about itself, a JSON object.
    pub metadata: String,
}

/// What goes on at an endpoint now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct EndpointFigures {
    /// Whether it is connected.
    pub connected: bool,
    /// Managers that are connected to it.
    pub managers: u32,
    /// Worker slots that it has.
    pub workers: u32,
    /// Accepted tasks that have not been given to it.
    pub queued: u64,
    /// Tasks that have been given to it and have not ended.
    pub leased: u64,
}

impl Service {
    /// Registers a function.
    ///
    /// # Errors
    /// `LimitExceeded` if it is too large, `Forbidden` by scope, `Unavailable` (the store).
    pub async fn register_function(
        &self,
        principal: &Principal,
        new: NewFunction,
    ) -> Answer<Arc<FunctionRecord>> {
        let operation = "register function";
        self.check(principal, Action::Change, &own(principal), "FUNCTION_ACCESS_FORBIDDEN")?;
        bounded(
            operation,
            "code of the function (MAX_FUNCTION_BYTES)",
            new.function.body().code.len(),
            limit::MAX_FUNCTION_BYTES,
        )?;
        bounded(
            operation,
            "entry of the function (MAX_TEXT_BYTES)",
            new.function.body().entry.len(),
            limit::MAX_TEXT_BYTES,
        )?;
        bounded(operation, "name of the function (MAX_TEXT_BYTES)", new.name.len(), limit::MAX_TEXT_BYTES)?;
        bounded(operation, "description of the function", new.description.len(), MAX_METADATA_BYTES)?;
        bounded(operation, "metadata of the function", new.metadata.len(), MAX_METADATA_BYTES)?;
        let record = Arc::new(FunctionRecord {
            id: FunctionId::from_random(random_bits()?),
            function: Arc::new(new.function),
            name: new.name,
            description: new.description,
            owner: principal.identity,
            access: new.access,
            memoize: new.memoize,
            metadata: new.metadata,
            created: now(),
        });
        self.store.commit(vec![Write::PutFunction(Arc::clone(&record))]).await?;
        self.functions.put(record.id, Arc::clone(&record), function_bytes(&record));
        Ok(record)
    }

    /// A function that this principal may do something to.
    ///
    /// # Errors
    /// `NotFound`, `Forbidden`, `Unavailable` (the store).
    pub async fn function(
        &self,
        principal: &Principal,
        id: FunctionId,
        action: Action,
    ) -> Answer<Arc<FunctionRecord>> {
        let record = match self.functions.find(id) {
            Ok(record) => record,
            Err(version) => {
                let record = self.store.function(id).await?.ok_or_else(|| {
                    let error =
                        Error::new(ErrorKind::NotFound, "find function", "no such function is registered")
                            .with_context("function", id);
                    Refusal::new("FUNCTION_NOT_FOUND", error)
                })?;
                self.functions.remember(version, id, Arc::clone(&record), function_bytes(&record));
                record
            }
        };
        let object = Object { owner: record.owner, access: record.access };
        self.check(principal, action, &object, "FUNCTION_ACCESS_FORBIDDEN")?;
        Ok(record)
    }

    /// The caller's functions in order of id.
    ///
    /// # Errors
    /// `Unavailable` (the store).
    pub async fn functions(
        &self,
        principal: &Principal,
        after: Option<FunctionId>,
        limit: usize,
    ) -> Answer<Vec<Arc<FunctionRecord>>> {
        self.check(principal, Action::Read, &own(principal), "FUNCTION_ACCESS_FORBIDDEN")?;
        Ok(self.store.functions(principal.identity, after, limit.clamp(1, limit::MAX_PAGE_TASKS)).await?)
    }

    /// Removes a function; tasks that call it are not touched.
    ///
    /// # Errors
    /// `NotFound`, `Forbidden`, `Unavailable` (the store).
    pub async fn delete_function(&self, principal: &Principal, id: FunctionId) -> Answer<()> {
        self.function(principal, id, Action::Change).await?;
        self.store.commit(vec![Write::DeleteFunction(id)]).await?;
        self.functions.remove(id);
        Ok(())
    }

    /// Registers an endpoint, or says anew what it is. An id that is not known yet is adopted, so that endpoints can come
    /// back to a service that has lost its store.
    ///
    /// # Errors
    /// `Forbidden` if it is somebody else's, `Conflict` while it is locked, or is connected and has another name,
    /// `LimitExceeded`, `Unavailable` (the store).
    pub async fn register_endpoint(
        self: &Arc<Self>,
        principal: &Principal,
        new: NewEndpoint,
    ) -> Answer<Arc<EndpointRecord>> {
        let operation = "register endpoint";
        bounded(operation, "name of the endpoint (MAX_TEXT_BYTES)", new.name.len(), limit::MAX_TEXT_BYTES)?;
        bounded(operation, "metadata of the endpoint", new.metadata.len(), MAX_METADATA_BYTES)?;
        let allowed = new.allowed_functions.as_ref().map_or(0, Vec::len);
        bounded(operation, "list of allowed functions", allowed, MAX_ALLOWED_FUNCTIONS)?;
        let id = match new.id {
            Some(id) => id,
            None => EndpointId::from_random(random_bits()?),
        };
        let changing = self.changing(id).await;
        let known = match new.id {
            Some(id) => self.store.endpoint(id).await?,
            None => None,
        };
        let object = known.as_ref().map_or_else(|| own(principal), |record| object(record));
        self.check(principal, Action::Change, &object, "ENDPOINT_ACCESS_FORBIDDEN")?;
        self.check_lock(id)?;
        if let Some(known) = known.as_ref().filter(|known| known.name != new.name)
            && self.figures(&[id]).await?.iter().any(|figures| figures.connected)
        {
            let message = format!(
                "it is running as `{}`; stop that one first, or delete the file `endpoint.json` of a copy so that it is an \
                 endpoint of its own",
                known.name
            );
            let error = Error::new(ErrorKind::Conflict, operation, message).with_context("endpoint", id);
            return Err(Refusal::new("ENDPOINT_IN_USE", error));
        }
        let record = Arc::new(EndpointRecord {
            id,
            name: new.name,
            owner: object.owner,
            access: new.access,
            allowed_functions: new.allowed_functions,
            metadata: new.metadata,
            created: known.map_or_else(now, |record| record.created),
        });
        let service = Arc::clone(self);
        Unstoppable::new(async move {
            let _changing = changing;
            service.store.commit(vec![Write::PutEndpoint(Arc::clone(&record))]).await?;
            service.endpoints.put(id, Arc::clone(&record), endpoint_bytes(&record));
            if let Some(lane) = service.open_lane(id) {
                lane.reopen();
            }
            Ok(record)
        })
        .await
    }

    /// Waits until nobody else registers or deletes this endpoint, and keeps others from it until the guard is dropped.
    async fn changing(&self, id: EndpointId) -> OwnedMutexGuard<()> {
        let lock = {
            let mut changes = self.changes.lock();
            changes.retain(|_, lock| Arc::strong_count(lock) > 1);
            Arc::clone(changes.entry(id).or_default())
        };
        lock.lock_owned().await
    }

    /// An endpoint that this principal may do something to.
    ///
    /// # Errors
    /// `NotFound`, `Forbidden`, `Unavailable` (the store).
    pub async fn endpoint(
        &self,
        principal: &Principal,
        id: EndpointId,
        action: Action,
    ) -> Answer<Arc<EndpointRecord>> {
        let record = match self.endpoints.find(id) {
            Ok(record) => record,
            Err(version) => {
                let record = self.store.endpoint(id).await?.ok_or_else(|| {
                    let error =
                        Error::new(ErrorKind::NotFound, "find endpoint", "no such endpoint is registered")
                            .with_context("endpoint", id);
                    Refusal::new("ENDPOINT_NOT_FOUND", error)
                })?;
                self.endpoints.remember(version, id, Arc::clone(&record), endpoint_bytes(&record));
                record
            }
        };
        self.check(principal, action, &object(&record), "ENDPOINT_ACCESS_FORBIDDEN")?;
        Ok(record)
    }

    /// The endpoints that this principal may see, in order of id; only its own ones if `owned`.
    ///
    /// # Errors
    /// `Unavailable` (the store).
    pub async fn endpoints(&self, principal: &Principal, owned: bool) -> Answer<Vec<Arc<EndpointRecord>>> {
        self.check(principal, Action::Read, &own(principal), "ENDPOINT_ACCESS_FORBIDDEN")?;
        let mut endpoints = self.store.endpoints().await?;
        endpoints.retain(|record| match owned {
            true => record.owner == principal.identity,
            false => self.authority.authorize(principal, Action::Read, &object(record)).is_ok(),
        });
        Ok(endpoints)
    }

    /// What goes on at these endpoints.
    ///
    /// # Errors
    /// `Unavailable` (the store, or the service is stopping).
    pub async fn figures(&self, endpoints: &[EndpointId]) -> Answer<Vec<EndpointFigures>> {
        let wanted = endpoints.to_vec();
        let lanes: Vec<_> = endpoints.iter().map(|id| self.open_lane(*id)).collect();
        let ids: Vec<_> = lanes.iter().map(|lane| lane.as_ref().map(|lane| lane.id)).collect();
        let mut figures = self
            .node
            .with(move |node, _| {
                let mut figures = vec![EndpointFigures::default(); wanted.len()];
                for (figures, lane) in figures.iter_mut().zip(ids) {
                    figures.leased = lane.map_or(0, |lane| node.load(lane).leased as u64);
                }
                for peer in node.peers() {
                    let Some(index) = wanted.iter().position(|id| id.uuid() == peer.node) else { continue };
                    figures[index].connected = peer.connected;
                    if peer.connected {
                        figures[index].managers = peer.report.managers;
                        figures[index].workers = peer.report.workers.max(peer.capacity.slots);
                    }
                }
                figures
            })
            .await?;
        for ((figures, lane), id) in figures.iter_mut().zip(&lanes).zip(endpoints) {
            let unfinished = match lane {
                Some(lane) => lane.unfinished(),
                None => self.store.backlog(*id).await?.tasks,
            };
            figures.queued = unfinished.saturating_sub(figures.leased);
        }
        Ok(figures)
    }

    /// Keeps an endpoint from registering and connecting for a while; returns how long.
    ///
    /// # Errors
    /// `NotFound`, `Forbidden`, `Unavailable` (the store).
    pub async fn lock_endpoint(&self, principal: &Principal, id: EndpointId) -> Answer<Duration> {
        self.endpoint(principal, id, Action::Change).await?;
        let mut locks = self.locks.lock();
        locks.retain(|_, until| *until > Instant::now());
        locks.insert(id, Instant::now() + LOCK);
        Ok(LOCK)
    }

    /// Refuses an endpoint that is locked.
    pub(super) fn check_lock(&self, id: EndpointId) -> Answer<()> {
        let until = self.locks.lock().get(&id).copied();
        match until.map(|until| until.saturating_duration_since(Instant::now())) {
            Some(left) if !left.is_zero() => {
                let error = Error::new(
                    ErrorKind::Conflict,
                    "let the endpoint in",
                    "the endpoint was stopped and is locked",
                )
                .with_context("endpoint", id)
                .with_context("seconds left", left.as_secs())
                .with_retry(Retry::After(Some(left)));
                Err(Refusal::new("ENDPOINT_LOCKED", error))
            }
            _ => Ok(()),
        }
    }

    /// Removes an endpoint: its unfinished tasks are cancelled, its connection is closed.
    ///
    /// # Errors
    /// `NotFound`, `Forbidden`, `Unavailable` (the store; then the endpoint stays, and part of its tasks may be
    /// cancelled already).
    pub async fn delete_endpoint(self: &Arc<Self>, principal: &Principal, id: EndpointId) -> Answer<()> {
        let changing = self.changing(id).await;
        let record = self.endpoint(principal, id, Action::Change).await?;
        let service = Arc::clone(self);
        Unstoppable::new(async move {
            let _changing = changing;
            let lane = service.lane(id).await?;
            let reason = Failure::new("EndpointDeleted", "its endpoint was deleted");
            let deleted = async {
                lane.close(&service, record, &reason).await?;
                service.store.commit(vec![Write::DeleteEndpoint(id)]).await
            };
            if let Err(error) = deleted.await {
                lane.reopen();
                return Err(error.into());
            }
            service.endpoints.remove(id);
            let dead =
                move |node: &mut Node, now| node.handle_dead(id.uuid(), "the endpoint was deleted", now);
            if let Err(error) = service.node.with(dead).await {
                tracing::warn!(endpoint = %id, %error, "cannot close the connection of a deleted endpoint");
            }
            Ok(())
        })
        .await
    }
}

fn own(principal: &Principal) -> Object {
    Object { owner: principal.identity, access: Access::Private }
}

fn object(record: &EndpointRecord) -> Object {
    Object { owner: record.owner, access: record.access }
}

fn function_bytes(record: &FunctionRecord) -> usize {
    record.function.size_bytes() + record.name.len() + record.description.len() + record.metadata.len()
}

fn endpoint_bytes(record: &EndpointRecord) -> usize {
    let allowed = record.allowed_functions.as_ref().map_or(0, Vec::len);
    record.name.len()
        + record.metadata.len()
        + allowed * size_of::<IdentityId>()
        + size_of::<EndpointRecord>()
}

/// Refuses what is larger than it may be.
pub(super) fn bounded(operation: &'static str, what: &'static str, size: usize, limit: usize) -> Answer<()> {
    match size > limit {
        true => Err(Error::new(ErrorKind::LimitExceeded, operation, format!("the {what} is too large"))
            .with_context("size", size)
            .with_context("limit", limit)
            .into()),
        false => Ok(()),
    }
}
