//! The container that plays a BOSH VM, with its network and its persistent disk.
//!
//! The root file system belongs to the VM, the disk does not: [`Machine::recreate`] makes a new
//! container with the same address and the same disk, as a director does.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::Duration,
};

use rand::Rng;

use super::{eventually, ok, secrets, text};

/// Marks everything of these tests in the Docker engine; its value is [`prepared`], so that
/// `ci/test-vm` removes only what its own clone has left behind.
const LABEL: &str = "io.docker-broker.test-vm";

/// What `ci/test-vm` has prepared: compiled packages, and tarballs of images.
pub(crate) fn prepared() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("target/release-test")
}

/// Made by `ci/stemcell`.
const STEMCELL: &str = "docker-broker-stemcell";

/// Where the tarballs of the service images are in the VM.
pub(crate) const IMAGES: &str = "/var/vcap/packages/docker-broker-images";

pub(crate) const DOCKER_SOCKET: &str = "/var/vcap/sys/run/docker/docker.sock";

#[derive(Debug)]
pub(crate) struct Machine {
    name: String,
    pub(crate) address: String,
    disk: Option<Disk>,
}

impl Machine {
    /// A VM with a persistent disk of this many MiB, empty but for what a stemcell has.
    pub(crate) fn boot(disk: u64) -> Self {
        let mut machine = Self::new();
        machine.disk = Some(Disk::make(&machine.name, disk));
        machine.run_container();
        machine
    }

    /// The same without a persistent disk.
    pub(crate) fn boot_without_disk() -> Self {
        let machine = Self::new();
        machine.run_container();
        machine
    }

    fn new() -> Self {
        assert!(
            prepared().join("packages").exists(),
            "ci/test-vm --prepare makes what a VM is made of"
        );
        let name = format!("t-vm-{:08x}", rand::rng().random::<u32>());
        let address = make_network(&name);
        Self { name, address, disk: None }
    }

    fn run_container(&self) {
        let prepared = prepared();
        let mut docker = Command::new("docker");
        docker.args(["run", "--detach", "--init", "--name", &self.name, "--hostname", &self.name]);
        docker.args(["--label", &label(), "--network", &self.name, "--ip", &self.address]);
        // All that this machine may do. --privileged asks for more where CAP_SYS_RESOURCE is missing.
        docker.args(["--cap-drop", "ALL"]);
        for capability in capabilities() {
            docker.args(["--cap-add", &capability]);
        }
        for unconfined in ["seccomp", "apparmor", "systempaths"] {
            docker.args(["--security-opt", &format!("{unconfined}=unconfined")]);
        }
        if Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
            docker.args(["--cgroupns", "private"]);
        }
        // Docker mounts them nosuid,nodev,noexec, as a stemcell does.
        for tmpfs in ["/tmp", "/var/tmp", "/var/log", "/run"] {
            docker.args(["--tmpfs", tmpfs]);
        }
        docker.args(["--tmpfs", "/var/vcap/data/sys/run:size=16m"]);
        let mut mount = |from: &str, to: &str| {
            docker.args(["--volume", &format!("{}:{to}:ro", prepared.join(from).display())]);
        };
        for package in ["docker", "docker-broker"] {
            mount(&format!("packages/{package}"), &format!("/var/vcap/data/packages/{package}"));
        }
        mount("images", "/var/vcap/data/packages/docker-broker-images");
        let init = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/release/vm/init.sh");
        docker.args(["--volume", &format!("{init}:/init:ro")]);
        let device = self.disk.as_ref().map_or("", |disk| disk.device.as_str());
        if !device.is_empty() {
            docker.args(["--device", device]);
        }
        ok(docker.args([STEMCELL, "/init", device]));
        self.booted();
    }

    fn booted(&self) {
        eventually("monit to answer", Duration::from_secs(30), || {
            let output = self.attempt("monit -B -c /var/vcap/bosh/etc/monitrc summary");
            if output.status.success() {
                return Ok(());
            }
            let logs = Command::new("docker").args(["logs", &self.name]).output();
            Err(logs.map_or_else(|error| error.to_string(), |logs| text(&logs)))
        });
    }

    /// The address of this host in the network of the VM: Docker takes the first.
    pub(crate) fn gateway(&self) -> String {
        let (prefix, _) = self.address.rsplit_once('.').expect("an IPv4 address");
        format!("{prefix}.1")
    }

    /// A new VM with the same address and disk and an empty root.
    pub(crate) fn recreate(&self) {
        ok(Command::new("docker").args(["rm", "--force", "--volumes", &self.name]));
        self.run_container();
    }

    /// Mounts the persistent disk again.
    pub(crate) fn mount_disk(&self) {
        let disk = self.disk.as_ref().expect("there is a disk");
        self.sh(&format!("mount {} /var/vcap/store", disk.device));
    }

    /// Power off and on: every process is killed at once, and what is on tmpfs is gone.
    pub(crate) fn reboot(&self) {
        ok(Command::new("docker").args(["kill", &self.name]));
        ok(Command::new("docker").args(["start", &self.name]));
        self.booted();
    }

    /// Runs a script as root with nothing but a plain environment.
    pub(crate) fn attempt(&self, script: &str) -> Output {
        self.exec(&["bash", "-c", script]).output().expect("the docker command can be started")
    }

    /// The output of a script, which has to succeed.
    #[track_caller]
    pub(crate) fn sh(&self, script: &str) -> String {
        let output = self.attempt(script);
        assert!(output.status.success(), "{script}: {}", text(&output));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// A command in the VM, for its input and output.
    pub(crate) fn exec(&self, command: &[&str]) -> Command {
        let mut docker = Command::new("docker");
        docker.args(["exec", "--interactive", "--workdir", "/var/vcap/bosh", &self.name]);
        docker.args(["env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin"]);
        docker.arg("TMPDIR=/var/vcap/data/tmp").args(command);
        docker
    }

    /// `docker ARGUMENTS` of the VM's own engine, which has to succeed.
    #[track_caller]
    pub(crate) fn docker(&self, arguments: &str) -> String {
        self.sh(&format!(
            "/var/vcap/packages/docker/bin/docker -H unix://{DOCKER_SOCKET} {arguments}"
        ))
    }

    /// Waits until the log of a job says something.
    pub(crate) fn logged(&self, job: &str, words: &str) {
        eventually(&format!("{words:?} in the log of {job}"), Duration::from_mins(1), || {
            let output = self.attempt(&format!("cat /var/vcap/sys/log/{job}/{job}.log"));
            let log = text(&output);
            if log.contains(words) { Ok(()) } else { Err(log) }
        });
    }

    /// Waits until something listens on a port.
    pub(crate) fn listening(&self, port: u16) {
        eventually(&format!("a listener on port {port}"), Duration::from_secs(10), || {
            let sockets =
                self.sh(&format!("ss --no-header --listening --tcp --numeric 'sport = {port}'"));
            if sockets.is_empty() { Err(String::new()) } else { Ok(()) }
        });
    }

    /// What explains a failure.
    fn print_logs(&self) {
        let script =
            "tail -n 40 /var/vcap/monit/monit.log /var/vcap/sys/log/*/*.log; ps axf; df -h; mount";
        println!("---- {} ----\n{}", self.name, text(&self.attempt(script)));
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let mut shown = None;
        if std::thread::panicking() {
            self.print_logs();
        } else {
            let logs = self.attempt("find /var/vcap/sys/log -type f -exec cat {} +");
            shown = secrets::shown(&text(&logs));
        }
        for arguments in [["rm", "--force", "--volumes"].as_slice(), &["network", "rm"]] {
            let removed = Command::new("docker").args(arguments).arg(&self.name).output();
            if !removed.is_ok_and(|output| output.status.success()) {
                println!("{} is left in Docker", self.name);
            }
        }
        assert_eq!(shown, None);
    }
}

/// A persistent disk: a file with ext4, attached to the machine as a block device.
#[derive(Debug)]
struct Disk {
    file: PathBuf,
    device: String,
}

impl Disk {
    fn make(name: &str, mebibytes: u64) -> Self {
        let directory = prepared().join("disks");
        fs::create_dir_all(&directory).expect("a directory for disks can be made");
        let file = directory.join(name);
        let made = fs::File::create(&file).and_then(|file| file.set_len(mebibytes << 20));
        made.expect("a sparse file can be made");
        ok(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(&file));
        let device = ok(Command::new("losetup").args(["--find", "--show"]).arg(&file));
        Self { file, device }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let detached = Command::new("losetup").args(["--detach", &self.device]).status();
        if !detached.is_ok_and(|status| status.success()) || fs::remove_file(&self.file).is_err() {
            println!("{} of {} is left", self.device, self.file.display());
        }
    }
}

fn label() -> String {
    format!("{LABEL}={}", prepared().display())
}

/// A network of the VM's own, without a way out: nothing can be pulled from anywhere. The address
/// for the VM, which stays the same for as long as the network is there.
fn make_network(name: &str) -> String {
    eventually("a free network", Duration::from_secs(10), || {
        // Set aside for tests of network devices, thus in nobody's way.
        let prefix =
            format!("198.{}.{}", 18 + rand::rng().random_range(0..2), rand::random::<u8>());
        let subnet = format!("{prefix}.0/24");
        let output = Command::new("docker")
            .args([
                "network",
                "create",
                "--internal",
                "--label",
                &label(),
                "--subnet",
                &subnet,
                name,
            ])
            .output()
            .map_err(|error| error.to_string())?;
        if output.status.success() { Ok(format!("{prefix}.10")) } else { Err(text(&output)) }
    })
}

/// The capabilities of this process that engines know by name.
fn capabilities() -> Vec<String> {
    /// `CAP_AUDIT_READ`: older engines refuse those behind it.
    const LAST: usize = 37;
    let status = fs::read_to_string("/proc/self/status").expect("/proc is mounted");
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:\t"));
    let effective = u64::from_str_radix(effective.expect("CapEff"), 16).expect("a number");
    let names = ok(Command::new("setpriv").arg("--list-caps"));
    let held =
        names.lines().take(LAST + 1).enumerate().filter(|(bit, _)| effective >> bit & 1 == 1);
    held.map(|(_, name)| name.to_uppercase()).collect()
}
