//! How often and after which time a request is made again.

use std::time::Duration;

use funcx_core::model::Retry;
use funcx_core::{Error, Result};

/// Longest `Retry-After` that is waited for. A service that asks for more gets its answer back as an error, so that the
/// caller decides.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(60);

/// Bounds on repeated attempts at one request.
///
/// The pause doubles from `first_pause` to `max_pause`; half of each pause is random, so that many clients that were
/// turned away together do not come back together. `Retry-After` of the service is waited for in full, up to a minute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Attempts in all; 1 means that nothing is repeated.
    pub max_attempts: u32,
    /// About how long the first pause is.
    pub first_pause: Duration,
    /// The longest pause that the service did not ask for.
    pub max_pause: Duration,
}

impl Default for RetryPolicy {
    /// Eight attempts over some twenty seconds: a restart of the service goes unnoticed, an outage does not.
    fn default() -> Self {
        Self { max_attempts: 8, first_pause: Duration::from_millis(100), max_pause: Duration::from_secs(10) }
    }
}

impl RetryPolicy {
    /// What to do after `attempts` failed attempts, the last of them with `error`: how long to wait before the next
    /// one, or the error to give up with.
    ///
    /// # Errors
    /// `error` itself if a retry cannot help or the service asks for a longer pause than a minute; with
    /// [`Retry::GaveUp`] if there were enough attempts.
    pub(super) fn after(&self, attempts: u32, error: Error) -> Result<Duration> {
        let Retry::After(asked) = error.retry() else { return Err(error) };
        if asked.is_some_and(|asked| asked > MAX_RETRY_AFTER) {
            return Err(error);
        }
        if attempts >= self.max_attempts {
            return Err(error.with_retry(Retry::GaveUp(attempts)));
        }
        Ok(asked.unwrap_or_default().max(self.pause(attempts)))
    }

    fn pause(&self, attempts: u32) -> Duration {
        let doubled = self.first_pause.saturating_mul(1 << attempts.saturating_sub(1).min(16));
        let longest = doubled.min(self.max_pause);
        // Without random bits the pauses are merely less well spread.
        let share = getrandom::u32().unwrap_or(u32::MAX / 2);
        longest / 2 + (longest / 2).mul_f64(f64::from(share) / f64::from(u32::MAX))
    }
}

#[cfg(test)]
mod tests {
    use funcx_core::ErrorKind;

    use super::*;

    const POLICY: RetryPolicy = RetryPolicy {
        max_attempts: 4,
        first_pause: Duration::from_millis(100),
        max_pause: Duration::from_millis(250),
    };

    fn busy(asked: Option<Duration>) -> Error {
        Error::new(ErrorKind::Unavailable, "submit", "busy").with_retry(Retry::After(asked))
    }

    #[test]
    fn pauses_double_up_to_the_longest_and_then_end() {
        for (attempts, longest) in [(1, 100), (2, 200), (3, 250)] {
            let pause = POLICY.after(attempts, busy(None)).unwrap();
            let longest = Duration::from_millis(longest);
            assert!(pause >= longest / 2 && pause <= longest, "attempt {attempts}: {pause:?}");
        }
        assert_eq!(POLICY.after(4, busy(None)).unwrap_err().retry(), Retry::GaveUp(4));
    }

    #[test]
    fn what_the_service_asks_for_is_kept_up_to_a_minute() {
        let asked = Duration::from_secs(7);
        assert_eq!(POLICY.after(1, busy(Some(asked))).unwrap(), asked);
        let hour = Some(Duration::from_secs(3600));
        assert_eq!(POLICY.after(1, busy(hour)).unwrap_err().retry(), Retry::After(hour));
    }

    #[test]
    fn what_will_fail_again_is_not_repeated() {
        let error = Error::new(ErrorKind::NotFound, "submit", "no such endpoint");
        assert_eq!(POLICY.after(1, error).unwrap_err().retry(), Retry::Never);
    }
}
