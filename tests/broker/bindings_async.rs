//! Bindings whose hook takes its time: polled, repeated, overtaken.

use serde_json::{Value, json};

use crate::support::{
    Client, HOOKED, Reply, TestBroker, docker_ok, eventually, go_on, hooked_yaml, users,
};

async fn broker() -> TestBroker {
    let broker =
        TestBroker::builder().yaml(hooked_yaml("60s", ""), HOOKED.0, HOOKED.1).start().await;
    broker.client.provision("i").await.expect(201);
    broker
}

fn path(binding: &str) -> String {
    format!("/v2/service_instances/i/service_bindings/{binding}")
}

/// A bind that stays under way until [`go_on`].
async fn bind_async(client: &Client, binding: &str) -> Reply {
    let mut body = client.ids_body();
    body["parameters"] = json!({ "mode": "until" });
    client.put(&format!("{}?accepts_incomplete=true", path(binding)), &body).await
}

async fn unbind_async(client: &Client, binding: &str) -> Reply {
    client.delete(&format!("{}?accepts_incomplete=true&{}", path(binding), client.ids())).await
}

async fn last(client: &Client, binding: &str, accepted: &Value) -> Reply {
    let operation = accepted["operation"].as_str().expect("an operation");
    client.get(&format!("{}/last_operation?operation={operation}", path(binding))).await
}

async fn ended(client: &Client, binding: &str, accepted: &Value) -> Value {
    eventually("the end of the operation", async || {
        let body = last(client, binding, accepted).await.expect(200);
        if body["state"] == "in progress" { Err(body.to_string()) } else { Ok(body) }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bind_that_takes_its_time_is_polled_and_then_fetched() {
    let broker = broker().await;
    let client = &broker.client;
    let accepted = bind_async(client, "b").await.expect(202);
    assert_eq!(accepted.as_object().unwrap().len(), 1, "{accepted}");
    assert_eq!(bind_async(client, "b").await.expect(202), accepted, "the same operation");
    let reply = last(client, "b", &accepted).await;
    assert_eq!(reply.headers["retry-after"], "1");
    assert_eq!(
        reply.expect(200),
        json!({"state": "in progress", "description": "making the credentials"})
    );
    client.get(&path("b")).await.expect(404);
    client.bind("i", "b").await.expect(409);
    let rotation = json!({"predecessor_binding_id": "b"});
    client.put(&path("next"), &rotation).await.expect(400);
    let body = json!({"service_id": HOOKED.0, "parameters": {"mode": "y"}});
    let reply = client.patch("/v2/service_instances/i", &body).await;
    assert_eq!(reply.expect(422)["error"], "ConcurrencyError");

    go_on(&broker, "i");
    assert_eq!(ended(client, "b", &accepted).await, json!({"state": "succeeded"}));
    let fetched = client.get(&path("b")).await.expect(200);
    let known = users(&broker, "i");
    let user = fetched["credentials"]["username"].as_str().unwrap();
    assert_eq!(fetched["credentials"]["password"], known[user].as_str());
    let repeated = bind_async(client, "b").await.expect(200);
    assert_eq!(repeated["credentials"], fetched["credentials"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_would_poll_gets_what_is_quick_at_once() {
    let broker = broker().await;
    let client = &broker.client;
    let bind = format!("{}?accepts_incomplete=true", path("quick"));
    let made = client.put(&bind, &client.ids_body()).await;
    if made.status == 202 {
        // Also a machine under load ends it.
        ended(client, "quick", &made.json()).await;
    } else {
        assert!(made.expect(201)["credentials"].is_object());
    }
    let removed = unbind_async(client, "quick").await;
    if removed.status == 202 {
        assert_eq!(ended(client, "quick", &removed.json()).await, json!({"state": "succeeded"}));
    } else {
        removed.expect(200);
    }
    client.get(&format!("{}/last_operation", path("quick"))).await.expect(404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hook_that_ran_when_the_broker_died_is_ended_and_run_again() {
    let mut broker = broker().await;
    let accepted = bind_async(&broker.client, "b").await.expect(202);
    let before = users(&broker, "i");
    assert_eq!(before.len(), 1);
    broker.kill();
    broker.launch().await;
    broker.ready().await;
    let container = broker.container("i");
    eventually("the hook to run again", async || {
        let ran = docker_ok(&["exec", &container, "cat", "/tmp/ran"]);
        if ran.matches("bind b").count() == 2 { Ok(()) } else { Err(ran) }
    })
    .await;
    let marked = "for p in /proc/[0-9]*; do tr '\\0' '\\n' < $p/environ | \
                  grep OSB_BINDING_ID > /dev/null && cat $p/comm; done; true";
    let running = docker_ok(&["exec", &container, "sh", "-c", marked]);
    assert_eq!(running.matches("sh").count(), 1, "the first one was ended: {running}");
    go_on(&broker, "i");
    assert_eq!(ended(&broker.client, "b", &accepted).await, json!({"state": "succeeded"}));
    assert_eq!(users(&broker, "i"), before, "the secrets are those of the first attempt");
    broker.client.unbind("i", "b").await.expect(200);
    assert_eq!(users(&broker, "i").len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_away_loses_nothing() {
    let broker = broker().await;
    let client = broker.client.clone();
    let mut body = client.ids_body();
    body["parameters"] = json!({ "mode": "until" });
    let waiting = {
        let (client, body) = (client.clone(), body.clone());
        tokio::spawn(async move { client.put(&path("b"), &body).await })
    };
    eventually("the hook to run", async || {
        if users(&broker, "i").is_empty() { Err("no user".to_owned()) } else { Ok(()) }
    })
    .await;
    waiting.abort();
    drop(waiting.await);
    let joined = {
        let (client, body) = (client.clone(), body.clone());
        tokio::spawn(async move { client.put(&path("b"), &body).await })
    };
    go_on(&broker, "i");
    let document = joined.await.unwrap().expect(200);
    assert_eq!(users(&broker, "i").len(), 1);
    assert_eq!(client.get(&path("b")).await.expect(200)["credentials"], document["credentials"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_told_to_stop_ends_the_hook_and_goes_on_after_its_start() {
    let mut broker = broker().await;
    let accepted = bind_async(&broker.client, "b").await.expect(202);
    let (took, succeeded) = broker.terminate().await;
    assert!(succeeded && took.as_secs() < 15, "{took:?}");
    let container = broker.container("i");
    let processes = docker_ok(&["exec", &container, "ps", "-o", "args"]);
    assert!(!processes.contains("/tmp/go"), "{processes}");
    broker.launch().await;
    go_on(&broker, "i");
    assert_eq!(ended(&broker.client, "b", &accepted).await, json!({"state": "succeeded"}));
    assert_eq!(users(&broker, "i").len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unbind_after_the_broker_died_ends_the_hook_that_still_runs() {
    let mut broker = broker().await;
    bind_async(&broker.client, "b").await.expect(202);
    broker.kill();
    broker.launch().await;
    // It may come before the interrupted bind goes on, or after.
    broker.client.unbind("i", "b").await.expect(200);
    go_on(&broker, "i");
    broker.ready().await;
    assert_eq!(users(&broker, "i").len(), 0);
    let ran = docker_ok(&["exec", &broker.container("i"), "cat", "/tmp/ran"]);
    assert!(ran.ends_with("unbind b"), "{ran}");
    broker.client.unbind("i", "b").await.expect(410);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unbind_halts_the_bind_and_leaves_no_user() {
    let broker = broker().await;
    let client = &broker.client;
    let accepted = bind_async(client, "b").await.expect(202);
    assert_eq!(users(&broker, "i").len(), 1);
    client.unbind("i", "b").await.expect(200);
    let last = last(client, "b", &accepted).await.expect(200);
    assert_eq!(last["state"], "failed");
    assert_eq!(users(&broker, "i").len(), 0);
    let processes = docker_ok(&["exec", &broker.container("i"), "ps", "-o", "args"]);
    assert!(!processes.contains("until)"), "the halted hook was ended: {processes}");
    client.unbind("i", "b").await.expect(410);
    client.bind("i", "b").await.expect(201);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deprovision_halts_the_bind() {
    let broker = broker().await;
    let client = &broker.client;
    let accepted = bind_async(client, "b").await.expect(202);
    client.deprovision("i").await.expect(200);
    assert_eq!(broker.containers(), [] as [String; 0]);
    assert_eq!(last(client, "b", &accepted).await.expect(200)["state"], "failed");
    client.unbind("i", "b").await.expect(410);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bind_on_one_instance_does_not_wait_for_another_ones_hook() {
    let broker = broker().await;
    let client = &broker.client;
    client.provision("other").await.expect(201);
    bind_async(client, "b").await.expect(202);
    client.bind("other", "b").await.expect(201);
    client.unbind("other", "b").await.expect(200);
}
