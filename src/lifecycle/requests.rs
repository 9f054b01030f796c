//! What the broker is asked for, and what it answers: free of HTTP.

use serde_json::{Map, Value};

use crate::catalog::{BindingId, InstanceId};

/// Make an instance.
#[derive(Debug)]
#[expect(missing_docs, reason = "the fields of OSB 2.17, \"Provisioning\"")]
pub struct ProvisionRequest {
    pub instance_id: InstanceId,
    pub service_id: String,
    pub plan_id: String,
    pub parameters: Map<String, Value>,
    /// OSB context, organization and space.
    pub context: Value,
    pub maintenance_version: Option<String>,
    pub accepts_incomplete: bool,
}

/// Change an instance.
#[derive(Debug)]
#[expect(missing_docs, reason = "the fields of OSB 2.17, \"Updating a Service Instance\"")]
pub struct UpdateRequest {
    pub instance_id: InstanceId,
    pub service_id: String,
    pub plan_id: Option<String>,
    pub parameters: Option<Map<String, Value>>,
    pub context: Option<Value>,
    pub maintenance_version: Option<String>,
    pub accepts_incomplete: bool,
}

/// Remove an instance.
#[derive(Debug)]
#[expect(missing_docs, reason = "the fields of OSB 2.17, \"Deprovisioning\"")]
pub struct DeleteRequest {
    pub instance_id: InstanceId,
    pub service_id: String,
    pub plan_id: String,
    pub accepts_incomplete: bool,
}

/// Bind an instance.
#[derive(Debug)]
#[expect(missing_docs, reason = "the fields of OSB 2.17, \"Binding\"")]
pub struct BindRequest {
    pub instance_id: InstanceId,
    pub binding_id: BindingId,
    pub service_id: String,
    pub plan_id: String,
    pub parameters: Map<String, Value>,
    pub bind_resource: Value,
    pub context: Value,
    pub accepts_incomplete: bool,
}

/// Make a successor of a binding.
#[derive(Debug)]
#[expect(missing_docs, reason = "the fields of OSB 2.17, \"Rotating a Service Binding\"")]
pub struct RotationRequest {
    pub instance_id: InstanceId,
    pub binding_id: BindingId,
    pub predecessor_id: BindingId,
    pub accepts_incomplete: bool,
}

/// What became of a request that changes something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Accepted {
    /// Done by this request.
    Done,
    /// It was so already.
    Already,
    /// Under way; the platform polls.
    InProgress {
        /// The `operation` string of OSB.
        operation: String,
    },
}

/// What became of a request for a binding.
#[derive(Debug)]
pub enum Bound {
    /// There it is.
    Document(BoundDocument),
    /// Its hook runs; the platform polls.
    InProgress {
        /// The `operation` string of OSB.
        operation: String,
    },
}

/// A binding as it was stored: what every later request gets as well.
#[derive(Debug)]
pub struct BoundDocument {
    /// Whether this request made it.
    pub created: bool,
    /// `credentials`, `endpoints` and so on.
    pub document: Value,
    /// Parameters that it was made with.
    pub parameters: Map<String, Value>,
}

/// An instance as `GET` shows it.
#[derive(Debug)]
#[expect(missing_docs, reason = "the fields of OSB 2.17, \"Fetching a Service Instance\"")]
pub struct FetchedInstance {
    pub service_id: String,
    pub plan_id: String,
    pub parameters: Map<String, Value>,
    pub maintenance_version: Option<String>,
    pub dashboard_url: Option<String>,
}
