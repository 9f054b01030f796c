//! `tenancy: shared`: several instances in one container, which comes with the first and goes with
//! the last.

use docker_broker::lifecycle::fault::{Step, VARIABLE};
use serde_json::{Value, json};

use crate::support::{Client, Redis, TestBroker, docker_ok, eventually, restart_on, upgrade_body};

const SERVICE: (&str, &str) = ("shared-service", "shared-plan");

/// A redis for two instances at a time. An instance is a user with a key space of its own; `extra`
/// goes before what its provision hook does.
pub(crate) fn yaml(extra: &str) -> String {
    format!(
        r#"services:
- id: {}
  name: shared
  description: a shared redis
  plans:
  - id: {}
    name: plan
    description: a plan
    tenancy: shared
    max_instances_per_container: 2
    lifecycle:
      provision: |
        {extra}
        export REDISCLI_AUTH="$REDIS_PASSWORD"
        grep -q '"container":{{"credentials":' && redis-cli SET "$OSB_DBNAME:made" "$OSB_INSTANCE_ID" >&2
      deprovision: |
        export REDISCLI_AUTH="$REDIS_PASSWORD"
        redis-cli --scan --pattern "$OSB_DBNAME:*" | while read -r key; do redis-cli DEL "$key"; done >&2
      bind: |
        export REDISCLI_AUTH="$REDIS_PASSWORD"
        printf '>%s' "$OSB_BINDING_PASSWORD" |
          redis-cli -x ACL SETUSER "$OSB_BINDING_USERNAME" on "~$OSB_DBNAME:*" '+@all' '-@admin' '-@dangerous' >&2
      unbind: |
        export REDISCLI_AUTH="$REDIS_PASSWORD"
        redis-cli ACL DELUSER "$OSB_BINDING_USERNAME" >&2
    container:
      image: redis:7
      user: '999:999'
      entrypoint: [/bin/sh, -c]
      command:
      - |
        exec redis-server - --dir /data --appendonly yes <<CONFIG
        requirepass $REDIS_PASSWORD
        CONFIG
      expose_ports: [6379/tcp]
      volumes: [{{path: /data, owner: '999:999'}}]
      limits: {{memory: 64m}}
      readiness: {{tcp: 6379/tcp, send: "AUTH {{{{password}}}}\r\nPING\r\n", expect: +PONG, timeout: 30s}}
      stop_timeout: 5s
    credentials:
      username: {{value: default}}
      password: {{key: REDIS_PASSWORD}}
      dbname: {{key: UNUSED}}
      uri: {{prefix: redis, port: 6379/tcp}}
"#,
        SERVICE.0, SERVICE.1
    )
}

pub(crate) async fn broker() -> TestBroker {
    TestBroker::builder().yaml(yaml(":"), SERVICE.0, SERVICE.1).start().await
}

async fn provision(client: &Client, instances: &[&str]) {
    for instance in instances {
        client.provision(instance).await.expect(201);
    }
}

/// What a tenant has: its own part of the keys.
pub(crate) struct Tenant {
    redis: Redis,
    dbname: String,
    port: String,
}

impl Tenant {
    pub(crate) async fn bind(client: &Client, instance: &str) -> Self {
        let bound = client.bind(instance, "b").await.expect(201);
        Self::of(&bound)
    }

    fn of(bound: &Value) -> Self {
        let text = |key: &str| bound["credentials"][key].as_str().unwrap().to_owned();
        Self { redis: Redis::of(bound), dbname: text("dbname"), port: text("port") }
    }

    async fn get(&self, dbname: &str, key: &str) -> Result<String, String> {
        self.redis.ask(&format!("GET {dbname}:{key}")).await
    }

    pub(crate) async fn set(&self, value: &str) {
        let answer = self.redis.ask(&format!("SET {}:mine {value}", self.dbname)).await;
        assert_eq!(answer.as_deref(), Ok("+OK"));
    }

    pub(crate) async fn has(&self, value: &str) {
        assert_eq!(self.get(&self.dbname, "mine").await.as_deref(), Ok(value));
    }
}

/// Keys in the container, as its administrator sees them.
fn keys(container: &str) -> String {
    let command = "REDISCLI_AUTH=$REDIS_PASSWORD redis-cli KEYS '*'";
    docker_ok(&["exec", container, "sh", "-c", command])
}

fn nothing_is_left(broker: &TestBroker) {
    assert_eq!(broker.containers(), [""; 0]);
    assert_eq!(broker.instance_directories(), [""; 0]);
    let store = rusqlite::Connection::open(broker.data.path().join("broker.db")).unwrap();
    for sql in [
        "SELECT count(*) FROM instances",
        "SELECT count(*) FROM hosts",
        "SELECT count(*) FROM tenants",
        "SELECT count(*) FROM host_ports WHERE instance_id IS NOT NULL",
        "SELECT count(*) FROM operations WHERE state = 'in progress'",
    ] {
        let count: i64 = store.query_row(sql, [], |row| row.get(0)).unwrap();
        assert_eq!(count, 0, "{sql}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tenants_share_a_container_that_comes_with_the_first_and_goes_with_the_last() {
    let mut broker = broker().await;
    let client = broker.client.clone();
    provision(&client, &["one", "two", "three"]).await;
    let containers = broker.containers();
    assert_eq!(containers.len(), 2, "two in the first, one in the second");
    let (one, two) = (Tenant::bind(&client, "one").await, Tenant::bind(&client, "two").await);
    let three = Tenant::bind(&client, "three").await;
    assert_eq!(one.port, two.port, "ports belong to the container");
    assert_ne!(one.port, three.port);
    one.set("1").await;
    two.set("2").await;
    for (tenant, other) in [(&one, &two), (&two, &one)] {
        let refused = tenant.get(&other.dbname, "mine").await.unwrap();
        assert!(refused.contains("NOPERM"), "{refused}");
        assert_eq!(tenant.get(&tenant.dbname, "made").await.map(|id| id.len()), Ok(3));
    }
    client.deprovision("one").await.expect(200);
    assert!(one.redis.ask("PING").await.is_err(), "the users of its bindings went with it");
    two.has("2").await;
    assert_eq!(broker.containers(), containers);
    let shared = containers.iter().find(|name| keys(name).contains(&two.dbname)).unwrap();
    assert!(!keys(shared).contains(&one.dbname), "what was its own is dropped");
    // Its place is free again; a full container gets nobody.
    provision(&client, &["four"]).await;
    assert_eq!(broker.containers(), containers);
    assert_eq!(client.bind("four", "b").await.expect(201)["credentials"]["port"], two.port);

    broker.kill();
    broker.launch().await;
    broker.ready().await;
    let client = broker.client.clone();
    two.has("2").await;
    client.provision("two").await.expect(200);
    client.deprovision("two").await.expect(200);
    client.deprovision("three").await.expect(200);
    assert_eq!(broker.containers(), std::slice::from_ref(shared));
    client.deprovision("four").await.expect(200);
    nothing_is_left(&broker);
}

#[tokio::test(flavor = "multi_thread")]
async fn provisions_at_once_fill_containers_and_deprovisions_at_once_empty_them() {
    let broker = broker().await;
    let instances = ["a", "b", "c", "d", "e"];
    for _ in 0..2 {
        let all = instances.map(|instance| broker.client.provision(instance));
        for reply in futures_util::future::join_all(all).await {
            reply.expect(201);
        }
        assert_eq!(broker.containers().len(), 3, "five instances, two in each");
        let bound = instances.map(|instance| Tenant::bind(&broker.client, instance));
        for tenant in futures_util::future::join_all(bound).await {
            tenant.set("x").await;
        }
        let all = instances.map(|instance| broker.client.deprovision(instance));
        for reply in futures_util::future::join_all(all).await {
            reply.expect(200);
        }
        nothing_is_left(&broker);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_that_could_not_be_made_leaves_the_others_alone_and_can_be_made_again() {
    let mut broker = broker().await;
    let client = broker.client.clone();
    provision(&client, &["one"]).await;
    let one = Tenant::bind(&client, "one").await;
    one.set("1").await;
    let container = broker.containers();
    // The same definition but for a hook that fails for one of them, so both are changed plans.
    broker.kill();
    broker.set_yaml(yaml("[ \"$OSB_INSTANCE_ID\" != bad ] || exit 1"));
    broker.launch().await;
    broker.ready().await;
    let client = broker.client.clone();
    provision(&client, &["good"]).await;
    let good = Tenant::bind(&client, "good").await;
    good.set("2").await;
    assert_eq!(broker.containers().len(), 2, "a changed plan gets containers of its own");
    client.provision_async("bad").await.expect(202);
    let (state, reason) = client.poll("bad").await;
    assert_eq!((state.as_str(), reason.contains("exit code 1")), ("failed", true), "{reason}");
    client.provision_async("bad").await.expect(202);
    assert_eq!(client.poll("bad").await.0, "failed");
    client.deprovision("bad").await.expect(200);
    good.has("2").await;
    one.has("1").await;
    client.deprovision("good").await.expect(200);
    assert_eq!(broker.containers(), container);
    client.deprovision("one").await.expect(200);
    nothing_is_left(&broker);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shared_container_that_cannot_be_made_fails_its_tenants_who_can_be_deleted() {
    let ending = yaml(":").replace("exec redis-server", "exit 3; exec redis-server");
    let ending = ending.replace("stop_timeout: 5s", "restart: 'no'");
    let mut broker = TestBroker::builder().yaml(ending, SERVICE.0, SERVICE.1).start().await;
    let client = broker.client.clone();
    for instance in ["one", "two"] {
        client.provision_async(instance).await.expect(202);
    }
    for instance in ["one", "two"] {
        let (state, reason) = client.poll(instance).await;
        assert_eq!(state, "failed");
        assert!(reason.contains("the shared container could not be made"), "{reason}");
        assert!(reason.contains("exit code 3"), "{reason}");
    }
    assert_eq!(broker.containers(), [""; 0]);
    // The operator mends the plan.
    broker.kill();
    broker.set_yaml(yaml(":"));
    broker.launch().await;
    broker.ready().await;
    let client = broker.client.clone();
    client.provision("one").await.expect(201);
    Tenant::bind(&client, "one").await.set("1").await;
    client.deprovision("two").await.expect(200);
    client.deprovision("one").await.expect(200);
    nothing_is_left(&broker);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_deleted_while_its_container_is_upgraded_leaves_nothing_in_it() {
    let mut broker = broker().await;
    provision(&broker.client, &["one", "two"]).await;
    let one = Tenant::bind(&broker.client, "one").await;
    let two = Tenant::bind(&broker.client, "two").await;
    one.set("1").await;
    two.set("2").await;
    let slow = yaml(":").replace("exec redis-server", "sleep 5; exec redis-server");
    let slow = slow.replace("tenancy:", "maintenance_info: {version: 1.1.0}\n    tenancy:");
    restart_on(&mut broker, slow).await;
    let client = broker.client.clone();
    let path = "/v2/service_instances/one?accepts_incomplete=true";
    client.patch(path, &upgrade_body(&broker).await).await.expect(202);
    let store = rusqlite::Connection::open(broker.data.path().join("broker.db")).unwrap();
    let host = "SELECT state FROM instances WHERE name LIKE 'shared-%'";
    eventually("the upgrade of the host", async || {
        let state: String = store.query_row(host, [], |row| row.get(0)).unwrap();
        (state == "updating").then_some(()).ok_or(state)
    })
    .await;
    client.deprovision("two").await.expect(200);
    assert_eq!(client.poll("one").await.0, "succeeded");
    let [container] = &broker.containers()[..] else { panic!("one container") };
    let left = keys(container);
    assert!(left.contains(&one.dbname) && !left.contains(&two.dbname), "{left}");
    client.deprovision("one").await.expect(200);
    nothing_is_left(&broker);
}

/// A request whose answer may be lost, to a broker that dies at `step`.
async fn dies(broker: &mut TestBroker, step: Step, method: http::Method, path: &str) {
    dies_with(broker, step, method, path, || {}).await;
}

/// The same, with something that happens before the broker is back.
async fn dies_with(
    broker: &mut TestBroker,
    step: Step,
    method: http::Method,
    path: &str,
    meanwhile: impl FnOnce(),
) {
    broker.kill();
    broker.set_environment(VARIABLE, Some(&step.name()));
    broker.launch().await;
    broker.ready().await;
    let authorization = broker.client.authorization();
    let headers = [("authorization", authorization.as_str()), ("x-broker-api-version", "2.17")];
    let body = broker.client.provision_body().to_string();
    drop(broker.client.raw(method, path, &headers, body).await);
    assert!(!broker.ended().await, "it dies by a signal");
    meanwhile();
    broker.set_environment(VARIABLE, None);
    broker.launch().await;
    broker.ready().await;
}

async fn survives_a_provision_of_the_first(step: Step) {
    let mut broker = broker().await;
    let path = "/v2/service_instances/one?accepts_incomplete=true";
    dies(&mut broker, step, http::Method::PUT, path).await;
    let client = broker.client.clone();
    assert_eq!(client.poll("one").await.0, "succeeded");
    Tenant::bind(&client, "one").await.set("1").await;
    provision(&client, &["two"]).await;
    assert_eq!(broker.containers().len(), 1);
    client.deprovision("one").await.expect(200);
    client.deprovision("two").await.expect(200);
    nothing_is_left(&broker);
}

async fn survives_a_deprovision(step: Step, last: bool) {
    let mut broker = broker().await;
    provision(&broker.client, &["one", "two"]).await;
    let two = Tenant::bind(&broker.client, "two").await;
    two.set("2").await;
    Tenant::bind(&broker.client, "one").await;
    if last {
        broker.client.deprovision("two").await.expect(200);
    }
    let path = format!("/v2/service_instances/one?accepts_incomplete=true&{}", broker.client.ids());
    dies(&mut broker, step, http::Method::DELETE, &path).await;
    let client = broker.client.clone();
    let state = client.poll("one").await.0;
    assert!(["succeeded", "gone"].contains(&state.as_str()), "{state}");
    client.deprovision("one").await.expect(410);
    if !last {
        two.has("2").await;
        client.deprovision("two").await.expect(200);
    }
    nothing_is_left(&broker);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_killed_while_it_makes_the_first_tenant_goes_on() {
    for step in [
        Step::ProvisionAccepted,
        Step::ProvisionDirectories,
        Step::ProvisionCreated,
        Step::ProvisionReady,
        Step::ProvisionHooked,
        Step::ProvisionCommitted,
    ] {
        survives_a_provision_of_the_first(step).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_killed_while_a_tenant_moves_out_goes_on() {
    for step in [Step::DeprovisionAccepted, Step::DeprovisionHooked, Step::DeprovisionCommitted] {
        survives_a_deprovision(step, false).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_killed_while_the_last_tenant_moves_out_goes_on() {
    for step in [
        Step::DeprovisionAccepted,
        Step::DeprovisionStopped,
        Step::DeprovisionRemoved,
        Step::DeprovisionDirectories,
        Step::DeprovisionCommitted,
    ] {
        survives_a_deprovision(step, true).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_that_moves_out_waits_for_a_container_that_comes_back() {
    let mut broker = broker().await;
    provision(&broker.client, &["one", "two"]).await;
    let two = Tenant::bind(&broker.client, "two").await;
    let container = broker.containers().remove(0);
    // Meanwhile nobody is told that it is fine.
    let directories = broker.instance_directories();
    let host = directories.iter().find(|name| name.starts_with("shared-")).unwrap();
    let maintenance = broker.directories().join(host).join("maintenance");
    std::fs::write(&maintenance, "").unwrap();
    docker_ok(&["stop", &container]);
    eventually("its tenant to be unwell", async || {
        let listed = broker.operate("instances", &["--json"]).await.expect_json(0);
        let two = listed["instances"].as_array().unwrap().iter().find(|one| one["id"] == "two");
        let health = two.unwrap()["health"].as_str().unwrap_or_default().to_owned();
        if health.contains("maintenance") { Ok(()) } else { Err(health) }
    })
    .await;
    std::fs::remove_file(&maintenance).unwrap();
    let path = format!("/v2/service_instances/one?accepts_incomplete=true&{}", broker.client.ids());
    let lose = || drop(docker_ok(&["rm", "-f", &container]));
    dies_with(&mut broker, Step::DeprovisionAccepted, http::Method::DELETE, &path, lose).await;
    let client = broker.client.clone();
    let (state, reason) = client.poll("one").await;
    assert!(["succeeded", "gone"].contains(&state.as_str()), "{state}: {reason}");
    client.deprovision("one").await.expect(410);
    let kept = keys(&container);
    assert!(kept.contains(&two.dbname) && kept.lines().count() == 1, "{kept}");
    client.deprovision("two").await.expect(200);
    nothing_is_left(&broker);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_halts_the_making_of_a_container_for_nobody_else() {
    let slow = yaml(":").replace("exec redis-server", "sleep 1000; exec redis-server");
    let broker = TestBroker::builder().yaml(slow, SERVICE.0, SERVICE.1).start().await;
    let client = &broker.client;
    client.provision_async("one").await.expect(202);
    client.provision_async("two").await.expect(202);
    eventually("the container", async || {
        let count = broker.containers().len();
        if count == 1 { Ok(()) } else { Err(format!("{count} containers")) }
    })
    .await;
    client.deprovision("one").await.expect(200);
    let path = "/v2/service_instances/two/last_operation";
    assert_eq!(client.get(path).await.expect(200)["state"], json!("in progress"));
    client.deprovision("two").await.expect(200);
    nothing_is_left(&broker);
}
