//! The manifest alone.

use super::{declared, used};
use crate::support::ops::{self, Variables};

#[test]
fn the_manifest_deploys_as_it_is_with_generated_secrets_only() {
    let manifest = ops::deployment(&[], &Variables::new()).unwrap();
    let broker = &manifest["instance_groups"][0]["jobs"][1]["properties"];
    assert_eq!(broker["password"].as_str().unwrap().len(), 20);
    assert_eq!(broker["encryption_keys"][0].as_str().unwrap().len(), 40);
    assert!(broker["services"].as_sequence().unwrap().is_empty());
}

#[test]
fn the_manifest_uses_every_variable_that_it_declares() {
    let manifest = ops::manifest(&[]).unwrap();
    assert_eq!(used(&manifest), declared(&manifest));
}

#[test]
fn the_manifest_names_jobs_that_the_release_has_and_one_vm_with_a_disk() {
    let manifest = ops::manifest(&[]).unwrap();
    let groups = manifest["instance_groups"].as_sequence().unwrap();
    assert_eq!(groups.len(), 1);
    assert_eq!(
        (groups[0]["name"].as_str(), groups[0]["instances"].as_u64()),
        (Some("docker"), Some(1))
    );
    assert!(groups[0]["persistent_disk"].as_u64().unwrap() > 0);
    for job in groups[0]["jobs"].as_sequence().unwrap() {
        assert_eq!(job["release"], "docker-broker");
        let name = job["name"].as_str().unwrap();
        assert!(ops::repository("jobs").join(name).join("spec").is_file(), "no job {name}");
    }
}

#[test]
fn the_cloud_config_has_what_the_manifest_names() {
    let (manifest, cloud) =
        (ops::manifest(&[]).unwrap(), ops::yaml("manifests/boshlite-cloud-config.yml").unwrap());
    let group = &manifest["instance_groups"][0];
    let has = |list: &str, name: &serde_yaml::Value| {
        let items = cloud[list].as_sequence().unwrap();
        assert!(items.iter().any(|item| &item["name"] == name), "no {name:?} in {list}");
    };
    has("azs", &group["azs"][0]);
    has("vm_types", &group["vm_type"]);
    has("networks", &group["networks"][0]["name"]);
}
