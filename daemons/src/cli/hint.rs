//! What to do about an error.

use funcx_core::{Error, ErrorKind};

use crate::exit::{Exit, Failed};

/// The error with an exit code and, where we know one, a way out.
pub(super) fn explained(error: anyhow::Error) -> anyhow::Error {
    let Some(cause) = error.downcast_ref::<Error>() else { return error };
    let (exit, hint) = match cause.kind() {
        ErrorKind::Unauthenticated => (
            Exit::Credentials,
            "make a token with `funcx token create --name NAME --save`, or set FUNCX_TOKEN or --token-file",
        ),
        ErrorKind::Unavailable if cause.to_string().contains("cannot be reached") => (
            Exit::Service,
            "`funcx up` starts a service on this machine; FUNCX_SERVICE or --service says where another one is",
        ),
        ErrorKind::Unavailable | ErrorKind::TimedOut | ErrorKind::Internal => (Exit::Service, ""),
        ErrorKind::Protocol => {
            (Exit::Service, "is FUNCX_SERVICE or --service the address of a funcx service?")
        }
        ErrorKind::Forbidden => (Exit::Refused, ""),
        ErrorKind::NotFound if cause.operation() == "find endpoint" => {
            (Exit::NoSuchEndpoint, "`funcx endpoint list` shows your endpoints")
        }
        _ => (Exit::Failure, ""),
    };
    // The text of our error holds its cause already, so the chain is not printed again.
    let text = match hint {
        "" => cause.to_string(),
        hint => format!("{cause}\n  {hint}"),
    };
    Failed::new(exit, text).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit::code_of;

    #[test]
    fn errors_that_people_can_mend_say_how() {
        for (kind, operation, message, exit, way) in [
            (ErrorKind::Unauthenticated, "list tasks", "unknown token", Exit::Credentials, "token create"),
            (
                ErrorKind::Unavailable,
                "list tasks",
                "the service cannot be reached",
                Exit::Service,
                "funcx up",
            ),
            (ErrorKind::NotFound, "find endpoint", "no such endpoint", Exit::NoSuchEndpoint, "endpoint list"),
            (ErrorKind::Forbidden, "find task", "not yours", Exit::Refused, "not yours"),
            (ErrorKind::NotFound, "find task", "no such task", Exit::Failure, "no such task"),
        ] {
            let error = explained(Error::new(kind, operation, message).into());
            assert_eq!(code_of(&error), exit, "{error:#}");
            let text = format!("{error:#}");
            assert!(text.contains(way) && text.contains(message), "{text}");
            assert_eq!(text.matches(message).count(), 1, "{text}");
        }
        assert_eq!(explained(anyhow::anyhow!("other")).to_string(), "other");
    }
}
