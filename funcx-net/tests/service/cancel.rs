//! Tasks that are ended before they are done.

use funcx_core::model::Failure;

use super::*;

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
    assert_eq!((report.cancelled, report.asked, report.unknown), (2, 1, 1));
    let effects =
        [CancelEffect::Asked, CancelEffect::Cancelled, CancelEffect::Cancelled, CancelEffect::Unknown];
    assert_eq!(report.effects, effects);
    for id in [queued, tail] {
        assert_eq!(ending(&fabric, &people, id).await, (OutcomeKind::Cancelled, "Cancelled".to_owned()));
    }
    assert_eq!(bench.cancelled.recv().await.unwrap().task, leased);
    bench.finish(Outcome::failed(&running, OutcomeKind::Cancelled, &Failure::new("Cancelled", "stopped")));
    assert_eq!(outcome(&fabric, &people.alice, leased).await.kind, OutcomeKind::Cancelled);

    // The others run, those that were cancelled do not; and cancelling again changes nothing.
    for id in [ids[2], ids[4]] {
        assert_eq!(echo(&mut bench).await.0, id);
        outcome(&fabric, &people.alice, id).await;
    }
    let report = fabric.service.cancel(&people.alice.principal, target).await.unwrap();
    assert_eq!((report.cancelled, report.asked, report.finished, report.unknown), (0, 0, 3, 1));
    let report =
        fabric.service.cancel(&people.alice.principal, CancelTarget::Group(accepted.group)).await.unwrap();
    assert_eq!(report.cancelled, 0);
    assert_eq!(fabric.service.figures(&[endpoint]).await.unwrap()[0].queued, 0);
}

#[tokio::test]
async fn what_an_endpoint_that_is_away_has_is_cancelled_at_once() {
    let people = People::new().await;
    let fabric = Fabric::start(ServiceConfig::default(), memory(), &people).await;
    let endpoint = fabric.register_endpoint(&people.alice).await;
    let function = register(&fabric, &people.alice).await;
    let mut bench = fabric.connect(endpoint, &people.alice.token, 1);
    let id = submit(&fabric, &people.alice, call(endpoint, function, None, &[1])).await.tasks[0][0];
    bench.next().await;
    drop(bench);
    while fabric.service.figures(&[endpoint]).await.unwrap()[0].connected {
        tokio::task::yield_now().await;
    }
    let target = CancelTarget::Tasks(vec![id, id]);
    let report = fabric.service.cancel(&people.alice.principal, target).await.unwrap();
    assert_eq!(report.effects, [CancelEffect::Cancelled; 2]);
    assert_eq!(outcome(&fabric, &people.alice, id).await.kind, OutcomeKind::Cancelled);
    assert_eq!(fabric.service.task_events(&people.alice.principal, id).await.unwrap().len(), 1);
}

#[tokio::test]
async fn what_an_absent_endpoint_may_have_is_cancelled_without_its_word() {
    let people = People::new().await;
    let fabric = Fabric::start(small_window(2), memory(), &people).await;
    let endpoint = fabric.register_endpoint(&people.alice).await;
    let function = register(&fabric, &people.alice).await;
    let accepted = submit(&fabric, &people.alice, call(endpoint, function, None, &[0, 1, 2, 3])).await;
    // Not by this service; but an earlier one may have given it to the endpoint.
    let target = CancelTarget::Tasks(accepted.tasks[0].clone());
    assert_eq!(fabric.service.cancel(&people.alice.principal, target).await.unwrap().cancelled, 4);
    for id in &accepted.tasks[0] {
        let away = (OutcomeKind::Cancelled, Failure::CANCELLED_AWAY.to_owned());
        assert_eq!(ending(&fabric, &people, *id).await, away);
    }
}

async fn ending(fabric: &Fabric, people: &People, task: TaskId) -> (OutcomeKind, String) {
    let outcome = outcome(fabric, &people.alice, task).await;
    (outcome.kind, outcome.failure().unwrap().code)
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
async fn tasks_that_are_being_accepted_can_be_cancelled() {
    let people = People::new().await;
    let store = Gated::new(memory());
    let fabric = Fabric::start(ServiceConfig::default(), Arc::clone(&store) as _, &people).await;
    let endpoint = fabric.register_endpoint(&people.alice).await;
    let function = register(&fabric, &people.alice).await;
    let mut bench = fabric.connect(endpoint, &people.alice.token, 10);
    let group = Some(TaskGroupId::from_u128(5));
    store.close();
    let asked = store.waiting();
    let service = Arc::clone(&fabric.service);
    let alice = people.alice.principal.clone();
    let submitting = tokio::spawn({
        let (service, alice) = (Arc::clone(&service), alice.clone());
        async move { service.submit(&alice, call(endpoint, function, group, &[1, 2])).await }
    });
    asked.await;
    // The store shows the tasks already, but has not said that they will stay.
    let asked = store.waiting();
    let cancelling =
        tokio::spawn(
            async move { service.cancel(&alice, CancelTarget::Group(TaskGroupId::from_u128(5))).await },
        );
    asked.await;
    store.open();
    let accepted = submitting.await.unwrap().unwrap();
    assert_eq!(cancelling.await.unwrap().unwrap().cancelled, 2);
    for id in &accepted.tasks[0] {
        assert_eq!(outcome(&fabric, &people.alice, *id).await.kind, OutcomeKind::Cancelled);
    }
    submit(&fabric, &people.alice, call(endpoint, function, group, &[3])).await;
    assert_eq!(echo(&mut bench).await.1, "3");
}
