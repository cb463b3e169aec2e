//! Asking a YAML map for what one knows, and complaining about the rest.

use std::{cell::RefCell, collections::BTreeMap, fmt, time::Duration};

use super::document::{Entry, Node, Value};
use super::quantity::{from_millis, parse_duration, parse_size};

/// Similarity (0 to 1) from which a known key is offered for an unknown one: `heartbeat` finds `heartbeat_period`, and
/// `colour` finds nothing.
const NEAR: f64 = 0.8;

/// Something wrong in a file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// Line, from 1.
    pub line: u64,
    /// Full path of the key, such as `engine.provider.type`; empty for the file itself.
    pub path: String,
    /// What is wrong and what would be right.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { line, path, message } = self;
        match path.is_empty() {
            true => write!(f, "line {line}: {message}"),
            false => write!(f, "line {line}: {path} {message}"),
        }
    }
}

/// What was found while a file was read: problems that forbid to use it, and notes that do not.
#[derive(Debug, Default)]
pub struct Findings {
    problems: RefCell<Vec<Problem>>,
    notes: RefCell<Vec<Problem>>,
}

impl Findings {
    /// Adds a problem.
    pub fn problem(&self, line: u64, path: impl Into<String>, message: impl Into<String>) {
        self.problems.borrow_mut().push(Problem { line, path: path.into(), message: message.into() });
    }

    fn note(&self, line: u64, path: String, message: &str) {
        self.notes.borrow_mut().push(Problem { line, path, message: message.to_owned() });
    }

    /// Problems and notes in the order of the file.
    pub fn into_sorted(self) -> (Vec<Problem>, Vec<Problem>) {
        let (mut problems, mut notes) = (self.problems.into_inner(), self.notes.into_inner());
        problems.sort();
        notes.sort();
        (problems, notes)
    }
}

/// A key that users of Globus Compute know and that is not read here.
#[derive(Debug, Clone, Copy)]
pub enum Foreign {
    /// It changes what happens, so it must not be passed over: refused, with what to do instead.
    Unsupported(&'static str),
    /// It tunes something that does not exist here, so it can be passed over: noted, with the reason.
    NoEffect(&'static str),
}

/// A map of the file. Keys are asked for one by one; [`finish`](Self::finish) complains about those nobody asked for.
#[derive(Debug)]
pub struct Section<'a> {
    path: String,
    line: u64,
    entries: &'a [Entry],
    known: Vec<&'static str>,
    findings: &'a Findings,
}

impl<'a> Section<'a> {
    /// The section that `node` holds. A node that is no map is a problem, and an empty section.
    pub fn new(path: impl Into<String>, node: &'a Node, findings: &'a Findings) -> Self {
        let path = path.into();
        let entries = match &node.value {
            Value::Map(entries) => entries.as_slice(),
            Value::Null => &[],
            other => {
                findings.problem(node.line, path.clone(), format!("must be a map of keys, not {other}"));
                &[]
            }
        };
        Self { path, line: node.line, entries, known: Vec::new(), findings }
    }

    fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// What stands at `key`; `None` if it is not there or null.
    pub fn node(&mut self, key: &'static str) -> Option<&'a Node> {
        self.known.push(key);
        let entry = self.entries.iter().find(|entry| entry.key == key)?;
        (entry.node.value != Value::Null).then_some(&entry.node)
    }

    /// The value of `key`. A value of the wrong sort is a problem, and `None`.
    pub fn get<T: FromValue>(&mut self, key: &'static str) -> Option<T> {
        let node = self.node(key)?;
        self.convert(key, node, T::EXPECTED, T::from_value(&node.value))
    }

    /// The value of `key`, which must pass `accept`; `expected` says in words what does.
    pub fn get_if<T: FromValue>(
        &mut self,
        key: &'static str,
        expected: &str,
        accept: impl FnOnce(&T) -> bool,
    ) -> Option<T> {
        let node = self.node(key)?;
        self.convert(key, node, expected, T::from_value(&node.value).filter(accept))
    }

    /// The section at `key`; an empty one if it is not there.
    pub fn section(&mut self, key: &'static str) -> Section<'a> {
        let path = self.path_of(key);
        match self.node(key) {
            Some(node) => Section::new(path, node, self.findings),
            None => {
                Section { path, line: self.line, entries: &[], known: Vec::new(), findings: self.findings }
            }
        }
    }

    /// The sections at `key` by their names, which the file chooses.
    pub fn sections(&mut self, key: &'static str) -> Vec<(String, Section<'a>)> {
        let section = self.section(key);
        let named = section.entries.iter().map(|entry| {
            let path = section.path_of(&entry.key);
            (entry.key.clone(), Section::new(path, &entry.node, self.findings))
        });
        named.collect()
    }

    /// Complains about the value of `key`.
    pub fn problem(&self, key: &str, message: impl Into<String>) {
        let line = self.entries.iter().find(|entry| entry.key == key).map_or(self.line, |entry| entry.line);
        self.findings.problem(line, self.path_of(key), message);
    }

    /// Complains about keys that nobody asked for. `foreign` are those that are known but not read.
    pub fn finish(self, foreign: &[(&str, Foreign)]) {
        for Entry { key, line, node } in self.entries {
            if self.known.contains(&key.as_str()) {
                continue;
            }
            let path = self.path_of(key);
            match foreign.iter().find(|(name, _)| name == key) {
                // Null is how a file says that it does not want the thing.
                Some(_) if node.value == Value::Null => {}
                Some((_, Foreign::Unsupported(instead))) => {
                    self.findings.problem(*line, path, format!("is not supported yet: {instead}"));
                }
                Some((_, Foreign::NoEffect(reason))) => {
                    self.findings.note(*line, path, &format!("has no effect here: {reason}"));
                }
                None => self.findings.problem(*line, path, self.unknown(key)),
            }
        }
    }

    fn unknown(&self, key: &str) -> String {
        let nearest = self
            .known
            .iter()
            .map(|known| (strsim::jaro_winkler(key, known), *known))
            .max_by(|(a, _), (b, _)| a.total_cmp(b))
            .filter(|(similarity, _)| *similarity >= NEAR);
        match nearest {
            Some((_, known)) => format!("is not known; did you mean `{known}`?"),
            None => format!("is not known; known here: {}", self.known.join(", ")),
        }
    }

    fn convert<T>(&self, key: &str, node: &Node, expected: &str, value: Option<T>) -> Option<T> {
        if value.is_none() {
            self.findings.problem(
                node.line,
                self.path_of(key),
                format!("must be {expected}, not {}", node.value),
            );
        }
        value
    }
}

/// A Rust value that a YAML value can stand for.
pub trait FromValue: Sized {
    /// What is expected, in words: "must be …".
    const EXPECTED: &'static str;

    /// The value; `None` if it is of another sort.
    fn from_value(value: &Value) -> Option<Self>;
}

impl FromValue for bool {
    const EXPECTED: &'static str = "`true` or `false`";

    fn from_value(value: &Value) -> Option<Self> {
        if let Value::Bool(value) = value { Some(*value) } else { None }
    }
}

impl FromValue for u32 {
    const EXPECTED: &'static str = "a whole number";

    fn from_value(value: &Value) -> Option<Self> {
        if let Value::Integer(value) = value { Self::try_from(*value).ok() } else { None }
    }
}

impl FromValue for String {
    const EXPECTED: &'static str = "text (in quotes if it looks like a number)";

    fn from_value(value: &Value) -> Option<Self> {
        if let Value::Text(value) = value { Some(value.clone()) } else { None }
    }
}

impl FromValue for Duration {
    const EXPECTED: &'static str = "a duration (seconds, `30 s`, `10 min` or `00:10:00`)";

    fn from_value(value: &Value) -> Option<Self> {
        match value {
            Value::Integer(seconds) => from_millis(*seconds as f64 * 1000.0),
            Value::Float(seconds) => from_millis(*seconds * 1000.0),
            Value::Text(text) => parse_duration(text),
            _ => None,
        }
    }
}

/// A number of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

impl FromValue for Size {
    const EXPECTED: &'static str = "a size (bytes, `64 KiB` or `10 MiB`)";

    fn from_value(value: &Value) -> Option<Self> {
        match value {
            Value::Integer(bytes) => u64::try_from(*bytes).ok().map(Self),
            Value::Text(text) => parse_size(text).map(Self),
            _ => None,
        }
    }
}

impl FromValue for Vec<String> {
    const EXPECTED: &'static str = "a list of texts";

    fn from_value(value: &Value) -> Option<Self> {
        let Value::List(items) = value else { return None };
        items.iter().map(|item| String::from_value(&item.value)).collect()
    }
}

impl FromValue for BTreeMap<String, String> {
    const EXPECTED: &'static str = "a map of variables, each set to a text or a number";

    fn from_value(value: &Value) -> Option<Self> {
        let Value::Map(entries) = value else { return None };
        let text = |value: &Value| match value {
            Value::Text(text) => Some(text.clone()),
            Value::Integer(number) => Some(number.to_string()),
            Value::Float(number) => Some(number.to_string()),
            Value::Null | Value::Bool(_) | Value::List(_) | Value::Map(_) => None,
        };
        entries.iter().map(|entry| Some((entry.key.clone(), text(&entry.node.value)?))).collect()
    }
}
