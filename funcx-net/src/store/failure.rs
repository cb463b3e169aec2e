//! What went wrong, in our words.

use std::io;

use funcx_core::model::{Error, ErrorKind};

pub(super) const FULL: &str = "the disk is full; free some space";
const QUOTA: &str = "the quota of the disk or the file size limit is used up";

/// A failure that several callers are told of. An [`Error`] cannot be copied, so this is what makes one for each.
#[derive(Debug, Clone)]
pub(super) struct Failure {
    kind: ErrorKind,
    message: &'static str,
    detail: String,
}

impl Failure {
    pub(super) fn new(kind: ErrorKind, message: &'static str, detail: impl Into<String>) -> Self {
        Self { kind, message, detail: detail.into() }
    }

    /// Whether there is no room for more, while what is there can be read and made shorter.
    pub(super) fn is_full(&self) -> bool {
        self.message == FULL || self.message == QUOTA
    }

    /// The operating system refused something.
    pub(super) fn io(error: &io::Error) -> Self {
        let (kind, message) = match error.kind() {
            io::ErrorKind::StorageFull => (ErrorKind::Unavailable, FULL),
            io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => (ErrorKind::Unavailable, QUOTA),
            io::ErrorKind::ReadOnlyFilesystem => (ErrorKind::Unavailable, "the file system is read-only"),
            _ => (ErrorKind::Io, "the operating system refused it"),
        };
        Self::new(kind, message, error.to_string())
    }

    /// The database could not read.
    pub(super) fn read(error: &fjall::Error) -> Self {
        match io_cause(error) {
            Some(cause) => Self::io(cause),
            None => Self::new(
                ErrorKind::Internal,
                "the database cannot read its files; they are damaged: restore the directory from a copy",
                error.to_string(),
            ),
        }
    }

    /// The database could not write, and takes no more writes until it is opened again.
    pub(super) fn write(error: &fjall::Error) -> Self {
        let Self { kind, message, detail } = Self::read(error);
        match kind {
            ErrorKind::Unavailable => Self { kind, message, detail },
            _ => Self::new(
                ErrorKind::Unavailable,
                "a write failed; the store opens itself again as soon as the disk takes writes",
                detail,
            ),
        }
    }

    /// The database cannot be opened again yet: whatever it is, it may be over later.
    pub(super) fn reopening(error: &Error) -> Self {
        Self::new(
            ErrorKind::Unavailable,
            "the disk failed and the store cannot be opened again yet; it goes on trying",
            error.to_string(),
        )
    }

    /// The error to give to one caller.
    pub(super) fn into_error(self, operation: &'static str) -> Error {
        Error::new(self.kind, operation, self.message).with_context("cause", self.detail)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::new(error.kind(), "a record that the writes depend on cannot be read", error.to_string())
    }
}

fn io_cause(error: &fjall::Error) -> Option<&io::Error> {
    match error {
        fjall::Error::Io(cause) | fjall::Error::Storage(fjall::LsmError::Io(cause)) => Some(cause),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_operator_can_mend_is_unavailable() {
        let kind = |kind: io::ErrorKind| Failure::io(&kind.into()).into_error("test").kind();
        assert_eq!(kind(io::ErrorKind::StorageFull), ErrorKind::Unavailable);
        assert_eq!(kind(io::ErrorKind::ReadOnlyFilesystem), ErrorKind::Unavailable);
        assert_eq!(kind(io::ErrorKind::QuotaExceeded), ErrorKind::Unavailable);
        assert_eq!(kind(io::ErrorKind::PermissionDenied), ErrorKind::Io);
    }

    #[test]
    fn a_failed_write_names_the_way_out() {
        let error = Failure::write(&fjall::Error::Poisoned).into_error("commit");
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert!(error.is_retryable() && error.message().contains("opens itself again"), "{error}");
    }
}
