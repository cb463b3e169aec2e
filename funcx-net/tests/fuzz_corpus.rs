//! The checks of the fuzz targets on their committed corpus, so that what fuzzing once found stays found.

use std::path::Path;

#[path = "../../fuzz/src/frame.rs"]
pub mod frame;
#[path = "../../fuzz/src/message.rs"]
pub mod message;

fn replay(target: &str, check: fn(&[u8])) {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(target);
    let entries: Vec<_> = corpus
        .read_dir()
        .expect("the corpus is there")
        .map(|entry| entry.expect("it can be listed").path())
        .collect();
    assert!(entries.len() >= 16, "the corpus has a frame of every kind: {}", corpus.display());
    for entry in entries {
        // On failure this names the input.
        println!("{}", entry.display());
        check(&std::fs::read(&entry).expect("an entry can be read"));
    }
}

#[test]
fn frame_corpus() {
    replay("frame", frame::check);
}

#[test]
fn message_corpus() {
    replay("message", message::check);
}
