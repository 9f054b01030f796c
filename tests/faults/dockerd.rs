//! What a killed dockerd leaves behind, and how it is got rid of.

use std::process::{Command, Stdio};

use crate::{schedule::Engine, stage::daemon_json, support::Daemon};

/// The first dockerd after a killed one takes the ports of containers that were just being started,
/// for nobody; with live-restore it knows nothing of their processes either, which run on. `start`
/// of the job `docker` relies on what puts that right ([`Daemon::start_after_kill`]).
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn containers_that_a_killed_dockerd_was_starting_can_be_started_afterwards() {
    can_be_started(Engine::OwnLiveRestore).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn containers_that_a_killed_dockerd_without_live_restore_was_starting_can_be_started() {
    can_be_started(Engine::Own).await;
}

async fn can_be_started(engine: Engine) {
    const CONTAINERS: usize = 12;
    let mut daemon = Daemon::start().await;
    daemon.load_image("busybox:1");
    daemon.configure(daemon_json(engine));
    daemon.stop();
    daemon.start_again().await;
    daemon.docker_ok(&["network", "create", "shared"]);
    let names: Vec<String> = (0..CONTAINERS).map(|number| format!("c{number}")).collect();
    for (number, name) in names.iter().enumerate() {
        let port = format!("{}:{}:80", daemon.address(), 20_000 + number);
        let create = ["create", "--name", name, "--network", "shared", "-p", &port];
        daemon.docker_ok(&[&create[..], &["busybox:1", "sleep", "1000"]].concat());
    }
    // It dies in the middle of starting them.
    let starts: Vec<_> = names
        .iter()
        .map(|name| {
            let mut docker = Command::new("docker");
            docker.args(["-H", &daemon.socket(), "start", name]);
            docker.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
        })
        .collect();
    crate::support::eventually("a container to run", async || {
        let running = daemon.docker_ok(&["ps", "-q"]);
        if running.is_empty() { Err(String::new()) } else { Ok(()) }
    })
    .await;
    daemon.kill();
    for mut start in starts {
        drop(start.wait());
    }
    daemon.start_after_kill().await;
    println!("left: {}", daemon.log().matches("Removing stale endpoint").count());
    for name in &names {
        daemon.docker_ok(&["start", name]);
    }
}

/// A containerd that was killed a moment after it had made the directory of a task.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_container_whose_start_was_cut_off_halfway_can_be_started_afterwards() {
    let mut daemon = Daemon::start().await;
    daemon.load_image("busybox:1");
    let id = daemon.docker_ok(&["create", "busybox:1", "sleep", "1000"]);
    let other = daemon.docker_ok(&["run", "-d", "busybox:1", "sleep", "1000"]);
    daemon.kill();
    let tasks = daemon.tasks();
    assert!(tasks.join(&other).exists(), "containerd keeps its tasks there");
    std::fs::create_dir_all(tasks.join(&id).join("rootfs")).unwrap();
    daemon.start_after_kill().await;
    daemon.docker_ok(&["start", &id]);
}
