//! Services and plans.

use std::{sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    ContainerPlan, ContainerPort, DataVersion, Exchange, Lifecycle, Parameters, Schemas, ServiceTls,
};

/// A service offering.
#[derive(Debug, Clone)]
pub struct Service {
    /// Globally unique id.
    pub id: String,
    /// Unique name, what `cf marketplace` shows.
    pub name: String,
    /// For users.
    pub description: String,
    /// Whether instances can be bound; a plan may say otherwise.
    pub bindable: bool,
    /// Tags for applications that look a service up by kind.
    pub tags: Vec<String>,
    /// Passed through to the platform.
    pub metadata: Option<Value>,
    /// Permissions the service needs, for example `syslog_drain`.
    pub requires: Vec<String>,
    /// Whether an instance may change its plan; a plan may say otherwise.
    pub plan_updateable: bool,
    /// At least one.
    pub plans: Vec<Arc<Plan>>,
}

/// One plan of a service.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Plan {
    /// Globally unique id.
    pub id: String,
    /// Unique within the service.
    pub name: String,
    /// For users.
    pub description: String,
    /// Whether it costs nothing.
    pub free: bool,
    /// Passed through to the platform.
    pub metadata: Option<Value>,
    /// Overrides the service's.
    pub bindable: Option<bool>,
    /// Overrides the service's.
    pub plan_updateable: Option<bool>,
    /// Whether rotating a binding is worth anything: the successor has credentials of its own.
    #[serde(default)]
    pub binding_rotatable: bool,
    /// Most instances of this plan; `None` or 0: no limit.
    pub max_instances: Option<u32>,
    /// OSB maintenance information.
    pub maintenance_info: Option<MaintenanceInfo>,
    /// Seconds after which a platform stops polling.
    pub maximum_polling_duration_seconds: Option<u64>,
    /// JSON Schemas of developers' parameters.
    pub schemas: Schemas,
    /// Which parameters become which environment variables.
    pub parameters: Parameters,
    /// The container.
    pub container: ContainerPlan,
    /// Several instances in one container; `None`: one in each.
    #[serde(default)]
    pub tenancy: Option<Tenancy>,
    /// What a binding hands out.
    pub credentials: Credentials,
    /// Where logs may be drained to.
    pub syslog_drain: Option<SyslogDrain>,
    /// What is run in the container when something happens to the instance.
    #[serde(default)]
    pub lifecycle: Lifecycle,
    /// How long the credentials of a binding are valid; `None`: until it is removed.
    #[serde(default)]
    pub binding_lifetime: Option<Duration>,
    /// How its containers speak TLS, if they can.
    #[serde(default)]
    pub tls: Option<ServiceTls>,
    /// How the major versions of data and image are told; `None`: nothing is known of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_version: Option<DataVersion>,
    /// Names or ids of the plans from which an instance may come; `None`: from any. A rule of the
    /// catalog, so it is not stored.
    #[serde(skip)]
    pub update_predecessors: Option<Vec<String>>,
    /// How `docker-broker sanity-test` uses an instance. No instance needs it, so it is not stored.
    #[serde(skip)]
    pub sanity_test: SanityTest,
}

/// A container that instances share.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tenancy {
    /// Most instances in one container.
    pub max_instances: u32,
}

/// What `docker-broker sanity-test` does with a binding, besides connecting to the published TCP
/// ports.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct SanityTest {
    /// Parameters for the new instance, for plans that cannot do without.
    pub parameters: Option<Value>,
    /// Through the published port, with the binding's credentials.
    pub exchange: Option<Exchange>,
    /// Inside the container, with the binding's credentials in `BINDING_*` variables.
    pub exec: Option<Vec<String>>,
}

/// OSB "Maintenance Info Object".
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MaintenanceInfo {
    /// A semantic version 2.0.
    pub version: String,
    /// What the update does to an instance.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
}

/// Which credentials an instance has and how a binding shows them.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Credentials {
    /// User name.
    pub username: Option<KeyValue>,
    /// Password.
    pub password: Option<KeyValue>,
    /// Name of the database.
    pub dbname: Option<KeyValue>,
    /// Fixed `hostname` of the binding document.
    pub hostname: Option<String>,
    /// Shape of `uri`.
    pub uri: Option<UriShape>,
    /// A whole document of its own, with handlebars in its strings.
    pub template: Option<Value>,
    /// The same with `$HOST`, `$PORT` and `$PORT_<n>` as well.
    #[serde(default)]
    pub fixed: Option<Value>,
}

/// A credential: the environment variable that tells the container, and, when it is not random,
/// its value. Without a variable it is only handed out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyValue {
    /// Name of the environment variable.
    pub key: Option<String>,
    /// Fixed value.
    pub value: Option<String>,
}

/// `prefix://user:password@host:port/dbname`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UriShape {
    /// Scheme; without one there is no `uri`, only `port` is chosen.
    pub prefix: Option<String>,
    /// The container port that `port` and `uri` mean.
    pub port: Option<ContainerPort>,
}

/// Log drain of the service (needs `requires: [syslog_drain]`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyslogDrain {
    /// Container port that takes the logs.
    pub port: ContainerPort,
    /// Scheme of the drain's URL.
    pub protocol: String,
}

impl Service {
    /// Whether instances of `plan` can be bound.
    #[must_use]
    pub fn is_bindable(&self, plan: &Plan) -> bool {
        plan.bindable.unwrap_or(self.bindable)
    }

    /// Whether instances of `plan` can change to another plan.
    #[must_use]
    pub fn is_plan_updateable(&self, plan: &Plan) -> bool {
        plan.plan_updateable.unwrap_or(self.plan_updateable)
    }
}

impl Plan {
    /// Whether an instance may come from the plan with this id and this name.
    #[must_use]
    pub fn takes_from(&self, id: &str, name: &str) -> bool {
        let Some(plans) = &self.update_predecessors else { return true };
        plans.iter().any(|plan| plan == id || plan == name)
    }
}
