//! Upgrades: a newer image or configuration of the same plan.

use serde_json::json;

use crate::support::{
    BY_ENVIRONMENT, REDIS, Redis, Tag, TestBroker, container_id, docker_ok, offered, redis_yaml,
    restart_on, upgrade, upgrade_body, versioned_yaml,
};

/// The quick redis with one more variable, which is another configuration.
fn changed_yaml() -> String {
    redis_yaml("")
        .replace("      expose_ports:", "      environment: [CHANGED=yes]\n      expose_ports:")
}

async fn with_data(yaml: String) -> (TestBroker, Redis) {
    let broker = TestBroker::builder().yaml(yaml, REDIS.0, REDIS.1).start().await;
    broker.client.provision("r1").await.expect(201);
    let redis = Redis::of(&broker.client.bind("r1", "b1").await.expect(201));
    redis.expect("SET mine precious").await;
    (broker, redis)
}

async fn version_of(broker: &TestBroker, instance: &str) -> serde_json::Value {
    let path = format!("/v2/service_instances/{instance}");
    broker.client.get(&path).await.expect(200)["maintenance_info"]["version"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn another_configuration_is_a_newer_version_that_an_upgrade_brings() {
    let (mut broker, redis) = with_data(redis_yaml("")).await;
    broker.client.provision("r2").await.expect(201);
    let first = offered(&broker).await;
    assert_eq!(version_of(&broker, "r1").await, json!(first));
    let container = container_id(&broker, "r1");
    upgrade(&broker, "r1").await.expect(200);
    assert_eq!(container_id(&broker, "r1"), container, "it was up to date");

    // What is for people alone is none.
    restart_on(&mut broker, redis_yaml("").replace("a plan", "another text")).await;
    assert_eq!(offered(&broker).await, first);
    restart_on(&mut broker, changed_yaml()).await;
    let second = offered(&broker).await;
    assert_ne!(second, first);
    // Nothing happens by itself, and everything else goes on.
    assert_eq!(version_of(&broker, "r1").await, json!(first));
    assert_eq!(container_id(&broker, "r1"), container);
    broker.client.bind("r1", "b2").await.expect(201);
    broker.client.unbind("r1", "b2").await.expect(200);
    broker.client.deprovision("r2").await.expect(200);

    let path = "/v2/service_instances/r1";
    let stale = json!({"service_id": REDIS.0, "maintenance_info": {"version": first}});
    let conflict = broker.client.patch(path, &stale).await.expect(422);
    assert_eq!(conflict["error"], "MaintenanceInfoConflict");
    upgrade(&broker, "r1").await.expect(200);
    assert_eq!(version_of(&broker, "r1").await, json!(second));
    let environment = docker_ok(&["inspect", "-f", "{{.Config.Env}}", &broker.container("r1")]);
    assert!(environment.contains("CHANGED=yes"), "{environment}");
    assert_eq!(redis.expect("GET mine").await, "precious");
    let upgraded = container_id(&broker, "r1");
    assert_ne!(upgraded, container);
    upgrade(&broker, "r1").await.expect(200);
    assert_eq!(container_id(&broker, "r1"), upgraded);
    assert_eq!(broker.containers(), [broker.container("r1")]);
    let left = std::fs::read_dir(broker.directories().join("i-r1")).unwrap();
    let left: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
    let left: Vec<_> = left.into_iter().filter(|name| name != "record").collect();
    assert_eq!(left, ["volumes"], "no copy is left");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_that_has_moved_is_followed_by_an_upgrade_to_the_same_version() {
    let mut tag = Tag::new();
    let first = tag.set_major(7);
    let (broker, redis) = with_data(versioned_yaml(&tag, BY_ENVIRONMENT, "")).await;
    let image = || docker_ok(&["inspect", "-f", "{{.Image}}", &broker.container("r1")]);
    assert_eq!(image(), first);
    let second = tag.set("redis:7", &["ENV MAJOR=7", "ENV MINOR=1", "CMD [\"redis-server\"]"]);
    // Other changes than an upgrade do not meet it.
    let nothing = json!({"service_id": REDIS.0});
    broker.client.patch("/v2/service_instances/r1", &nothing).await.expect(200);
    assert_eq!(image(), first);
    upgrade(&broker, "r1").await.expect(200);
    assert_eq!(image(), second);
    assert_eq!(redis.expect("GET mine").await, "precious");
    let container = container_id(&broker, "r1");
    upgrade(&broker, "r1").await.expect(200);
    assert_eq!(container_id(&broker, "r1"), container, "it was up to date");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_of_before_there_were_versions_is_not_up_to_date() {
    let (mut broker, redis) = with_data(redis_yaml("")).await;
    broker.kill();
    let store = rusqlite::Connection::open(broker.data.path().join("broker.db")).unwrap();
    store.execute("UPDATE instances SET maintenance = NULL", []).unwrap();
    drop(store);
    broker.launch().await;
    broker.ready().await;
    let shown = broker.client.get("/v2/service_instances/r1").await.expect(200);
    assert_eq!(shown.get("maintenance_info"), None);
    let container = container_id(&broker, "r1");
    upgrade(&broker, "r1").await.expect(200);
    assert_eq!(version_of(&broker, "r1").await, json!(offered(&broker).await));
    let again = container_id(&broker, "r1");
    assert_eq!(redis.expect("GET mine").await, "precious");
    upgrade(&broker, "r1").await.expect(200);
    assert_eq!(container_id(&broker, "r1"), again);
    assert_ne!(again, container);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_version_whose_image_is_not_there_fails_before_the_old_container_stops() {
    let (mut broker, redis) = with_data(redis_yaml("")).await;
    let yaml = redis_yaml("").replacen(
        "image: redis\n      tag: '7'",
        "image: docker-broker-test/nowhere\n      pull: never",
        1,
    );
    restart_on(&mut broker, yaml).await;
    let started =
        || docker_ok(&["inspect", "-f", "{{.Id}} {{.State.StartedAt}}", &broker.container("r1")]);
    let before = started();
    let failed = upgrade(&broker, "r1").await;
    failed.expect(500);
    assert!(failed.description().contains("cannot be obtained"), "{}", failed.description());
    assert_eq!(started(), before);
    assert_eq!(redis.expect("GET mine").await, "precious");
    // Repeated by a client that polls.
    let path = "/v2/service_instances/r1?accepts_incomplete=true";
    broker.client.patch(path, &upgrade_body(&broker).await).await.expect(202);
    assert_eq!(broker.client.poll("r1").await.0, "failed");
    assert_eq!(started(), before);
}
