//! Ids: any string up to 255 bytes that a URL can carry, and never a path or a name by itself.

use std::collections::BTreeSet;

use futures_util::future::join_all;
use http::Method;
use serde_json::json;

use crate::support::{Client, TestBroker};

/// Takes one instance through its life, the id as it stands in the URL.
async fn live(client: &Client, id: &str) {
    let instance = format!("/v2/service_instances/{id}");
    client.provision_async(id).await.expect(202);
    assert_eq!(client.poll(id).await.0, "succeeded", "{id}");
    client.provision(id).await.expect(200);
    client.get(&instance).await.expect(200);
    // The binding's id is as odd.
    let document = client.bind(id, id).await.expect(201);
    assert_eq!(client.bind(id, id).await.expect(200), document);
    let binding = format!("{instance}/service_bindings/{id}");
    client.get(&binding).await.expect(200);
    client.get(&format!("{binding}/last_operation")).await.expect(200);
    let mut update = client.ids_body();
    update["parameters"] = json!({"colour": "red"});
    client.patch(&instance, &update).await.expect(200);
    client.unbind(id, id).await.expect(200);
    client.unbind(id, id).await.expect(410);
}

#[tokio::test(flavor = "multi_thread")]
async fn any_id_that_a_url_can_carry_has_a_whole_life_under_a_harmless_name() {
    let broker = TestBroker::builder().switch("300s").start().await;
    let client = &broker.client;
    let long = "a".repeat(255);
    let ids = [
        "T-0123456789",
        "4fe5dc0d-ebe5-4dee-bb27-91e0228bd9e8",
        "a%2Fb",
        "..",
        "%2e%2e%2f%2e%2e%2fetc",
        "a%20b",
        "a+b",
        "%24%28reboot%29%3B%27%22%60",
        "%C3%A4%F0%9F%A6%80",
        "-rf",
        "last_operation",
        &long,
    ];
    join_all(ids.iter().map(|id| live(client, id))).await;
    let containers = broker.containers();
    let directories: BTreeSet<String> = broker.instance_directories().into_iter().collect();
    assert_eq!((containers.len(), directories.len()), (ids.len(), ids.len()));
    for name in containers.iter().chain(&directories) {
        let harmless = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        assert!(harmless && name.len() <= 100, "{name}");
    }
    assert!(containers.contains(&broker.container("T-0123456789")), "{containers:?}");
    let gone = join_all(ids.iter().map(|id| client.deprovision(id))).await;
    for reply in &gone {
        reply.expect(200);
    }
    assert_eq!(broker.containers(), [""; 0]);
    assert_eq!(broker.instance_directories(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn ids_that_differ_are_different_and_ids_that_mean_the_same_are_one() {
    let broker = TestBroker::builder().switch("300s").start().await;
    let client = &broker.client;
    let different =
        ["id", "ID", "i+d", "i%20d", "i%2Fd", "i%252Fd", "i_d", "i-d", "e%CC%81", "%C3%A9"];
    let made = join_all(different.iter().map(|id| client.provision(id))).await;
    for reply in &made {
        reply.expect(201);
    }
    assert_eq!(broker.containers().len(), different.len());
    for same in ["%69d", "%69%64", "i%2Bd", "i%2fd", "i%5Fd", "%C3%a9"] {
        client.provision(same).await.expect(200);
    }
    // Removing one leaves its neighbours.
    client.deprovision("id").await.expect(200);
    client.get("/v2/service_instances/ID").await.expect(200);
    client.deprovision("%69d").await.expect(410);
    assert_eq!(broker.containers().len(), different.len() - 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_an_id_is_a_bad_request_on_every_endpoint() {
    let broker = TestBroker::builder().switch("300s").start().await;
    let client = &broker.client;
    client.provision("i").await.expect(201);
    let long = "a".repeat(256);
    let umlauts = "%C3%A4".repeat(128);
    let ids = client.ids();
    for id in
        ["", "%00", "a%00b", "%zz", "%", "%4", "%ff", "%C3", "a%0d%0ab", "%7F", &long, &umlauts]
    {
        for path in [
            format!("/v2/service_instances/{id}"),
            format!("/v2/service_instances/i/service_bindings/{id}"),
            format!("/v2/service_instances/{id}/service_bindings/b"),
        ] {
            for method in [Method::GET, Method::PUT, Method::DELETE] {
                let body = client.provision_body();
                let path = format!("{path}?{ids}");
                let reply = client.send(method.clone(), &path, Some(&body)).await;
                assert_eq!(reply.status, 400, "{method} {path}: {}", reply.description());
            }
            let reply = client.get(&format!("{path}/last_operation")).await;
            assert_eq!(reply.status, 400, "{path}/last_operation");
        }
    }
    assert_eq!(broker.containers(), [broker.container("i")]);
    client.deprovision("i").await.expect(200);
}
