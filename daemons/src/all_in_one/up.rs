//! `funcx up`: a fabric that runs until a signal comes.

use std::{io::Write, process::ExitCode};

use anyhow::Result;
use clap::Args;
use serde::Serialize;

use super::{Credentials, Fabric, FabricOptions};
use crate::service::DEFAULT_PORT;
use crate::signal;

/// Command line of `funcx up`.
#[derive(Debug, Clone, Args)]
pub struct UpOptions {
    /// The fabric to start.
    #[command(flatten)]
    pub fabric: FabricOptions,
}

/// The line that `--json` prints.
#[derive(Serialize)]
struct Ready<'a> {
    service: String,
    #[serde(flatten)]
    credentials: &'a Credentials,
}

/// Starts a fabric, says how to use it, and runs it until a signal comes.
///
/// # Errors
/// Why it could not start or go on.
pub async fn run(options: UpOptions, json: bool) -> Result<ExitCode> {
    let mut signals = signal::Stop::new()?;
    let mut fabric = tokio::select! {
        fabric = Fabric::start(&options.fabric) => fabric?,
        () = signals.wait() => return Ok(ExitCode::SUCCESS),
    };
    let text = match json {
        true => serde_json::to_string(&Ready { service: fabric.url(), credentials: fabric.credentials() })?,
        false => instructions(&fabric.url(), fabric.credentials(), options.fabric.data_dir.is_some()),
    };
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}")?;
    out.flush()?;
    drop(out);
    tokio::select! {
        () = signals.wait() => {}
        ended = fabric.ended() => ended?,
    }
    tracing::info!("stopping");
    fabric.shutdown().await?;
    Ok(ExitCode::SUCCESS)
}

fn instructions(url: &str, credentials: &Credentials, is_kept: bool) -> String {
    let Credentials { endpoint_id, token, client_id, client_secret } = credentials;
    // The SDK's `local` environment is fixed to port 5000; elsewhere a proxy variable leads there.
    let elsewhere = match url.ends_with(&format!(":{DEFAULT_PORT}")) {
        true => String::new(),
        false => format!("  export http_proxy={url}\n"),
    };
    let kept = match is_kept {
        true => "",
        false => {
            "\nWhat it holds goes with it; `--data-dir DIRECTORY` keeps functions, tasks, results and tokens."
        }
    };
    format!(
        "\
The fabric is ready at {url}. It runs until you press Ctrl-C.{kept}

In Python, with the unmodified globus-compute-sdk:
{}
  import globus_sdk
  from globus_compute_sdk import Client
  gcc = Client(local_compute_services=True, authorizer=globus_sdk.AccessTokenAuthorizer(\"{token}\"))
  endpoint = \"{endpoint_id}\"

For scripts that stay as they are (`Client()`), only variables:

{elsewhere}  export GLOBUS_SDK_ENVIRONMENT=local
  export GLOBUS_SDK_SERVICE_URL_AUTH={url}/
  export GLOBUS_COMPUTE_CLIENT_ID={client_id}
  export GLOBUS_COMPUTE_CLIENT_SECRET={client_secret}

For the funcx command and the examples:

  export FUNCX_SERVICE={url}
  export FUNCX_ENDPOINT_ID={endpoint_id}
  export FUNCX_TOKEN={token}",
        if elsewhere.is_empty() { String::new() } else { format!("\n{elsewhere}") },
    )
}
