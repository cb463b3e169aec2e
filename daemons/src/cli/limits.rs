//! `funcx limits`

use std::process::ExitCode;

use anyhow::Result;
use funcx_core::model::limit;
use serde_json::json;

use super::common::Common;
use super::output::table;

/// Shows every fixed bound.
pub(super) fn run(common: &Common) -> Result<ExitCode> {
    let limits: Vec<_> = limit::TABLE
        .iter()
        .map(|(name, value, unit)| json!({ "name": name, "value": value, "unit": unit }))
        .collect();
    common.output().show(&limits, |_| {
        let rows = limit::TABLE
            .iter()
            .map(|(name, value, unit)| [(*name).to_owned(), grouped(*value), (*unit).to_owned()]);
        table(["LIMIT", "VALUE", "UNIT"], rows, "")
    })?;
    Ok(ExitCode::SUCCESS)
}

/// A number with a blank between thousands.
fn grouped(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::new();
    for (index, digit) in digits.char_indices() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_set_apart() {
        for (value, text) in [(0, "0"), (999, "999"), (1000, "1 000"), (10_000_000, "10 000 000")] {
            assert_eq!(grouped(value), text);
        }
    }
}
