//! Why a request is not done: an error and the word that clients of the HTTP API know it by.

use std::fmt;

use funcx_core::{Error, ErrorKind};

/// What a call of the [`Service`](super::Service) gives.
pub type Answer<T> = Result<T, Refusal>;

/// An error with the word by which programs tell it from others of its kind.
#[derive(Debug)]
pub struct Refusal {
    code: &'static str,
    error: Error,
}

impl Refusal {
    /// A refusal with a word of its own.
    pub const fn new(code: &'static str, error: Error) -> Self {
        Self { code, error }
    }

    /// The word.
    pub const fn code(&self) -> &'static str {
        self.code
    }

    /// What went wrong.
    pub const fn error(&self) -> &Error {
        &self.error
    }
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        let code = match error.kind() {
            ErrorKind::InvalidInput => "SEMANTICALLY_INVALID",
            ErrorKind::NotFound => "NOT_FOUND",
            ErrorKind::Conflict => "CONFLICT",
            ErrorKind::Unauthenticated => "USER_UNAUTHENTICATED",
            ErrorKind::Forbidden => "FORBIDDEN",
            ErrorKind::LimitExceeded => "LIMIT_EXCEEDED",
            ErrorKind::Unavailable | ErrorKind::TimedOut => "SERVICE_UNAVAILABLE",
            ErrorKind::Unsupported => "UNSUPPORTED",
            _ => "INTERNAL_ERROR",
        };
        Self { code, error }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl std::error::Error for Refusal {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        std::error::Error::source(&self.error)
    }
}
