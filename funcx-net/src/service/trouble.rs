//! Saying that the store does not work, without filling the log.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// Between two lines of the log while it lasts.
const SAY_EVERY: Duration = Duration::from_secs(10);

/// What is said about a store that takes no writes: when that begins, now and then while it lasts, and when it is over. Under
/// load hundreds of commits fail in a second, each tried again by whoever needs it.
#[derive(Debug, Default)]
pub(super) struct Trouble(Mutex<Option<Failing>>);

#[derive(Debug)]
struct Failing {
    since: Instant,
    said: Instant,
    failures: u64,
}

impl Trouble {
    /// A commit has failed. Returns how many have since it was last said, if it is time to say it.
    pub(super) fn failed(&self) -> Option<u64> {
        let now = Instant::now();
        let mut state = self.0.lock();
        let Some(failing) = state.as_mut() else {
            *state = Some(Failing { since: now, said: now, failures: 0 });
            return Some(1);
        };
        failing.failures += 1;
        (now - failing.said >= SAY_EVERY).then(|| {
            failing.said = now;
            std::mem::take(&mut failing.failures)
        })
    }

    /// A commit is done. Returns how long none was, if that has just ended.
    pub(super) fn worked(&self) -> Option<Duration> {
        self.0.lock().take().map(|failing| failing.since.elapsed())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_is_said_at_the_beginning_now_and_then_and_at_the_end() {
        let trouble = Trouble::default();
        assert_eq!(trouble.worked(), None);
        let said: Vec<_> = [trouble.failed(), trouble.failed(), trouble.failed()].into();
        assert_eq!(said, [Some(1), None, None]);
        tokio::time::advance(SAY_EVERY).await;
        assert_eq!((trouble.failed(), trouble.failed()), (Some(3), None));
        assert_eq!((trouble.worked(), trouble.worked()), (Some(SAY_EVERY), None));
        assert_eq!(trouble.failed(), Some(1));
    }
}
