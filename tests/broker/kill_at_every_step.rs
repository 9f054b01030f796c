//! The broker is killed (SIGKILL, by itself, at a named step) and started again: every operation
//! goes on or has failed cleanly, nothing is left over, and other instances are untouched.

use std::process::Command;

use docker_broker::lifecycle::fault::{Step, VARIABLE};
use serde_json::json;

use crate::{
    adopt_report::goes_on_after as adoption_goes_on_after,
    kill_support::{BROKEN, broker_with_another_instance, yaml},
    support::{
        BY_ENVIRONMENT, HOOKED, REDIS, Redis, Tag, TestBroker, docker_broker, docker_ok,
        eventually, hooked_yaml, upgrade_body, users, versioned_yaml,
    },
};

pub(crate) use crate::kill_support::{arm, survive};

/// Sends a request whose answer may be lost.
pub(crate) async fn send(
    broker: &TestBroker,
    method: http::Method,
    path: &str,
    body: &serde_json::Value,
) {
    let authorization = broker.client.authorization();
    let headers = [("authorization", authorization.as_str()), ("x-broker-api-version", "2.17")];
    // The broker dies before or after its answer.
    drop(broker.client.raw(method, path, &headers, body.to_string()).await);
}

/// Host ports that belong to an instance.
fn ports_in_use(broker: &TestBroker) -> i64 {
    let store = rusqlite::Connection::open(broker.data.path().join("broker.db")).unwrap();
    let sql = "SELECT count(*) FROM host_ports WHERE instance_id IS NOT NULL";
    store.query_row(sql, [], |row| row.get(0)).unwrap()
}

/// Only `other` is there, and its data is.
async fn only_the_other_is_left(broker: &TestBroker, other: &Redis) {
    assert_eq!(broker.containers(), [broker.container("other")]);
    assert_eq!(broker.instance_directories(), ["i-other"]);
    assert_eq!(ports_in_use(broker), 1);
    assert_eq!(other.expect("GET mine").await, "precious");
}

async fn provision_goes_on_after(step: Step) {
    let (mut broker, other) = broker_with_another_instance().await;
    arm(&mut broker, step).await;
    let path = "/v2/service_instances/r1?accepts_incomplete=true";
    send(&broker, http::Method::PUT, path, &broker.client.provision_body()).await;
    survive(&mut broker).await;
    assert_eq!(broker.client.poll("r1").await.0, "succeeded");
    broker.client.provision("r1").await.expect(200);
    let redis = Redis::of(&broker.client.bind("r1", "b1").await.expect(201));
    assert_eq!(redis.expect("PING").await, "+PONG");
    broker.client.deprovision("r1").await.expect(200);
    only_the_other_is_left(&broker, &other).await;
}

async fn failed_provision_is_undone_after(step: Step) {
    let (mut broker, other) = broker_with_another_instance().await;
    arm(&mut broker, step).await;
    let mut body = broker.client.provision_body();
    body["plan_id"] = BROKEN.into();
    send(&broker, http::Method::PUT, "/v2/service_instances/r1?accepts_incomplete=true", &body)
        .await;
    survive(&mut broker).await;
    let (state, reason) = broker.client.poll("r1").await;
    assert_eq!(state, "failed");
    assert!(reason.contains("exit code 3"), "{reason}");
    assert_eq!(broker.containers(), [broker.container("other")]);
    assert_eq!(broker.instance_directories(), ["i-other"]);
    let path = format!("/v2/service_instances/r1?service_id={}&plan_id={BROKEN}", REDIS.0);
    broker.client.delete(&path).await.expect(200);
    only_the_other_is_left(&broker, &other).await;
}

async fn deprovision_goes_on_after(step: Step) {
    let (mut broker, other) = broker_with_another_instance().await;
    broker.client.provision("r1").await.expect(201);
    broker.client.bind("r1", "b1").await.expect(201);
    arm(&mut broker, step).await;
    let path = format!("/v2/service_instances/r1?accepts_incomplete=true&{}", broker.client.ids());
    send(&broker, http::Method::DELETE, &path, &json!({})).await;
    survive(&mut broker).await;
    assert_eq!(broker.client.poll("r1").await.0, "succeeded");
    broker.client.deprovision("r1").await.expect(410);
    broker.client.unbind("r1", "b1").await.expect(410);
    only_the_other_is_left(&broker, &other).await;
}

/// An instance with data, changed to `plan` by a broker that dies at `step`.
async fn updated(step: Step, plan: &str) -> (TestBroker, Redis, Redis) {
    let (mut broker, other) = broker_with_another_instance().await;
    broker.client.provision("r1").await.expect(201);
    let redis = Redis::of(&broker.client.bind("r1", "b1").await.expect(201));
    redis.expect("SET mine too").await;
    arm(&mut broker, step).await;
    let body = json!({ "service_id": REDIS.0, "plan_id": plan });
    send(&broker, http::Method::PATCH, "/v2/service_instances/r1?accepts_incomplete=true", &body)
        .await;
    survive(&mut broker).await;
    (broker, redis, other)
}

/// Deletes `r1`, which has `plan` now, and looks at what is left.
async fn delete_updated(broker: &TestBroker, plan: &str, other: &Redis) {
    let standby = format!("{}.old", broker.container("r1"));
    eventually("the standby container to go", async || {
        let left = broker.containers();
        if left.contains(&standby) { Err(format!("{left:?}")) } else { Ok(()) }
    })
    .await;
    let path = format!("/v2/service_instances/r1?service_id={}&plan_id={plan}", REDIS.0);
    broker.client.delete(&path).await.expect(200);
    only_the_other_is_left(broker, other).await;
}

async fn update_goes_on_after(step: Step) {
    let (broker, redis, other) = updated(step, REDIS.2).await;
    assert_eq!(broker.client.poll("r1").await.0, "succeeded");
    let fetched = broker.client.get("/v2/service_instances/r1").await.expect(200);
    assert_eq!(fetched["plan_id"], REDIS.2);
    assert_eq!(redis.expect("GET mine").await, "too");
    let container = broker.container("r1");
    let memory = docker_ok(&["inspect", "-f", "{{.HostConfig.Memory}}", &container]);
    assert_eq!(memory, (96 << 20).to_string());
    delete_updated(&broker, REDIS.2, &other).await;
}

async fn failed_update_goes_back_after(step: Step) {
    let (broker, redis, other) = updated(step, BROKEN).await;
    let (state, reason) = broker.client.poll("r1").await;
    assert_eq!(state, "failed");
    assert!(reason.contains("exit code 3"), "{reason}");
    let fetched = broker.client.get("/v2/service_instances/r1").await.expect(200);
    assert_eq!(fetched["plan_id"], REDIS.1);
    assert_eq!(redis.expect("GET mine").await, "too");
    delete_updated(&broker, REDIS.1, &other).await;
}

/// An upgrade that makes the data over for another major version. The service leaves a mark in the
/// data that only its new version makes.
const MIGRATING: &str = "
        [ $(cat /data/VERSION) = 15 ] || touch /data/new";

/// An instance with data, upgraded from version 15 to 17 by a broker that dies at `step`. `hook`
/// makes the data over, and `new` is what the new version does before it serves.
async fn upgraded(step: Step, hook: &str, new: &str) -> (TestBroker, Redis, Redis, Tag) {
    let mut tag = Tag::new();
    tag.set_major(15);
    let yaml = versioned_yaml(
        &tag,
        BY_ENVIRONMENT,
        &format!("    lifecycle: {{migrate: '{hook}; echo $MAJOR > /data/VERSION'}}\n"),
    )
    .replace(
        "exec redis-server",
        &format!("{MIGRATING}\n        {new}\n        exec redis-server"),
    );
    let mut broker = TestBroker::builder().yaml(yaml, REDIS.0, REDIS.1).start().await;
    broker.client.provision("r1").await.expect(201);
    let redis = Redis::of(&broker.client.bind("r1", "b1").await.expect(201));
    redis.expect("SET mine too").await;
    broker.client.provision("other").await.expect(201);
    let other = Redis::of(&broker.client.bind("other", "b").await.expect(201));
    other.expect("SET mine precious").await;
    tag.set_major(17);
    arm(&mut broker, step).await;
    let body = upgrade_body(&broker).await;
    send(&broker, http::Method::PATCH, "/v2/service_instances/r1?accepts_incomplete=true", &body)
        .await;
    survive(&mut broker).await;
    (broker, redis, other, tag)
}

/// What is in and beside the data of `r1`.
fn left(broker: &TestBroker, below: &str) -> Vec<String> {
    let entries = std::fs::read_dir(broker.directories().join("i-r1").join(below)).unwrap();
    let mut names: Vec<_> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.retain(|name| name != "record");
    names.sort();
    names
}

async fn upgrade_goes_on_after(step: Step) {
    let (broker, redis, other, _tag) = upgraded(step, "true", "true").await;
    let (state, reason) = broker.client.poll("r1").await;
    assert_eq!(state, "succeeded", "{reason}");
    assert_eq!(redis.expect("GET mine").await, "too");
    assert!(left(&broker, "volumes/data").contains(&"new".to_owned()));
    eventually("what the upgrade needed to go", async || {
        let left = left(&broker, "");
        if left == ["volumes"] { Ok(()) } else { Err(format!("{left:?}")) }
    })
    .await;
    delete_updated(&broker, REDIS.1, &other).await;
}

async fn failed_upgrade_goes_back_after(step: Step) {
    // The hook ends well, unless it is where the broker died: then nobody knows.
    let new = "[ ! -e /data/new ] || { rm -rf /data/appendonlydir; exit 3; }";
    let (broker, redis, other, _tag) = upgraded(step, "true", new).await;
    let (state, reason) = broker.client.poll("r1").await;
    assert_eq!(state, "failed");
    assert!(reason.contains("as it was before"), "{reason}");
    assert_eq!(redis.expect("GET mine").await, "too");
    assert!(!left(&broker, "volumes/data").contains(&"new".to_owned()));
    assert_eq!(left(&broker, ""), ["failed", "volumes"]);
    assert_eq!(left(&broker, "failed").len(), 1);
    delete_updated(&broker, REDIS.1, &other).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_whose_copy_was_given_up_stays_although_its_container_does_not_start_again() {
    let (mut tag, flag) = (Tag::new(), "/data/once");
    tag.set_major(15);
    let yaml = versioned_yaml(
        &tag,
        BY_ENVIRONMENT,
        "    lifecycle: {migrate: 'echo $MAJOR > /data/VERSION'}\n",
    )
    .replace("exec redis-server", &format!("[ ! -e {flag} ] || exit 3\n        exec redis-server"));
    let mut broker = TestBroker::builder().yaml(yaml, REDIS.0, REDIS.1).start().await;
    broker.client.provision("r1").await.expect(201);
    let redis = Redis::of(&broker.client.bind("r1", "b1").await.expect(201));
    redis.expect("SET mine too").await;
    tag.set_major(17);
    arm(&mut broker, Step::UpdateCopySpent).await;
    let body = upgrade_body(&broker).await;
    send(&broker, http::Method::PATCH, "/v2/service_instances/r1?accepts_incomplete=true", &body)
        .await;
    assert!(!broker.ended().await, "it dies by a signal");
    redis.expect("SET late confirmed").await;
    let file = broker.directories().join("i-r1/volumes/data/once");
    std::fs::write(&file, "").unwrap();
    docker_ok(&["stop", "-t", "5", &broker.container("r1")]);
    broker.set_environment(VARIABLE, None);
    broker.launch().await;
    broker.ready().await;
    let (state, reason) = broker.client.poll("r1").await;
    assert_eq!(state, "failed");
    assert!(reason.contains("no way back"), "{reason}");
    let version = broker.directories().join("i-r1/volumes/data/VERSION");
    assert_eq!(std::fs::read_to_string(version).unwrap(), "17\n");
    std::fs::remove_file(&file).unwrap();
    eventually("the new version to serve again", async || redis.ask("GET late").await).await;
    assert_eq!(redis.expect("GET late").await, "confirmed");
    assert_eq!(redis.expect("GET mine").await, "too");
}

/// A broker with an instance whose hooks make and remove users, about to die at `step`.
async fn hooked(step: Step, bound: bool) -> TestBroker {
    let mut broker =
        TestBroker::builder().yaml(hooked_yaml("30s", ""), HOOKED.0, HOOKED.1).start().await;
    broker.client.provision("i").await.expect(201);
    if bound {
        broker.client.bind("i", "b").await.expect(201);
    }
    arm(&mut broker, step).await;
    broker
}

const HOOKED_BINDING: &str = "/v2/service_instances/i/service_bindings/b";

async fn hooked_bind_goes_on_after(step: Step) {
    let mut broker = hooked(step, false).await;
    send(&broker, http::Method::PUT, HOOKED_BINDING, &broker.client.ids_body()).await;
    survive(&mut broker).await;
    let document = broker.client.bind("i", "b").await.expect(200);
    let known = users(&broker, "i");
    assert_eq!(known.len(), 1);
    let user = document["credentials"]["username"].as_str().unwrap();
    assert_eq!(document["credentials"]["password"], known[user].as_str());
    broker.client.unbind("i", "b").await.expect(200);
    assert_eq!(users(&broker, "i").len(), 0);
}

async fn failed_bind_is_undone_after(step: Step) {
    let mut broker = hooked(step, false).await;
    let mut body = broker.client.ids_body();
    body["parameters"] = json!({"mode": "fail"});
    send(&broker, http::Method::PUT, HOOKED_BINDING, &body).await;
    survive(&mut broker).await;
    eventually("the bind to fail", async || {
        let path = format!("{HOOKED_BINDING}/last_operation");
        let last = broker.client.get(&path).await.expect(200);
        if last["state"] == "failed" { Ok(()) } else { Err(last.to_string()) }
    })
    .await;
    assert_eq!(users(&broker, "i").len(), 0);
    broker.client.unbind("i", "b").await.expect(200);
    broker.client.bind("i", "b").await.expect(201);
}

async fn hooked_unbind_goes_on_after(step: Step) {
    let mut broker = hooked(step, true).await;
    let path = format!("{HOOKED_BINDING}?{}", broker.client.ids());
    send(&broker, http::Method::DELETE, &path, &json!({})).await;
    survive(&mut broker).await;
    eventually("the unbind to end", async || {
        let reply = broker.client.unbind("i", "b").await;
        if reply.status == 410 { Ok(()) } else { Err(reply.description()) }
    })
    .await;
    assert_eq!(users(&broker, "i").len(), 0);
}

async fn bind_is_whole_after(step: Step) {
    let (mut broker, other) = broker_with_another_instance().await;
    arm(&mut broker, step).await;
    let body = json!({ "service_id": REDIS.0, "plan_id": REDIS.1 });
    let path = "/v2/service_instances/other/service_bindings/b1";
    send(&broker, http::Method::PUT, path, &body).await;
    survive(&mut broker).await;
    let redis = Redis::of(&broker.client.bind("other", "b1").await.expect(200));
    assert_eq!(redis.expect("GET mine").await, "precious");
    broker.client.unbind("other", "b1").await.expect(200);
    only_the_other_is_left(&broker, &other).await;
}

async fn unbind_is_whole_after(step: Step) {
    let (mut broker, other) = broker_with_another_instance().await;
    arm(&mut broker, step).await;
    let path = format!("/v2/service_instances/other/service_bindings/b?{}", broker.client.ids());
    send(&broker, http::Method::DELETE, &path, &json!({})).await;
    survive(&mut broker).await;
    broker.client.unbind("other", "b").await.expect(410);
    only_the_other_is_left(&broker, &other).await;
}

async fn a_change_of_keys_goes_on_after(step: Step) {
    let (old, new) = ("the-old-key-of-this-test", "the-new-key-of-this-test");
    let setting = |keys: &str| format!("encryption_keys: [{keys}]");
    let builder = TestBroker::builder().yaml(yaml(), REDIS.0, REDIS.1).setting(setting(old));
    let mut broker = builder.start().await;
    broker.client.provision("r1").await.expect(201);
    let redis = Redis::of(&broker.client.bind("r1", "b1").await.expect(201));
    // An update that the next start has to take up again.
    arm(&mut broker, Step::UpdateAccepted).await;
    let body = json!({ "service_id": REDIS.0, "plan_id": REDIS.2 });
    send(&broker, http::Method::PATCH, "/v2/service_instances/r1?accepts_incomplete=true", &body)
        .await;
    assert!(!broker.ended().await, "it dies by a signal");
    let file = broker.settings_file();
    let settings = std::fs::read_to_string(&file).unwrap();
    let file = file.to_str().unwrap();
    let give = |keys: &str| std::fs::write(file, settings.replace(old, keys)).unwrap();
    let rotate = ["rotate-keys", "--config", file];
    let both = format!("{new}, {old}");
    give(&both);
    let killed = Command::new(env!("CARGO_BIN_EXE_docker-broker"))
        .args(rotate)
        .env(VARIABLE, step.name())
        .output()
        .unwrap();
    assert_eq!(killed.status.code(), None, "{killed:?}");
    // Some are sealed with the new key now and some with the old one: neither alone will do.
    for lone in [old, new] {
        give(lone);
        let refused = docker_broker(&rotate);
        assert_eq!(refused.code, Some(1), "{refused:?}");
        assert!(refused.stderr.contains("(nothing was changed)"), "{refused:?}");
    }
    broker.builder = broker.builder.clone().setting(setting(&both));
    broker.set_environment(VARIABLE, None);
    broker.launch().await;
    broker.ready().await;
    assert_eq!(broker.client.poll("r1").await.0, "succeeded");
    broker.terminate().await;
    broker.builder = broker.builder.clone().setting(setting(new));
    broker.launch().await;
    broker.ready().await;
    assert_eq!(redis.expect("PING").await, "+PONG");
    let again = Redis::of(&broker.client.bind("r1", "b1").await.expect(200));
    assert_eq!(again.expect("PING").await, "+PONG");
    let fetched = broker.client.get("/v2/service_instances/r1").await.expect(200);
    assert_eq!(fetched["plan_id"], REDIS.2);
}

async fn binding_survives_the_store_after(step: Step) {
    let (mut broker, other) = broker_with_another_instance().await;
    arm(&mut broker, step).await;
    let path = "/v2/service_instances/other/service_bindings/b1";
    send(&broker, http::Method::PUT, path, &broker.client.ids_body()).await;
    survive(&mut broker).await;
    // The start has brought the record up to date.
    broker.client.get(path).await.expect(200);
    broker.terminate().await;
    broker.lose_store();
    let rebuilt = broker.rebuild_store();
    assert_eq!(rebuilt.code, Some(0), "{rebuilt:?}");
    broker.launch().await;
    broker.ready().await;
    let redis = Redis::of(&broker.client.get(path).await.expect(200));
    assert_eq!(redis.expect("GET mine").await, "precious");
    broker.client.unbind("other", "b1").await.expect(200);
    only_the_other_is_left(&broker, &other).await;
}

/// One test per step, and the list of all of them.
macro_rules! killed {
    ($($test:ident: $survives:ident($step:ident),)*) => {
        $(
            #[tokio::test(flavor = "multi_thread")]
            async fn $test() {
                $survives(Step::$step).await;
            }
        )*
        const TESTED: &[Step] = &[$(Step::$step),*];
    };
}

killed! {
    a_provision_goes_on_when_the_broker_dies_after_accepting_it: provision_goes_on_after(ProvisionAccepted),
    a_provision_goes_on_when_the_broker_dies_with_the_image_there: provision_goes_on_after(ProvisionImage),
    a_provision_goes_on_when_the_broker_dies_with_the_directories_made: provision_goes_on_after(ProvisionDirectories),
    a_provision_goes_on_when_the_broker_dies_with_the_container_made: provision_goes_on_after(ProvisionCreated),
    a_provision_goes_on_when_the_broker_dies_with_the_container_started: provision_goes_on_after(ProvisionStarted),
    a_provision_goes_on_when_the_broker_dies_with_the_service_ready: provision_goes_on_after(ProvisionReady),
    a_provision_goes_on_when_the_broker_dies_with_its_hook_run: provision_goes_on_after(ProvisionHooked),
    a_provision_has_succeeded_when_the_broker_dies_after_its_commit: provision_goes_on_after(ProvisionCommitted),
    a_failed_provision_is_undone_when_the_broker_dies_before_that: failed_provision_is_undone_after(ProvisionUndoing),
    a_failed_provision_is_undone_when_the_broker_dies_after_that: failed_provision_is_undone_after(ProvisionUndone),
    a_deprovision_goes_on_when_the_broker_dies_after_accepting_it: deprovision_goes_on_after(DeprovisionAccepted),
    a_deprovision_goes_on_when_the_broker_dies_with_its_hook_run: deprovision_goes_on_after(DeprovisionHooked),
    a_deprovision_goes_on_when_the_broker_dies_with_the_container_stopped: deprovision_goes_on_after(DeprovisionStopped),
    a_deprovision_goes_on_when_the_broker_dies_with_the_container_removed: deprovision_goes_on_after(DeprovisionRemoved),
    a_deprovision_goes_on_when_the_broker_dies_with_the_data_removed: deprovision_goes_on_after(DeprovisionDirectories),
    a_deprovision_has_succeeded_when_the_broker_dies_after_its_commit: deprovision_goes_on_after(DeprovisionCommitted),
    an_update_goes_on_when_the_broker_dies_after_accepting_it: update_goes_on_after(UpdateAccepted),
    an_update_goes_on_when_the_broker_dies_with_the_old_container_stopped: update_goes_on_after(UpdateStopped),
    an_update_goes_on_when_the_broker_dies_with_the_old_container_renamed: update_goes_on_after(UpdateRenamed),
    an_upgrade_goes_on_when_the_broker_dies_with_the_data_copied: upgrade_goes_on_after(UpdateCopied),
    an_upgrade_goes_on_when_the_broker_dies_with_the_copy_kept: upgrade_goes_on_after(UpdateCopyKept),
    an_upgrade_goes_back_when_the_broker_dies_before_its_migration_hook_has_ended: failed_upgrade_goes_back_after(UpdateMigrating),
    an_upgrade_goes_on_when_the_broker_dies_with_its_migration_hook_run: upgrade_goes_on_after(UpdateMigrated),
    an_upgrade_goes_on_when_the_broker_dies_with_the_copy_given_up: upgrade_goes_on_after(UpdateCopySpent),
    a_failed_upgrade_goes_back_when_the_broker_dies_before_that: failed_upgrade_goes_back_after(UpdateRollingBack),
    a_failed_upgrade_goes_back_when_the_broker_dies_with_its_data_set_aside: failed_upgrade_goes_back_after(UpdateDataSetAside),
    a_failed_upgrade_goes_back_when_the_broker_dies_with_the_data_back: failed_upgrade_goes_back_after(UpdateDataBack),
    a_failed_upgrade_goes_back_when_the_broker_dies_after_that: failed_upgrade_goes_back_after(UpdateRolledBack),
    an_upgrade_goes_on_when_the_broker_dies_with_the_old_container_renamed: upgrade_goes_on_after(UpdateRenamed),
    an_upgrade_goes_on_when_the_broker_dies_with_the_new_container_made: upgrade_goes_on_after(UpdateCreated),
    an_upgrade_goes_on_when_the_broker_dies_with_the_new_container_ready: upgrade_goes_on_after(UpdateReady),
    an_upgrade_goes_on_when_the_broker_dies_with_the_old_container_stopped: upgrade_goes_on_after(UpdateStopped),
    an_upgrade_goes_on_when_the_broker_dies_with_the_new_container_started: upgrade_goes_on_after(UpdateStarted),
    an_update_goes_on_when_the_broker_dies_with_the_new_container_started: update_goes_on_after(UpdateStarted),
    a_failed_update_goes_back_when_the_broker_dies_with_the_new_container_started: failed_update_goes_back_after(UpdateStarted),
    an_upgrade_has_succeeded_when_the_broker_dies_after_its_commit: upgrade_goes_on_after(UpdateCommitted),
    an_update_goes_on_when_the_broker_dies_with_the_new_container_made: update_goes_on_after(UpdateCreated),
    an_update_goes_on_when_the_broker_dies_with_the_new_container_ready: update_goes_on_after(UpdateReady),
    an_update_goes_on_when_the_broker_dies_with_its_hook_run: update_goes_on_after(UpdateHooked),
    an_update_has_succeeded_when_the_broker_dies_after_its_commit: update_goes_on_after(UpdateCommitted),
    a_failed_update_goes_back_when_the_broker_dies_before_that: failed_update_goes_back_after(UpdateRollingBack),
    a_failed_update_goes_back_when_the_broker_dies_after_that: failed_update_goes_back_after(UpdateRolledBack),
    a_bind_goes_on_when_the_broker_dies_after_accepting_it: hooked_bind_goes_on_after(BindAccepted),
    a_bind_goes_on_when_the_broker_dies_with_its_hook_run: hooked_bind_goes_on_after(BindHooked),
    a_failed_bind_is_undone_when_the_broker_dies_before_that: failed_bind_is_undone_after(BindUndoing),
    a_failed_bind_is_undone_when_the_broker_dies_after_that: failed_bind_is_undone_after(BindUndone),
    an_unbind_goes_on_when_the_broker_dies_after_accepting_it: hooked_unbind_goes_on_after(UnbindAccepted),
    an_unbind_goes_on_when_the_broker_dies_with_its_hook_run: hooked_unbind_goes_on_after(UnbindHooked),
    a_binding_is_whole_when_the_broker_dies_after_its_commit: bind_is_whole_after(BindCommitted),
    an_unbind_is_whole_when_the_broker_dies_after_its_commit: unbind_is_whole_after(UnbindCommitted),
    a_binding_is_rebuilt_when_the_broker_dies_before_its_record: binding_survives_the_store_after(RecordDue),
    a_binding_is_rebuilt_when_the_broker_dies_after_its_record: binding_survives_the_store_after(RecordWritten),
    a_change_of_keys_goes_on_when_the_process_dies_in_the_middle: a_change_of_keys_goes_on_after(KeysChanging),
    an_adoption_goes_on_when_the_process_dies_after_its_commit: adoption_goes_on_after(AdoptCommitted),
    an_adoption_goes_on_when_the_process_dies_with_the_container_renamed: adoption_goes_on_after(AdoptRenamed),
}

#[test]
fn every_step_at_which_the_broker_can_be_killed_has_a_test() {
    let untested: Vec<_> = Step::ALL.into_iter().filter(|step| !TESTED.contains(step)).collect();
    assert_eq!(untested, []);
}
