//! `show`.

use anyhow::Result;
use serde_json::json;

use super::list::Row;
use crate::endpoint::Endpoints;

#[derive(Debug, clap::Args)]
pub struct Show {
    /// Name of the endpoint
    name: String,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Show {
    pub(super) fn run(self, endpoints: &Endpoints) -> Result<()> {
        let directory = endpoints.existing(&self.name)?;
        let (row, status) = Row::of(&directory)?;
        let mut shown = serde_json::to_value(&row)?;
        shown["directory"] = json!(directory.path());
        shown["status"] = serde_json::to_value(&status)?;
        if self.json {
            println!("{}", serde_json::to_string_pretty(&shown)?);
            return Ok(());
        }
        for key in ["name", "id", "state", "pid", "service", "directory"] {
            print_line(key, &shown[key]);
        }
        if status.is_some() {
            for key in ["managers", "workers", "blocks", "queued", "running", "problem"] {
                print_line(key, &shown["status"][key]);
            }
        }
        Ok(())
    }
}

fn print_line(key: &str, value: &serde_json::Value) {
    let text = match value {
        serde_json::Value::Null => return,
        serde_json::Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    println!("{key:<10} {text}");
}
