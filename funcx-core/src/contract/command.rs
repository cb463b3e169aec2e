//! A command line as a list of arguments.

use std::{collections::BTreeMap, ffi::OsString, path::PathBuf};

/// A program, its arguments, and the environment and directory it starts in.
///
/// Arguments are a list and never pass through a shell, so nothing in them needs quoting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    /// The program, a path or a name looked up in `PATH`.
    pub program: OsString,
    /// Its arguments, without the program itself.
    pub arguments: Vec<OsString>,
    /// Variables set in addition to the inherited environment.
    pub environment: BTreeMap<OsString, OsString>,
    /// Directory to start in; the caller's own if `None`.
    pub directory: Option<PathBuf>,
    /// Text for standard input; nothing if empty.
    pub stdin: Vec<u8>,
}

impl Command {
    /// A command without arguments.
    pub fn new(program: impl Into<OsString>) -> Self {
        Self {
            program: program.into(),
            arguments: Vec::new(),
            environment: BTreeMap::new(),
            directory: None,
            stdin: Vec::new(),
        }
    }

    /// Adds one argument.
    #[must_use]
    pub fn with_argument(mut self, argument: impl Into<OsString>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// Adds arguments in order.
    #[must_use]
    pub fn with_arguments<A: Into<OsString>>(mut self, arguments: impl IntoIterator<Item = A>) -> Self {
        self.arguments.extend(arguments.into_iter().map(Into::into));
        self
    }

    /// Sets one variable.
    #[must_use]
    pub fn with_variable(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.environment.insert(name.into(), value.into());
        self
    }
}
