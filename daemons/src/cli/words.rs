//! Words of a command line as arguments of a function.

use anyhow::{Result, bail};
use funcx_core::model::FunctionKind;
use funcx_net::client::Arguments;
use serde_json::{Map, Value};

use super::source::is_identifier;
use crate::exit::{Exit, Failed};

/// The arguments that `words` stand for in a call of a function of this kind.
///
/// A word is JSON if it can be, else a string. `NAME=WORD` is a named argument of Python functions and command
/// templates. A native function has one argument: a word alone is it, several are a tuple, none is `()`.
pub(super) fn arguments(kind: FunctionKind, words: &[String]) -> Result<Arguments> {
    match kind {
        FunctionKind::Native => {
            let mut values: Vec<_> = words.iter().map(|word| value(word)).collect();
            Ok(match values.len() {
                0 => Arguments::value(&Value::Null)?,
                1 => Arguments::value(&values.remove(0))?,
                _ => Arguments::value(&values)?,
            })
        }
        FunctionKind::Python | FunctionKind::Shell => {
            let mut args = Vec::new();
            let mut kwargs = Map::new();
            for word in words {
                match word.split_once('=').filter(|(name, _)| is_identifier(name)) {
                    Some((name, word)) => {
                        if kwargs.insert(name.to_owned(), value(word)).is_some() {
                            bail!(Failed::new(Exit::Usage, format!("`{name}` is given twice")));
                        }
                    }
                    None => args.push(value(word)),
                }
            }
            Ok(Arguments::python(&args, &kwargs)?)
        }
        kind => bail!(Failed::new(
            Exit::Usage,
            format!("a {kind} function takes serialized arguments: call it with the Globus Compute SDK")
        )),
    }
}

fn value(word: &str) -> Value {
    serde_json::from_str(word).unwrap_or_else(|_| Value::String(word.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(kind: FunctionKind, words: &[&str], expected: &str) {
        let words: Vec<_> = words.iter().map(|word| (*word).to_owned()).collect();
        assert_eq!(arguments(kind, &words).unwrap().as_json(), expected, "{words:?}");
    }

    #[test]
    fn words_become_arguments_in_the_form_of_the_kind() {
        check(FunctionKind::Native, &[], "null");
        check(FunctionKind::Native, &["[1,2]"], "[1,2]");
        check(FunctionKind::Native, &["40", "x y", "-2.5"], r#"[40,"x y",-2.5]"#);
        check(FunctionKind::Python, &[], r#"{"args":[],"kwargs":{}}"#);
        check(FunctionKind::Python, &["[1,2]", "a", "\"1\""], r#"{"args":[[1,2],"a","1"],"kwargs":{}}"#);
        check(
            FunctionKind::Python,
            &["n=3", "1", "s=a=b", "=x"],
            r#"{"args":[1,"=x"],"kwargs":{"n":3,"s":"a=b"}}"#,
        );
        check(FunctionKind::Shell, &["x=true"], r#"{"args":[],"kwargs":{"x":true}}"#);
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        let words = ["n=1".to_owned(), "n=2".to_owned()];
        assert!(arguments(FunctionKind::Python, &words).unwrap_err().to_string().contains("twice"));
        assert!(arguments(FunctionKind::GlobusCompute, &[]).unwrap_err().to_string().contains("SDK"));
    }
}
