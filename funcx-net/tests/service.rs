//! The service without HTTP: what it promises about accepted tasks.

#[path = "service/fabric.rs"]
mod fabric;
#[path = "service/stores.rs"]
mod stores;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use fabric::{Bench, Fabric, People, Person};
use funcx_core::ErrorKind;
use funcx_core::conformance::task_store::MemoryStore;
use funcx_core::contract::{Access, Action, TaskStore};
use funcx_core::model::{
    EndpointId, Function, FunctionId, Outcome, OutcomeKind, Shape, TaskGroupId, TaskId, TaskLimits, Timestamp,
    TraceContext,
};
use funcx_net::driver::NodeNotice;
use funcx_net::service::{
    Accepted, Batch, CancelTarget, FollowEvent, NewEndpoint, NewFunction, ServiceConfig, Submit, TaskStatus,
};
use stores::Gated;

const PATIENCE: Duration = Duration::from_secs(60);

fn small_window(window_tasks: usize) -> ServiceConfig {
    ServiceConfig { window_tasks, ..ServiceConfig::default() }
}

fn memory() -> Arc<dyn TaskStore> {
    Arc::new(MemoryStore::new())
}

async fn register(fabric: &Fabric, owner: &Person) -> FunctionId {
    register_for(fabric, owner, Access::Private).await
}

async fn register_for(fabric: &Fabric, owner: &Person, access: Access) -> FunctionId {
    let new = NewFunction {
        function: Function::native("work"),
        name: "work".to_owned(),
        description: String::new(),
        access,
        metadata: "{}".to_owned(),
    };
    fabric.service.register_function(&owner.principal, new).await.unwrap().id
}

fn call(endpoint: EndpointId, function: FunctionId, group: Option<TaskGroupId>, arguments: &[u32]) -> Submit {
    let arguments = arguments.iter().map(|number| Bytes::from(number.to_string())).collect();
    let (shape, limits) = (Shape::default(), TaskLimits::default());
    let batches = vec![Batch { function, shape, limits, options: Bytes::new(), arguments }];
    Submit { endpoint, group, trace: TraceContext::default(), batches }
}

async fn submit(fabric: &Fabric, owner: &Person, submit: Submit) -> Accepted {
    fabric.service.submit(&owner.principal, submit).await.unwrap()
}

/// Returns the arguments of the next task as its value.
async fn echo(bench: &mut Bench) -> (TaskId, String) {
    let task = bench.next().await;
    bench.finish(Outcome::returned(&task, task.payload.clone()));
    (task.id, String::from_utf8(task.payload.to_vec()).unwrap())
}

async fn outcome(fabric: &Fabric, owner: &Person, task: TaskId) -> Outcome {
    let view = fabric.service.wait(&owner.principal, task, PATIENCE).await.unwrap();
    assert_eq!(view.status, TaskStatus::Finished);
    view.record.outcome.as_ref().unwrap().outcome.clone()
}

#[tokio::test]
async fn an_accepted_task_is_run_and_its_outcome_is_kept() {
    let people = People::new().await;
    let fabric = Fabric::start(ServiceConfig::default(), memory(), &people).await;
    let endpoint = fabric.register_endpoint(&people.alice).await;
    let function = register(&fabric, &people.alice).await;
    let mut bench = fabric.connect(endpoint, &people.alice.token, 4);

    let accepted = submit(&fabric, &people.alice, call(endpoint, function, None, &[1, 2, 3])).await;
    let ids = &accepted.tasks[0];
    for (id, argument) in ids.iter().zip(["1", "2", "3"]) {
        assert_eq!(echo(&mut bench).await, (*id, argument.to_owned()));
        let outcome = outcome(&fabric, &people.alice, *id).await;
        assert_eq!((outcome.kind, &outcome.payload[..]), (OutcomeKind::Returned, argument.as_bytes()));
    }
    let views = fabric.service.tasks(&people.alice.principal, ids, usize::MAX).await.unwrap();
    assert!(views.iter().flatten().all(|view| view.status == TaskStatus::Finished));
    assert_eq!(fabric.service.figures(&[endpoint]).await.unwrap()[0].leased, 0);
}

#[tokio::test]
async fn a_task_says_where_it_is() {
    let people = People::new().await;
    let fabric = Fabric::start(ServiceConfig::default(), memory(), &people).await;
    let endpoint = fabric.register_endpoint(&people.alice).await;
    let function = register(&fabric, &people.alice).await;
    let accepted = submit(&fabric, &people.alice, call(endpoint, function, None, &[1, 2])).await;
    let (first, second) = (accepted.tasks[0][0], accepted.tasks[0][1]);
    let status = async |id| fabric.service.task(&people.alice.principal, id).await.unwrap().status;
    assert_eq!(status(first).await, TaskStatus::WaitingForEndpoint);

    let mut bench = fabric.connect(endpoint, &people.alice.token, 1);
    let task = bench.next().await;
    assert_eq!(task.id, first);
    assert_eq!(status(first).await, TaskStatus::Dispatched);
    assert_eq!(status(second).await, TaskStatus::WaitingForRoom);
    bench.begin(&task);
    tokio::time::timeout(PATIENCE, async {
        while status(first).await != TaskStatus::Running {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("the start is told");
    bench.finish(Outcome::returned(&task, "1"));
    outcome(&fabric, &people.alice, first).await;
    assert_eq!(status(first).await, TaskStatus::Finished);
}

#[tokio::test]
async fn the_tail_of_a_long_queue_waits_in_the_store_and_comes_in_order() {
    let people = People::new().await;
    let fabric = Fabric::start(small_window(4), memory(), &people).await;
    let endpoint = fabric.register_endpoint(&people.alice).await;
    let function = register(&fabric, &people.alice).await;
    let numbers: Vec<u32> = (0..50).collect();
    for part in numbers.chunks(7) {
        submit(&fabric, &people.alice, call(endpoint, function, None, part)).await;
    }
    let mut bench = fabric.connect(endpoint, &people.alice.token, 1000);
    for number in 50..60 {
        submit(&fabric, &people.alice, call(endpoint, function, None, &[number])).await;
    }
    for number in 0..60 {
        let task = bench.next().await;
        assert_eq!(task.payload, Bytes::from(number.to_string()));
        let figures = fabric.service.figures(&[endpoint]).await.unwrap()[0];
        assert!((1..=4).contains(&figures.leased), "{figures:?}");
        assert_eq!(figures.leased + figures.queued, 60 - number);
        bench.finish(Outcome::returned(&task, ""));
        outcome(&fabric, &people.alice, task.id).await;
    }
}

#[tokio::test]
async fn the_window_also_bounds_bytes() {
    let people = People::new().await;
    let config = ServiceConfig { window_bytes: 10, ..ServiceConfig::default() };
    let fabric = Fabric::start(config, memory(), &people).await;
    let endpoint = fabric.register_endpoint(&people.alice).await;
    let function = register(&fabric, &people.alice).await;
    let mut bench = fabric.connect(endpoint, &people.alice.token, 1000);
    submit(&fabric, &people.alice, call(endpoint, function, None, &[100_000; 9])).await;
    // Two of six bytes fill the window.
    for _ in 0..4 {
        let (first, second) = (bench.next().await, bench.next().await);
        assert_eq!(fabric.service.figures(&[endpoint]).await.unwrap()[0].leased, 2);
        assert!(bench.started.try_recv().is_err());
        for task in [first, second] {
            bench.finish(Outcome::returned(&task, ""));
        }
    }
    echo(&mut bench).await;
}

#[tokio::test]
async fn cancel_reaches_tasks_wherever_they_are() {
    let people = People::new().await;
    let fabric = Fabric::start(small_window(2), memory(), &people).await;
    let endpoint = fabric.register_endpoint(&people.alice).await;
    let function = register(&fabric, &people.alice).await;
    let mut bench = fabric.connect(endpoint, &people.alice.token, 1);
    let accepted = submit(&fabric, &people.alice, call(endpoint, function, None, &[0, 1, 2, 3, 4])).await;
    let ids = accepted.tasks[0].clone();
    let (leased, queued, tail) = (ids[0], ids[1], ids[3]);
    let running = bench.next().await;
    assert_eq!(running.id, leased);

    let foreign = TaskId::from_u128(99);
    let target = CancelTarget::Tasks(vec![leased, queued, tail, foreign]);
    let report = fabric.service.cancel(&people.alice.principal, target.clone()).await.unwrap();
    assert_eq!((report.cancelled, report.unknown), (3, 1));
    for id in [queued, tail] {
        assert_eq!(outcome(&fabric, &people.alice, id).await.kind, OutcomeKind::Cancelled);
    }
    assert_eq!(bench.cancelled.recv().await.unwrap().task, leased);
    bench.finish(Outcome::failed(
        &running,
        OutcomeKind::Cancelled,
        &funcx_core::model::Failure::new("Cancelled", "stopped"),
    ));
    assert_eq!(outcome(&fabric, &people.alice, leased).await.kind, OutcomeKind::Cancelled);

    // The others run, those that were cancelled do not; and cancelling again changes nothing.
    for id in [ids[2], ids[4]] {
        assert_eq!(echo(&mut bench).await.0, id);
        outcome(&fabric, &people.alice, id).await;
    }
    let report = fabric.service.cancel(&people.alice.principal, target).await.unwrap();
    assert_eq!((report.cancelled, report.unknown), (0, 1));
    let report = fabric.service.cancel(&people.alice.principal, CancelTarget::Group(accepted.group)).await.unwrap();
    assert_eq!(report.cancelled, 0);
    assert_eq!(fabric.service.figures(&[endpoint]).await.unwrap()[0].queued, 0);
}

#[tokio::test]
async fn a_group_that_nobody_serves_is_cancelled_in_the_store() {
    let people = People::new().await;
    let fabric = Fabric::start(small_window(10), memory(), &people).await;
    let endpoint = fabric.register_endpoint(&people.alice).await;
    let function = register(&fabric, &people.alice).await;
    let numbers: Vec<u32> = (0..2500).collect();
    let accepted = submit(&fabric, &people.alice, call(endpoint, function, None, &numbers)).await;
    let cancel = || fabric.service.cancel(&people.alice.principal, CancelTarget::Group(accepted.group));
    let (first, second) = futures::join!(cancel(), cancel());
    assert_eq!(first.unwrap().cancelled + second.unwrap().cancelled, 2500);
    for id in &accepted.tasks[0] {
        assert_eq!(outcome(&fabric, &people.alice, *id).await.kind, OutcomeKind::Cancelled);
    }
    assert_eq!(fabric.service.figures(&[endpoint]).await.unwrap()[0].queued, 0);
}

/// Many submitters, cancellers and a small window: every task has one outcome, and none runs twice or after its end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_task_is_lost_or_run_twice_under_load() {
    const SUBMITTERS: u32 = 6;
    const ROUNDS: u32 = 40;
    let people = Arc::new(People::new().await);
    let fabric = Arc::new(Fabric::start(small_window(16), memory(), &people).await);
    let endpoint = fabric.register_endpoint(&people.alice).await;
    let function = register(&fabric, &people.alice).await;
    let mut bench = fabric.connect(endpoint, &people.alice.token, 12);
    let runner = tokio::spawn(async move {
        let mut started: BTreeMap<TaskId, u32> = BTreeMap::new();
        while let Some(task) = bench.started.recv().await {
            *started.entry(task.id).or_default() += 1;
            if task.payload == "stop" {
                return started;
            }
            bench.finish(Outcome::returned(&task, task.payload.clone()));
        }
        started
    });
    let mut submitters = tokio::task::JoinSet::new();
    for submitter in 0..SUBMITTERS {
        let (people, fabric) = (Arc::clone(&people), Arc::clone(&fabric));
        submitters.spawn(async move {
            let mut ids = Vec::new();
            for round in 0..ROUNDS {
                let numbers: Vec<u32> = (0..=round % 7).collect();
                let accepted = submit(&fabric, &people.alice, call(endpoint, function, None, &numbers)).await;
                let mine = accepted.tasks.concat();
                if (round + submitter) % 3 == 0 {
                    let some = mine.iter().step_by(2).copied().collect();
                    fabric.service.cancel(&people.alice.principal, CancelTarget::Tasks(some)).await.unwrap();
                }
                ids.extend(mine);
            }
            ids
        });
    }
    let ids: Vec<TaskId> = submitters.join_all().await.concat();
    let mut ran = BTreeSet::new();
    for id in &ids {
        if outcome(&fabric, &people.alice, *id).await.kind == OutcomeKind::Returned {
            ran.insert(*id);
        }
    }
    let figures = fabric.service.figures(&[endpoint]).await.unwrap()[0];
    assert_eq!((figures.queued, figures.leased), (0, 0));
    let stop = Submit {
        batches: vec![Batch { arguments: vec!["stop".into()], ..call(endpoint, function, None, &[1]).batches.remove(0) }],
        ..call(endpoint, function, None, &[1])
    };
    submit(&fabric, &people.alice, stop).await;
    let started = tokio::time::timeout(PATIENCE, runner).await.unwrap().unwrap();
    assert!(started.values().all(|count| *count == 1), "a task was handed in twice");
    assert!(ran.iter().all(|id| started.contains_key(id)));
}

/// Restarts a service on `store` with tasks finished, running and queued; the endpoint stays and dials again.
async fn goes_on_after_a_restart(store: Arc<dyn TaskStore>, reopen: impl FnOnce(Arc<dyn TaskStore>) -> Arc<dyn TaskStore>) {
    let people = People::new().await;
    let fabric = Fabric::start(small_window(4), Arc::clone(&store), &people).await;
    let endpoint = fabric.register_endpoint(&people.alice).await;
    let function = register(&fabric, &people.alice).await;
    let mut bench = fabric.connect(endpoint, &people.alice.token, 3);
    let numbers: Vec<u32> = (0..20).collect();
    let accepted = submit(&fabric, &people.alice, call(endpoint, function, None, &numbers)).await;
    let ids = accepted.tasks.concat();
    let (finished, _) = echo(&mut bench).await;
    outcome(&fabric, &people.alice, finished).await;
    let running = [bench.next().await, bench.next().await, bench.next().await];
    let transports = fabric.transports.clone();
    fabric.stop().await;
    // One ends while there is no service: its outcome is kept at the endpoint.
    bench.finish(Outcome::returned(&running[0], "meanwhile"));

    let fabric = Fabric::start_at(small_window(4), reopen(store), &people, transports).await;
    let again = outcome(&fabric, &people.alice, finished).await;
    assert_eq!(again.kind, OutcomeKind::Returned);
    assert_eq!(outcome(&fabric, &people.alice, running[0].id).await.payload, "meanwhile");
    // What was running is neither stopped nor started again.
    for task in &running[1..] {
        bench.finish(Outcome::returned(task, "later"));
        assert_eq!(outcome(&fabric, &people.alice, task.id).await.payload, "later");
    }
    let mut rest: BTreeSet<TaskId> = ids[4..].iter().copied().collect();
    while !rest.is_empty() {
        let (id, _) = echo(&mut bench).await;
        assert!(rest.remove(&id), "a task came twice");
        outcome(&fabric, &people.alice, id).await;
    }
    assert!(bench.cancelled.try_recv().is_err(), "the service stopped something that it should know");
    // New tasks are queued behind.
    let more = submit(&fabric, &people.alice, call(endpoint, function, Some(accepted.group), &[20])).await;
    assert_eq!(echo(&mut bench).await.0, more.tasks[0][0]);
}

#[tokio::test]
async fn a_restart_loses_nothing_and_runs_nothing_twice() {
    goes_on_after_a_restart(memory(), |store| store).await;
}

#[tokio::test]
async fn a_restart_on_the_embedded_store_loses_nothing_and_runs_nothing_twice() {
    let directory = tempfile::tempdir().unwrap();
    let open = || -> Arc<dyn TaskStore> { Arc::new(funcx_net::store::EmbeddedStore::open(directory.path().join("store")).unwrap()) };
    goes_on_after_a_restart(open(), |store| {
        // Nobody else holds it any more, so this closes it.
        assert_eq!(Arc::strong_count(&store), 1, "the stopped service still holds the store");
        drop(store);
        open()
    })
    .await;
}

#[tokio::test]
async fn an_outcome_is_told_only_when_the_store_has_it() {
    let people = People::new().await;
    let store = Gated::new(memory());
    let fabric = Fabric::start(ServiceConfig::default(), Arc::clone(&store) as _, &people).await;
    let endpoint = fabric.register_endpoint(&people.alice).await;
    let function = register(&fabric, &people.alice).await;
    let mut bench = fabric.connect(endpoint, &people.alice.token, 1);
    let accepted = submit(&fabric, &people.alice, call(endpoint, function, None, &[1])).await;
    let task = bench.next().await;
    store.failures.store(3, std::sync::atomic::Ordering::SeqCst);
    bench.finish(Outcome::returned(&task, "kept"));
    assert_eq!(outcome(&fabric, &people.alice, accepted.tasks[0][0]).await.payload, "kept");
    assert_eq!(store.failures.load(std::sync::atomic::Ordering::SeqCst), 0);
}

#[tokio::test]
async fn what_the_store_refuses_is_not_accepted_and_not_run() {
    let people = People::new().await;
    let store = Gated::new(memory());
    let fabric = Fabric::start(ServiceConfig::default(), Arc::clone(&store) as _, &people).await;
    let endpoint = fabric.register_endpoint(&people.alice).await;
    let function = register(&fabric, &people.alice).await;
    let mut bench = fabric.connect(endpoint, &people.alice.token, 10);
    store.failures.store(1, std::sync::atomic::Ordering::SeqCst);
    let refused = fabric.service.submit(&people.alice.principal, call(endpoint, function, None, &[1])).await;
    assert_eq!(refused.unwrap_err().error().kind(), ErrorKind::Unavailable);
    let accepted = submit(&fabric, &people.alice, call(endpoint, function, None, &[2])).await;
    assert_eq!(echo(&mut bench).await, (accepted.tasks[0][0], "2".to_owned()));
    outcome(&fabric, &people.alice, accepted.tasks[0][0]).await;
    assert_eq!(fabric.service.figures(&[endpoint]).await.unwrap()[0].queued, 0);
}

#[tokio::test]
async fn a_submission_whose_caller_goes_away_is_completed() {
    let people = People::new().await;
    let store = Gated::new(memory());
    let fabric = Fabric::start(ServiceConfig::default(), Arc::clone(&store) as _, &people).await;
    let endpoint = fabric.register_endpoint(&people.alice).await;
    let function = register(&fabric, &people.alice).await;
    let mut bench = fabric.connect(endpoint, &people.alice.token, 10);
    store.close();
    let mut first = Box::pin(fabric.service.submit(&people.alice.principal, call(endpoint, function, None, &[1])));
    let polled = futures::poll!(&mut first);
    assert!(polled.is_pending());
    drop(first);
    store.open();
    // Were the first one left half done, no later one could pass it.
    submit(&fabric, &people.alice, call(endpoint, function, None, &[2])).await;
    assert_eq!(echo(&mut bench).await.1, "1");
    assert_eq!(echo(&mut bench).await.1, "2");
}

async fn next_outcome(follower: &mut funcx_net::service::Follower) -> Option<(TaskId, Timestamp)> {
    match tokio::time::timeout(PATIENCE, follower.next()).await.expect("an event comes").unwrap() {
        Some(FollowEvent::Outcome(record)) => Some((record.id, record.outcome.as_ref().unwrap().completed)),
        Some(FollowEvent::Lagged) => None,
        None => panic!("the service does not stop"),
    }
}

#[tokio::test]
async fn a_follower_gets_every_outcome_once_and_can_resume() {
    let people = People::new().await;
    let fabric = Fabric::start(small_window(3), memory(), &people).await;
    let endpoint = fabric.register_endpoint(&people.alice).await;
    let function = register(&fabric, &people.alice).await;
    let mut bench = fabric.connect(endpoint, &people.alice.token, 3);
    let numbers: Vec<u32> = (0..30).collect();
    let accepted = submit(&fabric, &people.alice, call(endpoint, function, None, &numbers)).await;
    // Others' outcomes are not told.
    let other = submit(&fabric, &people.alice, call(endpoint, function, None, &[99])).await;
    for _ in 0..10 {
        let (id, _) = echo(&mut bench).await;
        outcome(&fabric, &people.alice, id).await;
    }
    let follow = async |after| fabric.service.follow(&people.alice.principal, accepted.group, after).await.unwrap();
    let mut follower = follow(Timestamp::UNSET).await;
    let mut seen = Vec::new();
    for _ in 0..5 {
        seen.push(next_outcome(&mut follower).await.unwrap());
    }
    // Resumed in the middle of what is in the store, it goes on in order, into what comes.
    let mut follower = follow(seen[4].1).await;
    for _ in 0..21 {
        echo(&mut bench).await;
    }
    while seen.len() < 30 {
        seen.push(next_outcome(&mut follower).await.unwrap());
    }
    assert!(seen.is_sorted_by(|before, after| before.1 < after.1));
    let ids: BTreeSet<TaskId> = seen.iter().map(|(id, _)| *id).collect();
    assert_eq!(ids, accepted.tasks[0].iter().copied().collect());
    assert!(!ids.contains(&other.tasks[0][0]));
}

#[tokio::test]
async fn a_follower_that_is_slow_is_told_and_loses_nothing() {
    let people = People::new().await;
    let fabric = Fabric::start(ServiceConfig::default(), memory(), &people).await;
    let endpoint = fabric.register_endpoint(&people.alice).await;
    let function = register(&fabric, &people.alice).await;
    let mut bench = fabric.connect(endpoint, &people.alice.token, 5000);
    let numbers: Vec<u32> = (0..3000).collect();
    let accepted = submit(&fabric, &people.alice, call(endpoint, function, None, &numbers)).await;
    let mut follower =
        fabric.service.follow(&people.alice.principal, accepted.group, Timestamp::UNSET).await.unwrap();
    let mut seen = Vec::new();
    echo(&mut bench).await;
    seen.push(next_outcome(&mut follower).await.unwrap());
    for _ in 1..3000 {
        echo(&mut bench).await;
    }
    for id in &accepted.tasks[0] {
        outcome(&fabric, &people.alice, *id).await;
    }
    let mut lagged = 0;
    while seen.len() < 3000 {
        match next_outcome(&mut follower).await {
            Some(outcome) => seen.push(outcome),
            None => lagged += 1,
        }
    }
    assert_eq!(lagged, 1);
    assert!(seen.is_sorted_by(|before, after| before.1 < after.1));
    assert_eq!(seen.iter().map(|(id, _)| *id).collect::<BTreeSet<_>>().len(), 3000);
}

#[tokio::test]
async fn an_endpoint_takes_only_so_many_unfinished_tasks() {
    let people = People::new().await;
    let config = ServiceConfig { endpoint_tasks: 5, payload_bytes: 3, ..ServiceConfig::default() };
    let fabric = Fabric::start(config, memory(), &people).await;
    let endpoint = fabric.register_endpoint(&people.alice).await;
    let function = register(&fabric, &people.alice).await;
    let try_submit = async |numbers: &[u32]| {
        fabric.service.submit(&people.alice.principal, call(endpoint, function, None, numbers)).await
    };
    try_submit(&[1, 2, 3]).await.unwrap();
    let full = try_submit(&[4, 5, 6]).await.unwrap_err();
    assert_eq!((full.error().kind(), full.error().is_retryable()), (ErrorKind::LimitExceeded, true));
    try_submit(&[4, 5]).await.unwrap();
    let large = try_submit(&[1000]).await.unwrap_err();
    assert_eq!((large.code(), large.error().is_retryable()), ("TASK_PAYLOAD_TOO_LARGE", false));
    assert!(large.to_string().contains("payload_bytes"));
    let none = try_submit(&[]).await.unwrap_err();
    assert_eq!(none.error().kind(), ErrorKind::InvalidInput);

    let mut bench = fabric.connect(endpoint, &people.alice.token, 1);
    let (first, _) = echo(&mut bench).await;
    outcome(&fabric, &people.alice, first).await;
    try_submit(&[6]).await.unwrap();
}

#[tokio::test]
async fn what_is_not_shared_is_refused() {
    let people = People::new().await;
    let fabric = Fabric::start(ServiceConfig::default(), memory(), &people).await;
    let (alice, bob) = (&people.alice.principal, &people.bob.principal);
    let endpoint = fabric.register_endpoint(&people.alice).await;
    let private = register(&fabric, &people.alice).await;
    let accepted = submit(&fabric, &people.alice, call(endpoint, private, None, &[1])).await;
    let code = |refused: funcx_net::service::Refusal| refused.code();

    let foreign = fabric.service.submit(bob, call(endpoint, private, None, &[1])).await;
    assert_eq!(code(foreign.unwrap_err()), "ENDPOINT_ACCESS_FORBIDDEN");
    let unknown = fabric.service.submit(bob, call(EndpointId::from_u128(5), private, None, &[1])).await;
    assert_eq!(code(unknown.unwrap_err()), "ENDPOINT_NOT_FOUND");
    assert_eq!(code(fabric.service.function(bob, private, Action::Read).await.unwrap_err()), "FUNCTION_ACCESS_FORBIDDEN");
    assert_eq!(code(fabric.service.task(bob, accepted.tasks[0][0]).await.unwrap_err()), "TASK_ACCESS_FORBIDDEN");
    assert_eq!(
        code(fabric.service.follow(bob, accepted.group, Timestamp::UNSET).await.unwrap_err()),
        "TASK_GROUP_ACCESS_FORBIDDEN"
    );
    let cancelled = fabric.service.cancel(bob, CancelTarget::Tasks(accepted.tasks[0].clone())).await.unwrap();
    assert_eq!((cancelled.cancelled, cancelled.unknown), (0, 1));

    // Shared by its owner for one function only.
    let public = register_for(&fabric, &people.bob, Access::Public).await;
    let other = register(&fabric, &people.bob).await;
    let shared = NewEndpoint {
        id: Some(endpoint),
        name: "bench".to_owned(),
        access: Access::Public,
        allowed_functions: Some(vec![public]),
        metadata: "{}".to_owned(),
    };
    let stolen = fabric.service.register_endpoint(bob, shared.clone()).await;
    assert_eq!(code(stolen.unwrap_err()), "ENDPOINT_ACCESS_FORBIDDEN");
    fabric.service.register_endpoint(alice, shared).await.unwrap();
    fabric.service.submit(bob, call(endpoint, public, None, &[1])).await.unwrap();
    fabric.service.submit(alice, call(endpoint, public, None, &[1])).await.unwrap();
    let not_allowed = fabric.service.submit(bob, call(endpoint, other, None, &[1])).await;
    assert_eq!(code(not_allowed.unwrap_err()), "FUNCTION_NOT_PERMITTED");
    let others_group = fabric.service.submit(bob, call(endpoint, public, Some(accepted.group), &[1])).await;
    assert_eq!(code(others_group.unwrap_err()), "TASK_GROUP_ACCESS_FORBIDDEN");

    fabric.service.delete_function(&people.bob.principal, public).await.unwrap();
    let gone = fabric.service.submit(bob, call(endpoint, public, None, &[1])).await;
    assert_eq!(code(gone.unwrap_err()), "FUNCTION_NOT_FOUND");
}

#[tokio::test]
async fn a_deleted_endpoint_leaves_no_task_without_an_end() {
    let people = People::new().await;
    let fabric = Fabric::start(small_window(3), memory(), &people).await;
    let endpoint = fabric.register_endpoint(&people.alice).await;
    let function = register(&fabric, &people.alice).await;
    let mut bench = fabric.connect(endpoint, &people.alice.token, 1);
    let numbers: Vec<u32> = (0..10).collect();
    let accepted = submit(&fabric, &people.alice, call(endpoint, function, None, &numbers)).await;
    bench.next().await;
    fabric.service.delete_endpoint(&people.alice.principal, endpoint).await.unwrap();
    for id in &accepted.tasks[0] {
        assert_eq!(outcome(&fabric, &people.alice, *id).await.kind, OutcomeKind::Cancelled);
    }
    let gone = fabric.service.submit(&people.alice.principal, call(endpoint, function, None, &[1])).await;
    assert_eq!(gone.unwrap_err().code(), "ENDPOINT_NOT_FOUND");
}

#[tokio::test]
async fn only_the_owner_serves_as_an_endpoint() {
    let people = People::new().await;
    let fabric = Fabric::start(ServiceConfig::default(), memory(), &people).await;
    let endpoint = fabric.register_endpoint(&people.alice).await;
    for (id, token) in [
        (endpoint, people.bob.token.as_str()),
        (endpoint, "fnx_wrong"),
        (EndpointId::from_u128(77), people.alice.token.as_str()),
    ] {
        let mut bench = fabric.connect(id, token, 1);
        let NodeNotice::RefusedAbove(refused) = bench.notice().await else { panic!("it was let in") };
        assert!(!refused.retry && !refused.reason.contains(token), "{refused:?}");
    }
    let mut bench = fabric.connect(endpoint, &people.alice.token, 1);
    assert!(matches!(bench.notice().await, NodeNotice::OpenedAbove));

    fabric.service.lock_endpoint(&people.alice.principal, endpoint).await.unwrap();
    let mut locked = fabric.connect(endpoint, &people.alice.token, 1);
    let NodeNotice::RefusedAbove(refused) = locked.notice().await else { panic!("it was let in") };
    assert!(refused.retry);
}
