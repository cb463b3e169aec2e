//! The worker processes of a manager: one pool for each environment of its endpoint.

use std::{collections::BTreeMap, sync::Arc};

use anyhow::Result;
use funcx_core::contract::{Executor, ExecutorSink, IdleFirst};
use funcx_core::model::{ErrorKind, Failure};
use funcx_core::state::{LaneId, Node};
use funcx_net::driver::NodeHandle;
use funcx_provider::worker::{ProcessPool, ProcessPoolConfig};

use super::late_sink::LateSink;
use super::leaving::Tally;
use super::options::{
    ENVIRONMENTS_VARIABLE, INIT_VARIABLE, MANAGER_VARIABLE, SECRET_VARIABLE, WorkerOptions,
};
use crate::config::EnvironmentConfig;
use crate::endpoint::TOKEN_VARIABLE;
use crate::exit::{Exit, Failed};

/// The pools. The one of the default environment is there always. If there are others, all of them share the slots of the
/// manager, and each one starts its Python when it gets its first one.
#[derive(Debug)]
pub(super) struct Pools {
    all: Vec<Pool>,
}

/// The pool of an environment, whose lane has the number of its place.
struct Pool {
    environment: Option<String>,
    processes: Arc<ProcessPool>,
    sink: Arc<LateSink>,
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool").field("environment", &self.environment).finish_non_exhaustive()
    }
}

impl Pools {
    /// Starts the workers of the default environment if there is no other one; else nothing yet.
    pub(super) async fn start(options: &WorkerOptions, slots: u32) -> Result<Self> {
        let environments = &options.environments.0;
        if environments.is_empty() {
            let sink = LateSink::new();
            let started =
                ProcessPool::start(config(options, None, slots), Arc::clone(&sink) as Arc<dyn ExecutorSink>)
                    .await;
            let processes = Arc::new(started.map_err(|error| failed(&error))?);
            return Ok(Self { all: vec![Pool { environment: None, processes, sink }] });
        }
        let named = environments.iter().map(|(name, environment)| (Some(name.clone()), Some(environment)));
        let pool = |(name, environment): (Option<String>, Option<&EnvironmentConfig>)| {
            let sink = LateSink::new();
            let pool = ProcessPool::empty(
                config(options, environment, slots),
                Arc::clone(&sink) as Arc<dyn ExecutorSink>,
            );
            let processes = Arc::new(pool.map_err(|error| failed(&error))?);
            Ok(Pool { environment: name, processes, sink })
        };
        let all = std::iter::once((None, None)).chain(named).map(pool).collect::<Result<_>>()?;
        Ok(Self { all })
    }

    /// Makes the lanes of the pools, which must be the first ones of the node.
    pub(super) fn lay_out(&self, node: &mut Node<IdleFirst>, options: &WorkerOptions, slots: u32) {
        let are_shared = self.all.len() > 1;
        if are_shared {
            node.share_slots(slots, options.keep_alive);
        }
        for pool in &self.all {
            let lane = if are_shared { node.share_lane(pool.environment.clone()) } else { node.open_lane() };
            for kind in pool.processes.capability().kinds {
                node.route_environment(kind, pool.environment.as_deref(), lane);
            }
        }
    }

    /// Gives the pools to the node.
    pub(super) fn attach(&self, node: &NodeHandle, tally: &Arc<Tally>) {
        for (lane, pool) in (0..).map(LaneId).zip(&self.all) {
            let (token, sink) = node.executor_sink();
            pool.sink.connect(tally.counting(sink));
            node.attach(token, Arc::clone(&pool.processes) as _, Some(lane));
        }
    }

    /// A pool has so many slots from now on.
    pub(super) fn resize(&self, lane: LaneId, slots: u32) {
        if let Some(pool) = self.all.get(lane.0 as usize) {
            tracing::debug!(environment = pool.environment, slots, "an environment has other slots");
            pool.processes.resize(slots);
        }
    }

    /// Stops what runs, which is lost for this reason.
    pub(super) fn stop(&self, failure: &Failure) {
        self.all.iter().for_each(|pool| pool.processes.stop(failure.clone()));
    }
}

fn config(options: &WorkerOptions, environment: Option<&EnvironmentConfig>, slots: u32) -> ProcessPoolConfig {
    let own = environment.cloned().unwrap_or_default();
    let init = own.worker_init.unwrap_or_else(|| options.worker_init.clone());
    // Functions inherit the manager's environment, and its secrets are nothing for them.
    let secrets = [SECRET_VARIABLE, MANAGER_VARIABLE, TOKEN_VARIABLE, INIT_VARIABLE, ENVIRONMENTS_VARIABLE]
        .map(|name| (name.into(), Default::default()));
    let mut variables: BTreeMap<_, _> =
        own.environment.into_iter().map(|(name, value)| (name.into(), value.into())).collect();
    variables.extend(secrets);
    ProcessPoolConfig {
        workers: slots,
        python: own.python.unwrap_or_else(|| options.python.clone()).into(),
        work_dir: options.work_dir.clone(),
        endpoint_id: options.endpoint_id,
        max_result_bytes: options.max_result_size as usize,
        max_output_bytes: options.max_output_size as usize,
        worker_init: (!init.trim().is_empty()).then_some(init),
        kill_grace: options.kill_grace,
        preload: own.preload.unwrap_or_else(|| options.preload.clone()),
        environment: variables,
    }
}

fn failed(error: &funcx_core::Error) -> anyhow::Error {
    let exit = match error.kind() {
        ErrorKind::NotFound | ErrorKind::Unsupported | ErrorKind::Unavailable | ErrorKind::TimedOut => {
            Exit::Python
        }
        ErrorKind::InvalidInput => Exit::Configuration,
        _ => Exit::Failure,
    };
    Failed::new(exit, error.to_string()).into()
}
