//! One page that needs nothing else.

use std::fmt::Write;

use anyhow::Result;

use super::super::experiment::Document;
use super::super::findings::Chart;
use super::{Machine, plot, text};

const STYLE: &str = "\
body { font: 15px/1.45 sans-serif; max-width: 62em; margin: 2em auto; padding: 0 1em; color: #222 }
table { border-collapse: collapse; margin: 1em 0; font-size: 90% }
th, td { padding: .2em .7em; border-bottom: 1px solid #ddd; text-align: right; vertical-align: top }
th:first-child, td:first-child { text-align: left }
.facts td { text-align: left }
.failed { color: #a00 }
svg { max-width: 100%; height: auto }
";

/// The whole report.
pub(super) fn page(documents: &[Document], failures: &[String], machine: &Machine) -> Result<String> {
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <title>funcx bench</title><style>\n{STYLE}</style></head><body>\n<h1>funcx bench</h1>\n\
         <table class=\"facts\">"
    );
    for (name, value) in machine.rows() {
        write!(page, "<tr><td>{}</td><td>{}</td></tr>", escape(name), escape(&value))?;
    }
    page += "</table>\n<p>Figures are medians, with least and greatest of several runs in brackets. Figures of papers \
             are marked “published” and were measured on the machines of the papers.</p>\n";
    for failure in failures {
        writeln!(page, "<p class=\"failed\">Failed: {}</p>", escape(failure))?;
    }
    page += "<ul>";
    for Document { about, .. } in documents {
        write!(page, "<li><a href=\"#{}\">{}</a></li>", about.name, escape(about.title))?;
    }
    page += "</ul>\n";
    for document in documents {
        section(&mut page, document)?;
    }
    page += "</body></html>\n";
    Ok(page)
}

fn section(page: &mut String, document: &Document) -> Result<()> {
    let Document { about, findings, quick, runs, seconds, machine: _ } = document;
    writeln!(
        page,
        "<h2 id=\"{}\">{}</h2>\n<p>{}</p>",
        about.name,
        escape(about.title),
        escape(about.reproduces)
    )?;
    let size = if *quick { "small sizes" } else { "full sizes" };
    writeln!(
        page,
        "<p><code>funcx bench {}</code>, {size}, {runs} runs of each row, {seconds:.0} s.</p>",
        about.name
    )?;
    list(page, &findings.setup)?;
    for chart in &findings.charts {
        writeln!(page, "<h3>{}</h3>", escape(&chart.title))?;
        if let Some(svg) = plot::draw(chart)? {
            page.push_str(&svg);
        }
        table(page, chart)?;
    }
    list(page, &findings.notes)
}

fn list(page: &mut String, lines: &[String]) -> Result<()> {
    if !lines.is_empty() {
        let items: String = lines.iter().map(|line| format!("<li>{}</li>", escape(line))).collect();
        writeln!(page, "<ul>{items}</ul>")?;
    }
    Ok(())
}

fn table(page: &mut String, chart: &Chart) -> Result<()> {
    let Some(rows) = text::cells(chart) else { return Ok(()) };
    *page += "<table>";
    for (number, row) in rows.iter().enumerate() {
        let tag = if number == 0 { "th" } else { "td" };
        let cells: String = row.iter().map(|cell| format!("<{tag}>{}</{tag}>", escape(cell))).collect();
        writeln!(page, "<tr>{cells}</tr>")?;
    }
    *page += "</table>\n";
    let mut sources: Vec<_> = chart.series.iter().filter_map(|series| series.source).collect();
    sources.dedup();
    if !sources.is_empty() {
        writeln!(page, "<p>Published: {}.</p>", escape(&sources.join("; ")))?;
    }
    Ok(())
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
