//! What the token route gives out.

use std::time::Duration;

use funcx_core::contract::{Authority, Credential, Principal, Scope};
use funcx_core::model::{ErrorKind, IdentityId, Timestamp};

use super::super::{NOW, Scene, bearer, refused};

const HOUR: Duration = Duration::from_secs(3600);

/// A client of alice that has authenticated.
async fn client(scene: &Scene) -> (String, Principal) {
    let (id, secret) = scene.authority.create_client(scene.alice, &[Scope::Compute]).unwrap();
    let credential = Credential::Client { id: id.to_string(), secret };
    let principal = scene.authority.authenticate(&credential, NOW).await.unwrap();
    (id.to_string(), principal)
}

#[tokio::test]
async fn an_access_token_stands_for_its_client_until_it_expires() {
    let scene = Scene::new();
    let (id, principal) = client(&scene).await;
    let token = scene.authority.issue_access_token(&id, &principal, HOUR, NOW).unwrap();
    assert!(token.starts_with("fnx_at_"), "{token}");
    assert_eq!(bearer(&scene.authority, &token).await, Ok(principal.clone()));
    assert_eq!(bearer(&scene.elsewhere(), &token).await, Ok(principal.clone()), "also after a restart");
    assert_ne!(
        token,
        scene.authority.issue_access_token(&id, &principal, HOUR, NOW).unwrap(),
        "no two are alike"
    );

    let end = Timestamp::from_nanos(NOW.as_nanos() + HOUR.as_nanos() as u64);
    let credential = Credential::Bearer(token);
    let error = scene.authority.authenticate(&credential, end).await.unwrap_err();
    assert_eq!(error.message(), "the token expired at 1720003600 (Unix time)");
}

#[tokio::test]
async fn it_ends_with_its_client() {
    let scene = Scene::new();
    let (id, principal) = client(&scene).await;
    let token = scene.authority.issue_access_token(&id, &principal, HOUR, NOW).unwrap();
    scene.elsewhere().revoke(&id).unwrap();
    assert_eq!(bearer(&scene.authority, &token).await, refused("the client of the token was revoked"));
    let error = scene.authority.issue_access_token(&id, &principal, HOUR, NOW).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unauthenticated);
}

#[tokio::test]
async fn it_never_has_more_scopes_than_its_client() {
    let scene = Scene::new();
    let (id, principal) = client(&scene).await;
    let wider = Principal { scopes: Scope::ALL.to_vec(), ..principal.clone() };
    let token = scene.authority.issue_access_token(&id, &wider, HOUR, NOW).unwrap();
    assert_eq!(bearer(&scene.authority, &token).await, Ok(principal));
}

#[tokio::test]
async fn a_client_gets_none_for_somebody_else() {
    let scene = Scene::new();
    let (id, principal) = client(&scene).await;
    let other = Principal { identity: IdentityId::from_u128(6), ..principal };
    let error = scene.authority.issue_access_token(&id, &other, HOUR, NOW).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unauthenticated);
}

#[tokio::test]
async fn the_key_of_another_service_signs_nothing_here() {
    let (scene, other) = (Scene::new(), Scene::new());
    let (id, principal) = client(&other).await;
    let token = other.authority.issue_access_token(&id, &principal, HOUR, NOW).unwrap();
    assert_eq!(bearer(&scene.authority, &token).await, refused("unknown token"));
}
