//! Properties that are refused, each with the sentence that names it: by the template if one is
//! missing, by the pre-start of the job if one is wrong.

use std::{fs, process::Command};

use serde_json::{Value, json};

use super::{broker_properties, certificate, with};
use crate::support::render;

fn template_says(job: &str, properties: &Value, message: &str) {
    let error = render::job(job, properties, &json!({})).expect_err(message);
    let error = error.to_string();
    assert!(error.contains(message), "{properties}: {error}");
}

/// What pre-start of job docker-broker would say: its `check-config`, on the rendered settings.
fn check_config(properties: &Value) -> Result<String, String> {
    let rendered = render::job("docker-broker", properties, &json!({})).expect("it renders");
    let settings = rendered.directory().join("config/broker.yml");
    let here = rendered.directory().display().to_string();
    let text = rendered.file("config/broker.yml").replace("/var/vcap/jobs/docker-broker", &here);
    fs::write(&settings, text).expect("the file is ours");
    let output = Command::new(env!("CARGO_BIN_EXE_docker-broker"))
        .args(["check-config", "--config"])
        .arg(&settings)
        .output()
        .expect("the command can be started");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    match output.status.code() {
        Some(0) => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        Some(78) => Err(said),
        code => panic!("check-config ended with {code:?}: {said}"),
    }
}

#[test]
fn a_credential_that_is_missing_is_named() {
    for name in ["username", "password", "encryption_keys"] {
        let properties = with(broker_properties(), &json!({ name: null }));
        template_says("docker-broker", &properties, &format!("Can't find property '{name}'"));
    }
}

#[test]
fn a_certificate_needs_its_key_and_a_key_its_certificate() {
    for (given, missing) in [("certificate", "tls.private_key"), ("private_key", "tls.certificate")]
    {
        let properties = with(broker_properties(), &json!({"tls": { given: "PEM" }}));
        template_says("docker-broker", &properties, &format!("Can't find property '{missing}'"));
    }
}

#[test]
fn the_engine_is_not_opened_over_tcp_without_certificates() {
    let all = json!({
        "tcp_address": "0.0.0.0", "tls_cacert": "PEM", "tls_cert": "PEM", "tls_key": "PEM",
    });
    for name in ["tls_cacert", "tls_cert", "tls_key"] {
        let properties = with(all.clone(), &json!({ name: null }));
        template_says("docker", &properties, &format!("Can't find property '{name}'"));
    }
}

#[test]
fn options_of_the_engine_that_are_no_pairs_are_named() {
    for name in ["log_options", "default_ulimits"] {
        let message = format!("Property '{name}': \"nonsense\" must be NAME=VALUE");
        template_says("docker", &json!({ name: ["nonsense"] }), &message);
    }
}

#[test]
fn limits_that_are_no_numbers_are_named() {
    for wrong in ["nofile=abc", "nofile=", "nofile=1024:", "nofile=1k", "nofile=1:2:3", "nofile=-2"]
    {
        let message = format!("Property 'default_ulimits': \"{wrong}\" must have whole numbers");
        template_says("docker", &json!({ "default_ulimits": [wrong] }), &message);
    }
}

#[test]
fn a_registry_that_is_no_host_or_has_no_certificate_is_named() -> anyhow::Result<()> {
    let (pem, _) = certificate();
    for (host, certificate, message) in [
        ("../evil", pem.as_str(), "registry_ca_cert: \"../evil\" is no host or host:port"),
        ("", pem.as_str(), "registry_ca_cert: \"\" is no host or host:port"),
        ("r:5000", "/a/path", "registry_ca_cert: ca_cert of r:5000 is not a certificate in PEM"),
    ] {
        let given = json!({"registry_ca_cert": [{"domain_name": host, "ca_cert": certificate}]});
        let rendered = render::job("docker", &given, &json!({}))?;
        let script = rendered.directory().join("bin/registry-certificates");
        let output = Command::new(script).arg("--check").output()?;
        assert!(!output.status.success());
        assert_eq!(String::from_utf8_lossy(&output.stderr).trim(), message);
    }
    Ok(())
}

#[test]
fn good_settings_are_accepted_by_the_broker() {
    let (certificate, key) = certificate();
    let images = tempfile::tempdir().expect("a directory");
    let all = with(
        broker_properties(),
        &json!({
            "tls": {"certificate": certificate, "private_key": key},
            "registries": [{"host": "r:5000", "username": "u", "password": "12345"}],
            "images_directory": images.path(), "pull": "never",
            "binding_host": "services.example.com", "max_containers": "20",
        }),
    );
    for properties in [broker_properties(), all] {
        let said = check_config(&properties).expect("the settings are good");
        assert!(said.contains("the configuration is good"), "{said}");
    }
}

#[test]
fn a_wrong_property_is_named_by_the_broker() {
    let plan = json!({"id": "p", "name": "p", "description": "d", "container": {}});
    let without_image = json!({"services": [
        {"id": "s", "name": "s", "description": "d", "bindable": true, "plans": [plan]},
    ]});
    for (wrong, message) in [
        (json!({"port": 99_999}), "broker.yml: port: must be a whole number from 0 to 65535"),
        (json!({"port": "http"}), "broker.yml: port: must be a whole number"),
        (json!({"external_ip": "db.example.com"}), "external_ip: \"db.example.com\" is not an IP"),
        (json!({"external_ip": "0.0.0.0"}), "external_ip: is 0.0.0.0"),
        (json!({"username": "a:b"}), "username: must not be empty or contain a colon"),
        (json!({"password": ""}), "password: must not be empty"),
        (json!({"encryption_keys": ["short"]}), "encryption_keys[0]"),
        (json!({"max_containers": -1}), "max_containers: must be a whole number"),
        (json!({"host_ports": "many"}), "host_ports: \"many\" is not a range"),
        (json!({"docker_url": "docker"}), "docker_url: is \"docker\"; it must begin with unix://"),
        (json!({"pull": "sometimes"}), "pull: "),
        (json!({"images_directory": "/no/such"}), "images_directory: /no/such is not a readable"),
        (json!({"operation_timeout": "soon"}), "operation_timeout: "),
        (json!({"reconcile_interval": "often"}), "reconcile_interval: "),
        (json!({"upgrade_snapshot": {"mode": "sometimes"}}), "upgrade_snapshot.mode: "),
        (json!({"upgrade_snapshot": {"when_too_large": "x"}}), "upgrade_snapshot.when_too_large: "),
        (json!({"instances_per_network": 5000}), "instances_per_network: "),
        (json!({"log_level": "docker_broker=loud"}), "log_level: "),
        (json!({"log_format": "xml"}), "log_format: "),
        (json!({"registries": [{}]}), "registries[0].host"),
        (without_image, "services[0].plans[0].container.image"),
        (json!({"fetch_images": "perhaps"}), "fetch_images: "),
    ] {
        let said = check_config(&with(broker_properties(), &wrong)).expect_err(message);
        assert!(said.contains(message), "{wrong}: {said}");
        assert!(said.contains("1 error"), "{wrong} is one mistake: {said}");
    }
}

#[test]
fn a_certificate_that_cannot_be_used_is_named_by_the_broker() {
    let (certificate, key) = certificate();
    let (_, other_key) = super::certificate();
    for (certificate, private_key, message) in [
        ("nonsense", key.as_str(), "certificate.pem holds no certificate"),
        (&certificate, "nonsense", "private_key.pem"),
        (&certificate, &other_key, "certificate.pem and its key cannot be used"),
    ] {
        let tls = json!({"tls": {"certificate": certificate, "private_key": private_key}});
        let said = check_config(&with(broker_properties(), &tls)).expect_err(message);
        assert!(said.contains("error: tls: ") && said.contains(message), "{said}");
    }
}
