//! A chart as SVG.

use std::ops::Range;

use anyhow::{Result, anyhow};
use plotters::coord::Shift;
use plotters::coord::ranged1d::{AsRangedCoord, ValueFormatter};
use plotters::prelude::*;

use super::super::findings::{Axis, Chart, Form, Point, Scale, Series, number};
use super::text::place;

const SIZE: (u32, u32) = (860, 440);

/// Colours that people with any sight can tell apart (Okabe and Ito).
const COLOURS: [RGBColor; 7] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(86, 180, 233),
    RGBColor(230, 159, 0),
    RGBColor(90, 90, 90),
];

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// Draws a chart; `None` if it is a table only, or has nothing to draw.
pub(super) fn draw(chart: &Chart) -> Result<Option<String>> {
    let ends = |of: &dyn Fn(&Point) -> [f64; 2], axis: &Axis| {
        let values = chart.series.iter().flat_map(|series| &series.points).flat_map(of);
        range(values, &axis.scale)
    };
    let across = ends(&|point| [point.x, point.x], &chart.x);
    let up = ends(&|point| [point.y.min, point.y.max], &chart.y);
    let (Some(x), Some(y), false) = (across, up, chart.form == Form::Table) else { return Ok(None) };
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        let failed = |error: DrawingAreaErrorKind<_>| anyhow!("a plot cannot be drawn: {error}");
        let log = |axis: &Axis| axis.scale == Scale::Logarithmic;
        match (log(&chart.x), log(&chart.y)) {
            (true, true) => on(chart, &area, x.log_scale(), y.log_scale()),
            (true, false) => on(chart, &area, x.log_scale(), y),
            (false, true) => on(chart, &area, x, y.log_scale()),
            (false, false) => on(chart, &area, x, y),
        }
        .and_then(|()| area.present())
        .map_err(failed)?;
    }
    Ok(Some(svg))
}

/// From a little below the least of the values that the scale can show to a little above the greatest.
fn range(values: impl Iterator<Item = f64>, scale: &Scale) -> Option<Range<f64>> {
    if let Scale::Names(names) = scale {
        return Some(-0.5..names.len() as f64 - 0.5);
    }
    let logarithmic = *scale == Scale::Logarithmic;
    let shown = values.filter(|value| value.is_finite() && (!logarithmic || *value > 0.0));
    let (least, most) =
        shown.fold((f64::MAX, f64::MIN), |(least, most), value| (least.min(value), most.max(value)));
    if least > most {
        return None;
    }
    Some(match logarithmic {
        true => least / 1.5..most * 1.5,
        false => least.min(0.0)..most * 1.05 + f64::MIN_POSITIVE,
    })
}

type DrawingResult = Result<(), DrawingAreaErrorKind<<SVGBackend<'static> as DrawingBackend>::ErrorType>>;

fn on<X, Y>(chart: &Chart, area: &Area<'_>, x: X, y: Y) -> DrawingResult
where
    X: AsRangedCoord<Value = f64, CoordDescType: ValueFormatter<f64>>,
    Y: AsRangedCoord<Value = f64, CoordDescType: ValueFormatter<f64>>,
{
    area.fill(&WHITE)?;
    let mut canvas = ChartBuilder::on(area)
        .margin(10)
        .x_label_area_size(44)
        .y_label_area_size(74)
        .build_cartesian_2d(x, y)?;
    let names = match &chart.x.scale {
        Scale::Names(names) => names.len(),
        Scale::Linear | Scale::Logarithmic => 10,
    };
    canvas
        .configure_mesh()
        .light_line_style(RGBColor(240, 240, 240))
        .bold_line_style(RGBColor(215, 215, 215))
        .x_desc(&chart.x.name)
        .y_desc(&chart.y.name)
        .x_labels(names)
        .x_label_formatter(&|x| label(chart, *x))
        .y_label_formatter(&|y| number(*y))
        .label_style(("sans-serif", 13))
        .draw()?;
    let floor = match chart.y.scale {
        Scale::Logarithmic => f64::MIN_POSITIVE,
        Scale::Linear | Scale::Names(_) => 0.0,
    };
    let width = 0.8 / chart.series.len() as f64;
    for (number, series) in chart.series.iter().enumerate() {
        let colour = COLOURS[number % COLOURS.len()];
        let points = || series.points.iter().map(|point| (point.x, point.y.median));
        let shown = match chart.form {
            Form::Bars => {
                let left = -0.4 + width * number as f64;
                let style = if series.source.is_none() { colour.filled() } else { colour.stroke_width(2) };
                let bar = move |(x, y): (f64, f64)| {
                    Rectangle::new(
                        [(x + left, floor.max(f64::MIN_POSITIVE)), (x + left + width * 0.9, y)],
                        style,
                    )
                };
                canvas.draw_series(points().map(bar))?
            }
            Form::Points => canvas.draw_series(points().map(|at| Circle::new(at, 2, colour.filled())))?,
            Form::Lines | Form::Table => {
                canvas.draw_series(whiskers(series, colour))?;
                let style = if series.source.is_none() { colour.filled() } else { colour.stroke_width(1) };
                canvas.draw_series(points().map(|at| Circle::new(at, 4, style)))?;
                let stroke = if series.source.is_none() { 2 } else { 1 };
                canvas.draw_series(LineSeries::new(points(), colour.stroke_width(stroke)))?
            }
        };
        let filled = series.source.is_none();
        shown.label(title(series)).legend(move |(x, y)| {
            let style = if filled { colour.filled() } else { colour.stroke_width(1) };
            Rectangle::new([(x, y - 4), (x + 14, y + 4)], style)
        });
    }
    if chart.series.len() > 1 {
        canvas
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperRight)
            .background_style(WHITE.mix(0.85))
            .border_style(RGBColor(215, 215, 215))
            .label_font(("sans-serif", 13))
            .draw()?;
    }
    Ok(())
}

/// Lines from the least to the greatest value of each point.
fn whiskers(series: &Series, colour: RGBColor) -> impl Iterator<Item = PathElement<(f64, f64)>> + '_ {
    let spread = series.points.iter().filter(|point| point.y.min < point.y.max);
    spread.map(move |point| PathElement::new([(point.x, point.y.min), (point.x, point.y.max)], colour))
}

fn title(series: &Series) -> String {
    match series.source {
        Some(_) => format!("{} (published)", series.name),
        None => series.name.clone(),
    }
}

/// What stands under a tick; nothing between two names.
fn label(chart: &Chart, x: f64) -> String {
    match &chart.x.scale {
        Scale::Names(_) if (x - x.round()).abs() > 0.01 || x < -0.1 => String::new(),
        Scale::Names(_) if chart.is_crowded() => number(x.round() + 1.0),
        _ => place(chart, x),
    }
}
