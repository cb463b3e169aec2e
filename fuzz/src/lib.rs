//! What the fuzz targets check, one module each: `check` takes any bytes and panics when a promise is broken.
//!
//! The entry points of the fuzzer also bound the memory that a check takes, with [`allocation::bounded`].
//!
//! The tests `fuzz_corpus` of the crates run the same checks over the committed corpora in every test run.

pub mod allocation;
pub mod config;
pub mod dispatcher;
pub mod frame;
pub mod http;
pub mod journal;
pub mod message;
pub mod worker;
