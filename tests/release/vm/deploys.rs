//! The main path: deploy, update, shut down, recreate, power cut.

use std::{
    process::Command,
    time::{Duration, Instant},
};

use super::{
    agent::{Agent, Next, succeeded},
    client::{Platform, Redis},
    deployment::Deployment,
    eventually,
    machine::Machine,
    text,
};

pub(crate) const REDIS: &str = "services/op-redis7.yml";
const POSTGRES: &str = "services/op-postgres17.yml";

/// MiB: images, their unpacked layers, data.
pub(crate) const DISK: u64 = 4096;

/// CAP_CHOWN, CAP_DAC_OVERRIDE and CAP_FOWNER.
const THREE_CAPABILITIES: &str = "000000000000000b";

#[test]
fn a_deployment_runs_with_three_capabilities_and_its_errand_passes_twice() {
    let machine = Machine::boot(DISK);
    let deployment = Deployment::of(&machine, &[REDIS, POSTGRES]);
    let mut agent = Agent::new(&machine);
    agent.deploy(deployment.jobs());

    let status =
        machine.sh("cat /proc/$(cat /var/vcap/sys/run/docker-broker/docker-broker.pid)/status");
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(&format!("{name}:")));
        line.unwrap_or_default().split_whitespace().next().unwrap_or_default().to_owned()
    };
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(field(set), THREE_CAPABILITIES, "{set}");
    }
    assert_eq!(field("Uid"), machine.sh("id -u vcap"));
    assert_eq!(field("NoNewPrivs"), "1");

    for _ in 0..2 {
        let errand = agent.errand("sanity-test");
        assert!(errand.success, "{}", errand.said);
        for service in ["redis7", "postgres17"] {
            assert!(errand.said.contains(service), "{}", errand.said);
        }
        assert!(!errand.said.contains(&deployment.password()), "the table holds no secret");
        assert_eq!(machine.docker("ps --all --quiet"), "", "nothing is left of it");
    }
}

#[test]
fn an_update_leaves_containers_running_and_a_wrong_one_changes_nothing() {
    let machine = Machine::boot(DISK);
    let deployment = Deployment::of(&machine, &[REDIS]);
    let mut agent = Agent::new(&machine);
    agent.deploy(deployment.jobs());
    let (platform, plan) = (deployment.platform(), deployment.plan("redis7"));
    platform.provision("r1", &plan);
    let redis = Redis::of(&platform.bind("r1", &plan));
    redis.expect("SET key before");
    let containers = machine.docker("ps --quiet --no-trunc");
    let application = redis.stay_connected();

    let updated = deployment.broker_property("log_level", "debug");
    agent.update(updated.jobs());
    assert_eq!(redis.expect("GET key"), "before");

    let wrong = updated.broker_property("host_ports", "20000-no");
    let ended = agent.begin_update(wrong.jobs());
    let failed: Vec<_> = ended.iter().filter(|script| !script.success).collect();
    assert!(matches!(&*failed, [one] if one.job == "docker-broker"), "{ended:?}");
    assert!(failed[0].said.contains("host_ports"), "{}", failed[0].said);
    assert_eq!(redis.expect("GET key"), "before", "with neither broker nor dockerd");

    // HTTPS and Docker's own API over TCP are updates like any other.
    let secured = updated
        .with_file("operators/enable-broker-tls.yml")
        .with_file("operators/enable-docker-tls.yml");
    agent.update(secured.jobs());
    let secure = secured.platform();
    assert!(secure.url.starts_with("https://"), "{}", secure.url);
    assert_eq!(Redis::of(&secure.bind("r1", &plan)), redis, "the same binding");
    for port in [5555, 5556] {
        let url = format!("http://{}:{port}", machine.address);
        let answer = Platform { url, ..platform.clone() }.send("GET", "/v2/catalog", None);
        assert!(answer.is_err(), "plain HTTP is for the VM itself only: {answer:?}");
    }
    let engine = format!("tcp://{}:4243", machine.address);
    let client = secured.docker_client();
    let ask = |arguments: &[&str]| {
        let mut docker = Command::new("docker");
        docker.env("DOCKER_CERT_PATH", client.path()).args(["--host", &engine]).args(arguments);
        docker.args(["ps", "--quiet", "--no-trunc"]).output().expect("docker can be run")
    };
    assert_eq!(text(&ask(&["--tlsverify"])), containers);
    assert!(!ask(&[]).status.success(), "not without a certificate");
    let errand = agent.errand("sanity-test");
    assert!(errand.success, "{}", errand.said);

    let talk = application.end();
    println!("{} answers, the slowest after {:?}", talk.answers, talk.slowest);
    assert_eq!(machine.docker("ps --quiet --no-trunc"), containers);
}

#[test]
fn a_vm_lets_go_of_its_disk_and_a_new_one_serves_the_same_instances() {
    let machine = Machine::boot(DISK);
    let deployment = Deployment::of(&machine, &[REDIS]);
    let mut agent = Agent::new(&machine);
    agent.deploy(deployment.jobs());
    let (platform, plan) = (deployment.platform(), deployment.plan("redis7"));
    platform.provision("r1", &plan);
    let redis = Redis::of(&platform.bind("r1", &plan));
    redis.expect("SET key kept");

    agent.halt(Next::Delete);
    assert_eq!(machine.sh("pgrep -l 'dockerd|containerd|redis-server' || true"), "");
    let log = machine.sh("cat /var/vcap/store/docker/containers/*/*-json.log");
    assert!(log.contains("ready to exit, bye bye"), "redis was stopped, not killed: {log}");
    agent.unmount();

    machine.recreate();
    let mut agent = Agent::new(&machine);
    agent.deploy(deployment.jobs());
    // Ready means that instances are: nothing is tried twice.
    assert_eq!(redis.expect("GET key"), "kept");
    assert_eq!(Redis::of(&platform.bind("r1", &plan)), redis);

    // Another disk: the agent stops, copies, and starts the same jobs again.
    agent.release_disk(Next::NewDisk);
    machine.mount_disk();
    agent.resume();
    assert_eq!(redis.expect("GET key"), "kept");
    agent.release_disk(Next::Delete);
}

#[test]
fn the_disk_is_let_go_of_though_dockerd_has_been_down_since_a_pre_start_that_failed() {
    let machine = Machine::boot(DISK);
    let deployment = Deployment::of(&machine, &[REDIS]);
    let mut agent = Agent::new(&machine);
    agent.deploy(deployment.jobs());
    let (platform, plan) = (deployment.platform(), deployment.plan("redis7"));
    platform.provision("r1", &plan);
    let redis = Redis::of(&platform.bind("r1", &plan));
    redis.expect("SET key kept");
    let wrong = deployment.broker_property("host_ports", "20000-no");
    assert!(agent.begin_update(wrong.jobs()).iter().any(|script| !script.success));
    assert_eq!(redis.expect("GET key"), "kept", "its container runs without dockerd");

    agent.release_disk(Next::NewDisk);
    assert_eq!(machine.sh("pgrep -l 'dockerd|containerd|redis-server' || true"), "");
    machine.mount_disk();
    agent.apply(deployment.jobs());
    agent.resume();
    assert_eq!(redis.expect("GET key"), "kept");
}

#[test]
fn a_hundred_containers_stop_and_the_disk_is_free_within_a_minute() {
    const CONTAINERS: usize = 100;
    const BOUND: Duration = Duration::from_mins(1);
    let machine = Machine::boot(DISK);
    let deployment = Deployment::of(&machine, &[]).changed(SLEEPER);
    let mut agent = Agent::new(&machine);
    agent.deploy(deployment.jobs());
    let (platform, plan) = (deployment.platform(), deployment.plan("sleeper"));
    std::thread::scope(|scope| {
        for worker in 0..4 {
            let (platform, plan) = (&platform, &plan);
            scope.spawn(move || {
                for number in (worker..CONTAINERS).step_by(4) {
                    platform.provision(&format!("s{number}"), plan);
                }
            });
        }
    });
    assert_eq!(machine.docker("ps --quiet").lines().count(), CONTAINERS);

    succeeded(&agent.pre_stop(Next::Delete));
    let begin = Instant::now();
    agent.drain(Next::Delete);
    let drained = begin.elapsed();
    agent.stop();
    agent.unmount();
    let all = begin.elapsed();
    println!("{CONTAINERS} containers: drained after {drained:.1?}, unmounted after {all:.1?}");
    assert!(all <= BOUND, "unmounted after {all:?}");
}

/// Where containerd has a directory per container that runs.
const TASKS: &str = "/run/docker/containerd/daemon/io.containerd.runtime.v2.task/moby";

#[test]
fn monit_brings_back_what_was_killed_and_everything_after_a_power_cut() {
    let machine = Machine::boot(DISK);
    let deployment = Deployment::of(&machine, &[REDIS]);
    let mut agent = Agent::new(&machine);
    agent.deploy(deployment.jobs());
    let (platform, plan) = (deployment.platform(), deployment.plan("redis7"));
    platform.provision("r1", &plan);
    let redis = Redis::of(&platform.bind("r1", &plan));
    redis.expect("SET key durable");
    let containers = machine.docker("ps --quiet --no-trunc");
    let application = redis.stay_connected();
    // Its start is cut off halfway, below.
    let image = machine.docker(&format!("inspect --format {{{{.Image}}}} {containers}"));
    let halfway = machine.docker(&format!("create --entrypoint sleep {image} 1000"));
    machine.sh(&format!("mkdir -p {TASKS}/{halfway}/rootfs"));

    for job in ["docker-broker", "docker"] {
        let pid_file = format!("/var/vcap/sys/run/{job}/{job}.pid");
        let before = machine.sh(&format!("cat {pid_file}"));
        machine.sh(&format!("kill -9 {before}"));
        eventually(&format!("another process of {job}"), Duration::from_mins(1), || {
            let output = machine.attempt(&format!("cat {pid_file} && kill -0 $(cat {pid_file})"));
            let pid = String::from_utf8_lossy(&output.stdout).trim().to_owned();
            if output.status.success() && pid != before { Ok(()) } else { Err(pid) }
        });
        agent.monit.wait_until_running();
        ready(&platform);
        assert_eq!(machine.docker("ps --quiet --no-trunc"), containers, "untouched");
    }
    application.end();
    machine.docker(&format!("start {halfway}"));
    machine.docker(&format!("rm --force {halfway}"));

    machine.reboot();
    agent.monit.wait_until_running();
    ready(&platform);
    assert_eq!(redis.expect("GET key"), "durable");
    assert_eq!(Redis::of(&platform.bind("r1", &plan)), redis);

    // The disk is let go of also when dockerd dies just before.
    agent.monit.unmonitor();
    machine.sh("kill -9 $(cat /var/vcap/sys/run/docker/docker.pid)");
    agent.release_disk(Next::Delete);
    assert_eq!(machine.sh("pgrep -l 'dockerd|containerd|redis-server' || true"), "");
}

pub(crate) fn ready(platform: &Platform) {
    eventually("the broker to be ready", Duration::from_mins(1), || {
        match platform.send("GET", "/readyz", None) {
            Ok((200, _)) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
}

/// A service that does nothing and ends when it is told to.
const SLEEPER: &str = r"
- type: replace
  path: /instance_groups/name=docker/jobs/name=docker-broker/properties/services/-
  value:
    id: 5b2d1c34-6f0e-4c5e-a1f4-0d3f6a9f7c10
    name: sleeper
    description: Sleeps
    plans:
    - id: 5b2d1c34-6f0e-4c5e-a1f4-0d3f6a9f7c11
      name: small
      description: A process that ends at SIGTERM
      container:
        image: busybox:1
        entrypoint: [/bin/sh, -c]
        command: ['trap exit TERM; sleep 1000000 & wait']
        limits: {memory: 16m}
";
