//! Processes killed with SIGKILL in the middle of 2,000 tasks, more often than a task may be attempted: every task has
//! exactly one outcome, none is lost.
//!
//! Everything is real: the daemons' binaries, the store on disk, Python workers, the client over HTTP.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

#[expect(dead_code, reason = "other tests use the rest of it")]
mod fabric;

use std::collections::BTreeMap;

use fabric::{Fabric, children, freeze, is_alive, kill, until};
use funcx_core::model::OutcomeKind;
use funcx_net::client::{Arguments, Call, CallOptions, FunctionRegistration, TaskHandle};
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

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_endpoint_has_left_is_gone_before_it_reports() {
    let mut fabric = Fabric::start(1).await;
    let client = fabric.client();
    let source = "def wait(path):\n    import time\n    open(path, 'w').close()\n    time.sleep(3600)\n";
    let function = client.register(&FunctionRegistration::python("wait", source)).await.unwrap().function_id;
    let endpoint = client.endpoint_named("faulty").await.unwrap().endpoint_id;
    let directory = tempfile::tempdir().unwrap();
    let begun = directory.path().join("begun");
    let arguments = Arguments::python(&[begun.to_str().unwrap()], &BTreeMap::<String, ()>::new()).unwrap();
    let once = CallOptions { max_attempts: Some(1), ..CallOptions::default() };
    let handle = client.submit(Call::new(endpoint, function, arguments).with_options(once)).await.unwrap();
    until("the task runs", || begun.exists()).await;

    // Frozen, they cannot notice by themselves that the endpoint is gone.
    let manager = fabric.manager().await;
    let zygote = children(manager)[0];
    let mut family: Vec<u32> = [manager, zygote].into_iter().chain(children(zygote)).collect();
    assert!(family.len() > 2, "{family:?}");
    family.iter().for_each(|pid| freeze(*pid));
    fabric.restart_endpoint().await;
    let task = handle.await.unwrap();
    assert_eq!((task.outcome, task.attempt), (Some(OutcomeKind::Lost), Some(1)), "{:?}", task.failure);
    family.retain(|pid| is_alive(*pid));
    assert!(family.is_empty(), "left: {family:?}");
    fabric.stop().await;
}

/// Nobody takes what the manager of a dead endpoint does, and what it began would be begun again elsewhere.
#[tokio::test(flavor = "multi_thread")]
async fn managers_and_workers_end_with_a_killed_endpoint() {
    let mut fabric = Fabric::start(2).await;
    let client = fabric.client();
    let source = "def work(_):\n    import time\n    time.sleep(3600)\n";
    let function = client.register(&FunctionRegistration::python("work", source)).await.unwrap().function_id;
    let endpoint = client.endpoint_named("faulty").await.unwrap().endpoint_id;
    let arguments = Arguments::python(&[1], &BTreeMap::<String, ()>::new()).unwrap();
    let mut running = client.submit(Call::new(endpoint, function, arguments)).await.unwrap();
    running.id().await.unwrap();
    fabric.lose_endpoint().await;
    let said = fabric.log("manager");
    assert!(said.contains("the process of the endpoint is gone"), "{said}");
}
