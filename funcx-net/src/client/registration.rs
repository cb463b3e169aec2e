//! A function that is about to be registered.

use funcx_core::model::{FunctionKind, Memoize};

use crate::http::wire::FunctionRegistration;

/// Registrations for the owner only and without a description; both are fields to change.
impl FunctionRegistration {
    /// The callable `entry` of some Python source text, under the same name.
    pub fn python(entry: impl Into<String>, source: impl Into<String>) -> Self {
        let entry = entry.into();
        Self {
            entry: Some(entry.clone()),
            code: Some(source.into()),
            ..Self::empty(entry, FunctionKind::Python)
        }
    }

    /// A command template.
    pub fn shell(name: impl Into<String>, template: impl Into<String>) -> Self {
        Self { code: Some(template.into()), ..Self::empty(name.into(), FunctionKind::Shell) }
    }

    /// The native function that the workers of the endpoint know by this name.
    pub fn native(name: impl Into<String>) -> Self {
        let name = name.into();
        Self { entry: Some(name.clone()), ..Self::empty(name, FunctionKind::Native) }
    }

    /// A body as the Globus Compute SDK serializes it.
    pub fn globus_compute(name: impl Into<String>, serialized: impl Into<String>) -> Self {
        Self { code: Some(serialized.into()), ..Self::empty(name.into(), FunctionKind::GlobusCompute) }
    }

    fn empty(name: String, kind: FunctionKind) -> Self {
        Self {
            name,
            kind,
            entry: None,
            code: None,
            description: None,
            public: false,
            group: None,
            memoize: Memoize::Never,
            metadata: None,
        }
    }
}
