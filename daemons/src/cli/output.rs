//! Answers on standard output: tables for people, JSON for programs.

use std::{
    io::{self, Write},
    time::Duration,
};

use anyhow::{Context, Result};
use comfy_table::{Table, presets};
use funcx_net::driver::wall_clock;
use serde::Serialize;

/// Where answers go and in which form.
#[derive(Debug, Clone, Copy)]
pub(super) struct Output {
    json: bool,
}

impl Output {
    pub(super) const fn new(json: bool) -> Self {
        Self { json }
    }

    /// Whether programs read it.
    pub(super) const fn is_json(self) -> bool {
        self.json
    }

    /// Prints `value` as JSON, or as the text that `human` makes of it.
    pub(super) fn show<T: Serialize + ?Sized>(
        self,
        value: &T,
        human: impl FnOnce(&T) -> String,
    ) -> Result<()> {
        if self.json {
            return print(&serde_json::to_string_pretty(value).context("the answer has no JSON form")?);
        }
        print(&human(value))
    }
}

/// Prints a text, and ends the line if the text does not.
pub(super) fn print(text: &str) -> Result<()> {
    print_while_read(text).map(drop)
}

/// As [`print`]; `false` if nobody reads any further, as `head` that has what it wants.
pub(super) fn print_while_read(text: &str) -> Result<bool> {
    write(&mut io::stdout().lock(), text)
}

/// As [`print`], on standard error.
pub(super) fn print_aside(text: &str) -> Result<()> {
    write(&mut io::stderr().lock(), text).map(drop)
}

fn write(to: &mut impl Write, text: &str) -> Result<bool> {
    if text.is_empty() {
        return Ok(true);
    }
    let end = if text.ends_with('\n') { "" } else { "\n" };
    match to.write_all(text.as_bytes()).and_then(|()| to.write_all(end.as_bytes())).and_then(|()| to.flush())
    {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        written => written.map(|()| true).context("cannot write the answer"),
    }
}

/// A table; `empty` if it has no rows.
pub(super) fn table<const N: usize>(
    header: [&str; N],
    rows: impl IntoIterator<Item = [String; N]>,
    empty: &str,
) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header);
    table.add_rows(rows);
    if table.is_empty() { empty.to_owned() } else { trimmed(&table) }
}

/// Names and values, one pair in a line; pairs without a value are left out.
pub(super) fn fields<'a>(pairs: impl IntoIterator<Item = (&'a str, String)>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.add_rows(
        pairs
            .into_iter()
            .filter(|(_, value)| !value.is_empty())
            .map(|(name, value)| [name.to_owned(), value]),
    );
    trimmed(&table)
}

fn trimmed(table: &Table) -> String {
    table.lines().map(|line| line.trim_end().to_owned() + "\n").collect()
}

/// How long ago this many seconds after the Unix epoch were.
pub(super) fn age(seconds: f64) -> String {
    let elapsed = wall_clock().as_secs_f64() - seconds;
    format!("{} ago", short(Duration::try_from_secs_f64(elapsed).unwrap_or_default()))
}

/// As [`age`], of a time in nanoseconds since the Unix epoch.
pub(super) fn age_of(nanos: u64) -> String {
    format!("{} ago", short(Duration::from_nanos(wall_clock().as_nanos().saturating_sub(nanos))))
}

/// A duration in its largest unit, as it is said.
pub(super) fn short(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0 => format!("{} ms", duration.as_millis()),
        1..60 => format!("{seconds} s"),
        60..3600 => format!("{} min", seconds / 60),
        3600..86_400 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_have_no_frame_and_no_blanks_at_the_end() {
        let rows = [["1".to_owned(), "two".to_owned()], ["three".to_owned(), String::new()]];
        assert_eq!(table(["A", "B"], rows, "nothing"), " A      B\n 1      two\n three\n");
        assert_eq!(table(["A"], [], "nothing"), "nothing");
    }

    #[test]
    fn durations_are_said_in_their_largest_unit() {
        for (seconds, text) in
            [(0.0123, "12 ms"), (59.9, "59 s"), (61.0, "1 min"), (7300.0, "2 h"), (2e5, "2 days")]
        {
            assert_eq!(short(Duration::from_secs_f64(seconds)), text);
        }
    }
}
