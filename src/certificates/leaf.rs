//! What a certificate says.

use std::{
    net::IpAddr,
    time::{Duration, SystemTime},
};

use rustls_pki_types::{CertificateDer, pem::PemObject};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// A certificate of an instance, as far as its renewal depends on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leaf {
    /// Hosts that it is for: DNS names and IP addresses.
    pub names: Vec<String>,
    /// Its last moment.
    pub not_after: SystemTime,
}

impl Leaf {
    /// Reads the first certificate of a PEM text; `None` if it holds none.
    #[must_use]
    pub fn parse(pem: &str) -> Option<Self> {
        let der = CertificateDer::from_pem_slice(pem.as_bytes()).ok()?;
        let (_, certificate) = X509Certificate::from_der(&der).ok()?;
        let names = certificate.subject_alternative_name().ok()??;
        let names = names.value.general_names.iter().filter_map(|name| match name {
            GeneralName::DNSName(name) => Some((*name).to_owned()),
            GeneralName::IPAddress(bytes) => Some(address(bytes)?.to_string()),
            _ => None,
        });
        Some(Self { names: names.collect(), not_after: not_after(&certificate) })
    }
}

pub(super) fn not_after(certificate: &X509Certificate<'_>) -> SystemTime {
    let seconds = u64::try_from(certificate.validity().not_after.timestamp()).unwrap_or(0);
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok()
}
