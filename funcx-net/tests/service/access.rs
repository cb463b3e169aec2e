//! Who may do what.

use super::*;

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
    assert_eq!(
        code(fabric.service.function(bob, private, Action::Read).await.unwrap_err()),
        "FUNCTION_ACCESS_FORBIDDEN"
    );
    assert_eq!(
        code(fabric.service.task(bob, accepted.tasks[0][0]).await.unwrap_err()),
        "TASK_ACCESS_FORBIDDEN"
    );
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

/// Somebody's own endpoint and function.
async fn place(fabric: &Fabric, owner: &Person) -> (EndpointId, FunctionId) {
    (fabric.register_endpoint(owner).await, register(fabric, owner).await)
}

#[tokio::test]
async fn a_group_belongs_to_who_has_its_first_tasks() {
    let people = People::new().await;
    let store = Gated::new(memory());
    let fabric = Fabric::start(ServiceConfig::default(), Arc::clone(&store) as _, &people).await;
    let (alice, bob) = (&people.alice.principal, &people.bob.principal);
    let (at_alice, of_alice) = place(&fabric, &people.alice).await;
    let (at_bob, of_bob) = place(&fabric, &people.bob).await;
    let (first, second) = (TaskGroupId::from_u128(5), TaskGroupId::from_u128(6));

    // Who fails to submit to a group has no claim to it.
    store.failures.store(1, std::sync::atomic::Ordering::SeqCst);
    let failed = fabric.service.submit(alice, call(at_alice, of_alice, Some(first), &[1])).await;
    assert_eq!(failed.unwrap_err().error().kind(), ErrorKind::Unavailable);
    submit(&fabric, &people.bob, call(at_bob, of_bob, Some(first), &[1])).await;
    let late = fabric.service.submit(alice, call(at_alice, of_alice, Some(first), &[1])).await;
    assert_eq!(late.unwrap_err().code(), "TASK_GROUP_ACCESS_FORBIDDEN");

    // Of two at the same time the second is refused, and the first may send more.
    store.close();
    let asked = store.waiting();
    let mut one = Box::pin(fabric.service.submit(alice, call(at_alice, of_alice, Some(second), &[1])));
    tokio::select! {
        _ = &mut one => panic!("the store has not answered"),
        () = asked => {}
    }
    let other = fabric.service.submit(bob, call(at_bob, of_bob, Some(second), &[1])).await;
    assert_eq!(other.unwrap_err().code(), "TASK_GROUP_ACCESS_FORBIDDEN");
    store.open();
    one.await.unwrap();
    submit(&fabric, &people.alice, call(at_alice, of_alice, Some(second), &[2])).await;
}
