//! The value that a task returned.

use funcx_core::model::OutcomeKind;
use funcx_core::{Error, ErrorKind, Result};
use serde::de::DeserializeOwned;

use crate::http::wire::TaskView;

impl TaskView {
    /// The JSON text of the value, if the function returned one that has it. `null` is a value.
    pub fn result_json(&self) -> Option<&str> {
        match (&self.result, self.outcome) {
            (Some(result), _) => Some(result.get()),
            // An absent field and one that is `null` are the same to serde.
            (None, Some(OutcomeKind::Returned)) if self.result_base64.is_none() => Some("null"),
            (None, _) => None,
        }
    }

    /// The value that the function returned.
    ///
    /// # Errors
    /// `Conflict` if the task has not returned, with the reason; `InvalidInput` if the value is no `T`.
    pub fn value<T: DeserializeOwned>(&self) -> Result<T> {
        let failed = |kind, message: String| {
            Error::new(kind, "read value of task", message).with_context("task", self.task_id)
        };
        let Some(result) = self.result_json() else {
            return Err(match (&self.failure, self.outcome) {
                _ if self.result_base64.is_some() => {
                    failed(ErrorKind::InvalidInput, "it is no JSON".to_owned())
                }
                (Some(failure), _) => {
                    failed(ErrorKind::Conflict, format!("{}: {}", failure.code, failure.message))
                }
                (None, Some(outcome)) => failed(ErrorKind::Conflict, format!("it ended as {outcome}")),
                (None, None) => failed(ErrorKind::Conflict, "it has not ended".to_owned()),
            });
        };
        serde_json::from_str(result).map_err(|error| {
            failed(ErrorKind::InvalidInput, "it is not of the wanted type".to_owned()).with_source(error)
        })
    }
}
