//! Submission.

use axum::extract::State;
use axum::response::Response;
use bytes::Bytes;
use funcx_core::contract::Action;
use funcx_core::model::FunctionKind;
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
        let arguments = calls
            .arguments
            .into_iter()
            .enumerate()
            .map(|(index, arguments)| {
                payload(kind, arguments).map_err(|why| {
                    let function = calls.function_id;
                    ApiError::invalid(format!("arguments[{index}] of the {kind} function {function}: {why}"))
                })
            })
            .collect::<Result<_>>()?;
        let (shape, options) = (shape.clone(), options.clone());
        batches.push(Batch {
            function: calls.function_id,
            shape,
            limits,
            options,
            map: false,
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
    match kind {
        FunctionKind::GlobusCompute => {
            let text: String = serde_json::from_str(arguments.get())
                .map_err(|_| "a string of two framed buffers is wanted".to_owned())?;
            framing::unframe::<2>(&text)?;
            Ok(view::payload(text))
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
            Ok(view::payload(Box::<str>::from(arguments)))
        }
        _ => Ok(view::payload(Box::<str>::from(arguments))),
    }
}
