//! The broker is killed (SIGKILL, by itself, at a named step) and started again: every operation
//! goes on or has failed cleanly, nothing is left over, and other instances are untouched.

use docker_broker::lifecycle::fault::{Step, VARIABLE};
use serde_json::json;

use crate::support::{
    HOOKED, REDIS, Redis, TestBroker, docker_ok, eventually, hooked_yaml, redis_yaml, users,
};

/// A plan whose process ends at once, in the service of the quick redis.
const BROKEN: &str = "redis-broken";

fn yaml() -> String {
    format!(
        "{}\n  - id: {BROKEN}
    name: broken
    description: ends at once
    container:
      image: busybox:1
      command: [sh, -c, 'exit 3']
      expose_ports: [6379/tcp]
      volumes: [{{path: /data, owner: '999:999'}}]
      restart: 'no'
    credentials:
      password: {{key: REDIS_PASSWORD}}
",
        redis_yaml("")
    )
}

/// A broker that has an instance `other` with data in it.
async fn broker_with_another_instance() -> (TestBroker, Redis) {
    let broker = TestBroker::builder().yaml(yaml(), REDIS.0, REDIS.1).start().await;
    broker.client.provision("other").await.expect(201);
    let other = Redis::of(&broker.client.bind("other", "b").await.expect(201));
    other.expect("SET mine precious").await;
    (broker, other)
}

/// Starts the broker again so that it dies at `step`.
async fn arm(broker: &mut TestBroker, step: Step) {
    broker.kill();
    broker.set_environment(VARIABLE, Some(&step.name()));
    broker.launch().await;
    broker.ready().await;
}

/// Waits until the broker has died, and starts it again without a fault.
async fn survive(broker: &mut TestBroker) {
    assert!(!broker.ended().await, "it dies by a signal");
    broker.set_environment(VARIABLE, None);
    broker.launch().await;
    broker.ready().await;
}

/// Sends a request whose answer may be lost.
async fn send(broker: &TestBroker, method: http::Method, path: &str, body: &serde_json::Value) {
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
}

#[test]
fn every_step_at_which_the_broker_can_be_killed_has_a_test() {
    let untested: Vec<_> = Step::ALL.into_iter().filter(|step| !TESTED.contains(step)).collect();
    assert_eq!(untested, []);
}
