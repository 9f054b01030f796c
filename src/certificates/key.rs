//! A CA's private key, in any of the forms in which CAs come (PKCS#8, PKCS#1, SEC 1).

use std::sync::Arc;

use rcgen::{PublicKeyData, SignatureAlgorithm, SigningKey};
use rustls_pki_types::{PrivateKeyDer, pem::PemObject};
use tokio_rustls::rustls::{self, SignatureScheme, crypto::ring::sign::any_supported_type};

/// Each kind of key that can sign, and what a certificate calls that.
static KINDS: [(SignatureScheme, &SignatureAlgorithm); 4] = [
    (SignatureScheme::RSA_PKCS1_SHA256, &rcgen::PKCS_RSA_SHA256),
    (SignatureScheme::ECDSA_NISTP256_SHA256, &rcgen::PKCS_ECDSA_P256_SHA256),
    (SignatureScheme::ECDSA_NISTP384_SHA384, &rcgen::PKCS_ECDSA_P384_SHA384),
    (SignatureScheme::ED25519, &rcgen::PKCS_ED25519),
];

/// The key of a CA. Its `Debug` hides it.
pub(super) struct CaKey {
    signer: Box<dyn rustls::sign::Signer>,
    algorithm: &'static SignatureAlgorithm,
    /// Of the CA's certificate.
    public_key: Vec<u8>,
}

impl CaKey {
    /// Reads a PEM text; `public_key` is what the CA's certificate says. The error has nothing of
    /// the key in it.
    pub(super) fn parse(pem: &str, public_key: Vec<u8>) -> Result<Self, String> {
        let der = PrivateKeyDer::from_pem_slice(pem.as_bytes())
            .map_err(|_| "holds no PEM private key; an encrypted one cannot be used".to_owned())?;
        let key: Arc<dyn rustls::sign::SigningKey> = any_supported_type(&der)
            .map_err(|_| "is no RSA, ECDSA (P-256, P-384) or Ed25519 key".to_owned())?;
        let found = KINDS
            .iter()
            .find_map(|(scheme, algorithm)| Some((key.choose_scheme(&[*scheme])?, *algorithm)));
        let (signer, algorithm) =
            found.ok_or("is of a kind that cannot sign certificates; use RSA or ECDSA P-256")?;
        Ok(Self { signer, algorithm, public_key })
    }
}

impl std::fmt::Debug for CaKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("CaKey([redacted])")
    }
}

impl PublicKeyData for CaKey {
    fn der_bytes(&self) -> &[u8] {
        &self.public_key
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        self.algorithm
    }
}

impl SigningKey for CaKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        self.signer.sign(message).map_err(|_| rcgen::Error::RemoteKeyError)
    }
}
