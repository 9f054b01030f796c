//! The CA.

use std::time::{Duration, SystemTime};

use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls_pki_types::{CertificateDer, pem::PemObject};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{
    Leaf,
    key::CaKey,
    leaf::not_after,
};

/// Certificates begin to be valid a little earlier, for clients whose clocks are behind.
const CLOCK_SKEW: Duration = Duration::from_mins(5);
/// Longest common name (X.520).
const COMMON_NAME: usize = 64;

/// Why a CA cannot be used, and which of its two parts is to blame.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum AuthorityError {
    /// The certificates.
    #[error("{0}")]
    Certificate(String),
    /// The private key.
    #[error("{0}")]
    Key(String),
}

/// A certificate that cannot be made.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("no certificate can be made for {names}: {reason}")]
pub struct IssueError {
    names: String,
    reason: String,
}

/// A certificate with its private key. Its `Debug` hides the key.
#[derive(Clone)]
pub struct Issued {
    /// PEM: the certificate, and that of the CA if it is not a root.
    pub certificate: String,
    /// PEM, PKCS#8.
    pub private_key: String,
}

impl std::fmt::Debug for Issued {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Issued").field("certificate", &self.certificate).finish_non_exhaustive()
    }
}

/// A CA that signs certificates, and those that clients are to trust beside it.
#[derive(Debug)]
pub struct Authority {
    bundle: String,
    issuer: Issuer<'static, CaKey>,
    /// PEM of the CA, if clients that trust its root do not have it.
    intermediate: String,
    not_after: SystemTime,
}

impl Authority {
    /// `certificates`: PEM; the first one signs, all of them are for clients. `private_key`: PEM,
    /// of the first one.
    ///
    /// # Errors
    /// [`AuthorityError`]; nothing of the key is in it.
    pub fn new(certificates: &str, private_key: &str) -> Result<Self, AuthorityError> {
        let wrong = AuthorityError::Certificate;
        let ders = CertificateDer::pem_slice_iter(certificates.as_bytes())
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| wrong(format!("is not PEM: {error}")))?;
        let mut parsed = Vec::with_capacity(ders.len());
        for (index, der) in ders.iter().enumerate() {
            let (_, certificate) = X509Certificate::from_der(der)
                .map_err(|_| wrong(format!("holds something else as certificate {index}")))?;
            if !certificate.is_ca() {
                let subject = certificate.subject().to_string();
                return Err(wrong(format!("holds a certificate that is no CA's: {subject}")));
            }
            parsed.push(certificate);
        }
        let (Some(first), Some(der)) = (parsed.first(), ders.first()) else {
            return Err(wrong("holds no PEM certificate".to_owned()));
        };
        let public_key = first.public_key().subject_public_key.data.to_vec();
        let key = CaKey::parse(private_key, public_key).map_err(AuthorityError::Key)?;
        let unusable = |reason: &str| {
            wrong(format!("cannot be used to sign, because of {}: {reason}", first.subject()))
        };
        let issuer = Issuer::from_ca_cert_der(der, key).map_err(|e| unusable(&e.to_string()))?;
        let is_root = first.subject().as_raw() == first.issuer().as_raw();
        let authority = Self {
            bundle: ders.iter().map(|der| pem(der)).collect(),
            issuer,
            intermediate: if is_root { String::new() } else { pem(der) },
            not_after: not_after(first),
        };
        // What it signs has to be what clients accept: better to know now.
        let sample = authority
            .sign(&["sample.invalid".to_owned()], Duration::from_hours(1), SystemTime::now())
            .map_err(|reason| unusable(&reason))?;
        let der = CertificateDer::from_pem_slice(sample.certificate.as_bytes())
            .map_err(|error| unusable(&error.to_string()))?;
        let (_, sample) =
            X509Certificate::from_der(&der).map_err(|error| unusable(&error.to_string()))?;
        if sample.verify_signature(Some(first.public_key())).is_err() {
            let text = "is not the key of the first certificate of ca_certificate";
            return Err(AuthorityError::Key(text.to_owned()));
        }
        if sample.issuer().as_raw() != first.subject().as_raw() {
            return Err(unusable("its subject has a form that cannot be repeated"));
        }
        Ok(authority)
    }

    /// What clients have to trust, PEM.
    #[must_use]
    pub fn bundle(&self) -> &str {
        &self.bundle
    }

    /// The last moment of the certificate that signs.
    #[must_use]
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// A certificate for a server that is reached by all of `names` (DNS names or IP addresses),
    /// with a new key (ECDSA P-256). It does not outlive the CA.
    ///
    /// # Errors
    /// [`IssueError`] if a name cannot be in a certificate, or the CA has expired.
    pub fn issue(
        &self,
        names: &[String],
        lifetime: Duration,
        now: SystemTime,
    ) -> Result<Issued, IssueError> {
        let refused = |reason: String| IssueError { names: names.join(", "), reason };
        if self.not_after <= now {
            return Err(refused("the CA of service_tls has expired".to_owned()));
        }
        self.sign(names, lifetime, now).map_err(refused)
    }

    fn sign(
        &self,
        names: &[String],
        lifetime: Duration,
        now: SystemTime,
    ) -> Result<Issued, String> {
        let say = |error: rcgen::Error| error.to_string();
        // Names that are IP addresses become such.
        let mut params = CertificateParams::new(names).map_err(say)?;
        params.distinguished_name = DistinguishedName::new();
        if let Some(name) = names.iter().find(|name| name.len() <= COMMON_NAME) {
            params.distinguished_name.push(DnType::CommonName, name.as_str());
        }
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        params.not_before = (now - CLOCK_SKEW).into();
        params.not_after = (now + lifetime).min(self.not_after).into();
        let key = KeyPair::generate().map_err(say)?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(say)?;
        Ok(Issued {
            certificate: format!("{}{}", certificate.pem(), self.intermediate),
            private_key: key.serialize_pem(),
        })
    }

    /// Why an instance that has `certificate` (PEM) and whose clients were given `bundle` needs
    /// another one; `None` while it is good.
    #[must_use]
    pub fn reason_to_renew(
        &self,
        bundle: &str,
        certificate: &str,
        names: &[String],
        renew_before: Duration,
        now: SystemTime,
    ) -> Option<&'static str> {
        let Some(leaf) = Leaf::parse(certificate) else { return Some("it cannot be read") };
        if bundle != self.bundle {
            return Some("the CA is another one");
        }
        if names.iter().any(|name| !leaf.names.contains(name)) {
            return Some("the host is another one");
        }
        // At the end of the CA's own life another one would not last longer.
        let soon = leaf.not_after <= now + renew_before && leaf.not_after < self.not_after;
        soon.then_some("it expires soon")
    }
}

fn pem(der: &CertificateDer<'_>) -> String {
    use base64::{Engine, prelude::BASE64_STANDARD};
    let text = BASE64_STANDARD.encode(der);
    let mut lines = "-----BEGIN CERTIFICATE-----\n".to_owned();
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (line, after) = rest.split_at(rest.len().min(64));
        lines.push_str(line);
        lines.push('\n');
        rest = after;
    }
    lines.push_str("-----END CERTIFICATE-----\n");
    lines
}
