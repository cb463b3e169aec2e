//! What the fuzz targets check, one module each: `check` takes any bytes and panics when a promise is broken.
//!
//! `funcx-net/tests/fuzz_corpus.rs` runs the same checks over the corpus in every test run.

pub mod frame;
pub mod message;
