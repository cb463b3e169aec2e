//! The local authority: what every authority promises, and what a file on a disk adds to that.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod auth {
    mod access_token;
    mod file;
}

use std::{path::Path, time::Duration};

use funcx_core::conformance::authority::{self, Fixture};
use funcx_core::contract::{Authority, Credential, Principal, Scope};
use funcx_core::model::{ErrorKind, IdentityId, Timestamp};
use funcx_net::auth::LocalAuthority;
use uuid::Uuid;

/// Some time in 2024.
const NOW: Timestamp = Timestamp::from_nanos(1_720_000_000_000_000_000);

struct Scene {
    directory: tempfile::TempDir,
    authority: LocalAuthority,
    alice: IdentityId,
}

impl Scene {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let authority = LocalAuthority::open(directory.path().join("auth.json")).unwrap();
        let alice = authority.create_account("alice", &[]).unwrap();
        Self { directory, authority, alice }
    }

    fn path(&self) -> std::path::PathBuf {
        self.directory.path().join("auth.json")
    }

    /// The authority of another process.
    fn elsewhere(&self) -> LocalAuthority {
        LocalAuthority::open(self.path()).unwrap()
    }

    fn token(&self, scopes: &[Scope]) -> String {
        self.authority.create_token(self.alice, scopes, None, "test").unwrap()
    }
}

async fn bearer(authority: &LocalAuthority, token: &str) -> Result<Principal, (ErrorKind, String)> {
    let credential = Credential::Bearer(token.to_owned());
    let result = authority.authenticate(&credential, NOW).await;
    result.map_err(|error| (error.kind(), error.message().to_owned()))
}

fn refused(message: &str) -> Result<Principal, (ErrorKind, String)> {
    Err((ErrorKind::Unauthenticated, message.to_owned()))
}

fn text_of(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap()
}

#[tokio::test]
async fn keeps_every_promise() {
    const BOTH: &[Scope] = &[Scope::Compute, Scope::Endpoint];
    let Scene { authority, alice, directory: _directory } = Scene::new();
    let group = Uuid::from_u128(77);
    let bob = authority.create_account("bob", &[group]).unwrap();
    let eve = authority.create_account("eve", &[Uuid::from_u128(78)]).unwrap();
    let token =
        |who, scopes: &[Scope]| Credential::Bearer(authority.create_token(who, scopes, None, "").unwrap());
    let client = |who, scopes: &[Scope]| {
        let (id, secret) = authority.create_client(who, scopes).unwrap();
        Credential::Client { id: id.to_string(), secret }
    };
    let access = |who, scopes: &[Scope], lifetime| {
        let (id, _) = authority.create_client(who, scopes).unwrap();
        let principal =
            Principal { identity: who, username: String::new(), groups: vec![], scopes: scopes.to_vec() };
        let earlier = Timestamp::from_nanos(NOW.as_nanos() - 1_000_000_000);
        authority.issue_access_token(&id.to_string(), &principal, lifetime, earlier).unwrap()
    };
    let Credential::Bearer(good) = token(alice, BOTH) else { unreachable!() };
    let Credential::Client { id, .. } = client(alice, BOTH) else { unreachable!() };
    let expired = authority.create_token(alice, BOTH, Some(NOW), "").unwrap();
    let bearer = |text: &str| Credential::Bearer(text.to_owned());

    let fixture = Fixture {
        now: NOW,
        owner: token(alice, BOTH),
        owner_id: alice,
        compute_only: client(alice, &[Scope::Compute]),
        endpoint_only: bearer(&access(alice, &[Scope::Endpoint], Duration::from_secs(60))),
        member: client(bob, BOTH),
        group,
        stranger: bearer(&access(eve, BOTH, Duration::from_secs(60))),
        admin: token(eve, &[Scope::Admin]),
        expired: vec![bearer(&expired), bearer(&access(alice, BOTH, Duration::from_secs(1)))],
        wrong: vec![
            bearer(""),
            bearer("fnx_"),
            bearer("fnx_at_"),
            bearer("fnx_at_e30.e30"),
            bearer("somebody-else's"),
            bearer(&good[..good.len() - 1]),
            bearer(&good.replace("fnx_", "fnx_0")),
            bearer(&"x".repeat(1 << 20)),
            Credential::Client { id: id.clone(), secret: good.clone() },
            Credential::Client { id: Uuid::from_u128(5).to_string(), secret: good.clone() },
            Credential::Client { id: "no id".into(), secret: "something".into() },
        ],
    };
    authority::suite(&authority, &fixture).await;
}

#[tokio::test]
async fn a_token_is_printed_once_and_found_by_the_id_in_it() {
    let scene = Scene::new();
    let token = scene.token(&[Scope::Compute]);
    let principal = bearer(&scene.authority, &token).await.unwrap();
    assert_eq!((principal.identity, principal.username.as_str()), (scene.alice, "alice"));

    let listed = scene.authority.list_tokens().unwrap();
    assert_eq!(listed.len(), 1);
    assert_eq!((listed[0].username.as_str(), listed[0].label.as_str()), ("alice", "test"));
    let (start, secret) = token.rsplit_once('_').unwrap();
    assert_eq!(start, format!("fnx_{}", listed[0].id));
    assert!(!text_of(&scene.path()).contains(secret), "the file does not hold the secret");
}

#[tokio::test]
async fn refusals_say_why() {
    let scene = Scene::new();
    let expires = Timestamp::from_nanos(NOW.as_nanos() - 1);
    let expired = scene.authority.create_token(scene.alice, &[Scope::Compute], Some(expires), "").unwrap();
    let message = "the token expired at 1719999999 (Unix time)";
    assert_eq!(bearer(&scene.authority, &expired).await, refused(message));
    let unknown = format!("fnx_0123456789abcdef_{}", "0".repeat(64));
    assert_eq!(bearer(&scene.authority, &unknown).await, refused("unknown token"));
    assert_eq!(bearer(&scene.authority, "hello").await, refused("malformed token"));
}

#[test]
fn accounts_are_found_again_by_name_and_gather_groups() {
    let scene = Scene::new();
    let group = Uuid::from_u128(9);
    assert_eq!(scene.authority.create_account("alice", &[group]).unwrap(), scene.alice);
    assert_eq!(scene.authority.create_account("alice", &[]).unwrap(), scene.alice);
    assert_ne!(scene.authority.create_account("bob", &[]).unwrap(), scene.alice);
    let token = scene.token(&[Scope::Compute]);
    let principal = futures::executor::block_on(bearer(&scene.authority, &token)).unwrap();
    assert_eq!(principal.groups, [group]);
}

#[test]
fn requests_that_make_no_sense_are_refused() {
    let Scene { authority, alice, directory: _directory } = Scene::new();
    let nobody = IdentityId::from_u128(0);
    let kind = |error: funcx_core::Error| error.kind();
    assert_eq!(authority.create_account("", &[]).map_err(kind), Err(ErrorKind::InvalidInput));
    assert_eq!(authority.create_account("a\nb", &[]).map_err(kind), Err(ErrorKind::InvalidInput));
    assert_eq!(authority.create_token(nobody, &Scope::ALL, None, "").map_err(kind), Err(ErrorKind::NotFound));
    assert_eq!(authority.create_client(nobody, &Scope::ALL).map_err(kind), Err(ErrorKind::NotFound));
    assert_eq!(authority.create_token(alice, &[], None, "").map_err(kind), Err(ErrorKind::InvalidInput));
    assert_eq!(authority.revoke("0123").map_err(kind), Err(ErrorKind::NotFound));
}

#[test]
fn debug_text_holds_no_secret() {
    let scene = Scene::new();
    let text = format!("{:?}", scene.authority);
    assert!(text.contains("auth.json"));
    let file = text_of(&scene.path());
    let key = file.lines().find_map(|line| line.trim().strip_prefix("\"key\": \"")).unwrap();
    assert!(!text.contains(&key[..16]));
}
