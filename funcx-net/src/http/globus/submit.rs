//! Submission.

use axum::extract::State;
use axum::response::Response;
use bytes::Bytes;
use funcx_core::contract::Action;
use funcx_core::model::{EndpointId, FunctionKind};
use serde_json::{Map, Value};

use super::wire::{SubmitV3, SubmittedV3};
use crate::http::error::{ApiError, Result};
use crate::http::extract::{App, Caller, HashedBody, PathId, Trace};
use crate::http::view;
use crate::http::wire::Resources;
use crate::http::{framing, submitted};
use crate::service::{Accepted, Batch, Submit};

/// Submit tasks. They are durable when the answer comes, whether or not the endpoint is there.
#[utoipa::path(
    post, path = "/v3/endpoints/{id}/submit", tag = "globus-compute", operation_id = "globus_submit",
    params(("id" = uuid::Uuid, Path)), request_body = SubmitV3,
    responses((status = 200, body = SubmittedV3), ApiError)
)]
pub(super) async fn submit(
    State(app): State<App>,
    Caller(caller): Caller,
    PathId(endpoint): PathId<EndpointId>,
    Trace(trace): Trace,
    HashedBody(request, hash, _permit): HashedBody<SubmitV3>,
) -> Result<Response> {
    let (shape, limits) = view::shape(resources(request.resource_specification.as_ref())?)?;
    let options = options(request.resource_specification, request.result_serializers);
    let functions: Vec<_> = request.tasks.keys().copied().collect();
    let mut batches = Vec::with_capacity(functions.len());
    for (function, arguments) in request.tasks {
        let record = app.service.function(&caller, function, Action::Use).await?;
        if record.function.kind() != FunctionKind::GlobusCompute {
            let kind = record.function.kind();
            return Err(ApiError::invalid(format!(
                "function {function} is of kind {kind}: submit it to /v1/submit"
            )));
        }
        for (index, text) in arguments.iter().enumerate() {
            framing::unframe::<2>(text).map_err(|why| {
                ApiError::invalid(format!("tasks.{function}[{index}] is not serialized arguments: {why}"))
            })?;
        }
        let arguments = arguments.into_iter().map(view::payload).collect();
        batches.push(Batch {
            function,
            shape: shape.clone(),
            limits,
            options: options.clone(),
            map: false,
            memoize: None,
            arguments,
        });
    }
    let submit = Submit { endpoint, group: request.task_group_id, trace, batches };
    let ignored = request.user_endpoint_config.is_some_and(|config| !config.is_empty());
    let view = |accepted: &Accepted| SubmittedV3 {
        request_id: accepted.request,
        task_group_id: accepted.group,
        endpoint_id: endpoint,
        tasks: functions.into_iter().zip(accepted.tasks.iter().cloned()).collect(),
        ha_warning: ignored.then(|| "user_endpoint_config has no effect on this endpoint".to_owned()),
    };
    submitted(&app, caller, submit, hash, view).await
}

/// What the worker reads.
fn options(specification: Option<Map<String, Value>>, serializers: Option<Vec<String>>) -> Bytes {
    let mut options = Map::new();
    if let Some(serializers) = serializers.filter(|serializers| !serializers.is_empty()) {
        options.insert("result_serializers".to_owned(), serializers.into());
    }
    if let Some(specification) = specification.filter(|specification| !specification.is_empty()) {
        options.insert("resource_specification".to_owned(), specification.into());
    }
    match options.is_empty() {
        true => Bytes::new(),
        false => view::payload(Value::from(options).to_string()),
    }
}

/// The keys of a resource specification that we know; the worker sees all of them.
fn resources(specification: Option<&Map<String, Value>>) -> Result<Resources> {
    let Some(specification) = specification else { return Ok(Resources::default()) };
    Ok(Resources {
        walltime_seconds: key(specification, "walltime", "a number of seconds", Value::as_f64)?,
        max_attempts: key(specification, "max_attempts", "a number", small)?,
        // As Parsl has it, from which the key comes: lower values go first (HighThroughputExecutor, "priority").
        priority: key(specification, "priority", "a number", Value::as_f64)?.map(|value| -value as i8),
        ttl_seconds: key(specification, "ttl", "a number of seconds", Value::as_f64)?,
        deadline_seconds: key(specification, "deadline", "a number of seconds", Value::as_f64)?,
        cores: key(specification, "cores", "a number", Value::as_f64)?,
        memory_bytes: key(specification, "memory", "a number of bytes", Value::as_u64)?,
        accelerators: key(specification, "accelerators", "a number", Value::as_f64)?,
        accelerator_kind: key(specification, "accelerator_kind", "text", text)?,
        nodes: key(specification, "num_nodes", "a number", small)?,
        ranks_per_node: key(specification, "ranks_per_node", "a number", small)?,
        environment: key(specification, "environment", "text", text)?,
        container: key(specification, "container", "text", text)?,
        labels: key(specification, "labels", "a list of texts", texts)?,
    })
}

fn key<'a, T>(
    specification: &'a Map<String, Value>,
    name: &str,
    wanted: &str,
    read: impl Fn(&'a Value) -> Option<T>,
) -> Result<Option<T>> {
    match specification.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => read(value)
            .map(Some)
            .ok_or_else(|| ApiError::invalid(format!("resource_specification.{name} must be {wanted}"))),
    }
}

fn small(value: &Value) -> Option<u32> {
    value.as_u64().and_then(|number| number.try_into().ok())
}

fn text(value: &Value) -> Option<String> {
    value.as_str().map(str::to_owned)
}

fn texts(value: &Value) -> Option<Vec<String>> {
    value.as_array()?.iter().map(text).collect()
}
