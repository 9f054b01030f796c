//! Bindings: made, repeated, fetched, rotated, removed.

use serde_json::{Value, json};

use crate::support::{Client, Reply, TestBroker};

fn path(instance: &str, binding: &str) -> String {
    format!("/v2/service_instances/{instance}/service_bindings/{binding}")
}

async fn bind_with(client: &Client, instance: &str, binding: &str, more: &Value) -> Reply {
    let mut body = client.ids_body();
    for (key, value) in more.as_object().expect("an object") {
        body[key] = value.clone();
    }
    client.put(&path(instance, binding), &body).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_binding_is_made_once_and_shows_the_same_document_ever_after() {
    let broker = TestBroker::builder().start().await;
    let client = &broker.client;
    client.provision("i").await.expect(201);
    let document = client.bind("i", "b").await.expect(201);
    let credentials = &document["credentials"];
    assert!(credentials["uri"].as_str().unwrap().starts_with("redis://"), "{credentials}");
    assert!(credentials["password"].as_str().unwrap().len() >= 20);
    assert_eq!(client.bind("i", "b").await.expect(200), document);
    let password = credentials["password"].as_str().unwrap();
    assert!(!broker.log_text().contains(password), "the log shows a password");
    let incomplete = format!("{}?accepts_incomplete=true", path("i", "b"));
    assert_eq!(client.put(&incomplete, &client.ids_body()).await.expect(200), document);
    // Unknown fields and the context are no attributes of a binding.
    let more = json!({"x-unknown": 1, "context": {"platform": "x"}, "parameters": {}});
    assert_eq!(bind_with(client, "i", "b", &more).await.expect(200), document);

    let mut fetched = client.get(&format!("{}?plan_id=hint", path("i", "b"))).await.expect(200);
    assert_eq!(fetched.as_object_mut().unwrap().remove("parameters"), Some(json!({})));
    assert_eq!(fetched, document);
    let last = client.get(&format!("{}/last_operation?operation=x", path("i", "b"))).await;
    assert_eq!(last.expect(200), json!({"state": "succeeded"}));

    assert_eq!(client.unbind("i", "b").await.expect(200), json!({}));
    client.unbind("i", "b").await.expect(410);
    client.get(&path("i", "b")).await.expect(404);
    client.get(&format!("{}/last_operation", path("i", "b"))).await.expect(404);
    client.bind("i", "b").await.expect(201);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_binding_with_other_attributes_is_a_conflict() {
    let broker = TestBroker::builder().start().await;
    let client = &broker.client;
    client.provision("i").await.expect(201);
    let parameters = json!({"parameters": {"role": "reader", "n": 1}});
    let document = bind_with(client, "i", "b", &parameters).await.expect(201);
    let same = json!({"parameters": {"n": 1, "role": "reader"}});
    assert_eq!(bind_with(client, "i", "b", &same).await.expect(200), document);
    for other in [
        json!({}),
        json!({"parameters": {"role": "writer", "n": 1}}),
        json!({"parameters": {"role": "reader", "n": 1}, "app_guid": "a"}),
    ] {
        bind_with(client, "i", "b", &other).await.expect(409);
    }
    let fetched = client.get(&path("i", "b")).await.expect(200);
    assert_eq!(fetched["parameters"], parameters["parameters"]);
    assert_eq!(fetched["credentials"], document["credentials"]);

    // The old place of the application's id and the new one mean the same.
    let (old, new) = (json!({"app_guid": "a"}), json!({"bind_resource": {"app_guid": "a"}}));
    let both = json!({"app_guid": "a", "bind_resource": {"app_guid": "a"}});
    bind_with(client, "i", "app", &old).await.expect(201);
    for same in [&old, &new, &both] {
        bind_with(client, "i", "app", same).await.expect(200);
    }
    bind_with(client, "i", "app", &json!({"app_guid": "b"})).await.expect(409);
    bind_with(client, "i", "app", &json!({"bind_resource": {"app_guid": "b"}})).await.expect(409);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bind_that_does_not_fit_is_refused_and_makes_nothing() {
    let broker = TestBroker::builder().switch("300s").start().await;
    let client = &broker.client;
    client.bind("none", "b").await.expect(404);
    client.provision("i").await.expect(201);
    for (body, status) in [
        (json!({"service_id": null}), 400),
        (json!({"plan_id": null}), 400),
        (json!({"plan_id": ""}), 400),
        (json!({"plan_id": "switch-second"}), 400),
        (json!({"plan_id": "other-plan"}), 400),
        (json!({"service_id": "other-service"}), 400),
        (json!({"service_id": "unknown"}), 400),
        (json!({"parameters": []}), 400),
        (json!({"bind_resource": "x"}), 400),
        (json!({"context": 1}), 400),
        (json!({"app_guid": ""}), 400),
        (json!({"app_guid": 1}), 400),
        (json!({"predecessor_binding_id": 1}), 400),
    ] {
        let reply = bind_with(client, "i", "b", &body).await;
        assert_eq!(reply.status, status, "{body}: {}", reply.description());
    }
    client.get(&path("i", "b")).await.expect(404);

    client.provision_silent("busy").await;
    assert_eq!(client.bind("busy", "b").await.expect(422)["error"], "ConcurrencyError");
    client.deprovision("busy").await.expect(200);

    let mut unbindable = client.clone();
    (unbindable.service_id, unbindable.plan_id) =
        ("other-service".to_owned(), "other-plan".to_owned());
    unbindable.provision("alone").await.expect(201);
    let reply = unbindable.bind("alone", "b").await;
    assert!((400..500).contains(&reply.status), "{}", reply.status);
    unbindable.get(&path("alone", "b")).await.expect(404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_binding_belongs_to_its_instance() {
    let broker = TestBroker::builder().switch("300s").start().await;
    let client = &broker.client;
    let (one, two) = tokio::join!(client.provision("one"), client.provision("two"));
    one.expect(201);
    two.expect(201);
    let mine = client.bind("one", "b").await.expect(201);
    client.get(&path("two", "b")).await.expect(404);
    client.get(&format!("{}/last_operation", path("two", "b"))).await.expect(404);
    client.unbind("two", "b").await.expect(410);
    client.unbind("none", "b").await.expect(410);
    // The same id through another instance is another binding.
    let theirs = client.bind("two", "b").await.expect(201);
    assert_ne!(mine["credentials"], theirs["credentials"]);
    client.unbind("two", "b").await.expect(200);
    assert_eq!(client.bind("one", "b").await.expect(200), mine);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_needs_its_predecessor_only() {
    let broker = TestBroker::builder().switch("300s").start().await;
    let client = &broker.client;
    client.provision("i").await.expect(201);
    client.provision("other").await.expect(201);
    let parameters = json!({"parameters": {"role": "reader"}, "app_guid": "a"});
    let old = bind_with(client, "i", "old", &parameters).await.expect(201);
    bind_with(client, "other", "elsewhere", &json!({})).await.expect(201);

    let rotation = json!({"predecessor_binding_id": "old"});
    let new = client.put(&path("i", "new"), &rotation).await.expect(201);
    assert!(new["credentials"].is_object());
    assert_eq!(client.put(&path("i", "new"), &rotation).await.expect(200), new);
    let mut with_ids = client.ids_body();
    with_ids["predecessor_binding_id"] = json!("old");
    assert_eq!(client.put(&path("i", "new"), &with_ids).await.expect(200), new);
    let fetched = client.get(&path("i", "new")).await.expect(200);
    assert_eq!(fetched["parameters"], parameters["parameters"], "the successor takes them over");

    for (binding, predecessor) in
        [("x", "unknown"), ("x", "elsewhere"), ("x", "OLD"), ("x", "x"), ("x", "")]
    {
        let body = json!({ "predecessor_binding_id": predecessor });
        client.put(&path("i", binding), &body).await.expect(400);
    }
    let another = json!({"predecessor_binding_id": "unknown"});
    client.put(&path("i", "new"), &another).await.expect(409);
    client.get(&path("i", "x")).await.expect(404);
    client.put(&path("none", "x"), &rotation).await.expect(404);
    // An ordinary binding is not a rotation, and neither is another one.
    client.put(&path("i", "old"), &json!({"predecessor_binding_id": "new"})).await.expect(409);
    bind_with(client, "i", "new", &parameters).await.expect(409);

    // Both are valid until each is removed.
    assert_eq!(bind_with(client, "i", "old", &parameters).await.expect(200), old);
    client.unbind("i", "old").await.expect(200);
    let repeated = client.put(&path("i", "new"), &rotation).await.expect(200);
    assert_eq!(repeated, new, "also when its predecessor is gone");
    client.unbind("i", "new").await.expect(200);
}
