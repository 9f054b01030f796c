//! An instance as verbs see it: its row, its plan, its secrets and its ports.

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{
    Broker, InstanceState, Refusal,
    adopted::Adopted,
    error::InternalError,
    tenancy::{Host, is_host},
};
use crate::{
    catalog::{ContainerPort, Definition, Lifecycle, Offer, Parameters, Plan},
    credentials::{InstanceSecrets, Keyring},
    store::{InstanceRow, PortRow, RowError, Rows},
};

/// What is sealed in an instance's row.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Private {
    pub(super) secrets: InstanceSecrets,
    pub(super) parameters: Map<String, Value>,
    /// OSB context, organization and space.
    #[serde(default)]
    pub(super) context: Value,
    /// What the provision hook said of a dashboard.
    #[serde(default)]
    pub(super) dashboard_url: Option<String>,
    /// Plans that it had before, for platforms that did not hear of a change.
    #[serde(default)]
    pub(super) former_plans: Vec<String>,
    /// Whether it speaks TLS. Decided when it is made, as its bindings say so.
    #[serde(default)]
    pub(super) tls: bool,
    /// Its first container is one of cf-containers-broker.
    #[serde(default)]
    pub(super) adopted: Option<Adopted>,
}

/// A stored definition, unsealed.
pub(super) fn open_definition(
    keys: &Keyring,
    row: &InstanceRow,
    sealed: Option<&[u8]>,
) -> Result<Definition, InternalError> {
    let what = format!("the definition of instance {}", row.id);
    let sealed = sealed.ok_or_else(|| damaged(&what, "it is missing"))?;
    let text = keys.open(&definition_place(&row.definition_hash), sealed)?;
    serde_json::from_slice(&text).map_err(|error| damaged(&what, error.to_string()))
}

fn definition_place(hash: &str) -> String {
    format!("definition:{hash}")
}

/// An instance, read and unsealed.
#[derive(Debug, Clone)]
pub(super) struct Instance {
    pub(super) row: InstanceRow,
    pub(super) state: InstanceState,
    pub(super) definition: Arc<Definition>,
    pub(super) private: Private,
    pub(super) ports: BTreeMap<ContainerPort, u16>,
    /// The shared container that it lives in.
    pub(super) host: Option<Host>,
}

impl Instance {
    /// Whether it lives in a container that is not its own.
    pub(super) fn is_guest(&self) -> bool {
        let plan = &self.definition.plan;
        plan.container.existing.is_some() || (plan.tenancy.is_some() && !is_host(&self.row.id))
    }
}

pub(super) fn damaged(what: &str, why: impl Into<String>) -> InternalError {
    InternalError::Damaged { what: what.to_owned(), why: why.into() }
}

fn place(id: &str) -> String {
    format!("instance:{id}")
}

impl Private {
    pub(super) fn seal(&self, keys: &Keyring, id: &str) -> Result<Vec<u8>, InternalError> {
        let text = serde_json::to_vec(self).map_err(|error| damaged(id, error.to_string()))?;
        Ok(keys.seal(&place(id), &text)?)
    }

    pub(super) fn open(keys: &Keyring, row: &InstanceRow) -> Result<Self, InternalError> {
        let text = keys.open(&place(&row.id), &row.sealed)?;
        serde_json::from_slice(&text)
            .map_err(|error| damaged(&format!("instance {}", row.id), error.to_string()))
    }
}

pub(super) fn state_of(row: &InstanceRow) -> Result<InstanceState, InternalError> {
    InstanceState::parse(&row.state).ok_or_else(|| {
        damaged(&format!("instance {}", row.id), format!("its state is {:?}", row.state))
    })
}

pub(super) fn port_map(rows: &[PortRow]) -> Result<BTreeMap<ContainerPort, u16>, InternalError> {
    rows.iter()
        .map(|row| {
            let inner = ContainerPort::parse(&row.container_port)
                .map_err(|error| damaged(&format!("port {}", row.port), error))?;
            Ok((inner, row.port))
        })
        .collect()
}

/// Environment variables that a plan sets itself.
pub(super) fn own_variables(plan: &Plan) -> Vec<&str> {
    let credentials = &plan.credentials;
    let keys = [&credentials.username, &credentials.password, &credentials.dbname];
    let secret = plan.container.secret_environment.iter().map(String::as_str);
    keys.into_iter().flatten().filter_map(|key| key.key.as_deref()).chain(secret).collect()
}

/// Developers' parameters of a plan as environment, or why they do not fit.
pub(super) fn parameter_environment(
    plan: &Plan,
    parameters: &Map<String, Value>,
) -> Result<Vec<(String, String)>, Refusal> {
    let for_hooks = |name: &str| {
        let Parameters::Declared(names) = &plan.parameters else { return false };
        let schemas = [&plan.schemas.create, &plan.schemas.update];
        plan.lifecycle != Lifecycle::default()
            && !names.contains_key(name)
            && schemas.into_iter().flatten().any(|schema| schema.declares(name))
    };
    // Those that the schema alone declares are in the document that hooks read.
    let shown: Map<String, Value> = parameters
        .iter()
        .filter(|(name, _)| !for_hooks(name))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    plan.parameters
        .environment(&shown, &own_variables(plan))
        .map_err(|error| Refusal::Invalid(error.to_string()))
}

/// A definition ready to be stored.
pub(super) struct SealedDefinition {
    pub(super) hash: String,
    sealed: Vec<u8>,
}

impl SealedDefinition {
    pub(super) fn new(keys: &Keyring, definition: &Definition) -> Result<Self, InternalError> {
        let (hash, document) = definition
            .encode()
            .map_err(|error| damaged(&format!("plan {}", definition.plan.id), error.to_string()))?;
        let sealed = keys.seal(&definition_place(&hash), document.as_bytes())?;
        Ok(Self { hash, sealed })
    }

    /// Stores it, if it is not there; its hash.
    pub(super) fn store(&self, rows: &Rows<'_>) -> Result<String, RowError> {
        rows.insert_definition(&self.hash, &self.sealed)?;
        Ok(self.hash.clone())
    }
}

/// Reserves every port that is not there yet; `false` when the range is exhausted.
pub(super) fn reserve(
    rows: &Rows<'_>,
    id: &str,
    wanted: &[ContainerPort],
    range: crate::config::PortRange,
) -> Result<bool, RowError> {
    let known = rows.list_ports(id)?;
    for port in wanted {
        let inner = port.to_string();
        if known.iter().any(|row| row.container_port == inner) {
            continue;
        }
        let protocol = port.protocol.as_str();
        if rows.reserve_port(id, protocol, &inner, (range.first, range.last))?.is_none() {
            return Ok(false);
        }
    }
    Ok(true)
}

impl Broker {
    /// The plan that a request names, which must be one of the service that it names.
    pub(super) fn offer(&self, service_id: &str, plan_id: &str) -> Result<&Offer, Refusal> {
        if self.catalog.find_service(service_id).is_none() {
            return Err(Refusal::Invalid(format!(
                "service_id {service_id:?} is not in the catalog of this broker"
            )));
        }
        let offer = self.catalog.find_plan(plan_id);
        offer.filter(|offer| offer.service.id == service_id).ok_or_else(|| {
            Refusal::Invalid(format!("plan_id {plan_id:?} is not a plan of service {service_id:?}"))
        })
    }

    /// OSB: a maintenance version, if given, has to be the catalog's.
    pub(super) fn check_maintenance(plan: &Plan, version: Option<&str>) -> Result<(), Refusal> {
        let known = plan.maintenance_info.as_ref().map(|info| info.version.as_str());
        match version {
            Some(version) if Some(version) != known => {
                Err(Refusal::MaintenanceInfoConflict(match known {
                    Some(known) => format!(
                        "maintenance_info.version is {version:?}, but the catalog says {known:?} \
                         for this plan; refresh the catalog"
                    ),
                    None => "this plan has no maintenance_info; refresh the catalog".to_owned(),
                }))
            }
            _ => Ok(()),
        }
    }

    /// An instance, read and unsealed; `None` when there is none.
    pub(super) async fn find(&self, id: &str) -> Result<Option<Instance>, InternalError> {
        let wanted = id.to_owned();
        let found = self
            .store
            .read(move |rows| {
                let Some(row) = rows.find_instance(&wanted)? else { return Ok(None) };
                let definition = rows.find_definition(&row.definition_hash)?;
                let ports = rows.list_ports(&wanted)?;
                let host = match rows.find_host_of(&wanted)? {
                    Some(host) => rows.find_instance(&host)?,
                    None => None,
                };
                Ok(Some((row, definition, ports, host)))
            })
            .await?;
        let Some((row, definition, ports, host)) = found else { return Ok(None) };
        let definition = open_definition(&self.keys, &row, definition.as_deref())?;
        Ok(Some(Instance {
            state: state_of(&row)?,
            definition: Arc::new(definition),
            private: Private::open(&self.keys, &row)?,
            ports: port_map(&ports)?,
            host: host.map(|host| Host::open(&self.keys, &host)).transpose()?,
            row,
        }))
    }

    /// An instance that an operation says is there.
    pub(super) async fn get(&self, id: &str) -> Result<Instance, InternalError> {
        self.find(id).await?.ok_or_else(|| damaged(&format!("instance {id}"), "it is missing"))
    }
}

/// A fresh operation id: says what it is, and is unique.
pub(super) fn operation_id(kind: &str) -> String {
    use rand::RngCore;
    let mut bytes = [0_u8; 8];
    rand::rng().fill_bytes(&mut bytes);
    format!("{kind}-{}", crate::catalog::hex(&bytes))
}
