//! Deprovision: of what is there, of what is being made, of what could not be made.

use serde_json::json;

use crate::support::{Client, TestBroker, docker, eventually};

fn path(client: &Client, instance: &str, more: &str) -> String {
    format!("/v2/service_instances/{instance}?{}{more}", client.ids())
}

fn assert_nothing_left(broker: &TestBroker) {
    assert_eq!(broker.containers(), [""; 0]);
    assert_eq!(broker.instance_directories(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deprovision_needs_the_ids_of_the_instance() {
    let broker = TestBroker::builder().start().await;
    let client = &broker.client;
    client.deprovision("never-made").await.expect(410);
    client.provision("i").await.expect(201);
    client.bind("i", "b").await.expect(201);
    let (service, plan) = (&client.service_id, &client.plan_id);
    for (query, what) in [
        (String::new(), "service_id"),
        (format!("plan_id={plan}"), "service_id"),
        (format!("service_id={service}"), "plan_id"),
        (format!("service_id=&plan_id={plan}"), "service_id"),
        (format!("service_id={plan}&plan_id={plan}"), "service_id"),
        (format!("service_id={service}&plan_id=redis-large"), "plan_id"),
    ] {
        for resource in ["i", "i/service_bindings/b"] {
            let reply = client.delete(&format!("/v2/service_instances/{resource}?{query}")).await;
            reply.expect(400);
            assert!(reply.description().contains(what), "{query}: {}", reply.description());
        }
    }
    let old = client.bind("i", "b").await.expect(200);
    assert_eq!(client.deprovision("i").await.expect(200), json!({}));
    client.deprovision("i").await.expect(410);
    client.unbind("i", "b").await.expect(410);
    assert_nothing_left(&broker);
    // An instance of the same id is a new one.
    client.provision("i").await.expect(201);
    client.get("/v2/service_instances/i/service_bindings/b").await.expect(404);
    let new = client.bind("i", "b").await.expect(201);
    assert_ne!(old["credentials"]["password"], new["credentials"]["password"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_asynchronous_deprovision_is_one_operation_that_ends_as_succeeded() {
    let broker = TestBroker::builder().switch("300s").start().await;
    let client = &broker.client;
    client.provision("i").await.expect(201);
    client.provision("neighbour").await.expect(201);
    let accepted = client.delete(&path(client, "i", "&accepts_incomplete=true")).await.expect(202);
    let operation = accepted["operation"].as_str().unwrap();
    let again = client.delete(&path(client, "i", "&accepts_incomplete=true")).await;
    assert!(
        again.status == 410 || again.expect(202)["operation"] == operation,
        "{:?}",
        again.bytes
    );
    let poll = format!("/v2/service_instances/i/last_operation?operation={operation}");
    eventually("the end of the deprovision", async || {
        let state = client.get(&poll).await.expect(200)["state"].clone();
        if state == "succeeded" { Ok(()) } else { Err(state.to_string()) }
    })
    .await;
    // Asked late, it still says so.
    client.get(&poll).await.expect(200);
    client.deprovision("i").await.expect(410);
    client.get("/v2/service_instances/neighbour").await.expect(200);
    assert_eq!(broker.containers(), [broker.container("neighbour")]);
    // The id is free again, also with other attributes.
    client
        .put("/v2/service_instances/i", &client.body_with(&json!({"colour": "x"})))
        .await
        .expect(201);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deprovision_halts_a_provision_and_removes_everything() {
    let broker = TestBroker::builder().switch("300s").start().await;
    let client = &broker.client;
    let operation = client.provision_silent("i").await;
    let container = broker.container("i");
    // dockerd lists a container a moment before it can be inspected.
    eventually("the container", async || {
        let found = docker(&["inspect", "--format", "{{.Id}}", &container]);
        let refusal = || String::from_utf8_lossy(&found.stderr).into_owned();
        found.status.success().then_some(()).ok_or_else(refusal)
    })
    .await;
    assert_eq!(client.deprovision("i").await.expect(200), json!({}));
    assert_nothing_left(&broker);
    let poll = format!("/v2/service_instances/i/last_operation?operation={operation}");
    assert_eq!(client.get(&poll).await.expect(200)["state"], "failed");
    client.deprovision("i").await.expect(410);
    client.provision("i").await.expect(201);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deprovision_that_overtakes_a_waiting_client_ends_its_provision_as_failed() {
    let broker = TestBroker::builder().switch("300s").start().await;
    let client = &broker.client;
    let body = client.body_with(&json!({"mode": "silent"}));
    let (put, delete) = tokio::join!(client.put("/v2/service_instances/i", &body), async {
        eventually("the provision", async || {
            let path = "/v2/service_instances/i/last_operation";
            let reply = client.get(path).await;
            if reply.status == 200 { Ok(()) } else { Err(reply.description()) }
        })
        .await;
        client.delete(&path(client, "i", "&accepts_incomplete=true")).await
    });
    delete.expect(202);
    put.expect(500);
    assert!(put.description().contains("halted"), "{}", put.description());
    assert_eq!(client.poll("i").await.0, "succeeded");
    assert_nothing_left(&broker);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_away_changes_nothing() {
    let broker = TestBroker::builder().switch("300s").start().await;
    let client = &broker.client;
    let body = client.provision_body();
    let going = client.clone();
    let request = tokio::spawn(async move {
        going.put("/v2/service_instances/gone", &body).await;
    });
    eventually("the provision", async || {
        let reply = client.get("/v2/service_instances/gone/last_operation").await;
        if reply.status == 200 { Ok(()) } else { Err(reply.description()) }
    })
    .await;
    request.abort();
    assert_eq!(client.poll("gone").await.0, "succeeded");
    client.provision("gone").await.expect(200);
    client.deprovision("gone").await.expect(200);
    client.deprovision("gone").await.expect(410);
    assert_nothing_left(&broker);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provision_that_fails_says_why_and_can_be_retried_or_deleted() {
    let broker = TestBroker::builder().switch("1s").start().await;
    let client = &broker.client;
    let instance = "/v2/service_instances/i";
    for (mode, why) in [("broken", "exit code 3"), ("silent", "within 1 s")] {
        let body = client.body_with(&json!({ "mode": mode }));
        client.put(&format!("{instance}?accepts_incomplete=true"), &body).await.expect(202);
        let (state, reason) = client.poll("i").await;
        assert_eq!(state, "failed");
        assert!(reason.contains(why), "{reason}");
        client.get(instance).await.expect(404);
        client.bind("i", "b").await.expect(422);
        client.patch(instance, &client.ids_body()).await.expect(422);
        assert_nothing_left(&broker);
        // The same again is tried again, and answers a waiting client with the reason.
        let reply = client.put(instance, &body).await;
        reply.expect(500);
        assert!(reply.description().contains(why), "{}", reply.description());
        client.provision("i").await.expect(409);
        client.deprovision("i").await.expect(200);
        client.deprovision("i").await.expect(410);
        assert_nothing_left(&broker);
    }
}
