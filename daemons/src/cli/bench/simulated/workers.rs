//! Workers that are numbers.

use std::{
    collections::VecDeque,
    sync::{Arc, mpsc},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use funcx_core::contract::{Capacity, Executor, ExecutorCapability, ExecutorEvent, ExecutorSink};
use funcx_core::model::{AttemptId, FunctionKind, Outcome, Task};
use futures::future::{BoxFuture, FutureExt, ready};
use parking_lot::Mutex;

use super::ledger;

/// What a simulated task does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Work {
    /// Nothing: it has ended as soon as it has come.
    None,
    /// Nothing, but it returns its argument.
    Echo,
    /// It keeps a worker for so long.
    Sleep(Duration),
}

/// The workers of one manager.
pub(super) struct Workers {
    capacity: Capacity,
    crew: Arc<Crew>,
    sleepers: Sleepers,
}

struct Crew {
    sink: Arc<dyn ExecutorSink>,
    returns: Returns,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    idle: u32,
    waiting: VecDeque<Task>,
}

/// What tasks return.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Returns {
    /// Their number, which nobody else would return.
    Number,
    /// Their argument.
    Argument,
}

impl Work {
    /// What such tasks return.
    pub(super) const fn returns(self) -> Returns {
        match self {
            Self::None | Self::Sleep(_) => Returns::Number,
            Self::Echo => Returns::Argument,
        }
    }
}

/// Wakes all sleeping workers of a fabric. They sleep equally long, so who sleeps first wakes first.
#[derive(Clone)]
pub(super) struct Sleepers {
    /// `None` where nobody sleeps.
    beds: Option<mpsc::Sender<Sleep>>,
}

/// Tasks that run side by side and end together.
struct Sleep {
    since: Instant,
    tasks: Vec<Task>,
    crew: Arc<Crew>,
}

impl Workers {
    pub(super) fn new(
        capacity: Capacity,
        returns: Returns,
        sink: Arc<dyn ExecutorSink>,
        sleepers: Sleepers,
    ) -> Self {
        let state = Mutex::new(State { idle: capacity.slots, waiting: VecDeque::new() });
        Self { capacity, crew: Arc::new(Crew { sink, returns, state }), sleepers }
    }
}

impl Executor for Workers {
    fn capability(&self) -> ExecutorCapability {
        ExecutorCapability { kinds: vec![FunctionKind::Native], capacity: self.capacity, cancels: false }
    }

    fn start(&self, tasks: Vec<Task>) {
        match &self.sleepers.beds {
            None => self.crew.end(&tasks),
            Some(beds) => {
                if let Some(sleep) = self.crew.begin(tasks) {
                    // Nobody wakes them when the fabric is being ended.
                    let _ = beds.send(sleep);
                }
            }
        }
    }

    fn cancel(&self, _: &[AttemptId]) {}

    fn drain(&self) -> BoxFuture<'static, ()> {
        ready(()).boxed()
    }
}

impl Crew {
    /// Takes tasks, and gives as many as there are idle workers to them.
    fn begin(self: &Arc<Self>, tasks: Vec<Task>) -> Option<Sleep> {
        let mut state = self.state.lock();
        state.waiting.extend(tasks);
        let begin = state.waiting.len().min(state.idle as usize);
        state.idle -= begin as u32;
        let tasks: Vec<Task> = state.waiting.drain(..begin).collect();
        (!tasks.is_empty()).then(|| Sleep { since: Instant::now(), tasks, crew: Arc::clone(self) })
    }

    fn end(&self, tasks: &[Task]) {
        let outcome = |task: &Task| match self.returns {
            Returns::Number => Outcome::returned(task, ledger::number_of(task.id)),
            Returns::Argument => Outcome::returned(task, task.payload.clone()),
        };
        let outcomes = tasks.iter().map(outcome).collect();
        self.sink.handle(ExecutorEvent::Outcomes(outcomes));
    }
}

impl Sleepers {
    pub(super) fn start(work: Work) -> Result<Self> {
        let Work::Sleep(duration) = work else { return Ok(Self { beds: None }) };
        let (beds, taken) = mpsc::channel();
        std::thread::Builder::new()
            .name("sleepers".to_owned())
            .spawn(move || wake(&taken, duration))
            .context("cannot start a thread")?;
        Ok(Self { beds: Some(beds) })
    }
}

/// Wakes workers when they have slept for `duration`, until nobody can go to sleep any more.
fn wake(taken: &mpsc::Receiver<Sleep>, duration: Duration) {
    let mut asleep: VecDeque<Sleep> = VecDeque::new();
    loop {
        let next = match asleep.front() {
            Some(sleep) => {
                taken.recv_timeout((sleep.since + duration).saturating_duration_since(Instant::now()))
            }
            None => taken.recv().map_err(Into::into),
        };
        match next {
            Ok(sleep) => asleep.push_back(sleep),
            Err(mpsc::RecvTimeoutError::Disconnected) => return,
            Err(mpsc::RecvTimeoutError::Timeout) => {}
        }
        let now = Instant::now();
        while let Some(sleep) = asleep.pop_front_if(|sleep| sleep.since + duration <= now) {
            sleep.crew.state.lock().idle += sleep.tasks.len() as u32;
            asleep.extend(sleep.crew.begin(Vec::new()));
            sleep.crew.end(&sleep.tasks);
        }
    }
}
