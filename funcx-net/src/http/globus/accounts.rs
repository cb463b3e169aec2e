//! The few routes of Globus Auth that the SDK needs when it is pointed at us with environment variables only.

use axum::Json;
use axum::extract::{FromRequest, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::{Form, response::IntoResponse};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use funcx_core::contract::{Credential, Principal};
use serde::Deserialize;
use serde_json::{Value, json};

use super::wire::TokenAnswer;
use crate::driver::wall_clock;
use crate::http::error::{ApiError, Result};
use crate::http::extract::{App, Caller, Params, authorization, small_body};

/// The resource server of the compute service, and the mark of scopes that belong to it.
const COMPUTE: (&str, &str) = ("funcx_service", "facd7ccc-c5f4-42aa-916b-a0e270e2c2a9");
/// The resource server of all other scopes.
const AUTH: &str = "auth.globus.org";

#[derive(Debug, Deserialize)]
struct TokenRequest {
    grant_type: String,
    #[serde(default)]
    scope: String,
}

/// Exchange the id and secret of a robot account for an access token (RFC 6749, section 4.4).
#[utoipa::path(
    post, path = "/v2/oauth2/token", tag = "accounts",
    request_body(content = String, content_type = "application/x-www-form-urlencoded"),
    responses((status = 200, body = TokenAnswer), ApiError)
)]
pub(super) async fn token(State(app): State<App>, request: Request) -> Result<impl IntoResponse> {
    let Some(issuer) = app.service.config().issuer.clone() else {
        let message = "this service issues no tokens: ask its operator for one";
        return Err(ApiError::new(StatusCode::NOT_FOUND, "NOT_FOUND", message));
    };
    // The body of somebody unknown is not even read.
    let (id, credential) = client(request.headers())?;
    let principal = app.service.authenticate(&credential).await?;
    let request = form(small_body(request, &app).await?).await?;
    if request.grant_type != "client_credentials" {
        return Err(ApiError::invalid("the only grant type here is `client_credentials`"));
    }
    let lifetime = app.service.config().token_lifetime;
    let answer = |scope: String, resource_server| -> Result<TokenAnswer> {
        Ok(TokenAnswer {
            access_token: issuer.issue_access_token(&id, &principal, lifetime, wall_clock())?,
            scope,
            expires_in: lifetime.as_secs(),
            token_type: "Bearer",
            resource_server,
            state: "_default",
            other_tokens: Vec::new(),
        })
    };
    // One token for each resource server that the scopes belong to.
    let (compute, auth): (Vec<_>, Vec<_>) =
        request.scope.split_whitespace().partition(|scope| scope.contains(COMPUTE.1));
    let mut answers = Vec::new();
    if !compute.is_empty() || auth.is_empty() {
        answers.push(answer(compute.join(" "), COMPUTE.0)?);
    }
    if !auth.is_empty() {
        answers.push(answer(auth.join(" "), AUTH)?);
    }
    let mut first = answers.remove(0);
    first.other_tokens = answers;
    Ok(([(header::CACHE_CONTROL, "no-store")], Json(first)))
}

async fn form(body: bytes::Bytes) -> Result<TokenRequest> {
    let request = Request::builder()
        .method("POST")
        .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
        .body(axum::body::Body::from(body))
        .map_err(|error| ApiError::malformed(error.to_string()))?;
    let Form(request) = Form::from_request(request, &())
        .await
        .map_err(|rejection| ApiError::malformed(rejection.body_text()))?;
    Ok(request)
}

/// Id and secret from an `Authorization: Basic` header.
fn client(headers: &HeaderMap) -> Result<(String, Credential)> {
    let wanted =
        || ApiError::unauthenticated("send `Authorization: Basic` with the id and the secret of a client");
    let encoded = authorization(headers, "Basic")?.ok_or_else(wanted)?;
    let decoded =
        STANDARD.decode(encoded).ok().and_then(|bytes| String::from_utf8(bytes).ok()).ok_or_else(wanted)?;
    let (id, secret) = decoded.split_once(':').ok_or_else(wanted)?;
    Ok((id.to_owned(), Credential::Client { id: id.to_owned(), secret: secret.to_owned() }))
}

/// Forget a token. Tokens of this service end by themselves.
#[utoipa::path(post, path = "/v2/oauth2/token/revoke", tag = "accounts", responses((status = 200, body = Value)))]
pub(super) async fn revoke() -> Json<Value> {
    Json(json!({ "active": false }))
}

/// Who the caller is.
#[utoipa::path(
    get, path = "/v2/oauth2/userinfo", tag = "accounts",
    responses((status = 200, body = Value), ApiError)
)]
pub(super) async fn userinfo(Caller(caller): Caller) -> Json<Value> {
    let Principal { identity, username, .. } = &caller;
    Json(json!({
        "sub": identity,
        "preferred_username": username,
        "name": username,
        "email": username,
        "identity_set": [{ "sub": identity, "username": username, "name": username, "email": username }],
    }))
}

#[derive(Debug, Deserialize)]
pub(super) struct Ids {
    #[serde(default)]
    ids: String,
}

/// What is known about identities: the caller knows only itself.
#[utoipa::path(
    get, path = "/v2/api/identities", tag = "accounts",
    params(("ids" = Option<String>, Query, description = "ids, separated by commas")),
    responses((status = 200, body = Value), ApiError)
)]
pub(super) async fn identities(Caller(caller): Caller, Params(wanted): Params<Ids>) -> Json<Value> {
    let (id, name) = (caller.identity.to_string(), &caller.username);
    let asked = wanted.ids.split(',').any(|asked| asked.trim().eq_ignore_ascii_case(&id));
    let known = asked.then(|| json!({ "id": id, "username": name, "name": name, "email": name }));
    Json(json!({ "identities": known.into_iter().collect::<Vec<_>>() }))
}
