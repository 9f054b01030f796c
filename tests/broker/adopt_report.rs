//! What `docker-broker adopt` says, what it refuses, and that looking changes nothing.

use std::{fs, os::unix::fs::symlink, process::Command};

use docker_broker::lifecycle::fault::{Step, VARIABLE};

use crate::{
    adopt::{PLANS, adopt, adopted, prepared, redis, serves_as_before, start, tree},
    support::{Recipe, docker_broker, docker_ok, ephemeral_ports, guid, life},
};

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_says_what_would_be_adopted_and_changes_nothing() {
    let (mut broker, mut legacy) = prepared();
    let (id, port, redis) = redis(&mut legacy, &["COLOUR=red", "MODE=other"]).await;
    let old = format!("cf-{id}");
    let data = broker.data.path().to_owned();
    let before = (tree(&data), tree(&legacy.directory()), life(&old));
    let done = adopt(&broker, &legacy, &[&id], &["--dry-run"]);
    assert_eq!(done.code, Some(0), "{done:?}");
    for text in [
        &format!("cf-{id}: legacy/legacy-redis, running"),
        &format!("6379/tcp at {port}"),
        &legacy.directory_of(&id).join("data").display().to_string(),
        "takes as a developer's parameters COLOUR, MODE",
        "keeps other values than the plan's of MODE",
        "keeps the variables NAME",
        "would be adopted",
        "1 would be adopted, 0 already adopted, 0 not adopted",
        &format!("net.ipv4.ip_local_reserved_ports={port}"),
    ] {
        assert!(done.stdout.contains(text), "{text} is missing: {}", done.stdout);
    }
    assert!(!done.stdout.contains("red") || !done.stdout.contains("=red"), "{done:?}");
    assert_eq!((tree(&data), tree(&legacy.directory()), life(&old)), before);
    // Beside a broker that runs, and has no such instance afterwards.
    let client = start(&mut broker).await;
    let done = adopt(&broker, &legacy, &[&id], &["--dry-run"]);
    assert_eq!(done.code, Some(0), "{done:?}");
    client.get(&format!("/v2/service_instances/{id}")).await.expect(404);
    let running = adopt(&broker, &legacy, &[&id], &[]);
    assert_eq!(running.code, Some(1), "{running:?}");
    assert!(running.stderr.contains("adopt needs the broker to be stopped"), "{running:?}");
    broker.terminate().await;
    adopted(&broker, &legacy, &id);
    let (before, link) = (life(&broker.container(&id)), tree(&legacy.directory()));
    for more in [&[][..], &["--dry-run"]] {
        let again = adopt(&broker, &legacy, &[&id], more);
        assert_eq!(again.code, Some(0), "{again:?}");
        assert!(again.stdout.contains("0 adopted, 1 already adopted"), "{again:?}");
    }
    assert_eq!((life(&broker.container(&id)), tree(&legacy.directory())), (before, link));
    let client = start(&mut broker).await;
    serves_as_before(&client, &id, port, &redis).await;
}

fn recipe<'a>(plan: &'a str, volumes: &'a [&'a str], ports: &'a [(&'a str, u16)]) -> Recipe<'a> {
    Recipe {
        plan,
        image: "busybox:1",
        shell: "exec sleep 1000",
        environment: Vec::new(),
        volumes,
        without_binds: false,
        ports,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_adopted_is_named_with_what_to_do_and_left_alone() {
    let (mut broker, mut legacy) = prepared();
    let (good, ..) = redis(&mut legacy, &[]).await;
    let [one, two, three] = ephemeral_ports();
    let (of_no_plan, without_volume, elsewhere) = (guid(), guid(), guid());
    legacy.make(&of_no_plan, &recipe("plan-of-long-ago", &[], &[("1/tcp", one)]));
    legacy.make(&without_volume, &recipe(PLANS[0], &[], &[("6379/tcp", two)]));
    legacy.make(&elsewhere, &recipe(PLANS[0], &["/data", "/more"], &[("6379/tcp", three)]));
    let names = [&of_no_plan, &without_volume, &elsewhere].map(|id| format!("cf-{id}"));
    let before = names.each_ref().map(|name| life(name));
    let ids = [&good, &of_no_plan, &without_volume, &elsewhere].map(String::as_str);
    let missing = guid();
    let (hindered, ..) = redis(&mut legacy, &[]).await;
    docker_ok(&["create", "--name", &broker.container(&hindered), "busybox:1"]);
    let taken = adopt(&broker, &legacy, &[&hindered], &[]);
    docker_ok(&["rm", &broker.container(&hindered)]);
    assert_eq!(taken.code, Some(1), "{taken:?}");
    assert!(taken.stdout.contains("the name that it is to get"), "{taken:?}");
    let done = adopt(&broker, &legacy, &[&ids[..], &[&missing]].concat(), &[]);
    assert_eq!(done.code, Some(1), "{done:?}");
    for text in [
        "1 adopted, 0 already adopted, 3 not adopted",
        "its plan plan-of-long-ago is not in the services of this configuration",
        "the plan has a volume /data, but the container does not",
        "its data in /more would be lost from sight",
        &format!("there is no container cf-{missing}"),
    ] {
        assert!(done.stdout.contains(text), "{text} is missing: {}", done.stdout);
    }
    start(&mut broker).await;
    assert_eq!(names.each_ref().map(|name| life(name)), before);
    assert!(legacy.directory_of(&elsewhere).is_dir());
    docker_ok(&["inspect", &broker.container(&good)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_directory_than_that_of_the_container_is_refused() {
    let (broker, mut legacy) = prepared();
    let (id, ..) = redis(&mut legacy, &[]).await;
    let (settings, data) = (broker.settings_file(), broker.data.path());
    let args = ["adopt", "--config", settings.to_str().unwrap(), "--instance", &id];
    let done =
        docker_broker(&[&args[..], &["--legacy-directory", data.to_str().unwrap()]].concat());
    assert_eq!(done.code, Some(1), "{done:?}");
    assert!(done.stdout.contains("is that the directory of the old broker"), "{done:?}");
    // By another name it is the same one.
    let link = data.join("link");
    symlink(legacy.directory(), &link).unwrap();
    let done =
        docker_broker(&[&args[..], &["--legacy-directory", link.to_str().unwrap()]].concat());
    assert_eq!(done.code, Some(0), "{done:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn operators_commands_know_an_adopted_container_as_one_of_the_broker() {
    let (mut broker, mut legacy) = prepared();
    let (id, ..) = redis(&mut legacy, &[]).await;
    adopted(&broker, &legacy, &id);
    start(&mut broker).await;
    let settings = broker.settings_file();
    let orphans = docker_broker(&["orphans", "--config", settings.to_str().unwrap()]);
    assert_eq!(orphans.code, Some(0), "{orphans:?}");
    assert!(!orphans.stdout.contains(&id), "{orphans:?}");
    let instances = docker_broker(&["instances", "--config", settings.to_str().unwrap()]);
    assert_eq!(instances.code, Some(0), "{instances:?}");
    let line = instances.stdout.lines().find(|line| line.contains(&id)).unwrap_or_default();
    assert!(line.contains(" ready ") && line.ends_with("fine"), "{instances:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_cannot_be_written_is_said_with_the_reason_and_comes_with_the_next_adopt() {
    let (broker, mut legacy) = prepared();
    let (id, ..) = redis(&mut legacy, &[]).await;
    let in_the_way = broker.directories().join(format!("i-{id}/record.new"));
    fs::create_dir_all(&in_the_way).unwrap();
    let failed = adopt(&broker, &legacy, &[&id], &[]);
    assert_eq!(failed.code, Some(1), "{failed:?}");
    for text in ["the log says why", "Is a directory"] {
        assert!(failed.stderr.contains(text), "{text}: {failed:?}");
    }
    fs::remove_dir(&in_the_way).unwrap();
    let again = adopt(&broker, &legacy, &[&id], &[]);
    assert_eq!(again.code, Some(0), "{again:?}");
    assert!(in_the_way.with_file_name("record").is_file());
}

/// Called by the list of all steps.
pub(crate) async fn goes_on_after(step: Step) {
    let (mut broker, mut legacy) = prepared();
    let (id, port, redis) = redis(&mut legacy, &[]).await;
    let before = life(&format!("cf-{id}"));
    let (settings, directory) = (broker.settings_file(), legacy.directory());
    let killed = Command::new(env!("CARGO_BIN_EXE_docker-broker"))
        .args(["adopt", "--config", settings.to_str().unwrap(), "--instance", &id])
        .args(["--legacy-directory", directory.to_str().unwrap()])
        .env(VARIABLE, step.name())
        .output()
        .unwrap();
    assert_eq!(killed.status.code(), None, "it dies by a signal: {killed:?}");
    // The name that it has may be the wrong one, but it is the only container of its instance.
    let purged = broker.operate("orphans", &["--purge", &format!("cf-{id}")]).await;
    assert!(purged.expect(1).contains("not removed"), "{purged:?}");
    // Whichever comes first puts it right.
    if step == Step::AdoptRenamed {
        let again = adopt(&broker, &legacy, &[&id], &[]);
        assert_eq!(again.code, Some(0), "{again:?}");
        assert!(again.stdout.contains("1 already adopted"), "{again:?}");
    }
    let client = start(&mut broker).await;
    assert_eq!(life(&broker.container(&id)), before);
    assert!(fs::symlink_metadata(legacy.directory_of(&id)).unwrap().is_symlink());
    serves_as_before(&client, &id, port, &redis).await;
    client.deprovision(&id).await.expect(200);
    assert_eq!(broker.instance_directories(), [""; 0]);
}
