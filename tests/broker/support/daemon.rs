//! A dockerd of one's own: to be killed, restarted, or trusted with a private CA, while the
//! machine's own goes on undisturbed.
//!
//! Two daemons must never share a network namespace (each flushes the other's rules), so it gets
//! one, joined to the host by a veth pair: what it publishes on [`Daemon::address`] can be reached
//! from the host as well. Its containers live in a cgroup of its own, by which all their processes
//! are found even after their daemon was killed.

use std::{
    fs,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use rand::Rng;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::{Builder, PATIENCE, docker, docker_ok, eventually, unique};

/// A running dockerd. Dropping it removes its containers, processes, mounts and network namespace.
#[derive(Debug)]
pub(crate) struct Daemon {
    name: String,
    /// Third octet of its network, and the name of the host's end of the veth pair.
    network: u8,
    directory: TempDir,
    child: Option<Child>,
}

impl Daemon {
    /// Starts it, empty; returns when it answers.
    pub(crate) async fn start() -> Self {
        let name = unique("dd-");
        ip(&["netns", "add", &name]);
        let mut daemon = Self {
            network: join(&name),
            directory: tempfile::tempdir().expect("a temporary directory"),
            name,
            child: None,
        };
        daemon.configure("{}");
        daemon.start_again().await;
        daemon
    }

    /// Gives it another `daemon.json` for the next start.
    pub(crate) fn configure(&self, json: &str) {
        let file = self.directory.path().join("daemon.json");
        fs::write(file, json).expect("its configuration can be written");
    }

    /// URL for `docker_url` and `docker -H`.
    pub(crate) fn socket(&self) -> String {
        format!("unix://{}", self.directory.path().join("docker.sock").display())
    }

    /// Where containerd has a directory per container that runs.
    pub(crate) fn tasks(&self) -> PathBuf {
        self.directory.path().join("exec/containerd/daemon/io.containerd.runtime.v2.task/moby")
    }

    /// File of its network namespace.
    pub(crate) fn namespace(&self) -> PathBuf {
        Path::new("/run/netns").join(&self.name)
    }

    /// Its address, in its namespace and for the host.
    pub(crate) fn address(&self) -> String {
        format!("10.88.{}.1", self.network)
    }

    /// A broker that uses this daemon. It runs in its namespace, where it can reach the
    /// containers themselves, and listens on [`Daemon::address`].
    pub(crate) fn broker(&self) -> Builder {
        Builder::default()
            .setting(format!("docker_url: {}", self.socket()))
            .setting(format!("external_ip: {}", self.address()))
            .setting(format!("listen_address: {}", self.address()))
            .namespace(&self.namespace())
    }

    /// Runs `docker ARGS` on it.
    pub(crate) fn docker(&self, args: &[&str]) -> Output {
        docker(&[&["-H", &self.socket()], args].concat())
    }

    /// Runs `docker ARGS` on it, which must succeed; the trimmed output.
    pub(crate) fn docker_ok(&self, args: &[&str]) -> String {
        docker_ok(&[&["-H", &self.socket()], args].concat())
    }

    /// Copies an image of the machine's own daemon.
    pub(crate) fn load_image(&self, image: &str) {
        let mut save = Command::new("docker")
            .args(["save", image])
            .stdout(Stdio::piped())
            .spawn()
            .expect("the docker command line is installed");
        let tarball = save.stdout.take().expect("its output is piped");
        let load = Command::new("docker")
            .args(["-H", &self.socket(), "load"])
            .stdin(tarball)
            .output()
            .expect("the docker command line is installed");
        let saved = save.wait().expect("docker save ends");
        assert!(saved.success() && load.status.success(), "cannot copy {image}: {load:?}");
    }

    /// A command in its network namespace.
    pub(crate) fn enter(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.namespace().display())).arg(program);
        command
    }

    /// Its log so far.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    /// Starts it on the same data after [`Daemon::stop`] or [`Daemon::kill`].
    pub(crate) async fn start_again(&mut self) {
        self.start_on(&self.socket()).await;
    }

    async fn start_on(&mut self, socket: &str) {
        let path = |name: &str| self.directory.path().join(name);
        let log = fs::File::options().create(true).append(true).open(path("log"));
        let log = log.expect("its log can be opened");
        // What the machine's own daemon uses works here.
        let driver = docker_ok(&["info", "--format", "{{.Driver}}"]);
        let mut command = self.enter("dockerd");
        command
            .args(["--host", socket, "--storage-driver", &driver])
            .args(["--exec-opt", "native.cgroupdriver=cgroupfs"])
            .arg(format!("--cgroup-parent=/{}", self.name))
            .arg("--config-file")
            .arg(path("daemon.json"))
            .arg("--data-root")
            .arg(path("data"))
            .arg("--exec-root")
            .arg(path("exec"))
            .arg("--pidfile")
            .arg(path("pid"))
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("its log can be shared"))
            .stderr(log);
        self.child = Some(command.spawn().expect("dockerd is installed"));
        eventually("a dockerd to answer", async || {
            let output = docker(&["-H", socket, "version"]);
            let log = || fs::read_to_string(path("log")).unwrap_or_default();
            output.status.success().then_some(()).ok_or_else(log)
        })
        .await;
    }

    /// Starts it after [`Daemon::kill`] as the job `docker` does: what it has lost sight of is
    /// ended, and its first start, with live-restore and where no client finds it, is followed by
    /// another one.
    pub(crate) async fn start_after_kill(&mut self) {
        let shims = self.shims();
        let file = self.directory.path().join("daemon.json");
        let configuration = fs::read_to_string(&file).expect("it has a configuration");
        self.configure(r#"{"live-restore": true}"#);
        let apart = format!("unix://{}", self.directory.path().join("first.sock").display());
        self.start_on(&apart).await;
        let known = docker_ok(&["-H", &apart, "ps", "--quiet", "--no-trunc"]);
        self.stop();
        let lost: Vec<_> = shims.iter().filter(|(_, id)| !known.contains(id.as_str())).collect();
        for (shim, _) in &lost {
            let children = Command::new("pgrep").args(["-P", &shim.to_string()]).output();
            let children = children.expect("pgrep is installed").stdout;
            let children = String::from_utf8_lossy(&children).into_owned();
            let children: Vec<u32> = children.lines().filter_map(|pid| pid.parse().ok()).collect();
            for child in &children {
                send(*child, Signal::TERM);
            }
            until(|| children.iter().all(|child| has_ended(*child)));
            send(*shim, Signal::KILL);
            until(|| has_ended(*shim));
        }
        self.remove_lost_tasks();
        self.configure(&configuration);
        self.start_again().await;
    }

    /// What containerd and runc keep of containers that they were starting when they were killed.
    fn remove_lost_tasks(&self) {
        let states = self.directory.path().join("exec/runtime-runc/moby");
        let alive: Vec<String> = self.shims().into_iter().map(|(_, id)| id).collect();
        let listed = [self.tasks(), states.clone()].map(|path| fs::read_dir(path).into_iter());
        for entry in listed.into_iter().flatten().flatten().flatten() {
            let id = entry.file_name().to_string_lossy().into_owned();
            if alive.contains(&id) {
                continue;
            }
            if states.join(&id).exists() {
                let mut runc = Command::new("runc");
                runc.arg("--root").arg(&states).args(["delete", "--force", &id]);
                if !runc.output().expect("runc is installed").status.success() {
                    drop(fs::remove_dir_all(states.join(&id)));
                }
            }
            let task = self.tasks().join(&id);
            if task.exists() {
                drop(Command::new("umount").arg(task.join("rootfs")).output());
                fs::remove_dir_all(task).expect("nothing of it is used any more");
            }
        }
    }

    /// Whether no container runs on without it.
    pub(crate) fn has_ended_all(&self) -> bool {
        self.shims().is_empty()
    }

    /// Process and container of each shim.
    fn shims(&self) -> Vec<(u32, String)> {
        let shim = |pid: u32| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).into_owned();
            let words: Vec<&str> = line.split('\0').collect();
            let is_shim = words.first().is_some_and(|program| program.contains("containerd-shim"));
            let id = words.iter().position(|word| *word == "-id").and_then(|at| words.get(at + 1));
            id.filter(|_| is_shim).map(|id| (pid, (*id).to_owned()))
        };
        self.left_over().into_iter().filter_map(shim).collect()
    }

    /// SIGKILL, and waits until its containerd is really gone; the containers run on.
    pub(crate) fn kill(&mut self) {
        self.end(Signal::KILL);
    }

    /// SIGTERM, and waits for the end; this stops the containers. Whether it ended by that: one that
    /// hangs is killed.
    pub(crate) fn stop(&mut self) -> bool {
        self.end(Signal::TERM)
    }

    /// Stops it and removes everything that it has: what is left of a VM that was made anew.
    pub(crate) fn wipe(&mut self) {
        self.stop();
        self.unmount();
        fs::remove_dir_all(self.directory.path().join("data")).expect("its data can be removed");
    }

    fn end(&mut self, signal: Signal) -> bool {
        let Some(mut child) = self.child.take() else { return true };
        let containerd = self.directory.path().join("exec/containerd/containerd.pid");
        let containerd = fs::read_to_string(containerd).ok();
        send(child.id(), signal);
        let ended = until(|| matches!(child.try_wait(), Ok(Some(_))));
        if !ended {
            drop(child.kill());
            drop(child.wait());
        }
        // Started beside a containerd that is still a zombie, the next dockerd would wait for it.
        if let Some(pid) = containerd {
            until(|| !Path::new("/proc").join(pid.trim()).exists());
        }
        ended
    }

    /// Processes of its containers and their shims, which outlive a kill.
    fn left_over(&self) -> Vec<u32> {
        let (cgroup, directory) = (format!(":/{}/", self.name), self.directory.path());
        let directory = directory.to_string_lossy();
        let belongs = |pid: &u32| {
            let read = |file: &str| fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
            String::from_utf8_lossy(&read("cgroup")).contains(&cgroup)
                || String::from_utf8_lossy(&read("cmdline")).contains(&*directory)
        };
        let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        pids.filter(|pid| *pid != std::process::id() && belongs(pid)).collect()
    }

    fn unmount(&self) {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let points = mounts.lines().filter_map(|line| line.split(' ').nth(4));
        let mut ours: Vec<_> =
            points.filter(|point| Path::new(point).starts_with(self.directory.path())).collect();
        ours.reverse();
        for point in ours {
            drop(Command::new("umount").args(["-l", point]).output());
        }
    }

    fn remove_cgroups(&self) {
        let controllers = fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten();
        for root in controllers.map(|entry| entry.path()).chain(["/sys/fs/cgroup".into()]) {
            let ours = root.join(&self.name);
            for container in fs::read_dir(&ours).into_iter().flatten().flatten() {
                drop(fs::remove_dir(container.path()));
            }
            drop(fs::remove_dir(ours));
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if self.child.is_some() {
            let listed = self.docker(&["ps", "-aq"]).stdout;
            let listed = String::from_utf8_lossy(&listed).into_owned();
            let containers: Vec<&str> = listed.split_whitespace().collect();
            if !containers.is_empty() {
                self.docker(&[&["rm", "-f", "-v"], &containers[..]].concat());
            }
        }
        self.stop();
        until(|| {
            let left = self.left_over();
            for pid in &left {
                send(*pid, Signal::KILL);
            }
            left.is_empty()
        });
        self.unmount();
        self.remove_cgroups();
        for args in [["link", "del", &device(self.network)], ["netns", "del", &self.name]] {
            drop(Command::new("ip").args(args).output());
        }
    }
}

/// The host's end of a veth pair.
fn device(network: u8) -> String {
    format!("ddtest{network}")
}

/// Joins a namespace to the host by the first network that nobody uses.
fn join(namespace: &str) -> u8 {
    ip(&["-n", namespace, "link", "set", "lo", "up"]);
    let first: u8 = rand::rng().random();
    let networks = (0..=u8::MAX).map(|offset| first.wrapping_add(offset));
    let network = networks.into_iter().find(|network| {
        let device = device(*network);
        // Making the device is what takes the number.
        let made = Command::new("ip")
            .args(["link", "add", &device, "type", "veth"])
            .args(["peer", "name", "eth0", "netns", namespace])
            .output();
        made.expect("ip is installed").status.success()
    });
    let network = network.expect("a free network");
    let (ours, theirs) = (format!("10.88.{network}.254/24"), format!("10.88.{network}.1/24"));
    ip(&["addr", "add", &ours, "dev", &device(network)]);
    ip(&["link", "set", &device(network), "up"]);
    ip(&["-n", namespace, "addr", "add", &theirs, "dev", "eth0"]);
    ip(&["-n", namespace, "link", "set", "eth0", "up"]);
    network
}

fn ip(args: &[&str]) {
    let output = Command::new("ip").args(args).output().expect("ip is installed");
    assert!(output.status.success(), "ip {args:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn send(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        // It may have ended by itself.
        let _ = kill_process(pid, signal);
    }
}

/// Whether a process is gone, or waits only for its parent to notice.
fn has_ended(pid: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    status.is_empty() || status.contains("State:\tZ")
}

/// Waits until `done`, but not for ever.
fn until(mut done: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + PATIENCE;
    while Instant::now() < end {
        if done() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    false
}
