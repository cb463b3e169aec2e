//! `list`.

use anyhow::Result;
use comfy_table::{Table, presets};
use funcx_core::model::EndpointId;
use serde::Serialize;

use crate::endpoint::{EndpointDirectory, EndpointStatus, Endpoints, Running};

#[derive(Debug, clap::Args)]
pub struct List {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// One endpoint, as `list --json` and `show --json` print it.
#[derive(Debug, Serialize)]
pub(super) struct Row {
    name: String,
    id: Option<EndpointId>,
    /// `running`, `disconnected`, `stopped` or `killed`.
    pub(super) state: &'static str,
    pid: Option<u32>,
    service: Option<String>,
}

impl Row {
    pub(super) fn of(directory: &EndpointDirectory) -> Result<(Self, Option<EndpointStatus>)> {
        let (state, pid, status) = match directory.running()? {
            Running::Yes(pid) => {
                let status = directory.status()?;
                let connected = status.as_ref().is_some_and(|status| status.connected);
                (if connected { "running" } else { "disconnected" }, Some(pid), status)
            }
            Running::No => ("stopped", None, None),
            Running::Stale(_) => ("killed", None, None),
        };
        let registered = directory.registered()?;
        let row = Self {
            name: directory.name().to_owned(),
            id: registered.as_ref().map(|registered| registered.endpoint_id),
            state,
            pid,
            service: registered.map(|registered| registered.service),
        };
        Ok((row, status))
    }
}

impl List {
    pub(super) fn run(self, endpoints: &Endpoints) -> Result<()> {
        let rows: Vec<Row> =
            endpoints.all()?.iter().map(|directory| Ok(Row::of(directory)?.0)).collect::<Result<_>>()?;
        if self.json {
            println!("{}", serde_json::to_string_pretty(&rows)?);
            return Ok(());
        }
        if rows.is_empty() {
            println!("there are no endpoints yet; `configure NAME` makes one");
            return Ok(());
        }
        let mut table = Table::new();
        table.load_style(presets::NOTHING).set_header(["NAME", "STATE", "PID", "ID"]);
        for row in rows {
            table.add_row([
                row.name,
                row.state.to_owned(),
                row.pid.map_or_else(String::new, |pid| pid.to_string()),
                row.id.map_or_else(String::new, |id| id.to_string()),
            ]);
        }
        println!("{table}");
        Ok(())
    }
}
