//! Revoking: never said to have happened when it has not.

use serde_json::json;

use crate::support::{Daemon, HOOKED, TestBroker, docker_ok, hooked_yaml, users};

async fn broker(timeout: &str) -> TestBroker {
    // What is stopped here is to stay so for a while.
    let broker = TestBroker::builder()
        .setting("reconcile_interval: 0s")
        .yaml(hooked_yaml(timeout, ""), HOOKED.0, HOOKED.1)
        .start()
        .await;
    broker.client.provision("i").await.expect(201);
    broker
}

const BINDING: &str = "/v2/service_instances/i/service_bindings/b";

#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_that_fails_keeps_the_binding_and_can_be_repeated() {
    let broker = broker("30s").await;
    let client = &broker.client;
    let document = client.bind("i", "b").await.expect(201);
    docker_ok(&["exec", &broker.container("i"), "touch", "/tmp/refuse-unbind"]);
    let reply = client.unbind("i", "b").await;
    assert_eq!(reply.status, 500);
    assert_eq!(
        reply.description(),
        "the credentials were not revoked: the unbind hook failed with exit code 1; unbind again"
    );
    let last = client.get(&format!("{BINDING}/last_operation")).await.expect(200);
    assert_eq!(last["state"], "failed");
    assert_eq!(client.get(BINDING).await.expect(200)["credentials"], document["credentials"]);
    client.bind("i", "b").await.expect(409);
    let rotation = json!({"predecessor_binding_id": "b"});
    client.put("/v2/service_instances/i/service_bindings/next", &rotation).await.expect(400);
    docker_ok(&["exec", &broker.container("i"), "rm", "/tmp/refuse-unbind"]);
    client.unbind("i", "b").await.expect(200);
    client.unbind("i", "b").await.expect(410);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unbind_while_the_container_is_stopped_says_so_and_works_when_it_is_back() {
    let broker = broker("3s").await;
    let client = &broker.client;
    client.bind("i", "b").await.expect(201);
    docker_ok(&["stop", "-t", "0", &broker.container("i")]);
    let reply = client.unbind("i", "b").await;
    assert_eq!(reply.status, 500);
    assert!(
        reply.description().contains("the container of the service instance does not run"),
        "{}",
        reply.description()
    );
    client.get(BINDING).await.expect(200);
    docker_ok(&["start", &broker.container("i")]);
    assert_eq!(users(&broker, "i").len(), 1);
    client.unbind("i", "b").await.expect(200);
    assert_eq!(users(&broker, "i").len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unbind_waits_for_a_container_that_comes_back() {
    let broker = broker("60s").await;
    let client = broker.client.clone();
    client.bind("i", "b").await.expect(201);
    docker_ok(&["stop", "-t", "0", &broker.container("i")]);
    let waiting = tokio::spawn(async move { client.unbind("i", "b").await });
    crate::support::eventually("the hook to be tried", async || {
        let log = broker.log_text();
        if log.contains("a hook is run again") { Ok(()) } else { Err(log) }
    })
    .await;
    docker_ok(&["start", &broker.container("i")]);
    waiting.await.unwrap().expect(200);
    assert_eq!(users(&broker, "i").len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn bindings_of_a_plan_that_left_the_configuration_are_still_revoked() {
    let mut broker = broker("30s").await;
    broker.client.bind("i", "b").await.expect(201);
    broker.kill();
    broker.set_yaml(crate::support::redis_yaml(""));
    broker.launch().await;
    broker.ready().await;
    broker.client.unbind("i", "b").await.expect(200);
    assert_eq!(users(&broker, "i").len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unbind_while_dockerd_is_away_says_so_and_works_when_it_is_back() {
    let mut daemon = Daemon::start().await;
    daemon.load_image("busybox:1");
    let broker = daemon.broker().yaml(hooked_yaml("3s", ""), HOOKED.0, HOOKED.1).start().await;
    let client = &broker.client;
    client.provision("i").await.expect(201);
    client.bind("i", "b").await.expect(201);
    daemon.stop();
    let reply = client.unbind("i", "b").await;
    assert_eq!(reply.status, 500);
    assert!(
        reply.description().contains("the Docker engine does not answer"),
        "{}",
        reply.description()
    );
    client.get(BINDING).await.expect(200);
    daemon.start_again().await;
    crate::support::eventually("the unbind to work", async || {
        let reply = client.unbind("i", "b").await;
        if reply.status == 200 { Ok(()) } else { Err(reply.description()) }
    })
    .await;
    let left = daemon.docker_ok(&["exec", &broker.container("i"), "ls", "/tmp/users"]);
    assert_eq!(left, "");
    client.get(BINDING).await.expect(404);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_keeps_to_plans_that_can_revoke() {
    let bare = "  - id: bare
    name: bare
    description: a plan without hooks
    container: {image: busybox, tag: '1', command: [sleep, '1000000']}
";
    let yaml = hooked_yaml("30s", bare);
    let broker = TestBroker::builder().yaml(yaml, HOOKED.0, HOOKED.1).start().await;
    let client = &broker.client;
    client.provision("i").await.expect(201);
    client.bind("i", "b").await.expect(201);
    let body = json!({"service_id": HOOKED.0, "plan_id": "bare"});
    let reply = client.patch("/v2/service_instances/i", &body).await;
    assert_eq!(reply.status, 422);
    assert!(reply.description().contains("no unbind hook"), "{}", reply.description());
    client.unbind("i", "b").await.expect(200);
}
