//! What somebody else does to containers is undone while the broker runs: same port, same
//! password, same data.

use std::fs;

use serde_json::json;

use crate::support::{
    Builder, REDIS, Redis, TestBroker, docker, docker_ok, eventually, in_image, redis_yaml,
    service_file,
};

/// A broker with an instance `r1` that holds a value.
async fn with_data(builder: Builder) -> (TestBroker, Redis) {
    let broker = builder.start().await;
    broker.client.provision("r1").await.expect(201);
    let redis = Redis::of(&broker.client.bind("r1", "b1").await.expect(201));
    redis.expect("SET mine precious").await;
    (broker, redis)
}

/// dockerd's id of a container.
fn id(container: &str) -> String {
    docker_ok(&["inspect", "-f", "{{.Id}}", container])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_was_killed_or_stopped_is_started_again() {
    let (broker, redis) = with_data(TestBroker::builder()).await;
    let container = broker.container("r1");
    let before = id(&container);
    docker_ok(&["kill", &container]);
    broker.heals("r1", &redis).await;
    docker_ok(&["stop", "-t", "5", &container]);
    broker.heals("r1", &redis).await;
    assert_eq!(id(&container), before, "it is the very container that was there before");
    broker.client.deprovision("r1").await.expect(200);
    assert_eq!(broker.containers(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_was_removed_is_made_again() {
    let (broker, redis) = with_data(TestBroker::builder()).await;
    docker_ok(&["rm", "-f", &broker.container("r1")]);
    broker.heals("r1", &redis).await;
    assert_eq!(broker.containers(), [broker.container("r1")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_container_goes_on() {
    let (broker, redis) = with_data(TestBroker::builder()).await;
    let before = id(&broker.container("r1"));
    docker_ok(&["pause", &broker.container("r1")]);
    broker.heals("r1", &redis).await;
    assert_eq!(id(&broker.container("r1")), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_was_renamed_has_its_name_back() {
    let (broker, redis) = with_data(TestBroker::builder()).await;
    let (name, before) = (broker.container("r1"), id(&broker.container("r1")));
    docker_ok(&["rename", &name, &format!("{name}-away")]);
    eventually("its name", async || {
        if broker.containers() == [name.clone()] { Ok(()) } else { Err(String::new()) }
    })
    .await;
    broker.heals("r1", &redis).await;
    assert_eq!(id(&name), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_was_cut_off_its_network_is_on_it_again() {
    let (broker, redis) = with_data(TestBroker::builder().setting("reconcile_interval: 2s")).await;
    let container = broker.container("r1");
    let template = "{{range $name, $one := .NetworkSettings.Networks}}{{$name}}{{end}}";
    let network = docker_ok(&["inspect", "-f", template, &container]);
    docker_ok(&["network", "disconnect", "-f", &network, &container]);
    assert!(redis.ask("PING").await.is_err(), "it cannot be reached");
    broker.heals("r1", &redis).await;
    // The network itself.
    docker_ok(&["rm", "-f", &container]);
    drop(docker(&["network", "rm", &network]));
    broker.heals("r1", &redis).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_whose_container_was_removed_is_back_with_what_was_written() {
    let broker = TestBroker::builder().services(&[service_file("op-postgres17.yml")]).start().await;
    broker.client.provision("p1").await.expect(201);
    let bound = broker.client.bind("p1", "b").await.expect(201);
    let text = |key: &str| bound["credentials"][key].as_str().unwrap();
    let environment = [
        ("PGHOST", text("host")),
        ("PGPORT", text("port")),
        ("PGUSER", text("username")),
        ("PGPASSWORD", text("password")),
        ("PGDATABASE", text("dbname")),
    ];
    let ask = |sql: &str| in_image("postgres:17", &environment, &["psql", "-tAc", sql]);
    assert!(ask("CREATE TABLE t AS SELECT 42 AS n").0);
    docker_ok(&["rm", "-f", &broker.container("p1")]);
    eventually("its data", async || match ask("SELECT n FROM t") {
        (true, text) if text == "42" => Ok(()),
        (_, text) => Err(text),
    })
    .await;
    eventually("its health", async || match broker.health("p1").await {
        None => Ok(()),
        Some(reason) => Err(reason),
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_without_its_directory_is_reported_and_comes_back_with_it() {
    let (broker, redis) = with_data(TestBroker::builder()).await;
    let directory = broker.directories().join("i-r1");
    let aside = broker.data.path().join("aside");
    fs::rename(&directory, &aside).unwrap();
    docker_ok(&["rm", "-f", &broker.container("r1")]);
    broker.sickens("r1", "is missing, so its container is kept stopped").await;
    assert_eq!(broker.unwell().await, ["r1"]);
    let refused = broker.client.bind("r1", "b2").await;
    refused.expect(422);
    assert!(refused.description().contains("ask the operator"), "{}", refused.description());
    broker.client.bind("r1", "b1").await.expect(200);
    assert!(!directory.exists(), "a server is not started on an empty directory");
    fs::rename(&aside, &directory).unwrap();
    broker.heals("r1", &redis).await;
    broker.client.bind("r1", "b2").await.expect(201);
}

#[tokio::test(flavor = "multi_thread")]
async fn containers_of_others_are_never_touched() {
    let (broker, redis) = with_data(TestBroker::builder().setting("reconcile_interval: 1s")).await;
    let other = TestBroker::builder().setting("reconcile_interval: 0s").start().await;
    other.client.provision("r1").await.expect(201);
    docker_ok(&["stop", "-t", "5", &other.container("r1")]);
    let (name, foreign) = (broker.container("r1"), format!("{}-foreign", broker.name()));
    docker_ok(&["create", "--name", &foreign, "busybox:1", "sleep", "1000"]);
    docker_ok(&["kill", &name]);
    broker.heals("r1", &redis).await;
    let state = |name: &str| docker_ok(&["inspect", "-f", "{{.State.Status}}", name]);
    assert_eq!(state(&other.container("r1")), "exited");
    assert_eq!(state(&foreign), "created");
    // One of another owner that has taken the name of ours is left alone, and that is said.
    let marker = broker.directories().join("i-r1/maintenance");
    fs::write(&marker, "").unwrap();
    docker_ok(&["rm", "-f", &name]);
    docker_ok(&["rename", &foreign, &name]);
    fs::remove_file(&marker).unwrap();
    broker.sickens("r1", "does not belong to this broker").await;
    assert_eq!(state(&name), "created");
    docker_ok(&["rename", &name, &foreign]);
    broker.heals("r1", &redis).await;
    docker_ok(&["rm", "-f", &foreign]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_in_maintenance_is_left_alone_until_its_operator_is_done() {
    let (broker, redis) = with_data(TestBroker::builder().setting("reconcile_interval: 1s")).await;
    let marker = broker.directories().join("i-r1/maintenance");
    fs::write(&marker, "").unwrap();
    docker_ok(&["stop", "-t", "5", &broker.container("r1")]);
    broker.sickens("r1", "maintenance").await;
    docker_ok(&["start", &broker.container("r1")]);
    docker_ok(&["stop", "-t", "5", &broker.container("r1")]);
    broker.sickens("r1", "maintenance").await;
    let state = docker_ok(&["inspect", "-f", "{{.State.Status}}", &broker.container("r1")]);
    assert_eq!(state, "exited");
    fs::remove_file(&marker).unwrap();
    broker.heals("r1", &redis).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_crashes_again_and_again_is_reported_and_well_when_its_cause_is_gone() {
    // It crashes while there is a file in its data directory.
    let yaml = redis_yaml("").replace(
        "      - |\n        exec redis-server",
        "      - |\n        [ ! -e /data/damaged ] || exit 41\n        exec redis-server",
    );
    let builder = TestBroker::builder().yaml(yaml, REDIS.0, REDIS.1);
    let (broker, redis) = with_data(builder).await;
    let container = broker.container("r1");
    let before = id(&container);
    let damage = broker.directories().join("i-r1/volumes/data/damaged");
    fs::write(&damage, "").unwrap();
    docker_ok(&["exec", &container, "sh", "-c", "kill 1"]);
    broker.sickens("r1", "exit code 41").await;
    assert_eq!(broker.unwell().await, ["r1"]);
    // Made anew once, and then no more.
    eventually("another container", async || {
        match docker(&["inspect", "-f", "{{.Id}}", &container]) {
            output if output.status.success() && !output.stdout.starts_with(before.as_bytes()) => {
                Ok(())
            }
            output => Err(format!("{output:?}")),
        }
    })
    .await;
    broker.sickens("r1", "exit code 41").await;
    let anew = id(&container);
    fs::remove_file(&damage).unwrap();
    eventually("redis to have its data", async || match redis.ask("GET mine").await?.as_str() {
        "precious" => Ok(()),
        other => Err(other.to_owned()),
    })
    .await;
    assert_eq!(id(&container), anew);
    eventually("its health", async || match broker.health("r1").await {
        None => Ok(()),
        Some(reason) => Err(reason),
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn operations_overtake_and_what_they_remove_never_returns() {
    let (broker, redis) = with_data(TestBroker::builder().setting("reconcile_interval: 1s")).await;
    let container = broker.container("r1");
    for round in 0..4 {
        docker_ok(&["kill", &container]);
        let plan = if round % 2 == 0 { REDIS.2 } else { REDIS.1 };
        let body = json!({ "service_id": REDIS.0, "plan_id": plan });
        broker.client.patch("/v2/service_instances/r1", &body).await.expect(200);
        broker.heals("r1", &redis).await;
        assert_eq!(broker.containers(), [container.as_str()], "no standby is left");
    }
    docker_ok(&["rm", "-f", &container]);
    broker.client.deprovision("r1").await.expect(200);
    // Several comparisons and looks later.
    for number in 0..3 {
        let name = format!("n{number}");
        broker.client.provision(&name).await.expect(201);
        docker_ok(&["rm", "-f", &broker.container(&name)]);
        broker.client.deprovision(&name).await.expect(200);
    }
    assert_eq!(broker.containers(), [""; 0]);
    assert_eq!(broker.instance_directories(), [""; 0]);
    assert_eq!(broker.unwell().await, [""; 0]);
}
