//! The HTTP client with the operator's idea of trust.

use std::time::Duration;

use reqwest::{Certificate, Client, NoProxy, Proxy, redirect};

use super::{error::CfError, settings::Settings};

const CONNECT: Duration = Duration::from_secs(10);

/// A client that trusts the machine's CAs, `cf.ca_cert` and `broker.ca_cert`, and takes the proxies of
/// the settings, else those of `HTTP_PROXY`, `HTTPS_PROXY` and `NO_PROXY`.
pub(super) fn client(settings: &Settings) -> Result<Client, CfError> {
    let cf = &settings.cf;
    let mut builder = Client::builder()
        .connect_timeout(CONNECT)
        .timeout(Duration::from_secs(cf.request_timeout_seconds))
        // A redirect would carry a token to who knows where.
        .redirect(redirect::Policy::none())
        .user_agent(concat!("broker-registrar/", env!("CARGO_PKG_VERSION")))
        .danger_accept_invalid_certs(cf.skip_ssl_validation);
    for (name, pem) in
        [("cf.ca_cert", &cf.ca_cert), ("servicebroker.ca_cert", &settings.broker.ca_cert)]
    {
        let Some(pem) = pem.as_deref().filter(|pem| !pem.trim().is_empty()) else { continue };
        let parsed = Certificate::from_pem_bundle(pem.as_bytes());
        let certificates = parsed.ok().filter(|found| !found.is_empty());
        for certificate in certificates.ok_or(CfError::CaCertificate { name })? {
            builder = builder.add_root_certificate(certificate);
        }
    }
    let proxies = &settings.proxies;
    let direct = || proxies.no_proxy.as_deref().and_then(NoProxy::from_string);
    let kinds = [
        ("env.http_proxy", &proxies.http, Proxy::http::<&str> as fn(_) -> _),
        ("env.https_proxy", &proxies.https, Proxy::https::<&str>),
    ];
    for (name, url, proxy) in kinds {
        let Some(url) = url.as_deref().filter(|url| !url.is_empty()) else { continue };
        let proxy = proxy(url).map_err(|_| CfError::Proxy { name })?;
        builder = builder.proxy(proxy.no_proxy(direct()));
    }
    builder.build().map_err(|source| CfError::Client { source })
}
