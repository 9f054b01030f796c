//! See `main.rs`.

mod docker;
mod docker_broker;
mod drain;
mod pre_start;
mod properties;
mod refused;
mod registrar;
mod sandbox;
mod sanity_test;
mod scripts;
mod secrets;
mod stop;
mod upgrade_all_instances;

use serde_json::{Value, json};

/// The jobs of the release.
const JOBS: [&str; 6] = [
    "docker",
    "docker-broker",
    "broker-registrar",
    "broker-deregistrar",
    "sanity-test",
    "upgrade-all-instances",
];

/// The least that the errands of the registrar need without links.
fn registrar_properties() -> Value {
    json!({
        "cf": {"api_url": "https://api.example.com", "username": "admin", "password": "admin's"},
        "servicebroker": {
            "url": "http://10.0.0.5:5555", "name": "docker-broker", "username": "broker",
            "password": "secret",
        },
    })
}

/// The least that job docker-broker needs.
fn broker_properties() -> Value {
    json!({
        "username": "broker",
        "password": "secret",
        "encryption_keys": ["a key of at least 20 characters"],
    })
}

/// `base` with the keys of `more` set; `null` takes one away.
fn with(mut base: Value, more: &Value) -> Value {
    for (key, value) in more.as_object().expect("properties are a mapping") {
        match value {
            Value::Null => drop(base.as_object_mut().expect("a mapping").remove(key)),
            value => base[key] = value.clone(),
        }
    }
    base
}

/// A self-signed certificate and its key, PEM.
fn certificate() -> (String, String) {
    let made = rcgen::generate_simple_self_signed(["broker.example.com".to_owned()])
        .expect("a certificate can be made");
    (made.cert.pem(), made.signing_key.serialize_pem())
}
