//! `docker-broker instances`: what operators see of every instance.

use serde_json::{Value, json};

use crate::support::{REDIS, Redis, TestBroker, docker_broker, docker_ok, redis_yaml};

fn versioned(version: &str) -> String {
    redis_yaml(&format!("    maintenance_info: {{version: {version}}}\n"))
}

async fn broker(yaml: String) -> TestBroker {
    TestBroker::builder().yaml(yaml, REDIS.0, REDIS.1).start().await
}

/// The instance with this id, out of the JSON.
fn of<'a>(document: &'a Value, id: &str) -> &'a Value {
    let list = document["instances"].as_array().expect("a list");
    list.iter().find(|one| one["id"] == id).unwrap_or_else(|| panic!("{id}: {document:#}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn every_instance_is_listed_with_its_container_ports_versions_and_size() {
    let broker = broker(versioned("1.0.0")).await;
    broker.client.provision("one").await.expect(201);
    broker.client.provision("two").await.expect(201);
    let bound = broker.client.bind("one", "b").await.expect(201);
    let redis = Redis::of(&bound);
    for key in ["a", "b", "c"] {
        let written = redis.ask(&format!("SET {key} {}", "x".repeat(60_000))).await;
        assert_eq!(written.as_deref(), Ok("+OK"));
    }

    let text = broker.operate("instances", &["--sizes"]).await;
    let text = text.expect(0).to_owned();
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[0].starts_with("INSTANCE"), "{text}");
    assert!(lines[1].starts_with("one") && lines[2].starts_with("two"), "{text}");
    let column = lines[0].find("STATE").expect("a heading");
    assert!(lines[1..3].iter().all(|line| line[column..].starts_with("ready")), "{text}");

    let document = broker.operate("instances", &["--json", "--sizes"]).await.expect_json(0);
    let one = of(&document, "one");
    let port: u16 = bound["credentials"]["port"].as_str().unwrap().parse().unwrap();
    for (key, value) in [
        ("service", json!("redis-for-tests")),
        ("plan", json!("small")),
        ("state", json!("ready")),
        ("home", json!("own")),
        ("container", json!(broker.container("one"))),
        ("container_state", json!("running")),
        ("ports", json!({ "6379/tcp": port })),
        ("image", json!("redis:7")),
        ("maintenance_version", json!("1.0.0")),
        ("offered_version", json!("1.0.0")),
        ("upgrade", json!("up to date")),
        ("changes", json!([])),
        ("bindings", json!(1)),
        ("health", Value::Null),
        ("bytes_incomplete", json!(false)),
    ] {
        assert_eq!(one[key], value, "{key}");
    }
    let image = docker_ok(&["inspect", "--format", "{{.Image}}", &broker.container("one")]);
    assert_eq!(one["image_id"], image);
    assert!(one["bytes"].as_u64() > Some(150_000), "{one}");
    assert!(of(&document, "two")["bytes"].as_u64() < Some(150_000));
    assert_eq!(of(&document, "two")["bindings"], 0);
    // Directories are walked only for those who ask.
    let document = broker.operate("instances", &["--json"]).await.expect_json(0);
    assert_eq!(of(&document, "one")["bytes"], Value::Null);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_upgrade_would_change_is_listed_without_any_value_that_may_be_secret() {
    let with = |yaml: String, environment: &str| {
        yaml.replace(
            "      expose_ports:",
            &format!("      environment: {environment}\n      expose_ports:"),
        )
    };
    let mut broker = broker(with(versioned("1.0.0"), "[KEPT=1, TOKEN=first-secret-token]")).await;
    broker.client.provision("one").await.expect(201);
    broker.kill();
    let changed =
        with(versioned("1.1.0"), "[KEPT=1, TOKEN=other-secret-token, NEW=new-secret-token]");
    broker.set_yaml(changed.replace("memory: 64m", "memory: 80m"));
    broker.launch().await;
    broker.ready().await;
    let document = broker.operate("instances", &["--json"]).await.expect_json(0);
    let one = of(&document, "one");
    assert_eq!((&one["upgrade"], &one["offered_version"]), (&json!("pending"), &json!("1.1.0")));
    let what: Vec<&str> =
        one["changes"].as_array().unwrap().iter().filter_map(|one| one["what"].as_str()).collect();
    assert_eq!(
        what,
        [
            "container.limits.memory_bytes",
            "container.limits.memory_swap_bytes",
            "container.environment NEW",
            "container.environment TOKEN",
        ]
    );
    assert_eq!(one["changes"][0]["to"], (80 << 20).to_string());
    let text = broker.operate("instances", &[]).await.expect(0).to_owned();
    assert!(text.contains("container.environment TOKEN changed"), "{text}");
    for said in [text, document.to_string()] {
        assert!(!said.contains("secret-token"), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_whose_tag_has_moved_is_a_pending_upgrade() {
    let tag = format!("docker-broker-test-moved:{}", crate::support::unique("t"));
    docker_ok(&["tag", "redis:7", &tag]);
    let (name, version) = tag.split_once(':').unwrap();
    let yaml = versioned("1.0.0")
        .replace("image: redis\n", &format!("image: {name}\n"))
        .replace("tag: '7'", &format!("tag: '{version}'"));
    let broker = broker(yaml).await;
    broker.client.provision("one").await.expect(201);
    docker_ok(&["tag", "busybox:1", &tag]);
    let document = broker.operate("instances", &["--json"]).await.expect_json(0);
    docker_ok(&["rmi", &tag]);
    let one = of(&document, "one");
    assert_eq!(one["changes"][0]["what"], "image id", "{one}");
    assert_eq!(one["upgrade"], "pending");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_that_changed_under_the_same_explicit_version_is_held_and_says_why() {
    let mut broker = broker(versioned("1.0.0")).await;
    broker.client.provision("one").await.expect(201);
    broker.kill();
    broker.set_yaml(versioned("1.0.0").replace("memory: 64m", "memory: 80m"));
    broker.launch().await;
    broker.ready().await;
    let document = broker.operate("instances", &["--json"]).await.expect_json(0);
    let one = of(&document, "one");
    assert_eq!(one["upgrade"], "held");
    assert!(one["upgrade_reason"].as_str().unwrap().contains("is still 1.0.0; raise it"));
}

#[tokio::test(flavor = "multi_thread")]
async fn it_works_beside_a_stopped_broker_and_makes_nothing_where_there_was_none() {
    let mut broker = broker(versioned("1.0.0")).await;
    broker.client.provision("one").await.expect(201);
    let (_, well) = broker.terminate().await;
    assert!(well);
    let document = broker.operate("instances", &["--json"]).await.expect_json(0);
    assert_eq!(of(&document, "one")["state"], "ready");
    docker_ok(&["rm", "-f", &broker.container("one")]);
    let document = broker.operate("instances", &["--json"]).await.expect_json(0);
    assert_eq!(of(&document, "one")["container_state"], Value::Null);

    let nowhere = tempfile::tempdir().unwrap();
    let data = nowhere.path().join("data");
    let services = broker.data.path().join("services.yml");
    let [data_text, services] = [&data, &services].map(|path| path.display().to_string());
    for verb in ["instances", "orphans", "upgrade-all"] {
        let finished = docker_broker(&[verb, "--data-dir", &data_text, "--services", &services]);
        assert_eq!(finished.code, Some(1), "{finished:?}");
        assert!(finished.stderr.contains("there is no store"), "{finished:?}");
        assert!(!data.exists(), "nothing was made");
    }
}
