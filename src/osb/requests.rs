//! From JSON and query strings to what `lifecycle` is asked for.

use serde_json::{Map, Value, json};

use super::reply::Problem;
use crate::{
    catalog::{BindingId, InstanceId},
    lifecycle::{BindRequest, DeleteRequest, ProvisionRequest, RotationRequest, UpdateRequest},
};

/// The fields of a request object. Unknown ones are ignored, as OSB demands.
pub(super) struct Fields(pub(super) Map<String, Value>);

impl Fields {
    /// A field that is there; `null` counts as absent.
    fn get(&self, name: &str) -> Option<&Value> {
        self.0.get(name).filter(|value| !value.is_null())
    }

    fn string(&self, name: &str) -> Result<Option<String>, Problem> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::String(text)) if !text.is_empty() => Ok(Some(text.clone())),
            Some(_) => Err(Problem::bad_request(format!("{name} must be a non-empty string"))),
        }
    }

    fn required(&self, name: &str) -> Result<String, Problem> {
        self.string(name)?.ok_or_else(|| Problem::bad_request(format!("{name} is missing")))
    }

    fn object(&self, name: &str) -> Result<Option<Map<String, Value>>, Problem> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::Object(map)) => Ok(Some(map.clone())),
            Some(_) => Err(Problem::bad_request(format!("{name} must be an object"))),
        }
    }

    /// OSB: only `version` of the maintenance info counts.
    fn maintenance_version(&self) -> Result<Option<String>, Problem> {
        let Some(info) = self.object("maintenance_info")? else { return Ok(None) };
        match info.get("version") {
            Some(Value::String(version)) if !version.is_empty() => Ok(Some(version.clone())),
            _ => Err(Problem::bad_request("maintenance_info.version must be a non-empty string")),
        }
    }

    pub(super) fn provision(
        &self,
        instance_id: InstanceId,
        query: &Query,
    ) -> Result<ProvisionRequest, Problem> {
        Ok(ProvisionRequest {
            instance_id,
            service_id: self.required("service_id")?,
            plan_id: self.required("plan_id")?,
            // Required although deprecated.
            context: json!({
                "organization_guid": self.required("organization_guid")?,
                "space_guid": self.required("space_guid")?,
                "context": self.object("context")?,
            }),
            parameters: self.object("parameters")?.unwrap_or_default(),
            maintenance_version: self.maintenance_version()?,
            accepts_incomplete: query.accepts_incomplete(),
        })
    }

    pub(super) fn update(
        &self,
        instance_id: InstanceId,
        query: &Query,
    ) -> Result<UpdateRequest, Problem> {
        Ok(UpdateRequest {
            instance_id,
            service_id: self.required("service_id")?,
            plan_id: self.string("plan_id")?,
            parameters: self.object("parameters")?,
            context: self.object("context")?.map(|context| json!({ "context": context })),
            maintenance_version: self.maintenance_version()?,
            accepts_incomplete: query.accepts_incomplete(),
        })
    }

    pub(super) fn bind(
        &self,
        instance_id: InstanceId,
        binding_id: BindingId,
        query: &Query,
    ) -> Result<BindRequest, Problem> {
        let app_guid = self.string("app_guid")?;
        let mut resource = self.object("bind_resource")?.unwrap_or_default();
        if let Some(app_guid) = app_guid {
            // The old field and the new one mean the same.
            resource.entry("app_guid").or_insert(Value::String(app_guid));
        }
        Ok(BindRequest {
            instance_id,
            binding_id,
            service_id: self.required("service_id")?,
            plan_id: self.required("plan_id")?,
            parameters: self.object("parameters")?.unwrap_or_default(),
            bind_resource: Value::Object(resource),
            context: self.object("context")?.map_or(Value::Null, Value::Object),
            accepts_incomplete: query.accepts_incomplete(),
        })
    }

    /// A bind that names a predecessor needs nothing else.
    pub(super) fn rotation(
        &self,
        instance_id: &InstanceId,
        binding_id: &BindingId,
        query: &Query,
    ) -> Result<Option<RotationRequest>, Problem> {
        let Some(predecessor) = self.string("predecessor_binding_id")? else { return Ok(None) };
        let predecessor_id = BindingId::parse(predecessor)
            .map_err(|error| Problem::bad_request(format!("predecessor_binding_id: {error}")))?;
        Ok(Some(RotationRequest {
            instance_id: instance_id.clone(),
            binding_id: binding_id.clone(),
            predecessor_id,
            accepts_incomplete: query.accepts_incomplete(),
        }))
    }
}

/// The parameters of a URL.
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    pub(super) fn parse(query: &str) -> Self {
        Self(form_urlencoded::parse(query.as_bytes()).into_owned().collect())
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        let found = self.0.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value.as_str()).filter(|value| !value.is_empty())
    }

    fn required(&self, name: &str) -> Result<String, Problem> {
        let found = self.get(name).map(str::to_owned);
        found.ok_or_else(|| Problem::bad_request(format!("the query parameter {name} is missing")))
    }

    /// Anything but `true` is not true.
    fn accepts_incomplete(&self) -> bool {
        self.get("accepts_incomplete").is_some_and(|value| value.eq_ignore_ascii_case("true"))
    }

    pub(super) fn delete(&self, instance_id: InstanceId) -> Result<DeleteRequest, Problem> {
        Ok(DeleteRequest {
            instance_id,
            service_id: self.required("service_id")?,
            plan_id: self.required("plan_id")?,
            accepts_incomplete: self.accepts_incomplete(),
        })
    }
}
