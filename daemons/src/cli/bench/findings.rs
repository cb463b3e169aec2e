//! What an experiment has found: charts, each of which is a table, a plot and a part of a JSON document at once.

use serde::Serialize;

/// Everything that an experiment has to say.
#[derive(Debug, Clone, Default, Serialize)]
pub(super) struct Findings {
    /// How it was set up here.
    pub(super) setup: Vec<String>,
    pub(super) charts: Vec<Chart>,
    /// What one has to know to read the figures.
    pub(super) notes: Vec<String>,
}

/// Figures that belong together.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Chart {
    pub(super) title: String,
    pub(super) x: Axis,
    pub(super) y: Axis,
    pub(super) form: Form,
    pub(super) series: Vec<Series>,
}

/// What stands along one side of a chart.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Axis {
    pub(super) name: String,
    pub(super) scale: Scale,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Scale {
    Linear,
    Logarithmic,
    /// Names of places that are no numbers; a point's `x` is an index into them.
    Names(Vec<String>),
}

/// How a chart is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Form {
    /// A table, and a plot of lines.
    Lines,
    /// A table, and a plot of bars.
    Bars,
    /// A plot of single points, of which there are too many for a table.
    Points,
    /// A table of figures that have no scale in common.
    Table,
}

/// Figures of one kind.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Series {
    pub(super) name: String,
    /// Where they were published; `None` if they were measured here.
    pub(super) source: Option<&'static str>,
    pub(super) points: Vec<Point>,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct Point {
    pub(super) x: f64,
    pub(super) y: Spread,
}

/// A figure and how far its values lie apart.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct Spread {
    pub(super) median: f64,
    pub(super) min: f64,
    pub(super) max: f64,
    /// Values that it stands for.
    pub(super) values: usize,
}

impl Spread {
    /// Median, least and greatest of these; `None` if there are none.
    pub(super) fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let (min, max) = (*values.first()?, *values.last()?);
        let middle = values.len() / 2;
        let median = match values.len().is_multiple_of(2) {
            true => f64::midpoint(values[middle - 1], values[middle]),
            false => values[middle],
        };
        Some(Self { median, min, max, values: values.len() })
    }

    /// One value that is known without its spread.
    pub(super) const fn exactly(value: f64) -> Self {
        Self { median: value, min: value, max: value, values: 1 }
    }
}

impl Axis {
    pub(super) fn linear(name: impl Into<String>) -> Self {
        Self { name: name.into(), scale: Scale::Linear }
    }

    pub(super) fn logarithmic(name: impl Into<String>) -> Self {
        Self { name: name.into(), scale: Scale::Logarithmic }
    }

    pub(super) fn names(name: impl Into<String>, names: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self { name: name.into(), scale: Scale::Names(names.into_iter().map(Into::into).collect()) }
    }
}

impl Series {
    /// Figures that were measured here.
    pub(super) fn ours(name: impl Into<String>) -> Self {
        Self { name: name.into(), source: None, points: Vec::new() }
    }

    /// Figures that were published.
    pub(super) fn published(
        name: impl Into<String>,
        source: &'static str,
        points: impl IntoIterator<Item = (f64, f64)>,
    ) -> Self {
        let points = points.into_iter().map(|(x, y)| Point { x, y: Spread::exactly(y) }).collect();
        Self { name: name.into(), source: Some(source), points }
    }

    /// Adds what was measured in several runs; nothing if there were none.
    pub(super) fn add(&mut self, x: f64, values: impl IntoIterator<Item = f64>) {
        self.points.extend(Spread::of(values).map(|y| Point { x, y }));
    }

    /// The figure at `x`, if there is one.
    pub(super) fn at(&self, x: f64) -> Option<Spread> {
        self.points.iter().find(|point| point.x == x).map(|point| point.y)
    }
}

/// Letters of all names that fit under a plot.
const LETTERS: usize = 100;

impl Chart {
    /// Whether there are more names than fit under a plot, which has their numbers instead.
    pub(super) fn is_crowded(&self) -> bool {
        match &self.x.scale {
            Scale::Names(names) => {
                self.form != Form::Table && names.iter().map(String::len).sum::<usize>() > LETTERS
            }
            Scale::Linear | Scale::Logarithmic => false,
        }
    }

    /// Every place along the chart that has a figure, in order.
    pub(super) fn places(&self) -> Vec<f64> {
        let mut places: Vec<f64> =
            self.series.iter().flat_map(|series| series.points.iter().map(|point| point.x)).collect();
        places.sort_by(f64::total_cmp);
        places.dedup();
        places
    }
}

/// Three digits that count, thousands apart.
pub(super) fn number(value: f64) -> String {
    if value == 0.0 {
        return "0".to_owned();
    }
    if value.abs() >= 1000.0 {
        let digits = format!("{:.0}", value.abs());
        let groups: Vec<_> =
            digits.as_bytes().rchunks(3).rev().map(|group| String::from_utf8_lossy(group)).collect();
        return format!("{}{}", if value < 0.0 { "-" } else { "" }, groups.join(","));
    }
    let whole = value.abs().log10().floor().max(-6.0) as i32;
    let decimals = (2 - whole).max(0) as usize;
    let text = format!("{value:.decimals$}");
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_the_digits_that_count() {
        for (value, text) in [
            (0.0, "0"),
            (0.000_123_4, "0.000123"),
            (0.5, "0.5"),
            (12.345, "12.3"),
            (100.0, "100"),
            (999.6, "1000"),
            (1_310_720.4, "1,310,720"),
            (-1234.0, "-1,234"),
        ] {
            assert_eq!(number(value), text);
        }
    }

    #[test]
    fn a_spread_has_the_middle_and_both_ends() {
        assert_eq!(Spread::of([3.0, 1.0, 2.0]), Some(Spread { median: 2.0, min: 1.0, max: 3.0, values: 3 }));
        assert_eq!(Spread::of([4.0, 1.0]).map(|spread| spread.median), Some(2.5));
        assert_eq!(Spread::of([]), None);
    }

    #[test]
    fn places_of_all_series_are_in_order_and_named_once() {
        let published = Series::published("b", "somewhere", [(4.0, 1.0), (1.0, 1.0)]);
        let mut ours = Series::ours("a");
        ours.add(2.0, [1.0]);
        ours.add(4.0, [1.0, 2.0]);
        ours.add(8.0, []);
        let chart = Chart {
            title: String::new(),
            x: Axis::linear("x"),
            y: Axis::linear("y"),
            form: Form::Lines,
            series: vec![ours, published],
        };
        assert_eq!(chart.places(), [1.0, 2.0, 4.0]);
    }
}
