//! The HTTP client with the operator's idea of trust.

use std::time::Duration;

use reqwest::{Certificate, Client, redirect};

use super::{error::CfError, settings::CloudFoundry};

const CONNECT: Duration = Duration::from_secs(10);

/// A client that trusts the machine's CAs and `ca_cert`, and takes proxies from `HTTP_PROXY`,
/// `HTTPS_PROXY` and `NO_PROXY`.
pub(super) fn client(cf: &CloudFoundry) -> Result<Client, CfError> {
    let mut builder = Client::builder()
        .connect_timeout(CONNECT)
        .timeout(Duration::from_secs(cf.request_timeout_seconds))
        // A redirect would carry a token to who knows where.
        .redirect(redirect::Policy::none())
        .user_agent(concat!("broker-registrar/", env!("CARGO_PKG_VERSION")))
        .danger_accept_invalid_certs(cf.skip_ssl_validation);
    if let Some(pem) = cf.ca_cert.as_deref().filter(|pem| !pem.trim().is_empty()) {
        let parsed = Certificate::from_pem_bundle(pem.as_bytes());
        let certificates = parsed.ok().filter(|found| !found.is_empty());
        for certificate in certificates.ok_or(CfError::CaCertificate)? {
            builder = builder.add_root_certificate(certificate);
        }
    }
    builder.build().map_err(|source| CfError::Client { source })
}
