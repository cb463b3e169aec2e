//! Requests that clients send again because no answer reached them.
//!
//! The Globus Compute SDK repeats a submission up to five times when the connection breaks or the answer does not come
//! in time, and gives no key by which a repeat could be told from a new request with the same content, which is just as
//! legitimate. What tells them apart is whether the client of the first still waits: a client repeats only what it has
//! given up. So the answer to a request is shared
//!
//! - with one equal request that comes after the client of the first went away without its answer, for as long as
//!   the configuration says;
//! - with an equal request that comes when the first has been under way for [`HALF_OPEN`]: a client whose connection
//!   broke without a trace here gives up after a while, and few are left that still wait.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use funcx_core::model::{EndpointId, IdentityId};
use futures::FutureExt;
use futures::future::Shared;
use parking_lot::Mutex;
use tokio::{sync::oneshot, time::Instant};

use super::unstoppable::Unstoppable;

/// When a request has been under way for so long, its client may have given it up unnoticed. Clients, the SDK among
/// them, wait for an answer for a minute.
const HALF_OPEN: Duration = Duration::from_secs(45);
/// Requests that are remembered.
const REMEMBERED: usize = 1024;

/// What makes two requests equal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RequestKey {
    /// Who asks.
    pub identity: IdentityId,
    /// What for.
    pub endpoint: EndpointId,
    /// A hash of the body that nobody can foresee.
    pub body: u128,
}

/// Answers that somebody may ask for again.
#[derive(Debug)]
pub(super) struct Repeats<T: Clone> {
    keep: Duration,
    /// Whether an answer is worth keeping.
    worth: fn(&T) -> bool,
    state: Mutex<State<T>>,
}

#[derive(Debug)]
struct State<T: Clone> {
    /// Equal requests may be under way at the same time.
    entries: HashMap<RequestKey, Vec<Entry<T>>>,
    count: usize,
    /// Entries whose client went away, in the order in which they expire.
    forsaken: VecDeque<(Instant, RequestKey, u64)>,
    next_entry: u64,
}

#[derive(Debug)]
struct Entry<T: Clone> {
    number: u64,
    began: Instant,
    forsaken: bool,
    answer: Shared<oneshot::Receiver<T>>,
}

/// Says, when it is dropped, whether the answer was given to the client.
#[derive(Debug)]
pub struct Delivery<T: Clone> {
    repeats: Arc<Repeats<T>>,
    key: RequestKey,
    /// The entry that the answer belongs to; none if it is not remembered.
    entry: Option<u64>,
    delivered: bool,
}

impl<T: Clone + Send + Sync + 'static> Repeats<T> {
    pub(super) fn new(keep: Duration, worth: fn(&T) -> bool) -> Arc<Self> {
        let state = State { entries: HashMap::new(), count: 0, forsaken: VecDeque::new(), next_entry: 0 };
        Arc::new(Self { keep, worth, state: Mutex::new(state) })
    }

    /// Does `work`, or gives the answer to the equal request that this one repeats.
    ///
    /// **Cancellation.** Work that has begun goes on to its end when the future is dropped, and its answer is kept.
    pub(super) async fn once(
        self: &Arc<Self>,
        key: RequestKey,
        work: impl Future<Output = T> + Send + 'static,
    ) -> (T, Delivery<T>) {
        let (number, shared) = self.find(key);
        let mut delivery = Delivery { repeats: Arc::clone(self), key, entry: number, delivered: false };
        if let (Some(number), Some(shared)) = (number, shared) {
            match shared.await {
                Ok(answer) => return (answer, delivery),
                // The work broke off.
                Err(_) => self.state.lock().remove(key, number),
            }
        }
        let (sender, answer) = oneshot::channel();
        delivery.entry = self.begin(key, answer.shared());
        let (repeats, number) = (Arc::clone(self), delivery.entry);
        let answer = Unstoppable::new(async move {
            let answer = work.await;
            if let (false, Some(number)) = ((repeats.worth)(&answer), number) {
                repeats.state.lock().remove(key, number);
            }
            // Nobody else may want it.
            let _ = sender.send(answer.clone());
            answer
        })
        .await;
        (answer, delivery)
    }

    fn find(&self, key: RequestKey) -> (Option<u64>, Option<Shared<oneshot::Receiver<T>>>) {
        let mut state = self.state.lock();
        state.expire();
        let mut entries = state.entries.get_mut(&key).into_iter().flatten();
        match entries.find(|entry| entry.forsaken || entry.began.elapsed() >= HALF_OPEN) {
            Some(entry) => {
                // From now on it is this client that waits for the answer.
                entry.forsaken = false;
                (Some(entry.number), Some(entry.answer.clone()))
            }
            None => (None, None),
        }
    }

    fn begin(&self, key: RequestKey, answer: Shared<oneshot::Receiver<T>>) -> Option<u64> {
        let mut state = self.state.lock();
        if state.count >= REMEMBERED {
            let (_, oldest, number) = state.forsaken.pop_front()?;
            state.remove(oldest, number);
        }
        let number = state.next_entry;
        state.next_entry += 1;
        state.count += 1;
        let entry = Entry { number, began: Instant::now(), forsaken: false, answer };
        state.entries.entry(key).or_default().push(entry);
        Some(number)
    }
}

impl<T: Clone> State<T> {
    fn expire(&mut self) {
        let now = Instant::now();
        while let Some((_, key, number)) = self.forsaken.pop_front_if(|(expiry, ..)| *expiry <= now) {
            if self.entry(key, number).is_some_and(|entry| entry.forsaken) {
                self.remove(key, number);
            }
        }
    }

    fn entry(&mut self, key: RequestKey, number: u64) -> Option<&mut Entry<T>> {
        self.entries.get_mut(&key)?.iter_mut().find(|entry| entry.number == number)
    }

    fn remove(&mut self, key: RequestKey, number: u64) {
        let Some(entries) = self.entries.get_mut(&key) else { return };
        let before = entries.len();
        entries.retain(|entry| entry.number != number);
        self.count -= before - entries.len();
        if entries.is_empty() {
            self.entries.remove(&key);
        }
    }
}

impl<T: Clone> Delivery<T> {
    /// The whole answer has been handed to the client's connection; the next equal request is a new one.
    pub fn delivered(mut self) {
        self.delivered = true;
    }
}

impl<T: Clone> Drop for Delivery<T> {
    fn drop(&mut self) {
        let Some(number) = self.entry else { return };
        let mut state = self.repeats.state.lock();
        if self.delivered {
            state.remove(self.key, number);
        } else if let Some(entry) = state.entry(self.key, number) {
            entry.forsaken = true;
            let expiry = Instant::now() + self.repeats.keep;
            state.forsaken.push_back((expiry, self.key, number));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;
    use std::sync::atomic::{AtomicU32, Ordering};
    use tokio::time::advance;

    const KEY: RequestKey =
        RequestKey { identity: IdentityId::from_u128(1), endpoint: EndpointId::from_u128(2), body: 3 };
    const KEEP: Duration = Duration::from_secs(120);
    /// An answer that is not worth keeping.
    const BAD: u32 = 40;

    /// Each piece of work counts itself and gives its number, once it is let go.
    struct Work {
        repeats: Arc<Repeats<u32>>,
        count: Arc<AtomicU32>,
    }

    impl Work {
        fn new() -> Self {
            Self { repeats: Repeats::new(KEEP, |number| *number != BAD), count: Arc::default() }
        }

        async fn once(&self, go: Option<oneshot::Receiver<()>>) -> (u32, Delivery<u32>) {
            let count = Arc::clone(&self.count);
            let work = async move {
                let number = count.fetch_add(1, Ordering::SeqCst);
                if let Some(go) = go {
                    go.await.unwrap();
                }
                number
            };
            self.repeats.once(KEY, work).await
        }
    }

    #[tokio::test(start_paused = true)]
    async fn equal_requests_that_were_answered_are_new_ones() {
        let work = Work::new();
        for expected in 0..3 {
            let (number, delivery) = work.once(None).await;
            assert_eq!(number, expected);
            delivery.delivered();
        }
        assert!(work.repeats.state.lock().entries.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_repeat_gets_the_answer_of_the_request_whose_client_went_away() {
        let work = Work::new();
        let (go, gone) = oneshot::channel();
        let mut first = Box::pin(work.once(Some(gone)));
        assert!((&mut first).now_or_never().is_none());
        drop(first);
        go.send(()).unwrap();
        let (number, delivery) = work.once(None).await;
        assert_eq!(number, 0);
        drop(delivery); // The repeat was lost as well.
        advance(KEEP / 2).await;
        let (number, delivery) = work.once(None).await;
        assert_eq!(number, 0);
        delivery.delivered();
        let (number, _) = work.once(None).await;
        assert_eq!(number, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_nobody_asks_for_is_forgotten() {
        let work = Work::new();
        drop(work.once(None).await);
        advance(KEEP + Duration::from_secs(1)).await;
        assert_eq!(work.once(None).await.0, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn equal_requests_at_the_same_time_are_two_and_one_after_a_minute_is_a_repeat() {
        let work = Work::new();
        let (go, gone) = oneshot::channel();
        let mut first = Box::pin(work.once(Some(gone)));
        assert!((&mut first).now_or_never().is_none());
        advance(HALF_OPEN - Duration::from_millis(1)).await;
        let (other, delivery) = work.once(None).await;
        assert_eq!(other, 1);
        delivery.delivered();
        advance(Duration::from_millis(1)).await;
        let mut late = Box::pin(work.once(None));
        assert!((&mut late).now_or_never().is_none());
        go.send(()).unwrap();
        let ((first, delivered), (late, also)) = (first.await, late.await);
        assert_eq!((first, late), (0, 0));
        delivered.delivered();
        also.delivered();

        let (_go, gone) = oneshot::channel();
        let mut slow = Box::pin(work.once(Some(gone)));
        assert!((&mut slow).now_or_never().is_none());
        let (at_once, _) = work.once(None).await;
        assert_eq!(at_once, 3);
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_is_not_given_to_a_repeat() {
        let work = Work::new();
        work.count.store(BAD, Ordering::SeqCst);
        drop(work.once(None).await);
        assert_eq!(work.once(None).await.0, BAD + 1);
    }
}
