//! The task that submits the calls of a client and tells their outcomes.

use std::sync::Arc;

use funcx_core::model::{IdMap, TaskGroupId, TaskId};
use funcx_core::{Error, Result};
use futures::{
    StreamExt,
    future::{BoxFuture, FutureExt},
    stream::FuturesUnordered,
};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};

use super::api::Api;
use super::call::{Arguments, Call, CallTarget};
use super::handle::Accepted;
use super::lanes::Lanes;
use super::submission::submit;
use super::{Outcomes, TaskView};

/// Requests under way at a time, each for another target.
const MAX_REQUESTS: usize = 8;

/// Calls taken in before the next request is made, so that a flood of calls does not starve the outcomes.
const CALLS_PER_TURN: usize = 4096;

/// A call on its way into the session.
pub(super) struct Queued {
    pub(super) call: Call,
    pub(super) accepted: oneshot::Sender<Accepted>,
    /// Room in the client's queue, given back when the service has answered.
    pub(super) room: OwnedSemaphorePermit,
}

/// A call without its target, as it waits in a lane.
struct Waiting {
    arguments: Arguments,
    asker: Asker,
}

/// Who waits for the answer to a call.
struct Asker {
    accepted: oneshot::Sender<Accepted>,
    room: OwnedSemaphorePermit,
}

/// A request that was answered.
struct Answered {
    target: CallTarget,
    askers: Vec<Asker>,
    answer: Result<Vec<TaskId>>,
}

/// Owns everything that changes while a client works: one task, no locks.
///
/// It ends when the last client and the last handle are gone and what they submitted has been answered.
pub(super) struct Session {
    api: Arc<Api>,
    group: TaskGroupId,
    calls: mpsc::Receiver<Queued>,
    lanes: Lanes<CallTarget, Waiting>,
    requests: FuturesUnordered<BoxFuture<'static, Answered>>,
    /// Opened with the first accepted task, and with the first after it broke for good.
    outcomes: Option<Outcomes>,
    /// Where the stream stood when it broke for good.
    cursor: Option<String>,
    /// Accepted tasks without an outcome, and whom to tell; `None` for those who were told that it cannot be had.
    told: IdMap<TaskId, Option<oneshot::Sender<Result<TaskView>>>>,
    /// Outcomes of tasks whose submission is not answered yet: the stream was quicker. No more than there are calls
    /// under way, because nobody else submits to this group.
    early: IdMap<TaskId, TaskView>,
}

enum Input {
    Call(Option<Queued>),
    Answered(Answered),
    Outcome(Result<TaskView>),
}

impl Session {
    pub(super) fn new(api: Arc<Api>, group: TaskGroupId, calls: mpsc::Receiver<Queued>) -> Self {
        Self {
            api,
            group,
            calls,
            lanes: Lanes::new(),
            requests: FuturesUnordered::new(),
            outcomes: None,
            cursor: None,
            told: IdMap::default(),
            early: IdMap::default(),
        }
    }

    pub(super) async fn run(mut self) {
        let mut open = true;
        while open || !self.lanes.is_empty() {
            match self.next_input(open).await {
                Input::Call(Some(call)) => self.on_calls(call),
                Input::Call(None) => open = false,
                Input::Answered(answered) => self.on_answer(answered),
                Input::Outcome(outcome) => self.on_outcome(outcome),
            }
            self.make_requests();
        }
    }

    async fn next_input(&mut self, open: bool) -> Input {
        tokio::select! {
            call = self.calls.recv(), if open => Input::Call(call),
            Some(answered) = self.requests.next(), if !self.requests.is_empty() => Input::Answered(answered),
            outcome = next_outcome(&mut self.outcomes) => Input::Outcome(outcome),
        }
    }

    fn on_calls(&mut self, first: Queued) {
        self.on_call(first);
        for _ in 1..CALLS_PER_TURN {
            let Ok(call) = self.calls.try_recv() else { break };
            self.on_call(call);
        }
    }

    fn on_call(&mut self, Queued { call, accepted, room }: Queued) {
        let bytes = call.arguments.size_bytes();
        let waiting = Waiting { arguments: call.arguments, asker: Asker { accepted, room } };
        self.lanes.handle_call(call.target, waiting, bytes);
    }

    fn make_requests(&mut self) {
        while self.requests.len() < MAX_REQUESTS {
            let Some((target, calls)) = self.lanes.poll_request() else { break };
            let (arguments, askers) =
                calls.into_iter().map(|waiting| (waiting.arguments, waiting.asker)).unzip();
            let (api, group) = (Arc::clone(&self.api), self.group);
            self.requests.push(
                async move {
                    let answer = submit(&api, group, &target, arguments).await;
                    Answered { target, askers, answer }
                }
                .boxed(),
            );
        }
    }

    fn on_answer(&mut self, Answered { target, askers, answer }: Answered) {
        self.lanes.handle_answer(&target);
        match answer {
            Ok(ids) => {
                for (asker, id) in askers.into_iter().zip(ids) {
                    self.on_accepted(asker, id);
                }
                if self.outcomes.is_none() {
                    self.outcomes =
                        Some(Outcomes::new(Arc::clone(&self.api), self.group, self.cursor.take()));
                }
            }
            Err(error) => askers.into_iter().for_each(|asker| {
                let _ = asker.accepted.send(Err(again(&error)));
            }),
        }
        if self.requests.is_empty() {
            self.early.clear();
        }
    }

    fn on_accepted(&mut self, asker: Asker, id: TaskId) {
        let (tell, told) = oneshot::channel();
        // Nobody who submits has to wait for the outcome, so whether a handle is left makes no difference.
        let _ = asker.accepted.send(Ok((id, told)));
        drop(asker.room);
        match self.early.remove(&id) {
            Some(outcome) => {
                let _ = tell.send(Ok(outcome));
            }
            None => {
                self.told.insert(id, Some(tell));
            }
        }
    }

    fn on_outcome(&mut self, outcome: Result<TaskView>) {
        match outcome {
            Ok(outcome) => match self.told.remove(&outcome.task_id) {
                // One who has stopped waiting is not told.
                Some(Some(tell)) => drop(tell.send(Ok(outcome))),
                Some(None) => {}
                None if !self.requests.is_empty() => {
                    self.early.insert(outcome.task_id, outcome);
                }
                // A task of a request that broke after the service had accepted it.
                None => {}
            },
            // Who waits is told that the result cannot be had now; the task itself goes on, and the stream is tried
            // again with the next call.
            Err(error) => {
                for (id, tell) in &mut self.told {
                    if let Some(tell) = tell.take() {
                        drop(tell.send(Err(again(&error).with_context("task", id))));
                    }
                }
                self.cursor = self.outcomes.take().and_then(|outcomes| outcomes.cursor().map(str::to_owned));
            }
        }
    }
}

async fn next_outcome(outcomes: &mut Option<Outcomes>) -> Result<TaskView> {
    if let Some(outcomes) = outcomes
        && let Some(outcome) = outcomes.next().await
    {
        return outcome;
    }
    std::future::pending().await
}

/// The same error, for each of those whom it concerns.
fn again(error: &Error) -> Error {
    let text = error.to_string();
    let beginning = format!("cannot {}: ", error.operation());
    let message = text.strip_prefix(&beginning).unwrap_or(&text).to_owned();
    Error::new(error.kind(), error.operation(), message).with_retry(error.retry())
}
