//! How long the tasks of a type pause, and from that how long its workers are worth keeping.

use std::time::Duration;

use super::warm_slots::KeepAlive;
use crate::model::Tick;

/// Bins of pauses: the first one up to a millisecond, each one twice as long as the one before, the last one up to four
/// and a half hours.
const BINS: usize = 25;

/// Pauses that are remembered; then old ones fade, so that what is learned follows what people do.
const MOST_PAUSES: u32 = 1024;

/// Pauses from which something can be learned.
const FEW_PAUSES: u32 = 8;

/// What is kept if nothing was learned, or pauses are longer than all bins.
const UNKNOWN: Duration = Duration::from_secs(600);

/// Shortest time that is learned. A type whose tasks follow one another is not given up over a short breath.
const SHORTEST: Duration = Duration::from_secs(10);

/// The pauses of a type of tasks: from the end of its last task to the next arrival.
///
/// A histogram of fixed size, as in the keep-alive policy of Shahrad and others for Azure Functions (ATC 2020): it is
/// small, forgets slowly, and does not mind what the distribution looks like.
#[derive(Debug, Default)]
pub(super) struct Arrivals {
    idle_since: Option<Tick>,
    bins: [u32; BINS],
    beyond: u32,
    total: u32,
}

impl Arrivals {
    /// There were so many tasks, and now there are so many.
    pub(super) fn handle_tasks(&mut self, before: u32, after: u32, now: Tick) {
        if after == 0 {
            self.idle_since = Some(now);
        } else if before == 0
            && let Some(since) = self.idle_since.take()
        {
            self.record(now.since(since));
        }
    }

    fn record(&mut self, pause: Duration) {
        let bin = (0..BINS).find(|bin| pause <= longest(*bin));
        *bin.map_or(&mut self.beyond, |bin| &mut self.bins[bin]) += 1;
        self.total += 1;
        if self.total >= MOST_PAUSES {
            self.bins.iter_mut().chain([&mut self.beyond]).for_each(|count| *count /= 2);
            self.total = self.bins.iter().sum::<u32>() + self.beyond;
        }
    }

    /// How long workers without tasks are kept.
    pub(super) fn keep_alive(&self, setting: KeepAlive) -> Duration {
        match setting {
            KeepAlive::Fixed(fixed) => fixed,
            KeepAlive::Learned => self.learned().unwrap_or(UNKNOWN),
        }
    }

    /// The bin below which 99 of 100 pauses lie.
    fn learned(&self) -> Option<Duration> {
        if self.total < FEW_PAUSES {
            return None;
        }
        let mut longer = self.total;
        let bin = self.bins.iter().position(|count| {
            longer -= count;
            longer <= self.total / 100
        })?;
        Some(longest(bin).max(SHORTEST))
    }
}

const fn longest(bin: usize) -> Duration {
    Duration::from_millis(1 << bin)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn learned(pauses: impl IntoIterator<Item = u64>) -> Duration {
        let (mut arrivals, mut now) = (Arrivals::default(), Tick::ZERO);
        for millis in pauses {
            arrivals.handle_tasks(1, 0, now);
            now = now + Duration::from_millis(millis);
            arrivals.handle_tasks(0, 1, now);
        }
        arrivals.keep_alive(KeepAlive::Learned)
    }

    #[test]
    fn workers_are_kept_for_as_long_as_nearly_all_pauses_are() {
        let seconds = Duration::from_secs;
        assert_eq!(learned([1; 7]), UNKNOWN, "too few to learn from");
        assert_eq!(learned([1; 100]), SHORTEST);
        assert_eq!(learned([60_000; 100]), Duration::from_millis(65_536));
        // One long night in a hundred days does not count; two in a hundred do.
        let nights = |nights: usize| (0..200).map(move |day| if day < nights { 3_600_000 } else { 60_000 });
        assert_eq!(learned(nights(2)), Duration::from_millis(65_536));
        assert!(learned(nights(3)) > seconds(3600));
        assert_eq!(learned([u64::from(u32::MAX); 50]), UNKNOWN, "no bin is as long as that");
    }

    #[test]
    fn what_has_changed_is_learned_anew() {
        let slow = || std::iter::repeat_n(3_600_000, 2000);
        assert!(learned(slow()) > Duration::from_secs(3600));
        assert_eq!(learned(slow().chain(std::iter::repeat_n(1, 10_000))), SHORTEST);
    }

    #[test]
    fn a_fixed_time_is_what_it_says() {
        let fixed = Duration::from_millis(3);
        assert_eq!(Arrivals::default().keep_alive(KeepAlive::Fixed(fixed)), fixed);
    }
}
