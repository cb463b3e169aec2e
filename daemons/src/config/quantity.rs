//! Durations and sizes as people write them.

use std::time::Duration;

/// The longest duration: ten years. What is longer is a mistake, and sums of such would overflow.
pub const LONGEST_DURATION: Duration = Duration::from_secs(10 * 365 * 86_400);

/// Units of time and their milliseconds. The first of a group is the one that is written.
const TIMES: &[(&str, u64)] = &[
    ("ms", 1),
    ("s", 1000),
    ("sec", 1000),
    ("second", 1000),
    ("seconds", 1000),
    ("min", 60_000),
    ("minute", 60_000),
    ("minutes", 60_000),
    ("h", 3_600_000),
    ("hour", 3_600_000),
    ("hours", 3_600_000),
    ("d", 86_400_000),
    ("day", 86_400_000),
    ("days", 86_400_000),
];

/// Units of size and their bytes.
const SIZES: &[(&str, u64)] = &[
    ("B", 1),
    ("kB", 1000),
    ("KB", 1000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
];

/// Reads `30`, `1.5 s`, `10 min`, `2h` or `00:10:00`, to the millisecond; a bare number is seconds. `None` if it is none of
/// these, or longer than [`LONGEST_DURATION`].
pub fn parse_duration(text: &str) -> Option<Duration> {
    let text = text.trim();
    if text.contains(':') {
        return parse_clock(text);
    }
    let (number, unit) = split_unit(text)?;
    let millis = if unit.is_empty() { 1000 } else { find(TIMES, unit)? };
    from_millis(number * millis as f64)
}

/// So many milliseconds, rounded, if that is a duration up to [`LONGEST_DURATION`].
pub(super) fn from_millis(millis: f64) -> Option<Duration> {
    let millis = millis.round();
    (0.0..=LONGEST_DURATION.as_millis() as f64)
        .contains(&millis)
        .then(|| Duration::from_millis(millis as u64))
}

/// Writes a duration of whole milliseconds so that [`parse_duration`] reads it back exactly.
pub fn format_duration(duration: Duration) -> String {
    if duration.subsec_millis() == 0 {
        format!("{} s", duration.as_secs())
    } else {
        format!("{} ms", duration.as_millis())
    }
}

/// Reads `1048576`, `64 MiB` or `1.5GB`; a bare number is bytes. `None` if it is none of these.
pub fn parse_size(text: &str) -> Option<u64> {
    let (number, unit) = split_unit(text.trim())?;
    let bytes = number * if unit.is_empty() { 1 } else { find(SIZES, unit)? } as f64;
    // Above 2^53 a float no longer holds every whole number, and no size here is near it.
    (bytes < (1_u64 << 53) as f64).then_some(bytes as u64)
}

/// Writes a size so that [`parse_size`] reads it back exactly.
pub fn format_size(bytes: u64) -> String {
    let (unit, factor) = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)]
        .into_iter()
        .find(|(_, factor)| bytes != 0 && bytes.is_multiple_of(*factor))
        .unwrap_or(("B", 1));
    format!("{} {unit}", bytes / factor)
}

fn parse_clock(text: &str) -> Option<Duration> {
    let parts: Vec<u64> = text.split(':').map(|part| part.parse().ok()).collect::<Option<_>>()?;
    let [hours, minutes, seconds] = parts[..] else { return None };
    if minutes > 59 || seconds > 59 {
        return None;
    }
    let seconds = hours.checked_mul(3600)?.checked_add(minutes * 60 + seconds)?;
    Some(Duration::from_secs(seconds)).filter(|duration| *duration <= LONGEST_DURATION)
}

fn split_unit(text: &str) -> Option<(f64, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let number = text[..end].parse().ok()?;
    Some((number, text[end..].trim_start()))
}

fn find(units: &[(&str, u64)], unit: &str) -> Option<u64> {
    units.iter().find(|(name, _)| *name == unit).map(|(_, factor)| *factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_in_every_form() {
        for (text, millis) in [
            ("30", 30_000),
            ("0.25", 250),
            ("30 s", 30_000),
            ("30s", 30_000),
            ("1.5 s", 1500),
            ("0.0006 s", 1),
            ("500 ms", 500),
            ("10 min", 600_000),
            ("2 hours", 7_200_000),
            ("00:10:00", 600_000),
            ("100:00:01", 360_001_000),
        ] {
            assert_eq!(parse_duration(text), Some(Duration::from_millis(millis)), "{text}");
        }
        for text in [
            "",
            "s",
            "-1 s",
            "1 fortnight",
            "10:00",
            "00:60:00",
            "1 s 2",
            "1.2.3",
            "3651 d",
            "99999999:00:00",
            "99999999999999999999999 d",
        ] {
            assert_eq!(parse_duration(text), None, "{text}");
        }
    }

    #[test]
    fn sizes_are_read_in_every_form() {
        for (text, bytes) in
            [("7", 7), ("64 MiB", 64 << 20), ("64MiB", 64 << 20), ("1.5 kB", 1500), ("0.5 KiB", 512)]
        {
            assert_eq!(parse_size(text), Some(bytes), "{text}");
        }
        for text in ["", "MiB", "-1", "1 XB", "1e300 GiB", "99999999 GiB"] {
            assert_eq!(parse_size(text), None, "{text}");
        }
    }

    #[test]
    fn what_is_written_is_read_back() {
        for millis in [0, 1, 999, 1000, 1500, 86_400_000] {
            let duration = Duration::from_millis(millis);
            assert_eq!(parse_duration(&format_duration(duration)), Some(duration));
        }
        for bytes in [0, 1, 1023, 1024, 1025, 3 << 20, 5 << 30] {
            assert_eq!(parse_size(&format_size(bytes)), Some(bytes));
        }
    }
}
