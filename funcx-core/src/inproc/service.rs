//! Native functions as a `tower::Service`.

use std::{
    sync::Arc,
    task::{Context, Poll},
};

use futures::future::{BoxFuture, Either, FutureExt, Ready, ready};
use tower::Service;

use super::CallContext;
use super::functions::{Begun, NativeFunctions, finish};
use crate::model::{Error, Outcome, Task};

/// Runs native functions where it is called. A task that failed is an outcome; the service itself never fails.
///
/// Synchronous functions run inside `call`, on the caller's thread: this is the way for functions that are short.
/// Nobody can stop them, and walltimes and deadlines are not looked at; layers do that. Long ones belong in an [`InProcess`](super::InProcess) executor, which has threads of its own.
#[derive(Debug, Clone)]
pub struct NativeService {
    functions: Arc<NativeFunctions>,
}

impl NativeService {
    pub(super) fn new(functions: NativeFunctions) -> Self {
        Self { functions: Arc::new(functions) }
    }
}

impl Service<Task> for NativeService {
    type Response = Outcome;
    type Error = Error;
    type Future = Either<Ready<Result<Outcome, Error>>, BoxFuture<'static, Result<Outcome, Error>>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, task: Task) -> Self::Future {
        match self.functions.begin(&task, &CallContext::default()) {
            Begun::Ended(outcome) => Either::Left(ready(Ok(outcome))),
            Begun::Running(running) => Either::Right(async move { Ok(finish(&task, running).await) }.boxed()),
        }
    }
}
