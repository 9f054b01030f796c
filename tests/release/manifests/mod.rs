#![expect(clippy::unwrap_used, reason = "a test ends with what it did not find")]
//! The manifest with every ops file of `operators/` and `services/`.

mod applier;
mod basics;
mod bosh_cli;
mod conversion;
mod job_properties;
mod operators;
mod services;

use std::collections::BTreeSet;

use serde_yaml::Value;

use crate::support::ops;

/// Names of the `*.yml` of a directory, sorted.
fn files(directory: &str) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(ops::repository(directory))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "yml"))
        .map(|path| path.file_name().unwrap().to_str().unwrap().to_owned())
        .collect();
    names.sort();
    names
}

/// Names of the variables that a manifest declares.
fn declared(manifest: &Value) -> BTreeSet<String> {
    let entries = manifest["variables"].as_sequence().unwrap();
    let names: Vec<String> =
        entries.iter().map(|entry| entry["name"].as_str().unwrap().to_owned()).collect();
    let unique: BTreeSet<String> = names.iter().cloned().collect();
    assert_eq!(unique.len(), names.len(), "declared twice: {names:?}");
    unique
}

/// Names of the variables that a manifest uses, also as the CA of another one.
fn used(manifest: &Value) -> BTreeSet<String> {
    let mut names = ops::used(manifest);
    for entry in manifest["variables"].as_sequence().unwrap() {
        names.extend(entry["options"]["ca"].as_str().map(str::to_owned));
    }
    names
}
