//! Taking over containers of cf-containers-broker that run: `docker-broker adopt`.
//!
//! It looks first, and decides for each container whether it can be adopted. All that can be are
//! written down in one transaction; then each gets its name and its directory is taken over
//! (`adopted.rs`), which the next start does for those that a killed `adopt` has not got to. No
//! container is ever stopped, and none but those that were written down is touched.

use std::{
    collections::{HashMap, HashSet},
    path::{Path, PathBuf},
    sync::Arc,
};

use serde_json::json;

use super::{
    InstanceState,
    adopt_checks::{Instances, check_mounts},
    adopted::{Adopted, GENERATION, legacy_name, settle_offline},
    bring_records_up_to_date,
    error::InternalError,
    fault::{Step, reach},
    instance::{Private, SealedDefinition, damaged},
    legacy_environment::divide,
};
use crate::{
    catalog::{Catalog, ContainerPort, Definition, InstanceId, Offer},
    credentials::Keyring,
    disk::{Disk, hindrance},
    docker::{Engine, LegacyContainer, spec::container_name},
    store::{InstanceRow, Store},
};

/// What `adopt` looks at.
#[derive(Debug)]
pub struct Adopter<'a> {
    /// The services on offer.
    pub catalog: &'a Catalog,
    /// dockerd.
    pub engine: &'a Engine,
    /// Where cf-containers-broker had its directories.
    pub legacy_directory: &'a Path,
    /// Where ours are.
    pub host_directory: &'a Path,
}

/// What becomes of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It can be adopted.
    Adoptable,
    /// It was adopted just now.
    Adopted,
    /// It was adopted before.
    Already,
    /// It cannot be, for these reasons.
    Refused(Vec<String>),
}

/// A container of cf-containers-broker, for the report.
#[derive(Debug)]
pub struct Found {
    /// Id of its instance.
    pub instance_id: String,
    /// Its name in Docker.
    pub container: String,
    /// Service and plan by their names, or the id of a plan that is not known.
    pub plan: String,
    /// Its process runs.
    pub is_running: bool,
    /// Ports that clients know.
    pub ports: Vec<(ContainerPort, u16)>,
    /// Its directories on the host.
    pub directories: Vec<PathBuf>,
    /// What an operator should know. No secrets.
    pub notes: Vec<String>,
    /// What becomes of it.
    pub verdict: Verdict,
    row: Option<Candidate>,
}

/// What is written down of it.
#[derive(Debug, Clone)]
struct Candidate {
    offer: Offer,
    name: String,
    private: Private,
}

impl Adopter<'_> {
    /// Looks at all containers of cf-containers-broker, or at those of `only`. Changes nothing.
    /// Without a store nothing was adopted before.
    ///
    /// # Errors
    /// [`InternalError`] when dockerd, the store or a directory cannot be looked at.
    pub async fn look(
        &self,
        known: Option<(&Store, &Keyring)>,
        only: &[String],
    ) -> Result<Vec<Found>, InternalError> {
        let known = Instances::of(known).await?;
        let files = self.files()?;
        let mut taken = HashSet::new();
        let mut found = Vec::new();
        for container in self.engine.list_legacy().await? {
            let id = container.instance_id.clone();
            let is_adopted = known.by_container.contains_key(&container.id);
            // Labels alone may be anybody's.
            if (!is_adopted && container.name != legacy_name(&id))
                || (!only.is_empty() && !only.contains(&id))
            {
                continue;
            }
            let ports: Vec<(ContainerPort, u16)> =
                container.ports.iter().filter_map(|port| Some((port.inner, port.outer?))).collect();
            let offer = self.catalog.find_plan(&container.plan_id);
            let mut one = Found {
                instance_id: id,
                container: container.name.clone(),
                plan: self.plan_name(&container.plan_id),
                is_running: container.is_running,
                directories: container.mounts.iter().filter_map(|one| one.source.clone()).collect(),
                notes: Vec::new(),
                verdict: Verdict::Already,
                row: None,
                ports,
            };
            if !is_adopted {
                let mut problems = Vec::new();
                known.check(&one, &mut taken, &mut problems);
                match offer {
                    None => problems.push(format!(
                        "its plan {} is not in the services of this configuration; add its \
                         service file (docker-broker convert-ops) with the ids that it had",
                        container.plan_id
                    )),
                    Some(offer) => {
                        one.row = self
                            .examine(&container, offer, &files, &mut one, &mut problems)
                            .await?;
                    }
                }
                one.verdict = if problems.is_empty() {
                    Verdict::Adoptable
                } else {
                    Verdict::Refused(problems)
                };
            }
            found.push(one);
        }
        for (row, _) in known.by_container.values() {
            if only.contains(&row.id) && !found.iter().any(|one| one.instance_id == row.id) {
                found.push(self.replaced(row).await?);
            }
        }
        Ok(found)
    }

    /// An adopted instance whose first container is gone.
    async fn replaced(&self, row: &InstanceRow) -> Result<Found, InternalError> {
        let container = container_name(self.engine.owner(), &row.name);
        let facts = self.engine.inspect(&container).await?;
        Ok(Found {
            instance_id: row.id.clone(),
            plan: self.plan_name(&row.plan_id),
            is_running: facts.is_some_and(|facts| facts.running),
            container,
            ports: Vec::new(),
            directories: Vec::new(),
            notes: vec!["its first container is gone; the next one is the broker's own".to_owned()],
            verdict: Verdict::Already,
            row: None,
        })
    }

    /// Service and plan by their names, if the plan is known.
    fn plan_name(&self, id: &str) -> String {
        let offer = self.catalog.find_plan(id);
        let name = |offer: &Offer| format!("{}/{}", offer.service.name, offer.plan.name);
        offer.map_or_else(|| id.to_owned(), name)
    }

    /// What is to be written down of a container; reasons against it go to `problems`.
    async fn examine(
        &self,
        container: &LegacyContainer,
        offer: &Offer,
        files: &HashMap<String, String>,
        found: &mut Found,
        problems: &mut Vec<String>,
    ) -> Result<Option<Candidate>, InternalError> {
        let plan = &offer.plan;
        let id = match InstanceId::parse(&container.instance_id) {
            Ok(id) => id,
            Err(error) => {
                problems.push(error.to_string());
                return Ok(None);
            }
        };
        if plan.container.existing.is_some() || plan.tenancy.is_some() {
            problems.push(format!(
                "plan {} puts instances into containers that are not theirs alone; give the old \
                 plan's id to one that does not",
                found.plan
            ));
        }
        let name = container_name(self.engine.owner(), &id.safe_name());
        if self.engine.inspect(&name).await?.is_some() {
            problems.push(format!("the name that it is to get, {name}, is another container's"));
        }
        self.check_ports(container, &mut found.notes, problems);
        let directory = self.legacy_directory.join(legacy_name(id.as_str()));
        let has_directory = check_mounts(container, offer, &directory, &mut found.notes, problems);
        if has_directory
            && let Some(problem) = hindrance(self.host_directory, &id.safe_name(), &directory)?
        {
            problems.push(problem);
        }
        if !container.is_running {
            found.notes.push("does not run; the broker starts it".to_owned());
        }
        let image = plan.container.image.to_string();
        match self.engine.image_id(&image).await? {
            Some(known) if known == container.image_id => {}
            Some(_) => {
                found.notes.push(format!("is not of {image} as it is now; an update makes it so"));
            }
            None => found.notes.push(format!(
                "the image {image} is not here; without it the instance cannot be made again"
            )),
        }
        let divided =
            divide(&container.environment, &container.image_environment, plan, id.as_str(), files);
        found.notes.extend(divided.notes);
        Ok(Some(Candidate {
            offer: offer.clone(),
            name: id.safe_name(),
            private: Private {
                secrets: divided.secrets,
                parameters: divided.parameters,
                // The platform tells organization and space with the next update.
                context: json!({}),
                adopted: Some(Adopted {
                    container_id: container.id.clone(),
                    directory: has_directory.then_some(directory),
                    hostname: container.hostname.clone(),
                    environment: divided.environment,
                }),
                ..Private::default()
            },
        }))
    }

    fn check_ports(
        &self,
        container: &LegacyContainer,
        notes: &mut Vec<String>,
        problems: &mut Vec<String>,
    ) {
        let ours = self.engine.publish_address();
        for port in &container.ports {
            let inner = port.inner;
            if port.outer.is_none() {
                problems.push(format!(
                    "which host port {inner} has is not known while it is stopped; start it"
                ));
            } else if !port.is_fixed {
                notes.push(format!(
                    "Docker chose the host port of {inner}, and chooses another one when it \
                     restarts the container, until the next start of the broker; update the \
                     instance soon, which makes it stay"
                ));
            }
            if let Some(address) = port.address
                && address != ours
            {
                problems.push(format!(
                    "{inner} is published on {address}, but external_ip is {ours}; set it to \
                     the old broker's"
                ));
            }
        }
    }

    /// The old broker's `container_env_var_dir`: variables of all containers.
    fn files(&self) -> Result<HashMap<String, String>, InternalError> {
        let directory = self.legacy_directory.join("envdir");
        let failed = |source| {
            let path = directory.clone();
            InternalError::from(crate::disk::DiskError::Io { verb: "read", path, source })
        };
        let mut files = HashMap::new();
        let entries = match std::fs::read_dir(&directory) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(files),
            other => other.map_err(failed)?,
        };
        for entry in entries {
            let entry = entry.map_err(failed)?;
            if entry.file_type().map_err(failed)?.is_file() {
                let value = std::fs::read_to_string(entry.path()).map_err(failed)?;
                let name = entry.file_name().to_string_lossy().into_owned();
                files.insert(name, value.trim().to_owned());
            }
        }
        Ok(files)
    }

    /// Adopts what can be, all at once, and finishes what an earlier call has left.
    ///
    /// # Errors
    /// [`InternalError`]. Of what was written down nothing is lost: the next start, or the next
    /// call, goes on with it.
    pub async fn adopt(
        &self,
        found: &mut [Found],
        store: &Store,
        keys: &Arc<Keyring>,
        disk: &Disk,
    ) -> Result<(), InternalError> {
        let mut rows = Vec::new();
        for one in found.iter().filter(|one| one.verdict == Verdict::Adoptable) {
            let Some(candidate) = &one.row else { continue };
            let id = &one.instance_id;
            let definition = SealedDefinition::new(keys, &Definition::from(&candidate.offer))?;
            let row = InstanceRow {
                id: id.clone(),
                name: candidate.name.clone(),
                service_id: candidate.offer.service.id.clone(),
                plan_id: candidate.offer.plan.id.clone(),
                definition_hash: String::new(),
                state: InstanceState::Ready.as_str().to_owned(),
                // It was made by no version of ours, so every upgrade is one for it.
                maintenance: None,
                sealed: candidate.private.seal(keys, id)?,
                generation: GENERATION,
                health: None,
                health_since: None,
            };
            rows.push((row, definition, one.ports.clone()));
        }
        let written = store.write(move |store| {
            for (row, definition, ports) in rows {
                let definition_hash = definition.store(store)?;
                store.insert_instance(&InstanceRow { definition_hash, ..row.clone() })?;
                for (inner, outer) in ports {
                    let protocol = inner.protocol.as_str();
                    if !store.take_port(&row.id, protocol, &inner.to_string(), outer)? {
                        return Ok(Err(format!("{outer}/{protocol}")));
                    }
                }
            }
            Ok(Ok(()))
        });
        written.await?.map_err(|port| damaged("host ports", format!("{port} is another one's")))?;
        reach(Step::AdoptCommitted);
        // Before anything moves: with the store lost, these say what has become of it.
        let compared = bring_records_up_to_date(store, disk, keys, true).await?;
        let known = Instances::of(Some((store, keys.as_ref()))).await?.by_container;
        for one in found.iter_mut().filter(|one| !matches!(one.verdict, Verdict::Refused(_))) {
            let its = known.values().find(|(row, _)| row.id == one.instance_id);
            if let Some((row, adopted)) = its {
                settle_offline(self.engine, disk, row, adopted).await?;
            }
            if one.verdict == Verdict::Adoptable {
                one.verdict = Verdict::Adopted;
            }
        }
        let is_found = |id: &&String| found.iter().any(|one| one.instance_id == **id);
        match compared.failed.iter().find(is_found) {
            Some(id) => Err(InternalError::Unrecorded(id.clone())),
            None => Ok(()),
        }
    }
}
