//! Short-lived tokens that prove themselves: `fnx_at_<claims>.<signature>`.
//!
//! The claims are JSON and the signature is HMAC-SHA256 (RFC 2104), both in base64url without padding. Only the service
//! that signs reads them, so they have no header and no choice of algorithm.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use funcx_core::model::{IdentityId, Result, Timestamp};
use hmac::{Hmac, KeyInit, Mac};
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use uuid::Uuid;

use super::file::ScopeWord;
use super::secret::Key;
use super::unauthenticated;

const PREFIX: &str = "fnx_at_";

/// What an access token says.
#[derive(Serialize, Deserialize)]
pub(super) struct Claims {
    pub(super) client: Uuid,
    pub(super) identity: IdentityId,
    pub(super) scopes: Vec<ScopeWord>,
    pub(super) expires: Timestamp,
    /// Makes two tokens of the same moment differ.
    pub(super) nonce: String,
}

impl Claims {
    pub(super) fn sign(&self, key: &Key) -> String {
        let claims = serde_json::to_vec(self).expect("a struct of strings and numbers has a JSON form");
        let claims = URL_SAFE_NO_PAD.encode(claims);
        let signature = URL_SAFE_NO_PAD.encode(mac(key, &claims).finalize().into_bytes());
        format!("{PREFIX}{claims}.{signature}")
    }

    /// What `token` says if `key` signed it; `None` if it is not an access token.
    pub(super) fn verify(token: &str, key: &Key) -> Result<Option<Self>> {
        let Some(rest) = token.strip_prefix(PREFIX) else { return Ok(None) };
        let malformed = || unauthenticated("malformed token");
        let (claims, signature) = rest.split_once('.').ok_or_else(malformed)?;
        let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| malformed())?;
        // Compares in constant time. Nothing inside is read before it has been verified.
        mac(key, claims).verify_slice(&signature).map_err(|_| unauthenticated("unknown token"))?;
        let claims = URL_SAFE_NO_PAD.decode(claims).map_err(|_| malformed())?;
        serde_json::from_slice(&claims).map(Some).map_err(|_| malformed())
    }
}

fn mac(key: &Key, claims: &str) -> Hmac<Sha256> {
    let mac = Hmac::<Sha256>::new_from_slice(key.bytes()).expect("HMAC takes a key of any length");
    mac.chain_update(PREFIX).chain_update(claims)
}

#[cfg(test)]
mod tests {
    use funcx_core::contract::Scope;

    use super::*;

    #[test]
    fn a_token_with_any_character_changed_is_refused() {
        let key = Key::random().unwrap();
        let claims = Claims {
            client: Uuid::from_u128(1),
            identity: IdentityId::from_u128(2),
            scopes: vec![ScopeWord(Scope::Compute)],
            expires: Timestamp::from_nanos(3),
            nonce: "n".into(),
        };
        let token = claims.sign(&key);
        let read = Claims::verify(&token, &key).unwrap().unwrap();
        assert_eq!(
            (read.client, read.identity, read.expires),
            (claims.client, claims.identity, claims.expires)
        );
        assert!(Claims::verify(&token, &Key::random().unwrap()).is_err(), "another key");
        for place in PREFIX.len()..token.len() {
            let mut changed = token.clone().into_bytes();
            changed[place] = if changed[place] == b'A' { b'B' } else { b'A' };
            assert!(Claims::verify(std::str::from_utf8(&changed).unwrap(), &key).is_err(), "{place}");
        }
        for length in PREFIX.len()..token.len() {
            assert!(Claims::verify(&token[..length], &key).is_err(), "cut at {length}");
        }
    }
}
