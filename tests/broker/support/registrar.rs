//! The real `broker-registrar`.

use std::process::{Command, Stdio};

use serde_json::{Value, json};

use super::{ADMIN, Finished, Platform, TestBroker};

/// Name of the broker in the platform.
pub(crate) const BROKER: &str = "docker-broker";

/// Settings for this platform and broker.
pub(crate) fn registrar_settings(platform: &Platform, broker: &TestBroker) -> Value {
    json!({
        "cf": { "api_url": platform.url(), "username": ADMIN.0, "password": ADMIN.1 },
        "broker": {
            "name": BROKER,
            "url": format!("http://{}", broker.client.address),
            "username": broker.client.username,
            "password": broker.client.password,
        },
    })
}

/// Runs it to its end. Whatever it says, no secret of the settings is in it.
pub(crate) async fn registrar(
    command: &str,
    settings: &Value,
    environment: &[(&str, &str)],
) -> Finished {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = directory.path().join("registrar.yml");
    std::fs::write(&file, settings.to_string()).expect("settings can be written");
    let mut process = Command::new("timeout");
    process
        .args(["110", env!("CARGO_BIN_EXE_broker-registrar")])
        .args(command.split_whitespace())
        .arg("--config")
        .arg(&file)
        .stdin(Stdio::null());
    for name in ["http_proxy", "https_proxy", "all_proxy", "no_proxy"] {
        process.env_remove(name).env_remove(name.to_uppercase());
    }
    process.envs(environment.iter().copied());
    let output = tokio::task::spawn_blocking(move || process.output())
        .await
        .expect("it ends")
        .expect("the command can be started");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let done = Finished {
        code: output.status.code(),
        stdout: text(&output.stdout),
        stderr: text(&output.stderr),
    };
    for secret in ["/cf/password", "/cf/client_secret", "/broker/password"] {
        if let Some(secret) = settings.pointer(secret).and_then(Value::as_str) {
            assert!(!format!("{done:?}").contains(secret), "{done:?}");
        }
    }
    assert!(!format!("{done:?}").contains("secret-"), "a token: {done:?}");
    done
}
