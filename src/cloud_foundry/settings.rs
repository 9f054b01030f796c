//! The registrar's settings file.

use std::path::Path;

use serde::Deserialize;

use super::error::CfError;

/// What the errands' templates render. Its `Debug` hides the passwords.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The platform.
    pub cf: CloudFoundry,
    /// The broker.
    pub broker: BrokerSettings,
    /// How to get out of the VM's network.
    #[serde(default)]
    pub proxies: Proxies,
    /// Deregister although there are instances: the platform forgets them.
    #[serde(default)]
    pub purge: bool,
}

/// Where the platform is, who logs in, and who may use the services.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CloudFoundry {
    /// Root of the API.
    pub api_url: String,
    /// An administrator.
    pub username: Option<String>,
    /// Its password.
    pub password: Option<String>,
    /// Or a client with `cloud_controller.admin` among its authorities.
    pub client_id: Option<String>,
    /// Its secret.
    pub client_secret: Option<String>,
    /// Trust any certificate.
    #[serde(default)]
    pub skip_ssl_validation: bool,
    /// PEM of further CAs to trust.
    pub ca_cert: Option<String>,
    /// What happens to the access to plans.
    #[serde(default)]
    pub service_access: ServiceAccess,
    /// With `enable`: names of the organizations that get access; none: all of them.
    #[serde(default)]
    pub organizations: Vec<String>,
    /// With `enable`: take access from whoever else has it.
    #[serde(default)]
    pub remove_access: bool,
    /// Longest time of one request, in seconds.
    #[serde(default = "one_minute")]
    pub request_timeout_seconds: u64,
}

fn one_minute() -> u64 {
    60
}

/// `cf.service_access`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ServiceAccess {
    /// Every plan can be ordered, by all or by the named organizations.
    #[default]
    Enable,
    /// No plan can be ordered by anybody but administrators.
    Disable,
    /// Left as it is.
    Manual,
}

/// The broker as the platform shall know it.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BrokerSettings {
    /// Its name.
    pub name: String,
    /// Where the platform reaches it.
    pub url: String,
    /// Its user.
    pub username: String,
    /// Its password.
    pub password: String,
    /// PEM of the CA of its certificate, for asking it for its catalog.
    pub ca_cert: Option<String>,
    /// A broker of this name at another URL is this one, which has moved.
    #[serde(default)]
    pub take_over: bool,
}

/// Proxies; without any, those of the environment.
#[derive(Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Proxies {
    /// For http URLs.
    pub http: Option<String>,
    /// For https URLs.
    pub https: Option<String>,
    /// Hosts that are reached without one, separated by commas.
    pub no_proxy: Option<String>,
}

impl std::fmt::Debug for CloudFoundry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CloudFoundry").field("api_url", &self.api_url).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Proxies {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Their URLs may hold a login.
        f.debug_struct("Proxies").finish_non_exhaustive()
    }
}

impl std::fmt::Debug for BrokerSettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BrokerSettings")
            .field("name", &self.name)
            .field("url", &self.url)
            .finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Settings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Settings")
            .field("cf", &self.cf)
            .field("broker", &self.broker)
            .finish_non_exhaustive()
    }
}

/// serde repeats a value of the wrong type, which may be a password.
fn without_values(error: &serde_yaml::Error) -> String {
    let text = error.to_string();
    let Some(end) = text.find(": invalid type").or(text.find(": invalid value")) else {
        return text;
    };
    let place = error
        .location()
        .map_or_else(String::new, |at| format!(" at line {} column {}", at.line(), at.column()));
    format!("{}: a value of the wrong type{place}", &text[..end])
}

/// Who logs in.
#[derive(Clone)]
pub(super) enum Login {
    User { name: String, password: String },
    Client { id: String, secret: String },
}

impl Login {
    /// As the transcript names it.
    pub(super) fn name(&self) -> &str {
        match self {
            Self::User { name, .. } => name,
            Self::Client { id, .. } => id,
        }
    }
}

impl Settings {
    /// Reads the file.
    ///
    /// # Errors
    /// [`CfError::Settings`] names what is wrong; no value of the file is repeated.
    pub fn load(path: &Path) -> Result<Self, CfError> {
        let wrong = |problem: String| CfError::Settings { path: path.to_owned(), problem };
        let text = std::fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
        let mut settings: Self =
            serde_yaml::from_str(&text).map_err(|error| wrong(without_values(&error)))?;
        for url in [&mut settings.cf.api_url, &mut settings.broker.url] {
            url.truncate(url.trim_end_matches('/').len());
        }
        settings.check().map_err(wrong)?;
        Ok(settings)
    }

    fn check(&self) -> Result<(), String> {
        let required = [
            ("cf.api_url", &self.cf.api_url),
            ("broker.name", &self.broker.name),
            ("broker.url", &self.broker.url),
            ("broker.username", &self.broker.username),
            ("broker.password", &self.broker.password),
        ];
        if let Some((name, _)) = required.iter().find(|(_, value)| value.trim().is_empty()) {
            return Err(format!("{name} is empty"));
        }
        for (name, url) in [("cf.api_url", &self.cf.api_url), ("broker.url", &self.broker.url)] {
            let parsed = reqwest::Url::parse(url).map_err(|error| format!("{name}: {error}"))?;
            if !matches!(parsed.scheme(), "http" | "https") {
                return Err(format!("{name} must begin with https:// or http://"));
            }
            if !parsed.username().is_empty() || parsed.password().is_some() {
                return Err(format!("{name} must not hold a login"));
            }
        }
        let no_access = self.cf.service_access != ServiceAccess::Enable;
        if no_access && !self.cf.organizations.is_empty() {
            return Err("cf.organizations has a meaning with cf.service_access: enable only".into());
        }
        self.login().map(|_| ())
    }

    /// Who logs in; a client wins over a user, as for a user with a client of its own nobody asks.
    pub(super) fn login(&self) -> Result<Login, String> {
        let filled = |value: &Option<String>| value.clone().filter(|text| !text.is_empty());
        let cf = &self.cf;
        match (
            filled(&cf.client_id),
            filled(&cf.client_secret),
            filled(&cf.username),
            filled(&cf.password),
        ) {
            (Some(id), Some(secret), _, _) => Ok(Login::Client { id, secret }),
            (Some(_), None, _, _) => Err("cf.client_id is given without cf.client_secret".into()),
            (None, _, Some(name), Some(password)) => Ok(Login::User { name, password }),
            (None, _, Some(_), None) => Err("cf.username is given without cf.password".into()),
            (None, _, None, _) => {
                Err("cf.username and cf.password, or cf.client_id and cf.client_secret, are \
                     missing"
                    .into())
            }
        }
    }
}
