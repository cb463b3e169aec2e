//! The token that an endpoint shows to its service.

use std::fmt;

/// A secret text. It does not print itself.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// The token in `text`, without white space around it; `None` if nothing is left, or if it could not stand in a
    /// header of HTTP.
    pub fn new(text: impl Into<String>) -> Option<Self> {
        let text = text.into();
        let token = text.trim();
        let fits = !token.is_empty() && token.len() <= funcx_core::model::limit::MAX_TEXT_BYTES;
        (fits && token.bytes().all(|byte| byte.is_ascii_graphic())).then(|| Self(token.to_owned()))
    }

    /// The text itself, for where it is needed.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}
