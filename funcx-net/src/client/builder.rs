//! How a client is made.

use std::sync::Arc;

use funcx_core::model::TaskGroupId;
use funcx_core::{Error, ErrorKind, Result};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, mpsc};

use super::api::Api;
use super::dropped;
use super::requests::Inner;
use super::session::Session;
use super::submission::{CALL_BYTES, QUEUE_BYTES};
use super::{Client, RetryPolicy, Token};

/// Where a service listens unless it is told otherwise.
const DEFAULT_SERVICE: &str = "http://127.0.0.1:5000";

/// Calls between a caller and the session; more wait at the caller.
const CHANNEL_CALLS: usize = 1024;

/// Settings of a [`Client`].
#[derive(Debug, Clone)]
pub struct ClientBuilder {
    service: String,
    token: Option<Token>,
    retry: RetryPolicy,
    queue_bytes: usize,
}

impl Default for ClientBuilder {
    fn default() -> Self {
        Self {
            service: DEFAULT_SERVICE.to_owned(),
            token: None,
            retry: RetryPolicy::default(),
            queue_bytes: QUEUE_BYTES,
        }
    }
}

impl ClientBuilder {
    /// Address of the service, such as `http://127.0.0.1:5000`, which is the default.
    #[must_use]
    pub fn service(mut self, url: impl Into<String>) -> Self {
        self.service = url.into();
        self
    }

    /// What to prove one's identity with. Without a token most requests are refused.
    #[must_use]
    pub fn token(mut self, token: Token) -> Self {
        self.token = Some(token);
        self
    }

    /// How often a request is made when the service is busy or away.
    #[must_use]
    pub fn retry(mut self, policy: RetryPolicy) -> Self {
        self.retry = policy;
        self
    }

    /// Bytes of calls that the service has not accepted yet, at most [`QUEUE_BYTES`], which is the default. A call that
    /// is larger waits until it is alone.
    #[must_use]
    pub fn queue_bytes(mut self, bytes: usize) -> Self {
        self.queue_bytes = bytes.clamp(CALL_BYTES, QUEUE_BYTES);
        self
    }

    /// Makes the client. It does not talk to the service yet. The session that submits calls runs on the current tokio
    /// runtime until the last clone of the client and the last handle are gone.
    ///
    /// # Errors
    /// `InvalidInput` if the address cannot be used; `Unsupported` outside of a tokio runtime; `Io` if the operating
    /// system has no random bits.
    pub fn build(self) -> Result<Client> {
        let api = Arc::new(Api::new(&self.service, self.token, self.retry)?);
        let runtime = Handle::try_current().map_err(|error| {
            Error::new(ErrorKind::Unsupported, "build client", "it needs a tokio runtime").with_source(error)
        })?;
        let group = new_group()?;
        let (calls, queued) = mpsc::channel(CHANNEL_CALLS);
        runtime.spawn(Session::new(Arc::clone(&api), group, queued).run());
        let (dropped, to_cancel) = mpsc::unbounded_channel();
        runtime.spawn(dropped::run(Arc::clone(&api), to_cancel));
        let room = Arc::new(Semaphore::new(self.queue_bytes));
        Ok(Client::new(Inner { api, group, calls, dropped, room, queue_bytes: self.queue_bytes }))
    }
}

/// A task group that nobody else has.
pub(super) fn new_group() -> Result<TaskGroupId> {
    let mut bits = [0; 16];
    getrandom::fill(&mut bits).map_err(|error| {
        Error::new(ErrorKind::Io, "make task group", "the operating system has no random bits")
            .with_source(error.to_string())
    })?;
    Ok(TaskGroupId::from_random(u128::from_ne_bytes(bits)))
}
