//! A sink for an executor that starts before its node.

use std::sync::Arc;

use funcx_core::contract::{ExecutorEvent, ExecutorSink};
use parking_lot::Mutex;

/// Keeps events until there is somebody to take them. Before that an executor has no tasks, so there are few.
pub(super) struct LateSink(Mutex<State>);

enum State {
    Waiting(Vec<ExecutorEvent>),
    Connected(Arc<dyn ExecutorSink>),
}

impl LateSink {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self(Mutex::new(State::Waiting(Vec::new()))))
    }

    /// Passes on what was kept, and everything from now on.
    pub(super) fn connect(&self, sink: Arc<dyn ExecutorSink>) {
        let mut state = self.0.lock();
        if let State::Waiting(events) = std::mem::replace(&mut *state, State::Connected(Arc::clone(&sink))) {
            events.into_iter().for_each(|event| sink.handle(event));
        }
    }
}

impl ExecutorSink for LateSink {
    fn handle(&self, event: ExecutorEvent) {
        let sink = match &mut *self.0.lock() {
            State::Waiting(events) => return events.push(event),
            State::Connected(sink) => Arc::clone(sink),
        };
        sink.handle(event);
    }
}
