//! Attempts, times and how tasks are forgotten.

use super::*;

use funcx_core::model::{AttemptId, TaskEvent, TaskEventKind};

fn event(task: TaskId, number: u32, kind: TaskEventKind) -> TaskEvent {
    TaskEvent {
        attempt: AttemptId { task, number },
        at: Timestamp::from_nanos(7),
        kind,
        actor: "manager".to_owned(),
        detail: "gone".to_owned(),
    }
}

fn limited(mut submit: Submit, limits: TaskLimits) -> Submit {
    submit.batches.iter_mut().for_each(|batch| batch.limits = limits);
    submit
}

fn times(ttl: Option<Duration>, deadline: Option<Duration>) -> TaskLimits {
    TaskLimits { ttl, deadline, ..TaskLimits::default() }
}

const SOON: Option<Duration> = Some(Duration::from_millis(1));
const LATE: Option<Duration> = Some(Duration::from_secs(86_400));

#[tokio::test]
async fn lost_attempts_count_after_a_restart() {
    let people = People::new().await;
    let store = memory();
    let fabric = Fabric::start(ServiceConfig::default(), Arc::clone(&store), &people).await;
    let endpoint = fabric.register_endpoint(&people.alice).await;
    let function = register(&fabric, &people.alice).await;
    let accepted = submit(&fabric, &people.alice, call(endpoint, function, None, &[1])).await;
    let id = accepted.tasks[0][0];
    let lost = event(id, 1, TaskEventKind::Lost);
    fabric.service.keep_events(vec![event(id, 1, TaskEventKind::Started), lost.clone()]).await;
    assert_eq!(fabric.service.task(&people.alice.principal, id).await.unwrap().record.attempt, 2);
    let transports = fabric.transports.clone();
    fabric.stop().await;

    let fabric = Fabric::start_at(ServiceConfig::default(), store, &people, transports).await;
    // The beginning of an attempt is in the stamps of its outcome, so it is not kept.
    assert_eq!(fabric.service.task_events(&people.alice.principal, id).await.unwrap(), [lost]);
    let foreign = fabric.service.task_events(&people.bob.principal, id).await.unwrap_err();
    assert_eq!(foreign.code(), "TASK_ACCESS_FORBIDDEN");
    let mut bench = fabric.connect(endpoint, &people.alice.token, 1);
    let task = bench.next().await;
    assert_eq!((task.id, task.attempt), (id, 2));
    bench.finish(Outcome::returned(&task, ""));
    assert_eq!(outcome(&fabric, &people.alice, id).await.attempt, 2);
}

#[tokio::test]
async fn who_asked_to_cancel_is_kept() {
    let people = People::new().await;
    let fabric = Fabric::start(small_window(1), memory(), &people).await;
    let endpoint = fabric.register_endpoint(&people.alice).await;
    let function = register(&fabric, &people.alice).await;
    let accepted = submit(&fabric, &people.alice, call(endpoint, function, None, &[1, 2])).await;
    let target = CancelTarget::Group(accepted.group);
    fabric.service.cancel(&people.alice.principal, target.clone()).await.unwrap();
    // A second request finds nothing to stop and leaves no trace.
    fabric.service.cancel(&people.alice.principal, target).await.unwrap();
    for id in &accepted.tasks[0] {
        let events = fabric.service.task_events(&people.alice.principal, *id).await.unwrap();
        let found: Vec<_> = events.iter().map(|event| (event.kind, event.actor.as_str())).collect();
        assert_eq!(found, [(TaskEventKind::CancelRequested, "alice")]);
        assert_eq!(events[0].attempt, AttemptId { task: *id, number: 1 });
    }
}

#[tokio::test]
async fn tasks_in_the_store_end_when_their_time_is_over() {
    let people = People::new().await;
    let store = memory();
    let fabric = Fabric::start(ServiceConfig::default(), Arc::clone(&store), &people).await;
    let endpoint = fabric.register_endpoint(&people.alice).await;
    let function = register(&fabric, &people.alice).await;
    let accept = async |limits| {
        let call = limited(call(endpoint, function, None, &[1, 2, 3]), limits);
        submit(&fabric, &people.alice, call).await.tasks.concat()
    };
    let stays = accept(times(LATE, LATE)).await;
    for (limits, code) in [
        (times(SOON, None), "TaskExpired"),
        (times(None, SOON), "DeadlinePassed"),
        (times(LATE, SOON), "DeadlinePassed"),
        (times(SOON, LATE), "TaskExpired"),
        (times(SOON, SOON), "DeadlinePassed"),
    ] {
        for id in accept(limits).await {
            let outcome = outcome(&fabric, &people.alice, id).await;
            assert_eq!((outcome.kind, outcome.attempt), (OutcomeKind::TimedOut, 1));
            assert_eq!(outcome.failure().unwrap().code, code);
        }
    }
    assert_eq!(fabric.service.figures(&[endpoint]).await.unwrap()[0].queued, 3);

    // Nothing that has ended comes to the endpoint, and those that stay know how long they have.
    let mut bench = fabric.connect(endpoint, &people.alice.token, 100);
    for id in stays {
        let task = bench.next().await;
        assert_eq!(task.id, id);
        bench.finish(Outcome::returned(&task, ""));
        outcome(&fabric, &people.alice, id).await;
    }
    assert!(bench.started.try_recv().is_err());
    assert_eq!(store.due(None, 10).await.unwrap(), []);
}

#[tokio::test]
async fn what_came_due_while_no_service_ran_ends_when_one_does() {
    let people = People::new().await;
    let store = Gated::new(memory());
    let fabric = Fabric::start(ServiceConfig::default(), Arc::clone(&store) as _, &people).await;
    let endpoint = fabric.register_endpoint(&people.alice).await;
    let function = register(&fabric, &people.alice).await;
    // The service is gone before it has heard that its submission is durable, so it cannot have ended the tasks.
    store.close();
    let asked = store.waiting();
    let both = times(SOON, Some(Duration::from_millis(2)));
    let call = limited(call(endpoint, function, Some(TaskGroupId::from_u128(5)), &[1, 2]), both);
    let mut submitting = Box::pin(fabric.service.submit(&people.alice.principal, call));
    tokio::select! {
        _ = &mut submitting => panic!("the store has not answered"),
        () = asked => {}
    }
    let due = store.due(None, 10).await.unwrap();
    assert_eq!(due.len(), 4, "a time to live and a deadline for each");
    drop(submitting);
    let transports = fabric.transports.clone();
    fabric.stop().await;
    store.open();
    let fabric = Fabric::start_at(ServiceConfig::default(), store, &people, transports).await;
    for due in due {
        assert_eq!(outcome(&fabric, &people.alice, due.task).await.kind, OutcomeKind::TimedOut);
    }
    let metrics = fabric.service.metrics().await.unwrap();
    let ended = metrics
        .lines()
        .find(|line| line.starts_with("funcx_tasks_finished_total{kind=\"timed-out\"}"))
        .unwrap();
    assert!(ended.ends_with(" 2"), "each ended once: {ended}");
}

#[tokio::test]
async fn a_task_that_began_in_time_does_not_expire() {
    let people = People::new().await;
    let store = memory();
    let fabric = Fabric::start(ServiceConfig::default(), Arc::clone(&store), &people).await;
    let endpoint = fabric.register_endpoint(&people.alice).await;
    let function = register(&fabric, &people.alice).await;
    let mut bench = fabric.connect(endpoint, &people.alice.token, 1);
    let call = limited(call(endpoint, function, None, &[1]), times(LATE, None));
    let id = submit(&fabric, &people.alice, call).await.tasks[0][0];
    assert_eq!(store.due(None, 10).await.unwrap().len(), 1);
    let task = bench.next().await;
    fabric.service.keep_events(vec![event(id, 1, TaskEventKind::Started)]).await;
    assert_eq!(store.due(None, 10).await.unwrap(), []);
    bench.finish(Outcome::returned(&task, ""));
    assert_eq!(outcome(&fabric, &people.alice, id).await.kind, OutcomeKind::Returned);
}

#[tokio::test]
async fn absurd_times_are_refused() {
    let people = People::new().await;
    let fabric = Fabric::start(ServiceConfig::default(), memory(), &people).await;
    let endpoint = fabric.register_endpoint(&people.alice).await;
    let function = register(&fabric, &people.alice).await;
    for absurd in [Duration::ZERO, Duration::MAX, Duration::from_secs(u64::from(u32::MAX))] {
        for name in ["walltime", "ttl", "deadline"] {
            let mut submit = call(endpoint, function, None, &[1]);
            let batch = &mut submit.batches[0];
            match name {
                "walltime" => batch.shape.walltime = Some(absurd),
                "ttl" => batch.limits.ttl = Some(absurd),
                _ => batch.limits.deadline = Some(absurd),
            }
            let refused = fabric.service.submit(&people.alice.principal, submit).await.unwrap_err();
            assert_eq!(refused.error().kind(), ErrorKind::InvalidInput);
            assert!(refused.to_string().contains(name), "{refused}");
        }
    }
    submit(&fabric, &people.alice, limited(call(endpoint, function, None, &[1]), times(LATE, LATE))).await;
}

#[tokio::test]
async fn only_what_has_ended_and_is_ones_own_is_purged() {
    let people = People::new().await;
    let fabric = Fabric::start(ServiceConfig::default(), memory(), &people).await;
    let endpoint = fabric.register_endpoint(&people.alice).await;
    let function = register(&fabric, &people.alice).await;
    let accepted = submit(&fabric, &people.alice, call(endpoint, function, None, &[1, 2, 3])).await;
    let ids = accepted.tasks.concat();
    let (alice, bob) = (&people.alice.principal, &people.bob.principal);
    fabric.service.cancel(alice, CancelTarget::Tasks(ids[..2].to_vec())).await.unwrap();

    let target = CancelTarget::Tasks(vec![ids[0], ids[2], TaskId::from_u128(9)]);
    let report = fabric.service.purge(bob, target.clone()).await.unwrap();
    assert_eq!((report.purged, report.unfinished, report.unknown), (0, 0, 3));
    // Read as often as one likes, until it is purged.
    for _ in 0..2 {
        assert_eq!(outcome(&fabric, &people.alice, ids[0]).await.kind, OutcomeKind::Cancelled);
    }
    let report = fabric.service.purge(alice, target).await.unwrap();
    assert_eq!((report.purged, report.unfinished, report.unknown), (1, 1, 1));
    assert_eq!(fabric.service.task(alice, ids[0]).await.unwrap_err().code(), "TASK_NOT_FOUND");
    let report = fabric.service.purge(alice, CancelTarget::Group(accepted.group)).await.unwrap();
    assert_eq!((report.purged, report.unfinished, report.unknown), (1, 1, 0));
    let (left, _) = fabric.service.task_ids(alice, None, None, 10).await.unwrap();
    assert_eq!(left, [ids[2]]);

    // The one that stays runs.
    let mut bench = fabric.connect(endpoint, &people.alice.token, 1);
    assert_eq!(echo(&mut bench).await.0, ids[2]);
    assert_eq!(outcome(&fabric, &people.alice, ids[2]).await.kind, OutcomeKind::Returned);
}

#[tokio::test]
async fn results_are_forgotten_when_they_are_old_enough() {
    let people = People::new().await;
    let store = memory();
    let fabric = Fabric::start(ServiceConfig::default(), Arc::clone(&store), &people).await;
    let endpoint = fabric.register_endpoint(&people.alice).await;
    let function = register(&fabric, &people.alice).await;
    let ended = submit(&fabric, &people.alice, call(endpoint, function, None, &[1, 2])).await;
    let waits = submit(&fabric, &people.alice, call(endpoint, function, None, &[3])).await.tasks[0][0];
    fabric.service.cancel(&people.alice.principal, CancelTarget::Group(ended.group)).await.unwrap();
    let transports = fabric.transports.clone();
    fabric.stop().await;
    assert!(store.oldest_ended().await.unwrap().is_some(), "they were kept until now");

    let config = ServiceConfig { result_retention: Some(Duration::ZERO), ..ServiceConfig::default() };
    let fabric = Fabric::start_at(config, Arc::clone(&store), &people, transports).await;
    let forgotten = async {
        while store.oldest_ended().await.unwrap().is_some() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, forgotten).await.expect("they are forgotten");
    let (left, _) = fabric.service.task_ids(&people.alice.principal, None, None, 10).await.unwrap();
    assert_eq!(left, [waits]);
}
