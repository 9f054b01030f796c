//! What is there without an instance, and what instances lack.
//!
//! The broker may be at work meanwhile. A row comes before everything of its instance and goes after
//! it, so the rows are read before and after the rest: what belongs to a row of either time is no
//! orphan, and an instance lacks something only if its row was the same both times.

use std::{
    collections::{HashMap, HashSet},
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context;

use super::{Finding, Kind, Site};
use crate::{
    docker::{ListedContainer, ListedNetwork},
    lifecycle::{Home, InstanceState, Surveyed, standby_name},
};

/// What there is, at some moment between two looks at the rows.
struct Scene {
    before: Vec<Surveyed>,
    containers: Vec<ListedContainer>,
    networks: Vec<ListedNetwork>,
    directories: Vec<String>,
    /// Directories that `rebuild-store` can bring an instance back from.
    recorded: HashSet<String>,
    trash: Vec<String>,
    after: Vec<Surveyed>,
}

/// All findings, not measured yet.
pub(super) async fn findings(site: &Site<'_>) -> anyhow::Result<Vec<Finding>> {
    let before = site.survey().await?;
    let containers = containers(site).await?;
    let networks = site.engine.list_networks().await;
    let networks = networks.context("the Docker engine cannot be asked for networks")?;
    let disk = site.disk.clone();
    let listed = tokio::task::spawn_blocking(move || {
        let directories = disk.list_like_instances()?;
        let mut recorded = HashSet::new();
        for name in &directories {
            if disk.has_record(name)? {
                recorded.insert(name.clone());
            }
        }
        Ok((directories, recorded, disk.list_trash()?))
    });
    let (directories, recorded, trash) =
        listed.await?.map_err(|error: crate::disk::DiskError| {
            anyhow::Error::from(error).context("the instance directories cannot be listed")
        })?;
    let after = site.survey().await?;
    let scene = Scene { before, containers, networks, directories, recorded, trash, after };
    let mut found = scene.containers(site.engine.owner());
    found.extend(scene.directories(site.engine.owner(), &places(site.disk.root())));
    found.extend(scene.trash());
    found.extend(scene.networks());
    found.extend(scene.instances());
    Ok(found)
}

/// All containers, with the directories that they mount as they were given and as they really are:
/// an adopted one names a link that leads into the directory of its instance.
async fn containers(site: &Site<'_>) -> anyhow::Result<Vec<ListedContainer>> {
    let listed = site.engine.list_everything().await;
    let mut listed = listed.context("the Docker engine cannot be asked for containers")?;
    let resolved = tokio::task::spawn_blocking(move || {
        for one in &mut listed {
            // What leads nowhere is nothing of ours.
            let real = one.directories.iter().filter_map(|used| fs::canonicalize(used).ok());
            let real: Vec<String> = real.map(|path| path.to_string_lossy().into_owned()).collect();
            one.directories.extend(real);
        }
        listed
    });
    Ok(resolved.await?)
}

/// The root of the directories as it was given, and as it really is.
fn places(root: &Path) -> Vec<PathBuf> {
    [Some(root.to_owned()), fs::canonicalize(root).ok()].into_iter().flatten().collect()
}

/// The containers that use a directory.
fn users<'a>(
    containers: &'a [ListedContainer],
    places: &[PathBuf],
    name: &str,
) -> Vec<&'a ListedContainer> {
    let paths: Vec<PathBuf> = places.iter().map(|root| root.join(name)).collect();
    let is_used = |used: &String| paths.iter().any(|path| Path::new(used).starts_with(path));
    containers.iter().filter(|one| one.directories.iter().any(is_used)).collect()
}

/// Why a directory without an instance is not removed, if so.
fn hindrance(users: &[&ListedContainer], has_record: bool) -> Option<String> {
    if has_record {
        return Some(
            "--adopt brings it back from its record, with the broker stopped; to purge it all the \
             same, remove the file record in it first"
                .to_owned(),
        );
    }
    users.first().map(|user| format!("the container {} uses it; purge that first", user.name))
}

/// The same for one directory, now.
pub(super) async fn hindrance_of(site: &Site<'_>, name: &str) -> anyhow::Result<Option<String>> {
    let containers = containers(site).await?;
    let has_record = site.disk.has_record(name)?;
    Ok(hindrance(&users(&containers, &places(site.disk.root()), name), has_record))
}

/// Adds sizes and ports.
pub(super) async fn measure(site: &Site<'_>, findings: &mut [Finding]) -> anyhow::Result<()> {
    for finding in findings {
        let used = match finding.kind {
            Kind::Container => {
                let id = finding.docker_id.clone().unwrap_or_default();
                if let Some(extent) = site.engine.extent(&id).await? {
                    finding.ports = extent.ports;
                    finding.bytes = extent.bytes;
                }
                None
            }
            Kind::Directory => super::super::instances::used(&site.disk, &finding.name).await?,
            Kind::Trash => {
                let (disk, name) = (site.disk.clone(), in_trash(&finding.name).to_owned());
                tokio::task::spawn_blocking(move || disk.used_in_trash(&name)).await??
            }
            Kind::Network | Kind::Instance => None,
        };
        if let Some(used) = used {
            finding.bytes = Some(used.bytes);
            finding.bytes_incomplete = used.incomplete;
        }
    }
    Ok(())
}

/// How names of what lies in the trash begin.
const TRASH: &str = ".trash/";

/// The name in the trash of a finding.
pub(super) fn in_trash(name: &str) -> &str {
    name.strip_prefix(TRASH).unwrap_or(name)
}

impl Scene {
    /// Every row of either time.
    fn rows(&self) -> impl Iterator<Item = &Surveyed> {
        self.before.iter().chain(&self.after)
    }

    /// Rows that nothing has happened to meanwhile.
    fn settled(&self) -> impl Iterator<Item = &Surveyed> {
        let later: HashMap<&str, &Surveyed> =
            self.after.iter().map(|one| (one.id.as_str(), one)).collect();
        self.before.iter().filter(move |one| {
            one.running.is_none()
                && later.get(one.id.as_str()).is_some_and(|later| {
                    later.running.is_none()
                        && later.state == one.state
                        && later.generation == one.generation
                })
        })
    }

    fn containers(&self, owner: &str) -> Vec<Finding> {
        let settled: HashMap<&str, &Surveyed> =
            self.settled().map(|one| (one.id.as_str(), one)).collect();
        let known: HashSet<&str> = self.rows().map(|one| one.id.as_str()).collect();
        let ours = || self.containers.iter().filter(|one| one.owner.as_deref() == Some(owner));
        // Under another name it may be the only one that an instance has, and the broker gives it
        // its own back.
        let has_own = |instance: &Surveyed| {
            ours().any(|one| {
                Some(&one.name) == instance.container.as_ref()
                    && one.labels.as_ref().is_some_and(|labels| labels.instance_id == instance.id)
            })
        };
        let mut found = Vec::new();
        for container in ours() {
            let finding = |reason: String| {
                let reason = match container.volumes {
                    0 => reason,
                    count => format!(
                        "{reason}; {count} volumes of dockerd's own are its, and go with it"
                    ),
                };
                let id = container.labels.as_ref().map(|labels| labels.instance_id.clone());
                Finding {
                    docker_id: Some(container.id.clone()),
                    instance: id,
                    ..Finding::new(Kind::Container, &container.name, reason)
                }
            };
            let Some(labels) = &container.labels else {
                // Images are looked into by way of a container that lives for a moment.
                if container.state != "created" {
                    found.push(finding("its labels name no instance".to_owned()));
                }
                continue;
            };
            let id = labels.instance_id.as_str();
            if !known.contains(id) {
                found.push(finding(format!("there is no instance {id}")));
                continue;
            }
            let Some(instance) = settled.get(id) else { continue };
            // Its own container may be away, or not be the one it should be: that is for the broker.
            let name = instance.container.as_deref().unwrap_or_default();
            let standby = standby_name(name);
            let usable = instance.state == Some(InstanceState::Ready);
            if container.name == standby && usable && labels.generation != instance.generation {
                found.push(finding(format!("an update of instance {id} has left it")));
            } else if usable
                && container.name != name
                && container.name != standby
                && has_own(instance)
            {
                found.push(finding(format!("instance {id} has another container, {name}")));
            }
        }
        found
    }

    fn directories(&self, owner: &str, places: &[PathBuf]) -> Vec<Finding> {
        let known: HashSet<&str> = self.rows().map(|one| one.name.as_str()).collect();
        let mut found = Vec::new();
        for name in self.directories.iter().filter(|name| !known.contains(name.as_str())) {
            let users = users(&self.containers, places, name);
            // Another broker's, or whoever's: not for us to name.
            if users.iter().any(|one| one.owner.as_deref() != Some(owner)) {
                continue;
            }
            let mut finding = Finding::new(Kind::Directory, name, "no instance has this directory");
            if let Some(why) = hindrance(&users, self.recorded.contains(name)) {
                finding.reason = format!("no instance has this directory, but {why}");
                finding.purgeable = false;
            }
            finding.instance = name.strip_prefix("i-").map(str::to_owned);
            found.push(finding);
        }
        found
    }

    /// Removals that did not end. The next start of the broker ends them.
    fn trash(&self) -> Vec<Finding> {
        let known: HashSet<&str> = self.rows().map(|one| one.name.as_str()).collect();
        let of = |entry: &str| entry.rsplit_once('.').map_or(entry, |(name, _)| name).to_owned();
        let left = self.trash.iter().filter(|entry| !known.contains(of(entry).as_str()));
        left.map(|entry| {
            let reason = "its removal did not end; the next start of the broker removes it";
            Finding::new(Kind::Trash, &format!("{TRASH}{entry}"), reason)
        })
        .collect()
    }

    /// Networks that are empty, but one: a broker needs one.
    fn networks(&self) -> Vec<Finding> {
        let is_used = |network: &ListedNetwork| {
            let on = |one: &ListedContainer| {
                one.networks.iter().any(|name| *name == network.id || *name == network.name)
            };
            self.containers.iter().any(on)
        };
        let others = self.networks.iter().skip(1).filter(|one| !is_used(one));
        others
            .map(|network| Finding {
                docker_id: Some(network.id.clone()),
                ..Finding::new(
                    Kind::Network,
                    &network.name,
                    format!("no container is on it (id {:.12})", network.id),
                )
            })
            .collect()
    }

    fn instances(&self) -> Vec<Finding> {
        let names: HashSet<&str> = self.containers.iter().map(|one| one.name.as_str()).collect();
        let directories: HashSet<&str> = self.directories.iter().map(String::as_str).collect();
        let mut found = Vec::new();
        for instance in self.settled().filter(|one| one.state.is_some_and(InstanceState::is_usable))
        {
            let finding = |reason: String| {
                Finding::new(Kind::Instance, &instance.id, reason).of_instance(&instance.id)
            };
            if let Some(damage) = &instance.damage {
                found.push(finding(format!("it cannot be read: {damage}")));
            }
            let container = instance.container.as_deref().unwrap_or_default();
            // A tenant is served by its host, which is an instance as well.
            let has_one = !matches!(instance.home, Home::Shared(_)) && !container.is_empty();
            if has_one && !names.contains(container) {
                found.push(finding(format!("its container {container} is missing")));
            }
            let has_volumes = instance
                .definition
                .as_ref()
                .is_some_and(|stored| !stored.plan.container.volumes.is_empty());
            let owns = matches!(instance.home, Home::Own | Home::Host);
            if owns && has_volumes && !directories.contains(instance.name.as_str()) {
                found.push(finding(format!("its directory {} is missing", instance.name)));
            }
        }
        found
    }
}
