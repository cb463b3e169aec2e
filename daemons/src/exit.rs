//! How the daemons end.

use std::process::ExitCode;

/// Every exit code of the daemons. Scripts may rely on them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// It did what it was asked to do.
    Success = 0,
    /// It failed in a way that none of the others names.
    Failure = 1,
    /// The command line is wrong.
    Usage = 2,
    /// The configuration is wrong, or there is none.
    Configuration = 3,
    /// The named endpoint does not exist, or exists already.
    NoSuchEndpoint = 4,
    /// The endpoint runs already, or does not run.
    WrongState = 5,
    /// There is no token, or the service does not take it.
    Credentials = 6,
    /// The service cannot be reached, or does not answer as it should.
    Service = 7,
    /// The service or the endpoint above refuses this process.
    Refused = 8,
    /// Python is missing, too old, or does not start.
    Python = 9,
    /// The endpoint above was lost for longer than its lease lasts.
    LostAbove = 10,
    /// Another process listens on the address already.
    AddressInUse = 11,
    /// The task ended without a value: it raised, ran out of time, was cancelled or was lost. Of a map: some calls did.
    TaskFailed = 12,
}

impl Exit {
    /// Every code with its meaning, for `--help`.
    pub const HELP: &str = "\
Exit codes:
  0   done
  1   another failure
  2   wrong command line
  3   wrong or missing configuration
  4   no such endpoint, or it exists already
  5   the endpoint runs already, or does not run
  6   no token, or the service does not take it
  7   the service cannot be reached or does not answer as it should
  8   refused by the service or by the endpoint
  9   Python is missing, too old, or does not start
  10  the endpoint was out of reach for too long
  11  another process listens on the address already
  12  the task, or a call of a map, did not return a value";
}

impl Exit {
    /// All codes.
    pub const ALL: [Self; 13] = [
        Self::Success,
        Self::Failure,
        Self::Usage,
        Self::Configuration,
        Self::NoSuchEndpoint,
        Self::WrongState,
        Self::Credentials,
        Self::Service,
        Self::Refused,
        Self::Python,
        Self::LostAbove,
        Self::AddressInUse,
        Self::TaskFailed,
    ];

    /// The exit with this code; [`Exit::Failure`] if there is none.
    pub fn from_code(code: i32) -> Self {
        Self::ALL.into_iter().find(|exit| *exit as i32 == code).unwrap_or(Self::Failure)
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// A failure that has an exit code of its own. Carried by `anyhow::Error`; [`code_of`] finds it again.
#[derive(Debug)]
pub struct Failed {
    /// The code.
    pub exit: Exit,
    message: String,
}

impl Failed {
    /// A failure with one line for the person at the terminal.
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into() }
    }
}

impl std::fmt::Display for Failed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failed {}

/// The code of an error: that of the [`Failed`] in it, else [`Exit::Failure`].
pub fn code_of(error: &anyhow::Error) -> Exit {
    error.downcast_ref::<Failed>().map_or(Exit::Failure, |failed| failed.exit)
}

/// Ends `main`: says on standard error what went wrong, if anything, and gives the exit code.
pub fn report(program: &str, result: anyhow::Result<ExitCode>) -> ExitCode {
    result.unwrap_or_else(|error| {
        eprintln!("{program}: {error:#}");
        code_of(&error).into()
    })
}

#[cfg(test)]
mod tests {
    use anyhow::Context;

    use super::*;

    #[test]
    fn a_failure_keeps_its_code_under_context() {
        let error =
            Err::<(), _>(Failed::new(Exit::Python, "no python")).context("cannot start workers").unwrap_err();
        assert_eq!(code_of(&error), Exit::Python);
        assert_eq!(format!("{error:#}"), "cannot start workers: no python");
        assert_eq!(code_of(&anyhow::anyhow!("other")), Exit::Failure);
    }

    #[test]
    fn help_names_every_code() {
        for exit in Exit::ALL {
            let code = (exit as u8).to_string();
            assert!(Exit::HELP.lines().any(|line| line.split_whitespace().next() == Some(&code)), "{exit:?}");
            assert_eq!(Exit::from_code(exit as i32), exit);
        }
        assert_eq!(Exit::from_code(99), Exit::Failure);
    }
}
