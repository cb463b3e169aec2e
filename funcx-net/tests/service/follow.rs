//! Outcomes of a group as they come.

use super::*;

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
    let follow =
        async |after| fabric.service.follow(&people.alice.principal, accepted.group, after).await.unwrap();
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
    assert_eq!(
        lags_of_a_slow_follower(ServiceConfig { follower_outcomes: 1024, ..ServiceConfig::default() }).await,
        1
    );
}

#[tokio::test]
async fn outcomes_that_cannot_wait_as_they_are_are_read_in_their_order() {
    let room = size_of::<funcx_core::contract::TaskRecord>() * 100;
    assert_eq!(
        lags_of_a_slow_follower(ServiceConfig { follower_bytes: room, ..ServiceConfig::default() }).await,
        0
    );
}

/// How often a follower had to search that took nothing while 3000 outcomes came, and then got all of them.
async fn lags_of_a_slow_follower(config: ServiceConfig) -> usize {
    let people = People::new().await;
    let fabric = Fabric::start(config, memory(), &people).await;
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
    assert!(seen.is_sorted_by(|before, after| before.1 < after.1));
    assert_eq!(seen.iter().map(|(id, _)| *id).collect::<BTreeSet<_>>().len(), 3000);
    lagged
}
