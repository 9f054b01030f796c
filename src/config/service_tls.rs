//! TLS between applications and services: the operator's CA in the settings, and `tls` of a plan.

use std::{sync::Arc, time::Duration};

use super::{
    container::{absolute, nested},
    node::Node,
    scalars::{parse_duration, parse_mode, parse_owner},
};
use crate::{
    catalog::{ContainerPlan, Reload, ServiceTls},
    certificates::{Authority, AuthorityError},
};

const DAY: Duration = Duration::from_hours(24);
const SHORTEST_INTERVAL: Duration = Duration::from_millis(100);

/// The CA that signs instances' certificates, and when they are renewed.
#[derive(Debug, Clone)]
pub struct ServiceTlsSettings {
    /// Signs.
    pub authority: Arc<Authority>,
    /// From the issue of a certificate to its end.
    pub lifetime: Duration,
    /// From the renewal of a certificate to its end.
    pub renew_before: Duration,
    /// How often all certificates are looked at.
    pub check_interval: Duration,
}

/// Reads `service_tls` out of the settings.
pub(super) fn settings(parent: &Node<'_>, host: &str) -> Option<ServiceTlsSettings> {
    let node = parent.node("service_tls")?;
    let certificate = pem(&node, "ca_certificate");
    let key = pem(&node, "ca_private_key");
    let duration = |key, default| node.parsed(key, parse_duration).unwrap_or(default);
    let lifetime = duration("lifetime", 90 * DAY);
    let renew_before = duration("renew_before", 30 * DAY);
    let check_interval = duration("check_interval", Duration::from_hours(1));
    if renew_before >= lifetime {
        node.error("renew_before", "must be shorter than lifetime, or nothing would stay valid");
    }
    let made = certificate.zip(key).map(|(certificate, key)| Authority::new(&certificate, &key));
    let authority = match made {
        None => None,
        Some(Ok(authority)) => Some(Arc::new(authority)),
        Some(Err(error)) => {
            let key = match error {
                AuthorityError::Certificate(_) => "ca_certificate",
                AuthorityError::Key(_) => "ca_private_key",
            };
            node.error(key, error.to_string());
            None
        }
    };
    if let Some(authority) = &authority {
        let now = std::time::SystemTime::now();
        if authority.not_after() <= now {
            let text = "has expired: certificates are neither made nor renewed, nor trusted";
            node.warning("ca_certificate", text);
        } else if let Err(error) = authority.issue(&[host.to_owned()], DAY, now) {
            parent.error("external_host", error.to_string());
        } else if authority.not_after() <= now + renew_before {
            let text = "expires within renew_before; put another one in front of it";
            node.warning("ca_certificate", text);
        }
    }
    node.finish();
    Some(ServiceTlsSettings {
        authority: authority?,
        lifetime,
        renew_before,
        check_interval: check_interval.max(SHORTEST_INTERVAL),
    })
}

/// A PEM text, or the path of a file with it. Neither is repeated if it is a text.
fn pem(node: &Node<'_>, key: &'static str) -> Option<String> {
    let given = node.required(key);
    if given.is_empty() || given.contains('\n') {
        return Some(given).filter(|text| !text.is_empty());
    }
    if given.contains("-----BEGIN") {
        node.error(key, "is a PEM text without line ends");
        return None;
    }
    std::fs::read_to_string(&given)
        .map_err(|error| node.error(key, format!("cannot read {given}: {error}")))
        .ok()
}

/// Reads `tls` of a plan.
pub(super) fn plan(plan: &Node<'_>, container: &ContainerPlan) -> Option<ServiceTls> {
    let node = plan.node("tls")?;
    let owner_of_user = container.user.as_deref().and_then(|user| parse_owner(user).ok());
    let tls = ServiceTls {
        directory: node.parsed("directory", absolute).unwrap_or_else(|| "/tls".to_owned()),
        owner: node.parsed("owner", parse_owner).or(owner_of_user).unwrap_or((0, 0)),
        mode: node.parsed("mode", parse_mode).unwrap_or(0o400),
        reload: reload(&node),
        required: node.boolean("required").unwrap_or(false),
        uri_prefix: node.string("uri_prefix"),
        uri_parameters: node.entries("uri_parameters").unwrap_or_default(),
    };
    if tls.mode & 0o007 != 0 {
        node.error("mode", "must not let everybody read the private key");
    }
    let mut taken = container.volumes.iter().map(|volume| volume.path.as_str());
    if let Some(path) =
        taken.find(|path| nested(path, &tls.directory) || nested(&tls.directory, path))
    {
        node.error("directory", format!("and the volume {path} must not be nested"));
    }
    node.finish();
    Some(tls)
}

fn reload(node: &Node<'_>) -> Reload {
    if node.is_mapping("reload") {
        let signal = node.node("reload").and_then(|reload| {
            let signal = reload.parsed("signal", signal);
            if !reload.has("signal") {
                reload.error("signal", "is missing; it is required");
            }
            reload.finish();
            signal
        });
        return signal.map_or(Reload::Restart, Reload::Signal);
    }
    match node.string("reload").filter(|text| !text.trim().is_empty()) {
        Some(text) if text.trim() == "restart" => Reload::Restart,
        Some(text) => Reload::Script(text),
        None => {
            let text = "is missing: a script, {signal: HUP} or restart; how else would the service \
                        notice a new certificate?";
            node.error("reload", text);
            Reload::Restart
        }
    }
}

/// `HUP` as well as `SIGHUP`.
fn signal(text: &str) -> Result<String, String> {
    let name = text.strip_prefix("SIG").unwrap_or(text);
    if !name.is_empty() && name.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit()) {
        Ok(format!("SIG{name}"))
    } else {
        Err(format!("is {text:?}; it must be the name of a signal, such as HUP"))
    }
}
