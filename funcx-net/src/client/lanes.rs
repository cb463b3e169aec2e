//! Calls that wait to be submitted, and which of them go into the next request.

use std::{
    collections::{HashMap, VecDeque},
    hash::Hash,
};

use funcx_core::model::limit;

/// Argument bytes after which a request takes no more calls. A request that is much smaller wastes round trips; one
/// that is much larger makes the first of its tasks wait for the last to arrive.
const TARGET_REQUEST_BYTES: usize = limit::TARGET_BATCH_BYTES;

/// Calls that wait, by target. Of each target at most one request is under way; what is called meanwhile goes together
/// into the next. So a call that comes alone is not held up, and calls that come fast travel in large requests.
#[derive(Debug)]
pub(super) struct Lanes<K, C> {
    lanes: HashMap<K, Lane<C>>,
    /// Targets with calls and without a request under way, in the order in which they became so.
    ready: VecDeque<K>,
}

#[derive(Debug)]
struct Lane<C> {
    calls: VecDeque<(C, usize)>,
    under_way: bool,
}

impl<K: Clone + Eq + Hash, C> Lanes<K, C> {
    pub(super) fn new() -> Self {
        Self { lanes: HashMap::new(), ready: VecDeque::new() }
    }

    /// Whether nothing waits and no request is under way.
    pub(super) fn is_empty(&self) -> bool {
        self.lanes.is_empty()
    }

    /// Adds a call with arguments of so many bytes.
    pub(super) fn handle_call(&mut self, target: K, call: C, bytes: usize) {
        let lane = self
            .lanes
            .entry(target.clone())
            .or_insert_with(|| Lane { calls: VecDeque::new(), under_way: false });
        if lane.calls.is_empty() && !lane.under_way {
            self.ready.push_back(target);
        }
        lane.calls.push_back((call, bytes));
    }

    /// The next request to make: a target and the calls for it, of which there is at least one.
    pub(super) fn poll_request(&mut self) -> Option<(K, Vec<C>)> {
        let target = self.ready.pop_front()?;
        let lane = self.lanes.get_mut(&target)?;
        lane.under_way = true;
        let mut calls = Vec::new();
        let mut room = TARGET_REQUEST_BYTES;
        while calls.len() < limit::MAX_SUBMIT_TASKS {
            let Some((_, bytes)) = lane.calls.front() else { break };
            // A call that is longer than a request should be travels alone.
            if *bytes > room && !calls.is_empty() {
                break;
            }
            room = room.saturating_sub(*bytes);
            calls.extend(lane.calls.pop_front().map(|(call, _)| call));
        }
        Some((target, calls))
    }

    /// Takes note that the request for `target` was answered, one way or the other.
    pub(super) fn handle_answer(&mut self, target: &K) {
        let Some(lane) = self.lanes.get_mut(target) else { return };
        lane.under_way = false;
        if lane.calls.is_empty() {
            self.lanes.remove(target);
        } else {
            self.ready.push_back(target.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_alone_goes_at_once_and_those_after_it_together() {
        let mut lanes = Lanes::new();
        lanes.handle_call("a", 1, 10);
        assert_eq!(lanes.poll_request(), Some(("a", vec![1])));
        for call in 2..=5 {
            lanes.handle_call("a", call, 10);
        }
        assert_eq!(lanes.poll_request(), None);
        lanes.handle_answer(&"a");
        assert_eq!(lanes.poll_request(), Some(("a", vec![2, 3, 4, 5])));
        assert_eq!(lanes.poll_request(), None);
        assert!(!lanes.is_empty());
        lanes.handle_answer(&"a");
        assert!(lanes.is_empty());
    }

    #[test]
    fn targets_do_not_wait_for_each_other() {
        let mut lanes = Lanes::new();
        for (target, call) in [("a", 1), ("b", 2), ("a", 3)] {
            lanes.handle_call(target, call, 1);
        }
        assert_eq!(lanes.poll_request(), Some(("a", vec![1, 3])));
        assert_eq!(lanes.poll_request(), Some(("b", vec![2])));
        assert_eq!(lanes.poll_request(), None);
    }

    #[test]
    fn requests_are_bounded_in_number_and_bytes() {
        let mut lanes = Lanes::new();
        for call in 0..=limit::MAX_SUBMIT_TASKS {
            lanes.handle_call("a", call, 0);
        }
        assert_eq!(lanes.poll_request().unwrap().1.len(), limit::MAX_SUBMIT_TASKS);
        lanes.handle_answer(&"a");
        assert_eq!(lanes.poll_request(), Some(("a", vec![limit::MAX_SUBMIT_TASKS])));

        let mut lanes = Lanes::new();
        let half = TARGET_REQUEST_BYTES / 2;
        for (call, bytes) in [half, half, 1, TARGET_REQUEST_BYTES + 1, 1].into_iter().enumerate() {
            lanes.handle_call("a", call, bytes);
        }
        let mut requests = Vec::new();
        while let Some((target, calls)) = lanes.poll_request() {
            requests.push(calls);
            lanes.handle_answer(&target);
        }
        assert_eq!(requests, [vec![0, 1], vec![2], vec![3], vec![4]]);
    }
}
