//! Which of a developer's parameters reach the container, and under which names.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// How a plan treats parameters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Parameters {
    /// Only these, each as the named environment variable.
    Declared(BTreeMap<String, String>),
    /// As cf-containers-broker did: each becomes the variable of its own name, if that name is
    /// a valid one and not reserved.
    Legacy,
}

/// A parameter that the plan does not take.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParametersError {
    /// Not declared by the plan.
    #[error("parameter {name:?} is not known to this plan; it takes {}", list(known))]
    Unknown {
        /// The parameter.
        name: String,
        /// Those that there are.
        known: Vec<String>,
    },
    /// Not the name of an environment variable.
    #[error("parameter {0:?} is not a valid environment variable name (A-Z, a-z, 0-9 and _)")]
    BadName(String),
    /// A name that the broker or the image needs.
    #[error("parameter {0:?} is reserved and cannot be set")]
    Reserved(String),
    /// A value that no environment variable can hold.
    #[error("parameter {0:?} must be a string, a number, a boolean, a list or an object")]
    BadValue(String),
}

fn list(known: &[String]) -> String {
    if known.is_empty() { "none".to_owned() } else { known.join(", ") }
}

impl Parameters {
    /// The environment variables that `parameters` become. `own` are names that the plan sets
    /// itself (credentials), which a legacy parameter must not override.
    ///
    /// # Errors
    /// The first parameter that the plan does not take.
    pub fn environment(
        &self,
        parameters: &Map<String, Value>,
        own: &[&str],
    ) -> Result<Vec<(String, String)>, ParametersError> {
        parameters
            .iter()
            .map(|(name, value)| Ok((self.variable(name, own)?, text(name, value)?)))
            .collect()
    }

    fn variable(&self, name: &str, own: &[&str]) -> Result<String, ParametersError> {
        match self {
            Self::Declared(names) => names.get(name).cloned().ok_or_else(|| {
                let known = names.keys().cloned().collect();
                ParametersError::Unknown { name: name.to_owned(), known }
            }),
            Self::Legacy if !is_environment_name(name) => {
                Err(ParametersError::BadName(name.to_owned()))
            }
            Self::Legacy if is_reserved(name) || own.contains(&name) => {
                Err(ParametersError::Reserved(name.to_owned()))
            }
            Self::Legacy => Ok(name.to_owned()),
        }
    }
}

fn text(name: &str, value: &Value) -> Result<String, ParametersError> {
    match value {
        Value::String(text) if text.contains('\0') => {
            Err(ParametersError::BadValue(name.to_owned()))
        }
        Value::String(text) => Ok(text.clone()),
        Value::Null => Err(ParametersError::BadValue(name.to_owned())),
        other => Ok(other.to_string()),
    }
}

/// Whether `name` is a portable environment variable name.
#[must_use]
pub fn is_environment_name(name: &str) -> bool {
    name.len() <= 255
        && name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// Whether a variable of this name would change what runs in the container, not how.
#[must_use]
pub fn is_reserved(name: &str) -> bool {
    const NAMES: [&str; 9] =
        ["PATH", "HOME", "HOSTNAME", "USER", "SHELL", "PWD", "IFS", "ENV", "BASH_ENV"];
    const PREFIXES: [&str; 4] = ["LD_", "OSB_", "DOCKER_", "GCONV_"];
    NAMES.contains(&name) || PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn map(value: Value) -> Map<String, Value> {
        let Value::Object(map) = value else { panic!("not an object: {value}") };
        map
    }

    #[test]
    fn a_legacy_plan_takes_environment_names_but_no_reserved_ones() {
        let set = |value| Parameters::Legacy.environment(&map(value), &["DB_PASSWORD"]);
        assert_eq!(
            set(json!({"A": "b=c", "N": 1, "O": {"x": [1]}})).unwrap(),
            [("A", "b=c"), ("N", "1"), ("O", r#"{"x":[1]}"#)]
                .map(|(k, v)| (k.to_owned(), v.to_owned()))
        );
        for (value, error) in [
            (json!({"LD_PRELOAD": "x"}), ParametersError::Reserved("LD_PRELOAD".to_owned())),
            (json!({"DB_PASSWORD": "x"}), ParametersError::Reserved("DB_PASSWORD".to_owned())),
            (json!({"a-b": "x"}), ParametersError::BadName("a-b".to_owned())),
            (json!({"A": null}), ParametersError::BadValue("A".to_owned())),
            (json!({"A": "x\0y"}), ParametersError::BadValue("A".to_owned())),
        ] {
            assert_eq!(set(value), Err(error));
        }
    }

    #[test]
    fn a_plan_with_declared_parameters_takes_only_those() {
        let declared = Parameters::Declared(BTreeMap::from([("policy".into(), "POLICY".into())]));
        assert_eq!(
            declared.environment(&map(json!({"policy": "lru"})), &[]).unwrap(),
            [("POLICY".to_owned(), "lru".to_owned())]
        );
        let error = declared.environment(&map(json!({"other": 1})), &[]).unwrap_err();
        assert!(error.to_string().contains("it takes policy"), "{error}");
    }
}
