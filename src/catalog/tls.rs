//! TLS between applications and a service.

use serde::{Deserialize, Serialize};

/// What a plan's container needs to speak TLS, when the operator has given a CA.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceTls {
    /// Where the container sees `ca.crt`, `tls.crt` and `tls.key`, read-only.
    pub directory: String,
    /// Uid and gid that own them.
    pub owner: (u32, u32),
    /// Their permission bits, 0400 unless said.
    pub mode: u32,
    /// How the service takes a new certificate.
    pub reload: Reload,
    /// Whether the container is told to refuse plain connections.
    pub required: bool,
    /// Scheme of the binding's `uri` with TLS; `None`: the same as without.
    pub uri_prefix: Option<String>,
    /// Query of the binding's `uri` with TLS.
    pub uri_parameters: Vec<(String, String)>,
}

/// How a service takes a new certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reload {
    /// A text that `/bin/sh -c` runs in the container.
    Script(String),
    /// A signal to its process 1, such as `SIGHUP`.
    Signal(String),
    /// By a restart of the container.
    Restart,
}

/// Variable that tells a container with [`ServiceTls`] what to do: [`ServiceTls::word`].
pub const TLS_VARIABLE: &str = "SERVICE_TLS";

impl ServiceTls {
    /// `off`; `on`: plain connections are taken as well; `required`: they are refused.
    #[must_use]
    pub fn word(&self, on: bool) -> &'static str {
        match (on, self.required) {
            (false, _) => "off",
            (true, false) => "on",
            (true, true) => "required",
        }
    }
}
