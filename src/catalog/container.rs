//! What a plan says about its containers.

use std::{fmt, time::Duration};

use serde::{Deserialize, Serialize};

use super::ImageReference;

/// Transport protocol of a published port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Protocol {
    /// `tcp` or `udp`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }

    /// The reverse of [`Protocol::as_str`].
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "tcp" => Some(Self::Tcp),
            "udp" => Some(Self::Udp),
            _ => None,
        }
    }
}

/// A port inside a container, written `6379/tcp`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ContainerPort {
    /// Number, 1 to 65535.
    pub number: u16,
    /// Protocol, TCP unless said.
    pub protocol: Protocol,
}

impl ContainerPort {
    /// Parses `6379` or `6379/tcp`.
    ///
    /// # Errors
    /// A sentence that says what a port looks like.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not a port such as \"6379/tcp\" or \"514/udp\"");
        let (number, protocol) = text.trim().split_once('/').unwrap_or((text.trim(), "tcp"));
        let number = number.parse::<u16>().ok().filter(|n| *n > 0).ok_or_else(wrong)?;
        let protocol = Protocol::parse(protocol).ok_or_else(wrong)?;
        Ok(Self { number, protocol })
    }
}

impl fmt::Display for ContainerPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.number, self.protocol.as_str())
    }
}

impl TryFrom<String> for ContainerPort {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        Self::parse(&text)
    }
}

impl From<ContainerPort> for String {
    fn from(port: ContainerPort) -> Self {
        port.to_string()
    }
}

/// When an image is pulled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PullPolicy {
    /// At every start of the broker, also when it is there.
    Always,
    /// Only when it is not there.
    #[default]
    Missing,
    /// Never; it has to be loaded by other means.
    Never,
}

/// Docker's restart policy.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RestartPolicy {
    /// Never restarted by Docker.
    No,
    /// The only policy under which containers return after a killed daemon.
    #[default]
    Always,
    /// Not after a manual stop.
    UnlessStopped,
    /// After a failure, at most so many times (0: without limit).
    OnFailure(u32),
}

/// A directory of the instance, mounted into its container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    /// Absolute path in the container.
    pub path: String,
    /// Numeric `uid:gid` that owns the directory; `None`: root, and the image takes ownership.
    pub owner: Option<(u32, u32)>,
    /// Permission bits, 0700 unless said.
    pub mode: u32,
    /// Wanted size limit in bytes.
    pub size_bytes: Option<u64>,
}

/// Which data of the image may go with its container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ephemeral {
    /// All of it.
    Everything,
    /// What is in these directories.
    Paths(Vec<String>),
}

impl Default for Ephemeral {
    fn default() -> Self {
        Self::Paths(Vec::new())
    }
}

/// Resource limits. `None` is Docker's default (unlimited unless noted).
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Limits {
    /// Memory in bytes.
    pub memory_bytes: Option<i64>,
    /// Memory plus swap in bytes; equal to `memory_bytes` unless said, so nothing swaps.
    pub memory_swap_bytes: Option<i64>,
    /// Relative CPU weight.
    pub cpu_shares: Option<i64>,
    /// CPU limit in billionths of a core.
    pub nano_cpus: Option<i64>,
    /// Processes and threads; 1024 unless said.
    pub pids: Option<i64>,
    /// Size of /dev/shm in bytes.
    pub shm_size_bytes: Option<i64>,
    /// Open files per process.
    pub nofile: Option<i64>,
}

/// A temporary file system in the container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tmpfs {
    /// Absolute path in the container.
    pub path: String,
    /// Mount options as Docker takes them, for example `uid=999,size=16m`.
    pub options: String,
}

/// What is taken away from a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hardening {
    /// Capabilities to drop.
    pub cap_drop: Vec<String>,
    /// Capabilities to give in spite of `cap_drop`.
    pub cap_add: Vec<String>,
    /// No gain of privileges through setuid programs.
    pub no_new_privileges: bool,
    /// Root file system mounted read-only.
    pub read_only: bool,
    /// Writable temporary file systems.
    pub tmpfs: Vec<Tmpfs>,
    /// Docker's `--privileged`: everything above is off.
    pub privileged: bool,
}

/// A question to a TCP port and what its answer has to contain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exchange {
    /// Port in the container.
    pub port: ContainerPort,
    /// What is sent, with handlebars for credentials.
    pub send: String,
    /// What the answer has to contain.
    pub expect: String,
    /// Within TLS, if the instance has it.
    #[serde(default)]
    pub tls: bool,
}

/// How the broker finds out that a service answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ReadinessCheck {
    /// These TCP ports accept a connection; empty: any of the published ones does.
    Tcp(Vec<ContainerPort>),
    /// This TCP port answers `send` with something that contains `expect`: the one check without a
    /// process of its own that tells a server that loads its data from one that serves it.
    Exchange(Exchange),
    /// This command succeeds inside the container.
    Exec(Vec<String>),
    /// This path answers below 400 on this TCP port.
    Http {
        /// Port in the container.
        port: ContainerPort,
        /// Path and query.
        path: String,
    },
    /// The image's own health check reports `healthy`.
    HealthCheck,
}

/// A check and how long it may take to succeed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Readiness {
    /// The check.
    pub check: ReadinessCheck,
    /// Longest time from the start of the container.
    pub timeout: Duration,
}

/// The container of one plan.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ContainerPlan {
    /// Name of a container that somebody else has made: never created, stopped, renamed or removed.
    /// What would make it has no meaning then.
    #[serde(default)]
    pub existing: Option<String>,
    /// Image to run.
    pub image: ImageReference,
    /// When it is pulled; `None`: as the broker's settings say.
    pub pull: Option<PullPolicy>,
    /// Arguments; empty: the image's own.
    pub command: Vec<String>,
    /// Entry point; `None`: the image's own.
    pub entrypoint: Option<Vec<String>>,
    /// Working directory; `None`: the image's own.
    pub workdir: Option<String>,
    /// `user[:group]`; `None`: the image's own.
    pub user: Option<String>,
    /// Docker's restart policy.
    pub restart: RestartPolicy,
    /// Environment in the order of the configuration.
    pub environment: Vec<(String, String)>,
    /// Variables that get a random secret of their own per instance, never handed out.
    pub secret_environment: Vec<String>,
    /// Published ports; empty: those that the image exposes.
    pub expose_ports: Vec<ContainerPort>,
    /// Directories on the persistent disk.
    pub volumes: Vec<Volume>,
    /// Volumes of the image that need not be on the persistent disk.
    #[serde(default)]
    pub ephemeral: Ephemeral,
    /// Limits.
    pub limits: Limits,
    /// Hardening.
    pub hardening: Hardening,
    /// Readiness.
    pub readiness: Readiness,
    /// Time between SIGTERM and SIGKILL.
    pub stop_timeout: Duration,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_tcp_unless_they_say_otherwise() {
        assert_eq!(ContainerPort::parse("6379").unwrap().to_string(), "6379/tcp");
        assert_eq!(ContainerPort::parse("514/udp").unwrap().to_string(), "514/udp");
        for wrong in ["0", "65536", "x", "80/sctp", "", "80/"] {
            assert!(ContainerPort::parse(wrong).is_err(), "{wrong:?}");
        }
    }
}
