//! Telling the service that an endpoint exists, and that it is no more.

use std::time::Duration;

use anyhow::{Result, bail};
use funcx_core::model::{EndpointId, FunctionId};
use reqwest::{RequestBuilder, Response, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::Token;
use crate::config::EndpointConfig;
use crate::exit::{Exit, Failed};

/// Longest time for one answer of the service.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Between two tries to reach the service.
const PAUSE: Duration = Duration::from_millis(500);

/// How often the service is tried when it cannot be reached: for about fifteen seconds, the time a service needs to
/// start again.
const TRIES: u32 = 30;

/// Longest text of the service quoted in a message.
const MAX_QUOTED_CHARS: usize = 300;

/// Most of an answer that is read to find its reason.
const MAX_REASON_BYTES: usize = 64 << 10;

#[derive(Serialize)]
struct Registration<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    endpoint_id: Option<EndpointId>,
    name: &'a str,
    public: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    allowed_functions: Option<&'a [FunctionId]>,
    metadata: serde_json::Value,
}

#[derive(Deserialize)]
struct Answer {
    endpoint_id: EndpointId,
}

/// Registers an endpoint with the service of its configuration, and gives its id. `known` is the id it had before.
///
/// # Errors
/// [`Failed`] with `Credentials`, `Service` or `Refused`.
pub async fn register(
    config: &EndpointConfig,
    name: &str,
    known: Option<EndpointId>,
    token: &Token,
) -> Result<EndpointId> {
    let registration = Registration {
        endpoint_id: known,
        name,
        public: config.public,
        allowed_functions: config.allowed_functions.as_deref(),
        metadata: json!({
            "software": super::SOFTWARE,
            "hostname": nix::unistd::gethostname().map_or_else(|_| String::new(), |name| name.to_string_lossy().into_owned()),
            "engine": config.engine.kind.as_str(),
            "os": std::env::consts::OS,
            "arch": std::env::consts::ARCH,
        }),
    };
    let request =
        client()?.post(url(&config.service, "/v1/endpoints")).bearer_auth(token.reveal()).json(&registration);
    let answer = send(request, &config.service).await?;
    match answer.json::<Answer>().await {
        Ok(answer) => Ok(answer.endpoint_id),
        Err(error) => bail!(Failed::new(
            Exit::Service,
            format!("{} does not answer like a funcx service: {error}", config.service)
        )),
    }
}

/// Has the service forget an endpoint. That it does not know it is no error.
///
/// # Errors
/// [`Failed`] with `Credentials`, `Service` or `Refused`.
pub async fn delete(service: &str, id: EndpointId, token: &Token) -> Result<()> {
    let request = client()?.delete(url(service, &format!("/v2/endpoints/{id}"))).bearer_auth(token.reveal());
    match send(request, service).await {
        Err(error)
            if error.downcast_ref::<Failed>().is_some_and(|failed| failed.exit == Exit::NoSuchEndpoint) =>
        {
            Ok(())
        }
        other => other.map(drop),
    }
}

fn client() -> Result<reqwest::Client> {
    Ok(reqwest::Client::builder().timeout(TIMEOUT).user_agent(super::SOFTWARE).build()?)
}

fn url(service: &str, path: &str) -> String {
    format!("{}{path}", service.trim_end_matches('/'))
}

/// Sends a request that may be sent twice, until the service answers or was tried often enough.
async fn send(request: RequestBuilder, service: &str) -> Result<Response> {
    let mut tries = 1;
    loop {
        let attempt = request.try_clone().expect("the body is no stream");
        let busy = match attempt.send().await {
            Ok(answer) if answer.status().is_success() => return Ok(answer),
            Ok(answer) if answer.status() == StatusCode::SERVICE_UNAVAILABLE => {
                format!("it answers {}: {}", answer.status(), reason(answer).await)
            }
            Ok(answer) => return Err(refusal(answer, service).await.into()),
            Err(error) => innermost(&error),
        };
        if tries == TRIES {
            bail!(Failed::new(Exit::Service, format!("cannot reach the service at {service}: {busy}")));
        }
        if tries == 1 {
            tracing::warn!(service, reason = busy, "cannot reach the service, trying again");
        }
        tries += 1;
        tokio::time::sleep(PAUSE).await;
    }
}

/// The reason that the service, or something in front of it, gives for an answer that is no success.
async fn reason(mut answer: Response) -> String {
    let mut text = Vec::new();
    // An answer that breaks off is quoted as far as it came.
    while let Ok(Some(part)) = answer.chunk().await {
        text.extend_from_slice(&part[..part.len().min(MAX_REASON_BYTES - text.len())]);
        if text.len() == MAX_REASON_BYTES {
            break;
        }
    }
    let said = serde_json::from_slice::<serde_json::Value>(&text).ok().and_then(|body| {
        let field = |name: &str| body.get(name).and_then(|value| value.as_str()).map(str::to_owned);
        field("reason").or_else(|| field("message")).or_else(|| field("error")).or_else(|| field("detail"))
    });
    let said = said.unwrap_or_else(|| String::from_utf8_lossy(&text).into_owned());
    let said = said.trim();
    if said.is_empty() { "no reason given".to_owned() } else { said.chars().take(MAX_QUOTED_CHARS).collect() }
}

async fn refusal(answer: Response, service: &str) -> Failed {
    let status = answer.status();
    let said = reason(answer).await;
    match status {
        StatusCode::UNAUTHORIZED => Failed::new(
            Exit::Credentials,
            format!("the service at {service} does not take the token: {said}"),
        ),
        StatusCode::FORBIDDEN | StatusCode::CONFLICT | StatusCode::BAD_REQUEST => {
            Failed::new(Exit::Refused, format!("the service at {service} refuses: {said}"))
        }
        StatusCode::NOT_FOUND => {
            Failed::new(Exit::NoSuchEndpoint, format!("the service at {service} does not know it: {said}"))
        }
        _ => Failed::new(Exit::Service, format!("the service at {service} answered {status}: {said}")),
    }
}

/// The reason at the bottom of an error of the HTTP client, which is the one that says something.
fn innermost(error: &reqwest::Error) -> String {
    let mut reason: &dyn std::error::Error = error;
    while let Some(source) = reason.source() {
        reason = source;
    }
    reason.to_string()
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    /// What [`reason`] finds in an answer with this body.
    async fn reason_in(body: &str) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let length = body.len();
        let answer = format!("HTTP/1.1 503 Service Unavailable\r\ncontent-length: {length}\r\n\r\n{body}");
        let serve = async {
            let (mut connection, _) = listener.accept().await.unwrap();
            let _request = connection.read(&mut [0; 4096]).await.unwrap();
            // The client need not read to the end.
            let _ = connection.write_all(answer.as_bytes()).await;
        };
        let ask =
            async { reason(client().unwrap().get(format!("http://{address}")).send().await.unwrap()).await };
        tokio::join!(serve, ask).1
    }

    #[tokio::test]
    async fn the_reason_of_an_answer_is_found_and_bounded() {
        assert_eq!(reason_in(r#"{"code": 7, "reason": "the disk is full"}"#).await, "the disk is full");
        assert_eq!(reason_in("upstream is down\n").await, "upstream is down");
        assert_eq!(reason_in("").await, "no reason given");
        assert_eq!(reason_in(&"x".repeat(8 << 20)).await, "x".repeat(MAX_QUOTED_CHARS));
    }
}
