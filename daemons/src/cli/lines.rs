//! Lines of JSON as arguments of a function.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read},
    path::Path,
};

use anyhow::{Context, Result, bail};
use funcx_core::model::{FunctionKind, limit};
use funcx_net::client::Arguments;
use serde_json::value::{RawValue, to_raw_value};

use crate::exit::{Exit, Failed};

/// The arguments that the lines of a file stand for, or those of standard input if it is `-`. Blank lines count for nothing.
pub(super) fn read(path: &Path, kind: FunctionKind) -> Result<Vec<Arguments>> {
    if path == Path::new("-") {
        return arguments(io::stdin().lock(), kind);
    }
    let file = File::open(path)
        .map_err(|error| Failed::new(Exit::Usage, format!("cannot read {}: {error}", path.display())))?;
    arguments(BufReader::new(file), kind)
}

fn arguments(mut input: impl BufRead, kind: FunctionKind) -> Result<Vec<Arguments>> {
    let most = limit::MAX_PAYLOAD_BYTES as u64;
    let mut all = Vec::new();
    let mut line = String::new();
    for number in 1.. {
        line.clear();
        let read = input.by_ref().take(most + 1).read_line(&mut line);
        if read.with_context(|| format!("cannot read line {number}"))? == 0 {
            break;
        }
        if line.len() as u64 > most {
            bail!(Failed::new(
                Exit::Usage,
                format!("line {number} is longer than MAX_PAYLOAD_BYTES ({most})")
            ));
        }
        match line.trim() {
            "" => {}
            line => all.push(call(line, kind).with_context(|| format!("line {number}"))?),
        }
    }
    Ok(all)
}

/// The arguments of one call. As on a command line, what is no JSON is a text; but not if it looks as if it was meant to be
/// more, for a file that was cut somewhere should not be taken for one with strange texts.
fn call(line: &str, kind: FunctionKind) -> Result<Arguments> {
    let value = match serde_json::from_str::<Box<RawValue>>(line) {
        Ok(value) => value,
        Err(error) if line.starts_with(['[', '{', '"']) => {
            bail!(Failed::new(Exit::Usage, format!("not JSON: {error}")))
        }
        Err(_) => to_raw_value(line)?,
    };
    let value = match kind {
        FunctionKind::Native => value,
        _ => {
            let text = value.get();
            let call = match text.as_bytes().first() {
                Some(b'[') => format!(r#"{{"args":{text}}}"#),
                Some(b'{') => format!(r#"{{"kwargs":{text}}}"#),
                _ => format!(r#"{{"args":[{text}]}}"#),
            };
            RawValue::from_string(call)?
        }
    };
    Ok(Arguments::raw(value)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit::code_of;

    #[test]
    fn lines_become_arguments_in_the_form_of_the_kind() {
        let input = "1\n\n [1, \"a\"] \r\n{\"n\":  3}\nplain text\n\"[\"\n12345678901234567890123\n[]";
        let texts = |kind| -> Vec<String> {
            let arguments = arguments(input.as_bytes(), kind).unwrap();
            arguments.iter().map(|arguments| arguments.as_json().to_owned()).collect()
        };
        let python = [
            r#"{"args":[1]}"#,
            r#"{"args":[1, "a"]}"#,
            r#"{"kwargs":{"n":  3}}"#,
            r#"{"args":["plain text"]}"#,
            r#"{"args":["["]}"#,
            r#"{"args":[12345678901234567890123]}"#,
            r#"{"args":[]}"#,
        ];
        assert_eq!(texts(FunctionKind::Python), python);
        let native =
            ["1", "[1, \"a\"]", "{\"n\":  3}", "\"plain text\"", "\"[\"", "12345678901234567890123", "[]"];
        assert_eq!(texts(FunctionKind::Native), native);
    }

    #[test]
    fn lines_that_were_meant_to_be_json_are_refused_with_their_number() {
        for line in ["[1, 2", "{\"a\": }", "\"text", "[1] 2"] {
            let input = format!("1\n{line}\n3");
            let error = arguments(input.as_bytes(), FunctionKind::Python).unwrap_err();
            assert!(format!("{error:#}").contains("line 2: not JSON"), "{error:#}");
            assert_eq!(code_of(&error), Exit::Usage);
        }
        let error = arguments(&b"1\n\xff"[..], FunctionKind::Python).unwrap_err();
        assert!(format!("{error:#}").contains("line 2"), "{error:#}");
    }
}
