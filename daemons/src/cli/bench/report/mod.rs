//! Findings as tables, plots, JSON and one HTML page.

mod html;
mod machine;
mod plot;
mod text;

use std::path::Path;

use anyhow::{Context, Result};

use super::experiment::Document;

pub(super) use machine::Machine;
pub(super) use text::to_text;

/// File of the page that holds everything.
pub(super) const PAGE: &str = "report.html";

/// Writes the JSON document of an experiment and its plots.
pub(super) fn write(document: &Document, directory: &Path) -> Result<()> {
    let name = document.about.name;
    let json = serde_json::to_string_pretty(document).context("the findings have no JSON form")?;
    write_file(&directory.join(format!("{name}.json")), &json)?;
    for (number, chart) in document.findings.charts.iter().enumerate() {
        if let Some(svg) = plot::draw(chart)? {
            write_file(&directory.join(format!("{name}-{}.svg", number + 1)), &svg)?;
        }
    }
    Ok(())
}

/// Writes the page with all experiments.
pub(super) fn write_page(
    documents: &[Document],
    failures: &[String],
    machine: &Machine,
    directory: &Path,
) -> Result<()> {
    write_file(&directory.join(PAGE), &html::page(documents, failures, machine)?)
}

fn write_file(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}
