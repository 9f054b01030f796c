//! Where each variable of a container of cf-containers-broker came from: a pure function.
//!
//! That broker put together, later ones winning: the plan's environment, credentials, `NAME`, files of
//! a directory of the operator's, parameters. A container only shows what came of it. What is neither
//! of the image, nor of the plan, nor a credential, nor the broker's own must have been a parameter;
//! so must a value that is not the one that the plan or the file has. Where the plan was changed
//! since, nobody can tell, and the value of the container stays.

use std::collections::HashMap;

use serde_json::{Map, Value};

use super::adopted::legacy_name;
use crate::{
    catalog::{Parameters, Plan},
    credentials::{InstanceSecrets, legacy_secrets},
};

/// A container's environment, taken apart.
#[derive(Debug)]
pub(super) struct Divided {
    /// Credentials as the container has them.
    pub(super) secrets: InstanceSecrets,
    /// Parameters, as text: of what type they were is not known.
    pub(super) parameters: Map<String, Value>,
    /// What the next container needs besides.
    pub(super) environment: Vec<(String, String)>,
    /// What an operator should know. No values.
    pub(super) notes: Vec<String>,
}

/// `files` are names and values of the old broker's `container_env_var_dir`.
pub(super) fn divide(
    container: &[(String, String)],
    image: &[(String, String)],
    plan: &Plan,
    instance_id: &str,
    files: &HashMap<String, String>,
) -> Divided {
    let mut notes = Vec::new();
    let secrets = secrets(container, plan, instance_id, &mut notes);
    let has = |known: &[(String, String)], name: &str, value: &str| {
        known.iter().any(|(other, text)| other == name && text == value)
    };
    let own = super::instance::own_variables(plan);
    let (mut parameters, mut environment) = (Map::new(), Vec::new());
    let mut changed = Vec::new();
    for (name, value) in container {
        if own.contains(&name.as_str())
            || has(&plan.container.environment, name, value)
            || has(image, name, value)
        {
            continue;
        }
        if plan.container.environment.iter().any(|(known, _)| known == name) {
            changed.push(name.as_str());
        }
        let is_of_broker = (name == "NAME" && *value == legacy_name(instance_id))
            || name.strip_prefix("DOCKER_HOST_PORT_").is_some_and(is_number)
            || files.get(name) == Some(value);
        match parameter(plan, name, value, &own).filter(|_| !is_of_broker) {
            Some(parameter) => {
                parameters.insert(parameter, Value::String(value.clone()));
            }
            None => environment.push((name.clone(), value.clone())),
        }
    }
    let schema = plan.schemas.create.as_ref();
    if schema.is_some_and(|schema| !schema.problems(&parameters).is_empty()) {
        notes.push("what look like parameters do not fit the plan's schema".to_owned());
        for (name, value) in std::mem::take(&mut parameters) {
            let variable = plan.parameters.environment(&Map::from_iter([(name, value)]), &own);
            environment.extend(variable.into_iter().flatten());
        }
    }
    if !changed.is_empty() {
        notes.push(format!("keeps other values than the plan's of {}", changed.join(", ")));
    }
    if !parameters.is_empty() {
        let names: Vec<&str> = parameters.keys().map(String::as_str).collect();
        notes.push(format!("takes as a developer's parameters {}", names.join(", ")));
    }
    if !environment.is_empty() {
        let names: Vec<&str> = environment.iter().map(|(name, _)| name.as_str()).collect();
        notes.push(format!("keeps the variables {}", names.join(", ")));
    }
    Divided { secrets, parameters, environment, notes }
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// The parameter that becomes this variable, if the plan takes one.
fn parameter(plan: &Plan, name: &str, value: &str, own: &[&str]) -> Option<String> {
    let parameter = match &plan.parameters {
        Parameters::Legacy => name,
        Parameters::Declared(names) => names.iter().find(|(_, variable)| *variable == name)?.0,
    };
    let one = Map::from_iter([(parameter.to_owned(), Value::from(value))]);
    plan.parameters.environment(&one, own).ok().map(|_| parameter.to_owned())
}

/// What was derived, unless the container was told something else: that is what its server has.
fn secrets(
    container: &[(String, String)],
    plan: &Plan,
    instance_id: &str,
    notes: &mut Vec<String>,
) -> InstanceSecrets {
    let value = |name: &str| container.iter().find(|(known, _)| known == name).map(|one| &one.1);
    let mut secrets = legacy_secrets(plan, instance_id);
    let credentials = &plan.credentials;
    for (key, secret) in [
        (&credentials.username, &mut secrets.username),
        (&credentials.password, &mut secrets.password),
        (&credentials.dbname, &mut secrets.dbname),
    ] {
        let Some(name) = key.as_ref().and_then(|key| key.key.as_deref()) else { continue };
        match value(name) {
            None => notes.push(format!(
                "was never told {name}; new bindings say what the old broker's said"
            )),
            Some(known) if secret.as_ref() != Some(known) => {
                notes.push(format!(
                    "has a {name} of its own, so the old broker's bindings never worked; new ones \
                     say what the container has"
                ));
                *secret = Some(known.clone());
            }
            Some(_) => {}
        }
    }
    for name in &plan.container.secret_environment {
        if let Some(known) = value(name) {
            secrets.hidden.insert(name.clone(), known.clone());
        }
    }
    // What it has no value for.
    secrets.extended_for(plan)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::config;

    const ID: &str = "4fe5dc0d-ebe5-4dee-bb27-91e0228bd9e8";

    fn pairs(text: &[&str]) -> Vec<(String, String)> {
        let pair = |line: &&str| {
            let (name, value) = line.split_once('=').unwrap();
            (name.to_owned(), value.to_owned())
        };
        text.iter().map(pair).collect()
    }

    fn plan(more: &str) -> Plan {
        let file = tempfile::NamedTempFile::with_suffix(".yml").unwrap();
        let yaml = format!(
            "services:\n- {{id: s, name: s, description: d, plans: [{{id: p, name: p, \
             description: d, container: {{backend: docker, image: 'redis:7', environment: \
             ['MODE=fast', 'LEVEL=1']}}, credentials: {{username: {{key: U}}, \
             password: {{key: P}}, dbname: {{key: D, value: fixed}}}}{more}}}]}}"
        );
        std::fs::write(file.path(), yaml).unwrap();
        let (catalog, problems) = config::load_services(&[file.path().to_owned()]);
        let catalog = catalog.unwrap_or_else(|| panic!("{problems:?}"));
        catalog.services()[0].plans[0].as_ref().clone()
    }

    #[test]
    fn what_nobody_else_has_set_was_a_parameter() {
        let container = pairs(&[
            "MODE=fast",
            "LEVEL=9",
            "U=gzitkmvxr2o7b2h4",
            "P=changed=by-parameter",
            "D=fixed",
            "NAME=cf-4fe5dc0d-ebe5-4dee-bb27-91e0228bd9e8",
            "ZONE=z1",
            "COLOUR=red=blue",
            "DOCKER_HOST_PORT_6379=32768",
            "PATH=/bin",
            "VERSION=7",
        ]);
        let image = pairs(&["PATH=/bin", "VERSION=7"]);
        let files = HashMap::from([("ZONE".to_owned(), "z1".to_owned())]);
        let divided = divide(&container, &image, &plan(""), ID, &files);
        assert_eq!(Value::Object(divided.parameters), json!({"COLOUR": "red=blue", "LEVEL": "9"}));
        assert_eq!(
            divided.environment,
            pairs(&[
                "NAME=cf-4fe5dc0d-ebe5-4dee-bb27-91e0228bd9e8",
                "ZONE=z1",
                "DOCKER_HOST_PORT_6379=32768"
            ])
        );
        assert_eq!(divided.secrets.username.as_deref(), Some("gzitkmvxr2o7b2h4"));
        assert_eq!(divided.secrets.password.as_deref(), Some("changed=by-parameter"));
        assert_eq!(divided.secrets.dbname.as_deref(), Some("fixed"));
        let notes = divided.notes.join("\n");
        for word in ["has a P of its own", "other values than the plan's of LEVEL"] {
            assert!(notes.contains(word), "{notes}");
        }
        assert!(!notes.contains("changed"), "values are no business of a report: {notes}");
    }

    #[test]
    fn a_plan_that_declares_its_parameters_gets_them_back_by_their_names() {
        let declared = plan(", parameters: {colour: COLOUR}");
        let container = pairs(&["COLOUR=red", "OTHER=1", "MODE=fast", "LEVEL=1"]);
        let divided = divide(&container, &[], &declared, ID, &HashMap::new());
        assert_eq!(Value::Object(divided.parameters), json!({"colour": "red"}));
        assert_eq!(divided.environment, pairs(&["OTHER=1"]));
        assert_eq!(divided.secrets.password.as_deref(), Some("e7jjswfyihsjqcq9"));
        assert!(divided.notes.iter().any(|note| note.contains("was never told P")));
    }
}
