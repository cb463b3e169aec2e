//! What every [`TaskStore`] promises.
//!
//! [`suite`] is for every store, [`suite_durable`] for those that outlive their process. [`MemoryStore`] is the
//! reference implementation.

mod life;
mod memo;
mod memory;

use std::sync::Arc;

use bytes::Bytes;
use futures::future;

pub use memory::MemoryStore;

use crate::contract::{
    Access, Backlog, EndpointRecord, FunctionRecord, OutcomeRecord, QueueKey, Submission, TaskQuery,
    TaskRecord, TaskStore, Write,
};
use crate::model::{
    EndpointId, ErrorKind, Function, FunctionId, IdentityId, Memoize, Outcome, OutcomeKind, Shape, Task,
    TaskEventKind, TaskGroupId, TaskId, TaskSpec, Timestamp, TraceContext, limit::MAX_PAGE_TASKS,
};

const EVERYTHING: usize = usize::MAX;

/// Checks every promise of a store that is empty, in the process that has it open.
///
/// # Panics
/// At the first promise that does not hold.
pub async fn suite(store: Arc<dyn TaskStore>) {
    let scene = |number| Scene { store: &*store, base: u128::from(number) << 64 };
    what_is_missing_is_none(scene(1u64)).await;
    registered_things_are_replaced_and_deleted(scene(2)).await;
    functions_of_an_owner_come_by_pages_in_order_of_id(scene(3)).await;
    all_endpoints_come_in_order_of_id(scene(4)).await;
    tasks_come_as_they_were_accepted_and_in_the_order_asked(scene(5)).await;
    tasks_keep_the_code_of_a_deleted_function(scene(6)).await;
    pending_tasks_come_in_order_of_sequence(scene(7)).await;
    pages_of_pending_tasks_are_bounded_in_tasks_and_bytes(scene(8)).await;
    the_first_outcome_stays(scene(9)).await;
    outcomes_of_unknown_tasks_leave_no_trace(scene(10)).await;
    tasks_of_owners_and_groups_come_by_pages_oldest_first(scene(11)).await;
    a_cursor_of_somebody_else_is_refused(scene(12)).await;
    writes_of_one_commit_apply_in_their_order(scene(13)).await;
    commits_apply_in_the_order_of_the_calls(scene(14)).await;
    a_commit_whose_future_is_dropped_still_happens(scene(15)).await;
    long_and_empty_payloads_come_back(scene(16)).await;
    each_owner_and_priority_has_a_queue(scene(17)).await;
    what_ended_in_a_group_comes_in_the_order_of_its_times(scene(18)).await;
    memo::suite(scene).await;
    life::suite(scene).await;
}

/// Checks that what was committed is there after the store is dropped and opened again, and that work goes on.
///
/// `open` opens the same, at first empty, store each time; the one before has been dropped by then.
///
/// # Panics
/// At the first promise that does not hold.
pub async fn suite_durable<S: TaskStore>(open: impl AsyncFn() -> S) {
    let base = 1 << 64;
    let (function, endpoint) = (function_record(base + 1, base + 2), endpoint_record(base + 3));
    let (owner, group) = (IdentityId::from_u128(base + 2), TaskGroupId::from_u128(base + 5));
    let finished = TaskId::from_u128(base + 1000);
    let shared = || {
        let mut spec = (*spec(base + 2, "durable")).clone();
        spec.limits.deadline = Some(std::time::Duration::from_secs(60));
        Arc::new(spec)
    };
    let submission = |first: u64, accepted| Submission {
        endpoint: endpoint.id,
        group,
        function: function.id,
        spec: shared(),
        accepted: Timestamp::from_nanos(accepted),
        first_sequence: first,
        tasks: (first..first + 10).map(|number| (task_id(base, number), payload(number))).collect(),
    };

    let store = open().await;
    let writes = vec![
        Write::PutFunction(Arc::clone(&function)),
        Write::PutEndpoint(Arc::clone(&endpoint)),
        Write::Submit(submission(0, 1)),
        Write::Finish(vec![outcome(finished, "first")]),
        Write::Record(vec![life::event(task_id(base, 5), 1, TaskEventKind::Lost)]),
    ];
    store.commit(writes).await.expect("commit");
    drop(store);

    let store = open().await;
    assert_eq!(
        store.function(function.id).await.expect("function").as_ref(),
        Some(&function),
        "function lost"
    );
    assert_eq!(
        store.endpoint(endpoint.id).await.expect("endpoint").as_ref(),
        Some(&endpoint),
        "endpoint lost"
    );
    let record = store.tasks(&[finished]).await.expect("tasks").remove(0).expect("task lost");
    assert_eq!(record.outcome, Some(outcome(finished, "first")), "outcome lost");
    let left = |from: u64, through: u64| Backlog {
        tasks: through - from,
        bytes: (from..through).map(|number| payload(number).len() as u64).sum(),
    };
    assert_eq!(store.backlog(endpoint.id).await.expect("backlog"), left(1, 10), "differs after reopening");
    store.commit(vec![Write::Submit(submission(10, 2))]).await.expect("commit after reopening");
    store
        .commit(vec![Write::Finish(vec![outcome(finished, "second")])])
        .await
        .expect("commit after reopening");
    drop(store);

    let store = open().await;
    let queue = QueueKey { owner, priority: 0 };
    let queues = store.queues(endpoint.id, None, EVERYTHING).await.expect("queues");
    assert_eq!(queues, [(queue, left(1, 20))], "queues differ after reopening");
    let pending = store.pending(endpoint.id, queue, 0, EVERYTHING, EVERYTHING).await.expect("pending");
    let found: Vec<_> = pending.iter().map(|task| (task.id, task.sequence, task.payload.clone())).collect();
    let expected: Vec<_> = (1..20).map(|number| (task_id(base, number), number, payload(number))).collect();
    assert_eq!(found, expected, "pending tasks differ after reopening");
    assert!(pending.iter().all(|task| task.spec == shared()), "specification differs");
    for task in &pending {
        let lost = task.id == task_id(base, 5);
        assert_eq!(task.attempt, if lost { 2 } else { 1 }, "attempts differ after reopening");
        let events = store.task_events(task.id).await.expect("events");
        assert_eq!(events.len(), usize::from(lost), "events differ after reopening");
    }
    let due = store.due(None, EVERYTHING).await.expect("due");
    let due: Vec<_> = due.iter().map(|due| (due.queue, due.sequence)).collect();
    assert_eq!(due.len(), 19, "times differ after reopening");
    assert!(due.iter().all(|(key, number)| *key == queue && (1..20).contains(number)));
    assert_eq!(store.backlog(endpoint.id).await.expect("backlog"), left(1, 20), "differs after reopening");
    for query in [TaskQuery::Owner(owner), TaskQuery::Group(group)] {
        let (ids, next) = store.task_ids(query, None, EVERYTHING).await.expect("task ids");
        assert_eq!(
            ids,
            (0..20).map(|number| task_id(base, number)).collect::<Vec<_>>(),
            "list differs: {query:?}"
        );
        assert_eq!(next, None, "{query:?}");
    }
    let record = store.tasks(&[finished]).await.expect("tasks").remove(0).expect("task lost");
    assert_eq!(record.outcome, Some(outcome(finished, "first")), "a second outcome replaced the first");
    let functions = store.functions(owner, None, EVERYTHING).await.expect("functions");
    assert_eq!(functions, [function], "functions of the owner differ after reopening");
    assert_eq!(store.endpoints().await.expect("endpoints"), [endpoint], "endpoints differ after reopening");
}

/// A store, and where the ids of one promise begin, so that promises do not meet.
#[derive(Clone, Copy)]
struct Scene<'a> {
    store: &'a dyn TaskStore,
    base: u128,
}

impl Scene<'_> {
    fn owner(self) -> IdentityId {
        IdentityId::from_u128(self.base + 2)
    }

    fn endpoint(self) -> EndpointId {
        EndpointId::from_u128(self.base + 3)
    }

    fn group(self) -> TaskGroupId {
        TaskGroupId::from_u128(self.base + 5)
    }

    fn task(self, number: u64) -> TaskId {
        task_id(self.base, number)
    }

    /// Tasks `first..first + count`, numbered like their sequence numbers.
    fn submission(self, first: u64, count: u64) -> Submission {
        Submission {
            endpoint: self.endpoint(),
            group: self.group(),
            function: FunctionId::from_u128(self.base + 1),
            spec: spec(self.base + 2, "code"),
            accepted: Timestamp::from_nanos(1_000 + first),
            first_sequence: first,
            tasks: (first..first + count).map(|number| (self.task(number), payload(number))).collect(),
        }
    }

    async fn commit(self, writes: impl Into<Vec<Write>>) {
        self.store.commit(writes.into()).await.expect("commit");
    }

    async fn record(self, number: u64) -> TaskRecord {
        let mut records = self.store.tasks(&[self.task(number)]).await.expect("tasks");
        assert_eq!(records.len(), 1, "one entry per id");
        records.remove(0).expect("an accepted task is there")
    }

    /// The queue in which tasks of [`Scene::submission`] wait.
    fn queue(self) -> QueueKey {
        QueueKey { owner: self.owner(), priority: 0 }
    }

    async fn pending(self, after: u64, limit: usize, max_bytes: usize) -> Vec<u64> {
        self.pending_in(self.queue(), after, limit, max_bytes).await
    }

    async fn pending_in(self, queue: QueueKey, after: u64, limit: usize, max_bytes: usize) -> Vec<u64> {
        let page = self.store.pending(self.endpoint(), queue, after, limit, max_bytes);
        page.await.expect("pending").iter().map(|task| task.sequence).collect()
    }

    async fn count(self) -> u64 {
        self.store.backlog(self.endpoint()).await.expect("backlog").tasks
    }
}

fn task_id(base: u128, number: u64) -> TaskId {
    TaskId::from_u128(base + 1000 + u128::from(number))
}

fn payload(number: u64) -> Bytes {
    format!("arguments of {number}").into()
}

fn spec(owner: u128, code: &'static str) -> Arc<TaskSpec> {
    Arc::new(TaskSpec {
        shape: Shape { milli_cores: 2000, container: Some("image".into()), ..Shape::default() },
        options: "{\"env\":{}}".into(),
        trace: TraceContext { trace_id: owner, span_id: 7, flags: 1 },
        ..TaskSpec::new(Arc::new(Function::python("entry", code)), IdentityId::from_u128(owner))
    })
}

fn function_record(id: u128, owner: u128) -> Arc<FunctionRecord> {
    Arc::new(FunctionRecord {
        id: FunctionId::from_u128(id),
        function: Arc::new(Function::python("entry", "def entry(): return 42")),
        name: "entry".into(),
        description: "the answer".into(),
        owner: IdentityId::from_u128(owner),
        access: Access::Group(uuid::Uuid::from_u128(4)),
        memoize: Memoize::Shared,
        metadata: "{\"python_version\":\"3.12\"}".into(),
        created: Timestamp::from_nanos(77),
    })
}

fn endpoint_record(id: u128) -> Arc<EndpointRecord> {
    Arc::new(EndpointRecord {
        id: EndpointId::from_u128(id),
        name: "laptop".into(),
        owner: IdentityId::from_u128(9),
        access: Access::Public,
        allowed_functions: Some(vec![FunctionId::from_u128(1)]),
        metadata: "{}".into(),
        created: Timestamp::from_nanos(78),
    })
}

fn outcome(task: TaskId, value: impl Into<Bytes>) -> OutcomeRecord {
    let mut outcome = Outcome::returned(&Task::new(task, spec(1, "code"), ""), value);
    outcome.kind = OutcomeKind::Raised;
    outcome.stdout = "printed".into();
    outcome.worker = "{}".into();
    outcome.stamps.set(crate::model::Hop::Ended, Timestamp::from_nanos(5));
    OutcomeRecord { outcome, completed: Timestamp::from_nanos(6) }
}

async fn what_is_missing_is_none(scene: Scene<'_>) {
    let store = scene.store;
    assert_eq!(store.function(FunctionId::from_u128(scene.base)).await.expect("function"), None);
    assert_eq!(store.endpoint(scene.endpoint()).await.expect("endpoint"), None);
    let tasks = store.tasks(&[scene.task(1), scene.task(2)]).await.expect("tasks");
    assert!(tasks.len() == 2 && tasks.iter().all(Option::is_none), "one `None` per unknown task");
    assert!(store.tasks(&[]).await.expect("tasks").is_empty());
    assert_eq!(store.functions(scene.owner(), None, 10).await.expect("functions"), []);
    assert_eq!(scene.pending(0, 10, EVERYTHING).await, [] as [u64; 0]);
    assert_eq!(scene.count().await, 0);
    let nothing = store.task_ids(TaskQuery::Group(scene.group()), None, 10).await.expect("task ids");
    assert_eq!(nothing, (Vec::new(), None));
    scene.commit([]).await;
    scene.commit([Write::DeleteFunction(FunctionId::from_u128(scene.base))]).await;
    scene.commit([Write::DeleteEndpoint(scene.endpoint())]).await;
}

async fn registered_things_are_replaced_and_deleted(scene: Scene<'_>) {
    let store = scene.store;
    let function = function_record(scene.base + 1, scene.base + 2);
    let endpoint = endpoint_record(scene.base + 3);
    scene
        .commit([Write::PutFunction(Arc::clone(&function)), Write::PutEndpoint(Arc::clone(&endpoint))])
        .await;
    assert_eq!(store.function(function.id).await.expect("function"), Some(Arc::clone(&function)));
    assert_eq!(store.endpoint(endpoint.id).await.expect("endpoint"), Some(Arc::clone(&endpoint)));

    // Also to another owner, another code and other access.
    let replaced = Arc::new(FunctionRecord {
        owner: IdentityId::from_u128(scene.base + 20),
        function: Arc::new(Function::shell("echo {word}")),
        access: Access::Private,
        ..(*function).clone()
    });
    let renamed = Arc::new(EndpointRecord {
        name: "cluster".into(),
        allowed_functions: None,
        access: Access::Private,
        ..(*endpoint).clone()
    });
    scene.commit([Write::PutFunction(Arc::clone(&replaced)), Write::PutEndpoint(Arc::clone(&renamed))]).await;
    assert_eq!(store.function(function.id).await.expect("function"), Some(Arc::clone(&replaced)));
    assert_eq!(store.endpoint(endpoint.id).await.expect("endpoint"), Some(renamed));
    assert_eq!(
        store.functions(scene.owner(), None, 10).await.expect("functions"),
        [],
        "still listed as theirs"
    );
    assert_eq!(
        store.functions(replaced.owner, None, 10).await.expect("functions"),
        std::slice::from_ref(&replaced)
    );

    scene.commit([Write::DeleteFunction(function.id), Write::DeleteEndpoint(endpoint.id)]).await;
    assert_eq!(store.function(function.id).await.expect("function"), None, "deleted");
    assert_eq!(store.endpoint(endpoint.id).await.expect("endpoint"), None, "deleted");
    assert_eq!(store.functions(replaced.owner, None, 10).await.expect("functions"), [], "deleted");
}

async fn functions_of_an_owner_come_by_pages_in_order_of_id(scene: Scene<'_>) {
    let record = |number: u128| function_record(scene.base + number, scene.base + 2);
    let order = [5, 2, 4, 1, 3];
    scene.commit(order.map(|number| Write::PutFunction(record(number)))).await;
    scene.commit([Write::PutFunction(function_record(scene.base + 10, scene.base + 11))]).await;

    let mut after = None;
    for expected in [&[1, 2][..], &[3, 4], &[5], &[]] {
        let page = scene.store.functions(scene.owner(), after, 2).await.expect("functions");
        let expected: Vec<_> = expected.iter().map(|number| record(*number)).collect();
        assert_eq!(page, expected);
        after = page.last().map(|function| function.id).or(after);
    }
}

async fn all_endpoints_come_in_order_of_id(scene: Scene<'_>) {
    let ids: Vec<_> = [30, 10, 20].into_iter().map(|number| scene.base + number).collect();
    scene.commit(ids.iter().map(|id| Write::PutEndpoint(endpoint_record(*id))).collect::<Vec<_>>()).await;
    let all = scene.store.endpoints().await.expect("endpoints");
    assert!(all.is_sorted_by_key(|endpoint| endpoint.id), "in order of id");
    for id in ids {
        assert!(all.contains(&endpoint_record(id)), "every endpoint is there");
    }
}

async fn tasks_come_as_they_were_accepted_and_in_the_order_asked(scene: Scene<'_>) {
    let submission = scene.submission(1, 40);
    scene.commit([Write::Submit(submission.clone())]).await;
    let ids: Vec<_> = [3, 999, 1, 2].into_iter().chain(4..=40).map(|number| scene.task(number)).collect();
    let tasks = scene.store.tasks(&ids).await.expect("tasks");
    assert_eq!(tasks.len(), ids.len(), "one entry per id");
    assert!(tasks[1].is_none(), "an unknown task is `None` in its place");

    let tasks: Vec<_> = tasks.into_iter().flatten().collect();
    assert_eq!(tasks.len(), ids.len() - 1);
    for (task, number) in tasks.iter().zip([3, 1, 2].into_iter().chain(4..=40)) {
        assert_eq!((task.id, task.sequence), (scene.task(number), number));
        assert_eq!(
            (task.endpoint, task.group, task.function),
            (submission.endpoint, submission.group, submission.function)
        );
        assert_eq!(task.accepted, submission.accepted);
        assert_eq!(task.payload, payload(number));
        assert_eq!(task.spec, submission.spec);
        assert_eq!(task.outcome, None);
        assert!(Arc::ptr_eq(&task.spec, &tasks[0].spec), "tasks of one submission share their specification");
    }
}

async fn tasks_keep_the_code_of_a_deleted_function(scene: Scene<'_>) {
    let function = function_record(scene.base + 1, scene.base + 2);
    let submission = Submission {
        spec: Arc::new(TaskSpec::new(Arc::clone(&function.function), scene.owner())),
        ..scene.submission(1, 1)
    };
    scene.commit([Write::PutFunction(Arc::clone(&function)), Write::Submit(submission)]).await;
    scene.commit([Write::DeleteFunction(function.id)]).await;
    assert_eq!(scene.record(1).await.spec.function, function.function);
}

async fn pending_tasks_come_in_order_of_sequence(scene: Scene<'_>) {
    scene.commit([Write::Submit(scene.submission(1, 5))]).await;
    let other = Submission {
        endpoint: EndpointId::from_u128(scene.base + 4),
        tasks: vec![(scene.task(100), Bytes::new())],
        ..scene.submission(3, 0)
    };
    scene.commit([Write::Submit(other)]).await;
    scene.commit([Write::Submit(scene.submission(11, 3))]).await;
    assert_eq!(scene.pending(0, 100, EVERYTHING).await, [1, 2, 3, 4, 5, 11, 12, 13]);
    assert_eq!(scene.pending(4, 100, EVERYTHING).await, [5, 11, 12, 13], "after a sequence number");
    assert_eq!(scene.pending(7, 100, EVERYTHING).await, [11, 12, 13], "after one that no task has");
    assert_eq!(scene.pending(13, 100, EVERYTHING).await, [] as [u64; 0]);
    assert_eq!(scene.pending(u64::MAX, 100, EVERYTHING).await, [] as [u64; 0]);
    assert_eq!(scene.count().await, 8);

    scene.commit([Write::Finish(vec![outcome(scene.task(2), "2"), outcome(scene.task(12), "12")])]).await;
    assert_eq!(
        scene.pending(0, 100, EVERYTHING).await,
        [1, 3, 4, 5, 11, 13],
        "finished tasks are not pending"
    );
    assert_eq!(scene.count().await, 6);

    let tasks =
        scene.store.pending(scene.endpoint(), scene.queue(), 2, 3, EVERYTHING).await.expect("pending");
    for (task, number) in tasks.iter().zip([3, 4, 5]) {
        assert_eq!((task.id, task.accepted), (scene.task(number), Timestamp::from_nanos(1_001)));
        assert_eq!(task.payload, payload(number));
        assert_eq!(task.spec, spec(scene.base + 2, "code"));
        assert!(Arc::ptr_eq(&task.spec, &tasks[0].spec), "tasks of one submission share their specification");
    }
    assert_eq!(tasks.len(), 3);
}

async fn pages_of_pending_tasks_are_bounded_in_tasks_and_bytes(scene: Scene<'_>) {
    let tasks = (1..=6).map(|number| (scene.task(number), Bytes::from(vec![b'x'; 100]))).collect();
    scene.commit([Write::Submit(Submission { tasks, ..scene.submission(1, 0) })]).await;
    assert_eq!(scene.pending(0, 4, EVERYTHING).await, [1, 2, 3, 4], "at most as many as asked for");
    assert_eq!(scene.pending(0, 10, 300).await, [1, 2, 3], "at most as many bytes");
    assert_eq!(scene.pending(3, 10, 1).await, [4], "at least one, however long it is");

    let page = MAX_PAGE_TASKS as u64;
    scene.commit([Write::Submit(scene.submission(7, page + 10))]).await;
    assert_eq!(scene.pending(0, EVERYTHING, EVERYTHING).await.len(), MAX_PAGE_TASKS, "no page is longer");
    assert_eq!(scene.count().await, page + 16);
}

async fn the_first_outcome_stays(scene: Scene<'_>) {
    scene.commit([Write::Submit(scene.submission(1, 2))]).await;
    scene
        .commit([Write::Finish(vec![outcome(scene.task(1), "first"), outcome(scene.task(1), "same commit")])])
        .await;
    scene.commit([Write::Finish(vec![outcome(scene.task(1), "later")])]).await;
    assert_eq!(scene.record(1).await.outcome, Some(outcome(scene.task(1), "first")));
    assert_eq!(scene.record(2).await.outcome, None);
    assert_eq!(scene.count().await, 1, "a task is counted out once");
}

async fn outcomes_of_unknown_tasks_leave_no_trace(scene: Scene<'_>) {
    scene.commit([Write::Finish(vec![outcome(scene.task(1), "too early")])]).await;
    assert!(scene.store.tasks(&[scene.task(1)]).await.expect("tasks")[0].is_none());
    scene.commit([Write::Submit(scene.submission(1, 1))]).await;
    assert_eq!(scene.record(1).await.outcome, None);
    assert_eq!(scene.count().await, 1);
}

async fn tasks_of_owners_and_groups_come_by_pages_oldest_first(scene: Scene<'_>) {
    let count = 2 * MAX_PAGE_TASKS as u64 + 500;
    scene.commit([Write::Submit(scene.submission(1, 3))]).await;
    let other_group = TaskGroupId::from_u128(scene.base + 50);
    scene.commit([Write::Submit(Submission { group: other_group, ..scene.submission(4, 2) })]).await;
    scene.commit([Write::Submit(scene.submission(6, count))]).await;
    // Finished tasks are listed too.
    scene.commit([Write::Finish(vec![outcome(scene.task(2), "done")])]).await;

    let of_group: Vec<_> = (1..4).chain(6..6 + count).map(|number| scene.task(number)).collect();
    let of_owner: Vec<_> = (1..6 + count).map(|number| scene.task(number)).collect();
    for (query, expected) in
        [(TaskQuery::Group(scene.group()), of_group), (TaskQuery::Owner(scene.owner()), of_owner)]
    {
        for limit in [700, expected.len() / 3, EVERYTHING] {
            let limit_held = limit.min(MAX_PAGE_TASKS);
            let mut found = Vec::new();
            let mut after = None;
            loop {
                let (page, next) = scene.store.task_ids(query, after, limit).await.expect("task ids");
                assert_eq!(
                    page.len(),
                    limit_held.min(expected.len() - found.len()),
                    "a page is full or the last"
                );
                found.extend(page);
                after = next;
                if after.is_none() {
                    break;
                }
            }
            assert_eq!(found, expected, "{query:?} by {limit}");
        }
    }
    let (all, next) = scene.store.task_ids(TaskQuery::Group(other_group), None, 2).await.expect("task ids");
    assert_eq!(all, [scene.task(4), scene.task(5)]);
    assert_eq!(next, None, "a full page that is the last has no cursor");
}

async fn a_cursor_of_somebody_else_is_refused(scene: Scene<'_>) {
    let cursor = Some(crate::contract::TaskCursor(vec![1, 2, 3]));
    let error =
        scene.store.task_ids(TaskQuery::Group(scene.group()), cursor, 10).await.expect_err("a bad cursor");
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
}

async fn writes_of_one_commit_apply_in_their_order(scene: Scene<'_>) {
    let function = function_record(scene.base + 1, scene.base + 2);
    let endpoint = endpoint_record(scene.base + 3);
    let renamed = Arc::new(EndpointRecord { name: "renamed".into(), ..(*endpoint).clone() });
    scene
        .commit([
            Write::PutFunction(Arc::clone(&function)),
            Write::DeleteFunction(function.id),
            Write::DeleteEndpoint(endpoint.id),
            Write::PutEndpoint(Arc::clone(&endpoint)),
            Write::PutEndpoint(Arc::clone(&renamed)),
            Write::Submit(scene.submission(1, 3)),
            Write::Finish(vec![outcome(scene.task(2), "at once")]),
        ])
        .await;
    assert_eq!(scene.store.function(function.id).await.expect("function"), None, "deleted after it was put");
    assert_eq!(
        scene.store.endpoint(endpoint.id).await.expect("endpoint"),
        Some(renamed),
        "the last one counts"
    );
    assert_eq!(scene.record(2).await.outcome, Some(outcome(scene.task(2), "at once")));
    assert_eq!(scene.pending(0, 10, EVERYTHING).await, [1, 3]);
    assert_eq!(scene.count().await, 2);
}

async fn commits_apply_in_the_order_of_the_calls(scene: Scene<'_>) {
    let named = |number: u32| {
        let endpoint = endpoint_record(scene.base + 3);
        Arc::new(EndpointRecord { name: number.to_string(), ..(*endpoint).clone() })
    };
    let mut commits: Vec<_> =
        (0..200).map(|number| scene.store.commit(vec![Write::PutEndpoint(named(number))])).collect();
    // They are polled in another order than that of the calls.
    commits.reverse();
    for result in future::join_all(commits).await {
        result.expect("commit");
    }
    let endpoint = scene.store.endpoint(scene.endpoint()).await.expect("endpoint").expect("it was put");
    assert_eq!(endpoint.name, "199", "the last call counts");
}

async fn a_commit_whose_future_is_dropped_still_happens(scene: Scene<'_>) {
    drop(scene.store.commit(vec![Write::Submit(scene.submission(1, 2))]));
    scene.commit([Write::Submit(scene.submission(3, 1))]).await;
    assert_eq!(scene.pending(0, 10, EVERYTHING).await, [1, 2, 3], "a later commit comes after it");
}

async fn long_and_empty_payloads_come_back(scene: Scene<'_>) {
    let payloads = [0, 1, 1023, 1024, 1025, 70_000, 3 << 20].map(|bytes| Bytes::from(vec![b'p'; bytes]));
    let tasks = (1..).map(|number| scene.task(number)).zip(payloads.clone()).collect();
    scene.commit([Write::Submit(Submission { tasks, ..scene.submission(1, 0) })]).await;
    let outcomes = payloads.iter().zip(1..).map(|(payload, number)| {
        let mut record = outcome(scene.task(number), "");
        record.outcome.payload = payload.clone();
        record
    });
    let outcomes: Vec<_> = outcomes.collect();
    let pending = scene.store.pending(scene.endpoint(), scene.queue(), 0, 100, EVERYTHING);
    let pending = pending.await.expect("pending");
    assert!(pending.iter().map(|task| &task.payload).eq(&payloads), "payloads of pending tasks");
    scene.commit([Write::Finish(outcomes.clone())]).await;
    for (number, outcome) in (1..).zip(outcomes) {
        assert_eq!(scene.record(number).await.outcome, Some(outcome));
    }
}

async fn what_ended_in_a_group_comes_in_the_order_of_its_times(scene: Scene<'_>) {
    let at = |number, nanos| OutcomeRecord {
        completed: Timestamp::from_nanos(nanos),
        ..outcome(scene.task(number), "value")
    };
    let ended = async |after, through, limit| {
        let (after, through) = (Timestamp::from_nanos(after), Timestamp::from_nanos(through));
        let (ids, through) = scene.store.ended(scene.group(), after, through, limit).await.expect("ended");
        let number = |id: &TaskId| (id.as_u128() - scene.task(0).as_u128()) as u64;
        (ids.iter().map(number).collect::<Vec<u64>>(), through.as_nanos())
    };
    assert_eq!(ended(0, 2_000, 10).await, (vec![], 2_000));
    let known = scene.submission(20, 2);
    let other = Submission { group: TaskGroupId::from_u128(scene.base + 9), ..scene.submission(30, 1) };
    scene
        .commit([
            Write::Submit(scene.submission(1, 5)),
            Write::Submit(scene.submission(6, 1)),
            Write::Submit(other),
            Write::Answer(known, vec![at(20, 1_004), at(21, 1_005)]),
        ])
        .await;
    scene.commit([Write::Finish(vec![at(3, 1_001), at(6, 1_006)]), Write::Finish(vec![at(1, 1_007)])]).await;
    scene.commit([Write::Finish(vec![at(5, 1_002), at(30, 1_003), at(3, 1_009)])]).await;
    assert_eq!(ended(0, 2_000, 10).await, (vec![3, 5, 20, 21, 6, 1], 2_000));
    assert_eq!(ended(1_001, 1_006, 4).await, (vec![5, 20, 21, 6], 1_006));
    assert_eq!(ended(1_001, 1_006, 3).await, (vec![5, 20, 21], 1_005));
    scene.commit([Write::Forget(vec![scene.task(5), scene.task(6)])]).await;
    assert_eq!(ended(0, 2_000, 10).await, (vec![3, 20, 21, 1], 2_000));
    scene.commit([Write::Forget([1, 3, 20, 21].map(|number| scene.task(number)).into())]).await;
    assert_eq!(ended(0, 2_000, 10).await, (vec![], 2_000));
}

async fn each_owner_and_priority_has_a_queue(scene: Scene<'_>) {
    let store = scene.store;
    let submission = |owner: u128, priority: i8, first: u64, count: u64| {
        let mut spec = (*spec(scene.base + owner, "code")).clone();
        spec.limits.priority = priority;
        Write::Submit(Submission { spec: Arc::new(spec), ..scene.submission(first, count) })
    };
    let key =
        |owner: u128, priority: i8| QueueKey { owner: IdentityId::from_u128(scene.base + owner), priority };
    scene.commit([submission(2, 0, 1, 5), submission(30, 0, 6, 2), submission(2, 9, 8, 1)]).await;
    scene.commit([submission(2, -128, 9, 1), submission(30, 0, 10, 1)]).await;
    assert_eq!(scene.pending_in(key(2, 0), 0, 100, EVERYTHING).await, [1, 2, 3, 4, 5]);
    assert_eq!(scene.pending_in(key(30, 0), 6, 100, EVERYTHING).await, [7, 10]);
    assert_eq!(scene.pending_in(key(2, 9), 0, 100, EVERYTHING).await, [8]);
    assert_eq!(scene.pending_in(key(2, 8), 0, 100, EVERYTHING).await, [] as [u64; 0], "no such queue");

    let bytes = |numbers: &[u64]| numbers.iter().map(|number| payload(*number).len() as u64).sum();
    let queue = |owner, priority, numbers: &[u64]| {
        (key(owner, priority), Backlog { tasks: numbers.len() as u64, bytes: bytes(numbers) })
    };
    let all =
        [queue(2, -128, &[9]), queue(2, 0, &[1, 2, 3, 4, 5]), queue(2, 9, &[8]), queue(30, 0, &[6, 7, 10])];
    let mut found = Vec::new();
    while let page =
        store.queues(scene.endpoint(), found.last().map(|(key, _)| *key), 3).await.expect("queues")
        && !page.is_empty()
    {
        assert!(page.len() <= 3, "at most as many as asked for");
        found.extend(page);
    }
    assert_eq!(found, all);
    assert_eq!(
        store.backlog(scene.endpoint()).await.expect("backlog").bytes,
        bytes(&[1, 2, 3, 4, 5, 6, 7, 8, 9, 10])
    );

    // A queue that is empty is none, and comes back with its next task.
    scene.commit([Write::Finish(vec![outcome(scene.task(8), "8"), outcome(scene.task(2), "2")])]).await;
    let left = [queue(2, -128, &[9]), queue(2, 0, &[1, 3, 4, 5]), queue(30, 0, &[6, 7, 10])];
    assert_eq!(store.queues(scene.endpoint(), None, 10).await.expect("queues"), left);
    scene.commit([submission(2, 9, 11, 1), Write::Finish(vec![outcome(scene.task(9), "9")])]).await;
    assert_eq!(scene.pending_in(key(2, 9), 0, 100, EVERYTHING).await, [11]);
    let left = [queue(2, 0, &[1, 3, 4, 5]), queue(2, 9, &[11]), queue(30, 0, &[6, 7, 10])];
    assert_eq!(store.queues(scene.endpoint(), None, 10).await.expect("queues"), left);
    assert_eq!(scene.count().await, 8);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn memory_store_keeps_every_promise() {
        suite(Arc::new(MemoryStore::new())).await;
    }
}
