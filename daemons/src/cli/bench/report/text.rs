//! Findings for the terminal.

use comfy_table::{CellAlignment, Table, presets};

use super::super::experiment::Document;
use super::super::findings::{Chart, Form, Scale, Spread, number};

/// A heading for each chart, its table, and what has to be said.
pub(in super::super) fn to_text(document: &Document) -> String {
    let mut text = format!("\n{}\n", document.about.title);
    for chart in &document.findings.charts {
        if let Some(table) = table(chart) {
            text += &format!("\n{}\n{table}", chart.title);
        }
    }
    let mut sources: Vec<_> = document
        .findings
        .charts
        .iter()
        .flat_map(|chart| &chart.series)
        .filter_map(|series| series.source)
        .collect();
    sources.sort_unstable();
    sources.dedup();
    text += "\n";
    let published = sources.iter().map(|source| format!("published: {source}"));
    for line in
        document.findings.setup.iter().cloned().chain(document.findings.notes.clone()).chain(published)
    {
        text += &format!("- {line}\n");
    }
    text
}

/// The rows of a chart, with a heading; `None` if it is not for reading.
pub(super) fn cells(chart: &Chart) -> Option<Vec<Vec<String>>> {
    if chart.form == Form::Points {
        return None;
    }
    let names = chart.series.iter().map(|series| match series.source {
        Some(_) => format!("{} (published)", series.name),
        None => series.name.clone(),
    });
    let mut rows = vec![std::iter::once(chart.x.name.clone()).chain(names).collect::<Vec<_>>()];
    rows.extend(chart.places().into_iter().map(|x| {
        let figures = chart.series.iter().map(|series| series.at(x).map_or_else(String::new, spread));
        std::iter::once(place(chart, x)).chain(figures).collect()
    }));
    Some(rows)
}

fn table(chart: &Chart) -> Option<String> {
    let rows = cells(chart)?;
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.add_rows(&rows);
    table.column_iter_mut().skip(1).for_each(|column| column.set_cell_alignment(CellAlignment::Right));
    Some(table.lines().map(|line| format!("{}\n", line.trim_end())).collect())
}

/// What stands at a place along the chart.
pub(super) fn place(chart: &Chart, x: f64) -> String {
    match &chart.x.scale {
        Scale::Names(names) => {
            let name = names.get(x as usize).map_or("", String::as_str);
            if chart.is_crowded() { format!("{}. {name}", x + 1.0) } else { name.to_owned() }
        }
        Scale::Linear | Scale::Logarithmic => number(x),
    }
}

/// A figure with its least and greatest value, if they differ.
fn spread(spread: Spread) -> String {
    let Spread { median, min, max, values: _ } = spread;
    match min == max {
        true => number(median),
        false => format!("{} [{}–{}]", number(median), number(min), number(max)),
    }
}
