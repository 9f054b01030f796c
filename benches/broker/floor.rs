//! The raw floor: what the broker does for an instance, done straight over dockerd's socket by
//! somebody who keeps no books. Same image, options, port, directory and network.

use std::{
    fs,
    net::{Ipv4Addr, TcpListener},
    os::unix::fs::{PermissionsExt, chown},
    path::PathBuf,
    sync::atomic::{AtomicU16, Ordering},
};

use anyhow::{Context, Result, ensure};
use serde_json::{Map, Value, json};
use tempfile::TempDir;

use crate::{
    docker::Docker,
    http::{Connection, request},
    redis,
};

const LABEL: &str = "io.docker-broker.bench";
const COMMAND: &str = "exec redis-server - <<CONFIG\nrequirepass $REDIS_PASSWORD\ndir /data\n\
                       appendonly yes\nsave \"\"\nCONFIG\n";
const REDIS_USER: u32 = 999;
const STOP_SECONDS: u32 = 10;

/// The other side of every comparison. Dropping it removes everything that it made.
pub(crate) struct Floor {
    docker: Docker,
    name: String,
    root: TempDir,
    next_port: AtomicU16,
}

/// What a client knows before it begins.
pub(crate) struct Ticket {
    pub(crate) name: String,
    port: u16,
    /// With all volumes; here one.
    home: PathBuf,
    directory: PathBuf,
    body: Value,
}

impl Ticket {
    /// Where its redis is, and its password.
    pub(crate) fn login(&self) -> (u16, &'static str) {
        (self.port, PASSWORD)
    }
}

const PASSWORD: &str = "p1234567890123456789012345678901";

impl Floor {
    pub(crate) fn new(docker: Docker, name: &str, first_port: u16) -> Result<Self> {
        let network = json!({
            "Name": name, "Driver": "bridge", "Labels": { LABEL: name },
            "Options": { "com.docker.network.bridge.enable_icc": "false" },
        });
        docker.call("POST", "/networks/create", Some(&network), 201)?;
        let (name, next_port) = (name.to_owned(), AtomicU16::new(first_port));
        Ok(Self { docker, name, root: tempfile::tempdir()?, next_port })
    }

    pub(crate) fn connect(&self) -> Result<Connection> {
        self.docker.connect()
    }

    /// A free port and everything that can be prepared.
    pub(crate) fn ticket(&self) -> Ticket {
        let port = loop {
            let port = self.next_port.fetch_add(1, Ordering::Relaxed);
            if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
                break port;
            }
        };
        let name = format!("{}-{port}", self.name);
        let home = self.root.path().join(&name);
        let directory = home.join("data");
        let body = json!({
            "Hostname": name, "User": "999:999", "Image": "redis:7",
            "Entrypoint": ["/bin/sh", "-c"], "Cmd": [COMMAND],
            "Env": [format!("REDIS_PASSWORD={PASSWORD}")],
            "ExposedPorts": { "6379/tcp": {} },
            "Labels": { LABEL: self.name },
            "StopTimeout": STOP_SECONDS,
            "HostConfig": {
                "Memory": 64 << 20, "MemorySwap": 64 << 20, "PidsLimit": 64,
                "LogConfig": {
                    "Type": "json-file", "Config": { "max-size": "10m", "max-file": "3" },
                },
                "NetworkMode": self.name,
                "PortBindings": {
                    "6379/tcp": [{ "HostIp": "127.0.0.1", "HostPort": port.to_string() }],
                },
                "RestartPolicy": { "Name": "always" },
                "Mounts": [{ "Type": "bind", "Source": directory, "Target": "/data" }],
                "CapAdd": [], "CapDrop": ["ALL"], "SecurityOpt": ["no-new-privileges"],
                "ReadonlyRootfs": true, "Tmpfs": { "/tmp": "size=16m" },
            },
        });
        Ticket { name, port, home, directory, body }
    }

    /// Directory, create, start, and wait until redis answers.
    pub(crate) fn provision(docker: &mut Connection, ticket: &Ticket) -> Result<()> {
        let made = (|| {
            fs::create_dir_all(&ticket.directory)?;
            chown(&ticket.directory, Some(REDIS_USER), Some(REDIS_USER))?;
            fs::set_permissions(&ticket.directory, fs::Permissions::from_mode(0o700))
        })();
        made.with_context(|| format!("cannot make {}", ticket.directory.display()))?;
        let path = format!("/containers/create?name={}", ticket.name);
        docker.exchange(&request("POST", &path, &[], Some(&ticket.body)))?.expect(201)?;
        let path = format!("/containers/{}/start", ticket.name);
        docker.exchange(&request("POST", &path, &[], None))?.expect(204)?;
        redis::wait(ticket.port, PASSWORD)?;
        Ok(())
    }

    /// Stop, remove, and the directory with its data.
    pub(crate) fn deprovision(docker: &mut Connection, ticket: &Ticket) -> Result<()> {
        let path = format!("/containers/{}/stop?t={STOP_SECONDS}", ticket.name);
        docker.exchange(&request("POST", &path, &[], None))?.expect(204)?;
        let path = format!("/containers/{}?force=true&v=true", ticket.name);
        docker.exchange(&request("DELETE", &path, &[], None))?.expect(204)?;
        Ok(fs::remove_dir_all(&ticket.home)?)
    }

    /// Stop and start, as an update would do it with a container that needs no other.
    pub(crate) fn restart(docker: &mut Connection, ticket: &Ticket) -> Result<()> {
        let path = format!("/containers/{}/stop?t={STOP_SECONDS}", ticket.name);
        docker.exchange(&request("POST", &path, &[], None))?.expect(204)?;
        let path = format!("/containers/{}/start", ticket.name);
        docker.exchange(&request("POST", &path, &[], None))?.expect(204)?;
        Ok(())
    }

    /// Fails unless both containers were made with the same options: a floor that does something
    /// else is none.
    pub(crate) fn check_same_options(&self, mine: &str, theirs: &str) -> Result<()> {
        let options = |name: &str| {
            let found = self.docker.call("GET", &format!("/containers/{name}/json"), None, 200)?;
            anyhow::Ok(comparable(&found))
        };
        let (mine, theirs) = (options(mine)?, options(theirs)?);
        let differing: Vec<String> = (mine.keys())
            .filter(|key| mine.get(*key) != theirs.get(*key))
            .map(|key| format!("{key}: {} here, {} there", mine[key], theirs[key]))
            .collect();
        ensure!(
            differing.is_empty(),
            "the raw floor does not make the broker's container any more; adapt floor.rs: {}",
            differing.join("; ")
        );
        Ok(())
    }
}

/// Options of a container without what has to differ: names, labels, port, directory, password.
fn comparable(found: &Value) -> Map<String, Value> {
    let mut options = Map::new();
    for part in ["Config", "HostConfig"] {
        options.extend(found[part].as_object().cloned().unwrap_or_default());
    }
    for key in ["Hostname", "Labels", "NetworkMode"] {
        options.remove(key);
    }
    for variable in options["Env"].as_array_mut().into_iter().flatten() {
        let name = variable.as_str().and_then(|text| text.split('=').next()).map(str::to_owned);
        *variable = name.into();
    }
    options["PortBindings"]["6379/tcp"][0]["HostPort"].take();
    options["Mounts"][0]["Source"].take();
    options
}

impl Drop for Floor {
    fn drop(&mut self) {
        self.docker.remove_labelled(&format!("{LABEL}={}", self.name));
    }
}
