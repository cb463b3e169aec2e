//! Accounts and tokens of a service that needs nobody else for them.
//!
//! | File | Holds |
//! | --- | --- |
//! | `file` | the file with accounts, tokens and clients, and how several processes change it |
//! | `secret` | random secrets, their digests, and how they are compared |
//! | `access_token` | short-lived tokens that prove themselves |

mod access_token;
mod file;
mod secret;

use std::{fmt, path::Path, time::Duration};

use funcx_core::contract::{Action, Authority, Credential, Object, Principal, Scope};
use funcx_core::model::{Error, ErrorKind, IdentityId, Result, Timestamp, limit::MAX_TEXT_BYTES};
use futures::future::{self, BoxFuture, FutureExt};
use uuid::Uuid;

use access_token::Claims;
use file::{Account, AccountFile, Accounts, Client, ScopeWord, Token};
use secret::Secret;

const AUTHENTICATE: &str = "authenticate";
/// Start of every token that is kept in the file: `fnx_<id>_<secret>`.
const TOKEN_PREFIX: &str = "fnx_";

/// An [`Authority`] that keeps accounts and tokens in a file of this machine.
///
/// The file has mode 0600 and is replaced as a whole by each change, so that a reader sees the old or the new one.
/// Changes of several processes are made one after the other. What another process changes (`funcx token create` beside
/// a running service) counts from the next authentication on: each one looks whether the file is still the same.
///
/// Secrets are 256 random bits, and the file holds only their SHA-256 digests; who loses a token makes a new one.
/// The file also holds the key that signs access tokens.
///
/// Methods that change the file block for as long as a disk takes to write, and at most five seconds for other
/// processes that change it.
pub struct LocalAuthority {
    file: AccountFile,
}

/// A token or client as it is listed: everything but the secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenInfo {
    /// What [`LocalAuthority::revoke`] wants; for a client, its client id.
    pub id: String,
    /// Whether it is a client, which has an id and a secret of its own, or else a token.
    pub is_client: bool,
    /// Whose it is.
    pub identity: IdentityId,
    /// Name of that account.
    pub username: String,
    /// What it is good for.
    pub scopes: Vec<Scope>,
    /// What its maker wrote on it.
    pub label: String,
    /// When it ends; never if `None`.
    pub expires: Option<Timestamp>,
}

impl LocalAuthority {
    /// Opens the file, which is created (with nobody in it) if there is none.
    ///
    /// # Errors
    /// `InvalidInput` if the file cannot be understood (path and line are named) or others may read it,
    /// `Unsupported` if a newer version made it, else `Io`.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Ok(Self { file: AccountFile::open(path.as_ref())? })
    }

    /// The account of this name, which also gets these groups. It is made if there is none.
    ///
    /// # Errors
    /// `InvalidInput` for an empty or overlong name; those of the file.
    pub fn create_account(&self, name: &str, groups: &[Uuid]) -> Result<IdentityId> {
        check_text("create account", "name", name)?;
        if name.is_empty() {
            return Err(Error::new(ErrorKind::InvalidInput, "create account", "the name is empty"));
        }
        let fresh = IdentityId::from_random(secret::random_bits()?);
        self.file.change(|accounts| {
            let id = accounts.id_of(name).unwrap_or(fresh);
            let account = accounts.accounts.entry(id).or_insert_with(|| Account::new(name));
            account.groups.extend(groups);
            Ok(id)
        })
    }

    /// The account of this name, if there is one.
    ///
    /// # Errors
    /// Those of the file.
    pub fn account(&self, name: &str) -> Result<Option<IdentityId>> {
        Ok(self.file.current()?.id_of(name))
    }

    /// Makes a token and gives its text, which cannot be had again.
    ///
    /// # Errors
    /// `NotFound` if there is no such account, `InvalidInput` without scopes; those of the file.
    pub fn create_token(
        &self,
        identity: IdentityId,
        scopes: &[Scope],
        expires: Option<Timestamp>,
        label: &str,
    ) -> Result<String> {
        const OPERATION: &str = "create token";
        check_text(OPERATION, "label", label)?;
        let id = secret::random_id()?;
        let secret = Secret::random()?;
        let text = format!("{TOKEN_PREFIX}{id}_{}", secret.text());
        let scopes = scope_words(OPERATION, scopes)?;
        self.file.change(|accounts| {
            accounts.require_account(OPERATION, identity)?;
            let token = Token { identity, digest: secret.digest(), scopes, label: label.to_owned(), expires };
            accounts.tokens.insert(id, token);
            Ok(())
        })?;
        Ok(text)
    }

    /// Makes a client (a robot account that gets its tokens from the token route) and gives its id and its secret,
    /// which cannot be had again.
    ///
    /// # Errors
    /// As for [`LocalAuthority::create_token`].
    pub fn create_client(&self, identity: IdentityId, scopes: &[Scope]) -> Result<(Uuid, String)> {
        const OPERATION: &str = "create client";
        let id = uuid::Builder::from_random_bytes(secret::random_bits()?.to_ne_bytes()).into_uuid();
        let secret = Secret::random()?;
        let scopes = scope_words(OPERATION, scopes)?;
        self.file.change(|accounts| {
            accounts.require_account(OPERATION, identity)?;
            accounts.clients.insert(id, Client { identity, digest: secret.digest(), scopes });
            Ok(())
        })?;
        Ok((id, secret.text()))
    }

    /// Every token and client, in order of id.
    ///
    /// # Errors
    /// Those of the file.
    pub fn list_tokens(&self) -> Result<Vec<TokenInfo>> {
        let accounts = self.file.current()?;
        let info = |id: String, is_client, identity, scopes: &[ScopeWord], label: &str, expires| TokenInfo {
            id,
            is_client,
            identity,
            username: accounts.name_of(identity).to_owned(),
            scopes: scopes.iter().map(|word| word.0).collect(),
            label: label.to_owned(),
            expires,
        };
        let tokens = accounts
            .tokens
            .iter()
            .map(|(id, t)| info(id.clone(), false, t.identity, &t.scopes, &t.label, t.expires));
        let clients = accounts
            .clients
            .iter()
            .map(|(id, c)| info(id.to_string(), true, c.identity, &c.scopes, "", None));
        Ok(tokens.chain(clients).collect())
    }

    /// Ends a token, or a client together with the access tokens that it got.
    ///
    /// # Errors
    /// `NotFound` if there is neither; those of the file.
    pub fn revoke(&self, id: &str) -> Result<()> {
        self.file.change(|accounts| {
            let client = Uuid::parse_str(id).ok().and_then(|id| accounts.clients.remove(&id));
            if client.is_none() && accounts.tokens.remove(id).is_none() {
                let id: String = id.chars().take(64).collect();
                return Err(Error::new(
                    ErrorKind::NotFound,
                    "revoke token",
                    "there is no token or client with this id",
                )
                .with_context("id", id));
            }
            Ok(())
        })
    }

    /// What the token route gives to the client `client_id`, which has authenticated as `principal`: a token that is
    /// good for this long, or until the client is revoked. Nothing is stored.
    ///
    /// # Errors
    /// `Unauthenticated` if there is no such client of that account; those of the file.
    pub fn issue_access_token(
        &self,
        client_id: &str,
        principal: &Principal,
        lifetime: Duration,
        now: Timestamp,
    ) -> Result<String> {
        let accounts = self.file.current()?;
        let (client, record) = accounts.find_client(client_id)?;
        if record.identity != principal.identity {
            return Err(unauthenticated("the client belongs to another account"));
        }
        let lifetime = u64::try_from(lifetime.as_nanos()).unwrap_or(u64::MAX);
        let claims = Claims {
            client,
            identity: principal.identity,
            scopes: principal.scopes.iter().copied().map(ScopeWord).collect(),
            expires: Timestamp::from_nanos(now.as_nanos().saturating_add(lifetime)),
            nonce: secret::random_id()?,
        };
        Ok(claims.sign(&accounts.key))
    }

    fn principal(&self, credential: &Credential, at: Timestamp) -> Result<Principal> {
        let (Credential::Bearer(text) | Credential::Client { secret: text, .. }) = credential;
        if text.len() > MAX_TEXT_BYTES {
            return Err(unauthenticated("malformed token"));
        }
        let accounts = self.file.current()?;
        match credential {
            Credential::Bearer(token) => match Claims::verify(token, &accounts.key)? {
                Some(claims) => accounts.principal_of_claims(&claims, at),
                None => accounts.principal_of_token(token, at),
            },
            Credential::Client { id, secret } => {
                let (_, client) = accounts.find_client(id)?;
                if !client.digest.matches(secret) {
                    return Err(unauthenticated("unknown client or wrong secret"));
                }
                accounts.principal(client.identity, &client.scopes)
            }
        }
    }
}

impl Accounts {
    fn require_account(&self, operation: &'static str, identity: IdentityId) -> Result<()> {
        if self.accounts.contains_key(&identity) {
            return Ok(());
        }
        Err(Error::new(ErrorKind::NotFound, operation, "there is no such account")
            .with_context("identity", identity))
    }

    fn id_of(&self, name: &str) -> Option<IdentityId> {
        self.accounts.iter().find(|(_, account)| account.name == name).map(|(id, _)| *id)
    }

    fn name_of(&self, identity: IdentityId) -> &str {
        self.accounts.get(&identity).map_or("", |account| &account.name)
    }

    fn find_client(&self, id: &str) -> Result<(Uuid, &Client)> {
        let known = Uuid::parse_str(id).ok().and_then(|id| self.clients.get(&id).map(|client| (id, client)));
        known.ok_or_else(|| unauthenticated("unknown client or wrong secret"))
    }

    fn principal(&self, identity: IdentityId, scopes: &[ScopeWord]) -> Result<Principal> {
        let account = self.accounts.get(&identity).ok_or_else(|| unauthenticated("the account is gone"))?;
        Ok(Principal {
            identity,
            username: account.name.clone(),
            groups: account.groups.iter().copied().collect(),
            scopes: scopes.iter().map(|word| word.0).collect(),
        })
    }

    fn principal_of_token(&self, text: &str, at: Timestamp) -> Result<Principal> {
        let parts = text.strip_prefix(TOKEN_PREFIX).and_then(|rest| rest.split_once('_'));
        let (id, secret) = parts.ok_or_else(|| unauthenticated("malformed token"))?;
        let token = self.tokens.get(id).filter(|token| token.digest.matches(secret));
        let token = token.ok_or_else(|| unauthenticated("unknown token"))?;
        if let Some(expires) = token.expires {
            refuse_expired(expires, at)?;
        }
        self.principal(token.identity, &token.scopes)
    }

    fn principal_of_claims(&self, claims: &Claims, at: Timestamp) -> Result<Principal> {
        let client = self.clients.get(&claims.client).filter(|client| client.identity == claims.identity);
        let client = client.ok_or_else(|| unauthenticated("the client of the token was revoked"))?;
        refuse_expired(claims.expires, at)?;
        // A client whose scopes were narrowed since then does not keep the wider ones.
        let scopes: Vec<_> =
            claims.scopes.iter().copied().filter(|scope| client.scopes.contains(scope)).collect();
        self.principal(claims.identity, &scopes)
    }
}

impl Authority for LocalAuthority {
    fn authenticate<'a>(
        &'a self,
        credential: &'a Credential,
        at: Timestamp,
    ) -> BoxFuture<'a, Result<Principal>> {
        future::ready(self.principal(credential, at)).boxed()
    }

    fn authorize(&self, principal: &Principal, action: Action, object: &Object) -> Result<()> {
        let forbidden = |message: String| {
            Err(Error::new(ErrorKind::Forbidden, "authorize", message)
                .with_context("user", &principal.username)
                .with_context("owner", object.owner))
        };
        let scope = match action {
            Action::Read | Action::Use | Action::Change => Scope::Compute,
            Action::Serve => Scope::Endpoint,
        };
        if !principal.scopes.contains(&scope) && !principal.scopes.contains(&Scope::Admin) {
            return forbidden(format!("the credential lacks the scope `{}`", scope.as_str()));
        }
        if object.permits(principal, action) {
            return Ok(());
        }
        forbidden(match action {
            Action::Read | Action::Use => "it belongs to somebody else and is not shared with you".into(),
            Action::Change => "only its owner may change it".into(),
            Action::Serve => "only its owner may serve as this endpoint".into(),
        })
    }
}

impl fmt::Debug for LocalAuthority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalAuthority").field("file", &self.file.path()).finish_non_exhaustive()
    }
}

fn unauthenticated(message: &'static str) -> Error {
    Error::new(ErrorKind::Unauthenticated, AUTHENTICATE, message)
}

fn refuse_expired(expires: Timestamp, at: Timestamp) -> Result<()> {
    if at < expires {
        return Ok(());
    }
    let seconds = expires.as_nanos() / 1_000_000_000;
    let message = format!("the token expired at {seconds} (Unix time)");
    Err(Error::new(ErrorKind::Unauthenticated, AUTHENTICATE, message))
}

fn scope_words(operation: &'static str, scopes: &[Scope]) -> Result<Vec<ScopeWord>> {
    if scopes.is_empty() {
        return Err(Error::new(
            ErrorKind::InvalidInput,
            operation,
            "no scope is given, so it would be good for nothing",
        ));
    }
    Ok(scopes.iter().copied().map(ScopeWord).collect())
}

fn check_text(operation: &'static str, what: &'static str, text: &str) -> Result<()> {
    if text.len() > MAX_TEXT_BYTES || text.chars().any(char::is_control) {
        return Err(Error::new(
            ErrorKind::InvalidInput,
            operation,
            "a text is too long or has control characters",
        )
        .with_context("text", what));
    }
    Ok(())
}
