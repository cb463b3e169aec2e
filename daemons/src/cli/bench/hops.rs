//! How long tasks took from hop to hop.

use std::time::Duration;

use funcx_core::model::{Hop, Timestamp};
use funcx_net::client::TaskView;

/// The hops of a call in the order in which it passes them, with the name of the way to each.
const WAYS: [&str; 10] = [
    "client → service",
    "service",
    "service → endpoint",
    "endpoint → manager",
    "manager → worker",
    "execution",
    "worker → manager",
    "manager → endpoint",
    "endpoint → service",
    "service → client",
];

/// The times of many calls.
#[derive(Debug, Default)]
pub(super) struct Times {
    ways: [Vec<Duration>; WAYS.len()],
    total: Vec<Duration>,
}

/// Times of one way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) way: &'static str,
    pub(super) calls: usize,
    pub(super) p50: Duration,
    pub(super) p99: Duration,
    pub(super) max: Duration,
}

impl Times {
    /// Adds a call that left the client at `sent` and whose outcome came at `received`, `total` later.
    ///
    /// A way whose two ends were not both stamped is left out.
    pub(super) fn add(&mut self, sent: Timestamp, task: &TaskView, received: Timestamp, total: Duration) {
        let completed = task.completed.map_or(0, |seconds| (seconds * 1e9) as u64);
        let stamped = Hop::ALL.map(|hop| task.stamps.get(hop.as_str()).copied().unwrap_or_default());
        let stamps = [[sent.as_nanos()].as_slice(), &stamped, &[completed, received.as_nanos()]].concat();
        for (way, ends) in self.ways.iter_mut().zip(stamps.windows(2)) {
            if let &[from, to] = ends
                && from > 0
                && to > 0
            {
                way.push(Duration::from_nanos(to.saturating_sub(from)));
            }
        }
        self.total.push(total);
    }

    /// One row for each way, then the whole.
    pub(super) fn rows(self) -> Vec<Row> {
        let ways = WAYS.into_iter().zip(self.ways).chain([("total", self.total)]);
        ways.filter_map(|(way, times)| row(way, times)).collect()
    }
}

fn row(way: &'static str, mut times: Vec<Duration>) -> Option<Row> {
    times.sort_unstable();
    let max = *times.last()?;
    Some(Row { way, calls: times.len(), p50: percentile(&times, 50), p99: percentile(&times, 99), max })
}

/// The smallest time that so many percent of the sorted `times` do not exceed.
fn percentile(times: &[Duration], percent: usize) -> Duration {
    let rank = (times.len() * percent).div_ceil(100).max(1);
    times.get(rank - 1).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(stamps: serde_json::Value) -> TaskView {
        let id = uuid::Uuid::from_u128(1);
        serde_json::from_value(serde_json::json!({
            "task_id": id, "task_group_id": id, "endpoint_id": id, "function_id": id,
            "status": "finished", "accepted": 0.0, "completed": 0.000_000_9, "stamps": stamps,
        }))
        .unwrap()
    }

    #[test]
    fn percentiles_are_times_that_were_measured() {
        let times: Vec<_> = (1..=200).map(Duration::from_millis).collect();
        assert_eq!(percentile(&times, 50), Duration::from_millis(100));
        assert_eq!(percentile(&times, 99), Duration::from_millis(198));
        assert_eq!(percentile(&times[..1], 99), Duration::from_millis(1));
    }

    #[test]
    fn each_way_has_its_time_and_what_was_not_stamped_is_left_out() {
        let mut times = Times::default();
        let stamps = serde_json::json!({
            "accepted": 110, "service-sent": 130, "endpoint-sent": 160, "manager-sent": 200,
            "started": 250, "ended": 310, "endpoint-returned": 800,
        });
        let (sent, received) = (Timestamp::from_nanos(100), Timestamp::from_nanos(1000));
        times.add(sent, &task(stamps), received, Duration::from_nanos(905));
        let rows: Vec<_> = times.rows().into_iter().map(|row| (row.way, row.p50.as_nanos())).collect();
        assert_eq!(
            rows,
            [
                ("client → service", 10),
                ("service", 20),
                ("service → endpoint", 30),
                ("endpoint → manager", 40),
                ("manager → worker", 50),
                ("execution", 60),
                ("endpoint → service", 100),
                ("service → client", 100),
                ("total", 905),
            ]
        );
    }
}
