//! Tells those who wait that tasks have ended.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use funcx_core::contract::{OutcomeRecord, TaskRecord};
use funcx_core::model::{EndpointId, FunctionId, IdMap, Outcome, TaskGroupId, TaskId, TaskSpec, Timestamp};
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};

/// What may wait for one subscriber.
#[derive(Debug, Clone, Copy)]
pub(super) struct Room {
    /// Outcomes; at least one may wait. A subscriber that is further behind has to search the store.
    pub(super) outcomes: usize,
    /// Bytes of those that wait as they are. Of the others only the ids wait.
    pub(super) bytes: usize,
}

/// What the tasks of one submission for one function have in common.
#[derive(Debug)]
pub(super) struct Origin {
    pub(super) endpoint: EndpointId,
    pub(super) group: TaskGroupId,
    pub(super) function: FunctionId,
    pub(super) spec: Arc<TaskSpec>,
    pub(super) accepted: Timestamp,
}

/// A task that has ended, and where it came from if that is known.
#[derive(Debug)]
pub(super) struct Finished {
    pub(super) outcome: OutcomeRecord,
    pub(super) origin: Option<Arc<Origin>>,
}

/// Gives every outcome its time, and publishes outcomes in the order of these times once they are durable.
///
/// So a time is a cursor: whoever has seen the outcome with a time has seen all outcomes before it.
#[derive(Debug, Default)]
pub(super) struct Publisher {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    last_stamp: u64,
    published: u64,
    slots: VecDeque<Slot>,
    next_ticket: u64,
    next_subscriber: u64,
    groups: HashMap<TaskGroupId, Vec<Subscriber>>,
    waiters: IdMap<TaskId, Vec<(u64, oneshot::Sender<OutcomeRecord>)>>,
}

/// Outcomes that are being committed.
#[derive(Debug)]
struct Slot {
    ticket: u64,
    through: u64,
    finished: Option<Vec<Finished>>,
}

#[derive(Debug)]
struct Subscriber {
    id: u64,
    lagged: Arc<AtomicBool>,
    /// Bytes of the outcomes that wait as they are.
    waiting: Arc<AtomicUsize>,
    most_bytes: usize,
    outcomes: mpsc::Sender<Told>,
}

/// An outcome for a subscriber.
#[derive(Debug)]
pub(super) enum Told {
    Record(Arc<TaskRecord>),
    /// It is in the store: too much waits already.
    Id(TaskId),
}

impl Told {
    pub(super) fn id(&self) -> TaskId {
        match self {
            Self::Record(record) => record.id,
            Self::Id(id) => *id,
        }
    }
}

/// The place of some outcomes in the order of publication. It must be given back with [`Publisher::publish`].
#[derive(Debug)]
#[must_use = "outcomes after this place are held back until it is published"]
pub(super) struct Ticket(u64);

impl Publisher {
    /// A publisher that starts at `now`: what is in the store already has earlier times. (If the clock was set back while
    /// no service ran, followers who resume do not find what ended in between; tasks asked for by id are found.)
    pub(super) fn starting(now: Timestamp) -> Self {
        let state = State { last_stamp: now.as_nanos(), published: now.as_nanos(), ..State::default() };
        Self { state: Mutex::new(state) }
    }

    /// Gives outcomes their times: about `now`, each later than all before.
    pub(super) fn stamp(&self, outcomes: Vec<Outcome>, now: Timestamp) -> (Ticket, Vec<OutcomeRecord>) {
        let mut state = self.state.lock();
        let first = now.as_nanos().max(state.last_stamp + 1);
        let records: Vec<_> = (first..)
            .zip(outcomes)
            .map(|(nanos, outcome)| OutcomeRecord { outcome, completed: Timestamp::from_nanos(nanos) })
            .collect();
        let through = first + records.len() as u64 - 1;
        state.last_stamp = through;
        let ticket = state.next_ticket;
        state.next_ticket += 1;
        state.slots.push_back(Slot { ticket, through, finished: None });
        (Ticket(ticket), records)
    }

    /// The outcomes of this ticket are durable (or, if there are none now, will never be).
    pub(super) fn publish(&self, ticket: Ticket, finished: Vec<Finished>) {
        let mut state = self.state.lock();
        let first = state.slots.front().map_or(0, |slot| slot.ticket);
        if let Some(slot) = state.slots.get_mut((ticket.0 - first) as usize) {
            slot.finished = Some(finished);
        }
        while let Some(slot) = state.slots.pop_front_if(|slot| slot.finished.is_some()) {
            state.published = slot.through;
            slot.finished.into_iter().flatten().for_each(|finished| state.tell(finished));
        }
    }

    /// Whether anybody follows a group, so that it matters which group a task is in.
    pub(super) fn is_followed(&self) -> bool {
        !self.state.lock().groups.is_empty()
    }

    /// How many follow a group.
    pub(super) fn followers(&self) -> usize {
        self.state.lock().groups.values().map(Vec::len).sum()
    }

    /// Waits for the outcome of one task.
    pub(super) fn wait(self: &Arc<Self>, task: TaskId) -> Waiter {
        let (sender, outcome) = oneshot::channel();
        let mut state = self.state.lock();
        let id = state.next_id();
        state.waiters.entry(task).or_default().push((id, sender));
        Waiter { publisher: Arc::clone(self), task, id, outcome }
    }

    /// Follows the outcomes of a group from now on.
    pub(super) fn subscribe(self: &Arc<Self>, group: TaskGroupId, room: Room) -> Subscription {
        let (sender, outcomes) = mpsc::channel(room.outcomes.max(1));
        let (lagged, waiting) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let mut state = self.state.lock();
        let id = state.next_id();
        let subscriber = Subscriber {
            id,
            lagged: Arc::clone(&lagged),
            waiting: Arc::clone(&waiting),
            most_bytes: room.bytes,
            outcomes: sender,
        };
        state.groups.entry(group).or_default().push(subscriber);
        let from = state.published;
        Subscription { publisher: Arc::clone(self), group, id, from, lagged, waiting, outcomes }
    }
}

impl State {
    fn next_id(&mut self) -> u64 {
        self.next_subscriber += 1;
        self.next_subscriber
    }

    fn tell(&mut self, finished: Finished) {
        let Finished { outcome, origin } = finished;
        for (_, waiter) in self.waiters.remove(&outcome.outcome.task).into_iter().flatten() {
            // One who has stopped waiting is not told.
            let _ = waiter.send(outcome.clone());
        }
        if self.groups.is_empty() {
            return;
        }
        let Some(origin) = origin else {
            // It may belong to any of the groups: all of them have to look for themselves.
            self.groups.drain().for_each(|(_, subscribers)| subscribers.iter().for_each(Subscriber::lag));
            return;
        };
        let Some(subscribers) = self.groups.get_mut(&origin.group) else { return };
        let record = Arc::new(TaskRecord {
            id: outcome.outcome.task,
            endpoint: origin.endpoint,
            group: origin.group,
            function: origin.function,
            spec: Arc::clone(&origin.spec),
            accepted: origin.accepted,
            sequence: 0,
            payload: bytes::Bytes::new(),
            attempt: outcome.outcome.attempt,
            outcome: Some(outcome),
        });
        subscribers.retain(|subscriber| {
            let taken = subscriber.take(&record);
            if !taken {
                subscriber.lag();
            }
            taken
        });
        if subscribers.is_empty() {
            self.groups.remove(&origin.group);
        }
    }
}

impl Subscriber {
    /// Puts a record, or its id, with those that wait, if there is room for it.
    fn take(&self, record: &Arc<TaskRecord>) -> bool {
        let bytes = record_bytes(record);
        // Only the subscriber makes the count smaller, so there is room enough.
        let told = match self.waiting.load(Ordering::Acquire) + bytes <= self.most_bytes {
            true => {
                // Counted first: the subscriber may take it at once.
                self.waiting.fetch_add(bytes, Ordering::AcqRel);
                Told::Record(Arc::clone(record))
            }
            false => Told::Id(record.id),
        };
        self.outcomes.try_send(told).is_ok()
    }

    fn lag(&self) {
        self.lagged.store(true, Ordering::Release);
    }
}

fn record_bytes(record: &TaskRecord) -> usize {
    size_of::<TaskRecord>() + record.outcome.as_ref().map_or(0, |finished| finished.outcome.payload_bytes())
}

/// Somebody who waits for one task.
#[derive(Debug)]
pub(super) struct Waiter {
    publisher: Arc<Publisher>,
    task: TaskId,
    id: u64,
    outcome: oneshot::Receiver<OutcomeRecord>,
}

impl Waiter {
    /// The outcome, or nothing if the service stops.
    pub(super) async fn outcome(&mut self) -> Option<OutcomeRecord> {
        (&mut self.outcome).await.ok()
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        let mut state = self.publisher.state.lock();
        if let Some(waiters) = state.waiters.get_mut(&self.task) {
            waiters.retain(|(id, _)| *id != self.id);
            if waiters.is_empty() {
                state.waiters.remove(&self.task);
            }
        }
    }
}

/// Somebody who follows a group.
#[derive(Debug)]
pub(super) struct Subscription {
    publisher: Arc<Publisher>,
    group: TaskGroupId,
    id: u64,
    /// Outcomes with times up to this one are in the store; later ones come through here.
    pub(super) from: u64,
    lagged: Arc<AtomicBool>,
    waiting: Arc<AtomicUsize>,
    outcomes: mpsc::Receiver<Told>,
}

impl Subscription {
    /// The next outcome; `None` once some could not be kept for this subscriber.
    pub(super) async fn next(&mut self) -> Option<Told> {
        let next = self.outcomes.recv().await;
        debug_assert!(
            next.is_some() || self.lagged.load(Ordering::Acquire),
            "only lagging ends a subscription"
        );
        if let Some(told) = &next {
            self.took(told);
        }
        next
    }

    /// The next outcome, if one waits.
    pub(super) fn next_waiting(&mut self) -> Option<Told> {
        let next = self.outcomes.try_recv().ok();
        if let Some(told) = &next {
            self.took(told);
        }
        next
    }

    fn took(&self, told: &Told) {
        if let Told::Record(record) = told {
            self.waiting.fetch_sub(record_bytes(record), Ordering::AcqRel);
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut state = self.publisher.state.lock();
        if let Some(subscribers) = state.groups.get_mut(&self.group) {
            subscribers.retain(|subscriber| subscriber.id != self.id);
            if subscribers.is_empty() {
                state.groups.remove(&self.group);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use funcx_core::model::{Function, IdentityId, Task};
    use futures::FutureExt;

    const GROUP: TaskGroupId = TaskGroupId::from_u128(1);
    const ROOM: Room = Room { outcomes: 10, bytes: 1 << 20 };

    fn origin() -> Arc<Origin> {
        let spec = Arc::new(TaskSpec::new(Arc::new(Function::native("f")), IdentityId::from_u128(1)));
        let (endpoint, function) = (EndpointId::from_u128(1), FunctionId::from_u128(1));
        Arc::new(Origin { endpoint, group: GROUP, function, spec, accepted: Timestamp::UNSET })
    }

    fn outcome(task: u128) -> Outcome {
        Outcome::returned(&Task::new(TaskId::from_u128(task), Arc::clone(&origin().spec), ""), "")
    }

    fn finished(records: Vec<OutcomeRecord>) -> Vec<Finished> {
        records.into_iter().map(|outcome| Finished { outcome, origin: Some(origin()) }).collect()
    }

    fn told(subscription: &mut Subscription) -> Vec<u128> {
        let next = || subscription.next().now_or_never().flatten();
        std::iter::from_fn(next).map(|told| told.id().as_u128()).collect()
    }

    #[test]
    fn times_grow_even_if_the_clock_does_not() {
        let publisher = Arc::new(Publisher::default());
        let now = Timestamp::from_nanos(100);
        let (first, records) = publisher.stamp(vec![outcome(1), outcome(2)], now);
        let (second, later) = publisher.stamp(vec![outcome(3)], Timestamp::from_nanos(50));
        let times: Vec<u64> =
            records.iter().chain(&later).map(|record| record.completed.as_nanos()).collect();
        assert_eq!(times, [100, 101, 102]);
        publisher.publish(first, Vec::new());
        publisher.publish(second, Vec::new());
        assert_eq!(publisher.subscribe(GROUP, ROOM).from, 102);
    }

    #[test]
    fn what_an_earlier_service_has_stored_is_looked_for_in_the_store() {
        let publisher = Arc::new(Publisher::starting(Timestamp::from_nanos(100)));
        assert_eq!(publisher.subscribe(GROUP, ROOM).from, 100);
        let (ticket, records) = publisher.stamp(vec![outcome(1)], Timestamp::from_nanos(100));
        assert!(records[0].completed.as_nanos() > 100);
        publisher.publish(ticket, Vec::new());
    }

    #[test]
    fn outcomes_are_told_in_the_order_of_their_times_whichever_is_durable_first() {
        let publisher = Arc::new(Publisher::default());
        let mut subscription = publisher.subscribe(GROUP, ROOM);
        let now = Timestamp::from_nanos(100);
        let (first, one) = publisher.stamp(vec![outcome(1)], now);
        let (second, two) = publisher.stamp(vec![outcome(2)], now);
        let (third, three) = publisher.stamp(vec![outcome(3)], now);
        publisher.publish(third, finished(three));
        assert_eq!(told(&mut subscription), []);
        assert_eq!(publisher.subscribe(GROUP, ROOM).from, 0);
        publisher.publish(first, finished(one));
        assert_eq!(told(&mut subscription), [1]);
        // What was never stored leaves no gap.
        drop(two);
        publisher.publish(second, Vec::new());
        assert_eq!(told(&mut subscription), [3]);
    }

    #[test]
    fn an_outcome_of_unknown_origin_makes_every_follower_look() {
        let publisher = Arc::new(Publisher::default());
        let mut subscription = publisher.subscribe(GROUP, ROOM);
        let (ticket, mut records) = publisher.stamp(vec![outcome(1)], Timestamp::from_nanos(1));
        publisher.publish(ticket, vec![Finished { outcome: records.remove(0), origin: None }]);
        assert!(subscription.next().now_or_never().expect("it has ended").is_none());
        assert!(!publisher.is_followed());
    }

    #[test]
    fn of_outcomes_that_are_too_many_bytes_only_the_ids_wait() {
        let publisher = Arc::new(Publisher::default());
        let mut subscription = publisher.subscribe(GROUP, ROOM);
        let large = bytes::Bytes::from(vec![0; ROOM.bytes / 2]);
        let publish = |task: u128| {
            let sized = Outcome { payload: large.clone(), ..outcome(task) };
            let (ticket, records) = publisher.stamp(vec![sized], Timestamp::from_nanos(1));
            publisher.publish(ticket, finished(records));
        };
        let mut is_whole = || matches!(subscription.next().now_or_never().flatten(), Some(Told::Record(_)));
        (1..=3).for_each(publish);
        assert_eq!([(); 3].map(|()| is_whole()), [true, false, false]);
        // Once they are taken there is room again.
        publish(4);
        assert!(is_whole());
    }

    #[test]
    fn who_is_too_far_behind_has_to_search() {
        let publisher = Arc::new(Publisher::default());
        let mut subscription = publisher.subscribe(GROUP, ROOM);
        let outcomes = vec![outcome(1); ROOM.outcomes + 1];
        let (ticket, records) = publisher.stamp(outcomes, Timestamp::from_nanos(1));
        publisher.publish(ticket, finished(records));
        assert_eq!(told(&mut subscription).len(), ROOM.outcomes);
        assert!(subscription.next().now_or_never().expect("it has ended").is_none());
        assert!(!publisher.is_followed());
    }

    #[test]
    fn nobody_is_kept_who_stopped_waiting() {
        let publisher = Arc::new(Publisher::default());
        drop((
            publisher.subscribe(GROUP, ROOM),
            publisher.wait(TaskId::from_u128(1)),
            publisher.wait(TaskId::from_u128(1)),
        ));
        let state = publisher.state.lock();
        assert!(state.groups.is_empty() && state.waiters.is_empty());
    }
}
