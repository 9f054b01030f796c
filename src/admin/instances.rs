//! `docker-broker instances`: every instance, with what there is to know of it.

use std::io::Write;

use serde_json::{Value, json};

use super::{
    Site,
    bytes::readable,
    fleet::{Member, Standing},
    table::Table,
};
use crate::{
    config::Configuration,
    disk::{Disk, Used},
    lifecycle::Home,
};

/// What to print.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// As JSON.
    pub json: bool,
    /// With the space that each takes, for which its directory is walked.
    pub sizes: bool,
}

/// Prints all instances.
///
/// # Errors
/// When the store, dockerd or the disk cannot be read.
pub async fn run(
    configuration: &Configuration,
    options: Options,
    out: &mut (impl Write + Send),
) -> anyhow::Result<()> {
    let site = Site::open(configuration).await?;
    let members = site.fleet().await?;
    let mut sizes = Vec::new();
    for member in &members {
        let walks = options.sizes && matches!(member.instance.home, Home::Own | Home::Host);
        sizes.push(if walks { used(&site.disk, &member.instance.name).await? } else { None });
    }
    if options.json {
        let list: Vec<Value> =
            members.iter().zip(&sizes).map(|(member, used)| document(member, *used)).collect();
        writeln!(out, "{}", serde_json::to_string_pretty(&json!({ "instances": list }))?)?;
        return Ok(());
    }
    print(&members, &sizes, options.sizes, out)?;
    Ok(())
}

/// Walks a directory away from the threads that serve.
pub(super) async fn used(disk: &Disk, name: &str) -> anyhow::Result<Option<Used>> {
    let (disk, name) = (disk.clone(), name.to_owned());
    Ok(tokio::task::spawn_blocking(move || disk.used(&name)).await??)
}

fn print(
    members: &[Member],
    sizes: &[Option<Used>],
    with_sizes: bool,
    out: &mut (impl Write + Send),
) -> std::io::Result<()> {
    let mut table = Table::new([
        "INSTANCE",
        "SERVICE/PLAN",
        "STATE",
        "CONTAINER",
        "PORTS",
        "VERSION",
        "OFFERED",
        "BINDINGS",
        "SIZE",
        "UPGRADE",
        "HEALTH",
    ]);
    for (member, size) in members.iter().zip(sizes) {
        let instance = &member.instance;
        let ports: Vec<String> =
            instance.ports.iter().map(|(inner, outer)| format!("{outer}->{inner}")).collect();
        let size = size.map(|used| {
            format!("{}{}", readable(used.bytes), if used.incomplete { " or more" } else { "" })
        });
        table.row([
            instance.id.clone(),
            member.path(),
            instance.state.map_or_else(|| "unknown".to_owned(), |state| state.as_str().to_owned()),
            container(member),
            ports.join(","),
            instance.maintenance.clone().unwrap_or_default(),
            member.offered.clone().unwrap_or_default(),
            instance.bindings.to_string(),
            if with_sizes { size.unwrap_or_default() } else { String::new() },
            upgrade(member),
            instance.health.clone().unwrap_or_else(|| "fine".to_owned()),
        ]);
    }
    table.print(out)?;
    for member in members.iter().filter(|member| !member.changes.is_empty()) {
        writeln!(out, "\n{} ({}) differs from the catalog:", member.instance.id, member.path())?;
        for change in &member.changes {
            writeln!(out, "  {change}")?;
        }
    }
    for member in members {
        if let Some(reason) = member.standing.reason() {
            writeln!(out, "\n{} ({}): {reason}", member.instance.id, member.path())?;
        }
    }
    Ok(())
}

fn container(member: &Member) -> String {
    let name = member.instance.container.clone().unwrap_or_default();
    match &member.container {
        Some(found) if found.state == "running" => name,
        Some(found) => format!("{name} ({})", found.state),
        None => format!("{name} (missing)"),
    }
}

fn upgrade(member: &Member) -> String {
    match member.standing {
        Standing::Pending => format!("pending ({})", member.changes.len().max(1)),
        _ => member.standing.word().to_owned(),
    }
}

/// The stable form, which docs/operations.md tells.
fn document(member: &Member, used: Option<Used>) -> Value {
    let instance = &member.instance;
    let home = match &instance.home {
        Home::Own => "own",
        Home::Host => "shared host",
        Home::Shared(_) => "shared",
        Home::Existing => "existing",
    };
    let ports: serde_json::Map<String, Value> =
        instance.ports.iter().map(|(inner, outer)| (inner.to_string(), json!(outer))).collect();
    json!({
        "id": instance.id,
        "service": member.service,
        "plan": member.plan,
        "service_id": instance.service_id,
        "plan_id": instance.plan_id,
        "state": instance.state.map(|state| state.as_str()),
        "operation": instance.running,
        "home": home,
        "host": member.host(),
        "container": instance.container,
        "container_state": member.container.as_ref().map(|found| &found.state),
        "directory": matches!(instance.home, Home::Own | Home::Host).then_some(&instance.name),
        "ports": ports,
        "image": member.image,
        "image_id": member.container.as_ref().map(|found| &found.image_id),
        "maintenance_version": instance.maintenance,
        "offered_version": member.offered,
        "upgrade": member.standing.word(),
        "upgrade_reason": member.standing.reason(),
        "changes": member.changes,
        "bindings": instance.bindings,
        "bytes": used.map(|used| used.bytes),
        "bytes_incomplete": used.map(|used| used.incomplete),
        "health": instance.health,
        "health_since": instance.health_since,
    })
}
