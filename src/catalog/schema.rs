//! JSON Schemas of developers' parameters.

use std::{fmt, sync::OnceLock};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// OSB "Schemas Object": schemas must not be larger than 64 kB.
const MAX_SCHEMA_BYTES: usize = 64 * 1024;
const DEFAULT_DRAFT: &str = "http://json-schema.org/draft-07/schema#";

/// A checked JSON Schema for an object of parameters.
#[derive(Serialize, Deserialize)]
#[serde(from = "Value", into = "Value")]
pub struct Schema {
    document: Value,
    /// Compiled when first used: a stored definition is read far more often than validated.
    validator: OnceLock<Option<jsonschema::Validator>>,
}

impl Schema {
    /// Checks a schema: an object, at most 64 kB, without external references, and valid.
    /// `$schema` is added where it is missing, because OSB asks for it.
    ///
    /// # Errors
    /// A sentence that says what is wrong.
    pub fn parse(mut document: Value) -> Result<Self, String> {
        let Some(object) = document.as_object_mut() else {
            return Err("must be a JSON Schema object".to_owned());
        };
        if !object.contains_key("$schema") {
            object.insert("$schema".to_owned(), Value::from(DEFAULT_DRAFT));
        }
        if document.to_string().len() > MAX_SCHEMA_BYTES {
            return Err("is larger than 64 kB, the most that OSB allows".to_owned());
        }
        if let Some(reference) = external_reference(&document) {
            return Err(format!("refers to {reference:?}; OSB allows only references within (#…)"));
        }
        jsonschema::validator_for(&document).map_err(|error| format!("is no schema: {error}"))?;
        Ok(Self::from(document))
    }

    /// The schema as JSON.
    #[must_use]
    pub fn document(&self) -> &Value {
        &self.document
    }

    /// Whether it names this parameter.
    #[must_use]
    pub fn declares(&self, name: &str) -> bool {
        self.document.get("properties").is_some_and(|properties| properties.get(name).is_some())
    }

    /// Whether it lists this value among those that a parameter may have.
    #[must_use]
    pub fn lists(&self, name: &str, value: &str) -> bool {
        let property = self.document.get("properties").and_then(|all| all.get(name));
        let listed = property.and_then(|property| property.get("enum")).and_then(Value::as_array);
        listed.is_some_and(|values| values.iter().any(|known| known == value))
    }

    /// What of `parameters` does not fit, in the words of the schema; empty when all fits.
    #[must_use]
    pub fn problems(&self, parameters: &Map<String, Value>) -> Vec<String> {
        let validator =
            self.validator.get_or_init(|| jsonschema::validator_for(&self.document).ok());
        let Some(validator) = validator else {
            return vec!["the plan's schema cannot be used".to_owned()];
        };
        validator
            .iter_errors(&Value::Object(parameters.clone()))
            .map(|error| match error.instance_path().as_str() {
                "" => error.to_string(),
                path => format!("{}: {error}", path.trim_start_matches('/')),
            })
            .collect()
    }
}

fn external_reference(value: &Value) -> Option<&str> {
    match value {
        Value::Object(map) => map.iter().find_map(|(key, value)| match value {
            Value::String(target) if key == "$ref" && !target.starts_with('#') => {
                Some(target.as_str())
            }
            value => external_reference(value),
        }),
        Value::Array(items) => items.iter().find_map(external_reference),
        _ => None,
    }
}

impl From<Value> for Schema {
    fn from(document: Value) -> Self {
        Self { document, validator: OnceLock::new() }
    }
}

impl From<Schema> for Value {
    fn from(schema: Schema) -> Self {
        schema.document
    }
}

impl Clone for Schema {
    fn clone(&self) -> Self {
        Self::from(self.document.clone())
    }
}

impl fmt::Debug for Schema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Schema").field(&self.document).finish()
    }
}

/// OSB "Schemas Object" of a plan.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Schemas {
    /// `service_instance.create.parameters`.
    pub create: Option<Schema>,
    /// `service_instance.update.parameters`.
    pub update: Option<Schema>,
    /// `service_binding.create.parameters`.
    pub bind: Option<Schema>,
}

impl Schemas {
    /// Whether the plan has no schema at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.create.is_none() && self.update.is_none() && self.bind.is_none()
    }

    /// The object as the catalog shows it.
    #[must_use]
    pub fn document(&self) -> Value {
        let wrap = |schema: &Schema| serde_json::json!({ "parameters": schema.document() });
        let mut instance = Map::new();
        if let Some(schema) = &self.create {
            instance.insert("create".to_owned(), wrap(schema));
        }
        if let Some(schema) = &self.update {
            instance.insert("update".to_owned(), wrap(schema));
        }
        let mut schemas = Map::new();
        if !instance.is_empty() {
            schemas.insert("service_instance".to_owned(), Value::Object(instance));
        }
        if let Some(schema) = &self.bind {
            schemas.insert(
                "service_binding".to_owned(),
                serde_json::json!({ "create": wrap(schema) }),
            );
        }
        Value::Object(schemas)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_schema_names_the_parameter_that_does_not_fit() {
        let schema = Schema::parse(json!({
            "type": "object", "additionalProperties": false,
            "properties": {"size": {"type": "integer", "minimum": 1}}
        }))
        .unwrap();
        assert_eq!(schema.document()["$schema"], DEFAULT_DRAFT);
        let Value::Object(good) = json!({"size": 3}) else { panic!() };
        assert!(schema.problems(&good).is_empty());
        let Value::Object(bad) = json!({"size": "x", "colour": 1}) else { panic!() };
        let problems = schema.problems(&bad).join("\n");
        assert!(problems.contains("size: ") && problems.contains("colour"), "{problems}");
    }

    #[test]
    fn schemas_that_osb_forbids_are_refused() {
        for (schema, says) in [
            (json!([]), "object"),
            (json!({"properties": {"a": {"$ref": "http://example.com/x"}}}), "refers to"),
            (json!({"type": "nonsense"}), "is no schema"),
            (json!({"description": "x".repeat(70_000)}), "64 kB"),
        ] {
            let error = Schema::parse(schema).unwrap_err();
            assert!(error.contains(says), "{error}");
        }
    }
}
