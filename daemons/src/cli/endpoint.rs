//! `funcx endpoint`

use std::process::ExitCode;

use anyhow::Result;
use clap::Subcommand;
use funcx_net::client::EndpointView;

use super::common::{Common, find_endpoint};
use super::output::{age, fields, table};

/// What to do with endpoints. `funcx-endpoint` starts and stops them.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// List your endpoints
    List,
    /// Show an endpoint
    Show {
        /// Id or name of the endpoint; not needed if you have one
        endpoint: Option<String>,
    },
}

/// Does what the command line says.
pub(super) async fn run(common: &Common, command: Command) -> Result<ExitCode> {
    let client = common.client()?;
    match command {
        Command::List => common.output().show(&client.endpoints().await?, |endpoints| listed(endpoints))?,
        Command::Show { endpoint } => {
            common.output().show(&find_endpoint(&client, endpoint.as_deref()).await?, described)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn listed(endpoints: &[EndpointView]) -> String {
    let row = |endpoint: &EndpointView| {
        [
            endpoint.endpoint_id.to_string(),
            endpoint.name.clone(),
            status(endpoint).to_owned(),
            endpoint.managers.to_string(),
            endpoint.workers.to_string(),
            endpoint.queued.to_string(),
            endpoint.leased.to_string(),
        ]
    };
    let header = ["ID", "NAME", "STATUS", "MANAGERS", "WORKERS", "WAITING", "UNDER WAY"];
    let empty = "you have no endpoints; `funcx-endpoint configure` and `funcx-endpoint start` make one";
    table(header, endpoints.iter().map(row), empty)
}

fn described(endpoint: &EndpointView) -> String {
    let shared = match (endpoint.public, endpoint.group) {
        (true, _) => "with everybody".to_owned(),
        (false, Some(group)) => format!("with group {group}"),
        (false, None) => String::new(),
    };
    let allowed = endpoint
        .allowed_functions
        .as_ref()
        .map(|functions| functions.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"));
    fields([
        ("id", endpoint.endpoint_id.to_string()),
        ("name", endpoint.name.clone()),
        ("status", status(endpoint).to_owned()),
        ("managers", endpoint.managers.to_string()),
        ("workers", endpoint.workers.to_string()),
        ("tasks waiting", endpoint.queued.to_string()),
        ("tasks under way", endpoint.leased.to_string()),
        ("owner", endpoint.owner.to_string()),
        ("shared", shared),
        ("runs only", allowed.unwrap_or_default()),
        ("registered", age(endpoint.created)),
        (
            "says",
            endpoint
                .metadata
                .as_ref()
                .map(|json| json.get().to_owned())
                .filter(|json| json != "{}")
                .unwrap_or_default(),
        ),
    ])
}

const fn status(endpoint: &EndpointView) -> &'static str {
    if endpoint.connected { "connected" } else { "away" }
}
