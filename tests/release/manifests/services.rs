//! Every file of `services/` as an ops file. What the broker makes of them is tested elsewhere.

use std::collections::BTreeSet;

use serde_yaml::Value;

use super::{declared, files, used};
use crate::support::ops;

const PATH: &str = "/instance_groups/name=docker/jobs/name=docker-broker/properties/services/-";

/// All services, each with the name of its file.
fn services() -> Vec<(String, Value)> {
    let service = |file: String| {
        let operations = ops::yaml(&format!("services/{file}")).unwrap();
        let [operation] = operations.as_sequence().unwrap().as_slice() else {
            panic!("{file}: one operation")
        };
        assert_eq!((&operation["type"], &operation["path"]), (&"replace".into(), &PATH.into()));
        (file, operation["value"].clone())
    };
    files("services").into_iter().map(service).collect()
}

#[test]
fn every_file_adds_one_service_of_its_name_with_its_plans_and_needs_no_variable() {
    for (file, service) in services() {
        let manifest = ops::manifest(&[&format!("services/{file}")]).unwrap();
        let listed = &manifest["instance_groups"][0]["jobs"][1]["properties"]["services"];
        assert_eq!(listed.as_sequence().unwrap(), std::slice::from_ref(&service));
        assert_eq!(used(&manifest), declared(&manifest), "{file}");
        assert_eq!(file, format!("op-{}.yml", service["name"].as_str().unwrap()));
        let plans = service["plans"].as_sequence().unwrap();
        let names: Vec<&str> = plans.iter().map(|plan| plan["name"].as_str().unwrap()).collect();
        let shared = file.starts_with("op-shared-");
        let expected: &[&str] = if shared { &["shared"] } else { &["small", "large"] };
        assert_eq!(names, expected, "{file}");
    }
}

#[test]
fn no_id_is_used_twice() {
    let mut ids = BTreeSet::new();
    for (file, service) in services() {
        let plans = service["plans"].as_sequence().unwrap().clone();
        for item in std::iter::once(&service).chain(&plans) {
            assert!(ids.insert(item["id"].as_str().unwrap().to_owned()), "{file}");
        }
    }
}

#[test]
fn every_service_has_an_icon_by_url_and_every_plan_limits_and_a_check_that_talks() {
    for (file, service) in services() {
        let icon = service["metadata"]["imageUrl"].as_str().unwrap();
        assert!(icon.starts_with("https://"), "{file}: {icon}");
        for plan in service["plans"].as_sequence().unwrap() {
            let check = &plan["sanity_test"];
            assert!(check["send"].is_string() || check["exec"].is_sequence(), "{file}");
            let container = &plan["container"];
            for limit in ["memory", "cpus", "pids", "nofile"] {
                assert!(!container["limits"][limit].is_null(), "{file}: no limit {limit}");
            }
            let drops = &container["hardening"]["cap_drop"];
            assert_eq!(drops, &serde_yaml::from_str::<Value>("[ALL]").unwrap(), "{file}");
            let user = container["user"].as_str().unwrap();
            assert!(!user.starts_with("0:") && !user.starts_with("root"), "{file}");
            assert_ne!(container["tag"].as_str().unwrap(), "latest", "{file}");
        }
    }
}

/// What is sent with a length in it was counted by hand.
#[test]
fn a_body_that_a_check_sends_is_as_long_as_it_says() {
    let mut counted = 0;
    for (file, service) in services() {
        for plan in service["plans"].as_sequence().unwrap() {
            let send = plan["sanity_test"]["send"].as_str().unwrap_or_default();
            let send = send
                .replace("{{username}}", &"u".repeat(16))
                .replace("{{password}}", &"p".repeat(32));
            let Some((head, body)) = send.split_once("\r\n\r\n") else { continue };
            let Some((_, length)) = head.split_once("Content-Length: ") else { continue };
            let length = length.lines().next().unwrap().trim_end();
            assert_eq!(length, body.len().to_string(), "{file}");
            counted += 1;
        }
    }
    assert_eq!(counted, 4);
}

#[test]
fn both_readmes_have_a_row_for_every_service() {
    for (readme, link) in [("services/README.md", ""), ("README.md", "services/")] {
        let text = std::fs::read_to_string(ops::repository(readme)).unwrap();
        for (file, service) in services() {
            let row = format!("| `{link}{file}` | {}", service["name"].as_str().unwrap());
            let rows = text.lines().filter(|line| line.starts_with(&row)).count();
            assert_eq!(rows, 1, "{readme}: {row}");
        }
    }
}
