//! Functions.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use funcx_core::contract::Action;
use funcx_core::model::{Function, FunctionBody, FunctionId, FunctionKind, limit};
use serde::Deserialize;
use utoipa::IntoParams;

use crate::http::error::{ApiError, Result};
use crate::http::extract::{App, Body, Caller, Params, PathId};
use crate::http::wire::{FunctionPage, FunctionRegistered, FunctionRegistration, FunctionView};
use crate::http::{framing, view};
use crate::service::NewFunction;

/// Register a function.
#[utoipa::path(
    post, path = "/v1/functions", tag = "functions", request_body = FunctionRegistration,
    responses((status = 201, body = FunctionRegistered), ApiError)
)]
pub(super) async fn register(
    State(app): State<App>,
    Caller(caller): Caller,
    Body(request): Body<FunctionRegistration>,
) -> Result<(StatusCode, Json<FunctionRegistered>)> {
    let function = body(request.kind, request.entry, request.code)?;
    let new = NewFunction {
        function: Function::new(function),
        name: request.name,
        description: request.description.unwrap_or_default(),
        access: view::access(request.public, request.group),
        memoize: request.memoize,
        metadata: view::object_text(request.metadata, "metadata")?,
    };
    let record = app.service.register_function(&caller, new).await?;
    let registered = FunctionRegistered { function_id: record.id, hash: record.function.hash().to_string() };
    Ok((StatusCode::CREATED, Json(registered)))
}

/// The code of a function in the form that its kind prescribes.
fn body(kind: FunctionKind, entry: Option<String>, code: Option<String>) -> Result<FunctionBody> {
    let entry = entry.filter(|entry| !entry.is_empty());
    let code = code.filter(|code| !code.is_empty());
    let missing = |field: &str| ApiError::invalid(format!("a {kind} function needs `{field}`"));
    let surplus = |field: &str| Err(ApiError::invalid(format!("a {kind} function has no `{field}`")));
    let (needs_entry, needs_code) = match kind {
        FunctionKind::Native => (true, false),
        FunctionKind::Python => (true, true),
        _ => (false, true),
    };
    match (&entry, &code) {
        (Some(_), _) if !needs_entry => return surplus("entry"),
        (_, Some(_)) if !needs_code => return surplus("code"),
        (None, _) if needs_entry => return Err(missing("entry")),
        (_, None) if needs_code => return Err(missing("code")),
        _ => {}
    }
    if let (FunctionKind::GlobusCompute, Some(code)) = (kind, &code) {
        framing::unframe::<1>(code)
            .map_err(|why| ApiError::invalid(format!("`code` is not one framed buffer: {why}")))?;
    }
    Ok(FunctionBody { kind, entry: entry.unwrap_or_default(), code: view::payload(code.unwrap_or_default()) })
}

/// Which page of functions.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Page {
    /// Where the last page ended.
    #[param(value_type = Option<uuid::Uuid>)]
    after: Option<FunctionId>,
    /// Functions on the page, at most 1000.
    limit: Option<usize>,
}

/// The functions that the caller owns, in order of id.
#[utoipa::path(
    get, path = "/v1/functions", tag = "functions", params(Page),
    responses((status = 200, body = FunctionPage), ApiError)
)]
pub(super) async fn list(
    State(app): State<App>,
    Caller(caller): Caller,
    Params(page): Params<Page>,
) -> Result<Json<FunctionPage>> {
    let limit = page.limit.unwrap_or(limit::MAX_PAGE_TASKS).clamp(1, limit::MAX_PAGE_TASKS);
    let records = app.service.functions(&caller, page.after, limit).await?;
    let next = records.last().filter(|_| records.len() == limit).map(|last| last.id.to_string());
    let functions = records.iter().map(|record| view::function(record, false)).collect();
    Ok(Json(FunctionPage { functions, next }))
}

/// A function, with its code.
#[utoipa::path(
    get, path = "/v1/functions/{id}", tag = "functions", params(("id" = uuid::Uuid, Path)),
    responses((status = 200, body = FunctionView), ApiError)
)]
pub(super) async fn find(
    State(app): State<App>,
    Caller(caller): Caller,
    PathId(id): PathId<FunctionId>,
) -> Result<Json<FunctionView>> {
    let record = app.service.function(&caller, id, Action::Read).await?;
    Ok(Json(view::function(&record, true)))
}
