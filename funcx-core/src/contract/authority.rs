//! Who somebody is and what they may do.

use std::fmt;

use futures::future::BoxFuture;
use uuid::Uuid;

use crate::model::{IdentityId, Result, Timestamp};

/// Turns credentials into principals, and decides what a principal may do.
///
/// Called for every request and every link handshake; implementations that ask somebody else keep a cache.
///
/// **Errors.** `Unauthenticated` (unknown, wrong, revoked or expired credential), `Forbidden` (known, but not
/// allowed; the message names the scope or the object), `Unavailable` (the authority itself cannot be reached;
/// retry later). Error texts never hold a secret.
///
/// **Suite.** `funcx_core::conformance::authority`.
pub trait Authority: Send + Sync + 'static {
    /// Who presents this credential at the time `at`.
    fn authenticate<'a>(
        &'a self,
        credential: &'a Credential,
        at: Timestamp,
    ) -> BoxFuture<'a, Result<Principal>>;

    /// Whether `principal` may do `action` to `object`. Pure and quick.
    fn authorize(&self, principal: &Principal, action: Action, object: &Object) -> Result<()>;
}

/// What somebody presents to prove who they are. Its `Debug` form hides the secret.
#[derive(Clone, PartialEq, Eq)]
pub enum Credential {
    /// A bearer token.
    Bearer(String),
    /// Name and secret of a robot account (OAuth 2.0 client credentials, RFC 6749 section 4.4).
    Client {
        /// Public name.
        id: String,
        /// Secret.
        secret: String,
    },
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bearer(_) => f.write_str("Bearer(…)"),
            Self::Client { id, .. } => f.debug_struct("Client").field("id", id).finish_non_exhaustive(),
        }
    }
}

/// Somebody whose identity is established.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    /// Who.
    pub identity: IdentityId,
    /// Name for people.
    pub username: String,
    /// Groups they belong to.
    pub groups: Vec<Uuid>,
    /// What their credential is good for.
    pub scopes: Vec<Scope>,
}

/// What a credential is good for. A credential with fewer scopes does less harm when it leaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// Register and read functions, submit tasks and read their results.
    Compute,
    /// Serve as an endpoint.
    Endpoint,
    /// Everything, on everybody's objects.
    Admin,
}

impl Scope {
    /// Every scope.
    pub const ALL: [Self; 3] = [Self::Compute, Self::Endpoint, Self::Admin];

    /// The word for this scope.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Compute => "compute",
            Self::Endpoint => "endpoint",
            Self::Admin => "admin",
        }
    }

    /// The scope with this word.
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|scope| scope.as_str() == word)
    }
}

/// What is done to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// See it.
    Read,
    /// Call a function, run on an endpoint.
    Use,
    /// Change or delete it, cancel a task.
    Change,
    /// Serve as this endpoint.
    Serve,
}

/// The part of a function, endpoint or task that a decision depends on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// Whose it is.
    pub owner: IdentityId,
    /// Who else may read and use it.
    pub access: Access,
}

/// Who besides the owner may read and use an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Access {
    /// Nobody.
    #[default]
    Private,
    /// Members of a group.
    Group(Uuid),
    /// Everybody with a valid credential.
    Public,
}

impl Object {
    /// Whether ownership and access let this principal do it, scopes aside: owners do everything, others read and
    /// use what is shared with them.
    pub fn permits(&self, principal: &Principal, action: Action) -> bool {
        let shared = match self.access {
            Access::Private => false,
            Access::Group(group) => principal.groups.contains(&group),
            Access::Public => true,
        };
        self.owner == principal.identity
            || principal.scopes.contains(&Scope::Admin)
            || (shared && matches!(action, Action::Read | Action::Use))
    }
}
