//! What stands in a YAML file, before anybody asks what it means.

use std::fmt;

use funcx_core::{Error, ErrorKind, Result};
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;

/// Lists and maps inside each other. A configuration needs six; each level takes some of the reader's stack.
const MAX_DEPTH: usize = 16;

/// A value and the line it stands on.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// Line in the file, from 1.
    pub line: u64,
    /// What stands there.
    pub value: Value,
}

/// A YAML value. Maps keep the order of the file.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Nothing, `null` or `~`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A whole number.
    Integer(i64),
    /// Another number.
    Float(f64),
    /// Text, quoted or not.
    Text(String),
    /// A sequence.
    List(Vec<Node>),
    /// A mapping, with the line of each key.
    Map(Vec<Entry>),
}

/// One key of a mapping.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// The key.
    pub key: String,
    /// Line of the key, from 1.
    pub line: u64,
    /// What it is set to.
    pub node: Node,
}

impl Node {
    /// Reads one YAML document. Empty text is an empty map.
    ///
    /// # Errors
    /// `InvalidInput` with the place, if it is not YAML, or has more in each other than any configuration.
    pub fn parse(text: &str) -> Result<Self> {
        let options = serde_saphyr::options! {
            budget: serde_saphyr::budget! { max_depth: MAX_DEPTH, flow_nesting_limit: MAX_DEPTH },
        };
        let spanned: Spanned<Value> =
            serde_saphyr::from_str_with_options(text, options).map_err(|error| {
                Error::new(ErrorKind::InvalidInput, "read YAML", error.without_snippet().to_string())
            })?;
        Ok(Self::from(spanned))
    }
}

impl From<Spanned<Value>> for Node {
    fn from(spanned: Spanned<Value>) -> Self {
        Self { line: spanned.referenced.line(), value: spanned.value }
    }
}

impl fmt::Display for Value {
    /// The value as a person would recognise it in a message.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("nothing"),
            Self::Bool(value) => write!(f, "`{value}`"),
            Self::Integer(value) => write!(f, "the number `{value}`"),
            Self::Float(value) => write!(f, "the number `{value}`"),
            Self::Text(value) => write!(f, "`{}`", value.chars().take(80).collect::<String>()),
            Self::List(_) => f.write_str("a list"),
            Self::Map(_) => f.write_str("a map"),
        }
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValueVisitor)
    }
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any YAML value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        Value::deserialize(deserializer)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Integer(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(i64::try_from(value).map_or(Value::Float(value as f64), Value::Integer))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Value::Float(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::Text(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element::<Spanned<Value>>()? {
            list.push(Node::from(item));
        }
        Ok(Value::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = Vec::new();
        while let Some(key) = entries.next_key::<Spanned<String>>()? {
            let node = Node::from(entries.next_value::<Spanned<Value>>()?);
            map.push(Entry { key: key.value, line: key.referenced.line(), node });
        }
        Ok(Value::Map(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_keep_their_kind_their_order_and_their_line() {
        let text = "b: 1\na:\n  - true\n  - 'x'\n\nc: 00:10:00\nd: 1.5\ne:\n";
        let Value::Map(entries) = Node::parse(text).unwrap().value else { panic!("a map") };
        let seen: Vec<_> =
            entries.iter().map(|entry| (entry.key.as_str(), entry.line, entry.node.value.clone())).collect();
        let item = |line, value| Node { line, value };
        assert_eq!(
            seen,
            [
                ("b", 1, Value::Integer(1)),
                ("a", 2, Value::List(vec![item(3, Value::Bool(true)), item(4, Value::Text("x".into()))])),
                ("c", 6, Value::Text("00:10:00".into())),
                ("d", 7, Value::Float(1.5)),
                ("e", 8, Value::Null),
            ]
        );
    }

    #[test]
    fn what_is_not_yaml_is_refused_with_its_place() {
        let deep = format!("a: {}{}", "[".repeat(200), "]".repeat(200));
        for text in ["a: [1", "a: 1\na: 2", "a: 1\n b: 2", &deep] {
            let error = Node::parse(text).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput);
            assert!(error.to_string().contains("line"), "{error}");
        }
    }
}
