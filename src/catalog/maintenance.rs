//! The maintenance version that follows a plan's image and configuration.
//!
//! A platform calls an instance outdated when its version differs from the plan's. The version is
//! `1.0.0+` and the beginning of a hash over what makes the container and what runs in it. What is
//! for people or for the catalog alone (names, descriptions, prices, limits on numbers) is not in
//! it, nor is what the image is at the moment behind its tag.
//!
//! The text that is hashed is made here, key by key, and not by a derive: a new release of the
//! broker must not call every instance outdated. A key that is at its default is left out, so a
//! new one changes nothing for those who do not use it. The order of keys is that of the alphabet.

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::{
    ContainerPlan, Hardening, ImageVersion, Limits, MaintenanceInfo, Parameters, Plan, Script,
    ServiceTls, hex, plan::Credentials,
};

/// Digits of the hash in a version: enough for a few plans, short enough to be read out.
const HASH_DIGITS: usize = 12;
/// What a platform shows before an upgrade.
const DESCRIPTION: &str = "Makes the service's container anew, from the present image and \
                           configuration. The service does not answer for a moment.";

/// The maintenance information of a plan that states none; `None` if its instances have no
/// containers of their own.
#[must_use]
pub fn derived(plan: &Plan) -> Option<MaintenanceInfo> {
    if plan.container.existing.is_some() || plan.tenancy.is_some() {
        return None;
    }
    let mut what = what_runs(plan);
    insert(&mut what, "limits", limits(&plan.container.limits));
    let hash = hex(&Sha256::digest(text(what)));
    Some(MaintenanceInfo {
        version: format!("1.0.0+{}", &hash[..HASH_DIGITS]),
        description: Some(DESCRIPTION.to_owned()),
    })
}

/// Whether a container of one plan may do other things to its data than one of the other. Limits
/// on memory and the like change nothing on the disk.
#[must_use]
pub fn runs_the_same(one: &Plan, other: &Plan) -> bool {
    text(what_runs(one)) == text(what_runs(other))
}

fn text(map: Map<String, Value>) -> String {
    let mut text = String::new();
    write(&Value::Object(map), &mut text);
    text
}

/// JSON with sorted keys, whatever `serde_json` was built with.
fn write(value: &Value, text: &mut String) {
    match value {
        Value::Object(map) => {
            let mut entries: Vec<_> = map.iter().collect();
            entries.sort_by_key(|(key, _)| *key);
            text.push('{');
            for (index, (key, value)) in entries.into_iter().enumerate() {
                if index > 0 {
                    text.push(',');
                }
                text.push_str(&Value::from(key.as_str()).to_string());
                text.push(':');
                write(value, text);
            }
            text.push('}');
        }
        Value::Array(items) => {
            text.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    text.push(',');
                }
                write(item, text);
            }
            text.push(']');
        }
        other => text.push_str(&other.to_string()),
    }
}

/// Adds a key, unless it is at its default.
fn insert(map: &mut Map<String, Value>, key: &str, value: impl Into<Value>) {
    let value = value.into();
    let is_default = match &value {
        Value::Null | Value::Bool(false) => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(entries) => entries.is_empty(),
        Value::Bool(true) | Value::Number(_) | Value::String(_) => false,
    };
    if !is_default {
        map.insert(key.to_owned(), value);
    }
}

fn what_runs(plan: &Plan) -> Map<String, Value> {
    let mut map = container(&plan.container);
    insert(&mut map, "credentials", credentials(&plan.credentials));
    insert(&mut map, "hooks", hooks(plan));
    if let Parameters::Declared(names) = &plan.parameters {
        insert(&mut map, "parameters", json!(names));
    }
    insert(&mut map, "tls", plan.tls.as_ref().map_or(Value::Null, tls));
    if let Some(version) = &plan.data_version {
        let mut entry = Map::new();
        insert(&mut entry, "file", version.file.as_str());
        insert(&mut entry, "after", version.after.as_deref());
        insert(&mut entry, "may_be_missing", version.may_be_missing);
        match &version.image {
            ImageVersion::Environment(name) => insert(&mut entry, "environment", name.as_str()),
            ImageVersion::Exec(command) => insert(&mut entry, "exec", command.as_slice()),
            ImageVersion::Value(value) => insert(&mut entry, "value", value.as_str()),
        }
        insert(&mut map, "data_version", entry);
    }
    map
}

fn container(plan: &ContainerPlan) -> Map<String, Value> {
    let mut map = Map::new();
    insert(&mut map, "image", plan.image.to_string());
    insert(&mut map, "command", plan.command.as_slice());
    insert(&mut map, "entrypoint", plan.entrypoint.as_deref());
    insert(&mut map, "workdir", plan.workdir.as_deref());
    insert(&mut map, "user", plan.user.as_deref());
    let restart = super::RestartPolicy::default();
    insert(&mut map, "restart", (plan.restart != restart).then(|| json!(plan.restart)));
    insert(&mut map, "environment", json!(plan.environment));
    insert(&mut map, "secret_environment", plan.secret_environment.as_slice());
    insert(&mut map, "expose_ports", json!(plan.expose_ports));
    let volumes = plan.volumes.iter().map(|volume| {
        // Its owner and mode count when it is made, and never again.
        json!({ "path": volume.path })
    });
    insert(&mut map, "volumes", volumes.collect::<Vec<_>>());
    insert(&mut map, "hardening", hardening(&plan.hardening));
    insert(&mut map, "stop_timeout_ms", json!(plan.stop_timeout.as_millis()));
    map
}

fn limits(limits: &Limits) -> Map<String, Value> {
    let mut map = Map::new();
    insert(&mut map, "memory", limits.memory_bytes);
    insert(&mut map, "memory_swap", limits.memory_swap_bytes);
    insert(&mut map, "cpu_shares", limits.cpu_shares);
    insert(&mut map, "nano_cpus", limits.nano_cpus);
    insert(&mut map, "pids", limits.pids);
    insert(&mut map, "shm_size", limits.shm_size_bytes);
    insert(&mut map, "nofile", limits.nofile);
    map
}

fn hardening(hardening: &Hardening) -> Map<String, Value> {
    let mut map = Map::new();
    insert(&mut map, "cap_drop", hardening.cap_drop.as_slice());
    insert(&mut map, "cap_add", hardening.cap_add.as_slice());
    insert(&mut map, "new_privileges", !hardening.no_new_privileges);
    insert(&mut map, "read_only", hardening.read_only);
    let tmpfs = hardening.tmpfs.iter().map(|tmpfs| json!([tmpfs.path, tmpfs.options]));
    insert(&mut map, "tmpfs", tmpfs.collect::<Vec<_>>());
    insert(&mut map, "privileged", hardening.privileged);
    map
}

/// Those that reach the container.
fn credentials(credentials: &Credentials) -> Map<String, Value> {
    let mut map = Map::new();
    let named = [
        ("username", &credentials.username),
        ("password", &credentials.password),
        ("dbname", &credentials.dbname),
    ];
    for (name, credential) in named {
        let entry = credential.as_ref().and_then(|credential| {
            let key = credential.key.as_deref()?;
            Some(json!([key, credential.value]))
        });
        insert(&mut map, name, entry);
    }
    map
}

fn hooks(plan: &Plan) -> Map<String, Value> {
    let mut map = Map::new();
    for action in super::Action::ALL {
        let script = plan.lifecycle.hook(action).map(|hook| match &hook.script {
            Script::Path(path) => json!({ "path": path }),
            Script::Optional(path) => json!({ "optional": path }),
            Script::Text(text) => json!({ "text": text }),
        });
        insert(&mut map, action.as_str(), script);
    }
    insert(&mut map, "user", plan.lifecycle.user.as_deref());
    map
}

fn tls(tls: &ServiceTls) -> Value {
    json!({
        "directory": tls.directory, "owner": [tls.owner.0, tls.owner.1], "mode": tls.mode,
        "required": tls.required,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A plan of a file, as the configuration makes it.
    fn plan(yaml: &str) -> Plan {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("service.yml");
        let text = format!(
            "id: s\nname: s\ndescription: s\nplans:\n- id: p\n  name: p\n  description: p\n{yaml}"
        );
        std::fs::write(&file, text).unwrap();
        let (catalog, problems) = crate::config::load_services(&[file]);
        let catalog = catalog.unwrap_or_else(|| panic!("{problems:?}"));
        (*catalog.services()[0].plans[0]).clone()
    }

    const SMALL: &str = "  container: {image: 'redis:7'}\n";
    const FULL: &str = r"
  lifecycle: {bind: echo bind, unbind: /unbind, user: root}
  parameters: {colour: COLOUR}
  credentials: {password: {key: PASSWORD}, username: {value: shown}}
  container:
    image: registry.example.com/postgres@sha256:0000000000000000000000000000000000000000000000000000000000000000
    command: [postgres, -c, a=b]
    user: '999:999'
    environment: [B=2, A=1, EMPTY=]
    secret_environment: [ROOT]
    expose_ports: [5432/tcp]
    volumes: [{path: /data, owner: '999:999', size: 1g}]
    limits: {memory: 256m, cpus: 0.5}
    hardening: {cap_drop: [ALL], read_only: true, tmpfs: ['/tmp:size=1m']}
    stop_timeout: 60s
";

    fn version(yaml: &str) -> String {
        derived(&plan(yaml)).unwrap().version
    }

    /// These are what platforms know. If one changes, every instance of every deployment seems to
    /// be outdated after an upgrade of the broker: see the head of this file before you change it.
    #[test]
    fn the_versions_of_plans_are_the_same_in_every_release_of_the_broker() {
        assert_eq!(version(SMALL), "1.0.0+b2cab256c896");
        assert_eq!(version(FULL), "1.0.0+394873aac617");
    }

    #[test]
    fn what_makes_the_container_is_in_the_version_and_what_is_shown_is_not() {
        let known = version(FULL);
        for (old, new) in [
            ("a=b", "a=c"),
            ("'999:999'\n", "'998:999'\n"),
            ("A=1", "A=2"),
            ("B=2, A=1", "A=1, B=2"),
            ("@sha256:0", "@sha256:1"),
            ("[ROOT]", "[ROOT, OTHER]"),
            ("5432", "5433"),
            ("path: /data", "path: /other"),
            ("256m", "512m"),
            ("read_only: true", "read_only: false"),
            ("60s", "61s"),
            ("echo bind", "echo more"),
            ("COLOUR", "COLOR"),
            ("PASSWORD", "SECRET"),
        ] {
            assert_ne!(version(&FULL.replacen(old, new, 1)), known, "{old} {new}");
        }
        for (old, new) in [
            ("value: shown", "value: otherwise"),
            (
                "\n  container:",
                "\n  free: false\n  metadata: {x: 1}\n  max_containers: 3\n  container:",
            ),
            ("size: 1g", "size: 2g"),
            ("stop_timeout:", "readiness: {timeout: 7s}\n    stop_timeout:"),
        ] {
            assert_eq!(version(&FULL.replacen(old, new, 1)), known, "{old} {new}");
        }
    }

    #[test]
    fn memory_alone_changes_nothing_in_what_runs() {
        let (one, other) = (plan(FULL), plan(&FULL.replace("256m", "512m")));
        assert!(runs_the_same(&one, &other));
        assert!(!runs_the_same(&one, &plan(&FULL.replace("a=b", "a=c"))));
    }

    #[test]
    fn a_container_that_the_broker_does_not_make_has_no_version() {
        assert_eq!(derived(&plan("  container: {existing: mine}\n")), None);
    }
}
