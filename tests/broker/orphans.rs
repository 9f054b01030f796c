//! `docker-broker orphans`: found in both directions, removed by name only, and nothing foreign
//! touched.

use std::fs;

use serde_json::Value;

use crate::support::{TestBroker, docker, docker_ok, remove_labelled, unique};

/// `kind name` of each finding.
fn names(document: &Value) -> Vec<String> {
    let list = document["orphans"].as_array().expect("a list");
    let text = |one: &Value, key: &str| one[key].as_str().unwrap_or_default().to_owned();
    let mut names: Vec<_> =
        list.iter().map(|one| format!("{} {}", text(one, "kind"), text(one, "name"))).collect();
    names.sort();
    names
}

fn finding(document: &Value, name: &str) -> Value {
    let list = document["orphans"].as_array().expect("a list");
    let found = list.iter().find(|one| one["name"] == name);
    found.unwrap_or_else(|| panic!("{name}: {document:#}")).clone()
}

/// Makes a stopped container of busybox with these options.
fn container(name: &str, options: &[&str]) {
    let args = [&["create", "--name", name], options, &["busybox:1", "sleep", "1000"]].concat();
    docker_ok(&args);
}

/// Labels of a container of an instance.
fn labels(owner: &str, instance: &str) -> Vec<String> {
    [("owner", owner), ("instance", instance), ("generation", "1")]
        .map(|(key, value)| format!("--label=io.docker-broker.{key}={value}"))
        .to_vec()
}

fn exists(name: &str) -> bool {
    docker(&["inspect", name]).status.success()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_in_order_has_no_orphans() {
    let broker = TestBroker::builder().start().await;
    broker.client.provision("one").await.expect(201);
    let run = broker.operate("orphans", &[]).await;
    assert_eq!(run.expect(0), "nothing is orphaned and nothing is missing\n");
    let document = broker.operate("orphans", &["--json"]).await.expect_json(0);
    assert_eq!(document, serde_json::json!({ "orphans": [] }));
}

#[tokio::test(flavor = "multi_thread")]
async fn orphans_of_every_kind_are_listed_and_removed_by_name_only() {
    let broker = TestBroker::builder().start().await;
    broker.client.provision("one").await.expect(201);
    let owner = broker.name();
    let lost = broker.container("lost");
    let labels_of = |instance: &str| labels(owner, instance);
    let (lost_labels, old_labels) = (labels_of("lost"), labels_of("one"));
    let lost_directory = broker.directories().join("i-lost");
    fs::create_dir_all(lost_directory.join("volumes/data")).unwrap();
    fs::write(lost_directory.join("volumes/data/file"), vec![1; 100_000]).unwrap();
    let mount = format!("--volume={}:/data", lost_directory.join("volumes/data").display());
    let mut options: Vec<&str> = lost_labels.iter().map(String::as_str).collect();
    options.extend(["--publish=127.0.0.1:39999:80", mount.as_str()]);
    container(&lost, &options);
    let standby = format!("{}.old", broker.container("one"));
    let mut old: Vec<&str> = old_labels.iter().map(String::as_str).collect();
    old[2] = "--label=io.docker-broker.generation=0";
    container(&standby, &old);
    let network = format!("{owner}-7");
    let label = format!("--label=io.docker-broker.owner={owner}");
    docker_ok(&["network", "create", &label, &network]);
    let trash = broker.directories().join(".trash/i-gone.abc");
    fs::create_dir_all(&trash).unwrap();
    fs::write(trash.join("file"), vec![1; 50_000]).unwrap();

    let text = broker.operate("orphans", &[]).await;
    assert!(text.expect(10).starts_with("KIND"), "{text:?}");
    let document = broker.operate("orphans", &["--json"]).await.expect_json(10);
    let mut expected = vec![
        format!("container {lost}"),
        format!("container {standby}"),
        "directory i-lost".to_owned(),
        format!("network {network}"),
        "trash .trash/i-gone.abc".to_owned(),
    ];
    expected.sort();
    assert_eq!(names(&document), expected);
    assert_eq!(finding(&document, &lost)["ports"], serde_json::json!([39999]));
    assert!(finding(&document, "i-lost")["bytes"].as_u64() >= Some(100_000));
    assert!(finding(&document, ".trash/i-gone.abc")["bytes"].as_u64() >= Some(50_000));
    assert_eq!(finding(&document, "i-lost")["purgeable"], false, "its container uses it");

    // A link leads to it as well: containers that were adopted name one.
    let (other, link) = (broker.container("linked"), broker.data.path().join("link"));
    let linked = broker.directories().join("i-linked");
    fs::create_dir_all(linked.join("volumes/data")).unwrap();
    std::os::unix::fs::symlink(linked.join("volumes"), &link).unwrap();
    let (other_labels, mount) =
        (labels_of("linked"), format!("--volume={}:/data", link.join("data").display()));
    let mut options: Vec<&str> = other_labels.iter().map(String::as_str).collect();
    options.push(&mount);
    container(&other, &options);
    let run = broker.operate("orphans", &["--purge", "i-linked"]).await;
    assert!(run.expect(1).contains("purge that first"), "{run:?}");
    // What can be brought back stays as well.
    fs::write(linked.join("record"), "record").unwrap();
    let run = broker.operate("orphans", &["--purge", &other, "i-linked"]).await;
    assert!(run.expect(1).contains("--adopt brings it back"), "{run:?}");
    fs::remove_file(linked.join("record")).unwrap();
    broker.operate("orphans", &["--purge", "i-linked"]).await.expect(0);
    assert!(!linked.exists());

    // What a container uses stays until that is gone.
    let run = broker.operate("orphans", &["--purge", "i-lost"]).await;
    assert!(run.expect(1).contains("purge that first"), "{run:?}");
    assert!(lost_directory.join("volumes/data/file").exists());
    let args = ["--purge", &lost, "i-lost"];
    let run = broker.operate("orphans", &args).await;
    assert!(run.expect(0).contains("i-lost: directory removed, "), "{run:?}");
    assert!(!exists(&lost) && !lost_directory.exists());
    assert!(exists(&standby) && trash.exists(), "what was not named stays");
    let args = ["--purge", &standby, &network, ".trash/i-gone.abc"];
    broker.operate("orphans", &args).await.expect(0);
    assert!(!exists(&standby) && !exists(&network) && !trash.exists());
    broker.operate("orphans", &[]).await.expect(0);
    // The instance serves as before.
    broker.client.bind("one", "b").await.expect(201);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_belongs_to_an_instance_is_never_purged() {
    let broker = TestBroker::builder().start().await;
    broker.client.provision("one").await.expect(201);
    let name = broker.container("one");
    let args = ["--purge", &name, "i-one", "one", "../instances", "/etc", ".", ".trash/..", ""];
    let run = broker.operate("orphans", &args).await;
    let text = run.expect(1);
    assert_eq!(text.matches("not removed: it belongs to instance one").count(), 3, "{text}");
    assert_eq!(text.matches("not removed: there is no orphan of that name").count(), 5, "{text}");
    assert!(exists(&name));
    assert_eq!(broker.instance_directories(), ["i-one"]);
    broker.client.bind("one", "b").await.expect(201);
}

#[tokio::test(flavor = "multi_thread")]
async fn foreign_objects_of_similar_names_and_another_brokers_are_neither_listed_nor_touched() {
    let broker = TestBroker::builder().start().await;
    broker.client.provision("one").await.expect(201);
    let owner = broker.name().to_owned();
    let other = unique("t-other-");
    let plain = format!("{owner}-i-stranger");
    let others = format!("{owner}-i-others");
    let plain_network = format!("{owner}-8");
    let others_network = format!("{owner}-9");
    // Directories: one that another broker's container uses, one that a stranger's does, and some
    // that are not named like an instance's.
    for directory in ["i-others", "i-stranger", "my-backup", "lost+found"] {
        fs::create_dir_all(broker.directories().join(directory)).unwrap();
        fs::write(broker.directories().join(directory).join("file"), "precious").unwrap();
    }
    let mount =
        |name: &str| format!("--volume={}:/data", broker.directories().join(name).display());
    let (others_mount, plain_mount) = (mount("i-others"), mount("i-stranger"));
    let other_labels = labels(&other, "others");
    let mut options: Vec<&str> = other_labels.iter().map(String::as_str).collect();
    options.push(&others_mount);
    container(&others, &options);
    container(&plain, &[&plain_mount]);
    docker_ok(&["network", "create", &plain_network]);
    let label = format!("--label=io.docker-broker.owner={other}");
    docker_ok(&["network", "create", &label, &others_network]);

    let listed = broker.operate("orphans", &["--json"]).await;
    let all = [&plain, &others, &plain_network, &others_network];
    let mut args = vec!["--purge"];
    args.extend(all.map(String::as_str));
    args.extend(["i-others", "i-stranger", "my-backup", "lost+found"]);
    let purged = broker.operate("orphans", &args).await;
    let there: Vec<bool> = all.iter().map(|name| exists(name)).collect();
    docker(&["rm", "-f", &plain]);
    docker(&["network", "rm", &plain_network]);
    remove_labelled(&other);

    assert_eq!(listed.expect_json(0), serde_json::json!({ "orphans": [] }));
    assert_eq!(purged.expect(1).matches("not removed: ").count(), 8, "{purged:?}");
    assert_eq!(there, [true; 4]);
    for directory in ["i-others", "i-stranger", "my-backup", "lost+found"] {
        let file = broker.directories().join(directory).join("file");
        assert_eq!(fs::read_to_string(file).unwrap(), "precious", "{directory}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn instances_that_lack_their_container_or_directory_are_listed() {
    let mut broker = TestBroker::builder().start().await;
    broker.client.provision("one").await.expect(201);
    broker.client.provision("two").await.expect(201);
    broker.terminate().await;
    docker_ok(&["rm", "-f", &broker.container("one")]);
    docker_ok(&["rm", "-f", &broker.container("two")]);
    fs::remove_dir_all(broker.directories().join("i-two")).unwrap();
    let document = broker.operate("orphans", &["--json"]).await.expect_json(10);
    assert_eq!(names(&document), ["instance one", "instance two", "instance two"]);
    let text = document.to_string();
    assert!(text.contains("its container") && text.contains("its directory i-two is missing"));
    // There is nothing to purge of them.
    let run = broker.operate("orphans", &["--purge", "one"]).await;
    assert!(run.expect(1).contains("it belongs to instance one"), "{run:?}");
}
