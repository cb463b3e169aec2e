//! Cost of the endpoint's journal, in entries (leases or outcomes) per second.
//!
//! `cargo bench -p funcx-net --bench journal`. The figures are those of the disk that holds the temporary directory
//! (`TMPDIR`). Leases are written when `record` returns, outcomes are on the disk when their future resolves; `syncing`
//! is what a lease costs while outcomes are synced all the time, `acknowledged` what an outcome with so many bytes costs that
//! the node above has at once, and `opening` reads so many outcomes back.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use divan::Bencher;
use divan::counter::ItemsCount;
use funcx_core::message::OutcomeBatch;
use funcx_core::model::{AttemptId, Function, IdentityId, Outcome, Task, TaskId, TaskSpec};
use funcx_core::state::JournalEntry;
use funcx_net::journal::{Journal, JournalOptions};
use futures::executor::block_on;
use futures::future::join_all;

const SIZES: [u64; 2] = [1, 128];
const PAYLOAD_BYTES: usize = 100;

fn main() {
    divan::main();
}

struct Bench {
    journal: Journal,
    next: AtomicU64,
    spec: Arc<TaskSpec>,
    _directory: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let (journal, _) = Journal::open(directory.path(), &JournalOptions::default()).expect("a journal");
        let spec = Arc::new(TaskSpec::new(Arc::new(Function::native("noop")), IdentityId::from_u128(1)));
        Self { journal, next: AtomicU64::new(1), spec, _directory: directory }
    }

    fn attempts(&self, count: u64) -> impl Iterator<Item = AttemptId> + use<> {
        let first = self.next.fetch_add(count, Ordering::Relaxed);
        (first..first + count).map(|number| {
            let spread = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            AttemptId { task: TaskId::from_u128(u128::from(spread) << 64 | u128::from(number)), number: 1 }
        })
    }

    fn lease(&self, count: u64) {
        block_on(self.journal.record(vec![JournalEntry::Leased(self.attempts(count).collect())]));
    }

    fn outcomes(&self, count: u64) -> OutcomeBatch {
        self.outcomes_of(count, PAYLOAD_BYTES)
    }

    fn outcomes_of(&self, count: u64, payload_bytes: usize) -> OutcomeBatch {
        let attempts = self.attempts(count);
        OutcomeBatch::new(
            self.next.load(Ordering::Relaxed),
            attempts.map(|attempt| {
                let task = Task::new(attempt.task, Arc::clone(&self.spec), "");
                Outcome::returned(&task, vec![b'y'; payload_bytes])
            }),
        )
    }

    /// Records batches that are acknowledged by the next one, and returns what resolves when they are safe.
    fn finish(&self, batch: OutcomeBatch) -> impl Future<Output = ()> + use<> {
        let before = batch.sequence - 1;
        self.journal.record(vec![JournalEntry::Acknowledged(before), JournalEntry::Outcomes(batch)])
    }
}

#[divan::bench(args = SIZES)]
fn leases(bencher: Bencher<'_, '_>, count: u64) {
    let bench = Bench::new();
    bencher.counter(ItemsCount::new(count)).bench(|| bench.lease(count));
}

#[divan::bench(args = SIZES)]
fn leases_syncing(bencher: Bencher<'_, '_>, count: u64) {
    let bench = Bench::new();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                block_on(bench.finish(bench.outcomes(128)));
            }
        });
        bencher.counter(ItemsCount::new(count)).bench(|| bench.lease(count));
        stop.store(true, Ordering::Relaxed);
    });
}

#[divan::bench(args = SIZES)]
fn outcomes_one_after_the_other(bencher: Bencher<'_, '_>, count: u64) {
    let bench = Bench::new();
    bencher
        .counter(ItemsCount::new(count))
        .with_inputs(|| bench.outcomes(count))
        .bench_values(|batch| block_on(bench.finish(batch)));
}

#[divan::bench(args = SIZES)]
fn outcomes_64_at_a_time(bencher: Bencher<'_, '_>, count: u64) {
    let bench = Bench::new();
    bencher
        .counter(ItemsCount::new(64 * count))
        .with_inputs(|| (0..64).map(|_| bench.outcomes(count)).collect::<Vec<_>>())
        .bench_values(|batches| block_on(join_all(batches.into_iter().map(|batch| bench.finish(batch)))));
}

#[divan::bench(args = [PAYLOAD_BYTES, 1 << 20])]
fn outcomes_acknowledged(bencher: Bencher<'_, '_>, payload_bytes: usize) {
    let bench = Bench::new();
    bencher.counter(ItemsCount::new(1_u64)).with_inputs(|| bench.outcomes_of(1, payload_bytes)).bench_values(
        |batch| {
            let sequence = batch.sequence;
            let safe = bench.journal.record(vec![JournalEntry::Outcomes(batch)]);
            drop(bench.journal.record(vec![JournalEntry::Acknowledged(sequence)]));
            block_on(safe);
        },
    );
}

#[divan::bench(args = [10_000])]
fn opening(bencher: Bencher<'_, '_>, count: u64) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let open = || Journal::open(directory.path(), &JournalOptions::default()).expect("a journal");
    let Bench { next, spec, .. } = Bench::new();
    let (journal, _) = open();
    let bench = Bench { journal, next, spec, _directory: tempfile::tempdir().expect("a directory") };
    for _ in 0..count / 100 {
        block_on(bench.journal.record(vec![JournalEntry::Outcomes(bench.outcomes(100))]));
    }
    drop(bench);
    bencher.counter(ItemsCount::new(count)).bench_local(|| open().1.outbox.len());
}
