//! Processes killed with SIGKILL in the middle of 2,000 tasks, more often than a task may be attempted: every task has
//! exactly one outcome, none is lost.
//!
//! Everything is real: the daemons' binaries, the store on disk, Python workers, the client over HTTP.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

#[expect(dead_code, reason = "other tests use the rest of it")]
mod fabric;

use std::collections::BTreeMap;

use fabric::{Fabric, children, kill};
use funcx_core::model::OutcomeKind;
use funcx_net::client::{Arguments, Call, FunctionRegistration, TaskHandle};
use futures::{StreamExt, stream::FuturesUnordered};

const TASKS: u32 = 2_000;

/// Outcomes between two deaths of the victim, so that it dies in the middle, and how often it dies. A task may be
/// attempted three times.
const BETWEEN: usize = 300;
const DEATHS: usize = 5;

const WORK: &str = "\
def work(n):
    import time
    time.sleep(0.001)
    return 2 * n
";

/// What is killed, and who starts it again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Victim {
    Service,
    Endpoint,
    Manager,
    Worker,
}

async fn kill_in_the_middle(victim: Victim) {
    let mut fabric = Fabric::start(2).await;
    let client = fabric.client();
    let function = client.register(&FunctionRegistration::python("work", WORK)).await.unwrap().function_id;
    let endpoint = client.endpoint_named("faulty").await.unwrap().endpoint_id;
    let mut handles: Vec<TaskHandle> = Vec::new();
    for n in 0..TASKS {
        let arguments = Arguments::python(&[n], &BTreeMap::<String, ()>::new()).unwrap();
        handles.push(client.submit(Call::new(endpoint, function, arguments)).await.unwrap());
    }
    let mut ids = Vec::new();
    for handle in &mut handles {
        ids.push(handle.id().await.unwrap());
    }

    let mut running: FuturesUnordered<_> =
        (0..TASKS).zip(handles).map(|(n, handle)| async move { (n, handle.await) }).collect();
    let (mut ended, mut deaths) = (BTreeMap::new(), 0);
    while let Some((n, task)) = running.next().await {
        let task = task.unwrap_or_else(|error| panic!("{victim:?}: task {n}: {error}"));
        assert_eq!(task.outcome, Some(OutcomeKind::Returned), "{victim:?}: {:?}", task.failure);
        assert_eq!(task.value::<u32>().unwrap(), 2 * n);
        assert!(ended.insert(task.task_id, task.attempt).is_none(), "{victim:?}: two outcomes");
        if ended.len().is_multiple_of(BETWEEN) && ended.len() / BETWEEN <= DEATHS {
            deaths += 1;
            match victim {
                Victim::Service => fabric.restart_service().await,
                Victim::Endpoint => fabric.restart_endpoint().await,
                Victim::Manager => kill(fabric.manager().await),
                // A child of the zygote, which is a child of the manager.
                Victim::Worker => kill(children(children(fabric.manager().await)[0])[0]),
            }
        }
    }
    assert_eq!(ended.len(), TASKS as usize);
    assert_eq!(deaths, DEATHS);
    if victim == Victim::Service {
        assert!(
            ended.values().all(|attempt| *attempt == Some(1)),
            "no task runs twice because the service was away"
        );
    }
    assert!(ids.iter().all(|id| ended.contains_key(id)), "{victim:?}: an outcome of every task");

    // What the service remembers is what the client was told.
    for page in ids.chunks(500) {
        for id in page {
            let task = client.task(*id).await.unwrap();
            assert_eq!((task.outcome, task.attempt), (Some(OutcomeKind::Returned), ended[id]));
        }
    }
    fabric.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_service_loses_nothing() {
    kill_in_the_middle(Victim::Service).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_endpoint_loses_nothing() {
    kill_in_the_middle(Victim::Endpoint).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_manager_loses_nothing() {
    kill_in_the_middle(Victim::Manager).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_worker_loses_nothing() {
    kill_in_the_middle(Victim::Worker).await;
}
