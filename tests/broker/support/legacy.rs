//! Containers as cf-containers-broker makes them: over version 1.16 of Docker's API, with the host
//! settings in the call that starts them.

use std::{
    fs,
    io::{Read, Write},
    net::TcpListener,
    os::unix::{fs::PermissionsExt, net::UnixStream},
    path::PathBuf,
    process::Command,
};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::{docker, docker_ok};

/// A broker of long ago: its directory, and its containers, which go with the test.
pub(crate) struct Legacy {
    directory: TempDir,
    made: Vec<String>,
}

/// What a container is made of, beside what every one of that broker has.
pub(crate) struct Recipe<'a> {
    pub(crate) plan: &'a str,
    pub(crate) image: &'a str,
    /// A line for /bin/sh; empty: the image's own entry point.
    pub(crate) shell: &'a str,
    /// In the order of that broker, `NAME` aside.
    pub(crate) environment: Vec<String>,
    pub(crate) volumes: &'a [&'a str],
    /// Its directories are in no `HostConfig.Binds`: only `Mounts` tells them.
    pub(crate) without_binds: bool,
    /// Container ports with the host ports that they get.
    pub(crate) ports: &'a [(&'a str, u16)],
}

impl Drop for Legacy {
    fn drop(&mut self) {
        for id in &self.made {
            docker(&["rm", "-f", "-v", id]);
        }
    }
}

impl Legacy {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        Self { directory, made: Vec::new() }
    }

    /// Its host directory.
    pub(crate) fn directory(&self) -> PathBuf {
        self.directory.path().to_owned()
    }

    /// The directory of an instance.
    pub(crate) fn directory_of(&self, instance: &str) -> PathBuf {
        self.directory.path().join(format!("cf-{instance}"))
    }

    /// Makes and starts the container of an instance; dockerd's id.
    pub(crate) fn make(&mut self, instance: &str, recipe: &Recipe<'_>) -> String {
        let name = format!("cf-{instance}");
        let mut environment = recipe.environment.clone();
        environment.push(format!("NAME={name}"));
        let exposed: serde_json::Map<String, Value> =
            recipe.ports.iter().map(|(inner, _)| ((*inner).to_owned(), json!({}))).collect();
        let mut body = json!({
            "Hostname": "", "Domainname": "", "User": "", "AttachStdout": true,
            "AttachStderr": true, "Memory": 0, "MemorySwap": 0, "Env": environment,
            "Image": recipe.image, "WorkingDir": "", "ExposedPorts": exposed,
            "Volumes": {}, "Cmd": [], "Labels": {"plan_id": recipe.plan, "instance_id": instance},
        });
        if !recipe.shell.is_empty() {
            body["Entrypoint"] = json!(["/bin/sh", "-c"]);
            body["Cmd"] = json!([recipe.shell]);
        }
        let binds: Vec<String> = recipe
            .volumes
            .iter()
            .map(|volume| {
                let path = self.directory_of(instance).join(volume.trim_start_matches('/'));
                fs::create_dir_all(&path).expect("a directory can be made");
                let everybody = fs::Permissions::from_mode(0o777);
                fs::set_permissions(&path, everybody).expect("a mode can be set");
                format!("{}:{volume}", path.display())
            })
            .collect();
        let bindings: serde_json::Map<String, Value> = recipe
            .ports
            .iter()
            .map(|(inner, outer)| {
                // 0: it leaves the choice to Docker.
                let port = match outer {
                    0 => json!({}),
                    _ => json!({"HostPort": outer.to_string()}),
                };
                ((*inner).to_owned(), json!([port]))
            })
            .collect();
        let mut start = json!({
            "Binds": binds, "PortBindings": bindings, "PublishAllPorts": false, "Links": [],
            "Privileged": false, "ReadonlyRootfs": false, "CapAdd": [], "CapDrop": [],
            "RestartPolicy": {"Name": "always", "MaximumRetryCount": 0},
        });
        let version = if recipe.without_binds { "v1.41" } else { "v1.16" };
        if recipe.without_binds {
            let mounts = binds.iter().map(|bind| {
                let (source, target) = bind.split_once(':').expect("a bind");
                json!({"Type": "bind", "Source": source, "Target": target})
            });
            start["Mounts"] = mounts.collect();
            start["Binds"] = Value::Null;
            body["HostConfig"] = start.take();
        }
        let made = post(&format!("/{version}/containers/create?name={name}"), &body);
        let id = made["Id"].as_str().unwrap_or_else(|| panic!("{made}")).to_owned();
        self.made.push(id.clone());
        post(&format!("/{version}/containers/{id}/start"), &start);
        id
    }
}

/// Ports that are free now, where that broker took them from: those of outgoing connections.
pub(crate) fn ephemeral_ports<const N: usize>() -> [u16; N] {
    // All are held until all are known.
    let held = [(); N].map(|()| TcpListener::bind("0.0.0.0:0").expect("a port is free"));
    held.map(|listener| listener.local_addr().expect("it is bound").port())
}

/// What that broker derived, computed by other means than ours.
pub(crate) fn derived(kind: &str, instance: &str) -> String {
    let script = "printf %s \"$1\" | openssl md5 -binary | base64 | tr -dc '[:alnum:]' \
                  | cut -c1-16 | tr '[:upper:]' '[:lower:]'";
    let output = Command::new("sh")
        .args(["-c", script, "sh", &format!("{kind}-{instance}")])
        .output()
        .expect("a shell can be started");
    String::from_utf8(output.stdout).expect("letters").trim().to_owned()
}

/// An id as platforms make them.
pub(crate) fn guid() -> String {
    let hex = format!("{:032x}", rand::random::<u128>());
    let parts = [0..8, 8..12, 12..16, 16..20, 20..32].map(|part| &hex[part]);
    parts.join("-")
}

/// Id, start and process of a container: they change when it is stopped.
pub(crate) fn life(container: &str) -> String {
    docker_ok(&["inspect", "-f", "{{.Id}} {{.State.StartedAt}} {{.State.Pid}}", container])
}

fn post(path: &str, body: &Value) -> Value {
    let mut stream = UnixStream::connect("/var/run/docker.sock").expect("dockerd listens");
    let body = body.to_string();
    write!(
        stream,
        "POST {path} HTTP/1.1\r\nHost: docker\r\nContent-Type: application/json\r\n\
         Connection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .expect("dockerd reads");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("dockerd answers");
    let (head, body) = text.split_once("\r\n\r\n").expect("a head");
    assert!(head.starts_with("HTTP/1.1 20"), "{path}: {text}");
    serde_json::from_str(body.trim()).unwrap_or(Value::Null)
}
