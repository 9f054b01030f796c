//! Upgrades that go wrong: the old container and the data as it was come back, and nothing that a
//! client was told is lost.

use std::{fs, path::PathBuf};

use docker_broker::lifecycle::fault::{Step, VARIABLE};
use serde_json::json;

use crate::kill_support::arm;
use crate::support::{
    BY_ENVIRONMENT, REDIS, Redis, Tag, TestBroker, container_id, docker, docker_ok, eventually,
    redis_yaml, restart_on, upgrade, upgrade_body, versioned_yaml,
};

/// A broker whose settings have one more line, with an instance `r1` that holds a value.
async fn with_data(yaml: String, setting: &str) -> (TestBroker, Redis) {
    let builder = TestBroker::builder().yaml(yaml, REDIS.0, REDIS.1);
    let builder = if setting.is_empty() { builder } else { builder.setting(setting) };
    let broker = builder.start().await;
    broker.client.provision("r1").await.expect(201);
    let redis = Redis::of(&broker.client.bind("r1", "b1").await.expect(201));
    redis.expect("SET mine precious").await;
    (broker, redis)
}

/// The quick redis whose new version does this before (or instead of) serving.
fn with_first(shell: &str) -> String {
    redis_yaml("").replace("exec redis-server -", &format!("{shell}\n        exec redis-server -"))
}

/// Likewise for one that will not become ready: nobody needs to wait for long.
fn impatient(shell: &str) -> String {
    with_first(shell).replace("30s", "3s")
}

/// Begins the upgrade of `r1` to other services with a broker that dies at `step`.
async fn die_at(broker: &mut TestBroker, yaml: String, step: Step) {
    broker.kill();
    broker.set_yaml(yaml);
    arm(broker, step).await;
    let path = "/v2/service_instances/r1?accepts_incomplete=true";
    broker.client.patch(path, &upgrade_body(broker).await).await.expect(202);
    assert!(!broker.ended().await, "it dies by a signal");
    broker.set_environment(VARIABLE, None);
}

/// As a broker leaves the store that has failed to take an update back.
fn record_failure(broker: &TestBroker) {
    let store = rusqlite::Connection::open(broker.data.path().join("broker.db")).unwrap();
    let failed = "UPDATE operations SET state = 'failed', description = 'in vain', \
                  finished_at = started_at WHERE state = 'in progress'";
    assert_eq!(store.execute(failed, []).unwrap(), 1);
    store.execute("UPDATE instances SET state = 'update failed'", []).unwrap();
}

/// What is beside the data of `r1`.
fn beside(broker: &TestBroker) -> Vec<String> {
    let entries = fs::read_dir(broker.directories().join("i-r1")).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.retain(|name| name != "record");
    names.sort();
    names
}

/// The data that a failed upgrade left.
fn set_aside(broker: &TestBroker) -> PathBuf {
    let failed = broker.directories().join("i-r1/failed");
    let mut kept: Vec<_> = fs::read_dir(failed).unwrap().map(|e| e.unwrap().path()).collect();
    assert_eq!(kept.len(), 1);
    kept.remove(0).join("data")
}

const DAMAGE: &str = "rm -rf /data/appendonlydir; echo junk > /data/junk";

#[tokio::test(flavor = "multi_thread")]
async fn a_new_version_that_damages_the_data_and_ends_leaves_the_data_as_it_was() {
    let (mut broker, redis) = with_data(redis_yaml(""), "").await;
    let before = container_id(&broker, "r1");
    restart_on(&mut broker, impatient(&format!("{DAMAGE}; exit 7"))).await;
    let failed = upgrade(&broker, "r1").await;
    failed.expect(500);
    let text = failed.description();
    assert!(text.contains("did not start") && text.contains("as it was before"), "{text}");
    assert_eq!(redis.expect("GET mine").await, "precious");
    assert_eq!(container_id(&broker, "r1"), before);
    assert_eq!(fs::read_to_string(set_aside(&broker).join("junk")).unwrap(), "junk\n");
    assert_eq!(beside(&broker), ["failed", "volumes"]);
    assert_eq!(broker.containers(), [broker.container("r1")]);
    // Of several ones that fail only what the last one wrote is kept, and one that succeeds ends it.
    upgrade(&broker, "r1").await.expect(500);
    set_aside(&broker);
    redis.expect("SET mine again").await;
    restart_on(&mut broker, with_first(":")).await;
    upgrade(&broker, "r1").await.expect(200);
    assert_eq!(redis.expect("GET mine").await, "again");
    assert_eq!(beside(&broker), ["volumes"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_new_version_took_that_never_became_ready_is_kept_aside() {
    let (mut broker, redis) = with_data(redis_yaml(""), "").await;
    // It answers clients, but not as the readiness check wants it.
    let yaml = redis_yaml("").replace("expect: +PONG, timeout: 30s", "expect: +NEVER, timeout: 6s");
    restart_on(&mut broker, yaml.replace("appendonly yes", "appendonly yes\n        # new")).await;
    let path = "/v2/service_instances/r1?accepts_incomplete=true";
    broker.client.patch(path, &upgrade_body(&broker).await).await.expect(202);
    let old = container_id(&broker, "r1");
    eventually("the new container to take a write", async || {
        // For a moment no container has the name.
        let new = docker(&["inspect", "-f", "{{.Config.Cmd}}", &broker.container("r1")]).stdout;
        let new = String::from_utf8_lossy(&new).into_owned();
        if !new.contains("# new") {
            return Err(new);
        }
        redis.ask("SET late confirmed").await
    })
    .await;
    let (state, reason) = broker.client.poll("r1").await;
    assert_eq!(state, "failed");
    assert!(reason.contains("kept aside"), "{reason}");
    assert_eq!(redis.expect("GET mine").await, "precious");
    assert_eq!(redis.expect("GET late").await, "nil");
    let log = set_aside(&broker).join("appendonlydir");
    let written = fs::read_dir(log).unwrap().map(|e| fs::read(e.unwrap().path()).unwrap());
    let written: Vec<u8> = written.flatten().collect();
    assert!(String::from_utf8_lossy(&written).contains("confirmed"));
    drop(old);
    broker.client.deprovision("r1").await.expect(200);
    assert_eq!(broker.instance_directories(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_version_that_was_ready_stays_although_its_hook_fails() {
    let (mut broker, redis) = with_data(redis_yaml(""), "").await;
    let hook = "    lifecycle: {update: 'REDISCLI_AUTH=$OSB_PASSWORD redis-cli SET late confirmed >&2; exit 9'}\n";
    restart_on(&mut broker, redis_yaml(hook)).await;
    let failed = upgrade(&broker, "r1").await;
    failed.expect(500);
    let text = failed.description();
    assert!(text.contains("exit code 9") && text.contains("no way back"), "{text}");
    assert_eq!(redis.expect("GET mine").await, "precious");
    assert_eq!(redis.expect("GET late").await, "confirmed", "a confirmed write is there");
    let shown = broker.client.get("/v2/service_instances/r1").await.expect(200);
    assert_eq!(shown.get("maintenance_info"), None, "it is not up to date");
    assert_eq!(broker.containers(), [broker.container("r1")]);
    assert_eq!(beside(&broker), ["volumes"]);
    // The same upgrade again runs the hook again.
    restart_on(&mut broker, redis_yaml("    lifecycle: {update: exit 0}\n")).await;
    upgrade(&broker, "r1").await.expect(200);
    assert_eq!(redis.expect("GET late").await, "confirmed");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_that_changes_memory_alone_copies_nothing() {
    let (broker, redis) = with_data(redis_yaml(""), "").await;
    let body = json!({"service_id": REDIS.0, "plan_id": REDIS.2});
    broker.client.patch("/v2/service_instances/r1", &body).await.expect(200);
    assert_eq!(redis.expect("GET mine").await, "precious");
    assert!(!broker.log_text().contains("a copy of the data is kept"));
}

#[tokio::test(flavor = "multi_thread")]
async fn data_that_is_too_large_for_a_copy_stops_an_upgrade_or_not_as_the_operator_says() {
    for (more, upgraded) in [("", false), (", when_too_large: skip", true)] {
        let setting = format!("upgrade_snapshot: {{mode: copy, max_size: 1k{more}}}");
        let (mut broker, redis) = with_data(redis_yaml(""), &setting).await;
        let before = container_id(&broker, "r1");
        restart_on(&mut broker, with_first(":")).await;
        let reply = upgrade(&broker, "r1").await;
        if upgraded {
            reply.expect(200);
            assert!(broker.log_text().contains("an upgrade without a copy"));
        } else {
            reply.expect(500);
            assert!(reply.description().contains("at most 1 KiB"), "{}", reply.description());
            assert_eq!(container_id(&broker, "r1"), before);
        }
        assert_eq!(redis.expect("GET mine").await, "precious");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_copies_the_way_back_is_to_the_data_as_it_is() {
    let (mut broker, redis) = with_data(redis_yaml(""), "upgrade_snapshot: {mode: 'off'}").await;
    restart_on(&mut broker, impatient("echo junk > /data/junk; exit 7")).await;
    let failed = upgrade(&broker, "r1").await;
    failed.expect(500);
    assert!(failed.description().contains("nothing was changed"), "{}", failed.description());
    assert_eq!(redis.expect("GET mine").await, "precious");
    assert_eq!(beside(&broker), ["volumes"]);
    assert!(broker.directories().join("i-r1/volumes/data/junk").exists());
    // Once it was ready, there is no way back without a copy either.
    restart_on(&mut broker, redis_yaml("    lifecycle: {update: exit 9}\n")).await;
    let failed = upgrade(&broker, "r1").await;
    failed.expect(500);
    assert!(failed.description().contains("no way back"), "{}", failed.description());
    assert_eq!(redis.expect("GET mine").await, "precious");
    assert_eq!(beside(&broker), ["volumes"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn data_of_another_version_is_made_over_by_the_migration_hook_while_nothing_runs() {
    let mut tag = Tag::new();
    tag.set_major(15);
    let hook = |text: &str| {
        versioned_yaml(&tag, BY_ENVIRONMENT, &format!("    lifecycle: {{migrate: '{text}'}}\n"))
    };
    let good = "[ $OSB_ACTION = migrate ] && [ $OSB_DATA_VERSION = 15 ] && grep -q migrate &&
      [ $OSB_IMAGE_VERSION = $MAJOR ] && ! redis-cli PING && echo $MAJOR > /data/VERSION"
        .replace('\n', " ");
    let yaml = (hook("echo broken > /data/VERSION; exit 5"), hook(&good));
    let (mut broker, redis) = with_data(yaml.0, "").await;
    let before = container_id(&broker, "r1");
    let mut tag = tag;
    tag.set_major(17);
    let failed = upgrade(&broker, "r1").await;
    failed.expect(500);
    let text = failed.description();
    assert!(text.contains("the migrate hook failed with exit code 5"), "{text}");
    assert_eq!(container_id(&broker, "r1"), before);
    assert_eq!(redis.expect("GET mine").await, "precious");
    let version = broker.directories().join("i-r1/volumes/data/VERSION");
    assert_eq!(fs::read_to_string(&version).unwrap(), "15\n");

    restart_on(&mut broker, yaml.1).await;
    upgrade(&broker, "r1").await.expect(200);
    assert_eq!(fs::read_to_string(&version).unwrap(), "17\n");
    assert_eq!(redis.expect("GET mine").await, "precious");
    assert_eq!(broker.containers(), [broker.container("r1")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_beside_an_instance_that_was_ready_never_takes_the_place_of_its_data() {
    let (mut broker, redis) = with_data(redis_yaml(""), "").await;
    // As a broker leaves it that has recorded a way back which it did not go.
    let data = broker.directories().join("i-r1");
    let stale = data.join("snapshot/update-0");
    fs::create_dir_all(&stale).unwrap();
    let copied = std::process::Command::new("cp")
        .arg("-a")
        .arg(data.join("volumes"))
        .arg(stale.join("volumes"))
        .status();
    assert!(copied.unwrap().success());
    redis.expect("SET late confirmed").await;
    // Neither if it fails, nor if it succeeds.
    restart_on(&mut broker, impatient(&format!("{DAMAGE}; exit 7"))).await;
    upgrade(&broker, "r1").await.expect(500);
    assert!(broker.log_text().contains("is set aside; it is not used"));
    assert_eq!(redis.expect("GET late").await, "confirmed");
    restart_on(&mut broker, with_first(":")).await;
    upgrade(&broker, "r1").await.expect(200);
    assert_eq!(redis.expect("GET late").await, "confirmed");
    assert_eq!(beside(&broker), ["stale", "volumes"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_past_its_copy_that_was_recorded_as_failed_stays_all_the_same() {
    let (mut broker, redis) = with_data(redis_yaml(""), "").await;
    die_at(&mut broker, with_first(":"), Step::UpdateCopySpent).await;
    redis.expect("SET late confirmed").await;
    let new = container_id(&broker, "r1");
    record_failure(&broker);
    // An operator keeps the broker away for a while, and the platform tries again.
    let maintenance = broker.directories().join("i-r1/maintenance");
    fs::write(&maintenance, "").unwrap();
    broker.launch().await;
    broker.ready().await;
    let early = upgrade(&broker, "r1").await;
    assert_eq!(early.expect(422)["error"], "ConcurrencyError");
    fs::remove_file(&maintenance).unwrap();
    broker.kill();
    broker.launch().await;
    broker.ready().await;
    assert_eq!(container_id(&broker, "r1"), new);
    assert_eq!(redis.expect("GET late").await, "confirmed");
    assert_eq!(broker.containers(), [broker.container("r1")]);
    assert_eq!(beside(&broker), ["volumes"]);
    let shown = broker.client.get("/v2/service_instances/r1").await.expect(200);
    assert_eq!(shown.get("maintenance_info"), None, "it is not up to date");
    upgrade(&broker, "r1").await.expect(200);
    assert_eq!(redis.expect("GET late").await, "confirmed");
    assert_eq!(redis.expect("GET mine").await, "precious");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_that_fails_after_it_put_an_earlier_copy_back_says_so() {
    let (mut broker, redis) = with_data(redis_yaml(""), "").await;
    die_at(&mut broker, with_first(":"), Step::UpdateReady).await;
    redis.expect("SET late confirmed").await;
    record_failure(&broker);
    // The broker has not looked after it yet when the next upgrade comes.
    fs::write(broker.directories().join("i-r1/maintenance"), "").unwrap();
    let nowhere = redis_yaml("").replacen(
        "image: redis\n      tag: '7'",
        "image: docker-broker-test/nowhere\n      pull: never",
        1,
    );
    restart_on(&mut broker, nowhere).await;
    let failed = upgrade(&broker, "r1").await;
    failed.expect(500);
    let text = failed.description();
    assert!(text.contains("cannot be obtained") && text.contains("as it was before"), "{text}");
    assert_eq!(redis.expect("GET late").await, "nil");
    assert_eq!(redis.expect("GET mine").await, "precious");
    set_aside(&broker);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_way_back_does_not_make_the_old_container_anew_from_an_image_of_another_version() {
    let mut tag = Tag::new();
    tag.set_major(15);
    let hook = "    lifecycle: {migrate: exit 5}\n";
    let yaml = versioned_yaml(&tag, BY_ENVIRONMENT, hook);
    let (mut broker, redis) = with_data(yaml.clone(), "").await;
    tag.set_major(17);
    die_at(&mut broker, yaml, Step::UpdateRollingBack).await;
    docker_ok(&["rm", "-f", &broker.container("r1")]);
    broker.launch().await;
    broker.ready().await;
    let (state, reason) = broker.client.poll("r1").await;
    assert_eq!(state, "failed");
    assert!(reason.contains("of version 15") && reason.contains("of version 17"), "{reason}");
    assert_eq!(broker.containers(), [""; 0]);
    tag.set_major(15);
    broker.kill();
    broker.launch().await;
    broker.ready().await;
    assert_eq!(redis.expect("GET mine").await, "precious");
}
