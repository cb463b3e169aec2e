//! Endpoints that come and go.

use super::*;

fn again(endpoint: EndpointId) -> NewEndpoint {
    NewEndpoint {
        id: Some(endpoint),
        name: "again".to_owned(),
        access: Access::Private,
        allowed_functions: None,
        metadata: "{}".to_owned(),
    }
}

#[tokio::test]
async fn an_endpoint_that_is_registered_while_it_is_deleted_is_there_afterwards() {
    let people = People::new().await;
    let store = Gated::new(memory());
    let fabric = Fabric::start(ServiceConfig::default(), Arc::clone(&store) as _, &people).await;
    let alice = &people.alice.principal;
    let endpoint = fabric.register_endpoint(&people.alice).await;
    let function = register(&fabric, &people.alice).await;
    submit(&fabric, &people.alice, call(endpoint, function, None, &[1])).await;
    store.close();
    let asked = store.waiting();
    let mut deleting = Box::pin(fabric.service.delete_endpoint(alice, endpoint));
    tokio::select! {
        _ = &mut deleting => panic!("the store has not answered"),
        () = asked => {}
    }
    let mut registering = Box::pin(fabric.service.register_endpoint(alice, again(endpoint)));
    tokio::select! {
        biased;
        _ = &mut registering => panic!("the endpoint is being deleted"),
        () = tokio::task::yield_now() => {}
    }
    store.open();
    let (deleted, registered) = tokio::join!(deleting, registering);
    deleted.unwrap();
    assert_eq!(registered.unwrap().name, "again");
    assert_eq!(fabric.service.endpoint(alice, endpoint, Action::Read).await.unwrap().name, "again");
    submit(&fabric, &people.alice, call(endpoint, function, None, &[2])).await;
    let mut bench = fabric.connect(endpoint, &people.alice.token, 1);
    assert_eq!(echo(&mut bench).await.1, "2");
}

#[tokio::test]
async fn a_copy_does_not_rename_an_endpoint_that_runs() {
    let people = People::new().await;
    let fabric = Fabric::start(ServiceConfig::default(), memory(), &people).await;
    let alice = &people.alice.principal;
    let endpoint = fabric.register_endpoint(&people.alice).await;
    let mut bench = fabric.connect(endpoint, &people.alice.token, 1);
    assert!(matches!(bench.notice().await, NodeNotice::OpenedAbove));
    // The link is open before the service has noted it.
    while !fabric.service.figures(&[endpoint]).await.unwrap()[0].connected {
        tokio::task::yield_now().await;
    }
    let refused = fabric.service.register_endpoint(alice, again(endpoint)).await.unwrap_err();
    assert_eq!(refused.error().kind(), ErrorKind::Conflict);
    assert!(refused.error().to_string().contains("running as `bench`"), "{}", refused.error());
    assert_eq!(fabric.service.endpoint(alice, endpoint, Action::Read).await.unwrap().name, "bench");
    let same = NewEndpoint { name: "bench".to_owned(), ..again(endpoint) };
    fabric.service.register_endpoint(alice, same).await.unwrap();
}

#[tokio::test]
async fn an_endpoint_that_could_not_be_deleted_takes_tasks_and_keeps_its_connection() {
    let people = People::new().await;
    let store = Gated::new(memory());
    let fabric = Fabric::start(ServiceConfig::default(), Arc::clone(&store) as _, &people).await;
    let alice = &people.alice.principal;
    let endpoint = fabric.register_endpoint(&people.alice).await;
    let function = register(&fabric, &people.alice).await;
    let mut bench = fabric.connect(endpoint, &people.alice.token, 1);
    assert!(matches!(bench.notice().await, NodeNotice::OpenedAbove));
    submit(&fabric, &people.alice, call(endpoint, function, None, &[1])).await;
    echo(&mut bench).await;
    store.failures.store(1, std::sync::atomic::Ordering::SeqCst);
    let failed = fabric.service.delete_endpoint(alice, endpoint).await.unwrap_err();
    assert_eq!(failed.error().kind(), ErrorKind::Unavailable);
    submit(&fabric, &people.alice, call(endpoint, function, None, &[2])).await;
    assert_eq!(echo(&mut bench).await.1, "2");
}
