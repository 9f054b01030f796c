//! Reasons against adopting a container: its mounts, and what the store knows already.

use std::{
    collections::{HashMap, HashSet},
    path::Path,
};

use super::{adopt::Found, adopted::Adopted, error::InternalError, instance::Private};
use crate::{
    catalog::Offer,
    credentials::Keyring,
    docker::LegacyContainer,
    store::{InstanceRow, Store},
};

/// Whether it has directories of its own, all of which the plan has as well.
pub(super) fn check_mounts(
    container: &LegacyContainer,
    offer: &Offer,
    directory: &Path,
    notes: &mut Vec<String>,
    problems: &mut Vec<String>,
) -> bool {
    let volumes = &offer.plan.container.volumes;
    let mut has_directory = false;
    for mount in &container.mounts {
        let target = &mount.target;
        let is_in_plan = volumes.iter().any(|volume| volume.path == *target);
        match &mount.source {
            Some(source) if *source == directory.join(target.trim_start_matches('/')) => {
                has_directory = true;
                if !is_in_plan {
                    problems.push(format!(
                        "its data in {target} would be lost from sight: the plan has no such \
                         volume; add it"
                    ));
                }
            }
            Some(source) => problems.push(format!(
                "{target} is {}, which is not below {}; is that the directory of the old broker \
                 (--legacy-directory)?",
                source.display(),
                directory.display()
            )),
            None if is_in_plan => problems.push(format!(
                "its data in {target} is in a volume of Docker's, and the plan wants a \
                 directory; move it there first, or take the volume out of the plan"
            )),
            None => notes.push(format!(
                "{target} is in a volume of Docker's, which does not survive an update"
            )),
        }
    }
    for volume in volumes {
        if !container.mounts.iter().any(|mount| mount.target == volume.path) {
            problems.push(format!(
                "the plan has a volume {}, but the container does not: what it wrote there \
                 would be lost; take the volume out of the plan",
                volume.path
            ));
        }
    }
    has_directory
}

/// What the store knows of instances.
#[derive(Debug, Default)]
pub(super) struct Instances {
    ids: HashSet<String>,
    /// Those that were adopted, by dockerd's ids of the containers.
    pub(super) by_container: HashMap<String, (InstanceRow, Adopted)>,
    ports: HashMap<(String, u16), String>,
}

impl Instances {
    pub(super) async fn of(known: Option<(&Store, &Keyring)>) -> Result<Self, InternalError> {
        let Some((store, keys)) = known else { return Ok(Self::default()) };
        let read = store.read(|rows| {
            let mut found = Vec::new();
            let mut ports = HashMap::new();
            for id in rows.list_instance_ids()? {
                for port in rows.list_ports(&id)? {
                    ports.insert((port.protocol, port.port), id.clone());
                }
                found.extend(rows.find_instance(&id)?);
            }
            Ok((found, ports))
        });
        let (rows, ports) = read.await?;
        let mut instances = Self { ports, ..Self::default() };
        for row in rows {
            instances.ids.insert(row.id.clone());
            if let Some(adopted) = Private::open(keys, &row)?.adopted {
                instances.by_container.insert(adopted.container_id.clone(), (row, adopted));
            }
        }
        Ok(instances)
    }

    /// Whether an instance of this id, and with these ports, can be added. `taken` are the ports of
    /// those that were looked at before.
    pub(super) fn check(
        &self,
        found: &Found,
        taken: &mut HashSet<(String, u16)>,
        problems: &mut Vec<String>,
    ) {
        if self.ids.contains(&found.instance_id) {
            problems.push(
                "this broker has an instance of that id with another container; remove the one \
                 that is not wanted"
                    .to_owned(),
            );
        }
        for (inner, outer) in &found.ports {
            let port = (inner.protocol.as_str().to_owned(), *outer);
            let owner = self.ports.get(&port);
            if owner.is_some() || !taken.insert(port) {
                problems.push(format!(
                    "its host port {outer} belongs to instance {}",
                    owner.map_or("another container of this list", String::as_str)
                ));
            }
        }
    }
}
