//! What the service counts, and its figures for Prometheus.

use std::{ops::Deref, sync::Arc, time::Instant};

use funcx_core::Result;
use funcx_core::contract::{OutcomeRecord, TaskStore, Write};
use funcx_core::model::OutcomeKind;
use futures::future::{BoxFuture, FutureExt};
use prometheus::{Histogram, HistogramOpts, IntCounter, IntCounterVec, Opts};

use super::{Answer, Service};
use crate::metrics::{Exposition, NodeFigures, failed};

/// Bounds of the histograms of latency, in seconds: from a commit to memory to a disk that has nearly stopped.
pub(crate) const LATENCY_BUCKETS: [f64; 14] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// What the service counts as it happens. Everything else is read when somebody asks.
#[derive(Debug)]
pub(super) struct ServiceMetrics {
    accepted: IntCounter,
    finished: IntCounterVec,
    answered: IntCounter,
    commits: Histogram,
    commits_failed: IntCounter,
}

impl ServiceMetrics {
    pub(super) fn new() -> Result<Self> {
        let counter = |name: &str, help: &str| IntCounter::with_opts(Opts::new(name, help)).map_err(failed);
        let commits = HistogramOpts::new(
            "funcx_store_commit_duration_seconds",
            "Time until a commit was durable or refused.",
        );
        let finished =
            Opts::new("funcx_tasks_finished_total", "Tasks whose outcome is durable, by its kind.");
        let metrics = Self {
            accepted: counter("funcx_tasks_accepted_total", "Tasks that were accepted and are durable.")?,
            finished: IntCounterVec::new(finished, &["kind"]).map_err(failed)?,
            answered: counter(
                "funcx_tasks_answered_total",
                "Tasks that were accepted together with the value of an equal call.",
            )?,
            commits: Histogram::with_opts(commits.buckets(LATENCY_BUCKETS.to_vec())).map_err(failed)?,
            commits_failed: counter("funcx_store_commits_failed_total", "Commits that the store refused.")?,
        };
        // A rate over a counter that appears with its first task misses that task.
        for kind in OutcomeKind::ALL {
            metrics.finished.with_label_values(&[kind.as_str()]).inc_by(0);
        }
        Ok(metrics)
    }

    pub(super) fn accepted(&self, tasks: usize) {
        self.accepted.inc_by(tasks as u64);
    }

    pub(super) fn finished(&self, records: &[OutcomeRecord]) {
        for kind in OutcomeKind::ALL {
            let count = records.iter().filter(|record| record.outcome.kind == kind).count();
            if count > 0 {
                self.finished.with_label_values(&[kind.as_str()]).inc_by(count as u64);
            }
        }
    }

    pub(super) fn answered(&self, tasks: usize) {
        self.answered.inc_by(tasks as u64);
    }

    fn committed(&self, began: Instant, done: &Result<()>) {
        self.commits.observe(began.elapsed().as_secs_f64());
        if done.is_err() {
            self.commits_failed.inc();
        }
    }

    fn add_to(&self, exposition: &mut Exposition) -> Result<()> {
        exposition.add(self.accepted.clone())?;
        exposition.add(self.commits_failed.clone())?;
        exposition.add(self.finished.clone())?;
        exposition.add(self.answered.clone())?;
        exposition.add(self.commits.clone())
    }
}

impl Service {
    /// The figures of the service as text for Prometheus. Queues have the ids of their endpoints as labels, and are there
    /// once the endpoint has connected, or has got tasks, since the service was started.
    ///
    /// # Errors
    /// `Internal` if a metric is not well formed.
    pub async fn metrics(&self) -> Answer<String> {
        let lanes: Vec<_> = self.lanes.lock().values().filter_map(|lane| lane.get().cloned()).collect();
        let labels: Vec<_> = lanes.iter().map(|lane| (lane.endpoint.to_string(), lane.id)).collect();
        let read = self.node.with(move |node, _| NodeFigures::read(node, labels)).await;
        let mut exposition = Exposition::new();
        let help = "1 while the node of the service does what it is asked.";
        exposition.gauge("funcx_node_running", help, u64::from(read.is_ok()))?;
        if let Ok(mut figures) = read {
            // What is in the store alone waits as well.
            for (queue, lane) in figures.queues.iter_mut().zip(&lanes) {
                queue.queued = lane.unfinished().saturating_sub(queue.leased);
            }
            figures.add_to(&mut exposition)?;
        }
        exposition.gauge(
            "funcx_window_tasks",
            "Unfinished tasks that are in memory, of all endpoints.",
            self.tracked.lock().len() as u64,
        )?;
        let help = "Streams of the outcomes of task groups that are open.";
        exposition.gauge("funcx_followers", help, self.publisher.followers() as u64)?;
        exposition.gauges(
            ("funcx_build_info", "Version of the software."),
            ["version"],
            [([env!("CARGO_PKG_VERSION")], 1)],
        )?;
        self.metrics.add_to(&mut exposition)?;
        Ok(exposition.to_text()?)
    }
}

/// The store of a service, whose commits are measured. Whatever else it is asked for goes to the store as it is.
pub(super) struct Metered {
    pub(super) store: Arc<dyn TaskStore>,
    pub(super) metrics: Arc<ServiceMetrics>,
}

impl Metered {
    /// [`TaskStore::commit`].
    pub(super) fn commit(&self, writes: Vec<Write>) -> BoxFuture<'static, Result<()>> {
        let (began, metrics) = (Instant::now(), Arc::clone(&self.metrics));
        // Called at once: the order of calls is the order of commits.
        let committed = self.store.commit(writes);
        async move {
            let done = committed.await;
            metrics.committed(began, &done);
            done
        }
        .boxed()
    }
}

impl Deref for Metered {
    type Target = dyn TaskStore;

    fn deref(&self) -> &Self::Target {
        &*self.store
    }
}
