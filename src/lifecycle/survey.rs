//! All instances as they are at one moment, for operators' commands beside a running broker: read,
//! never changed. Secrets and parameters of instances stay sealed; only plans are opened.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use super::{
    InstanceState, StartError,
    instance::{open_definition, port_map},
    keys::KEY_PROOF,
    tenancy::is_host,
};
use crate::{
    catalog::{ContainerPort, Definition},
    credentials::Keyring,
    docker::spec,
    store::{InstanceRow, PortRow, Store},
    telemetry::Chain,
};

/// Where an instance lives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Home {
    /// In a container of its own.
    Own,
    /// It is such a container itself, for the instances that live in it; no platform knows of it.
    Host,
    /// In a shared container, with the id of its host.
    Shared(String),
    /// In a container that somebody else has made.
    Existing,
}

/// One instance.
#[derive(Debug, Clone)]
pub struct Surveyed {
    /// Id as the platform knows it.
    pub id: String,
    /// Safe name on disk and in Docker.
    pub name: String,
    /// Id of the service.
    pub service_id: String,
    /// Id of the plan.
    pub plan_id: String,
    /// State; an unknown one is [`Surveyed::damage`].
    pub state: Option<InstanceState>,
    /// Kind of the operation that runs on it.
    pub running: Option<String>,
    /// Version of the plan's maintenance info that it has.
    pub maintenance: Option<String>,
    /// Counts the containers that were made for it.
    pub generation: i64,
    /// Its plan as it is stored; `None`: it cannot be read.
    pub definition: Option<Arc<Definition>>,
    /// Why something of it cannot be read.
    pub damage: Option<String>,
    /// Where it lives.
    pub home: Home,
    /// Name of the container that serves it; `None`: unknown, as its plan cannot be read.
    pub container: Option<String>,
    /// Host ports.
    pub ports: BTreeMap<ContainerPort, u16>,
    /// How many bindings it has.
    pub bindings: u64,
    /// What is wrong with it, or with the shared container that serves it, for people.
    pub health: Option<String>,
    /// Since when, in seconds since the epoch.
    pub health_since: Option<i64>,
}

/// What the rows say of one instance.
struct Read {
    row: InstanceRow,
    sealed: Option<Vec<u8>>,
    ports: Vec<PortRow>,
    host: Option<InstanceRow>,
    bindings: u64,
    running: Option<String>,
}

/// Reads all instances, hosts of shared ones as well, in the order in which they were made. `owner`
/// is the name of the broker.
///
/// # Errors
/// [`StartError`] when the store cannot be read or was written with another key.
pub async fn survey(
    store: &Store,
    keys: &Keyring,
    owner: &str,
) -> Result<Vec<Surveyed>, StartError> {
    let read = store.read(|rows| {
        rows.at_one_moment(|rows| {
            let mut found = Vec::new();
            for id in rows.list_instance_ids()? {
                let Some(row) = rows.find_instance(&id)? else { continue };
                let host = match rows.find_host_of(&id)? {
                    Some(host) => rows.find_instance(&host)?,
                    None => None,
                };
                found.push(Read {
                    sealed: rows.find_definition(&row.definition_hash)?,
                    ports: rows.list_ports(&id)?,
                    bindings: rows.count_bindings(&id)?,
                    running: rows.find_running_operation(&id)?.map(|operation| operation.kind),
                    host,
                    row,
                });
            }
            Ok((rows.find_meta(KEY_PROOF)?, found))
        })
    });
    let (proof, found) = read.await?;
    if let Some(proof) = proof {
        keys.open(KEY_PROOF, &proof).map_err(StartError::WrongKey)?;
    }
    let mut known = HashMap::new();
    Ok(found.into_iter().map(|read| surveyed(read, keys, owner, &mut known)).collect())
}

/// `known`: definitions by their hashes, as many instances share one.
fn surveyed(
    read: Read,
    keys: &Keyring,
    owner: &str,
    known: &mut HashMap<String, Arc<Definition>>,
) -> Surveyed {
    let Read { row, sealed, ports, host, bindings, running } = read;
    let mut damage = None;
    let definition = known.get(&row.definition_hash).cloned().or_else(|| {
        match open_definition(keys, &row, sealed.as_deref()) {
            Ok(definition) => {
                let definition = Arc::new(definition);
                known.insert(row.definition_hash.clone(), Arc::clone(&definition));
                Some(definition)
            }
            Err(error) => {
                damage = Some(Chain(&error).to_string());
                None
            }
        }
    });
    let state = InstanceState::parse(&row.state);
    if state.is_none() {
        damage = Some(format!("its state is {:?}", row.state));
    }
    let ports = port_map(&ports).unwrap_or_else(|error| {
        damage = Some(Chain(&error).to_string());
        BTreeMap::new()
    });
    let plan = definition.as_ref().map(|definition| &definition.plan);
    let existing = plan.and_then(|plan| plan.container.existing.clone());
    let home = match &host {
        Some(host) => Home::Shared(host.id.clone()),
        None if is_host(&row.id) => Home::Host,
        None if existing.is_some() => Home::Existing,
        None => Home::Own,
    };
    // What serves it is what is looked after.
    let server = host.as_ref().unwrap_or(&row);
    let own = spec::container_name(owner, &server.name);
    let (health, health_since) = (server.health.clone(), server.health_since);
    let container = existing.or_else(|| definition.is_some().then_some(own));
    Surveyed {
        id: row.id,
        name: row.name,
        service_id: row.service_id,
        plan_id: row.plan_id,
        state,
        running,
        maintenance: row.maintenance,
        generation: row.generation,
        definition,
        damage,
        home,
        container,
        ports,
        bindings,
        health,
        health_since,
    }
}
