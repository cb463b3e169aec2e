//! The experiments, one file each.

mod growth;
mod internal_batching;
mod latency_breakdown;
mod map;
mod memoization;
mod prefetch;
mod recovery;
mod start_times;
mod strong_scaling;
mod warm_routing;
mod weak_scaling;

pub(super) use growth::{GrowthClients, GrowthManagers, GrowthPayload, GrowthTasks, GrowthWorkers, Probe};
pub(super) use internal_batching::InternalBatching;
pub(super) use latency_breakdown::LatencyBreakdown;
pub(super) use map::Map;
pub(super) use memoization::Memoization;
pub(super) use prefetch::Prefetch;
pub(super) use recovery::Recovery;
pub(super) use start_times::StartTimes;
pub(super) use strong_scaling::StrongScaling;
pub(super) use warm_routing::WarmRouting;
pub(super) use weak_scaling::WeakScaling;

/// How a simulated fabric is made.
fn simulated_setup() -> String {
    "The node of an endpoint and those of its managers in one process, over the link protocol on TCP loopback; workers are \
     simulated inside the managers' executors, and tasks that sleep do so in real time. The endpoint has no service above \
     it and keeps no journal."
        .to_owned()
}
