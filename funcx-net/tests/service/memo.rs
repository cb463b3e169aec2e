//! Calls that are answered with values of equal ones.

use super::*;

use funcx_core::model::Memoize;

async fn memoized(fabric: &Fabric, owner: &Person, memoize: Memoize, access: Access) -> FunctionId {
    let new = NewFunction {
        function: Function::native("work"),
        name: "work".to_owned(),
        description: String::new(),
        access,
        memoize,
        metadata: "{}".to_owned(),
    };
    fabric.service.register_function(&owner.principal, new).await.unwrap().id
}

/// An endpoint on which everybody may run.
async fn public_endpoint(fabric: &Fabric, owner: &Person) -> EndpointId {
    let public = NewEndpoint {
        id: None,
        name: "public".to_owned(),
        access: Access::Public,
        allowed_functions: None,
        metadata: "{}".to_owned(),
    };
    fabric.service.register_endpoint(&owner.principal, public).await.unwrap().id
}

/// Lets the next task return its value.
async fn run_next(bench: &mut Bench) -> funcx_core::model::Task {
    let task = bench.next().await;
    bench.finish(returned(&task));
    task
}

fn asking(mut submit: Submit, memoize: bool) -> Submit {
    submit.batches.iter_mut().for_each(|batch| batch.memoize = Some(memoize));
    submit
}

fn returned(task: &funcx_core::model::Task) -> Outcome {
    Outcome::returned(task, format!("value of {}", String::from_utf8_lossy(&task.payload)))
}

#[tokio::test]
async fn an_equal_call_has_the_value_at_once_without_an_endpoint_and_after_a_restart() {
    let people = People::new().await;
    let store = memory();
    let fabric = Fabric::start(ServiceConfig::default(), Arc::clone(&store), &people).await;
    let endpoint = fabric.register_endpoint(&people.alice).await;
    let function = register(&fabric, &people.alice).await;
    let mut bench = fabric.connect(endpoint, &people.alice.token, 4);
    let group = TaskGroupId::from_u128(7);
    let first =
        submit(&fabric, &people.alice, asking(call(endpoint, function, Some(group), &[1]), true)).await;
    run_next(&mut bench).await;
    let ran = outcome(&fabric, &people.alice, first.tasks[0][0]).await;
    assert_eq!((ran.kind, ran.is_remembered()), (OutcomeKind::Returned, false));
    let transports = fabric.transports.clone();
    drop(bench);

    let check = async |fabric: &Fabric| {
        let calls = asking(call(endpoint, function, Some(group), &[1, 2, 1]), true);
        let again = submit(fabric, &people.alice, calls).await;
        for known in [again.tasks[0][0], again.tasks[0][2]] {
            let answer = outcome(fabric, &people.alice, known).await;
            assert_eq!((&answer.payload[..], answer.is_remembered()), (&b"value of 1"[..], true));
            assert_eq!(answer.task, known);
        }
        let waiting = fabric.service.task(&people.alice.principal, again.tasks[0][1]).await.unwrap();
        assert_ne!(waiting.status, TaskStatus::Finished);
    };
    check(&fabric).await;
    fabric.stop().await;
    let fabric = Fabric::start_at(ServiceConfig::default(), store, &people, transports).await;
    check(&fabric).await;
}

#[tokio::test]
async fn equal_calls_under_way_run_once_and_all_are_told() {
    let people = People::new().await;
    let fabric = Fabric::start(ServiceConfig::default(), memory(), &people).await;
    let endpoint = fabric.register_endpoint(&people.alice).await;
    let function = memoized(&fabric, &people.alice, Memoize::Own, Access::Private).await;
    let mut bench = fabric.connect(endpoint, &people.alice.token, 8);
    let accepted = submit(&fabric, &people.alice, call(endpoint, function, None, &[1, 1, 2, 1])).await;
    let (one, two) = (bench.next().await, bench.next().await);
    assert_eq!((&one.payload[..], &two.payload[..]), (&b"1"[..], &b"2"[..]));
    let ids = &accepted.tasks[0];
    // One of those that wait is cancelled, and runs nowhere.
    let report =
        fabric.service.cancel(&people.alice.principal, CancelTarget::Tasks(vec![ids[3]])).await.unwrap();
    assert_eq!(report.cancelled, 1);
    bench.finish(returned(&one));
    for id in [ids[0], ids[1]] {
        assert_eq!(outcome(&fabric, &people.alice, id).await.payload, "value of 1");
    }
    assert_eq!(outcome(&fabric, &people.alice, ids[3]).await.kind, OutcomeKind::Cancelled);
    // If one fails, the next one runs.
    let more = submit(&fabric, &people.alice, call(endpoint, function, None, &[2])).await;
    bench.finish(Outcome::failed(&two, OutcomeKind::Raised, &Failure::new("E", "no")));
    let again = bench.next().await;
    assert_eq!(again.id, more.tasks[0][0]);
    bench.finish(returned(&again));
    assert_eq!(outcome(&fabric, &people.alice, again.id).await.kind, OutcomeKind::Returned);
    // Whoever wants to run does.
    submit(&fabric, &people.alice, asking(call(endpoint, function, None, &[1]), false)).await;
    assert_eq!(bench.next().await.payload, "1");
}

#[tokio::test]
async fn values_are_shared_only_where_the_function_says_so_and_only_at_one_endpoint() {
    let people = People::new().await;
    let fabric = Fabric::start(ServiceConfig::default(), memory(), &people).await;
    let endpoint = public_endpoint(&fabric, &people.alice).await;
    let own = fabric.register_endpoint(&people.bob).await;
    let mut bench = fabric.connect(endpoint, &people.alice.token, 8);
    let mut at_bobs = fabric.connect(own, &people.bob.token, 8);
    for memoize in [Memoize::Own, Memoize::Shared] {
        let function = memoized(&fabric, &people.alice, memoize, Access::Public).await;
        let mine = submit(&fabric, &people.alice, call(endpoint, function, None, &[1])).await;
        let task = bench.next().await;
        bench.finish(returned(&task));
        outcome(&fabric, &people.alice, mine.tasks[0][0]).await;
        let theirs = submit(&fabric, &people.bob, call(endpoint, function, None, &[1])).await;
        if memoize == Memoize::Own {
            let task = bench.next().await;
            assert_eq!(task.id, theirs.tasks[0][0], "it is somebody else's value");
            bench.finish(returned(&task));
        }
        let theirs = outcome(&fabric, &people.bob, theirs.tasks[0][0]).await;
        assert_eq!(theirs.is_remembered(), memoize == Memoize::Shared);
        // Elsewhere the same function may see other files.
        submit(&fabric, &people.bob, call(own, function, None, &[1])).await;
        let elsewhere = match memoize {
            Memoize::Own => continue,
            _ => at_bobs.next().await,
        };
        at_bobs.finish(returned(&elsewhere));
    }
}

#[tokio::test]
async fn a_group_is_told_about_calls_that_were_answered_at_once() {
    let people = People::new().await;
    let fabric = Fabric::start(ServiceConfig::default(), memory(), &people).await;
    let endpoint = fabric.register_endpoint(&people.alice).await;
    let function = memoized(&fabric, &people.alice, Memoize::Own, Access::Private).await;
    let mut bench = fabric.connect(endpoint, &people.alice.token, 8);
    let group = submit(&fabric, &people.alice, call(endpoint, function, None, &[1])).await.group;
    let task = run_next(&mut bench).await;
    outcome(&fabric, &people.alice, task.id).await;
    let follow = fabric.service.follow(&people.alice.principal, group, Timestamp::UNSET);
    let mut follower = follow.await.unwrap();
    let accepted = submit(&fabric, &people.alice, call(endpoint, function, Some(group), &[1, 1])).await;
    let mut told = Vec::new();
    while told.len() < 3 {
        if let Some(FollowEvent::Outcome(record)) = follower.next().await.unwrap() {
            told.push(record.id);
        }
    }
    assert_eq!(told, [task.id, accepted.tasks[0][0], accepted.tasks[0][1]]);
}

#[tokio::test]
async fn a_store_that_refuses_accepts_no_answers_either() {
    let people = People::new().await;
    let store = Gated::new(memory());
    let fabric = Fabric::start(ServiceConfig::default(), Arc::clone(&store) as _, &people).await;
    let endpoint = fabric.register_endpoint(&people.alice).await;
    let function = memoized(&fabric, &people.alice, Memoize::Own, Access::Private).await;
    let mut bench = fabric.connect(endpoint, &people.alice.token, 8);
    let first = submit(&fabric, &people.alice, call(endpoint, function, None, &[1])).await;
    run_next(&mut bench).await;
    outcome(&fabric, &people.alice, first.tasks[0][0]).await;
    // What is remembered is committed after the outcome was told.
    store.commit(Vec::new()).await.unwrap();
    store.failures.store(1, std::sync::atomic::Ordering::SeqCst);
    let calls = call(endpoint, function, Some(first.group), &[1]);
    fabric.service.submit(&people.alice.principal, calls.clone()).await.unwrap_err();
    let accepted = submit(&fabric, &people.alice, calls).await;
    assert!(outcome(&fabric, &people.alice, accepted.tasks[0][0]).await.is_remembered());
}

#[tokio::test]
async fn the_same_code_registered_by_somebody_else_shares_nothing() {
    let people = People::new().await;
    let fabric = Fabric::start(ServiceConfig::default(), memory(), &people).await;
    let endpoint = public_endpoint(&fabric, &people.alice).await;
    let mut bench = fabric.connect(endpoint, &people.alice.token, 8);
    let mine = memoized(&fabric, &people.alice, Memoize::Shared, Access::Private).await;
    let theirs = memoized(&fabric, &people.bob, Memoize::Shared, Access::Private).await;
    let first = submit(&fabric, &people.alice, call(endpoint, mine, None, &[1])).await;
    run_next(&mut bench).await;
    outcome(&fabric, &people.alice, first.tasks[0][0]).await;
    let second = submit(&fabric, &people.bob, call(endpoint, theirs, None, &[1])).await;
    assert_eq!(bench.next().await.id, second.tasks[0][0], "it is not for them");
}

#[tokio::test]
async fn submissions_around_one_that_is_answered_whole_are_all_handed_in() {
    let people = People::new().await;
    let store = Gated::new(memory());
    let fabric = Fabric::start(ServiceConfig::default(), Arc::clone(&store) as _, &people).await;
    let endpoint = fabric.register_endpoint(&people.alice).await;
    let function = memoized(&fabric, &people.alice, Memoize::Own, Access::Private).await;
    let mut bench = fabric.connect(endpoint, &people.alice.token, 8);
    let first = submit(&fabric, &people.alice, call(endpoint, function, None, &[1])).await;
    run_next(&mut bench).await;
    outcome(&fabric, &people.alice, first.tasks[0][0]).await;
    // All three are committed at the same time, so that they settle in any order.
    store.close();
    let submitted: Vec<_> = [2, 1, 3]
        .map(|number| {
            let (service, principal) = (Arc::clone(&fabric.service), people.alice.principal.clone());
            let submit = call(endpoint, function, Some(first.group), &[number]);
            tokio::spawn(async move { service.submit(&principal, submit).await })
        })
        .into();
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    store.open();
    for submitted in submitted {
        submitted.await.unwrap().unwrap();
    }
    let mut came = [bench.next().await, bench.next().await].map(|task| task.payload);
    came.sort();
    assert_eq!(came, ["2", "3"]);
}

#[tokio::test]
async fn a_call_that_is_accepted_while_the_outcome_of_an_equal_one_is_made_safe_does_not_run() {
    let people = People::new().await;
    let store = Gated::new(memory());
    let fabric = Fabric::start(ServiceConfig::default(), Arc::clone(&store) as _, &people).await;
    let endpoint = fabric.register_endpoint(&people.alice).await;
    let function = memoized(&fabric, &people.alice, Memoize::Own, Access::Private).await;
    let mut bench = fabric.connect(endpoint, &people.alice.token, 8);
    let first = submit(&fabric, &people.alice, call(endpoint, function, None, &[1])).await;
    let task = bench.next().await;
    store.close();
    let committing = store.waiting();
    bench.finish(returned(&task));
    committing.await;
    // Its outcome has come and nobody may know it yet.
    let committing = store.waiting();
    let (service, principal) = (Arc::clone(&fabric.service), people.alice.principal.clone());
    let calls = call(endpoint, function, Some(first.group), &[1]);
    let submitted = tokio::spawn(async move { service.submit(&principal, calls).await });
    committing.await;
    store.open();
    let accepted = submitted.await.unwrap().unwrap();
    assert!(outcome(&fabric, &people.alice, accepted.tasks[0][0]).await.is_remembered());
    assert_eq!(outcome(&fabric, &people.alice, task.id).await.kind, OutcomeKind::Returned);
}

#[tokio::test]
async fn a_purged_value_answers_no_more() {
    let people = People::new().await;
    let fabric = Fabric::start(ServiceConfig::default(), memory(), &people).await;
    let endpoint = fabric.register_endpoint(&people.alice).await;
    let function = memoized(&fabric, &people.alice, Memoize::Own, Access::Private).await;
    let mut bench = fabric.connect(endpoint, &people.alice.token, 8);
    let first = submit(&fabric, &people.alice, call(endpoint, function, None, &[1])).await;
    let task = run_next(&mut bench).await;
    outcome(&fabric, &people.alice, task.id).await;
    let target = CancelTarget::Tasks(vec![task.id]);
    assert_eq!(fabric.service.purge(&people.alice.principal, target).await.unwrap().purged, 1);
    submit(&fabric, &people.alice, call(endpoint, function, Some(first.group), &[1])).await;
    assert_eq!(bench.next().await.payload, "1");
}

#[tokio::test]
async fn many_equal_calls_with_a_large_value_all_have_it() {
    let people = People::new().await;
    let fabric = Fabric::start(ServiceConfig::default(), memory(), &people).await;
    let endpoint = fabric.register_endpoint(&people.alice).await;
    let function = memoized(&fabric, &people.alice, Memoize::Own, Access::Private).await;
    let mut bench = fabric.connect(endpoint, &people.alice.token, 8);
    let accepted = submit(&fabric, &people.alice, call(endpoint, function, None, &[1; 40])).await;
    let task = bench.next().await;
    let large = vec![b'x'; 3 << 20];
    bench.finish(Outcome::returned(&task, large.clone()));
    for id in &accepted.tasks[0] {
        assert_eq!(outcome(&fabric, &people.alice, *id).await.payload, large);
    }
    // Ten of them may be answered at once, the others by the node.
    let again = submit(&fabric, &people.alice, call(endpoint, function, None, &[1; 40])).await;
    for id in &again.tasks[0] {
        assert_eq!(outcome(&fabric, &people.alice, *id).await.payload, large);
    }
}
