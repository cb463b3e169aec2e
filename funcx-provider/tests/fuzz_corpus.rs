//! The check of the fuzz target `worker` on its committed corpus, so that what fuzzing once found stays found.

#[path = "../../fuzz/src/replay.rs"]
pub mod replay;
#[path = "../../fuzz/src/worker.rs"]
pub mod worker;

#[test]
fn worker_corpus() {
    replay::replay("worker", 10, worker::check);
}
