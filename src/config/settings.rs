//! The settings of the broker itself, their defaults, and what the command line overrides.

use std::{net::IpAddr, path::PathBuf, time::Duration};

use super::{
    container::parse_pull,
    node::Node,
    scalars::{parse_duration, parse_size},
    service_tls::{self, ServiceTlsSettings},
    snapshot::{self, SnapshotSettings},
};
use crate::catalog::{Catalog, PullPolicy};

/// Everything a broker runs on.
#[derive(Debug, Clone)]
pub struct Configuration {
    /// The broker's own settings.
    pub settings: Settings,
    /// The services.
    pub catalog: Catalog,
}

/// User and password that platforms log in with. Its `Debug` hides the password.
#[derive(Clone, PartialEq, Eq)]
pub struct BrokerLogin {
    /// User name.
    pub username: String,
    /// Password; `None`: one is generated and kept in the data directory.
    pub password: Option<String>,
}

/// A key for secrets at rest. Its `Debug` hides it.
#[derive(Clone, PartialEq, Eq)]
pub struct EncryptionKey(pub String);

/// Host ports that instances may get, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortRange {
    /// Lowest port.
    pub first: u16,
    /// Highest port.
    pub last: u16,
}

impl PortRange {
    /// `FIRST-LAST`.
    ///
    /// # Errors
    /// A sentence when `text` is no range.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not a range such as \"20000-29999\"");
        let (first, last) = text.split_once('-').ok_or_else(wrong)?;
        let first = first.trim().parse::<u16>().map_err(|_| wrong())?;
        let last = last.trim().parse::<u16>().map_err(|_| wrong())?;
        if first == 0 || first > last { Err(wrong()) } else { Ok(Self { first, last }) }
    }
}

/// A registry that needs more than its name. Its `Debug` hides the password.
#[derive(Clone, PartialEq, Eq)]
pub struct Registry {
    /// `host[:port]` as image references name it; `docker.io` for Docker Hub.
    pub host: String,
    /// Login.
    pub login: Option<(String, String)>,
    /// The CA that signed the registry's certificate, in PEM.
    pub ca_certificate: Option<String>,
    /// Plain HTTP or an unverified certificate; dockerd has to allow it as well.
    pub insecure: bool,
}

/// HTTPS listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsSettings {
    /// Address of the HTTPS listener; that of the plain one unless said.
    pub listen_address: IpAddr,
    /// Port of the HTTPS listener; 0 takes any free one.
    pub port: u16,
    /// PEM file with the certificate and its chain.
    pub certificate: PathBuf,
    /// PEM file with the private key.
    pub private_key: PathBuf,
    /// How often both files are looked at for a change.
    pub reload_interval: Duration,
}

/// How the store is copied beside itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoreBackup {
    /// Time from one copy to the next.
    pub interval: Duration,
    /// How many are kept.
    pub keep: usize,
}

/// Shape of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// The broker's own settings. `docs/configuration.md` describes each.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "docs/configuration.md and the example there describe each key")]
pub struct Settings {
    pub name: String,
    pub login: BrokerLogin,
    pub listen_address: IpAddr,
    pub port: u16,
    pub tls: Option<TlsSettings>,
    pub service_tls: Option<ServiceTlsSettings>,
    pub data_directory: PathBuf,
    pub host_directory: PathBuf,
    pub docker_url: String,
    pub docker_certificates_directory: PathBuf,
    pub external_ip: IpAddr,
    pub external_host: String,
    pub host_ports: PortRange,
    pub encryption_keys: Vec<EncryptionKey>,
    pub max_containers: u32,
    pub fetch_images: bool,
    pub pull: Option<PullPolicy>,
    pub images_directory: Option<PathBuf>,
    pub max_parallel_pulls: usize,
    pub max_parallel_starts: usize,
    pub instances_per_network: usize,
    pub registries: Vec<Registry>,
    pub store_backup: Option<StoreBackup>,
    pub require_api_version: bool,
    pub operation_timeout: Duration,
    pub reconcile_interval: Option<Duration>,
    pub upgrade_snapshot: SnapshotSettings,
    pub max_body_bytes: u64,
    pub log_format: LogFormat,
    pub log_level: String,
}

/// What the command line or the environment say; each wins over the settings file.
#[derive(Debug, Clone, Default)]
#[expect(missing_docs, reason = "each overrides the setting of the same name")]
pub struct Overrides {
    pub name: Option<String>,
    pub username: Option<String>,
    pub password: Option<String>,
    pub password_file: Option<PathBuf>,
    pub listen_address: Option<IpAddr>,
    pub port: Option<u16>,
    pub data_directory: Option<PathBuf>,
    pub docker_url: Option<String>,
    pub external_ip: Option<IpAddr>,
    pub external_host: Option<String>,
    pub log_format: Option<LogFormat>,
    pub log_level: Option<String>,
}

impl std::fmt::Debug for BrokerLogin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BrokerLogin").field("username", &self.username).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for EncryptionKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("EncryptionKey([redacted])")
    }
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Registry")
            .field("host", &self.host)
            .field("insecure", &self.insecure)
            .finish_non_exhaustive()
    }
}

/// Shortest key that is accepted; BOSH generates passwords of 20 characters and more.
const MIN_KEY_CHARACTERS: usize = 20;

/// Reads the settings out of the settings file's mapping.
pub(super) fn settings(node: &Node<'_>, over: &Overrides) -> Settings {
    // Keys are read also when they are overridden, so that they count as known.
    let data_directory = over
        .data_directory
        .clone()
        .or(node.string("data_directory").map(PathBuf::from))
        .unwrap_or_else(|| PathBuf::from("docker-broker-data"));
    let address = |key| node.parsed(key, parse_address);
    let loopback = IpAddr::from([127, 0, 0, 1]);
    let external_ip = over.external_ip.or(address("external_ip")).unwrap_or(loopback);
    let external_host = over.external_host.clone().or(node.string("external_host"));
    if external_ip.is_unspecified() && external_host.is_none() {
        node.error(
            "external_ip",
            format!("is {external_ip}, to which no client can connect; give external_host as well"),
        );
    }
    let external_host = external_host.unwrap_or_else(|| external_ip.to_string());
    let listen_address = over.listen_address.or(address("listen_address")).unwrap_or(loopback);
    Settings {
        name: name(node, over),
        login: login(node, over),
        port: over.port.or(port(node, "port")).unwrap_or(8080),
        tls: tls(node, listen_address),
        listen_address,
        host_directory: node
            .string("host_directory")
            .map_or_else(|| data_directory.join("instances"), PathBuf::from),
        data_directory,
        docker_url: docker_url(node, over),
        docker_certificates_directory: node
            .string("docker_certificates_directory")
            .map_or_else(|| PathBuf::from("/etc/docker/certs.d"), PathBuf::from),
        service_tls: service_tls::settings(node, &external_host),
        external_host,
        external_ip,
        host_ports: host_ports(node),
        encryption_keys: encryption_keys(node),
        max_containers: node
            .integer("max_containers", 0, u64::from(u32::MAX))
            .and_then(|max| u32::try_from(max).ok())
            .unwrap_or(0),
        fetch_images: node.boolean("fetch_images").unwrap_or(true),
        pull: node.parsed("pull", parse_pull),
        images_directory: images_directory(node),
        max_parallel_pulls: count(node, "max_parallel_pulls", 64).unwrap_or(3),
        max_parallel_starts: count(node, "max_parallel_starts", 256).unwrap_or(8),
        instances_per_network: count(node, "instances_per_network", 1000).unwrap_or(1000),
        registries: node.nodes("registries").into_iter().filter_map(registry).collect(),
        store_backup: store_backup(node),
        require_api_version: node.boolean("require_api_version").unwrap_or(true),
        operation_timeout: node
            .parsed("operation_timeout", parse_duration)
            .unwrap_or(Duration::from_mins(10)),
        reconcile_interval: match node.parsed("reconcile_interval", parse_duration) {
            Some(Duration::ZERO) => None,
            interval => Some(interval.unwrap_or(Duration::from_mins(1))),
        },
        upgrade_snapshot: snapshot::settings(node),
        max_body_bytes: node.parsed("max_body_size", parse_size).unwrap_or(1 << 20),
        log_format: over
            .log_format
            .or(node.parsed("log_format", parse_log_format))
            .unwrap_or_default(),
        log_level: log_level(node, over),
    }
}

/// An interval of 0 turns it off.
fn store_backup(node: &Node<'_>) -> Option<StoreBackup> {
    let standard = StoreBackup { interval: Duration::from_hours(1), keep: 24 };
    let Some(node) = node.node("store_backup") else { return Some(standard) };
    let interval = node.parsed("interval", parse_duration).unwrap_or(standard.interval);
    let keep = count(&node, "keep", 1000).unwrap_or(standard.keep);
    node.finish();
    (!interval.is_zero()).then_some(StoreBackup { interval, keep })
}

/// It is looked at again at every start; whoever names a wrong one learns it before.
fn images_directory(node: &Node<'_>) -> Option<PathBuf> {
    let directory = node.string("images_directory").map(PathBuf::from)?;
    if let Err(error) = std::fs::read_dir(&directory) {
        node.error(
            "images_directory",
            format!("{} is not a readable directory: {error}", directory.display()),
        );
    }
    Some(directory)
}

fn docker_url(node: &Node<'_>, over: &Overrides) -> String {
    let url = over.docker_url.clone().or(node.string("docker_url"));
    let url = url.unwrap_or_else(|| "unix:///var/run/docker.sock".to_owned());
    if !["unix://", "tcp://", "http://", "/"].iter().any(|start| url.starts_with(start)) {
        node.error(
            "docker_url",
            format!("is {url:?}; it must begin with unix:// (a socket's path), tcp:// or http://"),
        );
    }
    url
}

fn log_level(node: &Node<'_>, over: &Overrides) -> String {
    let level = over.log_level.clone().or(node.string("log_level"));
    let level = level.unwrap_or_else(|| "info".to_owned());
    if let Err(message) = crate::telemetry::filter(&level) {
        node.error("log_level", message);
    }
    level
}

fn name(node: &Node<'_>, over: &Overrides) -> String {
    let name =
        over.name.clone().or(node.string("name")).unwrap_or_else(|| "docker-broker".to_owned());
    let ok = (2..=40).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b));
    if !ok {
        node.error(
            "name",
            format!("is {name:?}; it needs 2 to 40 characters out of A-Z a-z 0-9 _ . -"),
        );
    }
    name
}

/// A password of the environment wins over a file that is named on the command line, that one over
/// the settings file.
fn login(node: &Node<'_>, over: &Overrides) -> BrokerLogin {
    let read = |file: PathBuf| match std::fs::read_to_string(&file) {
        Ok(text) => Some(text.trim_end_matches(['\r', '\n']).to_owned()),
        Err(error) => {
            node.error("password_file", format!("cannot read {}: {error}", file.display()));
            None
        }
    };
    let (plain, file) = (node.string("password"), node.string("password_file"));
    let password = match (&over.password, &over.password_file) {
        (Some(password), _) => Some(password.clone()),
        (None, Some(file)) => read(file.clone()),
        (None, None) => plain.or_else(|| file.map(PathBuf::from).and_then(read)),
    };
    if password.as_deref() == Some("") {
        node.error("password", "must not be empty");
    }
    let username = over.username.clone().or(node.string("username"));
    let username = username.unwrap_or_else(|| "broker".to_owned());
    if username.contains(':') || username.is_empty() {
        node.error("username", "must not be empty or contain a colon (HTTP basic)");
    }
    BrokerLogin { username, password }
}

fn tls(node: &Node<'_>, listen_address: IpAddr) -> Option<TlsSettings> {
    let tls = node.node("tls")?;
    let settings = TlsSettings {
        listen_address: tls.parsed("listen_address", parse_address).unwrap_or(listen_address),
        port: port(&tls, "port").unwrap_or(8443),
        certificate: tls.required("certificate").into(),
        private_key: tls.required("private_key").into(),
        reload_interval: tls
            .parsed("reload_interval", parse_duration)
            .unwrap_or(Duration::from_secs(10)),
    };
    for (key, file) in
        [("certificate", &settings.certificate), ("private_key", &settings.private_key)]
    {
        if !file.as_os_str().is_empty()
            && let Err(error) = std::fs::File::open(file)
        {
            tls.error(key, format!("cannot read {}: {error}", file.display()));
        }
    }
    tls.finish();
    Some(settings)
}

fn host_ports(node: &Node<'_>) -> PortRange {
    // Below the kernel's ephemeral range, where outgoing connections take theirs.
    const DEFAULT: PortRange = PortRange { first: 20_000, last: 29_999 };
    let range = node.parsed("host_ports", PortRange::parse).unwrap_or(DEFAULT);
    if range.last >= 32_768 {
        node.warning("host_ports", "reaches into 32768-60999, from which the kernel takes ports");
    }
    range
}

fn encryption_keys(node: &Node<'_>) -> Vec<EncryptionKey> {
    let mut keys: Vec<EncryptionKey> = node
        .strings("encryption_keys")
        .unwrap_or_default()
        .into_iter()
        .map(EncryptionKey)
        .collect();
    if let Some(file) = node.string("encryption_key_file") {
        match std::fs::read_to_string(&file) {
            Ok(text) => {
                let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
                keys.extend(lines.map(|line| EncryptionKey(line.to_owned())));
            }
            Err(error) => node.error("encryption_key_file", format!("cannot read {file}: {error}")),
        }
    }
    for (index, key) in keys.iter().enumerate() {
        if key.0.chars().count() < MIN_KEY_CHARACTERS {
            node.error(
                &format!("encryption_keys[{index}]"),
                format!("is shorter than {MIN_KEY_CHARACTERS} characters; use a generated one"),
            );
        }
    }
    keys
}

fn registry(node: Node<'_>) -> Option<Registry> {
    let host = node.required("host");
    if host.contains(['/', '@']) {
        // Not shown: such a value may hold a login.
        node.error("host", "must be host or host:port, without a scheme, a login or a path");
    }
    let username = node.string("username");
    let password = node.string("password");
    let file = node.string("password_file");
    let password = match (password, file) {
        (None, Some(file)) => std::fs::read_to_string(&file)
            .map(|text| text.trim_end().to_owned())
            .map_err(|error| node.error("password_file", format!("cannot read {file}: {error}")))
            .ok(),
        (password, _) => password,
    };
    if username.is_some() != password.is_some() {
        node.error("username", "and password belong together; one of them is missing");
    }
    let registry = Registry {
        login: username.zip(password),
        ca_certificate: ca_certificate(&node),
        insecure: node.boolean("insecure").unwrap_or(false),
        host,
    };
    node.finish();
    (!registry.host.is_empty()).then_some(registry)
}

/// A PEM text, or the path of a file with it.
fn ca_certificate(node: &Node<'_>) -> Option<String> {
    const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
    let given = node.string("ca_certificate")?;
    let text = if given.contains('\n') {
        Ok(given)
    } else {
        std::fs::read_to_string(&given).map_err(|error| format!("cannot read {given}: {error}"))
    };
    let checked = text.and_then(|text| {
        if text.contains(BEGIN) { Ok(text) } else { Err("holds no PEM certificate".to_owned()) }
    });
    checked.map_err(|message| node.error("ca_certificate", message)).ok()
}

fn port(node: &Node<'_>, key: &'static str) -> Option<u16> {
    node.integer(key, 0, u64::from(u16::MAX)).and_then(|port| u16::try_from(port).ok())
}

fn count(node: &Node<'_>, key: &'static str, max: u64) -> Option<usize> {
    node.integer(key, 1, max).and_then(|n| usize::try_from(n).ok())
}

fn parse_address(text: &str) -> Result<IpAddr, String> {
    text.trim().parse().map_err(|_| format!("{text:?} is not an IP address"))
}

fn parse_log_format(text: &str) -> Result<LogFormat, String> {
    match text {
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        other => Err(format!("is {other:?}; it must be text or json")),
    }
}
