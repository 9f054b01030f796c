//! The CA.

use std::time::{Duration, SystemTime};

use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls_pki_types::{CertificateDer, pem::PemObject};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{Leaf, key::CaKey, leaf::not_after};

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
    /// `IssueError` if a name cannot be in a certificate, or the CA has expired.
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

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertifiedIssuer};

    use super::*;

    const DAY: Duration = Duration::from_hours(24);

    fn ca(name: &str) -> (CertificateParams, KeyPair) {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.not_after = (SystemTime::now() + 100 * DAY).into();
        (params, KeyPair::generate().unwrap())
    }

    fn root(name: &str) -> CertifiedIssuer<'static, KeyPair> {
        let (params, key) = ca(name);
        CertifiedIssuer::self_signed(params, key).unwrap()
    }

    fn authority(signer: &CertifiedIssuer<'_, KeyPair>, others: &str) -> Authority {
        let bundle = format!("{}{others}", signer.pem());
        Authority::new(&bundle, &signer.key().serialize_pem()).unwrap()
    }

    fn names(of: &[&str]) -> Vec<String> {
        of.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn a_certificate_is_renewed_in_time_for_another_host_and_for_another_ca() {
        let signer = root("one");
        let authority = authority(&signer, "");
        let (now, hosts) = (SystemTime::now(), names(&["10.0.0.1", "db.example.com", "::1"]));
        let issued = authority.issue(&hosts, 90 * DAY, now).unwrap();
        assert_eq!(Leaf::parse(&issued.certificate).unwrap().names, hosts);
        assert_eq!(issued.certificate.matches("BEGIN CERTIFICATE").count(), 1);
        let reason = |bundle: &str, hosts: &[&str], days: u32| {
            let (text, hosts) = (&issued.certificate, names(hosts));
            authority.reason_to_renew(bundle, text, &hosts, 30 * DAY, now + days * DAY)
        };
        let own = authority.bundle();
        assert_eq!(own, signer.pem());
        assert_eq!(reason(own, &["10.0.0.1"], 59), None);
        assert_eq!(reason(own, &["10.0.0.1"], 60), Some("it expires soon"));
        assert_eq!(reason(own, &["10.0.0.2"], 0), Some("the host is another one"));
        assert_eq!(reason(&root("one").pem(), &["10.0.0.1"], 0), Some("the CA is another one"));
        let torn = authority.reason_to_renew(own, "-----BEGIN", &hosts, DAY, now);
        assert_eq!(torn, Some("it cannot be read"));
    }

    #[test]
    fn no_certificate_outlives_its_ca_and_at_its_end_none_is_made_in_vain() {
        let signer = root("short");
        let authority = authority(&signer, "");
        let (now, hosts) = (SystemTime::now(), names(&["h"]));
        let issued = authority.issue(&hosts, 900 * DAY, now).unwrap();
        let leaf = Leaf::parse(&issued.certificate).unwrap();
        assert_eq!(leaf.not_after, authority.not_after());
        let late = now + 99 * DAY;
        let own = authority.bundle();
        assert_eq!(
            authority.reason_to_renew(own, &issued.certificate, &hosts, 30 * DAY, late),
            None
        );
        let error = authority.issue(&hosts, DAY, now + 101 * DAY).unwrap_err().to_string();
        assert!(error.ends_with("the CA of service_tls has expired"), "{error}");
    }

    #[test]
    fn clients_that_trust_only_the_root_are_shown_the_intermediate_ca_as_well() {
        let root = root("root");
        let (params, key) = ca("intermediate");
        let intermediate = CertifiedIssuer::signed_by(params, key, &root).unwrap();
        let authority = authority(&intermediate, &root.pem());
        assert_eq!(authority.bundle(), format!("{}{}", intermediate.pem(), root.pem()));
        let issued = authority.issue(&names(&["h"]), DAY, SystemTime::now()).unwrap();
        assert!(issued.certificate.ends_with(&intermediate.pem()));
    }

    #[test]
    fn nothing_shows_a_private_key() {
        let signer = root("quiet");
        let key = signer.key().serialize_pem();
        let authority = authority(&signer, "");
        let issued = authority.issue(&names(&["h"]), DAY, SystemTime::now()).unwrap();
        let shown = format!("{authority:?}{issued:?}");
        for key in [key, issued.private_key] {
            assert!(!shown.contains(key.lines().nth(1).unwrap()));
        }
        let error = Authority::new(&signer.pem(), "-----BEGIN SECRET").unwrap_err();
        assert!(matches!(&error, AuthorityError::Key(text) if !text.contains("SECRET")));
    }
}
