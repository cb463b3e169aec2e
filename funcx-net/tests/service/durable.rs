//! What outlives a process, and what the store has to say about it.

use super::*;

/// Restarts a service on `store` with tasks finished, running and queued; the endpoint stays and dials again.
async fn goes_on_after_a_restart(
    store: Arc<dyn TaskStore>,
    reopen: impl FnOnce(Arc<dyn TaskStore>) -> Arc<dyn TaskStore>,
) {
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
    let open = || -> Arc<dyn TaskStore> {
        Arc::new(funcx_net::store::EmbeddedStore::open(directory.path().join("store")).unwrap())
    };
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
    let asked = store.waiting();
    let mut first =
        Box::pin(fabric.service.submit(&people.alice.principal, call(endpoint, function, None, &[1])));
    tokio::select! {
        _ = &mut first => panic!("the store has not answered"),
        () = asked => {}
    }
    drop(first);
    store.open();
    // Were the first one left half done, no later one could pass it.
    submit(&fabric, &people.alice, call(endpoint, function, None, &[2])).await;
    assert_eq!(echo(&mut bench).await.1, "1");
    assert_eq!(echo(&mut bench).await.1, "2");
}

#[tokio::test]
async fn a_new_process_gets_what_the_old_one_left() {
    let people = People::new().await;
    let fabric = Fabric::start(small_window(4), memory(), &people).await;
    let endpoint = fabric.register_endpoint(&people.alice).await;
    let function = register(&fabric, &people.alice).await;
    let mut old = fabric.connect(endpoint, &people.alice.token, 2);
    let accepted = submit(&fabric, &people.alice, call(endpoint, function, None, &[0, 1, 2, 3, 4, 5])).await;
    // It takes two and dies before it says that they have begun, so the new one makes another attempt at them.
    let taken = [old.next().await.id, old.next().await.id];
    drop(old);
    let mut new = fabric.connect(endpoint, &people.alice.token, 8);
    let mut rest: BTreeSet<TaskId> = accepted.tasks[0].iter().copied().collect();
    while !rest.is_empty() {
        let task = new.next().await;
        assert_eq!(task.attempt, 1 + u32::from(taken.contains(&task.id)));
        assert!(rest.remove(&task.id));
        new.finish(Outcome::returned(&task, ""));
        outcome(&fabric, &people.alice, task.id).await;
    }
}

#[tokio::test]
async fn a_service_whose_node_is_gone_accepts_nothing() {
    let people = People::new().await;
    let fabric = Fabric::start(ServiceConfig::default(), memory(), &people).await;
    let endpoint = fabric.register_endpoint(&people.alice).await;
    let function = register(&fabric, &people.alice).await;
    submit(&fabric, &people.alice, call(endpoint, function, None, &[1])).await;
    fabric.service.node().with(|_, _| panic!("the node breaks")).await.unwrap_err();
    let refused = fabric.service.submit(&people.alice.principal, call(endpoint, function, None, &[2])).await;
    let refused = refused.unwrap_err();
    assert_eq!((refused.error().kind(), refused.error().is_retryable()), (ErrorKind::Unavailable, true));
}
