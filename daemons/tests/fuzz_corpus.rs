//! The check of the fuzz target `config` on its committed corpus, so that what fuzzing once found stays found.

#[path = "../../fuzz/src/config.rs"]
pub mod config;
#[path = "../../fuzz/src/replay.rs"]
pub mod replay;

#[test]
fn config_corpus() {
    replay::replay("config", 10, config::check);
}
