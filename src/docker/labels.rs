//! Names and labels by which the broker knows its own objects.
//!
//! They carry enough to make the rows of the store anew if its file is lost.

use std::collections::HashMap;

/// Every object of a broker carries this label with the broker's name.
pub(super) const OWNER: &str = "io.docker-broker.owner";
pub(super) const INSTANCE: &str = "io.docker-broker.instance";
const SERVICE: &str = "io.docker-broker.service";
const SERVICE_NAME: &str = "io.docker-broker.service-name";
const PLAN: &str = "io.docker-broker.plan";
const GENERATION: &str = "io.docker-broker.generation";
pub(super) const SPEC: &str = "io.docker-broker.spec";
/// cf-containers-broker's labels, which operators' scripts know.
pub(super) const LEGACY_PLAN: &str = "plan_id";
pub(super) const LEGACY_INSTANCE: &str = "instance_id";

/// What a container's labels say of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Labels {
    /// Name of the broker.
    pub owner: String,
    /// Id of the instance.
    pub instance_id: String,
    /// Id of the service.
    pub service_id: String,
    /// Name of the service.
    pub service_name: String,
    /// Id of the plan.
    pub plan_id: String,
    /// Which container of the instance it is.
    pub generation: i64,
}

impl Labels {
    /// As Docker takes them. `spec_hash` tells whether a container is the wanted one.
    pub(super) fn to_map(&self, spec_hash: &str) -> HashMap<String, String> {
        [
            (OWNER, self.owner.clone()),
            (INSTANCE, self.instance_id.clone()),
            (SERVICE, self.service_id.clone()),
            (SERVICE_NAME, self.service_name.clone()),
            (PLAN, self.plan_id.clone()),
            (GENERATION, self.generation.to_string()),
            (SPEC, spec_hash.to_owned()),
            (LEGACY_PLAN, self.plan_id.clone()),
            (LEGACY_INSTANCE, self.instance_id.clone()),
        ]
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value))
        .collect()
    }

    /// The reverse; `None` when it is not one of a broker's containers.
    pub(super) fn from_map(map: &HashMap<String, String>) -> Option<Self> {
        let get = |key| map.get(key).cloned();
        Some(Self {
            owner: get(OWNER)?,
            instance_id: get(INSTANCE)?,
            service_id: get(SERVICE).unwrap_or_default(),
            service_name: get(SERVICE_NAME).unwrap_or_default(),
            plan_id: get(PLAN).unwrap_or_default(),
            generation: get(GENERATION)?.parse().ok()?,
        })
    }
}
