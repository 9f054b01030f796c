//! Images with scripts of their own, as an earlier broker ran them.

use std::{fs, os::unix::fs::PermissionsExt};

use serde_json::json;

use crate::support::{TestBroker, docker_ok};

const SERVICE: (&str, &str) = ("old-service", "old-plan");

/// An image whose scripts know nothing of this broker: no environment, no input, arguments only
/// for `/unbind`.
fn build(tag: &str, scripts: &[(&str, &str)]) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let copies = scripts.iter().map(|(name, _)| format!("COPY {name} /{name}"));
    let lines: Vec<String> = std::iter::once("FROM busybox:1".to_owned()).chain(copies).collect();
    for (name, text) in scripts {
        let path = directory.path().join(name);
        fs::write(&path, format!("#!/bin/sh\n{text}\n")).expect("a script can be written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("its mode is set");
    }
    fs::write(directory.path().join("Dockerfile"), lines.join("\n"))
        .expect("a Dockerfile can be written");
    docker_ok(&["build", "-q", "-t", tag, &directory.path().display().to_string()]);
}

/// Removes the image with the test.
struct Image(String);

impl Drop for Image {
    fn drop(&mut self) {
        crate::support::docker(&["rmi", "-f", &self.0]);
    }
}

async fn broker(name: &str, scripts: &[(&str, &str)]) -> (TestBroker, Image) {
    let image = Image(format!("docker-broker-test/{name}:1"));
    build(&image.0, scripts);
    let yaml = format!(
        "services:\n- id: {}\n  name: old\n  description: an old image\n  plans:\n  - id: {}
    name: plan
    description: a plan
    lifecycle: image
    container:
      image: {}
      pull: never
      command: [sh, -c, 'touch /tmp/up; exec sleep 1000000']
      expose_ports: [3306/tcp, 33060/tcp]
      readiness: {{exec: [test, -e, /tmp/up]}}
      stop_timeout: 0s
    credentials:
      password: {{key: ADMIN}}
      uri: {{port: 3306/tcp}}
",
        SERVICE.0, SERVICE.1, image.0
    );
    (TestBroker::builder().yaml(yaml, SERVICE.0, SERVICE.1).start().await, image)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_image_with_its_four_scripts_works_unmodified() {
    let scripts = [
        (
            "provision",
            "[ $# = 0 ] || exit 1; echo provision >> /tmp/ran; \
             echo '{\"dashboard_url\": \"http://$HOST:$PORT_33060/x\"}'",
        ),
        (
            "bind",
            "[ $# = 0 ] || exit 1; echo bind >> /tmp/ran; \
             echo '{\"uri\": \"mysql://a:b@$HOST:$PORT_3306/db\"}'",
        ),
        ("unbind", "echo \"unbind $*\" >> /tmp/ran"),
        ("deprovision", "[ $# = 0 ] || exit 1; echo deprovision"),
    ];
    let (broker, _image) = broker("old", &scripts).await;
    let client = &broker.client;
    client.provision("i").await.expect(201);
    let document = client.bind("i", "b").await.expect(201);
    let port = |inner: &str| {
        let text = docker_ok(&["port", &broker.container("i"), inner]);
        text.rsplit(':').next().unwrap().to_owned()
    };
    let uri = format!("mysql://a:b@127.0.0.1:{}/db", port("3306/tcp"));
    assert_eq!(document["credentials"], json!({ "uri": uri }));
    let dashboard = format!("http://127.0.0.1:{}/x", port("33060/tcp"));
    let fetched = client.get("/v2/service_instances/i").await.expect(200);
    assert_eq!(fetched["dashboard_url"], dashboard.as_str());
    client.unbind("i", "b").await.expect(200);
    let ran = docker_ok(&["exec", &broker.container("i"), "cat", "/tmp/ran"]);
    assert_eq!(ran, format!("provision\nbind\nunbind {dashboard}"));
    client.deprovision("i").await.expect(200);
    assert!(broker.log_text().contains("operation succeeded"));
}

#[tokio::test(flavor = "multi_thread")]
async fn scripts_that_an_image_lacks_are_left_out() {
    let (broker, _image) = broker("partial", &[("provision", "touch /tmp/provisioned")]).await;
    let client = &broker.client;
    client.provision("i").await.expect(201);
    docker_ok(&["exec", &broker.container("i"), "test", "-e", "/tmp/provisioned"]);
    // Nobody made a user, so the binding has the instance's password.
    let document = client.bind("i", "b").await.expect(201);
    let script = ["sh", "-c", "echo \"$ADMIN\""];
    let password = docker_ok(&[&["exec", &broker.container("i")], &script[..]].concat());
    assert_eq!(document["credentials"]["password"], password.as_str());
    assert_eq!(document["credentials"].get("username"), None);
    client.unbind("i", "b").await.expect(200);
    client.deprovision("i").await.expect(200);
}
