//! What else keeps an instance from working: a health check, a port in other hands, an image that
//! was removed, a container that cannot be started; and what is none of the broker's business.

use std::{fs, net::TcpListener};

use serde_json::json;

use crate::support::{
    Builder, REDIS, Redis, Registry, TestBroker, docker, docker_ok, eventually, redis_yaml, unique,
};

async fn with_data(builder: Builder) -> (TestBroker, Redis) {
    let broker = builder.start().await;
    broker.client.provision("r1").await.expect(201);
    let redis = Redis::of(&broker.client.bind("r1", "b1").await.expect(201));
    redis.expect("SET mine precious").await;
    (broker, redis)
}

fn id(container: &str) -> String {
    docker_ok(&["inspect", "-f", "{{.Id}}", container])
}

/// An image that is removed with the test.
struct Image(String);

impl Drop for Image {
    fn drop(&mut self) {
        drop(docker(&["image", "rm", "-f", &self.0]));
    }
}

/// The test's redis on another image.
fn on_image(image: &str) -> Builder {
    let yaml = redis_yaml("").replace("image: redis\n      tag: '7'", &format!("image: '{image}'"));
    TestBroker::builder().yaml(yaml, REDIS.0, REDIS.1)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_whose_health_check_fails_is_started_again_and_then_made_anew() {
    let image = Image(format!("{}:1", unique("reconcile-health-")));
    let source = docker_ok(&["create", "redis:7"]);
    // Healthy until there is a file outside of the volumes, or one in them.
    let check = "HEALTHCHECK --interval=1s --retries=1 CMD test ! -e /tmp/sick -a ! -e /data/sick";
    docker_ok(&["commit", "--change", check, &source, &image.0]);
    docker_ok(&["rm", &source]);
    let (broker, redis) = with_data(on_image(&image.0)).await;
    let container = broker.container("r1");
    let before = id(&container);
    // /tmp is a tmpfs: a start is enough.
    docker_ok(&["exec", &container, "touch", "/tmp/sick"]);
    broker.sickens("r1", "health check").await;
    assert_eq!(broker.unwell().await, ["r1"]);
    broker.heals("r1", &redis).await;
    assert_eq!(id(&container), before);
    let sick = broker.directories().join("i-r1/volumes/data/sick");
    fs::write(&sick, "").unwrap();
    broker.sickens("r1", "health check").await;
    eventually("another container", async || {
        let output = docker(&["inspect", "-f", "{{.Id}}", &container]);
        let other = output.status.success() && !output.stdout.starts_with(before.as_bytes());
        if other { Ok(()) } else { Err(String::new()) }
    })
    .await;
    assert!(broker.health("r1").await.is_some(), "that has not helped");
    fs::remove_file(&sick).unwrap();
    broker.heals("r1", &redis).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_whose_port_somebody_has_taken_is_back_on_it_when_it_is_free() {
    let (broker, redis) = with_data(TestBroker::builder().setting("reconcile_interval: 1s")).await;
    let bound = broker.client.bind("r1", "b1").await.expect(200);
    let port: u16 = bound["credentials"]["port"].as_str().unwrap().parse().unwrap();
    let marker = broker.directories().join("i-r1/maintenance");
    fs::write(&marker, "").unwrap();
    docker_ok(&["stop", "-t", "5", &broker.container("r1")]);
    let thief = TcpListener::bind(("127.0.0.1", port)).unwrap();
    fs::remove_file(&marker).unwrap();
    eventually("the port to be missed", async || {
        let missed = broker.log().iter().any(|entry| entry["message"] == "a host port is taken");
        if missed { Ok(()) } else { Err(broker.log_text()) }
    })
    .await;
    assert_eq!(broker.unwell().await, ["r1"]);
    drop(thief);
    broker.heals("r1", &redis).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_was_removed_is_fetched_again() {
    let registry = Registry::with(&[("redis:7", "redis:7")]).await;
    let image = registry.image("redis:7");
    let (broker, redis) = with_data(on_image(&image).setting("reconcile_interval: 1s")).await;
    let marker = broker.directories().join("i-r1/maintenance");
    fs::write(&marker, "").unwrap();
    docker_ok(&["rm", "-f", &broker.container("r1")]);
    docker_ok(&["image", "rm", "-f", &image]);
    fs::remove_file(&marker).unwrap();
    broker.heals("r1", &redis).await;
    assert!(docker(&["image", "inspect", &image]).status.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_cannot_be_started_is_made_anew() {
    let (broker, redis) = with_data(TestBroker::builder().setting("reconcile_interval: 1s")).await;
    let container = broker.container("r1");
    let before = id(&container);
    let marker = broker.directories().join("i-r1/maintenance");
    fs::write(&marker, "").unwrap();
    docker_ok(&["stop", "-t", "5", &container]);
    // dockerd refuses to start what is damaged in its own files.
    let root = docker_ok(&["info", "-f", "{{.DockerRootDir}}"]);
    let hosts = docker_ok(&["inspect", "-f", "{{.HostsPath}}", &container]);
    assert!(hosts.starts_with(&root), "{hosts}");
    fs::remove_file(&hosts).unwrap();
    fs::create_dir(&hosts).unwrap();
    assert!(!docker(&["start", &container]).status.success(), "it is stuck");
    fs::remove_file(&marker).unwrap();
    broker.heals("r1", &redis).await;
    assert_ne!(id(&container), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_host_of_shared_instances_is_looked_after_and_an_existing_container_never_touched() {
    let existing = unique("t-existing-");
    docker_ok(&["run", "-d", "--name", &existing, "-p", "127.0.0.1::6379", "redis:7"]);
    let yaml = format!(
        r"services:
- id: s
  name: mixed
  description: a service
  plans:
  - id: shared
    name: shared
    description: a plan
    tenancy: shared
    max_instances_per_container: 2
    lifecycle: {{provision: 'true', deprovision: 'true'}}
    container:
      image: redis:7
      command: [redis-server, --save, '']
      expose_ports: [6379/tcp]
  - id: theirs
    name: theirs
    description: a plan
    container: {{existing: {existing}, expose_ports: [6379/tcp]}}
"
    );
    let builder = TestBroker::builder().setting("reconcile_interval: 1s");
    let broker = builder.yaml(yaml, "s", "shared").start().await;
    broker.client.provision("tenant").await.expect(201);
    let mut theirs = broker.client.clone();
    theirs.plan_id = "theirs".to_owned();
    theirs.provision("guest").await.expect(201);
    let [host] = broker.containers().try_into().unwrap();
    docker_ok(&["kill", &host]);
    docker_ok(&["stop", "-t", "0", &existing]);
    broker.sickens("guest", "does not run").await;
    eventually("the host to be well", async || match broker.unwell().await.as_slice() {
        [one] if one == "guest" => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    let running = |name: &str| docker_ok(&["inspect", "-f", "{{.State.Running}}", name]);
    assert_eq!((running(&host), running(&existing)), ("true".to_owned(), "false".to_owned()));
    docker_ok(&["start", &existing]);
    eventually("nothing to be wrong", async || match broker.unwell().await.as_slice() {
        [] => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    docker_ok(&["rm", "-f", &existing]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operation_goes_on_at_once_while_an_instance_is_being_put_back() {
    // What is started again never answers, so putting it back takes its two minutes.
    let yaml = redis_yaml("")
        .replace(
            "      - |\n        exec redis-server",
            "      - |\n        [ ! -e /data/silent ] || exec sleep 1000\n        exec redis-server",
        )
        .replace("timeout: 30s", "timeout: 120s");
    let broker = TestBroker::builder().yaml(yaml, REDIS.0, REDIS.1).start().await;
    for name in ["r1", "r2"] {
        broker.client.provision(name).await.expect(201);
    }
    let redis = Redis::of(&broker.client.bind("r1", "b").await.expect(201));
    for name in ["r1", "r2"] {
        fs::write(broker.directories().join(format!("i-{name}/volumes/data/silent")), "").unwrap();
        docker_ok(&["kill", &broker.container(name)]);
    }
    for name in ["r1", "r2"] {
        broker.sickens(name, "started again").await;
        eventually("its container to run", async || {
            let template = "{{.State.Running}}";
            let running = docker_ok(&["inspect", "-f", template, &broker.container(name)]);
            if running == "true" { Ok(()) } else { Err(running) }
        })
        .await;
    }
    let started = std::time::Instant::now();
    broker.client.deprovision("r2").await.expect(200);
    fs::remove_file(broker.directories().join("i-r1/volumes/data/silent")).unwrap();
    let body = json!({ "service_id": REDIS.0, "plan_id": REDIS.2 });
    broker.client.patch("/v2/service_instances/r1", &body).await.expect(200);
    assert!(started.elapsed().as_secs() < 60, "{:?}", started.elapsed());
    assert_eq!(redis.expect("PING").await, "+PONG");
    assert_eq!(broker.unwell().await, [""; 0]);
    assert_eq!(broker.containers(), [broker.container("r1")]);
}
