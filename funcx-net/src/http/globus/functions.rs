//! Functions.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use funcx_core::contract::Action;
use funcx_core::model::{Function, FunctionBody, FunctionId, FunctionKind, Memoize};
use serde_json::{Map, Value};
use uuid::Uuid;

use super::wire::{FunctionInfo, FunctionUuid, NewFunctionV2, NewFunctionV3};
use crate::http::error::{ApiError, Result};
use crate::http::extract::{App, Body, Caller, PathId};
use crate::http::{framing, view};
use crate::service::NewFunction;

/// Register a function (SDK 3 and later).
#[utoipa::path(
    post, path = "/v3/functions", tag = "globus-compute", operation_id = "globus_register_function", request_body = NewFunctionV3,
    responses((status = 201, body = FunctionUuid), ApiError)
)]
pub(super) async fn register(
    state: State<App>,
    caller: Caller,
    Body(request): Body<NewFunctionV3>,
) -> Result<(StatusCode, Json<FunctionUuid>)> {
    let code = match request.serialized {
        true => request.function_code,
        // The form in which the worker takes source text: strategy `st`, then name and source.
        false => framing::frame(&format!("st\n{}:{}", request.function_name, request.function_code)),
    };
    let new = Registration {
        name: request.function_name,
        code,
        description: request.description,
        metadata: request.meta,
        public: request.public,
        group: request.group,
    };
    add(state, caller, new).await
}

/// Register a function (SDK 2).
#[utoipa::path(
    post, path = "/v2/functions", tag = "globus-compute", operation_id = "globus_register_function_v2", request_body = NewFunctionV2,
    responses((status = 201, body = FunctionUuid), ApiError)
)]
pub(super) async fn register_v2(
    state: State<App>,
    caller: Caller,
    Body(request): Body<NewFunctionV2>,
) -> Result<(StatusCode, Json<FunctionUuid>)> {
    let new = Registration {
        name: request.function_name,
        code: request.function_code,
        description: request.description,
        metadata: request.metadata,
        public: request.public,
        group: request.group,
    };
    add(state, caller, new).await
}

/// What the two versions of the route have in common.
struct Registration {
    name: String,
    /// One framed buffer.
    code: String,
    description: Option<String>,
    metadata: Option<Map<String, Value>>,
    public: Option<bool>,
    group: Option<Uuid>,
}

async fn add(
    State(app): State<App>,
    Caller(caller): Caller,
    new: Registration,
) -> Result<(StatusCode, Json<FunctionUuid>)> {
    framing::unframe::<1>(&new.code)
        .map_err(|why| ApiError::invalid(format!("`function_code` is not one serialized buffer: {why}")))?;
    let body = FunctionBody {
        kind: FunctionKind::GlobusCompute,
        entry: String::new(),
        code: view::payload(new.code),
    };
    let new = NewFunction {
        function: Function::new(body),
        name: new.name,
        description: new.description.unwrap_or_default(),
        access: view::access(new.public.unwrap_or(false), new.group),
        memoize: Memoize::Never,
        metadata: Value::from(new.metadata.unwrap_or_default()).to_string(),
    };
    let record = app.service.register_function(&caller, new).await?;
    Ok((StatusCode::CREATED, Json(FunctionUuid { function_uuid: record.id })))
}

/// A function.
#[utoipa::path(
    get, path = "/v2/functions/{id}", tag = "globus-compute", operation_id = "globus_get_function",
    params(("id" = Uuid, Path)),
    responses((status = 200, body = FunctionInfo), ApiError)
)]
pub(super) async fn find(
    State(app): State<App>,
    Caller(caller): Caller,
    PathId(id): PathId<FunctionId>,
) -> Result<Json<FunctionInfo>> {
    let record = app.service.function(&caller, id, Action::Read).await?;
    Ok(Json(FunctionInfo {
        function_uuid: id,
        function_name: record.name.clone(),
        function_code: String::from_utf8_lossy(&record.function.body().code).into_owned(),
        description: Some(record.description.clone()).filter(|text| !text.is_empty()),
        metadata: serde_json::from_str(&record.metadata).unwrap_or_default(),
    }))
}

/// Delete a function. Tasks that call it are not touched.
#[utoipa::path(
    delete, path = "/v2/functions/{id}", tag = "globus-compute", operation_id = "globus_delete_function",
    params(("id" = Uuid, Path)),
    responses((status = 200, body = Value), ApiError)
)]
pub(super) async fn delete(
    State(app): State<App>,
    Caller(caller): Caller,
    PathId(id): PathId<FunctionId>,
) -> Result<Json<Value>> {
    app.service.delete_function(&caller, id).await?;
    Ok(Json(serde_json::json!({ "result": 302 })))
}
