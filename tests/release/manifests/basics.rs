//! The manifest alone, and what applies ops files to it.

use crate::support::ops::{self, Variables};

#[test]
fn the_manifest_deploys_as_it_is_with_generated_secrets_only() {
    let manifest = ops::deployment(&[], &Variables::new()).unwrap();
    let broker = &manifest["instance_groups"][0]["jobs"][1]["properties"];
    assert_eq!(broker["password"].as_str().unwrap().len(), 20);
    assert_eq!(broker["encryption_keys"][0].as_str().unwrap().len(), 40);
    assert!(broker["services"].as_sequence().unwrap().is_empty());
}
