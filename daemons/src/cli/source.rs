//! Which function of a Python file is meant.

use std::{
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

use anyhow::Result;
use funcx_core::model::limit;
use funcx_net::client::FunctionRegistration;

use crate::exit::{Exit, Failed};

/// `FILE.py` or `FILE.py:ENTRY` as a person writes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Source {
    pub(super) path: PathBuf,
    pub(super) entry: Option<String>,
}

impl Source {
    /// Cuts `word` at its last colon, if an identifier follows.
    pub(super) fn new(word: &str) -> Self {
        match word.rsplit_once(':') {
            Some((path, entry)) if is_identifier(entry) => {
                Self { path: path.into(), entry: Some(entry.to_owned()) }
            }
            _ => Self { path: word.into(), entry: None },
        }
    }

    /// Reads the file and finds the function.
    pub(super) fn registration(&self) -> Result<FunctionRegistration> {
        let text = read(&self.path)?;
        let entry = match &self.entry {
            Some(entry) => entry.clone(),
            None => only_function(&text)
                .map_err(|why| Failed::new(Exit::Usage, format!("{}: {why}", self.path.display())))?,
        };
        Ok(FunctionRegistration::python(entry, text))
    }
}

/// Whether a word can name something in Python. Letters beyond ASCII are left to those who say `--entry`.
pub(super) fn is_identifier(word: &str) -> bool {
    let letter = |c: char| c.is_ascii_alphabetic() || c == '_';
    word.starts_with(letter) && word.chars().all(|c| letter(c) || c.is_ascii_digit())
}

fn read(path: &Path) -> Result<String> {
    let most = limit::MAX_FUNCTION_BYTES as u64;
    let mut text = String::new();
    let refused = |why: String| Failed::new(Exit::Usage, format!("cannot read {}: {why}", path.display()));
    let read = File::open(path).and_then(|file| file.take(most + 1).read_to_string(&mut text));
    read.map_err(|error| refused(error.to_string()))?;
    if text.len() as u64 > most {
        return Err(refused(format!("it is longer than MAX_FUNCTION_BYTES ({most})")).into());
    }
    Ok(text)
}

/// The only function at the top level of some Python source whose name does not begin with `_`.
fn only_function(text: &str) -> Result<String, String> {
    let names: Vec<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("async def ").or_else(|| line.strip_prefix("def ")))
        .filter_map(|rest| rest.split(|c: char| c == '(' || c == '[' || c.is_whitespace()).next())
        .filter(|name| !name.is_empty() && !name.starts_with('_'))
        .collect();
    match names[..] {
        [] => Err("there is no function at the top level".to_owned()),
        [name] => Ok(name.to_owned()),
        _ => Err(format!("which function is meant: {}?", names.join(", "))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_and_a_name_are_told_apart() {
        for (word, path, entry) in [
            ("a.py", "a.py", None),
            ("a.py:f", "a.py", Some("f")),
            ("/x:y/a.py", "/x:y/a.py", None),
            ("b:a.py:_f2", "b:a.py", Some("_f2")),
        ] {
            assert_eq!(
                Source::new(word),
                Source { path: path.into(), entry: entry.map(str::to_owned) },
                "{word}"
            );
        }
    }

    #[test]
    fn one_function_needs_no_name_and_several_do() {
        let one = "import os\n\ndef _helper():\n    def inner(): pass\n\nclass A:\n    def method(self): pass\n\ndef f (x):\n    pass\n";
        assert_eq!(only_function(one).unwrap(), "f");
        assert_eq!(only_function("async def g(): pass").unwrap(), "g");
        let several = only_function("def f(): pass\ndef g(): pass\n").unwrap_err();
        assert!(several.contains("f, g"), "{several}");
        assert!(only_function("x = 1\n").is_err());
    }
}
