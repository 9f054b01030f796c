//! Changes that a service cannot take are refused before anything is touched.

use serde_json::{Value, json};

use crate::configuration_problems::{good, problems, set};
use crate::support::{
    BY_ENVIRONMENT, REDIS, Redis, Tag, TestBroker, container_id, docker_ok, redis_yaml, restart_on,
    upgrade, versioned_yaml,
};

async fn with_data(yaml: String) -> (TestBroker, Redis) {
    let broker = TestBroker::builder().yaml(yaml, REDIS.0, REDIS.1).start().await;
    broker.client.provision("r1").await.expect(201);
    let redis = Redis::of(&broker.client.bind("r1", "b1").await.expect(201));
    redis.expect("SET mine precious").await;
    (broker, redis)
}

fn to(plan: &str) -> Value {
    json!({"service_id": REDIS.0, "plan_id": plan})
}

/// The container as it runs now.
fn running(broker: &TestBroker) -> String {
    docker_ok(&["inspect", "-f", "{{.Id}} {{.State.StartedAt}}", &broker.container("r1")])
}

const PATH: &str = "/v2/service_instances/r1";

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_takes_instances_of_its_predecessors_only() {
    // Those of the large plan cannot go back to the small one.
    let yaml = redis_yaml("").replacen(
        "    credentials:",
        "    update_predecessors: []\n    credentials:",
        1,
    );
    let yaml = yaml.replace("name: large", "name: large\n    update_predecessors: [small]");
    let (broker, redis) = with_data(yaml).await;
    broker.client.patch(PATH, &to(REDIS.2)).await.expect(200);
    let before = running(&broker);
    let refused = broker.client.patch(PATH, &to(REDIS.1)).await;
    refused.expect(422);
    let text = refused.description();
    assert!(text.contains("\"large\" cannot become one of plan \"small\""), "{text}");
    assert_eq!(running(&broker), before);
    assert_eq!(redis.expect("GET mine").await, "precious");
    // Staying is no change.
    broker.client.patch(PATH, &to(REDIS.2)).await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_is_smaller_than_what_is_used_is_refused() {
    let size = |yaml: &str, large: &str| {
        let (first, second) = yaml.split_once("- id: redis-large").unwrap();
        let second =
            second.replace("owner: '999:999'}", &format!("owner: '999:999', size: {large}}}"));
        format!("{first}- id: redis-large{second}")
    };
    let (mut broker, redis) = with_data(size(&redis_yaml(""), "1m")).await;
    let filler = broker.directories().join("i-r1/volumes/data/filler");
    std::fs::write(filler, vec![1; 3 << 20]).unwrap();
    let before = running(&broker);
    let refused = broker.client.patch(PATH, &to(REDIS.2)).await;
    refused.expect(422);
    let text = refused.description();
    assert!(text.contains(" MiB of /data, and plan \"large\" has 1 MiB"), "{text}");
    assert_eq!(running(&broker), before);
    restart_on(&mut broker, size(&redis_yaml(""), "64m")).await;
    broker.client.patch(PATH, &to(REDIS.2)).await.expect(200);
    assert_eq!(redis.expect("GET mine").await, "precious");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_of_another_major_version_is_refused_before_anything_is_touched() {
    let mut tag = Tag::new();
    tag.set_major(15);
    let (broker, redis) = with_data(versioned_yaml(&tag, BY_ENVIRONMENT, "")).await;
    let before = running(&broker);
    tag.set_major(17);
    let refused = upgrade(&broker, "r1").await;
    refused.expect(422);
    let text = refused.description();
    for part in ["of version 15", &tag.name, "of version 17", "migrate hook"] {
        assert!(text.contains(part), "{text}");
    }
    // Another plan has the same image.
    broker.client.patch(PATH, &to(REDIS.2)).await.expect(422);
    assert_eq!(running(&broker), before);
    assert_eq!(redis.expect("GET mine").await, "precious");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_only_a_program_of_the_image_tells_fails_the_operation_untouched() {
    let mut tag = Tag::new();
    tag.set_major(15);
    let says = "{exec: [sh, -c, 'echo server $MAJOR.1']}";
    let (broker, redis) = with_data(versioned_yaml(&tag, says, "")).await;
    let before = running(&broker);
    tag.set_major(17);
    let failed = upgrade(&broker, "r1").await;
    failed.expect(500);
    assert!(failed.description().contains("of version 17"), "{}", failed.description());
    assert_eq!(running(&broker), before);
    assert_eq!(redis.expect("GET mine").await, "precious");
    assert_eq!(broker.containers(), [broker.container("r1")], "what was asked is removed");
    tag.set_major(15);
    broker.client.patch(PATH, &to(REDIS.2)).await.expect(200);
    assert_eq!(redis.expect("GET mine").await, "precious");
}

#[tokio::test(flavor = "multi_thread")]
async fn data_whose_version_cannot_be_told_is_not_given_to_another_container() {
    let mut tag = Tag::new();
    tag.set_major(15);
    let (broker, redis) = with_data(versioned_yaml(&tag, BY_ENVIRONMENT, "")).await;
    let version = broker.directories().join("i-r1/volumes/data/VERSION");
    for wrong in ["", "none"] {
        std::fs::write(&version, wrong).unwrap();
        let refused = broker.client.patch(PATH, &to(REDIS.2)).await;
        refused.expect(422);
        assert!(refused.description().contains("/data/VERSION"), "{}", refused.description());
    }
    std::fs::remove_file(&version).unwrap();
    broker.client.patch(PATH, &to(REDIS.2)).await.expect(422);
    std::os::unix::fs::symlink("/proc/self/environ", &version).unwrap();
    assert_ne!(broker.client.patch(PATH, &to(REDIS.2)).await.status, 200);
    assert_eq!(redis.expect("GET mine").await, "precious");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_is_missing_does_not_come_back_from_an_image_of_another_version() {
    let mut tag = Tag::new();
    tag.set_major(15);
    let (mut broker, redis) = with_data(versioned_yaml(&tag, BY_ENVIRONMENT, "")).await;
    let container = broker.container("r1");
    // One that is only stopped has its own image.
    docker_ok(&["stop", "-t", "5", &container]);
    let before = container_id(&broker, "r1");
    tag.set_major(17);
    restart_on(&mut broker, versioned_yaml(&tag, BY_ENVIRONMENT, "")).await;
    assert_eq!(container_id(&broker, "r1"), before);
    assert_eq!(redis.expect("GET mine").await, "precious");

    docker_ok(&["rm", "-f", &container]);
    restart_on(&mut broker, versioned_yaml(&tag, BY_ENVIRONMENT, "")).await;
    assert_eq!(broker.containers(), [""; 0]);
    let log = broker.log_text();
    assert!(log.contains("of version 15") && log.contains("of version 17"), "{log}");
    tag.set_major(15);
    restart_on(&mut broker, versioned_yaml(&tag, BY_ENVIRONMENT, "")).await;
    assert_eq!(redis.expect("GET mine").await, "precious");
}

#[test]
fn each_mistake_in_rules_of_updates_is_named_with_its_place_and_what_would_be_right() {
    let version = |file: &str, image: Value| json!({"file": file, "image": image});
    let by_value = || json!({"value": 17});
    let mut document = good();
    let plan = "/services/0/plans/0";
    set(&mut document, &format!("{plan}/container/volumes"), json!([{"path": "/data"}]));
    set(&mut document, &format!("{plan}/data_version"), version("/data/VERSION", by_value()));
    set(&mut document, &format!("{plan}/lifecycle"), json!({"migrate": "true"}));
    assert_eq!(problems(&document), []);
    for (pointer, value, path, says) in [
        (
            "update_predecessors",
            json!(["none"]),
            "update_predecessors",
            "\"none\", which is neither",
        ),
        ("data_version", version("/elsewhere/x", by_value()), "data_version.file", "is in none of"),
        ("data_version", version("/database/x", by_value()), "data_version.file", "is in none of"),
        ("data_version", version("VERSION", by_value()), "data_version.file", "an absolute path"),
        ("data_version/file", Value::Null, "data_version.file", "is missing"),
        ("data_version/image", Value::Null, "data_version.image", "is missing"),
        ("data_version/image", json!({}), "data_version.image", "must have one of"),
        ("data_version/image/exec", json!("x"), "data_version.image", "must have one of"),
        ("data_version/image", json!({"value": "x"}), "data_version.image.value", "no number"),
        ("data_version/image", json!({"exec": []}), "data_version.image.exec", "name a command"),
        (
            "data_version/image",
            json!({"environment": "A-B"}),
            "data_version.image.environment",
            "no",
        ),
        ("data_version/if_missing", json!("x"), "data_version.if_missing", "refuse or allow"),
        ("data_version", Value::Null, "lifecycle.migrate", "needs data_version"),
    ] {
        let mut document = document.clone();
        set(&mut document, &format!("{plan}/{pointer}"), value);
        let found = problems(&document);
        let [problem] = found.as_slice() else { panic!("{pointer}: {found:?}") };
        assert_eq!(problem.path, format!("services[0].plans[0].{path}"));
        assert!(problem.message.contains(says), "{problem}");
    }
}
