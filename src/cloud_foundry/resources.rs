//! What the Cloud Controller's v3 API answers, as far as the registrar reads it. Section names are
//! those of the CAPI v3 documentation.

use serde::Deserialize;

/// "The service broker object".
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Broker {
    /// Id in the platform.
    pub guid: String,
    /// Name.
    pub name: String,
    /// URL.
    pub url: String,
    /// A broker of one space has this one.
    #[serde(default)]
    pub relationships: BrokerRelationships,
}

/// Relationships of a broker.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
pub struct BrokerRelationships {
    /// Only of a space-scoped broker.
    pub space: Option<ToOne>,
}

/// "The service offering object".
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Offering {
    /// Id in the platform.
    pub guid: String,
    /// Name.
    pub name: String,
    /// Whether it is in the broker's catalog.
    pub available: bool,
    /// Its id in the broker's catalog.
    pub broker_catalog: CatalogId,
    /// Its broker.
    pub relationships: OfferingRelationships,
}

/// Relationships of an offering.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct OfferingRelationships {
    /// The broker.
    pub service_broker: ToOne,
}

/// Id in the broker's catalog.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct CatalogId {
    /// The id.
    pub id: String,
}

/// "The service plan object".
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Plan {
    /// Id in the platform.
    pub guid: String,
    /// Name.
    pub name: String,
    /// Whether it is in the broker's catalog.
    pub available: bool,
    /// `admin`, `public`, `organization` or `space`.
    pub visibility_type: String,
    /// Its id in the broker's catalog.
    pub broker_catalog: CatalogId,
    /// Its offering.
    pub relationships: PlanRelationships,
}

/// Relationships of a plan.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct PlanRelationships {
    /// The offering.
    pub service_offering: ToOne,
}

/// "To-one relationship".
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct ToOne {
    /// The other end.
    pub data: Guid,
}

/// Only a guid.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Guid {
    /// The guid.
    pub guid: String,
}

/// "The service plan visibility object".
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Visibility {
    /// `admin`, `public`, `organization` or `space`.
    #[serde(rename = "type")]
    pub kind: String,
    /// With `organization`.
    #[serde(default)]
    pub organizations: Vec<Organization>,
}

/// "The organization object".
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Organization {
    /// Id in the platform.
    pub guid: String,
    /// Name; a visibility may not tell it.
    #[serde(default)]
    pub name: String,
}

/// "The service instance object".
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Instance {
    pub(super) relationships: InstanceRelationships,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct InstanceRelationships {
    pub(super) service_plan: ToOne,
    pub(super) space: ToOne,
}

/// `included` of a list of instances ("Fields parameter").
#[derive(Debug, Default, Deserialize)]
pub(super) struct Included {
    #[serde(default)]
    pub(super) spaces: Vec<Space>,
    #[serde(default)]
    pub(super) organizations: Vec<Organization>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Space {
    pub(super) guid: String,
    pub(super) name: String,
    pub(super) relationships: SpaceRelationships,
}

#[derive(Debug, Deserialize)]
pub(super) struct SpaceRelationships {
    pub(super) organization: ToOne,
}

/// "Pagination": one page of a list.
#[derive(Debug, Deserialize)]
pub(super) struct Page<T> {
    pub(super) pagination: Pagination,
    pub(super) resources: Vec<T>,
    #[serde(default)]
    pub(super) included: Included,
}

#[derive(Debug, Deserialize)]
pub(super) struct Pagination {
    pub(super) next: Option<Link>,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Link {
    pub(super) href: String,
}

/// "The job object".
#[derive(Debug, Deserialize)]
pub(super) struct Job {
    pub(super) state: String,
    #[serde(default)]
    pub(super) errors: Vec<ApiProblem>,
    #[serde(default)]
    pub(super) warnings: Vec<Warning>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Warning {
    pub(super) detail: String,
}

/// "Errors".
#[derive(Debug, Default, Deserialize)]
pub(super) struct ApiProblems {
    #[serde(default)]
    pub(super) errors: Vec<ApiProblem>,
}

#[derive(Debug, Deserialize)]
pub(super) struct ApiProblem {
    #[serde(default)]
    pub(super) detail: String,
}

/// "Global API root".
#[derive(Debug, Deserialize)]
pub(super) struct Root {
    pub(super) links: RootLinks,
}

#[derive(Debug, Deserialize)]
pub(super) struct RootLinks {
    pub(super) cloud_controller_v3: Option<Link>,
    pub(super) login: Option<Link>,
    pub(super) uaa: Option<Link>,
}
