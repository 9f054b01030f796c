//! The broker under fault with what it stands on: a dockerd, a proxy before it, disks of its own,
//! a clock, and somebody who starts it again when it has died, as monit does.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{sync::Mutex, time::sleep};

use crate::{
    proxy::Proxy,
    schedule::{Engine, Schedule, Trouble},
    services,
    support::{Daemon, TestBroker, docker, eventually},
    world::World,
};

/// Where Debian has it.
const FAKETIME: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1";

/// A small file system, unmounted when dropped.
#[derive(Debug)]
pub(crate) struct Disk(PathBuf);

impl Disk {
    fn mount(path: &Path, size: &str) -> Self {
        fs::create_dir_all(path).unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={size},mode=0700"), "tmpfs"]).arg(path);
        assert!(mount.status().unwrap().success(), "a tmpfs can be mounted");
        Self(path.to_owned())
    }

    fn ballast(&self) -> PathBuf {
        self.0.join(".ballast")
    }

    /// Takes all the room that there is, but for so many blocks of 4 KiB.
    pub(crate) fn fill(&self, blocks: u64) {
        let Ok(mut file) = fs::File::create(self.ballast()) else { return };
        for size in [1 << 20, 4096] {
            let block = vec![0_u8; size];
            while io::Write::write_all(&mut file, &block).is_ok() {}
        }
        let length = file.metadata().unwrap().len();
        file.set_len(length.saturating_sub(blocks * 4096)).unwrap();
    }

    /// Gives the room back; a disk that another fault holds read-only, when that is over.
    pub(crate) async fn free(&self) {
        eventually("room on the disk again", async || match fs::remove_file(self.ballast()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error.to_string()),
            _ => Ok(()),
        })
        .await;
    }

    /// Whether it could be done: nobody may have a file open for writing.
    pub(crate) fn read_only(&self, read_only: bool) -> bool {
        let option = if read_only { "remount,ro" } else { "remount,rw" };
        let mut mount = Command::new("mount");
        mount.args(["-o", option]).arg(&self.0).output().unwrap().status.success()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("-l").arg(&self.0).status());
    }
}

/// Everything of one run that is no client.
#[derive(Debug)]
pub(crate) struct Stage {
    // Unmounted before the directory is removed that they are in.
    pub(crate) data_disk: Disk,
    pub(crate) store_disk: Disk,
    pub(crate) broker: Mutex<TestBroker>,
    pub(crate) daemon: Option<Mutex<Daemon>>,
    docker_socket: Option<String>,
    pub(crate) name: String,
    pub(crate) data: PathBuf,
    pub(crate) proxy: Option<Proxy>,
    clock: tempfile::TempDir,
    /// The broker is not started for now.
    pub(crate) held: AtomicBool,
}

impl Stage {
    /// A broker that is ready.
    pub(crate) async fn set(schedule: &Schedule, daemon: Option<Daemon>) -> (Self, Arc<World>) {
        let clock = tempfile::tempdir().unwrap();
        let upstream = daemon.as_ref().map_or("unix:///var/run/docker.sock".into(), Daemon::socket);
        let path = Path::new(upstream.trim_start_matches("unix://"));
        let proxied = schedule.has(|trouble| matches!(trouble, Trouble::Socket(_)));
        let proxy = proxied.then(|| Proxy::start(path));
        let mut builder = match &daemon {
            Some(daemon) => daemon.broker(),
            None => TestBroker::builder(),
        };
        if let Some(proxy) = &proxy {
            builder = builder.setting(format!("docker_url: {}", proxy.url()));
        }
        builder = builder
            .setting("operation_timeout: 60s")
            .services(&services::write_files(clock.path()));
        if schedule.has(|trouble| matches!(trouble, Trouble::Clock(_))) {
            assert!(Path::new(FAKETIME).exists(), "{FAKETIME} is missing: install libfaketime");
            let file = clock.path().join("now");
            fs::write(&file, "+0").unwrap();
            builder = builder
                .environment("LD_PRELOAD", FAKETIME)
                .environment("FAKETIME_TIMESTAMP_FILE", &file.display().to_string())
                .environment("FAKETIME_NO_CACHE", "1")
                .environment("DONT_FAKE_MONOTONIC", "1")
                .environment("FAKETIME_DONT_FAKE_MONOTONIC", "1")
                .environment("NO_FAKE_STAT", "1");
        }
        let mut broker = builder.prepare();
        let data = broker.data.path().to_owned();
        let store_disk = Disk::mount(&data, "24m");
        let data_disk = Disk::mount(&data.join("instances"), "3g");
        broker.launch().await;
        broker.ready().await;
        let world = Arc::new(World::new(broker.client.clone()));
        let stage = Self {
            name: broker.name().to_owned(),
            broker: Mutex::new(broker),
            docker_socket: daemon.as_ref().map(Daemon::socket),
            daemon: daemon.map(Mutex::new),
            data,
            proxy,
            store_disk,
            data_disk,
            clock,
            held: AtomicBool::new(false),
        };
        (stage, world)
    }

    /// Starts the broker whenever it is not running. Ends with the task.
    pub(crate) async fn watch(self: Arc<Self>, world: Arc<World>) {
        loop {
            sleep(Duration::from_millis(50)).await;
            let mut broker = self.broker.lock().await;
            if self.held.load(Ordering::Relaxed) || broker.is_running() {
                continue;
            }
            if broker.try_launch().await.is_ok() {
                world.moved(&broker.client.address);
            } else {
                drop(broker);
                sleep(Duration::from_millis(200)).await;
            }
        }
    }

    /// `docker ARGS` on the run's dockerd: whether it succeeded, and its output.
    pub(crate) fn docker(&self, args: &[&str]) -> (bool, String) {
        let output = match &self.docker_socket {
            Some(socket) => docker(&[&["-H", socket], args].concat()),
            None => docker(args),
        };
        let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        (output.status.success(), text)
    }

    /// Names of things of this broker.
    pub(crate) fn labelled(&self, list: &[&str], format: &str) -> Vec<String> {
        let filter = format!("label=io.docker-broker.owner={}", self.name);
        let args = [list, &["--filter", &filter, "--format", format]].concat();
        self.docker(&args).1.lines().map(str::to_owned).collect()
    }

    /// Containers and networks of this broker, for the reader of a failure.
    pub(crate) fn in_docker(&self) -> String {
        let mut lines =
            self.labelled(&["ps", "-a", "--no-trunc"], "{{.ID}} {{.Names}} {{.Status}} {{.Ports}}");
        for network in self.labelled(&["network", "ls"], "{{.Name}}") {
            let format =
                "{{.Name}}{{range $id, $one := .Containers}}\n  {{$one.Name}} {{$id}}{{end}}";
            lines.push(self.docker(&["network", "inspect", &network, "--format", format]).1);
        }
        lines.join("\n")
    }

    /// Sets the clock of the broker this far off.
    pub(crate) fn step_clock(&self, hours: i64) {
        let next = self.clock.path().join("next");
        fs::write(&next, format!("{:+}", hours * 3600)).unwrap();
        fs::rename(next, self.clock.path().join("now")).unwrap();
    }
}

/// `daemon.json` of an engine.
pub(crate) fn daemon_json(engine: Engine) -> &'static str {
    if engine == Engine::OwnLiveRestore { r#"{"live-restore": true}"# } else { "{}" }
}
