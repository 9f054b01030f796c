//! What an upgrade would change: the plan that an instance has beside the plan of the catalog. A pure
//! function.
//!
//! Only what makes the container, its credentials and its hooks counts; names, descriptions, prices
//! and limits of the marketplace do not. Values that may be secrets (environment, commands, hooks,
//! credentials) are never shown.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use serde::Serialize;
use serde_json::Value;

use crate::catalog::{Action, Plan};

/// One thing that differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Change {
    /// What, as a path in the plan: `container.limits.memory_bytes`.
    pub(super) what: String,
    /// `changed`, `added` or `removed`.
    pub(super) kind: &'static str,
    /// What the instance has; `None`: nothing, or not to be shown.
    pub(super) from: Option<String>,
    /// What the catalog has.
    pub(super) to: Option<String>,
}

impl Change {
    /// Of something that can be shown.
    pub(super) fn shown(what: &str, from: Option<String>, to: Option<String>) -> Self {
        let kind = match (&from, &to) {
            (None, Some(_)) => "added",
            (Some(_), None) => "removed",
            _ => "changed",
        };
        Self { what: what.to_owned(), kind, from, to }
    }

    fn hidden(what: String, kind: &'static str) -> Self {
        Self { what, kind, from: None, to: None }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.from, &self.to) {
            (Some(from), Some(to)) => write!(f, "{}: {from} -> {to}", self.what),
            (None, Some(to)) => write!(f, "{}: + {to}", self.what),
            (Some(from), None) => write!(f, "{}: - {from}", self.what),
            (None, None) => write!(f, "{} {}", self.what, self.kind),
        }
    }
}

/// What of `to` is not as in `from`.
pub(super) fn between(from: &Plan, to: &Plan) -> Vec<Change> {
    let mut changes = Vec::new();
    let (old, new) = (&from.container, &to.container);
    if old.existing != new.existing {
        changes.push(Change::shown(
            "container.existing",
            old.existing.clone(),
            new.existing.clone(),
        ));
    }
    // What would make an existing container has no meaning.
    if new.existing.is_none() {
        if old.image != new.image {
            let (old, new) = (old.image.to_string(), new.image.to_string());
            changes.push(Change::shown("container.image", Some(old), Some(new)));
        }
        containers(&value(old), &value(new), &mut changes);
        environment(&old.environment, &new.environment, &mut changes);
    }
    for action in Action::ALL {
        let what = || format!("lifecycle.{}", action.as_str());
        let (old, new) = (from.lifecycle.hook(action), to.lifecycle.hook(action));
        changes.extend(hidden(what, &value(&old), &value(&new)));
    }
    let mut whole = |what: &str, old: Value, new: Value| {
        changes.extend(hidden(|| what.to_owned(), &old, &new));
    };
    whole("lifecycle.user", value(&from.lifecycle.user), value(&to.lifecycle.user));
    whole("tls", value(&from.tls), value(&to.tls));
    whole("tenancy", value(&from.tenancy), value(&to.tenancy));
    whole("parameters", value(&from.parameters), value(&to.parameters));
    whole("credentials", value(&from.credentials), value(&to.credentials));
    changes
}

/// Keys of a container that are shown with their values.
const SHOWN: [&str; 8] = [
    "user",
    "workdir",
    "restart",
    "secret_environment",
    "expose_ports",
    "limits",
    "hardening",
    "stop_timeout",
];

fn containers(old: &Value, new: &Value, changes: &mut Vec<Change>) {
    for key in ["command", "entrypoint"] {
        changes.extend(hidden(|| format!("container.{key}"), &old[key], &new[key]));
    }
    for key in SHOWN {
        let what = format!("container.{key}");
        match (&old[key], &new[key]) {
            (Value::Object(before), Value::Object(after)) => {
                let keys: BTreeSet<_> = before.keys().chain(after.keys()).collect();
                for inner in keys {
                    let what = format!("{what}.{inner}");
                    changes.extend(shown(&what, before.get(inner), after.get(inner)));
                }
            }
            (before, after) => changes.extend(shown(&what, Some(before), Some(after))),
        }
    }
    let volumes = |container: &Value| -> BTreeMap<String, Value> {
        let list = container["volumes"].as_array().cloned().unwrap_or_default();
        let path = |volume: &Value| volume["path"].as_str().unwrap_or_default().to_owned();
        list.into_iter().map(|volume| (path(&volume), volume)).collect()
    };
    let (before, after) = (volumes(old), volumes(new));
    let paths: BTreeSet<_> = before.keys().chain(after.keys()).collect();
    for path in paths {
        let what = || format!("container.volumes {path}");
        let none = Value::Null;
        let (old, new) = (before.get(path).unwrap_or(&none), after.get(path).unwrap_or(&none));
        changes.extend(hidden(what, old, new));
    }
}

/// The names only: values may be secrets.
fn environment(old: &[(String, String)], new: &[(String, String)], changes: &mut Vec<Change>) {
    let map = |list: &[(String, String)]| -> BTreeMap<String, Value> {
        list.iter().map(|(name, value)| (name.clone(), Value::from(value.as_str()))).collect()
    };
    let (before, after) = (map(old), map(new));
    let names: BTreeSet<_> = before.keys().chain(after.keys()).collect();
    for name in names {
        let none = Value::Null;
        let (old, new) = (before.get(name).unwrap_or(&none), after.get(name).unwrap_or(&none));
        changes.extend(hidden(|| format!("container.environment {name}"), old, new));
    }
}

fn hidden(what: impl FnOnce() -> String, old: &Value, new: &Value) -> Option<Change> {
    let kind = match (old, new) {
        _ if old == new => return None,
        (Value::Null, _) => "added",
        (_, Value::Null) => "removed",
        _ => "changed",
    };
    Some(Change::hidden(what(), kind))
}

fn shown(what: &str, old: Option<&Value>, new: Option<&Value>) -> Option<Change> {
    let text = |value: Option<&Value>| match value {
        None | Some(Value::Null) => None,
        Some(Value::String(text)) => Some(text.clone()),
        Some(other) => Some(other.to_string()),
    };
    (old != new).then(|| Change::shown(what, text(old), text(new)))
}

/// Plain data; writing it cannot fail.
fn value(part: &impl Serialize) -> Value {
    serde_json::to_value(part).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::load_services;

    fn plan(container: &str, rest: &str) -> Plan {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("services.yml");
        let text = format!(
            "services:\n- id: s\n  name: s\n  description: s\n  plans:\n  - id: p\n    name: p\n    \
             description: p\n{rest}    container:\n      image: redis\n{container}"
        );
        std::fs::write(&file, text).unwrap();
        let (catalog, problems) = load_services(&[file]);
        let catalog = catalog.unwrap_or_else(|| panic!("{problems:?}"));
        (*catalog.find_plan("p").unwrap().plan).clone()
    }

    #[test]
    fn everything_that_makes_a_container_is_found_and_no_value_that_may_be_secret_is_shown() {
        let old = plan(
            "      tag: '6'\n      command: [server, --password, very-secret]\n      environment: [A=very-secret, B=very-secret, SAME=1]\n      limits: {memory: 64m}\n      volumes: [{path: /data}, {path: /old}]\n",
            "    lifecycle: {update: 'echo very-secret'}\n",
        );
        let new = plan(
            "      tag: '7'\n      command: [server, --password, other-secret]\n      environment: [A=other-secret, C=other-secret, SAME=1]\n      limits: {memory: 128m, pids: 7}\n      volumes: [{path: /data}, {path: /new}]\n      hardening: {read_only: true}\n      user: '999'\n",
            "    lifecycle: {update: 'echo other-secret', provision: 'true'}\n",
        );
        let shown: Vec<String> = between(&old, &new).iter().map(ToString::to_string).collect();
        let text = shown.join("\n");
        for line in [
            "container.image: redis:6 -> redis:7",
            "container.command changed",
            "container.environment A changed",
            "container.environment B removed",
            "container.environment C added",
            "container.limits.memory_bytes: 67108864 -> 134217728",
            "container.limits.pids: ",
            "container.volumes /new added",
            "container.volumes /old removed",
            "container.hardening.read_only: false -> true",
            "container.user: + 999",
            "lifecycle.update changed",
            "lifecycle.provision added",
        ] {
            assert!(text.contains(line), "{line}:\n{text}");
        }
        assert!(!text.contains("secret") && !text.contains("SAME"), "{text}");
        assert!(!serde_json::to_string(&between(&old, &new)).unwrap().contains("secret"));
        assert_eq!(between(&new, &new), []);
    }

    #[test]
    fn names_and_prices_are_no_difference() {
        let old = plan("", "    metadata: {bullets: [cheap]}\n    free: true\n");
        let new = plan("", "    metadata: {bullets: [dear]}\n    free: false\n");
        assert_eq!(between(&old, &new), []);
    }
}
