//! Where tasks wait, and that they are run once.

use super::*;

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
    // An outcome can be read as soon as it is stored, a moment before it is counted.
    let counted = async {
        loop {
            let figures = fabric.service.figures(&[endpoint]).await.unwrap()[0];
            if (figures.queued, figures.leased) == (0, 0) {
                break;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, counted).await.expect("nothing is left");
    let stop = Submit {
        batches: vec![Batch {
            arguments: vec!["stop".into()],
            ..call(endpoint, function, None, &[1]).batches.remove(0)
        }],
        ..call(endpoint, function, None, &[1])
    };
    submit(&fabric, &people.alice, stop).await;
    let started = tokio::time::timeout(PATIENCE, runner).await.unwrap().unwrap();
    assert!(started.values().all(|count| *count == 1), "a task was handed in twice");
    assert!(ran.iter().all(|id| started.contains_key(id)));
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
