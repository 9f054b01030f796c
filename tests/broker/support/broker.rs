//! The real binary as a child process.

use std::{
    fs,
    io::{BufRead, BufReader},
    os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixListener},
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};

use rand::Rng;
use serde_json::Value;
use tempfile::TempDir;

use super::{
    Arguments, Client, Issued, PATIENCE, REDIS, docker, eventually, redis_yaml, remove_labelled,
    unique,
};

/// How to start a broker.
#[derive(Debug, Clone)]
pub(crate) struct Builder {
    name: String,
    settings: Vec<String>,
    services: Vec<PathBuf>,
    yaml: Option<String>,
    ids: (String, String),
    environment: Vec<(String, String)>,
    /// Keeps the host ports for this broker.
    _ports: Arc<UnixListener>,
    /// Run in this network namespace (`nsenter --net=PATH`).
    namespace: Option<PathBuf>,
}

impl Default for Builder {
    fn default() -> Self {
        let (first, ports) = reserve_ports();
        Self {
            name: unique("t-"),
            settings: vec![format!("host_ports: {first}-{}", first + PORTS - 1)],
            services: Vec::new(),
            yaml: Some(redis_yaml("")),
            ids: (REDIS.0.to_owned(), REDIS.1.to_owned()),
            environment: Vec::new(),
            _ports: Arc::new(ports),
            namespace: None,
        }
    }
}

/// Host ports of one broker.
const PORTS: u32 = 200;

/// Brokers run side by side on one host, in several processes, so each takes a range of ports that
/// no other has: whoever holds the socket of that name has the range. Its first port.
pub(crate) fn reserve_ports() -> (u32, UnixListener) {
    let ranges = 12_000 / PORTS;
    let start = rand::rng().random_range(0..ranges);
    (0..ranges)
        .map(|step| 20_000 + (start + step) % ranges * PORTS)
        .find_map(|first| {
            let name = format!("docker-broker-test-ports-{first}");
            let address = SocketAddr::from_abstract_name(name).expect("a short name");
            UnixListener::bind_addr(&address).ok().map(|socket| (first, socket))
        })
        .expect("a range of ports is free")
}

impl Builder {
    /// Adds a line (or several) to the settings file. A key that is there already is replaced.
    pub(crate) fn setting(mut self, line: impl Into<String>) -> Self {
        let line = line.into();
        let key = line.split(':').next().unwrap_or_default().to_owned();
        self.settings.retain(|known| known.split(':').next() != Some(key.as_str()));
        self.settings.push(line);
        self
    }

    /// Serves this YAML instead of the quick redis.
    pub(crate) fn yaml(mut self, yaml: impl Into<String>, service_id: &str, plan_id: &str) -> Self {
        self.yaml = Some(yaml.into());
        self.ids = (service_id.to_owned(), plan_id.to_owned());
        self
    }

    /// Serves [`super::switch_yaml`] instead of the quick redis.
    pub(crate) fn switch(self, timeout: &str) -> Self {
        let (service, plan) = super::SWITCH;
        self.yaml(super::switch_yaml(timeout, ""), service, plan)
    }

    /// Serves shipped files instead of the quick redis; requests are about the first one.
    pub(crate) fn services(mut self, files: &[PathBuf]) -> Self {
        self.yaml = None;
        self.services = files.to_vec();
        self.ids = super::plan_of(&files[0]);
        self
    }

    /// Other shipped files for the next start.
    pub(crate) fn set_services(&mut self, files: &[PathBuf]) {
        self.services = files.to_vec();
    }

    pub(crate) fn environment(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    pub(crate) fn namespace(mut self, path: &Path) -> Self {
        self.namespace = Some(path.to_owned());
        self
    }

    /// Starts it and waits until it is ready.
    pub(crate) async fn start(self) -> TestBroker {
        let broker = self.start_unready().await;
        broker.ready().await;
        broker
    }

    /// Starts it and waits until it listens.
    pub(crate) async fn start_unready(self) -> TestBroker {
        let mut broker = self.prepare();
        broker.launch().await;
        broker
    }

    /// Everything but starting it: its data directory is there, and empty.
    pub(crate) fn prepare(self) -> TestBroker {
        let data = tempfile::tempdir().expect("a temporary directory");
        let mut broker = TestBroker {
            builder: self,
            data,
            child: None,
            lines: Arc::default(),
            earlier: Vec::new(),
            client: Client {
                address: String::new(),
                username: "broker".to_owned(),
                password: unique("pw-"),
                service_id: String::new(),
                plan_id: String::new(),
                issued: Issued::default(),
            },
        };
        Arguments::watch();
        broker.client.issued.add(&broker.client.password);
        (broker.client.service_id, broker.client.plan_id) = broker.builder.ids.clone();
        broker
    }
}

/// A running broker. Dropping it removes everything that it made.
#[derive(Debug)]
pub(crate) struct TestBroker {
    pub(crate) builder: Builder,
    pub(crate) data: TempDir,
    child: Option<Child>,
    lines: Arc<Mutex<Vec<String>>>,
    /// Logs of its earlier processes.
    earlier: Vec<Arc<Mutex<Vec<String>>>>,
    pub(crate) client: Client,
}

impl TestBroker {
    /// A broker with the quick redis.
    pub(crate) fn builder() -> Builder {
        Builder::default()
    }

    /// Name of the broker: prefix of its containers.
    pub(crate) fn name(&self) -> &str {
        &self.builder.name
    }

    /// Name of the container of an instance whose id is a plain name.
    pub(crate) fn container(&self, instance: &str) -> String {
        format!("{}-i-{instance}", self.name())
    }

    /// Root of the instance directories.
    pub(crate) fn directories(&self) -> PathBuf {
        self.data.path().join("instances")
    }

    pub(crate) fn settings_file(&self) -> PathBuf {
        self.data.path().join("broker.yml")
    }

    /// Changes how the next [`TestBroker::launch`] starts it.
    pub(crate) fn set_environment(&mut self, name: &str, value: Option<&str>) {
        self.builder.environment.retain(|(known, _)| known != name);
        if let Some(value) = value {
            self.builder.environment.push((name.to_owned(), value.to_owned()));
        }
    }

    /// Changes the services for the next [`TestBroker::launch`].
    pub(crate) fn set_yaml(&mut self, yaml: String) {
        self.builder.yaml = Some(yaml);
    }

    /// Removes the store, as a broken disk would.
    pub(crate) fn lose_store(&self) {
        for file in ["broker.db", "broker.db-wal", "broker.db-shm"] {
            // The last two are there only after a crash.
            drop(fs::remove_file(self.data.path().join(file)));
        }
    }

    /// `docker-broker rebuild-store` with the broker's settings.
    pub(crate) fn rebuild_store(&self) -> super::Finished {
        self.write_settings();
        let file = self.settings_file();
        super::docker_broker(&["rebuild-store", "--config", file.to_str().expect("a path")])
    }

    /// `docker-broker serve`, which has to end by itself.
    pub(crate) fn refused_start(&self) -> super::Finished {
        self.write_settings();
        let file = self.settings_file();
        super::docker_broker(&["serve", "--config", file.to_str().expect("a path")])
    }

    /// Starts the process on the same data; returns when it listens.
    pub(crate) async fn launch(&mut self) {
        self.write_settings();
        if let Err(log) = self.try_launch().await {
            panic!("the broker has ended instead of listening:\n{log}");
        }
    }

    /// Starts the process on the same data and with the settings as they are; returns when it
    /// listens, or with its log if it has ended.
    pub(crate) async fn try_launch(&mut self) -> Result<(), String> {
        let binary = env!("CARGO_BIN_EXE_docker-broker");
        let mut command = match &self.builder.namespace {
            Some(path) => {
                let mut command = Command::new("nsenter");
                command.arg(format!("--net={}", path.display())).arg(binary);
                command
            }
            None => Command::new(binary),
        };
        command
            .args(["serve", "--config"])
            .arg(self.settings_file())
            .args(["--log-format", "json"])
            .env("DOCKER_BROKER_PASSWORD", &self.client.password)
            .envs(self.builder.environment.iter().map(|(name, value)| (name, value)))
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let mut child = command.spawn().expect("the broker can be started");
        let stderr = child.stderr.take().expect("its log is piped");
        self.child = Some(child);
        let lines = Arc::new(Mutex::new(Vec::new()));
        self.earlier.push(std::mem::replace(&mut self.lines, Arc::clone(&lines)));
        // Ends when the broker closes its log.
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                lines.lock().expect("no test panics while it holds the log").push(line);
            }
        });
        let end = std::time::Instant::now() + PATIENCE;
        let url = loop {
            let ended = !self.is_running();
            let found = self.log().iter().find_map(|entry| {
                let listening = entry["message"] == "listening";
                entry["url"]
                    .as_str()
                    .filter(|u| listening && u.starts_with("http://"))
                    .map(str::to_owned)
            });
            match found {
                Some(url) => break url,
                None if ended => return Err(self.log_text()),
                None if std::time::Instant::now() > end => {
                    panic!("the broker does not listen:\n{}", self.log_text())
                }
                None => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        };
        url.trim_start_matches("http://").clone_into(&mut self.client.address);
        Ok(())
    }

    /// Whether the process is there and has not ended.
    pub(crate) fn is_running(&mut self) -> bool {
        let Some(child) = &mut self.child else { return false };
        child.try_wait().expect("the broker can be waited for").is_none()
    }

    /// Writes the settings file, for commands that run without a broker.
    pub(crate) fn write_settings(&self) {
        let builder = &self.builder;
        let mut settings = builder.settings.clone();
        settings.push(format!("name: {}", builder.name));
        settings.push(format!("data_directory: {}", self.data.path().display()));
        settings.push("port: 0".to_owned());
        let mut files = builder.services.clone();
        if let Some(yaml) = &builder.yaml {
            let file = self.data.path().join("services.yml");
            fs::write(&file, yaml).expect("the service file can be written");
            files.push(file);
        }
        let list: Vec<String> = files.iter().map(|file| format!("- {}", file.display())).collect();
        settings.push(format!("service_files:\n{}", list.join("\n")));
        fs::write(self.settings_file(), settings.join("\n")).expect("settings can be written");
    }

    /// Waits until `/readyz` says ready.
    pub(crate) async fn ready(&self) {
        eventually("the broker to be ready", async || {
            let reply = self.client.raw(http::Method::GET, "/readyz", &[], "").await?;
            if reply.status == 200 { Ok(()) } else { Err(reply.json().to_string()) }
        })
        .await;
    }

    /// The log so far, each line parsed.
    pub(crate) fn log(&self) -> Vec<Value> {
        let lines = self.lines.lock().expect("the log is not poisoned");
        lines.iter().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// The log so far, as it is.
    pub(crate) fn log_text(&self) -> String {
        self.lines.lock().expect("the log is not poisoned").join("\n")
    }

    /// The logs of all processes so far, as they are.
    pub(crate) fn whole_log(&self) -> String {
        let of = |lines: &Arc<Mutex<Vec<String>>>| {
            lines.lock().expect("the log is not poisoned").join("\n")
        };
        let texts: Vec<String> = self.earlier.iter().chain([&self.lines]).map(of).collect();
        texts.join("\n")
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.as_ref().expect("the broker was started").id()
    }

    /// SIGKILL, and waits for the end.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have ended by itself.
            drop(child.kill());
            child.wait().expect("the broker can be waited for");
        }
    }

    /// SIGTERM; how long it took and whether it succeeded.
    pub(crate) async fn terminate(&mut self) -> (Duration, bool) {
        let pid = rustix::process::Pid::from_raw(i32::try_from(self.pid()).expect("a pid"));
        let started = std::time::Instant::now();
        rustix::process::kill_process(pid.expect("a pid"), rustix::process::Signal::TERM)
            .expect("a running process takes signals");
        let status = self.ended().await;
        (started.elapsed(), status)
    }

    /// Waits until the process has ended by itself; whether it succeeded.
    pub(crate) async fn ended(&mut self) -> bool {
        let mut child = self.child.take().expect("the broker was started");
        let end = std::time::Instant::now() + PATIENCE;
        loop {
            match child.try_wait().expect("the broker can be waited for") {
                Some(status) => return status.success(),
                None if std::time::Instant::now() > end => {
                    drop(child.kill());
                    panic!("the broker did not end:\n{}", self.log_text());
                }
                None => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    }

    /// Ids of the containers of this broker, running or not.
    pub(crate) fn containers(&self) -> Vec<String> {
        let filter = format!("label=io.docker-broker.owner={}", self.name());
        let text = super::docker_ok(&["ps", "-a", "--format", "{{.Names}}", "--filter", &filter]);
        text.lines().map(str::to_owned).collect()
    }

    /// Where a secret is that nobody may see: in a log of the broker or of a container that is still
    /// there, or in an argument list of any process so far. With those of administrators.
    fn shown_secret(&self) -> Option<String> {
        let mut texts: Vec<(&str, String)> = vec![("the log", self.whole_log())];
        if self.builder.namespace.is_none() {
            for container in self.containers() {
                self.add_secrets_of(&container);
                let output = docker(&["logs", &container]);
                let text = [output.stdout, output.stderr].concat();
                texts.push(("a container's log", String::from_utf8_lossy(&text).into_owned()));
            }
        }
        let issued = &self.client.issued;
        let found = texts.iter().find_map(|(place, text)| Some((*place, issued.find_in(text)?)));
        let found = found.or_else(|| Some(("an argument list", Arguments::watch().find(issued)?)));
        found.map(|(place, line)| format!("a secret in {place}: {line}"))
    }

    /// Takes up what a container has as secrets in its environment.
    fn add_secrets_of(&self, container: &str) {
        let format = "{{range .Config.Env}}{{println .}}{{end}}";
        let output = docker(&["inspect", "--format", format, container]);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        for (name, value) in text.lines().filter_map(|line| line.split_once('=')) {
            let is_secret = ["PASS", "COOKIE", "SECRET", "TOKEN"].iter().any(|s| name.contains(s));
            if is_secret && value.len() >= Issued::CHARACTERS {
                self.client.issued.add(value);
            }
        }
    }

    /// Names of the instance directories.
    pub(crate) fn instance_directories(&self) -> Vec<String> {
        let entries = fs::read_dir(self.directories()).expect("the root can be listed");
        entries
            .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
            .filter(|name| name != ".trash")
            .collect()
    }
}

impl Drop for TestBroker {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("log of broker {}:\n{}", self.name(), self.whole_log());
        }
        self.kill();
        let shown = if std::thread::panicking() { None } else { self.shown_secret() };
        if self.builder.namespace.is_none() {
            remove_labelled(self.name());
        }
        assert_eq!(shown, None);
    }
}
