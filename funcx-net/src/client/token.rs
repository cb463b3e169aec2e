//! A bearer token that does not print.

use std::{fmt, str::FromStr};

use funcx_core::model::limit;
use funcx_core::{Error, ErrorKind, Result};
use reqwest::header::HeaderValue;

/// A bearer token as the service issued it. Neither `Debug` nor an error shows it.
#[derive(Clone)]
pub struct Token(HeaderValue);

impl Token {
    /// Takes the text of a token; white space around it, such as the end of a line in a file, is left out.
    ///
    /// # Errors
    /// `InvalidInput` if it is empty, longer than [`MAX_TEXT_BYTES`](limit::MAX_TEXT_BYTES) or holds characters that no
    /// token has. The message does not quote it.
    pub fn new(secret: &str) -> Result<Self> {
        let secret = secret.trim();
        let refused = |why| Err(Error::new(ErrorKind::InvalidInput, "use token", why));
        if secret.is_empty() {
            return refused("it is empty");
        }
        if secret.len() > limit::MAX_TEXT_BYTES {
            return refused("it is longer than MAX_TEXT_BYTES");
        }
        // RFC 6750 section 2.1 allows fewer still; the service decides about those.
        if !secret.bytes().all(|byte| byte.is_ascii_graphic()) {
            return refused("it holds characters that no token has");
        }
        let mut value = HeaderValue::try_from(format!("Bearer {secret}"))
            .map_err(|_| Error::new(ErrorKind::InvalidInput, "use token", "it does not fit into a header"))?;
        value.set_sensitive(true);
        Ok(Self(value))
    }

    /// The value of the `Authorization` header.
    pub(super) fn header(&self) -> HeaderValue {
        self.0.clone()
    }
}

impl FromStr for Token {
    type Err = Error;

    fn from_str(secret: &str) -> Result<Self> {
        Self::new(secret)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_shown_nowhere() {
        let token = Token::new(" s3cret-value\n").unwrap();
        assert_eq!(token.header(), "Bearer s3cret-value");
        assert_eq!(format!("{token:?} {:?}", token.header()), "Token(…) Sensitive");
        let error = Token::new("s3cret value").unwrap_err();
        assert!(!format!("{error} {error:?}").contains("s3cret"));
    }

    #[test]
    fn what_cannot_be_a_token_is_refused() {
        for text in ["", " \n", "zwölf", "a\nb", &"x".repeat(limit::MAX_TEXT_BYTES + 1)] {
            assert_eq!(Token::new(text).unwrap_err().kind(), ErrorKind::InvalidInput, "{text}");
        }
    }
}
