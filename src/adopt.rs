//! `docker-broker adopt`: what `lifecycle` decides about containers of cf-containers-broker, told to
//! people.

use std::{
    collections::BTreeSet,
    fs,
    io::Write,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::Context;

use crate::{
    config::{Configuration, PortRange},
    disk::Disk,
    lifecycle::{Adopter, Found, Verdict, use_first_key},
    rescue, serve,
    store::{FILE_NAME, Store},
};

const EPHEMERAL: &str = "/proc/sys/net/ipv4/ip_local_port_range";
const RESERVED: &str = "/proc/sys/net/ipv4/ip_local_reserved_ports";

/// What to do.
#[derive(Debug)]
pub struct Options {
    /// Only say what would be done.
    pub dry_run: bool,
    /// Directory of cf-containers-broker.
    pub legacy_directory: PathBuf,
    /// Ids of the instances; empty: all of them.
    pub only: Vec<String>,
}

/// Adopts, or says what would be adopted; whether all that was found is the broker's now, or could
/// be.
///
/// # Errors
/// When a broker runs on the data directory; when dockerd, store or disk cannot be used.
pub async fn adopt(
    configuration: &Configuration,
    options: &Options,
    out: &mut impl Write,
) -> anyhow::Result<bool> {
    let settings = &configuration.settings;
    let data = settings.data_directory.as_path();
    let engine = serve::engine(settings);
    // As dockerd knows it: without links, dots and a slash at the end.
    let legacy_directory = match fs::canonicalize(&options.legacy_directory) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            options.legacy_directory.clone()
        }
        other => other
            .with_context(|| format!("cannot look at {}", options.legacy_directory.display()))?,
    };
    let mut adopter = Adopter {
        catalog: &configuration.catalog,
        engine: &engine,
        legacy_directory: &legacy_directory,
        host_directory: &settings.host_directory,
    };
    let found = if options.dry_run {
        // Neither a lock nor a key is made for it, nor a store.
        let known = if data.join(FILE_NAME).exists() {
            Some((Store::open_read_only(data)?, serve::known_keyring(settings)?))
        } else {
            None
        };
        let known = known.as_ref().map(|(store, keys)| (store, keys));
        adopter.look(known, &options.only).await?
    } else {
        serve::make_private(data)?;
        let _lock = serve::lock(data)
            .context("adopt needs the broker to be stopped; --dry-run does not")?;
        let disk = Disk::open(&settings.host_directory)?;
        // Before a key or a store is made.
        rescue::require_store(data, &disk)?;
        let keys = Arc::new(serve::keyring(settings)?);
        let store = Store::open(data)?;
        use_first_key(&store, &keys).await?;
        adopter.host_directory = disk.root();
        let mut found = adopter.look(Some((&store, &keys)), &options.only).await?;
        adopter.adopt(&mut found, &store, &keys, &disk).await?;
        found
    };
    for one in &found {
        out.write_all(describe(one).as_bytes())?;
    }
    let missing: Vec<&String> =
        options.only.iter().filter(|id| !found.iter().any(|one| one.instance_id == **id)).collect();
    for id in &missing {
        writeln!(out, "there is no container cf-{id} with the labels of cf-containers-broker")?;
    }
    writeln!(out, "{}", summary(&found))?;
    if let Some(advice) = advice(&found)? {
        writeln!(out, "{advice}")?;
    }
    let refused = found.iter().any(|one| matches!(one.verdict, Verdict::Refused(_)));
    Ok(!refused && missing.is_empty())
}

fn describe(found: &Found) -> String {
    let state = if found.is_running { "running" } else { "stopped" };
    let mut lines = vec![format!("{}: {}, {state}", found.container, found.plan)];
    let ports = found.ports.iter();
    lines.extend(ports.map(|(inner, outer)| format!("  port       {inner} at {outer}")));
    let directories = found.directories.iter();
    lines.extend(directories.map(|path| format!("  directory  {}", path.display())));
    lines.extend(found.notes.iter().map(|note| format!("  note       {note}")));
    let verdict = match &found.verdict {
        Verdict::Adoptable => "would be adopted",
        Verdict::Adopted => "adopted",
        Verdict::Already => "already adopted",
        Verdict::Refused(problems) => {
            lines.extend(problems.iter().map(|problem| format!("  problem    {problem}")));
            "not adopted"
        }
    };
    lines.push(format!("  {verdict}\n"));
    lines.join("\n")
}

fn summary(found: &[Found]) -> String {
    let count =
        |wanted: &dyn Fn(&Verdict) -> bool| found.iter().filter(|one| wanted(&one.verdict)).count();
    let would = count(&|verdict| *verdict == Verdict::Adoptable);
    let words = if would > 0 {
        format!("{would} would be adopted")
    } else {
        format!("{} adopted", count(&|verdict| *verdict == Verdict::Adopted))
    };
    format!(
        "{words}, {} already adopted, {} not adopted",
        count(&|verdict| *verdict == Verdict::Already),
        count(&|verdict| matches!(verdict, Verdict::Refused(_)))
    )
}

/// Ports among those that the kernel gives to outgoing connections may be taken while their
/// container is down for a moment.
fn advice(found: &[Found]) -> anyhow::Result<Option<String>> {
    let read = |path: &str| {
        fs::read_to_string(Path::new(path)).with_context(|| format!("cannot read {path}"))
    };
    let ports = found
        .iter()
        .filter(|one| !matches!(one.verdict, Verdict::Refused(_)))
        .flat_map(|one| &one.ports)
        .map(|(_, outer)| *outer);
    let reserved = read(RESERVED)?;
    let Some(line) = to_reserve(ports, &read(EPHEMERAL)?, reserved.trim()) else {
        return Ok(None);
    };
    Ok(Some(format!(
        "the kernel may give ports of these instances to outgoing connections while a container \
         is down; reserve them:\n  sysctl -w net.ipv4.ip_local_reserved_ports={line}"
    )))
}

/// The value of `ip_local_reserved_ports` that keeps `ports`; `None` when they are kept already.
fn to_reserve(ports: impl Iterator<Item = u16>, ephemeral: &str, reserved: &str) -> Option<String> {
    let range = |text: &str| {
        let (first, last) = text.split_once(['-', '\t', ' ']).unwrap_or((text, text));
        let first = first.trim().parse().ok()?;
        Some(PortRange { first, last: last.trim().parse().ok()? })
    };
    let is_in = |range: &PortRange, port: u16| (range.first..=range.last).contains(&port);
    let ephemeral = range(ephemeral.trim())?;
    let known: Vec<PortRange> = reserved.split(',').filter_map(range).collect();
    let missing: BTreeSet<u16> = ports
        .filter(|port| is_in(&ephemeral, *port) && !known.iter().any(|one| is_in(one, *port)))
        .collect();
    if missing.is_empty() {
        return None;
    }
    let mut ranges: Vec<String> = Vec::new();
    if !reserved.is_empty() {
        ranges.push(reserved.to_owned());
    }
    let mut ports = missing.into_iter().peekable();
    while let Some(first) = ports.next() {
        let mut last = first;
        while let Some(next) = ports.next_if(|next| *next == last + 1) {
            last = next;
        }
        ranges.push(if first == last { first.to_string() } else { format!("{first}-{last}") });
    }
    Some(ranges.join(","))
}

#[cfg(test)]
mod tests {
    use super::to_reserve;

    #[test]
    fn ports_that_the_kernel_may_give_away_are_to_be_reserved_beside_those_that_are() {
        let line =
            |ports: &[u16], reserved| to_reserve(ports.iter().copied(), "32768\t60999\n", reserved);
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(line(&[32_768, 32_769, 40_000, 20_000], ""), some("32768-32769,40000"));
        assert_eq!(line(&[32_769, 32_768], "8080,32768-32770"), None);
        assert_eq!(line(&[50_000, 32_768], "8080,32768"), some("8080,32768,50000"));
        assert_eq!(line(&[20_000], ""), None);
        assert_eq!(line(&[], ""), None);
    }
}
