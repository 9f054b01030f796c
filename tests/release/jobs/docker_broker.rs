//! Templates of job docker-broker.

use serde_json::{Value, json};

use super::{broker_properties, certificate, with};
use crate::support::render::{self, Deployment, Rendered};

fn render(more: &Value) -> Rendered {
    render::job("docker-broker", &with(broker_properties(), more), &json!({}))
        .expect("the properties are right")
}

fn settings_of(rendered: &Rendered) -> Value {
    serde_yaml::from_str(&rendered.file("config/broker.yml")).expect("YAML")
}

#[test]
fn without_a_certificate_the_api_is_plain_on_all_addresses() {
    let rendered = render(&json!({}));
    let settings = settings_of(&rendered);
    assert_eq!(settings["listen_address"], "0.0.0.0");
    assert_eq!(settings["port"], 5555);
    assert_eq!(settings.get("tls"), None);
    assert_eq!(rendered.file("config/certificate.pem"), "");
    assert!(rendered.file("monit").contains("host 127.0.0.1 port 5555 protocol http"));
}

#[test]
fn with_a_certificate_the_api_is_https_and_plain_http_stays_on_the_vm() {
    let (certificate, key) = certificate();
    let rendered = render(&json!({
        "tls": {"certificate": certificate, "private_key": key}, "port": 8443, "loopback_port": 7777,
    }));
    let settings = settings_of(&rendered);
    assert_eq!(settings["listen_address"], "127.0.0.1");
    assert_eq!(settings["port"], 7777);
    assert_eq!(settings["tls"]["listen_address"], "0.0.0.0");
    assert_eq!(settings["tls"]["port"], 8443);
    for (setting, name, pem) in
        [("certificate", "certificate.pem", certificate), ("private_key", "private_key.pem", key)]
    {
        let path = format!("/var/vcap/jobs/docker-broker/config/{name}");
        assert_eq!(settings["tls"][setting], path);
        assert_eq!(rendered.file(&format!("config/{name}")).trim(), pem.trim());
    }
    assert!(rendered.file("monit").contains("host 127.0.0.1 port 7777 protocol http"));
}

#[test]
fn a_ca_for_services_is_a_setting_with_its_key() -> anyhow::Result<()> {
    assert_eq!(settings_of(&render(&json!({}))).get("service_tls"), None);
    let (ca_certificate, ca_private_key) = certificate();
    let given = json!({"ca_certificate": ca_certificate, "ca_private_key": ca_private_key});
    assert_eq!(settings_of(&render(&json!({ "service_tls": given })))["service_tls"], given);

    let alone = json!({"service_tls": {"ca_certificate": ca_certificate}});
    let deployment = Deployment::new(with(broker_properties(), &alone));
    let error = deployment.render("docker-broker").expect_err("without its key").to_string();
    anyhow::ensure!(error.contains("service_tls.ca_private_key"), "{error}");
    Ok(())
}

#[test]
fn every_property_of_the_same_name_is_a_setting() {
    let given = json!({
        "username": "platform", "password": "p", "require_api_version": false,
        "services": [{"id": "s", "name": "n", "plans": []}], "fetch_images": false,
        "pull": "never", "images_directory": "/images",
        "registries": [{"host": "r:5000", "username": "u", "password": "p"}],
        "max_parallel_pulls": 7, "host_directory": "/var/vcap/store/elsewhere",
        "encryption_keys": ["the newest of all the keys", "the one before that, kept"],
        "max_containers": 20, "host_ports": "10000-10999", "instances_per_network": 500,
        "max_parallel_starts": 4, "operation_timeout": "1h",
        "reconcile_interval": "5m", "docker_url": "tcp://10.0.0.9:2375",
        "upgrade_snapshot": {"mode": "copy", "max_size": "1g", "when_too_large": "skip"},
        "log_level": "debug", "log_format": "text",
        "store_backup": {"interval": "5m", "keep": 3}, "external_ip": "10.1.1.1",
    });
    let settings = settings_of(&render(&given));
    for (key, value) in given.as_object().expect("a mapping") {
        assert_eq!(&settings[key], value, "{key}");
    }
    assert_eq!(settings["data_directory"], "/var/vcap/store/docker-broker");
}

#[test]
fn name_and_external_host_are_for_the_platform_and_binding_host_for_bindings() {
    let given = json!({"name": "stateful", "external_host": "broker.example.com"});
    let settings = settings_of(&render(&given));
    assert_eq!(settings.get("name"), None, "the broker's own name never changes");
    assert_eq!(settings.get("external_host"), None);

    let settings = settings_of(&render(&json!({"binding_host": "db.example.com"})));
    assert_eq!(settings["external_host"], "db.example.com");
}

#[test]
fn ports_are_published_on_the_address_of_the_vm_unless_another_is_given() -> anyhow::Result<()> {
    let mut deployment = Deployment::new(broker_properties());
    deployment.spec = json!({"ip": "10.0.0.5", "address": "docker.internal"});
    assert_eq!(settings_of(&deployment.render("docker-broker")?)["external_ip"], "10.0.0.5");

    deployment.properties["external_ip"] = json!("192.0.2.7");
    assert_eq!(settings_of(&deployment.render("docker-broker")?)["external_ip"], "192.0.2.7");
    Ok(())
}

#[test]
fn create_env_gives_an_address_but_no_ip_and_no_links() -> anyhow::Result<()> {
    let rendered = Deployment::create_env(broker_properties()).render("docker-broker")?;
    assert_eq!(settings_of(&rendered)["external_ip"], "10.0.0.6");
    Ok(())
}

#[test]
fn monit_asks_the_broker_whether_it_serves() {
    let expected = "\
check process docker-broker
  with pidfile /var/vcap/sys/run/docker-broker/docker-broker.pid
  start program \"/var/vcap/jobs/docker-broker/bin/start\" with timeout 20 seconds
  stop program \"/var/vcap/jobs/docker-broker/bin/stop\" with timeout 60 seconds
  group vcap
  if failed host 127.0.0.1 port 5555 protocol http request \"/healthz\" with timeout 10 seconds for 3 cycles then restart
";
    assert_eq!(render(&json!({})).file("monit"), expected);
}

#[test]
fn a_deploy_waits_for_the_broker_as_long_as_the_property_says() {
    let post_start = render(&json!({"ready_timeout": "20m"})).file("bin/post-start");
    let last = post_start.lines().last();
    assert_eq!(last, Some("as_vcap \"$broker\" wait --config \"$config\" --timeout 20m"));
}

#[test]
fn no_script_knows_a_secret() {
    let rendered = render(&json!({
        "password": "the-password", "encryption_keys": ["the-encryption-key-itself"],
        "registries": [{"host": "r", "username": "u", "password": "the-registry-password"}],
    }));
    for script in rendered.scripts() {
        let text = std::fs::read_to_string(&script).expect("it was rendered");
        for secret in ["the-password", "the-encryption-key", "the-registry-password"] {
            assert!(!text.contains(secret), "{} has {secret}", script.display());
        }
    }
}
