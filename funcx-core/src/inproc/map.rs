//! Native functions called many times in one task.

use bytes::Bytes;
use futures::future::{BoxFuture, FutureExt};
use serde_json::value::RawValue;

use super::CallContext;
use super::functions::{Called, NativeCall, Returned, call, settle};
use crate::model::{Failure, MapValue, limit};

/// Bytes of the task's value that are kept back for each call that is still to come: enough to say that its own value does
/// not fit.
const KEPT_BYTES: usize = 256;

/// Longest message or traceback of a failed call, where there is room, and where there is none.
const MOST_TEXT_BYTES: usize = 16 << 10;
const LEAST_TEXT_BYTES: usize = 12;

/// Calls a function with each element of a JSON array, one after the other.
pub(super) fn call_each(function: &NativeCall, payload: &Bytes, context: &CallContext) -> Called {
    let elements = match elements(payload) {
        Ok(elements) => elements,
        Err(failure) => return Called::Ended(Err(failure)),
    };
    match function {
        NativeCall::Sync(_) => Called::Ended(call_all(function, elements, context)),
        NativeCall::Async(_) => Called::Running(await_all(function.clone(), elements)),
    }
}

fn call_all(function: &NativeCall, elements: Vec<Bytes>, context: &CallContext) -> Returned {
    let mut ends = Ends::new(elements.len());
    for element in elements {
        if context.is_stopped() {
            // Its outcome says why, and nobody looks at this.
            return Err(Failure::new("Stopped", "the task was stopped between two of its calls"));
        }
        if let Called::Ended(returned) = call(function, &element, context) {
            ends.push(returned);
        }
    }
    ends.finish()
}

fn await_all(function: NativeCall, elements: Vec<Bytes>) -> BoxFuture<'static, Returned> {
    async move {
        let mut ends = Ends::new(elements.len());
        for element in elements {
            ends.push(match call(&function, &element, &CallContext::default()) {
                Called::Ended(returned) => returned,
                Called::Running(running) => settle(running).await,
            });
        }
        ends.finish()
    }
    .boxed()
}

/// The arguments of each call, as slices of the payload.
fn elements(payload: &Bytes) -> Result<Vec<Bytes>, Failure> {
    let elements: Vec<&RawValue> = serde_json::from_slice(payload).map_err(|error| {
        Failure::new("InvalidArguments", format!("the arguments of a map are not a JSON array: {error}"))
    })?;
    Ok(elements.into_iter().map(|element| payload.slice_ref(element.get().as_bytes())).collect())
}

/// How the calls have ended so far.
struct Ends {
    value: MapValue,
    calls: usize,
    used_bytes: usize,
}

impl Ends {
    fn new(calls: usize) -> Self {
        Self { value: MapValue::default(), calls, used_bytes: 0 }
    }

    fn push(&mut self, returned: Returned) {
        let index = self.value.values.len();
        let kept = (self.calls - index) * KEPT_BYTES;
        let room = limit::MAX_PAYLOAD_BYTES.saturating_sub(self.used_bytes + kept);
        let value =
            returned.and_then(json).and_then(|value| fitting(value, room)).unwrap_or_else(|mut failure| {
                // In JSON a character may become six, and there are two texts.
                let most = (room / 12).clamp(LEAST_TEXT_BYTES, MOST_TEXT_BYTES);
                clip(&mut failure.message, most);
                clip(&mut failure.traceback, most);
                self.used_bytes += KEPT_BYTES + 6 * (failure.message.len() + failure.traceback.len());
                self.value.failures.insert(index, failure);
                RawValue::NULL.to_owned()
            });
        self.used_bytes += value.get().len() + 1;
        self.value.values.push(value);
    }

    fn finish(self) -> Returned {
        serde_json::to_vec(&self.value)
            .map(Bytes::from)
            .map_err(|error| Failure::new("InvalidResult", format!("cannot write the results: {error}")))
    }
}

/// Cuts a text that is longer than this many bytes.
fn clip(text: &mut String, most_bytes: usize) {
    if text.len() > most_bytes {
        let end = (0..=most_bytes).rev().find(|at| text.is_char_boundary(*at));
        text.truncate(end.unwrap_or(0));
        text.push('…');
        text.shrink_to_fit();
    }
}

/// What a function returned, if it is JSON: it becomes a part of a larger value.
fn json(value: Bytes) -> Result<Box<RawValue>, Failure> {
    let not_json = |why: String| Failure::new("InvalidResult", format!("the result is not JSON: {why}"));
    let text = String::from_utf8(value.into()).map_err(|error| not_json(error.to_string()))?;
    RawValue::from_string(text).map_err(|error| not_json(error.to_string()))
}

fn fitting(value: Box<RawValue>, room: usize) -> Result<Box<RawValue>, Failure> {
    let size = value.get().len();
    if size <= room {
        return Ok(value);
    }
    let message = format!(
        "the result has {size} bytes, more than are left of the {} for all calls of a chunk together: use smaller chunks",
        limit::MAX_PAYLOAD_BYTES
    );
    Err(Failure::new("MaxResultSizeExceeded", message))
}
