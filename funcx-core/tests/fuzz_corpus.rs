//! The check of the fuzz target `dispatcher` on its committed corpus, so that what fuzzing once found stays found.

#[path = "../../fuzz/src/dispatcher.rs"]
pub mod dispatcher;
#[path = "../../fuzz/src/replay.rs"]
pub mod replay;

#[test]
fn dispatcher_corpus() {
    replay::replay("dispatcher", 10, dispatcher::check);
}
