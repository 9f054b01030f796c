//! Replies against the OpenAPI document of OSB 2.17. Where the text of the specification says
//! more than the document, the text wins.

use std::sync::LazyLock;

use http::Method;
use serde_json::{Value, json};

use super::Reply;

static DOCUMENT: LazyLock<Value> = LazyLock::new(|| {
    let text = include_str!("../../fixtures/openapi-2.17.yaml");
    serde_yaml::from_str(text).expect("the document is YAML")
});

/// What a reply must not be.
pub(crate) fn violations(method: &Method, path: &str, reply: &Reply) -> Vec<String> {
    let route = path.split('?').next().unwrap_or_default();
    let template = template(route);
    let name = method.as_str().to_ascii_lowercase();
    let operation = template.and_then(|template| DOCUMENT["paths"][template].get(&name));
    let status = reply.status.to_string();
    let content = |operation: &Value| {
        let schema = &operation["responses"][&status]["content"]["application/json"]["schema"];
        schema["$ref"].as_str().map(str::to_owned)
    };
    let schema = match operation.and_then(content) {
        Some(schema) => schema,
        None if is_allowed(method, template, operation.is_some(), reply.status) => {
            "#/components/schemas/Error".to_owned()
        }
        None => return vec![format!("{method} {route} may not be answered with {status}")],
    };
    let mut found = Vec::new();
    if reply.header("content-type") != Some("application/json") {
        found.push(format!("content type {:?}", reply.header("content-type")));
    }
    let body = match serde_json::from_slice::<Value>(&reply.bytes) {
        Ok(body) => body,
        Err(error) => return vec![format!("the body is not JSON: {error}")],
    };
    found.extend(problems(&schema, &body));
    if reply.status >= 400 {
        found.extend(problems_of_an_error(&body, method, reply.status));
    }
    found
}

/// Statuses that the text or HTTP itself ask for, although the document does not list them.
fn is_allowed(method: &Method, template: Option<&str>, known: bool, status: u16) -> bool {
    let binding = template.is_some_and(|template| template.ends_with("{binding_id}"));
    match status {
        // Failures of the broker, and of HTTP below the API.
        401 | 408 | 412 | 413 | 500..=599 => true,
        404 => !known || *method == Method::PATCH || (binding && *method == Method::PUT),
        405 => template.is_some() && !known,
        // An id in the URL that cannot be one.
        400 => known,
        // Fetching an instance while it changes.
        422 => template.is_some_and(|template| template.ends_with("{instance_id}")),
        _ => false,
    }
}

fn template(route: &str) -> Option<&'static str> {
    let segments: Vec<&str> = route.split('/').skip(1).collect();
    match segments.as_slice() {
        ["v2", "catalog"] => Some("/v2/catalog"),
        ["v2", "service_instances", _] => Some("/v2/service_instances/{instance_id}"),
        ["v2", "service_instances", _, "last_operation"] => {
            Some("/v2/service_instances/{instance_id}/last_operation")
        }
        ["v2", "service_instances", _, "service_bindings", _] => {
            Some("/v2/service_instances/{instance_id}/service_bindings/{binding_id}")
        }
        ["v2", "service_instances", _, "service_bindings", _, "last_operation"] => {
            Some("/v2/service_instances/{instance_id}/service_bindings/{binding_id}/last_operation")
        }
        _ => None,
    }
}

fn problems(reference: &str, body: &Value) -> Vec<String> {
    let schema = json!({ "$ref": reference, "components": DOCUMENT["components"] });
    let validator = jsonschema::validator_for(&schema).expect("the document's schemas are valid");
    validator
        .iter_errors(body)
        .map(|error| format!("{}: {error}", error.instance_path().as_str()))
        .collect()
}

/// OSB, "Service Broker Errors": what the schema does not say.
fn problems_of_an_error(body: &Value, method: &Method, status: u16) -> Vec<String> {
    const CODES: [&str; 4] =
        ["AsyncRequired", "ConcurrencyError", "RequiresApp", "MaintenanceInfoConflict"];
    let mut found = Vec::new();
    if body["description"].as_str().is_none_or(str::is_empty) {
        found.push("an error without description".to_owned());
    }
    if let Some(code) = body.get("error") {
        let word = code.as_str().unwrap_or_default();
        if word.is_empty() || !word.chars().all(char::is_alphanumeric) {
            found.push(format!("error {code} is not a word in camel case"));
        }
        if CODES.contains(&word) && status != 422 {
            found.push(format!("{word} goes with 422, not {status}"));
        }
    }
    if body.get("update_repeatable").is_some() && *method != Method::PATCH {
        found.push("update_repeatable is for updates".to_owned());
    }
    let may_be_unusable = matches!(*method, Method::PATCH | Method::DELETE);
    if body.get("instance_usable").is_some() && !may_be_unusable {
        found.push("instance_usable is for updates and deprovisions".to_owned());
    }
    found
}
