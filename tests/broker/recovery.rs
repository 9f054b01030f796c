//! What comes back after a restart of the broker, and what happens when clients or containers go
//! away behind its back.

use std::fs;

use serde_json::json;
use tokio::io::AsyncWriteExt;

use crate::support::{REDIS, Redis, TestBroker, docker_ok, eventually, redis_yaml};

/// A broker that leaves bringing back to its next start.
fn at_start_only() -> crate::support::Builder {
    TestBroker::builder().setting("reconcile_interval: 0s")
}

/// A broker with an instance `r1` that holds a value.
async fn with_data() -> (TestBroker, Redis) {
    let broker = at_start_only().start().await;
    broker.client.provision("r1").await.expect(201);
    let redis = Redis::of(&broker.client.bind("r1", "b1").await.expect(201));
    redis.expect("SET mine precious").await;
    (broker, redis)
}

async fn restart(broker: &mut TestBroker) {
    broker.kill();
    broker.launch().await;
    broker.ready().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_was_removed_comes_back_with_its_port_password_and_data() {
    let (mut broker, redis) = with_data().await;
    docker_ok(&["rm", "-f", &broker.container("r1")]);
    restart(&mut broker).await;
    assert_eq!(redis.expect("GET mine").await, "precious");
    broker.client.deprovision("r1").await.expect(200);
    assert_eq!(broker.containers(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_was_stopped_is_started_again() {
    let (mut broker, redis) = with_data().await;
    docker_ok(&["stop", "-t", "5", &broker.container("r1")]);
    restart(&mut broker).await;
    assert_eq!(redis.expect("GET mine").await, "precious");
}

#[tokio::test(flavor = "multi_thread")]
async fn containers_that_run_are_left_alone_by_a_restart_of_the_broker() {
    let (mut broker, redis) = with_data().await;
    let identity = |b: &TestBroker| {
        docker_ok(&["inspect", "-f", "{{.Id}} {{.State.StartedAt}}", &b.container("r1")])
    };
    let before = identity(&broker);
    restart(&mut broker).await;
    assert_eq!(identity(&broker), before);
    assert_eq!(redis.expect("GET mine").await, "precious");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_whose_directory_is_missing_is_reported_and_not_started_empty() {
    let (mut broker, _) = with_data().await;
    docker_ok(&["rm", "-f", &broker.container("r1")]);
    let directory = broker.directories().join("i-r1");
    let aside = broker.data.path().join("aside");
    fs::rename(&directory, &aside).unwrap();
    restart(&mut broker).await;
    assert_eq!(broker.containers(), [""; 0]);
    assert!(!directory.exists());
    assert!(broker.log_text().contains("is missing, so its container is kept stopped"));
    let refused = broker.client.bind("r1", "b2").await;
    refused.expect(422);
    assert!(refused.description().contains("ask the operator"), "{}", refused.description());
    // Put back, it works as before.
    fs::rename(&aside, &directory).unwrap();
    restart(&mut broker).await;
    let redis = Redis::of(&broker.client.bind("r1", "b1").await.expect(200));
    assert_eq!(redis.expect("GET mine").await, "precious");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_of_an_instance_whose_directory_is_missing_fails_and_makes_no_empty_one() {
    let (broker, redis) = with_data().await;
    let directory = broker.directories().join("i-r1");
    let aside = broker.data.path().join("aside");
    fs::rename(&directory, &aside).unwrap();
    let body = json!({ "service_id": broker.client.service_id, "plan_id": REDIS.2 });
    let refused = broker.client.patch("/v2/service_instances/r1", &body).await;
    refused.expect(500);
    assert!(refused.description().contains("is missing"), "{}", refused.description());
    assert!(!directory.exists());
    fs::rename(&aside, &directory).unwrap();
    broker.client.patch("/v2/service_instances/r1", &body).await.expect(200);
    assert_eq!(redis.expect("GET mine").await, "precious");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_an_earlier_update_has_left_is_never_gone_back_to() {
    let wrong_large = redis_yaml("").replace("memory: 96m", "memory: 96m, nofile: 9").replace(
        "      user: '999:999'\n      entrypoint: [/bin/sh, -c]\n      command:\n      - |\n        exec",
        "      user: '999:999'\n      entrypoint: [/bin/sh, -c]\n      command:\n      - |\n        [ \"$(ulimit -n)\" != 9 ] || exit 3\n        exec",
    );
    let broker = TestBroker::builder().yaml(wrong_large, REDIS.0, REDIS.1).start().await;
    broker.client.provision("r1").await.expect(201);
    let redis = Redis::of(&broker.client.bind("r1", "b1").await.expect(201));
    redis.expect("SET mine precious").await;
    let identity = docker_ok(&["inspect", "-f", "{{.Id}}", &broker.container("r1")]);
    let stale = format!("{}.old", broker.container("r1"));
    let owner = format!("io.docker-broker.owner={}", broker.name());
    let labels = [owner.as_str(), "io.docker-broker.instance=r1", "io.docker-broker.generation=0"];
    let mut args = vec!["create", "--name", &stale];
    args.extend(labels.iter().flat_map(|label| ["--label", label]));
    args.extend(["busybox:1", "sleep", "1000"]);
    docker_ok(&args);
    let body = json!({ "service_id": REDIS.0, "plan_id": REDIS.2 });
    let refused = broker.client.patch("/v2/service_instances/r1", &body).await;
    refused.expect(500);
    assert!(refused.description().contains("nothing was changed"), "{}", refused.description());
    assert_eq!(redis.expect("GET mine").await, "precious");
    let after = docker_ok(&["inspect", "-f", "{{.Id}}", &broker.container("r1")]);
    assert_eq!(after, identity, "it is the very container that was there before");
    assert_eq!(broker.containers(), [broker.container("r1")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn data_that_an_unknown_instance_has_left_is_not_taken_over() {
    let broker = TestBroker::builder().start().await;
    let left = broker.directories().join("i-r1/volumes/data/appendonly.aof");
    fs::create_dir_all(left.parent().unwrap()).unwrap();
    fs::write(&left, "precious").unwrap();
    let refused = broker.client.provision("r1").await;
    refused.expect(409);
    assert!(refused.description().contains("ask the operator"), "{}", refused.description());
    broker.client.deprovision("r1").await.expect(410);
    assert_eq!(fs::read_to_string(&left).unwrap(), "precious");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_platform_that_did_not_hear_of_a_change_of_plan_can_still_delete() {
    let (broker, _) = with_data().await;
    let body = json!({ "service_id": REDIS.0, "plan_id": REDIS.2 });
    broker.client.patch("/v2/service_instances/r1", &body).await.expect(200);
    // These name the plan from before.
    broker.client.unbind("r1", "b1").await.expect(200);
    broker.client.deprovision("r1").await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_provision_that_is_repeated_takes_the_plan_as_it_was_mended() {
    let wrong_plan = redis_yaml("").replace("exec redis-server", "exec no-such-server");
    let mut broker = TestBroker::builder().yaml(wrong_plan, REDIS.0, REDIS.1).start().await;
    let failed = broker.client.provision("r1").await;
    failed.expect(500);
    assert!(failed.description().contains("exit code"), "{}", failed.description());
    broker.set_yaml(redis_yaml(""));
    restart(&mut broker).await;
    broker.client.provision("r1").await.expect(201);
    let redis = Redis::of(&broker.client.bind("r1", "b1").await.expect(201));
    assert_eq!(redis.expect("PING").await, "+PONG");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_network_is_made_again_for_the_containers_that_need_it() {
    let (mut broker, redis) = with_data().await;
    docker_ok(&["rm", "-f", &broker.container("r1")]);
    let filter = format!("label=io.docker-broker.owner={}", broker.name());
    let network = docker_ok(&["network", "ls", "-q", "--filter", &filter]);
    docker_ok(&["network", "rm", &network]);
    // Without a restart: the broker believes that the network is there.
    broker.client.provision("r2").await.expect(201);
    restart(&mut broker).await;
    assert_eq!(redis.expect("GET mine").await, "precious");
}

#[tokio::test(flavor = "multi_thread")]
async fn orphans_are_reported_and_left_alone() {
    let (mut broker, _) = with_data().await;
    let orphan = format!("{}-i-orphan", broker.name());
    let owner = format!("io.docker-broker.owner={}", broker.name());
    let labels =
        [owner.as_str(), "io.docker-broker.instance=orphan", "io.docker-broker.generation=1"];
    let mut args = vec!["run", "-d", "--name", &orphan];
    args.extend(labels.iter().flat_map(|label| ["--label", label]));
    args.extend(["busybox:1", "sleep", "1000"]);
    docker_ok(&args);
    fs::create_dir_all(broker.directories().join("i-lost/volumes/data")).unwrap();
    restart(&mut broker).await;
    let log = broker.log_text();
    assert!(log.contains("a container of this broker has no instance"), "{log}");
    assert!(log.contains("a directory has no instance"), "{log}");
    assert_eq!(docker_ok(&["inspect", "-f", "{{.State.Running}}", &orphan]), "true");
    assert!(broker.directories().join("i-lost/volumes/data").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_of_somebody_else_with_the_same_name_is_never_touched() {
    let broker = TestBroker::builder().start().await;
    let name = broker.container("r1");
    let foreign = docker_ok(&["run", "-d", "--name", &name, "busybox:1", "sleep", "1000"]);
    let reply = broker.client.provision("r1").await;
    reply.expect(500);
    broker.client.deprovision("r1").await.expect(200);
    assert_eq!(docker_ok(&["inspect", "-f", "{{.State.Running}}", &foreign]), "true");
    docker_ok(&["rm", "-f", &foreign]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provision_whose_client_goes_away_is_finished_and_can_be_deleted() {
    let broker = TestBroker::builder().start().await;
    let client = &broker.client;
    let body = client.provision_body().to_string();
    let mut stream = tokio::net::TcpStream::connect(&client.address).await.unwrap();
    let head = format!(
        "PUT /v2/service_instances/r1 HTTP/1.1\r\nhost: x\r\nauthorization: {}\r\n\
         x-broker-api-version: 2.17\r\ncontent-length: {}\r\n\r\n{body}",
        client.authorization(),
        body.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    eventually("the provision to be accepted", async || {
        let reply = client.get("/v2/service_instances/r1/last_operation").await;
        if reply.status == 200 { Ok(()) } else { Err(reply.description()) }
    })
    .await;
    drop(stream);
    assert_eq!(client.poll("r1").await.0, "succeeded");
    client.provision("r1").await.expect(200);
    client.deprovision("r1").await.expect(200);
    assert_eq!(broker.containers(), [""; 0]);
    assert_eq!(broker.instance_directories(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_port_that_somebody_else_holds_is_skipped() {
    let builder = TestBroker::builder();
    // Find out which port comes first, and hold it.
    let probe = builder.clone().start().await;
    probe.client.provision("r1").await.expect(201);
    let bound = probe.client.bind("r1", "b").await.expect(201);
    let first: u16 = bound["credentials"]["port"].as_str().unwrap().parse().unwrap();
    drop(probe);
    let holder = std::net::TcpListener::bind(("127.0.0.1", first)).unwrap();
    let broker = builder.start().await;
    broker.client.provision("r1").await.expect(201);
    let bound = broker.client.bind("r1", "b").await.expect(201);
    assert_eq!(bound["credentials"]["port"], json!((first + 1).to_string()));
    assert_eq!(Redis::of(&bound).expect("PING").await, "+PONG");
    drop(holder);
}

#[tokio::test(flavor = "multi_thread")]
async fn instances_that_are_deleted_while_they_are_brought_back_leave_nothing_behind() {
    let mut broker = at_start_only().start().await;
    let names: Vec<String> = (0..8).map(|number| format!("n{number}")).collect();
    let provisions =
        names.iter().map(|name| async { broker.client.provision(name).await.expect(201) });
    futures_util::future::join_all(provisions).await;
    for container in broker.containers() {
        docker_ok(&["rm", "-f", &container]);
    }
    broker.kill();
    broker.launch().await;
    let deletions =
        names.iter().map(|name| async { broker.client.deprovision(name).await.expect(200) });
    futures_util::future::join_all(deletions).await;
    broker.ready().await;
    assert_eq!(broker.containers(), [""; 0]);
    assert_eq!(broker.instance_directories(), [""; 0]);
}
