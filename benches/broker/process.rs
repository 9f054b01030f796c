//! The broker as a process of its own, on a data directory of its own.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{docker::Docker, http::Connection, osb};

const SERVICES: &str = include_str!("redis.yml");
/// Key for secrets at rest, which seeded rows need as well.
pub(crate) const KEY: &str = "bench-key-bench-key-bench-key";
const PATIENCE: Duration = Duration::from_mins(1);
const PAUSE: Duration = Duration::from_millis(1);
/// Host ports per broker.
pub(crate) const PORTS: u16 = 400;

/// A broker, running or not. Dropping it ends its process and removes what it made.
pub(crate) struct Broker {
    binary: PathBuf,
    docker: Docker,
    name: String,
    data: TempDir,
    address: SocketAddr,
    child: Option<Child>,
}

impl Broker {
    /// Writes its settings. `docker_url` is dockerd's, unless the broker is not to reach it.
    pub(crate) fn new(
        binary: &Path,
        docker: &Docker,
        docker_url: &str,
        name: &str,
        first_port: u16,
    ) -> Result<Self> {
        Self::serving(SERVICES, binary, docker, docker_url, name, first_port)
    }

    /// The same with other services.
    pub(crate) fn serving(
        services_yaml: &str,
        binary: &Path,
        docker: &Docker,
        docker_url: &str,
        name: &str,
        first_port: u16,
    ) -> Result<Self> {
        let data = tempfile::tempdir()?;
        let services = data.path().join("services.yml");
        fs::write(&services, services_yaml)?;
        // The log is quiet, so the port has to be known before.
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        let settings = json!({
            "name": name, "username": osb::USER, "password": osb::PASSWORD,
            "port": address.port(), "data_directory": data.path(), "docker_url": docker_url,
            "host_ports": format!("{first_port}-{}", first_port + PORTS - 1),
            "encryption_keys": [KEY], "log_level": "warn", "service_files": [services],
        });
        // JSON is YAML.
        fs::write(data.path().join("broker.yml"), settings.to_string())?;
        let (binary, docker, name) = (binary.to_owned(), docker.clone(), name.to_owned());
        Ok(Self { binary, docker, name, data, address, child: None })
    }

    /// Changes a setting for the next start.
    pub(crate) fn set(&self, key: &str, value: impl Into<Value>) -> Result<()> {
        let file = self.data.path().join("broker.yml");
        let mut settings: Value = serde_json::from_slice(&fs::read(&file)?)?;
        settings[key] = value.into();
        Ok(fs::write(file, settings.to_string())?)
    }

    /// Starts the process: the time until it has given its first catalog.
    pub(crate) fn launch(&mut self) -> Result<Duration> {
        let log = fs::File::create(self.log())?;
        let catalog = osb::catalog();
        let mut command = Command::new(&self.binary);
        command.args(["serve", "--config"]).arg(self.data.path().join("broker.yml"));
        command.env_clear().stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let started = Instant::now();
        self.child = Some(command.spawn().context("the broker cannot be started")?);
        self.until("its first reply", || {
            let reply = self.connect()?.exchange(&catalog)?;
            reply.expect(200)
        })?;
        Ok(started.elapsed())
    }

    /// Starts the process and waits until it can make instances.
    pub(crate) fn launch_ready(&mut self) -> Result<()> {
        self.launch()?;
        let ready = osb::get("/readyz");
        self.until("readiness", || self.connect()?.exchange(&ready)?.expect(200))?;
        Ok(())
    }

    fn until<T>(&self, what: &str, mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
        let end = Instant::now() + PATIENCE;
        loop {
            match attempt() {
                Ok(done) => return Ok(done),
                Err(error) if Instant::now() > end => {
                    let log = fs::read_to_string(self.log()).unwrap_or_default();
                    return Err(error)
                        .context(format!("waited in vain for {what}; its log: {log}"));
                }
                Err(_) => sleep(PAUSE),
            }
        }
    }

    /// SIGTERM, and SIGKILL when that does not help.
    pub(crate) fn stop(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        let pid = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw);
        let asked =
            pid.map(|pid| rustix::process::kill_process(pid, rustix::process::Signal::TERM));
        let end = Instant::now() + Duration::from_secs(10);
        while matches!(asked, Some(Ok(()))) && Instant::now() < end {
            if let Ok(Some(_)) = child.try_wait() {
                return;
            }
            sleep(PAUSE);
        }
        // It may have ended by itself.
        drop(child.kill());
        drop(child.wait());
    }

    fn log(&self) -> PathBuf {
        self.data.path().join("log")
    }

    pub(crate) fn data(&self) -> &Path {
        self.data.path()
    }

    pub(crate) fn pid(&self) -> Result<u32> {
        Ok(self.child.as_ref().context("the broker does not run")?.id())
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn connect(&self) -> Result<Connection> {
        Connection::tcp(self.address)
    }

    /// Name of the container of an instance whose id is a plain name.
    pub(crate) fn container(&self, instance: &str) -> String {
        format!("{}-i-{instance}", self.name)
    }

    /// A value in KiB of `/proc/PID/status`, in MiB.
    pub(crate) fn memory_mib(&self, key: &str) -> Result<f64> {
        let pid = self.pid()?;
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
        let kib = line.and_then(|line| line.split_whitespace().next()).context("no such value")?;
        Ok(kib.parse::<f64>()? / 1024.0)
    }
}

/// Processor time of a process so far, in all its threads.
pub(crate) fn cpu_time(pid: u32) -> Result<Duration> {
    let mut nanoseconds = 0;
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        let text = fs::read_to_string(thread?.path().join("schedstat"))?;
        nanoseconds += text.split(' ').next().context("no time")?.parse::<u64>()?;
    }
    Ok(Duration::from_nanos(nanoseconds))
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.stop();
        self.docker.remove_labelled(&format!("io.docker-broker.owner={}", self.name));
    }
}
