//! Whatever starts processes, with real ones: the process pool over the `python3` in `PATH`, and local blocks.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod bad_tasks;
mod conformance;
mod good_tasks;
mod local_provider;
mod pool_life;
mod python_missing;
mod support;
