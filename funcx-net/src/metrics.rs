//! Figures about a node as text for Prometheus.
//!
//! Nothing here is kept: whoever serves `/metrics` reads the figures when it is asked, and makes the text of them. What has
//! to be counted as it happens (requests, commits) is counted by those who do it.

use funcx_core::contract::PlacementPolicy;
use funcx_core::model::OutcomeKind;
use funcx_core::state::{Counters, LaneId, LinkCounters, Node, WarmCounters};
use funcx_core::{Error, ErrorKind, Result};
use prometheus::core::Collector;
use prometheus::{IntCounterVec, IntGaugeVec, Opts, Registry, TextEncoder};

/// Queues that have a label of their own: those with most tasks. The others are counted together, as `other`.
pub const MAX_QUEUES: usize = 100;

/// Media type of the text.
pub const CONTENT_TYPE: &str = prometheus::TEXT_FORMAT;

/// How full a queue is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct QueueFigures {
    /// Its label.
    pub name: String,
    /// Tasks that wait.
    pub queued: u64,
    /// Tasks that were given out and have not ended.
    pub leased: u64,
    /// Bytes of arguments in memory.
    pub bytes: u64,
}

/// A node at one moment.
///
/// ```
/// # use funcx_core::state::{Node, NodeConfig};
/// # use funcx_core::contract::IdleFirst;
/// # use funcx_core::model::Hop;
/// use funcx_net::metrics::NodeFigures;
/// # let mut node: Node<IdleFirst> = Node::new(NodeConfig::new(Hop::ServiceSent, ""));
/// let lane = node.open_lane();
/// let text = NodeFigures::read(&node, [("laptop".to_owned(), lane)]).to_text()?;
/// assert!(text.contains(r#"funcx_queue_tasks{endpoint="laptop",state="queued"} 0"#));
/// # Ok::<(), funcx_core::Error>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct NodeFigures {
    /// What happened since the node was made.
    pub counters: Counters,
    /// What happened to its links.
    pub links: LinkCounters,
    /// Its queues.
    pub queues: Vec<QueueFigures>,
    /// Nodes below that are connected.
    pub peers_connected: u64,
    /// Nodes below that may come back to what they hold.
    pub peers_away: u64,
    /// Worker slots of those that are connected.
    pub slots: u64,
    /// What happened to slots that several environments share.
    pub warm: WarmCounters,
}

impl NodeFigures {
    /// Reads a node whose lanes have these labels.
    pub fn read<P: PlacementPolicy + Default>(
        node: &Node<P>,
        lanes: impl IntoIterator<Item = (String, LaneId)>,
    ) -> Self {
        let mut figures = Self {
            counters: node.counters(),
            links: node.link_counters(),
            warm: node.warm_counters(),
            ..Self::default()
        };
        figures.queues.extend(lanes.into_iter().map(|(name, lane)| {
            let load = node.load(lane);
            QueueFigures {
                name,
                queued: load.queued as u64,
                leased: load.leased as u64,
                bytes: load.bytes as u64,
            }
        }));
        for peer in node.peers() {
            match peer.connected {
                true => {
                    figures.peers_connected += 1;
                    figures.slots += u64::from(peer.report.workers.max(peer.capacity.slots));
                }
                false => figures.peers_away += 1,
            }
        }
        figures
    }

    /// The figures as text.
    ///
    /// # Errors
    /// `Internal` if a label cannot be written.
    pub fn to_text(&self) -> Result<String> {
        let mut exposition = Exposition::new();
        self.add_to(&mut exposition)?;
        exposition.to_text()
    }

    pub(crate) fn add_to(&self, exposition: &mut Exposition) -> Result<()> {
        self.add_tasks(exposition)?;
        self.add_links(exposition)?;
        let queues = folded(&self.queues);
        exposition.gauges(
            ("funcx_queue_tasks", "Tasks of a queue that wait (queued) or were given out (leased)."),
            ["endpoint", "state"],
            queues.iter().flat_map(|queue| {
                [([queue.name.as_str(), "queued"], queue.queued), ([&queue.name, "leased"], queue.leased)]
            }),
        )?;
        exposition.gauges(
            ("funcx_queue_bytes", "Bytes of the arguments of a queue's tasks that are in memory."),
            ["endpoint"],
            queues.iter().map(|queue| ([queue.name.as_str()], queue.bytes)),
        )
    }

    fn add_tasks(&self, exposition: &mut Exposition) -> Result<()> {
        let Counters {
            dispatched,
            memoized,
            handed_back,
            retried,
            leases_lost,
            cancels,
            timed_out,
            late,
            ..
        } = self.counters;
        for (name, help, value) in [
            ("funcx_attempts_dispatched_total", "Attempts at tasks that were given to a peer.", dispatched),
            (
                "funcx_tasks_memoized_total",
                "Memoized tasks that ended here with the value of an equal one instead of running.",
                memoized,
            ),
            ("funcx_attempts_retried_total", "Attempts made again because infrastructure was lost.", retried),
            (
                "funcx_leases_lost_total",
                "Attempts whose peer died or was given up, whether they were made again or not.",
                leases_lost,
            ),
            ("funcx_cancels_sent_total", "Attempts that peers were asked to stop.", cancels),
            (
                "funcx_tasks_expired_total",
                "Tasks in memory that ended here because their time to live or their deadline was over.",
                timed_out,
            ),
            (
                "funcx_outcomes_late_total",
                "Outcomes dropped because the task had ended or another attempt had the lease.",
                late,
            ),
            (
                "funcx_tasks_handed_back_total",
                "Tasks that went back to the node above without an outcome.",
                handed_back,
            ),
        ] {
            exposition.counter(name, help, value)?;
        }
        exposition.counters(
            ("funcx_outcomes_delivered_total", "Outcomes of tasks that this node has settled, one per task."),
            ["kind"],
            OutcomeKind::ALL.iter().zip(self.counters.ended).map(|(kind, count)| ([kind.as_str()], count)),
        )
    }

    fn add_links(&self, exposition: &mut Exposition) -> Result<()> {
        let LinkCounters { opened, resumed, refused, lost, opened_above } = self.links;
        for (name, help, value) in [
            ("funcx_link_sessions_total", "Sessions opened with nodes below, one per connection.", opened),
            ("funcx_link_reconnects_total", "Of these, those that went on with an earlier session.", resumed),
            ("funcx_links_refused_total", "Nodes below that were refused.", refused),
            ("funcx_peers_lost_total", "Nodes below that died or were given up.", lost),
            (
                "funcx_uplink_sessions_total",
                "Sessions opened with the node above, one per connection.",
                opened_above,
            ),
        ] {
            exposition.counter(name, help, value)?;
        }
        exposition.gauges(
            ("funcx_peers", "Nodes below: connected, or away with leases that they may come back to."),
            ["state"],
            [(["connected"], self.peers_connected), (["away"], self.peers_away)],
        )?;
        let WarmCounters { cold_starts, switches, retired } = self.warm;
        for (name, help, value) in [
            (
                "funcx_cold_starts_total",
                "Slots in which a worker of another environment than before was started.",
                cold_starts,
            ),
            (
                "funcx_worker_switches_total",
                "Of these, those for which a worker of another one had to go.",
                switches,
            ),
            (
                "funcx_workers_retired_total",
                "Slots of environments that nobody had needed for long.",
                retired,
            ),
        ] {
            exposition.counter(name, help, value)?;
        }
        exposition.gauge(
            "funcx_worker_slots",
            "Worker slots of the nodes below that are connected.",
            self.slots,
        )
    }
}

/// At most [`MAX_QUEUES`] queues and the sum of the others.
fn folded(queues: &[QueueFigures]) -> Vec<QueueFigures> {
    let mut queues = queues.to_vec();
    queues.sort_by_key(|queue| std::cmp::Reverse(queue.queued + queue.leased));
    let rest = queues.split_off(queues.len().min(MAX_QUEUES));
    if !rest.is_empty() {
        let other = QueueFigures { name: "other".to_owned(), ..QueueFigures::default() };
        queues.push(rest.into_iter().fold(other, |sum, queue| QueueFigures {
            name: sum.name,
            queued: sum.queued + queue.queued,
            leased: sum.leased + queue.leased,
            bytes: sum.bytes + queue.bytes,
        }));
    }
    queues
}

/// Metrics that are put together for one answer.
#[derive(Debug)]
pub(crate) struct Exposition(Registry);

impl Exposition {
    pub(crate) fn new() -> Self {
        Self(Registry::new())
    }

    /// Adds something that counts by itself.
    pub(crate) fn add(&mut self, collector: impl Collector + 'static) -> Result<()> {
        self.0.register(Box::new(collector)).map_err(failed)
    }

    pub(crate) fn counter(&mut self, name: &str, help: &str, value: u64) -> Result<()> {
        self.counters((name, help), [], [([], value)])
    }

    pub(crate) fn counters<'a, const N: usize>(
        &mut self,
        (name, help): (&str, &str),
        labels: [&str; N],
        rows: impl IntoIterator<Item = ([&'a str; N], u64)>,
    ) -> Result<()> {
        let counters = IntCounterVec::new(Opts::new(name, help), &labels).map_err(failed)?;
        for (values, value) in rows {
            counters.get_metric_with_label_values(&values).map_err(failed)?.inc_by(value);
        }
        self.add(counters)
    }

    pub(crate) fn gauge(&mut self, name: &str, help: &str, value: u64) -> Result<()> {
        self.gauges((name, help), [], [([], value)])
    }

    pub(crate) fn gauges<'a, const N: usize>(
        &mut self,
        (name, help): (&str, &str),
        labels: [&str; N],
        rows: impl IntoIterator<Item = ([&'a str; N], u64)>,
    ) -> Result<()> {
        let gauges = IntGaugeVec::new(Opts::new(name, help), &labels).map_err(failed)?;
        for (values, value) in rows {
            let gauge = gauges.get_metric_with_label_values(&values).map_err(failed)?;
            gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        }
        self.add(gauges)
    }

    pub(crate) fn to_text(&self) -> Result<String> {
        TextEncoder::new().encode_to_string(&self.0.gather()).map_err(failed)
    }
}

/// Names and labels are ours, so this is a mistake in the code.
pub(crate) fn failed(error: prometheus::Error) -> Error {
    Error::new(ErrorKind::Internal, "collect metrics", "a metric is not well formed").with_source(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_queues_are_folded_and_nothing_is_left_out() {
        let queues = (0..250u64).map(|number| QueueFigures {
            name: number.to_string(),
            queued: number,
            leased: 1,
            bytes: 2,
        });
        let figures = NodeFigures { queues: queues.collect(), ..NodeFigures::default() };
        let text = figures.to_text().unwrap();
        let queued: Vec<&str> = text.lines().filter(|line| line.contains("state=\"queued\"")).collect();
        assert_eq!(queued.len(), MAX_QUEUES + 1);
        let sum: u64 =
            queued.iter().map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum();
        assert_eq!(sum, (0..250u64).sum::<u64>());
        assert!(text.contains("funcx_queue_tasks{endpoint=\"249\",state=\"queued\"} 249"), "{text}");
        assert!(text.contains("funcx_queue_bytes{endpoint=\"other\"} 300"), "{text}");
    }
}
