//! What a task that calls its function many times returns.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::Failure;

/// The value of a task whose [specification](super::TaskSpec) says `map`, as it stands (in JSON) in its payload.
///
/// The task has returned even if all of its calls have failed; one that was cancelled, lost or out of time has no value.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct MapValue {
    /// What each call returned, in the order of the arguments; `null` if it failed.
    pub values: Vec<Box<RawValue>>,
    /// Why calls failed, by their place in `values`.
    pub failures: BTreeMap<usize, Failure>,
}

impl MapValue {
    /// What became of each call.
    pub fn into_results(self) -> impl ExactSizeIterator<Item = Result<Box<RawValue>, Failure>> {
        let Self { values, mut failures } = self;
        values
            .into_iter()
            .enumerate()
            .map(move |(index, value)| failures.remove(&index).map_or(Ok(value), Err))
    }
}
