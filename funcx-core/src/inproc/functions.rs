//! Names and the Rust functions behind them.

use std::{collections::BTreeMap, fmt, panic, sync::Arc};

use bytes::Bytes;
use futures::future::{BoxFuture, FutureExt};
use serde::{Serialize, de::DeserializeOwned};

use super::map::call_each;
use super::{CallContext, Clock, InProcess, NativeService};
use crate::contract::ExecutorSink;
use crate::model::{Error, ErrorKind, Failure, FunctionKind, Outcome, OutcomeKind, Result, Task};

/// What calling a function gives: its value or the reason why it has none.
pub(super) type Returned = std::result::Result<Bytes, Failure>;
type Sync = dyn Fn(&Bytes, &CallContext) -> Returned + Send + std::marker::Sync;
type Async = dyn Fn(Bytes) -> BoxFuture<'static, Returned> + Send + std::marker::Sync;

/// Rust functions by the names under which tasks call them.
///
/// Typed functions take one argument and return one value, in JSON; several arguments are a tuple. A function that
/// panics fails its task, not the process.
#[derive(Clone, Default)]
pub struct NativeFunctions {
    by_name: BTreeMap<String, NativeCall>,
}

/// One registered function.
#[derive(Clone)]
pub enum NativeCall {
    /// Runs where it is called.
    Sync(Arc<Sync>),
    /// Runs as a future.
    Async(Arc<Async>),
}

impl fmt::Debug for NativeFunctions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.by_name.keys()).finish()
    }
}

impl fmt::Debug for NativeCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if matches!(self, Self::Sync(_)) { "Sync" } else { "Async" })
    }
}

impl NativeFunctions {
    /// No functions.
    pub fn new() -> Self {
        Self::default()
    }

    /// Registers a function whose argument and value are JSON.
    ///
    /// # Errors
    /// `Conflict` if the name is taken.
    pub fn register<A, R>(
        &mut self,
        name: impl Into<String>,
        function: impl Fn(A) -> R + Send + std::marker::Sync + 'static,
    ) -> Result<&mut Self>
    where
        A: DeserializeOwned,
        R: Serialize,
    {
        self.insert(
            name.into(),
            NativeCall::Sync(Arc::new(move |payload, _| encode(&function(decode(payload)?)))),
        )
    }

    /// Registers a function that may run long: it is told by its [`CallContext`] when to give up. Argument and value are
    /// JSON. What it returns after it was stopped is not looked at.
    ///
    /// # Errors
    /// `Conflict` if the name is taken.
    pub fn register_with_context<A, R>(
        &mut self,
        name: impl Into<String>,
        function: impl Fn(A, &CallContext) -> R + Send + std::marker::Sync + 'static,
    ) -> Result<&mut Self>
    where
        A: DeserializeOwned,
        R: Serialize,
    {
        let call = move |payload: &Bytes, context: &CallContext| encode(&function(decode(payload)?, context));
        self.insert(name.into(), NativeCall::Sync(Arc::new(call)))
    }

    /// Registers an asynchronous function whose argument and value are JSON.
    ///
    /// # Errors
    /// `Conflict` if the name is taken.
    pub fn register_async<A, F>(
        &mut self,
        name: impl Into<String>,
        function: impl Fn(A) -> F + Send + std::marker::Sync + 'static,
    ) -> Result<&mut Self>
    where
        A: DeserializeOwned,
        F: Future<Output: Serialize> + Send + 'static,
    {
        let call = move |payload: Bytes| match decode(&payload) {
            Ok(argument) => function(argument).map(|value| encode(&value)).boxed(),
            Err(failure) => futures::future::ready(Err(failure)).boxed(),
        };
        self.insert(name.into(), NativeCall::Async(Arc::new(call)))
    }

    /// Registers a function that reads and writes the bytes of the payload itself, and may fail.
    ///
    /// # Errors
    /// `Conflict` if the name is taken.
    pub fn register_raw(
        &mut self,
        name: impl Into<String>,
        function: impl Fn(&Bytes) -> std::result::Result<Bytes, Failure> + Send + std::marker::Sync + 'static,
    ) -> Result<&mut Self> {
        self.insert(name.into(), NativeCall::Sync(Arc::new(move |payload, _| function(payload))))
    }

    /// All names in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.by_name.keys().map(String::as_str)
    }

    /// A `tower::Service` that runs the functions where it is called.
    pub fn into_service(self) -> NativeService {
        NativeService::new(self)
    }

    /// An executor that runs them on `threads` threads of its own. `clock` tells when walltimes, times to live and
    /// deadlines are over.
    ///
    /// # Errors
    /// `Io` if a thread cannot be started.
    pub fn into_executor(
        self,
        threads: usize,
        clock: Clock,
        sink: Arc<dyn ExecutorSink>,
    ) -> Result<InProcess> {
        InProcess::new(self, threads, clock, sink)
    }

    fn insert(&mut self, name: String, call: NativeCall) -> Result<&mut Self> {
        if self.by_name.contains_key(&name) {
            return Err(Error::new(ErrorKind::Conflict, "register native function", "the name is taken")
                .with_context("function", name));
        }
        self.by_name.insert(name, call);
        Ok(self)
    }

    /// Begins a task: its outcome if it ran to its end here, else a future of it.
    pub(super) fn begin(&self, task: &Task, context: &CallContext) -> Begun {
        let body = task.spec.function.body();
        if body.kind != FunctionKind::Native {
            let failure = Failure::new(
                "UnsupportedFunctionKind",
                format!("no worker here runs {} functions", body.kind),
            );
            return Begun::Ended(Outcome::failed(task, OutcomeKind::Raised, &failure));
        }
        match self.by_name.get(&body.entry) {
            None => {
                let failure = Failure::new(
                    "UnknownNativeFunction",
                    format!("no native function `{}` is registered in this worker", body.entry),
                );
                Begun::Ended(Outcome::failed(task, OutcomeKind::Raised, &failure))
            }
            Some(function) => {
                let called = match task.spec.map {
                    true => call_each(function, &task.payload, context),
                    false => call(function, &task.payload, context),
                };
                match called {
                    Called::Ended(returned) => Begun::Ended(ended(task, returned)),
                    Called::Running(running) => Begun::Running(running),
                }
            }
        }
    }
}

/// A function that was called.
pub(super) enum Called {
    Ended(Returned),
    Running(BoxFuture<'static, Returned>),
}

/// Calls a function with these arguments; a panic is a failure.
pub(super) fn call(function: &NativeCall, payload: &Bytes, context: &CallContext) -> Called {
    let called = panic::catch_unwind(panic::AssertUnwindSafe(|| match function {
        NativeCall::Sync(function) => Called::Ended(function(payload, context)),
        NativeCall::Async(function) => Called::Running(function(payload.clone())),
    }));
    called.unwrap_or_else(|panic| Called::Ended(Err(panicked(&*panic))))
}

/// What a running function returns; a panic is a failure.
pub(super) async fn settle(running: BoxFuture<'static, Returned>) -> Returned {
    let returned = panic::AssertUnwindSafe(running).catch_unwind().await;
    returned.unwrap_or_else(|panic| Err(panicked(&*panic)))
}

/// A task that was begun.
pub(super) enum Begun {
    Ended(Outcome),
    Running(BoxFuture<'static, Returned>),
}

/// Runs the future of a task to its end; a panic is a failure of the task.
pub(super) async fn finish(task: &Task, running: BoxFuture<'static, Returned>) -> Outcome {
    ended(task, settle(running).await)
}

fn ended(task: &Task, returned: Returned) -> Outcome {
    match returned {
        Ok(value) => Outcome::returned(task, value),
        Err(failure) => Outcome::failed(task, OutcomeKind::Raised, &failure),
    }
}

fn panicked(panic: &(dyn std::any::Any + Send)) -> Failure {
    let text =
        panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    Failure::new("Panicked", format!("the function panicked: {}", text.unwrap_or("(no text)")))
}

fn decode<A: DeserializeOwned>(payload: &Bytes) -> std::result::Result<A, Failure> {
    let json: &[u8] = if payload.is_empty() { b"null" } else { payload };
    serde_json::from_slice(json)
        .map_err(|error| Failure::new("InvalidArguments", format!("cannot read the arguments: {error}")))
}

fn encode<R: Serialize>(value: &R) -> Returned {
    serde_json::to_vec(value)
        .map(Bytes::from)
        .map_err(|error| Failure::new("InvalidResult", format!("cannot write the result: {error}")))
}
