//! The main path: catalog, provision, bind, use, unbind, deprovision.

use crate::support::{Redis, TestBroker};

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_is_provisioned_bound_used_unbound_and_deprovisioned() {
    let broker = TestBroker::builder().start().await;
    let client = &broker.client;
    let catalog = client.get("/v2/catalog").await.expect(200);
    assert_eq!(catalog["services"][0]["plans"][0]["id"], client.plan_id);
    client.provision("r1").await.expect(201);
    let bound = client.bind("r1", "b1").await.expect(201);
    let uri = bound["credentials"]["uri"].as_str().unwrap();
    assert_eq!(Redis::of_uri(uri).expect("PING").await, "+PONG");
    client.unbind("r1", "b1").await.expect(200);
    client.deprovision("r1").await.expect(200);
    client.deprovision("r1").await.expect(410);
    assert_eq!(broker.containers(), [""; 0]);
    assert_eq!(broker.instance_directories(), [""; 0]);
}
