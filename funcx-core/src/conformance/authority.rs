//! What every [`Authority`] promises.

use uuid::Uuid;

use crate::contract::{Access, Action, Authority, Credential, Object, Principal, Scope};
use crate::model::{ErrorKind, IdentityId, Timestamp};

/// The people that [`suite`] needs. Whoever tests an authority makes them known to it.
#[derive(Debug, Clone)]
pub struct Fixture {
    /// When all this happens.
    pub now: Timestamp,
    /// Somebody who owns things; with the scopes `compute` and `endpoint`.
    pub owner: Credential,
    /// Who that is.
    pub owner_id: IdentityId,
    /// The same person, with the scope `compute` only.
    pub compute_only: Credential,
    /// The same person, with the scope `endpoint` only.
    pub endpoint_only: Credential,
    /// Somebody else, who belongs to `group`; with the scopes `compute` and `endpoint`.
    pub member: Credential,
    /// The group of `member`; nobody else belongs to it.
    pub group: Uuid,
    /// Somebody else again, with the scopes `compute` and `endpoint`.
    pub stranger: Credential,
    /// Somebody with the scope `admin` only.
    pub admin: Credential,
    /// Credentials that were good until shortly before `now`.
    pub expired: Vec<Credential>,
    /// Credentials that never were good: unknown, malformed, or with a wrong secret.
    pub wrong: Vec<Credential>,
}

/// Checks every promise.
///
/// # Panics
/// At the first promise that does not hold.
pub async fn suite(authority: &dyn Authority, fixture: &Fixture) {
    good_credentials_name_their_principal(authority, fixture).await;
    bad_credentials_are_refused_without_repeating_them(authority, fixture).await;
    permissions_depend_on_scope_ownership_and_access(authority, fixture).await;
}

async fn authenticate(authority: &dyn Authority, fixture: &Fixture, credential: &Credential) -> Principal {
    let principal = authority.authenticate(credential, fixture.now).await;
    principal.unwrap_or_else(|error| panic!("{credential:?} is good: {error}"))
}

async fn good_credentials_name_their_principal(authority: &dyn Authority, fixture: &Fixture) {
    let scopes = |principal: &Principal| {
        let mut scopes = principal.scopes.clone();
        scopes.sort_unstable();
        scopes
    };
    for (credential, expected) in [
        (&fixture.owner, &[Scope::Compute, Scope::Endpoint][..]),
        (&fixture.compute_only, &[Scope::Compute]),
        (&fixture.endpoint_only, &[Scope::Endpoint]),
    ] {
        let principal = authenticate(authority, fixture, credential).await;
        assert_eq!(principal.identity, fixture.owner_id, "all credentials of a person name that person");
        assert_eq!(scopes(&principal), expected, "a credential has the scopes it was given");
        assert!(!principal.username.is_empty(), "a principal has a name for people");
        assert_eq!(
            principal,
            authenticate(authority, fixture, credential).await,
            "the answer stays the same"
        );
    }
    let member = authenticate(authority, fixture, &fixture.member).await;
    let stranger = authenticate(authority, fixture, &fixture.stranger).await;
    assert!(member.groups.contains(&fixture.group), "a principal names its groups");
    assert!(!stranger.groups.contains(&fixture.group), "and no others");
    assert_ne!(member.identity, stranger.identity, "different people differ");
}

async fn bad_credentials_are_refused_without_repeating_them(authority: &dyn Authority, fixture: &Fixture) {
    for credential in fixture.wrong.iter().chain(&fixture.expired) {
        let error = authority.authenticate(credential, fixture.now).await;
        let error = error.expect_err("a bad credential is refused");
        assert_eq!(error.kind(), ErrorKind::Unauthenticated, "{error}");
        let (Credential::Bearer(secret) | Credential::Client { secret, .. }) = credential;
        let texts = [error.to_string(), format!("{error:?}"), format!("{credential:?}")];
        let repeated = !secret.is_empty() && texts.iter().any(|text| text.contains(secret.as_str()));
        assert!(!repeated, "an error or a `Debug` text repeats a secret");
    }
    for credential in &fixture.expired {
        let error = authority.authenticate(credential, fixture.now).await.expect_err("it expired");
        assert!(error.message().contains("expired"), "the message says that it expired: {error}");
        let earlier = Timestamp::from_nanos(1);
        assert!(authority.authenticate(credential, earlier).await.is_ok(), "it was good before it expired");
    }
}

async fn permissions_depend_on_scope_ownership_and_access(authority: &dyn Authority, fixture: &Fixture) {
    use Action::{Change, Read, Serve, Use};
    const ALL: [Action; 4] = [Read, Use, Change, Serve];
    let rows: [(&str, &Credential, Access, &[Action]); 14] = [
        ("owner", &fixture.owner, Access::Private, &ALL),
        ("owner", &fixture.owner, Access::Public, &ALL),
        ("owner, compute only", &fixture.compute_only, Access::Private, &[Read, Use, Change]),
        ("owner, endpoint only", &fixture.endpoint_only, Access::Private, &[Serve]),
        ("owner, endpoint only", &fixture.endpoint_only, Access::Public, &[Serve]),
        ("member", &fixture.member, Access::Private, &[]),
        ("member", &fixture.member, Access::Group(fixture.group), &[Read, Use]),
        ("member", &fixture.member, Access::Public, &[Read, Use]),
        ("stranger", &fixture.stranger, Access::Private, &[]),
        ("stranger", &fixture.stranger, Access::Group(fixture.group), &[]),
        ("stranger", &fixture.stranger, Access::Public, &[Read, Use]),
        ("admin", &fixture.admin, Access::Private, &ALL),
        ("admin", &fixture.admin, Access::Group(fixture.group), &ALL),
        ("admin", &fixture.admin, Access::Public, &ALL),
    ];
    for (who, credential, access, allowed) in rows {
        let principal = authenticate(authority, fixture, credential).await;
        let object = Object { owner: fixture.owner_id, access };
        for action in ALL {
            match authority.authorize(&principal, action, &object) {
                Ok(()) => assert!(allowed.contains(&action), "{who} must not {action:?} what is {access:?}"),
                Err(error) => {
                    assert!(!allowed.contains(&action), "{who} may {action:?} what is {access:?}: {error}");
                    assert_eq!(error.kind(), ErrorKind::Forbidden, "{error}");
                }
            }
        }
    }
    let principal = authenticate(authority, fixture, &fixture.endpoint_only).await;
    let object = Object { owner: fixture.owner_id, access: Access::Private };
    let error = authority.authorize(&principal, Read, &object).expect_err("the scope is missing");
    assert!(
        error.to_string().contains(Scope::Compute.as_str()),
        "the message names the missing scope: {error}"
    );
}
