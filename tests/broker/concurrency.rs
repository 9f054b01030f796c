//! Many requests at once.

use std::collections::BTreeSet;

use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::support::{Client, Reply, TestBroker};

fn statuses(replies: &[Reply]) -> Vec<u16> {
    replies.iter().map(|reply| reply.status).collect()
}

#[track_caller]
fn assert_concurrency(reply: &Reply) {
    assert_eq!(reply.expect(422)["error"], "ConcurrencyError");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_provision_ten_times_at_once_makes_one_instance() {
    let broker = TestBroker::builder().switch("300s").start().await;
    let client = &broker.client;
    let sync = join_all((0..10).map(|_| client.provision("sync"))).await;
    let made = sync.iter().filter(|reply| reply.status == 201).count();
    assert_eq!(made, 1, "{:?}", statuses(&sync));
    assert!(sync.iter().all(|reply| matches!(reply.status, 200 | 201)), "{:?}", statuses(&sync));

    let incomplete = join_all((0..10).map(|_| client.provision_async("async"))).await;
    let operations: BTreeSet<String> = incomplete
        .iter()
        .filter(|reply| reply.status != 200)
        .map(|reply| reply.expect(202)["operation"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(operations.len(), 1);
    assert_eq!(client.poll("async").await.0, "succeeded");

    let bound = join_all((0..10).map(|_| client.bind("sync", "b"))).await;
    assert_eq!(bound.iter().filter(|reply| reply.status == 201).count(), 1);
    let documents: BTreeSet<String> = bound.iter().map(|reply| reply.json().to_string()).collect();
    assert_eq!(documents.len(), 1);
    assert_eq!(broker.containers().len(), 2);

    let gone = join_all((0..10).map(|_| client.unbind("sync", "b"))).await;
    assert_eq!(gone.iter().filter(|reply| reply.status == 200).count(), 1);
    assert_eq!(gone.iter().filter(|reply| reply.status == 410).count(), 9);
}

/// Asks a Redis over its published port, as an application does.
async fn ping(credentials: &Value) -> String {
    let text = |key: &str| credentials[key].as_str().expect("a string");
    let address = format!("{}:{}", text("host"), text("port"));
    let mut stream = TcpStream::connect(address).await.expect("Redis accepts connections");
    let command = format!("AUTH {}\r\nPING\r\nQUIT\r\n", text("password"));
    stream.write_all(command.as_bytes()).await.expect("Redis reads");
    let mut reply = String::new();
    stream.read_to_string(&mut reply).await.expect("Redis answers");
    reply
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_instances_at_once_have_twenty_ports_and_all_answer() {
    let broker = TestBroker::builder().start().await;
    let client = &broker.client;
    let live = async |index: u32| {
        let id = format!("i{index}");
        client.provision(&id).await.expect(201);
        let document = client.bind(&id, "b").await.expect(201);
        let credentials = &document["credentials"];
        assert_eq!(ping(credentials).await, "+OK\r\n+PONG\r\n+OK\r\n");
        credentials["port"].as_str().unwrap().to_owned()
    };
    let ports: BTreeSet<String> = join_all((0..20).map(live)).await.into_iter().collect();
    assert_eq!(ports.len(), 20);
    let ids: Vec<String> = (0..20).map(|index| format!("i{index}")).collect();
    let gone = join_all(ids.iter().map(|id| client.deprovision(id))).await;
    assert!(gone.iter().all(|reply| reply.status == 200), "{:?}", statuses(&gone));
    assert_eq!(broker.containers(), [""; 0]);
    assert_eq!(broker.instance_directories(), [""; 0]);
}

async fn update(client: &Client, colour: u32) -> Reply {
    let mut body = client.ids_body();
    body["parameters"] = json!({"colour": colour.to_string(), "mode": "silent"});
    client.patch("/v2/service_instances/i?accepts_incomplete=true", &body).await
}

#[tokio::test(flavor = "multi_thread")]
async fn of_different_operations_at_once_one_runs_and_the_others_are_told_so() {
    let broker = TestBroker::builder().switch("300s").start().await;
    let client = &broker.client;
    // Provisions that differ: one wins.
    let put = async |colour: u32| {
        let parameters = json!({ "colour": colour.to_string() });
        client.put("/v2/service_instances/i", &client.body_with(&parameters)).await
    };
    let provisions = join_all((0..5).map(put)).await;
    assert_eq!(provisions.iter().filter(|reply| reply.status == 201).count(), 1);
    assert_eq!(provisions.iter().filter(|reply| reply.status == 409).count(), 4);

    let updates = join_all((0..5).map(|colour| update(client, colour))).await;
    let (running, refused): (Vec<_>, Vec<_>) =
        updates.iter().partition(|reply| reply.status == 202);
    assert_eq!(running.len(), 1, "{:?}", statuses(&updates));
    refused.into_iter().for_each(assert_concurrency);
    let (bind, delete, fetch) = tokio::join!(
        client.bind("i", "b"),
        client.deprovision("i"),
        client.get("/v2/service_instances/i")
    );
    [&bind, &delete, &fetch].into_iter().for_each(assert_concurrency);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_is_deleted_once_however_many_ask_for_it() {
    let broker = TestBroker::builder().start().await;
    let client = &broker.client;
    client.provision("i").await.expect(201);
    let path = format!("/v2/service_instances/i?accepts_incomplete=true&{}", client.ids());
    let deletes = join_all((0..10).map(async |index| match index % 2 {
        0 => client.delete(&path).await,
        _ => client.deprovision("i").await,
    }))
    .await;
    let mut operations = BTreeSet::new();
    for reply in &deletes {
        match reply.status {
            202 => drop(operations.insert(reply.json()["operation"].to_string())),
            422 => assert_concurrency(reply),
            status => assert!(matches!(status, 200 | 410), "{:?}", statuses(&deletes)),
        }
    }
    assert!(operations.len() <= 1, "{operations:?}");
    assert!(deletes.iter().filter(|reply| reply.status == 200).count() <= 1);
    assert!(matches!(client.poll("i").await.0.as_str(), "succeeded" | "gone"));
    client.deprovision("i").await.expect(410);
    assert_eq!(broker.containers(), [""; 0]);
    assert_eq!(broker.instance_directories(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_provisions_at_once_only_as_many_are_made_as_there_is_room_for() {
    let broker = TestBroker::builder().switch("300s").setting("max_containers: 3").start().await;
    let client = &broker.client;
    let ids: Vec<String> = (0..10).map(|index| format!("i{index}")).collect();
    let replies = join_all(ids.iter().map(|id| client.provision(id))).await;
    assert_eq!(replies.iter().filter(|reply| reply.status == 201).count(), 3);
    assert_eq!(replies.iter().filter(|reply| reply.status == 422).count(), 7);
    assert_eq!(broker.containers().len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deprovision_among_binds_and_unbinds_leaves_nothing() {
    let broker = TestBroker::builder().switch("300s").start().await;
    let client = &broker.client;
    client.provision("i").await.expect(201);
    let others = join_all((0..10).map(async |index| {
        let binding = format!("b{}", index / 2);
        match index % 2 {
            0 => client.bind("i", &binding).await,
            _ => client.unbind("i", &binding).await,
        }
    }));
    let (deleted, others) = tokio::join!(client.deprovision("i"), others);
    deleted.expect(200);
    for reply in others.iter().filter(|reply| reply.status == 422) {
        assert_concurrency(reply);
    }
    assert!(others.iter().all(|reply| reply.status < 500), "{:?}", statuses(&others));
    client.get("/v2/service_instances/i/service_bindings/b0").await.expect(404);
    client.deprovision("i").await.expect(410);
    assert_eq!(broker.containers(), [""; 0]);
    assert_eq!(broker.instance_directories(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn instances_that_never_become_ready_delay_no_other() {
    let broker =
        TestBroker::builder().switch("300s").setting("max_parallel_starts: 2").start().await;
    let client = &broker.client;
    for index in 0..5 {
        client.provision_silent(&format!("slow{index}")).await;
    }
    client.provision("quick").await.expect(201);
    client.bind("quick", "b").await.expect(201);
    client.deprovision("quick").await.expect(200);
    let state = client.get("/v2/service_instances/slow0/last_operation").await.expect(200);
    assert_eq!(state["state"], "in progress");
}
