//! Ops files for the job `cf-containers-broker`, made into one for the job `docker-broker`.
//!
//! The services themselves stay as they are, because their schema is accepted as it is; what
//! changes for them, and what cannot be kept, is said.

use std::{collections::BTreeSet, path::PathBuf};

use serde_yaml::{Mapping, Value};

use super::{
    Problem, Severity, emit,
    files::{is_operation, read},
    legacy::{self, Fate},
    problems::Problems,
};

const OLD_JOB: &str = "/jobs/name=cf-containers-broker";
const NEW_JOB: &str = "/instance_groups/name=docker/jobs/name=docker-broker";
const DOCKER_JOB: &str = "/instance_groups/name=docker/jobs/name=docker";
/// Releases that this one stands for.
const OLD_RELEASES: [&str; 4] = ["docker", "cf-containers-broker", "broker-registrar", "cf-subway"];

/// The new ops file, unless there are errors, and everything that was found.
#[must_use]
pub fn convert_ops(files: &[PathBuf]) -> (Option<String>, Vec<Problem>) {
    let problems = Problems::default();
    let mut kept = Vec::new();
    let mut dropped = BTreeSet::new();
    for file in files {
        let mut converter =
            Converter { problems: &problems, kept: &mut kept, dropped: &mut dropped };
        converter.file(file);
    }
    forget_variables(&mut kept, &dropped);
    let problems = problems.into_vec();
    let failed = problems.iter().any(|problem| problem.severity == Severity::Error);
    (if failed { None } else { Some(emit::document(&kept.into())) }, problems)
}

struct Converter<'a> {
    problems: &'a Problems,
    kept: &'a mut Vec<Value>,
    /// Variables that something used which is dropped.
    dropped: &'a mut BTreeSet<String>,
}

impl Converter<'_> {
    fn file(&mut self, file: &std::path::Path) {
        let shown = file.display().to_string();
        let Some(document) = read(file, self.problems) else {
            return;
        };
        let operations = match document {
            Value::Sequence(items) if items.iter().all(is_operation) => items,
            Value::Mapping(map) if map.contains_key("plans") || map.contains_key("services") => {
                return self.problems.error(
                    shown,
                    "is a file of services, no ops file; the broker reads it as it is (--services)",
                );
            }
            Value::Mapping(map) if map.contains_key("instance_groups") => {
                return self.problems.error(
                    shown,
                    "is a manifest, no ops file; deploy manifests/docker-broker.yml instead of it",
                );
            }
            _ => {
                return self.problems.error(
                    shown,
                    "is no BOSH ops file: that is a list of operations, each with type and path",
                );
            }
        };
        let before = self.kept.len();
        for (index, operation) in operations.into_iter().enumerate() {
            self.operation(operation, &format!("{shown}: [{index}]"));
        }
        if self.kept.len() == before {
            self.problems.warning(shown, "nothing of it is left");
        }
    }

    fn operation(&mut self, operation: Value, at: &str) {
        let path = operation["path"].as_str().unwrap_or_default().to_owned();
        if let Some((group, rest)) = path.split_once(OLD_JOB) {
            self.of_the_broker(operation, group, rest, at);
        } else if let Some(rest) = path
            .strip_prefix(DOCKER_JOB)
            .filter(|rest| rest.is_empty() || rest.starts_with(['/', '?']))
        {
            self.of_docker(operation, rest, at);
        } else if names_old_release(&path, &operation["value"]) {
            self.drop(
                &operation,
                at,
                "a release that this one replaces; name docker-broker instead",
            );
        } else if path.starts_with("/instance_groups")
            && !path.starts_with("/instance_groups/name=docker/")
        {
            self.drop(
                &operation,
                at,
                "an instance group that the manifest of this release has not",
            );
        } else {
            let known = path.starts_with("/variables/") || path.starts_with(NEW_JOB);
            if !known {
                self.problems.warning(at, format!("{path} is kept as it is: see whether it fits"));
            }
            self.kept.push(operation);
        }
    }

    /// An operation on the job cf-containers-broker.
    fn of_the_broker(&mut self, mut operation: Value, group: &str, rest: &str, at: &str) {
        if group != "/instance_groups/name=docker" {
            let new = "the instance group of the new manifest is docker";
            self.problems.warning(at, format!("{group}: {new}"));
        }
        let Some(property) = rest.strip_prefix("/properties/") else {
            return self.problems.error(
                at,
                "is about the job as a whole; write what it sets as operations on its properties",
            );
        };
        let (name, below) = split(property);
        if name == "services" {
            if let Some(value) = operation.get_mut("value") {
                self.services(value, at);
            }
            operation["path"] = format!("{NEW_JOB}/properties/services{below}").into();
            return self.kept.push(operation);
        }
        match legacy::property(name, &operation["value"]) {
            Fate::Kept(note) => {
                if let Some(note) = note {
                    self.problems.warning(at, format!("{name}: {note}"));
                }
                let optional = if legacy::in_manifest(name) { "" } else { "?" };
                operation["path"] = format!("{NEW_JOB}/properties/{name}{optional}{below}").into();
                self.kept.push(operation);
            }
            Fate::Dropped(why) => self.drop(&operation, at, &format!("{name}: {why}")),
        }
    }

    /// An operation on the job docker, which kept its name and most of its properties.
    fn of_docker(&mut self, mut operation: Value, rest: &str, at: &str) {
        let Some(property) = rest.strip_prefix("/properties/") else {
            return self.drop(
                &operation,
                at,
                "the job docker as a whole; set its properties one by one",
            );
        };
        let (name, below) = split(property);
        if let Some(why) = legacy::docker_property(name) {
            return self.drop(&operation, at, &format!("{name}: {why}"));
        }
        operation["path"] = format!("{DOCKER_JOB}/properties/{name}?{below}").into();
        self.kept.push(operation);
    }

    /// One service, or a list of them.
    fn services(&mut self, value: &mut Value, at: &str) {
        let services = match value {
            Value::Sequence(items) => items.iter_mut().collect(),
            one => vec![one],
        };
        for service in services.into_iter().filter_map(Value::as_mapping_mut) {
            let name =
                service.get("name").and_then(Value::as_str).unwrap_or("a service").to_owned();
            if let Some(client) = service.shift_remove("dashboard_client") {
                self.dropped.extend(variables(&client));
                self.problems.warning(
                    at,
                    format!("{name}: dashboard_client is dropped: there is no dashboard"),
                );
            }
            for plan in service.get("plans").and_then(Value::as_sequence).into_iter().flatten() {
                let plan_name = plan["name"].as_str().unwrap_or("a plan");
                for note in legacy::plan_notes(plan) {
                    self.problems.warning(at, format!("{name}/{plan_name}: {note}"));
                }
            }
        }
    }

    fn drop(&mut self, operation: &Value, at: &str, why: &str) {
        self.dropped.extend(variables(operation));
        self.problems.warning(at, format!("is dropped: {why}"));
    }
}

/// The name of a property, without `?`, and the rest of the path.
fn split(property: &str) -> (&str, &str) {
    let end = property.find('/').unwrap_or(property.len());
    let (name, below) = property.split_at(end);
    (name.trim_end_matches('?'), below)
}

fn names_old_release(path: &str, value: &Value) -> bool {
    let Some(rest) = path.strip_prefix("/releases/") else { return false };
    let by_path = rest.strip_prefix("name=").map(|name| split(name).0);
    let name = by_path.or_else(|| value["name"].as_str());
    name.is_some_and(|name| OLD_RELEASES.contains(&name))
}

/// Drops the declarations of variables that only dropped things used.
fn forget_variables(kept: &mut Vec<Value>, dropped: &BTreeSet<String>) {
    let used: BTreeSet<String> = kept.iter().flat_map(variables).collect();
    kept.retain(|operation| {
        let declares = operation["path"] == "/variables/-";
        let name = operation["value"]["name"].as_str().unwrap_or_default();
        !declares || !dropped.contains(name) || used.contains(name)
    });
}

/// Names of the `((variables))` in a value, without the part behind the dot.
fn variables(value: &Value) -> BTreeSet<String> {
    match value {
        Value::String(text) => text
            .split("((")
            .skip(1)
            .filter_map(|part| part.split_once("))"))
            .map(|(name, _)| name.split('.').next().unwrap_or(name).to_owned())
            .collect(),
        Value::Sequence(items) => items.iter().flat_map(variables).collect(),
        Value::Mapping(map) => map_variables(map),
        _ => BTreeSet::new(),
    }
}

fn map_variables(map: &Mapping) -> BTreeSet<String> {
    map.values().flat_map(variables).collect()
}
