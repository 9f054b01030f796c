//! Encryption at rest: ChaCha20-Poly1305 with keys derived from what the operator supplies.

use chacha20poly1305::{
    ChaCha20Poly1305, KeyInit, Nonce,
    aead::{Aead, Payload},
};
use hkdf::Hkdf;
use rand::RngCore;
use sha2::Sha256;

/// Length of the key's fingerprint, with which each sealed value begins.
pub const FINGERPRINT_BYTES: usize = 8;
/// Length of the nonce, which comes next.
const NONCE_BYTES: usize = 12;

/// What can go wrong with secrets at rest.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// No key was given.
    #[error("no encryption key is configured")]
    NoKey,
    /// Made with a key that is not configured (any more).
    #[error("a stored secret was encrypted with a key that is not among encryption_keys")]
    UnknownKey,
    /// The ciphertext was changed, or belongs to another place.
    #[error("a stored secret is damaged: {0}")]
    Damaged(String),
    /// The cipher refused to work.
    #[error("a secret could not be encrypted")]
    Encrypt,
}

struct Key {
    fingerprint: [u8; FINGERPRINT_BYTES],
    cipher: ChaCha20Poly1305,
}

/// Keys for secrets at rest: the first encrypts, all of them decrypt.
pub struct Keyring(Vec<Key>);

impl std::fmt::Debug for Keyring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Keyring({} keys)", self.0.len())
    }
}

impl Keyring {
    /// Derives a key out of each secret by HKDF-SHA256. The secrets are long random strings, so no
    /// slow password hash is needed.
    ///
    /// # Errors
    /// [`KeyError::NoKey`] without a secret.
    pub fn new<'a>(secrets: impl IntoIterator<Item = &'a str>) -> Result<Self, KeyError> {
        let derive = |secret: &str| {
            let mut bytes = [0; 32 + FINGERPRINT_BYTES];
            Hkdf::<Sha256>::new(None, secret.as_bytes())
                .expand(b"docker-broker secrets at rest v1", &mut bytes)
                .map_err(|_| KeyError::Encrypt)?;
            let mut fingerprint = [0; FINGERPRINT_BYTES];
            fingerprint.copy_from_slice(&bytes[32..]);
            let cipher =
                ChaCha20Poly1305::new_from_slice(&bytes[..32]).map_err(|_| KeyError::Encrypt)?;
            Ok(Key { fingerprint, cipher })
        };
        let keys = secrets.into_iter().map(derive).collect::<Result<Vec<_>, _>>()?;
        if keys.is_empty() { Err(KeyError::NoKey) } else { Ok(Self(keys)) }
    }

    /// Whether there are keys besides the first.
    #[must_use]
    pub fn has_others(&self) -> bool {
        self.0.len() > 1
    }

    /// Encrypts for one `place` (for example `instance:<id>`): the result cannot be decrypted as
    /// the secret of another place.
    ///
    /// # Errors
    /// [`KeyError::Encrypt`] when the cipher refuses.
    pub fn seal(&self, place: &str, plaintext: &[u8]) -> Result<Vec<u8>, KeyError> {
        let key = self.0.first().ok_or(KeyError::NoKey)?;
        let mut nonce = [0; NONCE_BYTES];
        rand::rng().fill_bytes(&mut nonce);
        let payload = Payload { msg: plaintext, aad: place.as_bytes() };
        let ciphertext = key
            .cipher
            .encrypt(Nonce::from_slice(&nonce), payload)
            .map_err(|_| KeyError::Encrypt)?;
        Ok([&key.fingerprint[..], &nonce, &ciphertext].concat())
    }

    /// With what everything begins that the first key sealed.
    ///
    /// # Errors
    /// [`KeyError::NoKey`], which cannot be.
    pub fn first_fingerprint(&self) -> Result<[u8; FINGERPRINT_BYTES], KeyError> {
        self.0.first().map(|key| key.fingerprint).ok_or(KeyError::NoKey)
    }

    /// Whether one of the keys sealed what begins like this.
    #[must_use]
    pub fn knows(&self, fingerprint: &[u8]) -> bool {
        self.0.iter().any(|key| key.fingerprint == fingerprint)
    }

    /// Seals anew, with the first key, what any of them sealed for the same place.
    ///
    /// # Errors
    /// As [`Keyring::open`] and [`Keyring::seal`].
    pub fn reseal(&self, place: &str, sealed: &[u8]) -> Result<Vec<u8>, KeyError> {
        self.seal(place, &self.open(place, sealed)?)
    }

    /// Decrypts what [`Keyring::seal`] made for the same place.
    ///
    /// # Errors
    /// [`KeyError::UnknownKey`] or [`KeyError::Damaged`].
    pub fn open(&self, place: &str, sealed: &[u8]) -> Result<Vec<u8>, KeyError> {
        if sealed.len() < FINGERPRINT_BYTES + NONCE_BYTES {
            return Err(KeyError::Damaged("it is too short".to_owned()));
        }
        let (fingerprint, rest) = sealed.split_at(FINGERPRINT_BYTES);
        let (nonce, ciphertext) = rest.split_at(NONCE_BYTES);
        let key = self.0.iter().find(|key| key.fingerprint == fingerprint);
        let key = key.ok_or(KeyError::UnknownKey)?;
        let payload = Payload { msg: ciphertext, aad: place.as_bytes() };
        key.cipher
            .decrypt(Nonce::from_slice(nonce), payload)
            .map_err(|_| KeyError::Damaged(format!("it does not belong to {place}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_key_encrypts_and_all_of_them_decrypt() {
        let old = Keyring::new(["old key old key old key"]).unwrap();
        let sealed = old.seal("instance:1", b"secret").unwrap();
        let both = Keyring::new(["new key new key new key", "old key old key old key"]).unwrap();
        assert_eq!(both.open("instance:1", &sealed).unwrap(), b"secret");
        let resealed = both.seal("instance:1", b"secret").unwrap();
        assert!(matches!(old.open("instance:1", &resealed), Err(KeyError::UnknownKey)));
        assert!(!resealed.windows(6).any(|window| window == b"secret"));
    }

    #[test]
    fn a_ciphertext_is_worthless_at_another_place_or_when_changed() {
        let keys = Keyring::new(["some key some key some key"]).unwrap();
        let mut sealed = keys.seal("instance:1", b"secret").unwrap();
        assert!(matches!(keys.open("instance:2", &sealed), Err(KeyError::Damaged(_))));
        *sealed.last_mut().unwrap() ^= 1;
        assert!(matches!(keys.open("instance:1", &sealed), Err(KeyError::Damaged(_))));
        assert!(matches!(keys.open("instance:1", b"x"), Err(KeyError::Damaged(_))));
    }
}
