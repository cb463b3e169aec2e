//! Frames of the Globus Compute serialization: each buffer behind its length.
//!
//! A frame is a decimal number, a line feed, and that many Unicode code points. Function bodies are one frame, the
//! arguments of a call are two.

/// Puts a buffer into a frame.
pub(super) fn frame(buffer: &str) -> String {
    format!("{}\n{buffer}", buffer.chars().count())
}

/// The buffers of `text`, which must be `N` frames and nothing else.
///
/// # Errors
/// What is wrong, for people.
pub(super) fn unframe<const N: usize>(text: &str) -> Result<[&str; N], String> {
    let mut rest = text;
    let mut buffers = [""; N];
    for (index, buffer) in buffers.iter_mut().enumerate() {
        (*buffer, rest) = split(rest).map_err(|why| format!("frame {} of {N}: {why}", index + 1))?;
    }
    match rest.is_empty() {
        true => Ok(buffers),
        false => Err(format!("{} bytes follow after {N} frames", rest.len())),
    }
}

/// The first frame's buffer, and what follows the frame.
fn split(text: &str) -> Result<(&str, &str), String> {
    if text.is_empty() {
        return Err("it is missing".to_owned());
    }
    // Twenty digits hold every length that there can be.
    let head = text.as_bytes().iter().take(21).position(|byte| *byte == b'\n');
    let newline = head.ok_or("no line feed after its length")?;
    let (number, rest) = (&text[..newline], &text[newline + 1..]);
    let digits = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    let length: usize = number
        .parse()
        .ok()
        .filter(|_| digits)
        .ok_or_else(|| format!("`{}` is not a length", number.escape_debug()))?;
    let end = end_of(rest, length).ok_or_else(|| format!("{length} characters announced, fewer came"))?;
    Ok(rest.split_at(end))
}

/// Where the first `length` code points of `text` end.
fn end_of(text: &str, length: usize) -> Option<usize> {
    // Nearly all buffers are ASCII, where code points are bytes.
    if text.as_bytes().get(..length).is_some_and(<[u8]>::is_ascii) {
        return Some(length);
    }
    let mut indices = text.char_indices();
    match length.checked_sub(1) {
        None => Some(0),
        Some(last) => indices.nth(last).map(|(start, character)| start + character.len_utf8()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_count_code_points() {
        assert_eq!(frame("st\nhéllo"), "8\nst\nhéllo");
        assert_eq!(unframe("8\nst\nhéllo3\n11\n"), Ok(["st\nhéllo", "11\n"]));
        assert_eq!(unframe("0\n2\nab"), Ok(["", "ab"]));
        assert_eq!(unframe(&(frame("ü") + &frame("日本"))), Ok(["ü", "日本"]));
    }

    #[test]
    fn malformed_frames_are_refused_with_the_reason() {
        for (text, why) in [
            ("", "missing"),
            ("12", "no line feed"),
            ("x\nab", "not a length"),
            ("-1\nab", "not a length"),
            ("+1\nab", "not a length"),
            (" 1\nab", "not a length"),
            ("\nab", "not a length"),
            ("99999999999999999999\nab", "not a length"),
            ("3\nab", "fewer came"),
            ("3\néé", "fewer came"),
            ("2\nab", "frame 2 of 2: it is missing"),
            ("2\nab2\ncdx", "follow"),
        ] {
            let error = unframe::<2>(text).unwrap_err();
            assert!(error.contains(why), "{text:?}: {error}");
        }
    }
}
