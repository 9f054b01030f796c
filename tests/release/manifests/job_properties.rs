//! What manifest and ops files set is in the specs of the jobs.

use std::collections::BTreeSet;

use serde_yaml::{Mapping, Value};

use super::files;
use crate::support::ops;

/// Names of the properties of a job.
fn known(job: &str) -> BTreeSet<String> {
    let spec = ops::yaml(&format!("jobs/{job}/spec")).unwrap();
    let properties = spec["properties"].as_mapping().unwrap();
    properties.keys().map(|name| name.as_str().unwrap().to_owned()).collect()
}

/// Values that are set and belong to no property, by their paths.
fn unknown(properties: &Mapping, prefix: &str, known: &BTreeSet<String>) -> Vec<String> {
    let mut found = Vec::new();
    for (key, value) in properties {
        let path = format!("{prefix}{}", key.as_str().unwrap());
        match value {
            _ if known.contains(&path) => {}
            Value::Mapping(inner) => found.extend(unknown(inner, &format!("{path}."), known)),
            _ => found.push(path),
        }
    }
    found
}

/// Of every job of this release in a manifest.
pub(super) fn unknown_in(manifest: &Value) -> Vec<String> {
    let jobs = manifest["instance_groups"][0]["jobs"].as_sequence().unwrap();
    let ours = jobs.iter().filter(|job| job["release"] == "docker-broker");
    ours.flat_map(|job| {
        unknown(job["properties"].as_mapping().unwrap(), "", &known(job["name"].as_str().unwrap()))
    })
    .collect()
}

#[test]
fn every_property_that_is_set_is_in_the_spec_of_its_job() {
    let none: [String; 0] = [];
    assert_eq!(unknown_in(&ops::manifest(&[]).unwrap()), none);
    for directory in ["operators", "services"] {
        for file in files(directory) {
            let manifest = ops::manifest(&[&format!("{directory}/{file}")]).unwrap();
            assert_eq!(unknown_in(&manifest), none, "{file}");
        }
    }
}

#[test]
fn a_property_that_no_spec_has_is_found() {
    let mut manifest = ops::manifest(&[]).unwrap();
    let path = "/instance_groups/name=docker/jobs/name=docker-broker/properties/tls?/certificat";
    let op = format!("[{{type: replace, path: {path}, value: PEM}}]");
    ops::apply(&mut manifest, &serde_yaml::from_str(&op).unwrap()).unwrap();
    assert_eq!(unknown_in(&manifest), ["tls.certificat"]);
}
