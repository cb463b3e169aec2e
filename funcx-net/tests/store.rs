//! The embedded store: what every store promises, and what a directory on a disk adds to that.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod store {
    mod crash;
    mod directory;
    mod space;
}

use std::sync::Arc;

use funcx_core::conformance::task_store;
use funcx_core::contract::{OutcomeRecord, QueueKey, Submission, TaskStore, Write};
use funcx_core::model::{
    EndpointId, Function, FunctionId, IdentityId, Outcome, Task, TaskGroupId, TaskId, TaskSpec, Timestamp,
};
use funcx_net::store::EmbeddedStore;

const ENDPOINT: EndpointId = EndpointId::from_u128(1);
/// The queue of all tasks here.
const QUEUE: QueueKey = QueueKey { owner: IdentityId::from_u128(4), priority: 0 };
const GROUP: TaskGroupId = TaskGroupId::from_u128(2);

/// Tasks `first..first + count` of one submission; their ids and sequence numbers are these numbers.
fn submission(first: u64, count: u64, payload_bytes: usize) -> Submission {
    Submission {
        endpoint: ENDPOINT,
        group: GROUP,
        function: FunctionId::from_u128(3),
        spec: Arc::new(TaskSpec::new(Arc::new(Function::native("f")), IdentityId::from_u128(4))),
        accepted: Timestamp::from_nanos(first),
        first_sequence: first,
        tasks: (first..first + count)
            .map(|number| (task_id(number), payload(number, payload_bytes)))
            .collect(),
    }
}

fn task_id(number: u64) -> TaskId {
    TaskId::from_u128(u128::from(number))
}

/// Bytes that no compression makes shorter (xorshift64).
fn payload(number: u64, bytes: usize) -> bytes::Bytes {
    let step = |state: &u64| {
        let state = state ^ (state << 13);
        let state = state ^ (state >> 7);
        Some(state ^ (state << 17))
    };
    std::iter::successors(Some(number.max(1)), step).map(|state| state as u8).take(bytes).collect()
}

fn outcome(number: u64) -> OutcomeRecord {
    let task = Task::new(task_id(number), submission(number, 0, 0).spec, "");
    OutcomeRecord {
        outcome: Outcome::returned(&task, number.to_string()),
        completed: Timestamp::from_nanos(1),
    }
}

#[tokio::test]
async fn keeps_every_promise() {
    let directory = tempfile::tempdir().unwrap();
    task_store::suite(Arc::new(EmbeddedStore::open(directory.path().join("store")).unwrap())).await;
}

#[tokio::test]
async fn keeps_what_was_committed() {
    let directory = tempfile::tempdir().unwrap();
    task_store::suite_durable(async || EmbeddedStore::open(directory.path().join("store")).unwrap()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_commits_all_arrive() {
    let directory = tempfile::tempdir().unwrap();
    let store = Arc::new(EmbeddedStore::open(directory.path()).unwrap());
    let commits = (0..200).map(|batch| {
        let store = Arc::clone(&store);
        tokio::spawn(async move {
            store.commit(vec![Write::Submit(submission(1 + batch * 10, 10, 50))]).await.unwrap();
            store.commit(vec![Write::Finish(vec![outcome(1 + batch * 10)])]).await.unwrap();
            // What the future of a commit has said is seen by every read that comes after.
            store.tasks(&[task_id(1 + batch * 10)]).await.unwrap()[0].as_ref().unwrap().outcome.is_some()
        })
    });
    for commit in commits.collect::<Vec<_>>() {
        assert!(commit.await.unwrap());
    }
    assert_eq!(store.backlog(ENDPOINT).await.unwrap().tasks, 1800);
}

#[tokio::test]
async fn the_code_of_a_function_is_held_once() {
    let directory = tempfile::tempdir().unwrap();
    let store = EmbeddedStore::open(directory.path()).unwrap();
    store.commit(vec![Write::Submit(submission(1, 1, 0)), Write::Submit(submission(2, 1, 0))]).await.unwrap();
    let first = store.pending(ENDPOINT, QUEUE, 0, 1, usize::MAX).await.unwrap();
    let second = store.pending(ENDPOINT, QUEUE, 1, 1, usize::MAX).await.unwrap();
    assert!(Arc::ptr_eq(&first[0].spec.function, &second[0].spec.function));
}
