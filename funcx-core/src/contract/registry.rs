//! Implementations by the names that configuration files use.

use std::collections::BTreeMap;

use crate::model::{Error, ErrorKind, Result};

/// Names and what they stand for. A daemon fills one for each contract at start; a third party adds to it before
/// the daemon is composed. There is no global one.
#[derive(Debug, Clone)]
pub struct Registry<T> {
    contract: &'static str,
    entries: BTreeMap<String, T>,
}

impl<T> Registry<T> {
    /// An empty registry for the contract of this name.
    pub const fn new(contract: &'static str) -> Self {
        Self { contract, entries: BTreeMap::new() }
    }

    /// Adds an implementation.
    ///
    /// # Errors
    /// `Conflict` if the name is taken.
    pub fn register(&mut self, name: impl Into<String>, implementation: T) -> Result<()> {
        let name = name.into();
        if self.entries.contains_key(&name) {
            return Err(Error::new(ErrorKind::Conflict, "register implementation", "the name is taken")
                .with_context("contract", self.contract)
                .with_context("name", name));
        }
        self.entries.insert(name, implementation);
        Ok(())
    }

    /// The implementation with this name.
    ///
    /// # Errors
    /// `NotFound`, naming those there are.
    pub fn find(&self, name: &str) -> Result<&T> {
        self.entries.get(name).ok_or_else(|| {
            let known = self.names().collect::<Vec<_>>().join(", ");
            Error::new(
                ErrorKind::NotFound,
                "find implementation",
                format!("there is no `{name}`, only {known}"),
            )
            .with_context("contract", self.contract)
        })
    }

    /// All names in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }
}
