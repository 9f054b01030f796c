//! Instances cannot reach one another, and sharing bridges costs nothing.

use std::{collections::BTreeSet, os::unix::fs::MetadataExt};

use serde_json::json;

use crate::support::{Redis, TestBroker, docker, docker_ok};

/// Container address of an instance.
fn address(broker: &TestBroker, instance: &str) -> String {
    let format = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}";
    docker_ok(&["inspect", "-f", format, &broker.container(instance)])
}

/// Network of an instance.
fn network(broker: &TestBroker, instance: &str) -> String {
    let format = "{{range .NetworkSettings.Networks}}{{.NetworkID}}{{end}}";
    docker_ok(&["inspect", "-f", format, &broker.container(instance)])
}

/// Whether `from` can open connections to `target`. Asked three times: whenever a network is made
/// on this host, by whatever test, dockerd takes its rule between bridges out and puts it back in.
fn reaches(broker: &TestBroker, from: &str, target: &str) -> bool {
    (0..3).all(|_| reaches_once(broker, from, target))
}

fn reaches_once(broker: &TestBroker, from: &str, target: &str) -> bool {
    let script = format!("timeout 3 redis-cli -h {target} ping 2>&1");
    let output = docker(&["exec", &broker.container(from), "sh", "-c", &script]);
    // A server that is reached asks for its password.
    String::from_utf8_lossy(&output.stdout).contains("NOAUTH")
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_cannot_reach_another_ones_container_on_the_same_bridge_or_another() {
    let broker = TestBroker::builder().setting("instances_per_network: 2").start().await;
    for instance in ["a", "b", "c"] {
        broker.client.provision(instance).await.expect(201);
    }
    assert_eq!(network(&broker, "a"), network(&broker, "b"), "two share a bridge");
    assert_ne!(network(&broker, "a"), network(&broker, "c"), "the third gets another one");
    let (a, b, c) = (address(&broker, "a"), address(&broker, "b"), address(&broker, "c"));
    assert!(reaches(&broker, "a", &a), "the probe itself works");
    assert!(!reaches(&broker, "a", &b), "same bridge");
    assert!(!reaches(&broker, "a", &c), "another bridge");
    // A place that becomes free is used again.
    broker.client.deprovision("a").await.expect(200);
    broker.client.provision("d").await.expect(201);
    assert_eq!(network(&broker, "d"), network(&broker, "b"));
}

#[tokio::test(flavor = "multi_thread")]
async fn containers_are_hardened_limited_and_published_on_one_address() {
    let broker = TestBroker::builder().start().await;
    broker.client.provision("a").await.expect(201);
    let inspected = docker_ok(&["inspect", &broker.container("a")]);
    let container = serde_json::from_str::<serde_json::Value>(&inspected).unwrap()[0].clone();
    let host = &container["HostConfig"];
    assert_eq!(host["CapDrop"], json!(["ALL"]));
    assert_eq!(host["SecurityOpt"], json!(["no-new-privileges"]));
    assert_eq!(host["ReadonlyRootfs"], true);
    assert_eq!(host["Privileged"], false);
    assert_eq!(host["Memory"], 64 << 20);
    assert_eq!(host["MemorySwap"], 64 << 20, "nothing swaps");
    assert_eq!(host["PidsLimit"], 64);
    assert_eq!(host["RestartPolicy"]["Name"], "always");
    assert_eq!(host["LogConfig"]["Config"]["max-size"], "10m");
    assert_eq!(host["Binds"], json!(null), "a missing directory must not be made by Docker");
    assert_eq!(host["Mounts"][0]["Type"], "bind");
    assert_eq!(host["PortBindings"]["6379/tcp"][0]["HostIp"], "127.0.0.1");
    let labels = &container["Config"]["Labels"];
    assert_eq!(labels["io.docker-broker.instance"], "a");
    assert_eq!(labels["io.docker-broker.owner"], broker.name());
    assert_eq!(labels["io.docker-broker.generation"], "1");
    assert_eq!(labels["plan_id"], broker.client.plan_id);
    let source = host["Mounts"][0]["Source"].as_str().unwrap();
    let metadata = std::fs::metadata(source).unwrap();
    assert_eq!((metadata.uid(), metadata.gid(), metadata.mode() & 0o7777), (999, 999, 0o700));
    let sockets = container["Mounts"].as_array().unwrap().len();
    assert_eq!(sockets, 1, "nothing but its directory is mounted");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_instances_are_provisioned_at_once_and_all_answer() {
    let broker = TestBroker::builder().start().await;
    let names: Vec<String> = (0..100).map(|number| format!("n{number}")).collect();
    let accepted = futures_util::future::join_all(
        names.iter().map(|name| async { broker.client.provision_async(name).await.expect(202) }),
    );
    assert_eq!(accepted.await.len(), 100);
    let mut ports = BTreeSet::new();
    for name in &names {
        let (state, reason) = broker.client.poll(name).await;
        assert_eq!(state, "succeeded", "{name}: {reason}");
        let bound = broker.client.bind(name, "b").await.expect(201);
        assert_eq!(Redis::of(&bound).expect("PING").await, "+PONG");
        ports.insert(bound["credentials"]["port"].as_str().unwrap().to_owned());
    }
    assert_eq!(ports.len(), 100);
}
