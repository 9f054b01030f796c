//! One reply of every kind. That each is one of OSB 2.17 is checked by the client, here as in
//! every other test.

use http::{HeaderMap, HeaderValue, Method, header};
use serde_json::{Value, json};

use crate::support::{Reply, SWITCH, TestBroker, switch_yaml, violations};

/// Plan keys that give every optional part of replies something to show.
const EXTRA: &str = r"
    maintenance_info: {version: 1.2.3, description: a new base image}
    maximum_polling_duration: 600
    binding_rotatable: true
    schemas:
      service_binding: {create: {parameters: {type: object}}}
";

#[test]
fn a_reply_that_is_not_one_of_osb_is_found() {
    let instance = "/v2/service_instances/i";
    let check = |method: Method, path: &str, status: u16, body: &Value| {
        let json = HeaderValue::from_static("application/json");
        let headers = HeaderMap::from_iter([(header::CONTENT_TYPE, json)]);
        violations(&method, path, &Reply { status, headers, bytes: body.to_string().into() })
    };
    let error = json!({"description": "why"});
    assert!(check(Method::GET, "/v2/catalog?x", 200, &json!({"services": []})).is_empty());
    assert!(check(Method::DELETE, instance, 410, &error).is_empty());
    for (method, path, status, body) in [
        (Method::GET, "/v2/catalog", 200, json!([])),
        (Method::GET, "/v2/catalog", 200, json!({"services": [{"id": "a"}]})),
        (Method::GET, "/v2/catalog", 404, error.clone()),
        (Method::PUT, instance, 204, json!({})),
        (Method::PUT, instance, 202, json!({"operation": 1})),
        (Method::PUT, instance, 409, json!({})),
        (Method::PUT, instance, 410, error.clone()),
        (Method::DELETE, instance, 404, error.clone()),
        (Method::PUT, instance, 400, json!({"description": "x", "error": "two words"})),
        (Method::PUT, instance, 400, json!({"description": "x", "error": "AsyncRequired"})),
        (Method::PUT, instance, 422, json!({"description": "x", "update_repeatable": true})),
        (Method::GET, "/v2/service_instances/i/last_operation", 200, json!({"state": "done"})),
    ] {
        let found = check(method.clone(), path, status, &body);
        assert!(!found.is_empty(), "{method} {path} {status} {body}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_success_is_one_of_osb() {
    let (service, plan) = SWITCH;
    let broker =
        TestBroker::builder().yaml(switch_yaml("300s", EXTRA), service, plan).start().await;
    let client = &broker.client;
    client.get("/v2/catalog").await.expect(200);

    client.provision("sync").await.expect(201);
    client.provision("sync").await.expect(200);
    client.provision_async("async").await.expect(202);
    assert_eq!(client.poll("async").await.0, "succeeded");
    let fetched = client.get("/v2/service_instances/sync").await.expect(200);
    assert_eq!(fetched["maintenance_info"], json!({"version": "1.2.3"}));

    let second = json!({"service_id": service, "plan_id": "switch-second"});
    client.patch("/v2/service_instances/sync", &second).await.expect(200);
    let path = "/v2/service_instances/async?accepts_incomplete=true";
    client.patch(path, &second).await.expect(202);
    client.get("/v2/service_instances/async/last_operation").await.expect(200);
    assert_eq!(client.poll("async").await.0, "succeeded");

    let mut client = client.clone();
    client.plan_id = "switch-second".to_owned();
    client.bind("sync", "b1").await.expect(201);
    client.bind("sync", "b1").await.expect(200);
    let binding = "/v2/service_instances/sync/service_bindings/b1";
    client.get(binding).await.expect(200);
    client.get(&format!("{binding}/last_operation")).await.expect(200);
    client.unbind("sync", "b1").await.expect(200);

    client.deprovision("sync").await.expect(200);
    let path = format!("/v2/service_instances/async?accepts_incomplete=true&{}", client.ids());
    client.delete(&path).await.expect(202);
    assert_eq!(client.poll("async").await.0, "succeeded");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_refusal_is_one_of_osb() {
    let broker = TestBroker::builder().switch("300s").start().await;
    let client = &broker.client;
    let mut stranger = client.clone();
    stranger.password = "wrong".to_owned();
    stranger.get("/v2/catalog").await.expect(401);
    stranger.provision("i").await.expect(401);

    let instance = "/v2/service_instances/i";
    client.put(instance, &json!({})).await.expect(400);
    client.patch(instance, &client.ids_body()).await.expect(404);
    client.get(instance).await.expect(404);
    client.get(&format!("{instance}/last_operation")).await.expect(404);
    client.deprovision("i").await.expect(410);
    client.bind("i", "b").await.expect(404);
    let binding = format!("{instance}/service_bindings/b");
    client.get(&binding).await.expect(404);
    client.get(&format!("{binding}/last_operation")).await.expect(404);
    client.unbind("i", "b").await.expect(410);
    client.delete(instance).await.expect(400);
    client.delete(&binding).await.expect(400);

    client.provision_silent("i").await;
    client.provision("i").await.expect(409);
    client.patch(instance, &client.ids_body()).await.expect(422);
    client.bind("i", "b").await.expect(422);
    client.get(instance).await.expect(404);
    client.deprovision("i").await.expect(200);

    client.send(Method::POST, instance, None).await.expect(405);
    client.get("/v2/nothing").await.expect(404);
}
