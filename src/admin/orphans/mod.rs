//! `docker-broker orphans`: what is there without an instance, and instances without what they need;
//! and the removal of what is named.

mod find;
mod purge;

use std::io::Write;

use serde::Serialize;
use serde_json::json;

use super::{Site, bytes::readable, table::Table};
use crate::config::Configuration;
pub use purge::purge;

/// What kind of thing a finding is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Container,
    Directory,
    Trash,
    Network,
    /// An instance that lacks something; nothing to purge.
    Instance,
}

impl Kind {
    fn as_str(self) -> &'static str {
        match self {
            Self::Container => "container",
            Self::Directory => "directory",
            Self::Trash => "trash",
            Self::Network => "network",
            Self::Instance => "instance",
        }
    }
}

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Finding {
    kind: Kind,
    /// What `--purge` takes; of an instance its id.
    name: String,
    /// dockerd's id of a container or network.
    docker_id: Option<String>,
    /// Instance that it says to belong to, or that lacks something.
    instance: Option<String>,
    /// Why it is listed.
    reason: String,
    /// Space that it takes; of a container what it has written beside its volumes.
    bytes: Option<u64>,
    /// It is more, as something may not be read by this user.
    bytes_incomplete: bool,
    /// Host ports of a container.
    ports: Vec<u16>,
    /// Whether `--purge` removes it.
    purgeable: bool,
}

impl Finding {
    fn new(kind: Kind, name: &str, reason: impl Into<String>) -> Self {
        Self {
            kind,
            name: name.to_owned(),
            docker_id: None,
            instance: None,
            reason: reason.into(),
            bytes: None,
            bytes_incomplete: false,
            ports: Vec::new(),
            purgeable: kind != Kind::Instance,
        }
    }

    fn of_instance(self, id: &str) -> Self {
        Self { instance: Some(id.to_owned()), ..self }
    }

    fn size(&self) -> String {
        let more = if self.bytes_incomplete { " or more" } else { "" };
        self.bytes.map_or_else(String::new, |bytes| format!("{}{more}", readable(bytes)))
    }
}

/// Prints all findings; how many there are.
///
/// # Errors
/// When the store, dockerd or the disk cannot be read.
pub async fn list(
    configuration: &Configuration,
    as_json: bool,
    out: &mut (impl Write + Send),
) -> anyhow::Result<usize> {
    let site = Site::open(configuration).await?;
    let mut findings = find::findings(&site).await?;
    find::measure(&site, &mut findings).await?;
    if as_json {
        writeln!(out, "{}", serde_json::to_string_pretty(&json!({ "orphans": findings }))?)?;
        return Ok(findings.len());
    }
    if findings.is_empty() {
        writeln!(out, "nothing is orphaned and nothing is missing")?;
        return Ok(0);
    }
    let mut table = Table::new(["KIND", "NAME", "SIZE", "PORTS", "WHY"]);
    for finding in &findings {
        let ports: Vec<String> = finding.ports.iter().map(u16::to_string).collect();
        table.row([
            finding.kind.as_str().to_owned(),
            finding.name.clone(),
            finding.size(),
            ports.join(","),
            finding.reason.clone(),
        ]);
    }
    table.print(out)?;
    Ok(findings.len())
}
