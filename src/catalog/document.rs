//! The OSB catalog document (OSB 2.17, "Catalog Management").

use serde_json::{Map, Value, json};

use super::{Catalog, Plan, Service};

/// The body of `GET /v2/catalog`.
#[must_use]
pub fn document(catalog: &Catalog) -> Value {
    json!({ "services": catalog.services().iter().map(|s| service(s)).collect::<Vec<_>>() })
}

fn service(service: &Service) -> Value {
    let mut object = object(json!({
        "id": service.id,
        "name": service.name,
        "description": service.description,
        "bindable": service.bindable,
        "tags": service.tags,
        "requires": service.requires,
        "plan_updateable": service.plan_updateable,
        "instances_retrievable": true,
        "bindings_retrievable": true,
        "allow_context_updates": true,
        "plans": service.plans.iter().map(|p| plan(p)).collect::<Vec<_>>(),
    }));
    // OSB wants an object, so absence stays absence.
    if let Some(metadata) = &service.metadata {
        object.insert("metadata".to_owned(), metadata.clone());
    }
    Value::Object(object)
}

fn plan(plan: &Plan) -> Value {
    let mut object = object(json!({
        "id": plan.id,
        "name": plan.name,
        "description": plan.description,
        "free": plan.free,
    }));
    let optional = [
        ("metadata", plan.metadata.clone()),
        ("bindable", plan.bindable.map(Value::from)),
        ("plan_updateable", plan.plan_updateable.map(Value::from)),
        ("maintenance_info", plan.maintenance_info.as_ref().map(|info| json!(info))),
        ("maximum_polling_duration", plan.maximum_polling_duration_seconds.map(Value::from)),
        ("schemas", (!plan.schemas.is_empty()).then(|| plan.schemas.document())),
        ("binding_rotatable", plan.binding_rotatable.then_some(Value::Bool(true))),
    ];
    for (key, value) in optional {
        if let Some(value) = value {
            object.insert(key.to_owned(), value);
        }
    }
    Value::Object(object)
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}
