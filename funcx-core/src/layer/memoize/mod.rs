//! Results of calls that were made before with the same function and the same arguments.

mod cache;

use std::{
    sync::Arc,
    task::{Context, Poll},
};

use futures::future::{BoxFuture, Either, FutureExt, Ready, ready};
use parking_lot::Mutex;
use tower::{Layer, Service};

use crate::model::{Outcome, OutcomeKind, Task};
use cache::Cache;

/// Makes a service remember values. See [`Memoize`].
#[derive(Debug, Clone, Copy)]
pub struct MemoizeLayer {
    capacity_bytes: usize,
}

impl MemoizeLayer {
    /// Remembers values up to this many bytes, arguments included.
    pub const fn with_capacity_bytes(capacity_bytes: usize) -> Self {
        Self { capacity_bytes }
    }
}

impl<S> Layer<S> for MemoizeLayer {
    type Service = Memoize<S>;

    fn layer(&self, inner: S) -> Memoize<S> {
        Memoize { inner, cache: Arc::new(Mutex::new(Cache::new(self.capacity_bytes))) }
    }
}

/// Answers a call from memory if the same owner made it before: same function (by hash), same argument bytes.
///
/// Only values are remembered, never failures, and never for another owner. When memory is full the oldest entries go;
/// a value larger than the whole memory is not remembered. Clones share their memory.
#[derive(Debug, Clone)]
pub struct Memoize<S> {
    inner: S,
    cache: Arc<Mutex<Cache>>,
}

impl<S> Memoize<S> {
    /// Calls answered from memory so far.
    pub fn hits(&self) -> u64 {
        self.cache.lock().hits()
    }
}

impl<S> Service<Task> for Memoize<S>
where
    S: Service<Task, Response = Outcome>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
{
    type Response = Outcome;
    type Error = S::Error;
    type Future = Either<Ready<Result<Outcome, S::Error>>, BoxFuture<'static, Result<Outcome, S::Error>>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, task: Task) -> Self::Future {
        let key = cache::Key::of(&task);
        if let Some(value) = self.cache.lock().find(&key) {
            return Either::Left(ready(Ok(Outcome::returned(&task, value))));
        }
        let cache = Arc::clone(&self.cache);
        let running = self.inner.call(task);
        let remember = async move {
            let outcome = running.await?;
            if outcome.kind == OutcomeKind::Returned {
                cache.lock().insert(key, outcome.payload.clone());
            }
            Ok(outcome)
        };
        Either::Right(remember.boxed())
    }
}
