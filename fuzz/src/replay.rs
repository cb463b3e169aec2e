//! The committed corpus of a target, for the ordinary tests.

use std::path::Path;

/// Checks every input of the corpus of `target`, of which there are at least `least`.
pub fn replay(target: &str, least: usize, check: fn(&[u8])) {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(target);
    let mut entries: Vec<_> = corpus
        .read_dir()
        .expect("the corpus is there")
        .map(|entry| entry.expect("it can be listed").path())
        .collect();
    assert!(entries.len() >= least, "{} inputs in {}", entries.len(), corpus.display());
    entries.sort();
    for entry in entries {
        // On failure this names the input.
        println!("{}", entry.display());
        check(&std::fs::read(&entry).expect("an entry can be read"));
    }
}
