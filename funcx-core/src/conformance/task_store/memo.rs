//! What a store promises about values that answer equal calls.

use super::{EVERYTHING, Scene};
use crate::contract::{OutcomeRecord, TaskQuery, Write};
use crate::memo::MemoKey;
use crate::model::{Failure, Outcome, OutcomeKind, Task, TaskId, Timestamp};

pub(super) async fn suite<'a>(scene: impl Fn(u64) -> Scene<'a>) {
    tasks_that_are_added_with_their_outcomes_have_ended(scene(50)).await;
    values_are_found_by_key_until_their_task_is_forgotten(scene(51)).await;
    only_values_are_found(scene(52)).await;
    values_are_bounded_in_bytes(scene(53)).await;
    what_is_forgotten_is_not_remembered_any_more(scene(54)).await;
}

fn key(scene: Scene<'_>, number: u8) -> MemoKey {
    let mut key = [number; 32];
    key[..16].copy_from_slice(&scene.base.to_be_bytes());
    MemoKey(key)
}

fn outcome(task: TaskId, value: impl Into<String>) -> OutcomeRecord {
    let mut finished = super::outcome(task, value.into());
    finished.outcome.kind = OutcomeKind::Returned;
    finished
}

async fn remembered(scene: Scene<'_>, numbers: &[u8]) -> Vec<Option<String>> {
    let keys: Vec<MemoKey> = numbers.iter().map(|number| key(scene, *number)).collect();
    let values = scene.store.remembered(&keys, usize::MAX).await.expect("remembered");
    values.into_iter().map(|value| Some(String::from_utf8_lossy(&value?).into_owned())).collect()
}

async fn tasks_that_are_added_with_their_outcomes_have_ended(scene: Scene<'_>) {
    let outcomes: Vec<OutcomeRecord> =
        (1..=3).map(|number| outcome(scene.task(number), format!("value {number}"))).collect();
    scene
        .commit([Write::Submit(scene.submission(10, 2)), Write::Answer(scene.submission(1, 3), outcomes)])
        .await;
    for number in 1..=3 {
        let record = scene.record(number).await;
        assert_eq!(record.outcome, Some(outcome(scene.task(number), format!("value {number}"))));
    }
    assert_eq!(scene.count().await, 2, "they wait in no queue");
    assert_eq!(scene.pending(0, EVERYTHING, EVERYTHING).await, [10, 11]);
    let listed =
        scene.store.task_ids(TaskQuery::Group(scene.group()), None, EVERYTHING).await.expect("list").0;
    assert_eq!(listed.len(), 5);
    // What has an outcome keeps it.
    scene.commit([Write::Finish(vec![outcome(scene.task(1), "another")])]).await;
    assert_eq!(scene.record(1).await.outcome, Some(outcome(scene.task(1), "value 1")));
    scene.commit([Write::Forget((1..=3).map(|number| scene.task(number)).collect())]).await;
    assert_eq!(scene.store.tasks(&[scene.task(2)]).await.expect("tasks").len(), 1);
    assert!(scene.store.tasks(&[scene.task(2)]).await.expect("tasks")[0].is_none());
    // Nothing else of it is left in the way.
    scene.commit([Write::Expire { ended_before: Timestamp::from_nanos(u64::MAX) }]).await;
    assert_eq!(scene.count().await, 2);
}

async fn values_are_found_by_key_until_their_task_is_forgotten(scene: Scene<'_>) {
    let finished = [1, 2].map(|number| outcome(scene.task(number), format!("value {number}")));
    let keep = |number, key| Write::Remember(vec![(key, scene.task(number))]);
    let writes =
        [Write::Submit(scene.submission(1, 2)), Write::Finish(finished.into()), keep(1, key(scene, 1))];
    scene.commit(writes).await;
    assert_eq!(remembered(scene, &[2, 1, 1]).await, [None, Some("value 1".into()), Some("value 1".into())]);
    // The last one counts, and stays when the first one goes.
    scene.commit([keep(2, key(scene, 1))]).await;
    assert_eq!(remembered(scene, &[1]).await, [Some("value 2".into())]);
    scene.commit([Write::Forget(vec![scene.task(1)])]).await;
    assert_eq!(remembered(scene, &[1]).await, [Some("value 2".into())]);
    scene.commit([Write::Forget(vec![scene.task(2)])]).await;
    assert_eq!(remembered(scene, &[1]).await, [None]);
    assert_eq!(remembered(scene, &[]).await, Vec::<Option<String>>::new());
}

async fn values_are_bounded_in_bytes(scene: Scene<'_>) {
    let finished = [1, 2].map(|number| outcome(scene.task(number), "value"));
    let keys = [(key(scene, 1), scene.task(1)), (key(scene, 2), scene.task(2))];
    let writes =
        [Write::Submit(scene.submission(1, 2)), Write::Finish(finished.into()), Write::Remember(keys.into())];
    scene.commit(writes).await;
    let keys = [key(scene, 1), key(scene, 2)];
    let found = scene.store.remembered(&keys, 5).await.expect("remembered");
    assert_eq!(found, [Some("value".into()), None]);
}

async fn what_is_forgotten_is_not_remembered_any_more(scene: Scene<'_>) {
    // It was forgotten before its value was kept.
    scene.commit([Write::Remember(vec![(key(scene, 1), scene.task(1))])]).await;
    scene.commit([Write::Submit(scene.submission(1, 1))]).await;
    scene.commit([Write::Finish(vec![outcome(scene.task(1), "value")])]).await;
    assert_eq!(remembered(scene, &[1]).await, [None]);
}

async fn only_values_are_found(scene: Scene<'_>) {
    let record = scene.submission(1, 2);
    let spec = record.spec.clone();
    scene.commit([Write::Submit(record)]).await;
    let task = Task::new(scene.task(1), spec, "");
    let failed = Outcome::failed(&task, OutcomeKind::Raised, &Failure::new("E", "no"));
    let failed = OutcomeRecord { outcome: failed, completed: Timestamp::from_nanos(5) };
    let keys =
        [(key(scene, 1), scene.task(1)), (key(scene, 2), scene.task(2)), (key(scene, 3), scene.task(99))];
    scene.commit([Write::Finish(vec![failed]), Write::Remember(keys.into())]).await;
    assert_eq!(remembered(scene, &[1, 2, 3]).await, [None, None, None]);
}
