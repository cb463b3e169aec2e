//! Random secrets, their digests, and how they are compared.

use std::fmt::Write;

use funcx_core::model::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq;

/// 256 random bits that somebody is given once.
pub(super) struct Secret([u8; 32]);

impl Secret {
    pub(super) fn random() -> Result<Self> {
        random().map(Self)
    }

    /// What somebody is given.
    pub(super) fn text(&self) -> String {
        to_hex(&self.0)
    }

    pub(super) fn digest(&self) -> Digest {
        Digest::of(&self.text())
    }
}

/// SHA-256 of the text of a secret. With 256 random bits under it, a slow hash would add nothing.
#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(super) struct Digest([u8; 32]);

impl Digest {
    fn of(secret: &str) -> Self {
        Self(Sha256::digest(secret).into())
    }

    /// Whether this is the digest of `secret`, in a time that does not depend on where they differ.
    pub(super) fn matches(&self, secret: &str) -> bool {
        Self::of(secret).0.ct_eq(&self.0).into()
    }
}

impl TryFrom<String> for Digest {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, &'static str> {
        from_hex(&text).map(Self)
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        to_hex(&digest.0)
    }
}

/// A key for signatures. It has no `Debug` form.
#[derive(Clone, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(super) struct Key([u8; 32]);

impl Key {
    pub(super) fn random() -> Result<Self> {
        random().map(Self)
    }

    pub(super) fn bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl TryFrom<String> for Key {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, &'static str> {
        from_hex(&text).map(Self)
    }
}

impl From<Key> for String {
    fn from(key: Key) -> Self {
        to_hex(&key.0)
    }
}

/// A short public name that no two things share.
pub(super) fn random_id() -> Result<String> {
    random::<8>().map(|bytes| to_hex(&bytes))
}

/// Bits for a UUID.
pub(super) fn random_bits() -> Result<u128> {
    random().map(u128::from_ne_bytes)
}

fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|error| {
        Error::new(ErrorKind::Io, "make a secret", "the operating system gives no random bytes")
            .with_source(error)
    })?;
    Ok(bytes)
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a string takes what is written to it");
        text
    })
}

/// The error does not repeat the text, which may be a secret.
fn from_hex(text: &str) -> Result<[u8; 32], &'static str> {
    const WRONG: &str = "64 hexadecimal digits are wanted";
    let digits = text.as_bytes();
    let mut bytes = [0; 32];
    if digits.len() != 64 {
        return Err(WRONG);
    }
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let digit = |place: usize| char::from(pair[place]).to_digit(16).ok_or(WRONG);
        *byte = (digit(0)? * 16 + digit(1)?) as u8;
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_fits_its_secret_only() {
        let (secret, other) = (Secret::random().unwrap(), Secret::random().unwrap());
        assert!(secret.digest().matches(&secret.text()));
        assert!(!secret.digest().matches(&other.text()));
        assert!(!secret.digest().matches(""));
    }

    #[test]
    fn hexadecimal_digits_are_read_and_anything_else_is_refused() {
        let bytes: [u8; 32] = std::array::from_fn(|index| index as u8 * 8);
        assert_eq!(from_hex(&to_hex(&bytes)), Ok(bytes));
        assert_eq!(from_hex(&to_hex(&bytes).to_uppercase()), Ok(bytes));
        for wrong in ["", "00", &"0".repeat(63), &"g".repeat(64), &"é".repeat(32)] {
            assert!(from_hex(wrong).is_err(), "{wrong}");
        }
    }
}
