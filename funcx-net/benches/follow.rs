//! Outcomes that are asked for after their tasks have ended: those of a group from its start, and those of tasks by id.
//!
//! `cargo bench -p funcx-net --bench follow`. Tasks and outcomes lie in the embedded store, in a temporary directory
//! (`TMPDIR`), as they do when many are submitted before anybody asks for the first.

use std::{hint::black_box, sync::Arc};

use bytes::Bytes;
use divan::{Bencher, counter::ItemsCount};
use funcx_core::contract::{
    Authority, Credential, OutcomeRecord, Principal, Scope, Submission, TaskStore, Write,
};
use funcx_core::model::{
    EndpointId, Function, FunctionId, Outcome, Task, TaskGroupId, TaskId, TaskSpec, Timestamp, limit,
};
use funcx_net::auth::LocalAuthority;
use funcx_net::service::{FollowEvent, Service, ServiceConfig};
use funcx_net::store::EmbeddedStore;
use tokio::runtime::Runtime;

const GROUP: TaskGroupId = TaskGroupId::from_u128(3);
/// Tasks of one request, and outcomes of one commit.
const BATCH: usize = 1000;
/// Ids in one question of a client.
const ASKED: usize = 1000;

fn main() {
    divan::main();
}

/// A service whose store has tasks that have ended.
struct Site {
    runtime: Runtime,
    service: Arc<Service>,
    principal: Principal,
    ids: Vec<TaskId>,
    _directory: tempfile::TempDir,
}

impl Site {
    fn new(tasks: usize) -> Self {
        let runtime = Runtime::new().expect("a runtime");
        let directory = tempfile::tempdir().expect("a temporary directory");
        let authority = LocalAuthority::open(directory.path().join("accounts")).expect("accounts");
        let identity = authority.create_account("somebody", &[]).expect("an account");
        let token = authority.create_token(identity, &[Scope::Compute], None, "bench").expect("a token");
        let credential = Credential::Bearer(token);
        let asked = authority.authenticate(&credential, Timestamp::from_nanos(1));
        let principal = runtime.block_on(asked).expect("a principal");
        let store = Arc::new(EmbeddedStore::open(directory.path().join("store")).expect("a store"));
        let spec = Arc::new(TaskSpec::new(Arc::new(Function::native("noop")), identity));
        let ids: Vec<TaskId> = (1..=tasks as u64).map(task_id).collect();
        runtime.block_on(fill(&store, &spec, &ids));
        // Their times are those of long ago.
        let config = ServiceConfig { result_retention: None, ..ServiceConfig::default() };
        let start = async { Service::start(config, store, Arc::new(authority)) };
        let service = runtime.block_on(start).expect("a service");
        Self { service, principal, ids, _directory: directory, runtime }
    }
}

/// Ids spread like random ones do.
fn task_id(number: u64) -> TaskId {
    let spread = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    TaskId::from_u128(u128::from(spread) << 64 | u128::from(number))
}

async fn fill(store: &EmbeddedStore, spec: &Arc<TaskSpec>, ids: &[TaskId]) {
    for (number, part) in (0u64..).zip(ids.chunks(BATCH)) {
        let first = 1 + number * BATCH as u64;
        let submission = Submission {
            endpoint: EndpointId::from_u128(1),
            group: GROUP,
            function: FunctionId::from_u128(4),
            spec: Arc::clone(spec),
            accepted: Timestamp::from_nanos(first),
            first_sequence: first,
            tasks: part.iter().map(|id| (*id, Bytes::from_static(&[b'x'; 100]))).collect(),
        };
        store.commit(vec![Write::Submit(submission)]).await.expect("a commit");
    }
    let mut completed = ids.len() as u64;
    for part in ids.chunks(BATCH) {
        let outcomes = part.iter().map(|id| {
            completed += 1;
            let task = Task::new(*id, Arc::clone(spec), "");
            let outcome = Outcome::returned(&task, vec![b'y'; 100]);
            OutcomeRecord { outcome, completed: Timestamp::from_nanos(completed) }
        });
        store.commit(vec![Write::Finish(outcomes.collect())]).await.expect("a commit");
    }
}

/// A stream of all outcomes of the group, as a client opens it that has submitted everything before.
#[divan::bench(args = [10_000, 100_000], sample_count = 5, sample_size = 1)]
fn group_from_its_start(bencher: Bencher<'_, '_>, tasks: usize) {
    let site = Site::new(tasks);
    bencher.counter(ItemsCount::new(tasks)).bench_local(|| {
        site.runtime.block_on(async {
            let follower = site.service.follow(&site.principal, GROUP, Timestamp::UNSET);
            let mut follower = follower.await.expect("a follower");
            let mut told = 0;
            while told < tasks {
                let event = follower.next().await.expect("an event");
                told += usize::from(matches!(black_box(event), Some(FollowEvent::Outcome(_))));
            }
        });
    });
}

/// The outcomes of many tasks by id, in the order in which they were submitted.
#[divan::bench(args = [10_000, 100_000], sample_count = 5, sample_size = 1)]
fn tasks_by_id(bencher: Bencher<'_, '_>, tasks: usize) {
    let site = Site::new(tasks);
    bencher.counter(ItemsCount::new(tasks)).bench_local(|| {
        for part in site.ids.chunks(ASKED) {
            let asked = site.service.tasks(&site.principal, part, limit::TARGET_BATCH_BYTES);
            let found = site.runtime.block_on(asked).expect("tasks");
            assert_eq!(found.iter().flatten().count(), part.len());
        }
    });
}
