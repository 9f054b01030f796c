//! Bindings with a lifetime.

use serde_json::json;

use crate::support::{HOOKED, TestBroker, docker_ok, eventually, hooked_yaml, users};

const LIFETIME: &str = "    binding_lifetime: 6s\n";

async fn broker() -> TestBroker {
    let yaml = hooked_yaml("30s", LIFETIME);
    let broker = TestBroker::builder().yaml(yaml, HOOKED.0, HOOKED.1).start().await;
    broker.client.provision("i").await.expect(201);
    broker
}

async fn no_users(broker: &TestBroker) {
    eventually("the credentials to expire", async || {
        let left = users(broker, "i");
        if left.is_empty() { Ok(()) } else { Err(format!("{} users", left.len())) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_are_revoked_when_their_time_is_up_and_the_binding_stays() {
    let broker = broker().await;
    let client = &broker.client;
    let binding = "/v2/service_instances/i/service_bindings/b";
    let document = client.bind("i", "b").await.expect(201);
    let date = |key: &str| document["metadata"][key].as_str().unwrap().to_owned();
    assert!(date("renew_before") < date("expires_at"), "{document}");
    assert_eq!(users(&broker, "i").len(), 1);
    no_users(&broker).await;
    eventually("the binding to be marked", async || {
        let rotation = json!({"predecessor_binding_id": "b"});
        let reply = client.put("/v2/service_instances/i/service_bindings/next", &rotation).await;
        let text = reply.description();
        if text.contains("without valid credentials: expired") { Ok(()) } else { Err(text) }
    })
    .await;
    assert_eq!(client.get(binding).await.expect(200)["metadata"], document["metadata"]);
    assert_eq!(client.bind("i", "b").await.expect(200), document);
    client.unbind("i", "b").await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_expires_while_the_broker_is_away_is_revoked_when_it_is_back() {
    let mut broker = broker().await;
    broker.client.bind("i", "b").await.expect(201);
    broker.kill();
    // Its time has to pass.
    tokio::time::sleep(std::time::Duration::from_secs(7)).await;
    assert_eq!(users(&broker, "i").len(), 1);
    broker.launch().await;
    broker.ready().await;
    no_users(&broker).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_revoked_in_time_is_not_said_to_be_expired() {
    let broker = broker().await;
    let client = &broker.client;
    docker_ok(&["exec", &broker.container("i"), "touch", "/tmp/refuse-unbind"]);
    client.bind("i", "b").await.expect(201);
    eventually("the broker to try", async || {
        let log = broker.log_text();
        if log.contains("an expired binding could not be revoked") { Ok(()) } else { Err(log) }
    })
    .await;
    let rotation = json!({"predecessor_binding_id": "b"});
    client.put("/v2/service_instances/i/service_bindings/next", &rotation).await.expect(201);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_failed_bind_has_left_ends_when_its_time_is_up() {
    let broker = broker().await;
    let client = &broker.client;
    let refuse =
        |verb: &str| docker_ok(&["exec", &broker.container("i"), verb, "/tmp/refuse-unbind"]);
    // Neither taking it back nor an unbind says that it has worked.
    refuse("touch");
    let mut body = client.ids_body();
    body["parameters"] = json!({"mode": "fail"});
    let path = "/v2/service_instances/i/service_bindings/b";
    assert_eq!(client.put(path, &body).await.status, 500);
    assert_eq!(client.unbind("i", "b").await.status, 500);
    refuse("rm");
    eventually("the credentials to expire", async || {
        let log = broker.log_text();
        if log.contains("a binding has expired") { Ok(()) } else { Err(log) }
    })
    .await;
    client.unbind("i", "b").await.expect(200);
}
