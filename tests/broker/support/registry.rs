//! A real image registry of one's own: Debian's docker-registry.

use std::{
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use rand::Rng;
use tempfile::TempDir;

use super::{Daemon, docker, docker_ok, eventually};

/// Login of [`Registry::protected`].
pub(crate) const USERNAME: &str = "puller";
pub(crate) const PASSWORD: &str = "registry-password";
/// Both, as `htpasswd -nbB` writes them (docker-registry knows bcrypt only).
const HTPASSWD: &str = "puller:$2y$04$abcdefghijklmnopqrstuuvMfIFKvu0UMo4ROgipiW53f9qa5YK3q\n";

/// A registry that keeps its address and its images while it is stopped and started. Dropping it
/// stops it, and removes the machine's images of its address.
#[derive(Debug)]
pub(crate) struct Registry {
    directory: TempDir,
    address: String,
    protected: bool,
    /// PEM of certificate and key.
    certificate: Option<(String, String)>,
    namespace: Option<PathBuf>,
    child: Option<Child>,
}

impl Registry {
    /// Not started yet; on 127.0.0.1, where dockerd needs neither TLS nor permission.
    pub(crate) fn new() -> Self {
        install();
        // Below the range of which the kernel gives out ports, so that nobody takes it while the
        // registry is stopped.
        let addresses = std::iter::repeat_with(|| rand::rng().random_range(10_000..20_000_u16));
        let mut addresses = addresses.map(|port| format!("127.0.0.1:{port}"));
        let address = addresses.find(|address| TcpListener::bind(address).is_ok());
        Self {
            directory: tempfile::tempdir().expect("a temporary directory"),
            address: address.expect("a free port"),
            protected: false,
            certificate: None,
            namespace: None,
            child: None,
        }
    }

    /// Demands [`USERNAME`] and [`PASSWORD`] from the next start on.
    pub(crate) fn protected(mut self) -> Self {
        self.protected = true;
        self
    }

    /// From the next start on it is beside a daemon, on an address that is not loopback.
    pub(crate) fn beside(mut self, daemon: &Daemon) -> Self {
        let port = self.address.rsplit(':').next().expect("it has a port");
        self.address = format!("{}:{port}", daemon.address());
        self.namespace = Some(daemon.namespace());
        self
    }

    /// Serves HTTPS from the next start on, with a certificate that nobody knows but the file
    /// that [`Registry::ca_file`] names.
    pub(crate) fn certified(mut self) -> Self {
        let host = self.address.split(':').next().expect("it has a host").to_owned();
        let made = rcgen::generate_simple_self_signed([host]).expect("a certificate");
        self.certificate = Some((made.cert.pem(), made.signing_key.serialize_pem()));
        self
    }

    pub(crate) fn ca_file(&self) -> PathBuf {
        self.directory.path().join("certificate.pem")
    }

    /// `host:port`.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// How an image of it is called, for example `app:1`.
    pub(crate) fn image(&self, name: &str) -> String {
        format!("{}/{name}", self.address)
    }

    /// Puts an image of the machine's daemon into it, and takes the tag away again. Only while it
    /// is a plain one that runs. Returns its digest.
    pub(crate) fn push(&self, image: &str, name: &str) -> String {
        let target = self.image(name);
        docker_ok(&["tag", image, &target]);
        let pushed = docker_ok(&["push", &target]);
        docker_ok(&["rmi", &target]);
        let digest = pushed.split_whitespace().find(|word| word.starts_with("sha256:"));
        digest.unwrap_or_else(|| panic!("no digest in {pushed}")).to_owned()
    }

    /// A plain registry with images, which runs.
    pub(crate) async fn with(images: &[(&str, &str)]) -> Self {
        let mut registry = Self::new();
        registry.start().await;
        for (image, name) in images {
            registry.push(image, name);
        }
        registry
    }

    pub(crate) async fn start(&mut self) {
        let path = |name: &str| self.directory.path().join(name);
        let mut text = vec![
            "version: 0.1\nlog: {level: info}".to_owned(),
            format!("storage: {{filesystem: {{rootdirectory: {}}}}}", path("data").display()),
        ];
        if self.protected {
            let file = path("htpasswd");
            fs::write(&file, HTPASSWD).expect("a file can be written");
            text.push(format!("auth: {{htpasswd: {{realm: r, path: {}}}}}", file.display()));
        }
        text.push(format!("http:\n  addr: {}", self.address));
        if let Some((certificate, key)) = &self.certificate {
            fs::write(self.ca_file(), certificate).expect("a file can be written");
            fs::write(path("key.pem"), key).expect("a file can be written");
            let (certificate, key) = (self.ca_file(), path("key.pem"));
            let (certificate, key) = (certificate.display(), key.display());
            text.push(format!("  tls: {{certificate: {certificate}, key: {key}}}"));
        }
        text.push(String::new());
        let text = text.join("\n");
        fs::write(path("registry.yml"), text).expect("its configuration can be written");
        let log = fs::File::options().create(true).append(true).open(path("log"));
        let log = log.expect("its log can be opened");
        let mut command = match &self.namespace {
            Some(namespace) => {
                let mut command = Command::new("nsenter");
                command.arg(format!("--net={}", namespace.display())).arg("docker-registry");
                command
            }
            None => Command::new("docker-registry"),
        };
        command
            .arg("serve")
            .arg(path("registry.yml"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("its log can be shared"))
            .stderr(log);
        self.child = Some(command.spawn().expect("docker-registry is installed"));
        eventually("the registry to listen", async || {
            match tokio::net::TcpStream::connect(&self.address).await {
                Ok(_) => Ok(()),
                Err(_) => Err(self.log()),
            }
        })
        .await;
    }

    pub(crate) fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            drop(child.kill());
            drop(child.wait());
        }
    }

    /// Its log; one line per request.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    /// How often something was asked for whose path begins so, for example `HEAD` and
    /// `/v2/app/manifests/1`.
    pub(crate) fn count(&self, method: &str, path: &str) -> usize {
        let request = format!("\"{method} {path}");
        self.log().lines().filter(|line| line.contains(&request)).count()
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.stop();
        let listed = docker(&[
            "images",
            "--digests",
            "--format",
            "{{.Repository}} {{.Tag}} {{.Digest}}",
            &format!("{}/*", self.address),
        ]);
        for line in String::from_utf8_lossy(&listed.stdout).lines() {
            if let [repository, tag, digest] = line.split(' ').collect::<Vec<_>>()[..] {
                for name in [format!("{repository}:{tag}"), format!("{repository}@{digest}")] {
                    docker(&["rmi", "-f", &name]);
                }
            }
        }
    }
}

/// Installs Debian's docker-registry where it is missing; one test at a time.
fn install() {
    let lock = std::env::temp_dir().join("docker-broker-tests-install.lock");
    let lock = fs::File::create(lock).expect("a lock file");
    lock.lock().expect("a lock");
    let is_there = |directory: &str| Path::new(directory).join("docker-registry").is_file();
    if std::env::var("PATH").unwrap_or_default().split(':').any(is_there) {
        return;
    }
    let installed = Command::new("apt-get")
        .args(["install", "-y", "--no-install-recommends", "docker-registry"])
        // The package would start a service of its own.
        .env("RUNLEVEL", "1")
        .env("DEBIAN_FRONTEND", "noninteractive")
        .output()
        .expect("apt-get can be run");
    assert!(installed.status.success(), "docker-registry cannot be installed: {installed:?}");
}
