//! Each owner and each priority has a queue of its own in the window of an endpoint.

use super::*;

/// An endpoint of Alice on which Bob may run too, and a function that both may call.
async fn shared(fabric: &Fabric, people: &People) -> (EndpointId, FunctionId) {
    let new = NewEndpoint {
        id: None,
        name: "shared".to_owned(),
        access: Access::Public,
        allowed_functions: None,
        metadata: "{}".to_owned(),
    };
    let endpoint = fabric.service.register_endpoint(&people.alice.principal, new).await.unwrap().id;
    (endpoint, register_for(fabric, &people.alice, Access::Public).await)
}

fn with_priority(mut submit: Submit, priority: i8) -> Submit {
    for batch in &mut submit.batches {
        batch.limits.priority = priority;
    }
    submit
}

/// Waits until so many tasks have been taken by the dispatcher, and takes none more than that.
async fn loaded(fabric: &Fabric, tasks: u64) {
    let counted = async {
        while fabric.service.node().with(|node, _| node.counters().accepted).await.unwrap() != tasks {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, counted).await.expect("the tasks are loaded");
}

#[tokio::test]
async fn the_backlog_of_one_owner_does_not_keep_out_another_or_a_higher_priority() {
    let people = People::new().await;
    let fabric = Fabric::start(small_window(3), memory(), &people).await;
    let (endpoint, function) = shared(&fabric, &people).await;
    let backlog: Vec<u32> = (0..500).collect();
    submit(&fabric, &people.alice, call(endpoint, function, None, &backlog)).await;
    let early = submit(&fabric, &people.bob, call(endpoint, function, None, &[1000])).await;
    let mut bench = fabric.connect(endpoint, &people.alice.token, 1);
    let running = bench.next().await;
    // Three of Alice's, and Bob's, which is behind all of hers.
    loaded(&fabric, 4).await;
    let urgent = call(endpoint, function, None, &[2000, 2001]);
    let urgent = submit(&fabric, &people.alice, with_priority(urgent, 7)).await;
    let late = submit(&fabric, &people.bob, call(endpoint, function, None, &[1001])).await;
    loaded(&fabric, 7).await;
    bench.finish(Outcome::returned(&running, ""));

    // Whoever waits and in whichever order they go, each of them ends.
    let mut order = BTreeMap::new();
    for place in 1..504 {
        let (id, _) = echo(&mut bench).await;
        assert!(order.insert(id, place).is_none(), "a task came twice");
    }
    for (accepted, person) in [(&early, &people.bob), (&late, &people.bob), (&urgent, &people.alice)] {
        for id in accepted.tasks.concat() {
            assert_eq!(outcome(&fabric, person, id).await.kind, OutcomeKind::Returned);
        }
    }
    assert!(bench.started.try_recv().is_err());
}

#[tokio::test]
async fn every_queue_is_loaded_when_its_endpoint_comes() {
    let people = People::new().await;
    let store = memory();
    let fabric = Fabric::start(small_window(2), Arc::clone(&store), &people).await;
    let (endpoint, function) = shared(&fabric, &people).await;
    let mut expected = BTreeSet::new();
    for priority in [-128, -1, 0, 127] {
        for person in [&people.alice, &people.bob] {
            let call = with_priority(call(endpoint, function, None, &[1, 2, 3]), priority);
            expected.extend(submit(&fabric, person, call).await.tasks.concat());
        }
    }
    // Also by a service that has read the queues from the store.
    let transports = fabric.transports.clone();
    fabric.stop().await;
    let fabric = Fabric::start_at(small_window(2), store, &people, transports).await;
    let mut bench = fabric.connect(endpoint, &people.alice.token, 1);
    let running = bench.next().await;
    loaded(&fabric, 16).await;
    assert_eq!(fabric.service.figures(&[endpoint]).await.unwrap()[0].queued, 23);
    assert!(expected.remove(&running.id));
    bench.finish(Outcome::returned(&running, ""));
    while !expected.is_empty() {
        assert!(expected.remove(&echo(&mut bench).await.0));
    }
}

#[tokio::test]
async fn queues_and_bytes_of_an_endpoint_are_bounded() {
    let people = People::new().await;
    let config = ServiceConfig { endpoint_queues: 2, endpoint_bytes: 10, ..ServiceConfig::default() };
    let fabric = Fabric::start(config, memory(), &people).await;
    let (endpoint, function) = shared(&fabric, &people).await;
    let try_submit = async |person: &Person, priority, numbers: &[u32]| {
        let call = with_priority(call(endpoint, function, None, numbers), priority);
        fabric.service.submit(&person.principal, call).await
    };
    let first = try_submit(&people.alice, 0, &[1]).await.unwrap();
    try_submit(&people.bob, 0, &[2]).await.unwrap();
    for (person, priority, numbers, setting) in
        [(&people.alice, 1, 3, "endpoint_queues"), (&people.bob, 0, 1_000_000_000, "endpoint_bytes")]
    {
        let full = try_submit(person, priority, &[numbers]).await.unwrap_err();
        assert_eq!((full.error().kind(), full.error().is_retryable()), (ErrorKind::LimitExceeded, true));
        assert!(full.to_string().contains(setting), "{full}");
    }
    // A queue that has run empty makes room for another one, and its bytes do too.
    let target = CancelTarget::Tasks(first.tasks.concat());
    fabric.service.cancel(&people.alice.principal, target).await.unwrap();
    try_submit(&people.alice, 1, &[100_000_000]).await.unwrap();
    assert_eq!(fabric.service.figures(&[endpoint]).await.unwrap()[0].queued, 2);
}
