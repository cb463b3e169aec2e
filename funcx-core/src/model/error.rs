//! The one error type of the libraries.

use std::{borrow::Cow, error, fmt, time::Duration};

/// `std::result::Result` with [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What the caller can do about an [`Error`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The request itself is wrong; change it.
    InvalidInput,
    /// The named thing does not exist.
    NotFound,
    /// The named thing exists already, or is in a state that forbids this.
    Conflict,
    /// Who you are could not be established.
    Unauthenticated,
    /// You may not do this.
    Forbidden,
    /// A bound would be passed; the message names it.
    LimitExceeded,
    /// A peer, a scheduler or a store cannot be reached or is busy.
    Unavailable,
    /// It took longer than allowed.
    TimedOut,
    /// The other side said something that is not in the protocol, or in a version that we do not speak.
    Protocol,
    /// This implementation cannot do that.
    Unsupported,
    /// A store, a file or a process failed.
    Io,
    /// A defect of ours.
    Internal,
}

/// Whether doing it again can help. Only the code that saw the failure knows, so it says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// It will fail again.
    Never,
    /// Try again, after this long if a time is given.
    After(Option<Duration>),
    /// It was tried this many times already.
    GaveUp(u32),
}

/// An opaque error: kind, whether to retry, what was being done, to what, and why it failed.
///
/// Its text is one line: operation, message, context and source.
pub struct Error(Box<Parts>);

struct Parts {
    kind: ErrorKind,
    retry: Retry,
    operation: &'static str,
    message: Cow<'static, str>,
    context: Vec<(&'static str, String)>,
    source: Option<Box<dyn error::Error + Send + Sync>>,
}

impl Error {
    /// An error that a retry cannot help.
    pub fn new(kind: ErrorKind, operation: &'static str, message: impl Into<Cow<'static, str>>) -> Self {
        let retry = match kind {
            ErrorKind::Unavailable | ErrorKind::TimedOut => Retry::After(None),
            _ => Retry::Never,
        };
        Self(Box::new(Parts {
            kind,
            retry,
            operation,
            message: message.into(),
            context: Vec::new(),
            source: None,
        }))
    }

    /// Says which thing it was about.
    #[must_use]
    pub fn with_context(mut self, key: &'static str, value: impl fmt::Display) -> Self {
        self.0.context.push((key, value.to_string()));
        self
    }

    /// Says whether a retry can help; the default is yes for `Unavailable` and `TimedOut`, no for the others.
    #[must_use]
    pub fn with_retry(mut self, retry: Retry) -> Self {
        self.0.retry = retry;
        self
    }

    /// Says what lies below.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn error::Error + Send + Sync>>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// What the caller can do.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Whether doing it again can help.
    pub fn retry(&self) -> Retry {
        self.0.retry
    }

    /// Whether doing it again can help, as a plain yes or no.
    pub fn is_retryable(&self) -> bool {
        matches!(self.0.retry, Retry::After(_))
    }

    /// What was being done.
    pub fn operation(&self) -> &'static str {
        self.0.operation
    }

    /// Why it failed, without operation, context and source.
    pub fn message(&self) -> &str {
        &self.0.message
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot {}: {}", self.0.operation, self.0.message)?;
        for (index, (key, value)) in self.0.context.iter().enumerate() {
            write!(f, "{}{key}: {value}", if index == 0 { " (" } else { ", " })?;
        }
        if !self.0.context.is_empty() {
            f.write_str(")")?;
        }
        match &self.0.source {
            Some(source) => write!(f, ": {source}"),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}/{:?}: {self}", self.0.kind, self.0.retry)
    }
}

impl error::Error for Error {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        self.0.source.as_deref().map(|source| source as &(dyn error::Error + 'static))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_names_operation_thing_and_cause() {
        let error = Error::new(ErrorKind::NotFound, "submit tasks", "no such function")
            .with_context("function", "f1")
            .with_context("endpoint", "e1")
            .with_source("disk on fire");
        assert_eq!(
            error.to_string(),
            "cannot submit tasks: no such function (function: f1, endpoint: e1): disk on fire"
        );
    }

    #[test]
    fn only_what_passes_by_itself_is_retryable_unless_said_otherwise() {
        assert!(Error::new(ErrorKind::Unavailable, "dial", "refused").is_retryable());
        assert!(!Error::new(ErrorKind::InvalidInput, "dial", "bad address").is_retryable());
        assert!(
            !Error::new(ErrorKind::Unavailable, "dial", "refused")
                .with_retry(Retry::GaveUp(5))
                .is_retryable()
        );
    }
}
