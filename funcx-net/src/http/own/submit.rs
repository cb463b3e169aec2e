//! Submission.

use axum::extract::State;
use axum::response::Response;
use bytes::Bytes;
use funcx_core::contract::Action;
use funcx_core::model::{FunctionKind, limit};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::http::error::{ApiError, Result};
use crate::http::extract::{App, Caller, HashedBody, Trace};
use crate::http::view;
use crate::http::wire::{SubmitAnswer, SubmitRequest};
use crate::http::{framing, submitted};
use crate::service::{Accepted, Batch, Submit};

/// Submit tasks. They are durable when the answer comes.
#[utoipa::path(
    post, path = "/v1/submit", tag = "tasks", request_body = SubmitRequest,
    responses((status = 200, body = SubmitAnswer), ApiError)
)]
pub(super) async fn submit(
    State(app): State<App>,
    Caller(caller): Caller,
    Trace(trace): Trace,
    HashedBody(request, hash, _permit): HashedBody<SubmitRequest>,
) -> Result<Response> {
    let (shape, limits) = view::shape(request.how)?;
    let options = match request.options {
        None => Bytes::new(),
        Some(options) => serde_json::to_vec(&options)
            .map_err(|error| ApiError::invalid(format!("`options`: {error}")))?
            .into(),
    };
    let mut batches = Vec::with_capacity(request.tasks.len());
    for calls in request.tasks {
        let function = app.service.function(&caller, calls.function_id, Action::Use).await?;
        let kind = function.function.kind();
        let refused = |index: usize, why: String| {
            let function = calls.function_id;
            ApiError::invalid(format!("arguments[{index}] of the {kind} function {function}: {why}"))
        };
        let arguments = match calls.chunk {
            None => calls
                .arguments
                .into_iter()
                .enumerate()
                .map(|(index, arguments)| payload(kind, arguments).map_err(|why| refused(index, why)))
                .collect::<Result<_>>()?,
            Some(size) => chunks(kind, &calls.arguments, size, refused)?,
        };
        batches.push(Batch {
            function: calls.function_id,
            shape: shape.clone(),
            limits,
            options: options.clone(),
            map: calls.chunk.is_some(),
            memoize: request.memoize,
            arguments,
        });
    }
    let submit = Submit { endpoint: request.endpoint_id, group: request.task_group_id, trace, batches };
    let view = |accepted: &Accepted| SubmitAnswer {
        task_group_id: accepted.group,
        task_ids: accepted.tasks.clone(),
    };
    submitted(&app, caller, submit, hash, view).await
}

/// Arguments of one call as bytes, in the form that the kind of the function prescribes.
fn payload(kind: FunctionKind, arguments: Box<RawValue>) -> Result<Bytes, String> {
    Ok(match checked(kind, &arguments)? {
        Some(text) => view::payload(text),
        None => view::payload(Box::<str>::from(arguments)),
    })
}

/// Arguments of many calls as the payloads of maps over `size` of them each.
fn chunks(
    kind: FunctionKind,
    arguments: &[Box<RawValue>],
    size: u32,
    refused: impl Fn(usize, String) -> ApiError,
) -> Result<Vec<Bytes>> {
    let size = size as usize;
    if !(1..=limit::MAX_CHUNK_CALLS).contains(&size) {
        let most = limit::MAX_CHUNK_CALLS;
        return Err(ApiError::invalid(format!("`chunk` must be from 1 to {most} (MAX_CHUNK_CALLS)")));
    }
    for (index, arguments) in arguments.iter().enumerate() {
        checked(kind, arguments).map_err(|why| refused(index, why))?;
    }
    Ok(arguments.chunks(size).map(joined).collect())
}

/// A JSON array of these values.
fn joined(values: &[Box<RawValue>]) -> Bytes {
    let bytes = values.iter().map(|value| value.get().len() + 1).sum::<usize>() + 1;
    let mut text = String::with_capacity(bytes);
    for (index, value) in values.iter().enumerate() {
        text.push(if index == 0 { '[' } else { ',' });
        text.push_str(value.get());
    }
    text.push(']');
    view::payload(text)
}

/// Refuses arguments that have not the form that the kind of the function prescribes. Gives the text of those that are one.
fn checked(kind: FunctionKind, arguments: &RawValue) -> Result<Option<String>, String> {
    match kind {
        FunctionKind::GlobusCompute => {
            let text: String = serde_json::from_str(arguments.get())
                .map_err(|_| "a string of two framed buffers is wanted".to_owned())?;
            framing::unframe::<2>(&text)?;
            Ok(Some(text))
        }
        FunctionKind::Python | FunctionKind::Shell => {
            /// Only the form counts here; the worker reads the values.
            #[derive(Deserialize)]
            #[serde(deny_unknown_fields)]
            struct Form<'a> {
                #[serde(borrow, default, rename = "args")]
                _args: Vec<&'a RawValue>,
                #[serde(borrow, default, rename = "kwargs")]
                _kwargs: std::collections::BTreeMap<std::borrow::Cow<'a, str>, &'a RawValue>,
            }
            serde_json::from_str::<Form<'_>>(arguments.get())
                .map_err(|error| format!("`{{\"args\": [...], \"kwargs\": {{...}}}}` is wanted: {error}"))?;
            Ok(None)
        }
        _ => Ok(None),
    }
}
