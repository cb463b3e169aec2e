//! Values of calls that were made before with the same function and the same arguments.

use std::{
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use futures::channel::oneshot;
use futures::future::{BoxFuture, Either, FutureExt, Ready, ready};
use hashbrown::HashMap;
use parking_lot::Mutex;
use tower::{Layer, Service, ServiceExt};

use crate::memo::{MemoCache, MemoKey, lasting_value};
use crate::model::{Outcome, Task};

/// Makes a service remember values. See [`Memoize`].
#[derive(Debug, Clone, Copy)]
pub struct MemoizeLayer {
    capacity_bytes: usize,
}

impl MemoizeLayer {
    /// Remembers values up to this many bytes, the overhead of each included.
    pub const fn with_capacity_bytes(capacity_bytes: usize) -> Self {
        Self { capacity_bytes }
    }
}

impl<S> Layer<S> for MemoizeLayer {
    type Service = Memoize<S>;

    fn layer(&self, inner: S) -> Memoize<S> {
        let memory =
            Memory { cache: MemoCache::new(self.capacity_bytes), hits: 0, under_way: HashMap::default() };
        Memoize { inner, memory: Arc::new(Mutex::new(memory)) }
    }
}

/// Answers a call with the value of an equal one of the same owner: same function (by hash), same options, same argument
/// bytes. To put this layer around a service is to say so for all of its functions, whatever a task says.
///
/// Of equal calls under way one runs, the others wait for its value. Only values are remembered, never failures: if the one
/// that runs fails or is dropped, the next one runs. When memory is full, values that nobody has asked for the longest go;
/// one larger than the whole memory is not remembered. Clones share their memory.
#[derive(Debug, Clone)]
pub struct Memoize<S> {
    inner: S,
    memory: Arc<Mutex<Memory>>,
}

#[derive(Debug)]
struct Memory {
    cache: MemoCache,
    hits: u64,
    /// Calls that run, and those that wait for their values.
    under_way: HashMap<MemoKey, Vec<oneshot::Sender<Bytes>>>,
}

/// What becomes of a call.
enum Turn {
    Answered(Bytes),
    Waits(oneshot::Receiver<Bytes>),
    Runs,
}

impl Memory {
    fn take_turn(&mut self, key: MemoKey) -> Turn {
        if let Some(value) = self.cache.find(&key) {
            self.hits += 1;
            return Turn::Answered(value);
        }
        match self.under_way.get_mut(&key) {
            Some(waiting) => {
                let (tell, told) = oneshot::channel();
                waiting.push(tell);
                Turn::Waits(told)
            }
            None => {
                self.under_way.insert(key, Vec::new());
                Turn::Runs
            }
        }
    }
}

/// A call that runs. Dropped without a value, it leaves its turn to those who wait.
struct Running {
    memory: Arc<Mutex<Memory>>,
    key: MemoKey,
}

impl Running {
    fn land(&self, value: &Bytes) {
        let mut memory = self.memory.lock();
        memory.cache.insert(self.key, value);
        let waiting = memory.under_way.get_mut(&self.key).map(std::mem::take);
        for tell in waiting.into_iter().flatten() {
            memory.hits += u64::from(tell.send(value.clone()).is_ok());
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.memory.lock().under_way.remove(&self.key);
    }
}

impl<S> Memoize<S> {
    /// Calls answered without running so far.
    pub fn hits(&self) -> u64 {
        self.memory.lock().hits
    }
}

impl<S> Service<Task> for Memoize<S>
where
    S: Service<Task, Response = Outcome> + Clone + Send + 'static,
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
        let key = MemoKey::own(&task.spec, &task.payload);
        let memory = Arc::clone(&self.memory);
        let turn = memory.lock().take_turn(key);
        if !matches!(turn, Turn::Runs) {
            // The service inside may keep room for a call since it was asked whether it is ready: nobody needs it now.
            self.inner = self.inner.clone();
        }
        match turn {
            Turn::Answered(value) => Either::Left(ready(Ok(Outcome::remembered(&task, value)))),
            Turn::Runs => {
                let running = Running { memory, key };
                let map = task.spec.map;
                let outcome = self.inner.call(task);
                Either::Right(async move { land(running, map, outcome.await) }.boxed())
            }
            Turn::Waits(told) => Either::Right(wait(self.inner.clone(), memory, key, told, task).boxed()),
        }
    }
}

fn land<E>(running: Running, map: bool, outcome: Result<Outcome, E>) -> Result<Outcome, E> {
    let value = outcome.as_ref().ok().and_then(|outcome| lasting_value(map, outcome));
    value.into_iter().for_each(|value| running.land(value));
    outcome
}

/// Waits for the value of an equal call, or runs when it is this one's turn.
async fn wait<S>(
    inner: S,
    memory: Arc<Mutex<Memory>>,
    key: MemoKey,
    mut told: oneshot::Receiver<Bytes>,
    task: Task,
) -> Result<Outcome, S::Error>
where
    S: Service<Task, Response = Outcome>,
{
    loop {
        if let Ok(value) = told.await {
            return Ok(Outcome::remembered(&task, value));
        }
        let turn = memory.lock().take_turn(key);
        match turn {
            Turn::Answered(value) => return Ok(Outcome::remembered(&task, value)),
            Turn::Waits(next) => told = next,
            Turn::Runs => {
                let running = Running { memory, key };
                let map = task.spec.map;
                return land(running, map, inner.oneshot(task).await);
            }
        }
    }
}
