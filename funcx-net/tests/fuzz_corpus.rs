//! The checks of the fuzz targets on their committed corpora, so that what fuzzing once found stays found.

#[path = "../../fuzz/src/frame.rs"]
pub mod frame;
#[path = "../../fuzz/src/http.rs"]
pub mod http;
#[path = "../../fuzz/src/journal.rs"]
pub mod journal;
#[path = "../../fuzz/src/message.rs"]
pub mod message;
#[path = "../../fuzz/src/replay.rs"]
pub mod replay;

#[test]
fn frame_corpus() {
    replay::replay("frame", 16, frame::check);
}

#[test]
fn message_corpus() {
    replay::replay("message", 16, message::check);
}

#[test]
fn http_corpus() {
    replay::replay("http", 40, http::check);
}

#[test]
fn journal_corpus() {
    replay::replay("journal", 10, journal::check);
}
