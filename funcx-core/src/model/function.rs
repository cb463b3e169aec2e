//! Registered code, addressed by its hash.

use std::fmt;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// What the code of a function is, and so which executor can run it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum FunctionKind {
    /// A Rust function registered in the manager's binary. `entry` is its name, `code` is empty; arguments and
    /// value are bytes that the function itself decodes and encodes (JSON for typed functions).
    Native,
    /// Python source text in `code`, callable's name in `entry`; arguments are JSON
    /// `{"args": [...], "kwargs": {...}}`, the value is JSON.
    Python,
    /// A body as the Globus Compute SDK serializes it: one framed buffer in `code`; arguments are two framed
    /// buffers (args, kwargs), the value is a serialized string without a frame.
    GlobusCompute,
    /// A command template in `code`; arguments as for [`FunctionKind::Python`] fill its placeholders, the value is
    /// JSON `{"returncode", "stdout", "stderr", "cmd"}`.
    Shell,
}

impl FunctionKind {
    /// Every kind.
    pub const ALL: [Self; 4] = [Self::Native, Self::Python, Self::GlobusCompute, Self::Shell];

    /// The word for this kind in configuration, HTTP bodies and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Python => "python",
            Self::GlobusCompute => "globus-compute",
            Self::Shell => "shell",
        }
    }

    /// The kind with this word.
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == word)
    }
}

impl fmt::Display for FunctionKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// SHA-256 over kind, entry and code: the name of a function's code on links and in caches.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct FunctionHash(pub [u8; 32]);

impl fmt::Display for FunctionHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for FunctionHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FunctionHash({self})")
    }
}

/// The code of a function, in the form its kind prescribes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FunctionBody {
    /// What the other two fields mean.
    pub kind: FunctionKind,
    /// Name inside the code, where the kind has one.
    pub entry: String,
    /// The code itself, opaque to every hop.
    pub code: Bytes,
}

/// A function body together with its hash; immutable, shared by all tasks that call it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Function {
    hash: FunctionHash,
    body: FunctionBody,
}

impl Function {
    /// Hashes `body`.
    pub fn new(body: FunctionBody) -> Self {
        let mut digest = Sha256::new();
        // Lengths keep ("ab", "c") and ("a", "bc") apart.
        digest.update(body.kind.as_str().as_bytes());
        digest.update([0]);
        digest.update((body.entry.len() as u64).to_le_bytes());
        digest.update(body.entry.as_bytes());
        digest.update(&body.code);
        Self { hash: FunctionHash(digest.finalize().into()), body }
    }

    /// A native function registered under `name`.
    pub fn native(name: impl Into<String>) -> Self {
        Self::new(FunctionBody { kind: FunctionKind::Native, entry: name.into(), code: Bytes::new() })
    }

    /// The callable `entry` of some Python source text.
    pub fn python(entry: impl Into<String>, source: impl Into<Bytes>) -> Self {
        Self::new(FunctionBody { kind: FunctionKind::Python, entry: entry.into(), code: source.into() })
    }

    /// A command template.
    pub fn shell(template: impl Into<Bytes>) -> Self {
        Self::new(FunctionBody { kind: FunctionKind::Shell, entry: String::new(), code: template.into() })
    }

    /// Where the code is known by.
    pub const fn hash(&self) -> FunctionHash {
        self.hash
    }

    /// The code.
    pub const fn body(&self) -> &FunctionBody {
        &self.body
    }

    /// The kind of the code.
    pub const fn kind(&self) -> FunctionKind {
        self.body.kind
    }

    /// Bytes this function occupies in a cache.
    pub fn size_bytes(&self) -> usize {
        size_of::<Self>() + self.body.entry.len() + self.body.code.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hash_depends_on_every_part_and_on_where_it_ends() {
        let hash = |entry: &str, code: &'static str| Function::python(entry, code).hash();
        assert_eq!(hash("f", "x"), hash("f", "x"));
        assert_ne!(hash("f", "gx"), hash("fg", "x"));
        assert_ne!(Function::shell("x").hash(), hash("", "x"));
    }

    #[test]
    fn every_kind_is_found_by_its_word() {
        for kind in FunctionKind::ALL {
            assert_eq!(FunctionKind::from_word(kind.as_str()), Some(kind));
        }
        assert_eq!(FunctionKind::from_word("cobol"), None);
    }
}
