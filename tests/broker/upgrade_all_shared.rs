//! `docker-broker upgrade-all` and shared containers: each is upgraded once, with its first tenant.

use docker_broker::lifecycle::fault::{Step, VARIABLE};
use serde_json::Value;

use crate::support::{
    Tag, TestBroker, docker, docker_ok, eventually, restart_on, upgrade, upgrade_body,
};

const IDS: (&str, &str) = ("shared-service", "shared-plan");

/// A redis for two instances at a time; an instance is a key, which its provision hook makes.
fn yaml(version: &str, memory: &str, command: &str) -> String {
    let command = Value::from(command);
    format!(
        r#"services:
- id: {}
  name: shared
  description: a shared redis
  plans:
  - id: {}
    name: plan
    description: a plan
    maintenance_info: {{version: {version}}}
    tenancy: shared
    max_instances_per_container: 2
    lifecycle:
      provision: 'REDISCLI_AUTH="$REDIS_PASSWORD" redis-cli SET "made:$OSB_INSTANCE_ID" 1 >&2'
      update: 'REDISCLI_AUTH="$REDIS_PASSWORD" redis-cli INCR "updated:$OSB_INSTANCE_ID" >&2'
      bind: |
        [ "$OSB_BINDING_ID" != slow ] || sleep 4
        REDISCLI_AUTH="$REDIS_PASSWORD" redis-cli SET "user:$OSB_BINDING_ID" 1 >&2
      unbind: 'REDISCLI_AUTH="$REDIS_PASSWORD" redis-cli DEL "user:$OSB_BINDING_ID" >&2'
      deprovision: 'REDISCLI_AUTH="$REDIS_PASSWORD" redis-cli DEL "made:$OSB_INSTANCE_ID" >&2'
    container:
      image: redis:7
      user: '999:999'
      entrypoint: [/bin/sh, -c]
      command: [{command}]
      expose_ports: [6379/tcp]
      volumes: [{{path: /data, owner: '999:999'}}]
      limits: {{memory: {memory}}}
      readiness: {{tcp: 6379/tcp, send: "AUTH {{{{password}}}}\r\nPING\r\n", expect: +PONG, timeout: 10s}}
      stop_timeout: 5s
    credentials:
      username: {{value: default}}
      password: {{key: REDIS_PASSWORD}}
"#,
        IDS.0, IDS.1
    )
}

/// The password goes in by standard input: argument lists can be read by everybody.
const GOOD: &str = "exec redis-server - --dir /data --appendonly yes <<CONFIG\n\
                    requirepass $REDIS_PASSWORD\nCONFIG\n";

async fn broker_with(first: &str, second: &str, instances: &[&str]) -> TestBroker {
    let mut broker = TestBroker::builder().yaml(first, IDS.0, IDS.1).start().await;
    for instance in instances {
        broker.client.provision(instance).await.expect(201);
    }
    broker.kill();
    broker.set_yaml(second.to_owned());
    broker.launch().await;
    broker.ready().await;
    broker
}

/// Memory and generation of each container.
fn containers(broker: &TestBroker) -> Vec<String> {
    let format = "{{.HostConfig.Memory}} {{index .Config.Labels \"io.docker-broker.generation\"}}";
    let mut found: Vec<String> = broker
        .containers()
        .iter()
        .map(|name| docker_ok(&["inspect", "--format", format, name]))
        .collect();
    found.sort();
    found
}

/// All keys of all containers.
fn keys(broker: &TestBroker) -> Vec<String> {
    let command = "REDISCLI_AUTH=$REDIS_PASSWORD redis-cli KEYS '*'";
    let mut found: Vec<String> = broker
        .containers()
        .iter()
        .flat_map(|name| {
            let text = docker_ok(&["exec", name, "sh", "-c", command]);
            text.lines().map(str::to_owned).collect::<Vec<_>>()
        })
        .collect();
    found.sort();
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn each_shared_container_is_upgraded_once_with_the_data_of_all_its_tenants() {
    let (first, second) = (yaml("1.0.0", "64m", GOOD), yaml("1.1.0", "80m", GOOD));
    let broker = broker_with(&first, &second, &["one", "two", "three"]).await;
    let old = (64 << 20).to_string();
    assert_eq!(containers(&broker), [format!("{old} 1"), format!("{old} 1")]);
    let document = broker.operate("instances", &["--json"]).await.expect_json(0);
    let list = document["instances"].as_array().unwrap();
    let with = |key: &str, value: &str| list.iter().filter(|one| one[key] == value).count();
    assert_eq!((with("home", "shared host"), with("home", "shared")), (2, 3), "{document:#}");
    assert_eq!(with("upgrade", "pending"), 5, "{document:#}");

    let run = broker.operate("upgrade-all", &["--max-in-flight", "3"]).await;
    assert!(run.expect(0).contains("3 upgraded in "), "{run:?}");
    let new = (80 << 20).to_string();
    assert_eq!(containers(&broker), [format!("{new} 2"), format!("{new} 2")]);
    let mut expected: Vec<String> = ["one", "two", "three"]
        .iter()
        .flat_map(|id| [format!("made:{id}"), format!("updated:{id}")])
        .collect();
    expected.sort();
    assert_eq!(keys(&broker), expected, "tenants' hooks ran for tenants, and nothing was lost");
    let document = broker.operate("instances", &["--json"]).await.expect_json(0);
    let all = document["instances"].as_array().unwrap();
    assert!(all.iter().all(|one| one["upgrade"] == "up to date"), "{document:#}");
    // Another one finds its place in what was upgraded.
    broker.client.provision("four").await.expect(201);
    assert_eq!(broker.containers().len(), 2);
    for id in ["one", "two", "three", "four"] {
        broker.client.deprovision(id).await.expect(200);
    }
    assert_eq!(broker.containers(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shared_container_that_does_not_come_up_goes_back_and_its_tenants_are_not_up_to_date() {
    let (first, second) = (yaml("1.0.0", "64m", GOOD), yaml("1.1.0", "64m", "exit 3"));
    let broker = broker_with(&first, &second, &["one", "two"]).await;
    let run = broker.operate("upgrade-all", &[]).await;
    let text = run.expect(1);
    assert!(text.contains("the shared container could not be upgraded: "), "{text}");
    assert!(text.contains("two (shared/plan): not tried"), "{text}");
    assert_eq!(containers(&broker), [format!("{} 1", 64 << 20)]);
    assert_eq!(keys(&broker), ["made:one", "made:two"]);
    let document: Value = broker.operate("instances", &["--json"]).await.expect_json(0);
    let list = document["instances"].as_array().unwrap();
    assert!(list.iter().all(|one| one["state"] == "ready"), "{document:#}");
    assert!(list.iter().all(|one| one["upgrade"] == "pending"), "{document:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_hooks_do_for_other_tenants_while_their_container_is_upgraded_and_goes_back_is_not_lost()
 {
    let never = GOOD.replace("exec", "# new\nexec");
    let second = yaml("1.1.0", "64m", &never).replace("+PONG, timeout: 10s", "+NEVER, timeout: 4s");
    let broker = broker_with(&yaml("1.0.0", "64m", GOOD), &second, &["one", "two"]).await;
    let client = &broker.client;
    client.bind("two", "old").await.expect(201);
    let [name] = &broker.containers()[..] else { panic!("one container") };
    // Its hook still runs when the upgrade begins.
    let slow = "/v2/service_instances/two/service_bindings/slow?accepts_incomplete=true";
    client.put(slow, &client.ids_body()).await.expect(202);
    let path = "/v2/service_instances/one?accepts_incomplete=true";
    client.patch(path, &upgrade_body(&broker).await).await.expect(202);
    eventually("the new container", async || {
        // For a moment no container has the name.
        let new = docker(&["inspect", "-f", "{{.Config.Cmd}} {{.State.Running}}", name]).stdout;
        let new = String::from_utf8_lossy(&new).into_owned();
        if new.contains("# new") && new.contains("true") { Ok(()) } else { Err(new) }
    })
    .await;
    let (bound, unbound) = tokio::join!(client.bind("two", "new"), client.unbind("two", "old"));
    bound.expect(201);
    unbound.expect(200);
    assert_eq!(client.poll("one").await.0, "failed");
    client.bind("two", "slow").await.expect(200);
    assert_eq!(keys(&broker), ["made:one", "made:two", "user:new", "user:slow"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_made_or_revoked_in_data_in_whose_place_the_copy_of_a_failed_upgrade_may_come() {
    let shared = yaml("1.0.0", "64m", GOOD);
    let own = shared.replace("tenancy: shared\n    max_instances_per_container: 2\n    ", "");
    for yaml in [shared, own] {
        let builder = TestBroker::builder().setting("reconcile_interval: 1s");
        let mut broker = builder.yaml(&yaml, IDS.0, IDS.1).start().await;
        broker.client.provision("one").await.expect(201);
        broker.client.bind("one", "b").await.expect(201);
        broker.kill();
        let names = broker.instance_directories();
        let mut homes = names.iter().map(|name| broker.directories().join(name));
        let home = homes.find(|home| home.join("volumes").exists()).unwrap();
        let maintenance = home.join("maintenance");
        std::fs::write(&maintenance, "").unwrap();
        let store = rusqlite::Connection::open(broker.data.path().join("broker.db")).unwrap();
        let failed = "UPDATE instances SET state = 'update failed' \
                      WHERE id NOT IN (SELECT instance_id FROM tenants)";
        assert_eq!(store.execute(failed, []), Ok(1));
        drop(store);
        broker.launch().await;
        broker.ready().await;
        for refused in
            [broker.client.bind("one", "c").await, broker.client.unbind("one", "b").await]
        {
            refused.expect(422);
            assert_eq!(refused.json()["error"], "ConcurrencyError", "{refused:?}");
        }
        assert_eq!(keys(&broker), ["made:one", "user:b"]);
        std::fs::remove_file(&maintenance).unwrap();
        eventually("the way back", async || match broker.client.unbind("one", "b").await {
            reply if reply.status == 200 => Ok(()),
            reply => Err(reply.description()),
        })
        .await;
        assert_eq!(keys(&broker), ["made:one"]);
        broker.client.bind("one", "c").await.expect(201);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_is_kept_when_the_container_runs_something_else_than_the_plan_of_its_tenant_does() {
    let other = GOOD.replace("exec", "# other\nexec");
    let (first, second) = (yaml("1.0.0", "64m", GOOD), yaml("1.1.0", "64m", &other));
    let mut broker = broker_with(&first, &second, &["one", "two"]).await;
    upgrade(&broker, "two").await.expect(200);
    // For this tenant only the memory changes, for the container the command as well.
    restart_on(&mut broker, yaml("1.2.0", "80m", GOOD)).await;
    upgrade(&broker, "one").await.expect(200);
    assert!(broker.log_text().contains("a copy of the data is kept"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_that_is_resumed_does_not_take_a_shared_container_back_to_an_older_plan() {
    let (first, second) = (yaml("1.0.0", "64m", GOOD), yaml("1.1.0", "72m", GOOD));
    let mut broker = broker_with(&first, &second, &["one", "two"]).await;
    let body = upgrade_body(&broker).await.to_string();
    broker.kill();
    broker.set_environment(VARIABLE, Some(&Step::UpdateAccepted.name()));
    broker.launch().await;
    broker.ready().await;
    let authorization = broker.client.authorization();
    let headers = [("authorization", authorization.as_str()), ("x-broker-api-version", "2.17")];
    let path = "/v2/service_instances/one?accepts_incomplete=true";
    drop(broker.client.raw(http::Method::PATCH, path, &headers, body).await);
    assert!(!broker.ended().await, "it dies by a signal");
    broker.set_environment(VARIABLE, None);
    // Meanwhile the other tenant takes the container to a newer plan.
    let store = rusqlite::Connection::open(broker.data.path().join("broker.db")).unwrap();
    let set = |from: &str, to: &str| {
        let sql = "UPDATE operations SET state = ?2 WHERE kind = 'update' AND state = ?1";
        assert_eq!(store.execute(sql, [from, to]), Ok(1));
    };
    set("in progress", "later");
    restart_on(&mut broker, yaml("1.2.0", "80m", GOOD)).await;
    upgrade(&broker, "two").await.expect(200);
    broker.kill();
    set("later", "in progress");
    broker.launch().await;
    broker.ready().await;
    assert_eq!(broker.client.poll("one").await.0, "succeeded");
    assert_eq!(containers(&broker), [format!("{} 2", 80 << 20)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shared_container_whose_tag_alone_has_moved_is_held_and_holds_nobody_up() {
    let mut tag = Tag::new();
    tag.set_major(1);
    let image = format!("image: {}\n      pull: never", tag.name);
    let shared = yaml("1.0.0", "64m", GOOD).replace("image: redis:7", &image);
    let with_own = |version: &str| {
        let own = yaml(version, "64m", GOOD).replace("services:\n", "");
        let own = own.replace("tenancy: shared\n    max_instances_per_container: 2\n    ", "");
        let own = own.replace("shared-", "own-").replace("name: shared", "name: own");
        format!("{shared}{own}")
    };
    let mut broker = TestBroker::builder().yaml(with_own("1.0.0"), IDS.0, IDS.1).start().await;
    broker.client.provision("one").await.expect(201);
    let mut own = broker.client.clone();
    own.service_id = "own-service".to_owned();
    own.plan_id = "own-plan".to_owned();
    own.provision("two").await.expect(201);
    tag.set_major(2);
    restart_on(&mut broker, with_own("1.1.0")).await;
    let run = broker.operate("upgrade-all", &["--canaries", "1"]).await;
    let text = run.expect(1);
    assert!(text.contains("two (own/plan): done") && text.contains("1 upgraded"), "{text}");
    let document = broker.operate("instances", &["--json"]).await.expect_json(0);
    let list = document["instances"].as_array().unwrap();
    let with = |upgrade: &str| list.iter().filter(|one| one["upgrade"] == upgrade).count();
    assert_eq!((with("held"), with("up to date")), (1, 2), "{document:#}");
}
