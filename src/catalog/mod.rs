//! The services and plans that the broker offers.
//!
//! Owns the validated values that the `config` room makes out of YAML, the JSON Schemas of
//! developers' parameters, and the OSB catalog document. Knows nothing of HTTP or of Docker.
//!
//! Invariants: ids of services and plans are unique; a [`Plan`] is complete in itself, so that
//! its [`Definition`] can be stored with an instance and serve it after the plan has left the
//! configuration.

mod container;
mod data_version;
mod document;
mod ids;
mod lifecycle;
mod maintenance;
mod parameters;
mod plan;
mod reference;
mod schema;
mod tls;

use std::{collections::HashMap, sync::Arc};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

pub use container::{
    ContainerPlan, ContainerPort, Ephemeral, Exchange, Hardening, Limits, Protocol, PullPolicy,
    Readiness, ReadinessCheck, RestartPolicy, Tmpfs, Volume,
};
pub use data_version::{DataVersion, ImageVersion, major};
pub use document::document;
pub use ids::{BindingId, HOST_PREFIX, InstanceId, InvalidId, MAX_ID_BYTES};
pub use lifecycle::{Action, Hook, Lifecycle, Script};
pub use maintenance::{derived as derived_maintenance, runs_the_same};
pub use parameters::{Parameters, ParametersError, is_environment_name, is_reserved};
pub use plan::{
    Credentials, KeyValue, MaintenanceInfo, Plan, SanityTest, Service, SyslogDrain, Tenancy,
    UriShape,
};
pub use reference::ImageReference;
pub use schema::{Schema, Schemas};
pub use tls::{Reload, ServiceTls, TLS_VARIABLE};

/// All services of one configuration, indexed by their ids.
#[derive(Debug, Clone, Default)]
pub struct Catalog {
    services: Vec<Arc<Service>>,
    by_plan: HashMap<String, Offer>,
}

/// A plan together with the service that it belongs to.
#[derive(Debug, Clone)]
pub struct Offer {
    /// The service.
    pub service: Arc<Service>,
    /// One of its plans.
    pub plan: Arc<Plan>,
}

impl Catalog {
    /// Indexes validated services. Ids are expected to be unique (the `config` room sees to it).
    #[must_use]
    pub fn new(services: Vec<Service>) -> Self {
        let services: Vec<_> = services.into_iter().map(Arc::new).collect();
        let by_plan = services
            .iter()
            .flat_map(|service| {
                service.plans.iter().map(|plan| {
                    let offer = Offer { service: Arc::clone(service), plan: Arc::clone(plan) };
                    (plan.id.clone(), offer)
                })
            })
            .collect();
        Self { services, by_plan }
    }

    /// The services in the order of the configuration.
    #[must_use]
    pub fn services(&self) -> &[Arc<Service>] {
        &self.services
    }

    /// Every plan with its service, in the order of the configuration.
    pub fn offers(&self) -> impl Iterator<Item = &Offer> {
        self.services.iter().flat_map(|s| &s.plans).filter_map(|plan| self.by_plan.get(&plan.id))
    }

    /// The service with this id.
    #[must_use]
    pub fn find_service(&self, id: &str) -> Option<&Arc<Service>> {
        self.services.iter().find(|service| service.id == id)
    }

    /// The plan with this id, of whichever service.
    #[must_use]
    pub fn find_plan(&self, plan_id: &str) -> Option<&Offer> {
        self.by_plan.get(plan_id)
    }
}

/// What an instance needs of its plan for as long as it lives: stored with the instance, so that
/// a changed or removed plan does not change or strand what exists.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Definition {
    /// Id of the service.
    pub service_id: String,
    /// Name of the service, for labels and messages.
    pub service_name: String,
    /// The plan as it was configured.
    pub plan: Arc<Plan>,
}

impl From<&Offer> for Definition {
    fn from(offer: &Offer) -> Self {
        Self {
            service_id: offer.service.id.clone(),
            service_name: offer.service.name.clone(),
            plan: Arc::clone(&offer.plan),
        }
    }
}

impl Definition {
    /// The definition as JSON and the SHA-256 of that text, under which it is stored once.
    ///
    /// # Errors
    /// When the plan cannot be written as JSON, which no validated plan does.
    pub fn encode(&self) -> Result<(String, String), serde_json::Error> {
        let document = serde_json::to_string(self)?;
        let hash = hex(&Sha256::digest(document.as_bytes()));
        Ok((hash, document))
    }
}

/// Lower-case hexadecimal.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        text.push(char::from_digit(u32::from(byte >> 4), 16).unwrap_or('0'));
        text.push(char::from_digit(u32::from(byte & 15), 16).unwrap_or('0'));
        text
    })
}
