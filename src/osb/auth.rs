//! HTTP basic authentication, compared in constant time.

use base64::{Engine, prelude::BASE64_STANDARD};
use http::{HeaderMap, header};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::reply::Problem;

/// The digest of the one login that is let in. Digests have one length, so comparing them tells
/// nothing of the length of the password either.
#[derive(Debug)]
pub(super) struct Login([u8; 32]);

fn digest(userinfo: &[u8]) -> [u8; 32] {
    Sha256::digest(userinfo).into()
}

impl Login {
    pub(super) fn new(username: &str, password: &str) -> Self {
        Self(digest(format!("{username}:{password}").as_bytes()))
    }

    pub(super) fn check(&self, headers: &HeaderMap) -> Result<(), Problem> {
        let given = headers.get(header::AUTHORIZATION).and_then(|value| {
            let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
            // RFC 9110, 11.1: the scheme is case-insensitive.
            scheme
                .eq_ignore_ascii_case("basic")
                .then(|| BASE64_STANDARD.decode(token.trim()).ok())?
        });
        let known = given.is_some_and(|userinfo| digest(&userinfo).ct_eq(&self.0).into());
        if known { Ok(()) } else { Err(Problem::unauthorized()) }
    }
}
