//! `docker-broker convert-ops`: ops files of cf-containers-broker for this release.

use std::{fs, path::Path, process::Command};

use serde_yaml::Value;
use tempfile::TempDir;

use super::{declared, files, job_properties, used};
use crate::support::ops;

const OLD: &str = "tests/fixtures/legacy-services";
const JOB: &str = "/instance_groups/name=docker/jobs/name=cf-containers-broker";

/// Exit code, standard output and standard error of `docker-broker`.
fn docker_broker(arguments: &[&str]) -> (i32, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_docker-broker"))
        .args(arguments)
        .current_dir(ops::repository(""))
        .env("RUST_BACKTRACE", "0")
        .output()
        .unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

/// What becomes of an ops file, and the warnings.
fn converted(text: &str) -> (Value, String) {
    let directory = TempDir::new().unwrap();
    let file = write(&directory, "old.yml", text);
    let (code, out, err) = docker_broker(&["convert-ops", &file]);
    assert_eq!(code, 0, "{err}");
    (serde_yaml::from_str(&out).unwrap(), err.replace(&file, "old.yml"))
}

/// Why a file is refused.
fn refused(text: &str) -> String {
    let directory = TempDir::new().unwrap();
    let file = write(&directory, "old.yml", text);
    let (code, out, err) = docker_broker(&["convert-ops", &file]);
    assert_eq!((code, out.as_str()), (78, ""), "{err}");
    err.replace(&file, "old.yml")
}

fn write(directory: &TempDir, name: &str, text: &str) -> String {
    let file = directory.path().join(name);
    fs::write(&file, text).unwrap();
    file.to_str().unwrap().to_owned()
}

/// The manifest with a converted ops file applied.
fn applied(ops_file: &Value) -> Value {
    let mut manifest = ops::manifest(&[]).unwrap();
    ops::apply(&mut manifest, ops_file).unwrap();
    manifest
}

#[test]
fn every_old_service_file_is_converted_applies_and_passes_check_config() {
    let old = files(OLD);
    assert_eq!(old.len(), 15);
    for file in old {
        let path = format!("{OLD}/{file}");
        let (code, out, err) = docker_broker(&["convert-ops", &path]);
        assert_eq!(code, 0, "{err}");
        assert!(err.contains("dashboard_client is dropped"), "{err}");
        let ops_file: Value = serde_yaml::from_str(&out).unwrap();
        let manifest = applied(&ops_file);
        assert_eq!(used(&manifest), declared(&manifest), "{file}");
        assert_eq!(declared(&manifest), declared(&ops::manifest(&[]).unwrap()), "{file}");
        assert_eq!(job_properties::unknown_in(&manifest), [""; 0], "{file}");

        let directory = TempDir::new().unwrap();
        let new = write(&directory, &file, &out);
        let (code, _, err) = docker_broker(&["check-config", "--services", &new]);
        assert_eq!(code, 0, "{err}");
        let catalog = |services: &str| docker_broker(&["catalog", "--services", services]).1;
        assert_eq!(catalog(&new), catalog(&path), "{file}");
    }
}

#[test]
fn what_is_converted_already_stays_as_it_is() {
    let once = docker_broker(&["convert-ops", &format!("{OLD}/{}", files(OLD)[0])]).1;
    let directory = TempDir::new().unwrap();
    let (code, twice, err) = docker_broker(&["convert-ops", &write(&directory, "new.yml", &once)]);
    assert_eq!((code, err.as_str()), (0, ""));
    let value = |text: &str| serde_yaml::from_str::<Value>(text).unwrap();
    assert_eq!(value(&twice), value(&once));
}

#[test]
fn a_service_keeps_every_value_but_its_dashboard() {
    for file in files(OLD) {
        let path = format!("{OLD}/{file}");
        let old = ops::yaml(&path).unwrap();
        let mut expected = old[0]["value"].clone();
        expected.as_mapping_mut().unwrap().shift_remove("dashboard_client").unwrap();
        let new: Value = serde_yaml::from_str(&docker_broker(&["convert-ops", &path]).1).unwrap();
        assert_eq!(new[0]["value"], expected, "{file}");
        let icon = expected["metadata"]["imageUrl"].as_str().unwrap();
        let text = fs::read_to_string(ops::repository(&path)).unwrap();
        assert!(icon.starts_with("data:") && text.contains(icon), "{file}");
    }
    let memcached = docker_broker(&["convert-ops", &format!("{OLD}/memcached14.yml")]).1;
    let memcached: Value = serde_yaml::from_str(&memcached).unwrap();
    assert_eq!(memcached[0]["value"]["plans"].as_sequence().unwrap().len(), 3);
}

#[test]
fn several_files_become_one() {
    let paths: Vec<String> = files(OLD).iter().map(|file| format!("{OLD}/{file}")).collect();
    let mut arguments = vec!["convert-ops"];
    arguments.extend(paths.iter().map(String::as_str));
    let (code, out, err) = docker_broker(&arguments);
    assert_eq!(code, 0, "{err}");
    let manifest = applied(&serde_yaml::from_str(&out).unwrap());
    let services = &manifest["instance_groups"][0]["jobs"][1]["properties"]["services"];
    assert_eq!(services.as_sequence().unwrap().len(), 15);
}

/// The director reads YAML 1.1, in which more words are no texts.
#[test]
fn texts_that_look_like_something_else_stay_texts() {
    for text in ["yes", "off", "12345", "1e3", "~", "null", "0x1F", "a: b #c", "((x))", "é\nü "] {
        let value = serde_json::to_string(text).unwrap();
        let old = format!("[{{type: replace, path: {JOB}/properties/name, value: {value}}}]");
        assert_eq!(converted(&old).0[0]["value"], text);
    }
    let directory = TempDir::new().unwrap();
    let old = format!("[{{type: replace, path: {JOB}/properties/name, value: 'yes'}}]");
    let file = write(&directory, "old.yml", &old);
    assert!(docker_broker(&["convert-ops", &file]).1.contains("value: 'yes'"));
}

#[test]
fn an_ops_file_without_operations_becomes_one() {
    for text in ["", "[]"] {
        let (ops_file, warnings) = converted(text);
        assert_eq!(ops_file.as_sequence().unwrap().len(), 0);
        assert!(
            warnings.contains("old.yml: is empty") || warnings.contains("nothing of it is left")
        );
    }
}

#[test]
fn warnings_say_what_changes_for_a_plan() {
    let warnings = |file: &str| docker_broker(&["convert-ops", &format!("{OLD}/{file}")]).2;
    assert!(warnings("neo4j21.yml").contains("neo4j21/free: privileged"));
    assert!(warnings("rabbitmq33.yml").contains("the tag latest floats"));
    assert!(warnings("memcached14.yml").contains("memory: 1g is 1073741824 bytes now"));
    assert!(warnings("memcached14.yml").contains("max_containers of a plan is honoured now"));
    assert!(warnings("consul03.yml").contains("credentials.uri.uri was never read"));
    assert!(!warnings("op-redis32.yml").contains("/free: "), "{}", warnings("op-redis32.yml"));
}

#[test]
fn properties_that_are_still_there_are_kept_and_the_others_dropped_with_their_variables() {
    let (ops_file, warnings) = converted(&format!(
        "- {{type: replace, path: {JOB}/properties/password, value: ((docker-broker-password))}}
- {{type: replace, path: {JOB}/properties/max_containers, value: 20}}
- {{type: replace, path: '{JOB}/properties/external_host?', value: ((host))}}
- {{type: replace, path: {JOB}/properties/port, value: 80}}
- {{type: replace, path: {JOB}/properties/cookie_secret, value: ((cookie))}}
- {{type: replace, path: {JOB}/properties/unicorn?/worker_processes, value: 2}}
- {{type: replace, path: {JOB}/properties/frobnicate, value: ((both))}}
- {{type: replace, path: {JOB}/properties/name, value: ((both))}}
- {{type: replace, path: /variables/-, value: {{name: cookie, type: password}}}}
- {{type: replace, path: /variables/-, value: {{name: both, type: password}}}}
- {{type: replace, path: /variables/-, value: {{name: of-another-file, type: password}}}}
- {{type: replace, path: /releases/-, value: {{name: docker, version: 30.1.4}}}}
- {{type: remove, path: /instance_groups/name=subway}}
- {{type: replace, path: /instance_groups/name=docker/jobs/name=docker/properties/store_dir?, value: /x}}
- {{type: replace, path: /instance_groups/name=docker/jobs/name=docker/properties/mtu, value: 1400}}
- {{type: replace, path: /instance_groups/name=docker/vm_type, value: big}}
"
    ));
    let paths: Vec<&str> =
        ops_file.as_sequence().unwrap().iter().map(|op| op["path"].as_str().unwrap()).collect();
    let broker = "/instance_groups/name=docker/jobs/name=docker-broker/properties";
    assert_eq!(
        paths,
        [
            &format!("{broker}/password"),
            &format!("{broker}/max_containers?"),
            &format!("{broker}/external_host?"),
            &format!("{broker}/port?"),
            &format!("{broker}/name?"),
            "/variables/-",
            "/variables/-",
            "/instance_groups/name=docker/jobs/name=docker/properties/mtu?",
            "/instance_groups/name=docker/vm_type",
        ]
    );
    assert_eq!(job_properties::unknown_in(&applied(&ops_file)), [""; 0]);
    for expected in [
        "old.yml: [2]: external_host: is the host of the API",
        "old.yml: [3]: port: the broker is no root any more",
        "old.yml: [4]: is dropped: cookie_secret: it was for the dashboard",
        "old.yml: [5]: is dropped: unicorn: ",
        "old.yml: [6]: is dropped: frobnicate: there is no such property",
        "old.yml: [11]: is dropped: a release that this one replaces",
        "old.yml: [12]: is dropped: an instance group",
        "old.yml: [13]: is dropped: store_dir: ",
        "old.yml: [15]: /instance_groups/name=docker/vm_type is kept as it is",
    ] {
        assert!(warnings.contains(expected), "{expected}\n{warnings}");
    }
    assert!(!warnings.contains("[1]"), "{warnings}");
}

#[test]
fn what_is_no_ops_file_is_refused_with_a_sentence() {
    for (text, expected) in [
        ("just text", "is no BOSH ops file: that is a list of operations, each with type and path"),
        ("[{name: redis}]", "is no BOSH ops file"),
        ("{name: redis, plans: []}", "is a file of services, no ops file"),
        ("{name: x, instance_groups: []}", "is a manifest, no ops file"),
        ("services: []", "is a file of services, no ops file"),
        ("a: [", "is not valid YAML"),
        (&format!("[{{type: replace, path: {JOB}, value: {{}}}}]"), "is about the job as a whole"),
        (&format!("[{{type: replace, path: {JOB}/properties, value: {{}}}}]"), "as a whole"),
    ] {
        assert!(refused(text).contains(expected), "{text}: {}", refused(text));
    }
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    assert!(!Path::new("/does/not/exist.yml").exists());
    let (code, out, err) = docker_broker(&["convert-ops", "/does/not/exist.yml"]);
    assert_eq!((code, out.as_str()), (78, ""));
    assert!(err.contains("/does/not/exist.yml: cannot be read: No such file"), "{err}");
}
