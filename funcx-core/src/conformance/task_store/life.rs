//! What a store promises about the life of tasks: attempts, times, and how they are forgotten.

use std::sync::Arc;
use std::time::Duration;

use super::{EVERYTHING, Scene, outcome, spec};
use crate::contract::DueReason::{Deadline, TimeToLive};
use crate::contract::{Due, OutcomeRecord, PendingTask, Submission, TaskQuery, Write};
use crate::model::{
    AttemptId, TaskEvent, TaskEventKind, TaskId, TaskLimits, Timestamp,
    limit::{MAX_PAGE_TASKS, MAX_TASK_EVENTS},
};

/// Checks these promises, in order: the last ones look at everything that the store holds.
pub(super) async fn suite<'a>(scene: impl Fn(u64) -> Scene<'a>) {
    lost_attempts_are_counted(scene(40)).await;
    events_of_a_task_are_kept_and_bounded(scene(41)).await;
    tasks_are_due_until_they_have_ended(scene(42)).await;
    forgotten_tasks_leave_nothing(scene(43)).await;
    what_ended_long_ago_expires(scene(44)).await;
}

pub(super) fn event(task: TaskId, number: u32, kind: TaskEventKind) -> TaskEvent {
    TaskEvent {
        attempt: AttemptId { task, number },
        at: Timestamp::from_nanos(u64::from(number) + 50),
        kind,
        actor: "manager 7".into(),
        detail: "it was killed".into(),
    }
}

async fn pending(scene: Scene<'_>) -> Vec<PendingTask> {
    let page = scene.store.pending(scene.endpoint(), scene.queue(), 0, EVERYTHING, EVERYTHING);
    page.await.expect("pending")
}

async fn lost_attempts_are_counted(scene: Scene<'_>) {
    scene.commit([Write::Submit(scene.submission(1, 3))]).await;
    let (record, page) = (scene.record(1).await, pending(scene).await);
    assert_eq!(record.attempt, 1);
    assert_eq!((page[0].group, page[0].function), (record.group, record.function));
    let lost = |number| event(scene.task(1), number, TaskEventKind::Lost);
    scene.commit([Write::Record(vec![lost(1)]), Write::Record(vec![lost(2), lost(2)])]).await;
    // An earlier one that is told late changes nothing.
    scene
        .commit([Write::Record(vec![lost(1), event(scene.task(2), 7, TaskEventKind::CancelRequested)])])
        .await;
    let attempts: Vec<u32> = pending(scene).await.iter().map(|task| task.attempt).collect();
    assert_eq!(attempts, [3, 1, 1]);
    // One that may not have begun is another attempt, but does not count.
    let doubtful = event(scene.task(2), 1, TaskEventKind::LeaseLost);
    scene.commit([Write::Record(vec![doubtful.clone(), doubtful])]).await;
    let counts: Vec<_> = pending(scene).await.iter().map(|task| (task.attempt, task.granted)).collect();
    assert_eq!(counts, [(3, 0), (2, 1), (1, 0)]);
    assert_eq!(scene.record(1).await.attempt, 3);
    assert_eq!(scene.count().await, 3);

    // One that has ended keeps the attempt with which it did.
    scene.commit([Write::Finish(vec![outcome(scene.task(1), "at last")])]).await;
    scene.commit([Write::Record(vec![lost(5)])]).await;
    assert_eq!(scene.record(1).await.attempt, 1, "that of the outcome");
    assert_eq!(pending(scene).await.len(), 2, "it is not queued again");
}

async fn events_of_a_task_are_kept_and_bounded(scene: Scene<'_>) {
    let events = async |number| scene.store.task_events(scene.task(number)).await.expect("events");
    let begun = event(scene.task(1), 1, TaskEventKind::Started);
    scene.commit([Write::Record(vec![begun.clone()])]).await;
    assert_eq!(events(1).await, [], "an unknown task has none");
    scene.commit([Write::Submit(scene.submission(1, 2))]).await;
    assert_eq!(events(1).await, [], "and none is kept for later");

    let lost = event(scene.task(1), 1, TaskEventKind::Lost);
    let stopped =
        TaskEvent { actor: String::new(), ..event(scene.task(1), 2, TaskEventKind::CancelRequested) };
    scene.commit([Write::Record(vec![begun.clone(), lost.clone()])]).await;
    scene
        .commit([Write::Finish(vec![outcome(scene.task(1), "")]), Write::Record(vec![stopped.clone()])])
        .await;
    assert_eq!(events(1).await, [begun, lost, stopped]);
    assert_eq!(events(2).await, []);

    let many: Vec<_> = (1..=MAX_TASK_EVENTS as u32 + 3)
        .map(|number| event(scene.task(2), number, TaskEventKind::Lost))
        .collect();
    for part in many.chunks(10) {
        scene.commit([Write::Record(part.to_vec())]).await;
    }
    assert_eq!(events(2).await, many[3..], "the last ones are kept");
}

async fn tasks_are_due_until_they_have_ended(scene: Scene<'_>) {
    let seconds = |seconds| Some(Duration::from_secs(seconds));
    let submission = |first, ttl, deadline| {
        let limits = TaskLimits { ttl, deadline, ..TaskLimits::default() };
        let spec = Arc::new(crate::model::TaskSpec { limits, ..(*spec(scene.base + 2, "code")).clone() });
        Write::Submit(Submission { spec, accepted: Timestamp::from_nanos(5), ..scene.submission(first, 1) })
    };
    let all = async || scene.store.due(None, EVERYTHING).await.expect("due");
    let due = |number, after: u64, reason| Due {
        at: Timestamp::from_nanos(5 + after * 1_000_000_000),
        task: scene.task(number),
        endpoint: scene.endpoint(),
        queue: scene.queue(),
        sequence: number,
        reason,
    };
    assert_eq!(all().await, []);
    scene
        .commit([
            submission(1, seconds(20), seconds(30)),
            submission(2, None, None),
            submission(3, seconds(20), seconds(20)),
            submission(4, seconds(10), None),
            submission(5, Some(Duration::MAX), seconds(30)),
        ])
        .await;
    let in_order = [
        due(4, 10, TimeToLive),
        due(1, 20, TimeToLive),
        due(3, 20, Deadline),
        due(1, 30, Deadline),
        due(5, 30, Deadline),
    ];
    assert_eq!(all().await, in_order);
    let place = |due: &Due| Some((due.at, due.task));
    let page = scene.store.due(place(&in_order[1]), 2).await.expect("due");
    assert_eq!(page, in_order[2..4], "a page after another");

    // One that began has no time to live any more, and keeps its deadline; one that ended is not due.
    scene.commit([Write::Record(vec![event(scene.task(1), 1, TaskEventKind::Started)])]).await;
    scene.commit([Write::Finish(vec![outcome(scene.task(4), ""), outcome(scene.task(5), "")])]).await;
    assert_eq!(all().await, [due(3, 20, Deadline), due(1, 30, Deadline)]);
    let begun: Vec<bool> = pending(scene).await.iter().map(|task| task.begun).collect();
    assert_eq!(begun, [true, false, false]);
    scene.commit([Write::Finish(vec![outcome(scene.task(1), ""), outcome(scene.task(3), "")])]).await;
    assert_eq!(all().await, []);
}

async fn forgotten_tasks_leave_nothing(scene: Scene<'_>) {
    scene.commit([Write::Submit(scene.submission(1, 4)), Write::Submit(scene.submission(5, 1))]).await;
    let ended = [1, 2, 5].map(|number| outcome(scene.task(number), "")).to_vec();
    let events = [1, 3].map(|number| event(scene.task(number), 1, TaskEventKind::Lost)).to_vec();
    scene.commit([Write::Finish(ended), Write::Record(events)]).await;
    let listed = async || {
        let owner = scene.store.task_ids(TaskQuery::Owner(scene.owner()), None, EVERYTHING).await;
        let group = scene.store.task_ids(TaskQuery::Group(scene.group()), None, EVERYTHING).await;
        let owner = owner.expect("task ids");
        assert_eq!(owner, group.expect("task ids"));
        owner.0
    };
    let forget = (0..=5).map(|number| scene.task(number)).filter(|task| *task != scene.task(2)).collect();
    scene.commit([Write::Forget(forget)]).await;
    let ids: Vec<_> = (1..=5).map(|number| scene.task(number)).collect();
    let there = scene.store.tasks(&ids).await.expect("tasks");
    let there: Vec<bool> = there.iter().map(Option::is_some).collect();
    assert_eq!(there, [false, true, true, true, false], "those without an outcome stay");
    assert_eq!(listed().await, [scene.task(2), scene.task(3), scene.task(4)]);
    assert_eq!(scene.store.task_events(scene.task(1)).await.expect("events"), []);
    assert_eq!(scene.store.task_events(scene.task(3)).await.expect("events").len(), 1);
    assert_eq!((scene.count().await, pending(scene).await.len()), (2, 2));

    // What is left goes on and can be forgotten too.
    scene.commit([Write::Finish(vec![outcome(scene.task(3), ""), outcome(scene.task(4), "")])]).await;
    scene.commit([Write::Forget(ids.clone())]).await;
    scene.commit([Write::Forget(ids)]).await;
    assert_eq!(listed().await, []);
    // Its id is free for another task.
    scene.commit([Write::Submit(scene.submission(1, 1))]).await;
    assert_eq!((scene.record(1).await.outcome, scene.count().await), (None, 1));
    assert_eq!(listed().await, [scene.task(1)]);
}

async fn what_ended_long_ago_expires(scene: Scene<'_>) {
    let ended = |number, at| OutcomeRecord {
        completed: Timestamp::from_nanos(at),
        ..outcome(scene.task(number), "")
    };
    let late = u64::MAX / 2;
    // What earlier promises left behind goes first, step by step.
    let expire = async |before| {
        let mut steps = 0;
        while scene.store.oldest_ended().await.expect("oldest").is_some_and(|at| at.as_nanos() < before) {
            scene.commit([Write::Expire { ended_before: Timestamp::from_nanos(before) }]).await;
            steps += 1;
            assert!(steps < 1000, "each step removes something");
        }
        steps
    };
    expire(late).await;
    let count = MAX_PAGE_TASKS as u64;
    scene.commit([Write::Submit(scene.submission(1, 3)), Write::Submit(scene.submission(10, 1))]).await;
    scene.commit([Write::Submit(scene.submission(100, count)), Write::Submit(scene.submission(4, 1))]).await;
    scene.commit([Write::Finish(vec![ended(1, late), ended(3, late + 1), ended(10, late + 5)])]).await;
    assert_eq!(scene.store.oldest_ended().await.expect("oldest"), Some(Timestamp::from_nanos(late + 5)));
    scene.commit([Write::Finish(vec![ended(2, late + 3)])]).await;
    assert_eq!(scene.store.oldest_ended().await.expect("oldest"), Some(Timestamp::from_nanos(late + 3)));
    assert_eq!(expire(late + 3).await, 0, "not before its time");
    assert_eq!(expire(late + 4).await, 1);
    let ids: Vec<_> = [1, 2, 3, 4, 10].map(|number| scene.task(number)).to_vec();
    let there = scene.store.tasks(&ids).await.expect("tasks");
    let there: Vec<bool> = there.iter().map(Option::is_some).collect();
    assert_eq!(there, [false, false, false, true, true], "those accepted together went together");

    scene.commit([Write::Submit(scene.submission(5000, count))]).await;
    let all = (100..100 + count).chain(5000..5000 + count);
    scene.commit([Write::Finish(all.map(|number| ended(number, late + 6)).collect())]).await;
    let steps = expire(late + 10).await;
    assert!(steps >= 2, "one step is bounded: {steps}");
    let (left, _) = scene.store.task_ids(TaskQuery::Group(scene.group()), None, 10).await.expect("task ids");
    assert_eq!(left, [scene.task(4)]);
    assert_eq!(scene.store.oldest_ended().await.expect("oldest"), None);
    assert_eq!(scene.count().await, 1);
}
