//! Provision and fetch: what is made, what is repeated, what is refused.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::support::{SWITCH, TestBroker, switch_yaml};

#[tokio::test(flavor = "multi_thread")]
async fn a_provision_is_done_once_however_often_it_is_asked_for() {
    let broker = TestBroker::builder().switch("300s").start().await;
    let client = &broker.client;
    let path = "/v2/service_instances/i1";
    let body = client.body_with(&json!({"mode": "on", "colour": {"b": [1, 2], "a": "ä"}}));
    client.get(path).await.expect(404);
    assert_eq!(client.put(path, &body).await.expect(201), json!({}));
    // The same in other words: order of keys, unknown fields, another context.
    let mut same = client.body_with(&json!({"colour": {"a": "ä", "b": [1, 2]}, "mode": "on"}));
    same["context"] = json!({"platform": "kubernetes", "unknown": {"deep": [null]}});
    same["x-unknown"] = json!({"anything": 1});
    for repeat in [&body, &same] {
        assert_eq!(client.put(path, repeat).await.expect(200), json!({}));
        let incomplete = format!("{path}?accepts_incomplete=true&unknown=1");
        assert_eq!(client.put(&incomplete, repeat).await.expect(200), json!({}));
    }
    let fetched = client.get(&format!("{path}?service_id=hint&plan_id=hint")).await.expect(200);
    let expected = json!({
        "service_id": SWITCH.0, "plan_id": SWITCH.1, "parameters": body["parameters"],
        "maintenance_info": fetched["maintenance_info"],
    });
    assert_eq!(fetched, expected);
    let version = fetched["maintenance_info"]["version"].as_str().unwrap();
    assert!(version.starts_with("1.0.0+"), "{version}");
    assert_eq!(broker.containers(), [broker.container("i1")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_asynchronous_provision_ends_as_succeeded_and_is_the_same_operation_until_then() {
    let broker = TestBroker::builder().switch("300s").start().await;
    let client = &broker.client;
    let operation = client.provision_silent("slow").await;
    assert!(!operation.is_empty() && operation.len() <= 10_000);
    assert_eq!(client.provision_silent("slow").await, operation);
    client.get("/v2/service_instances/slow").await.expect(404);
    let path = "/v2/service_instances/slow/last_operation";
    let ids = client.ids();
    for query in [String::new(), format!("?operation={operation}"), format!("?{ids}"), {
        format!("?operation={operation}&service_id=other&plan_id=other&unknown=1")
    }] {
        let reply = client.get(&format!("{path}{query}")).await;
        assert_eq!(reply.header("retry-after"), Some("1"));
        let body = reply.expect(200);
        assert_eq!(body["state"], "in progress", "{query}");
        assert!(body.get("instance_usable").is_none(), "{body}");
    }

    let accepted = client.provision_async("quick").await.expect(202);
    let operation = accepted["operation"].as_str().unwrap();
    assert_eq!(client.poll("quick").await.0, "succeeded");
    client.get("/v2/service_instances/quick").await.expect(200);
    // The outcome is not forgotten once it was told.
    for query in [String::new(), format!("?operation={operation}")] {
        let path = format!("/v2/service_instances/quick/last_operation{query}");
        assert_eq!(client.get(&path).await.expect(200)["state"], "succeeded");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_client_that_says_true_is_answered_before_the_end() {
    let broker = TestBroker::builder().switch("300s").start().await;
    let client = &broker.client;
    for value in ["", "false", "1", "true%20"] {
        let path = format!("/v2/service_instances/i?accepts_incomplete={value}");
        client.put(&path, &client.provision_body()).await.expect(201);
        // No parameters and an empty object of them are the same.
        client.put(&path, &client.body_with(&json!({}))).await.expect(200);
        client.delete(&format!("{path}&{}", client.ids())).await.expect(200);
    }
    let path = "/v2/service_instances/i?unknown=1&accepts_incomplete=true";
    client.put(path, &client.provision_body()).await.expect(202);
}

#[tokio::test(flavor = "multi_thread")]
async fn polling_something_unknown_is_404_and_a_foreign_operation_400() {
    let broker = TestBroker::builder().switch("300s").start().await;
    let client = &broker.client;
    let path = |id: &str| format!("/v2/service_instances/{id}/last_operation");
    client.get(&path("none")).await.expect(404);
    client.get(&format!("{}?operation=x", path("none"))).await.expect(404);
    let other = client.provision_silent("other").await;
    client.provision("mine").await.expect(201);
    for operation in [other.as_str(), "x", "a%2Fb%20c", "%00", &"x".repeat(10_000)] {
        let reply = client.get(&format!("{}?operation={operation}", path("mine"))).await;
        reply.expect(400);
        assert!(reply.description().contains("operation"), "{}", reply.description());
    }
    // An empty one is none.
    client.get(&format!("{}?operation=", path("mine"))).await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_provision_of_a_taken_id_is_a_conflict_that_changes_nothing() {
    let broker = TestBroker::builder().switch("300s").start().await;
    let client = &broker.client;
    client.provision("done").await.expect(201);
    client.provision_silent("running").await;
    let mut plan = client.provision_body();
    plan["plan_id"] = json!("switch-second");
    let mut service = client.provision_body();
    (service["service_id"], service["plan_id"]) = (json!("other-service"), json!("other-plan"));
    let parameters = client.body_with(&json!({"colour": "red"}));
    for other in [plan, service, parameters] {
        for id in ["done", "running"] {
            let path = format!("/v2/service_instances/{id}");
            client.put(&path, &other).await.expect(409);
            client.put(&format!("{path}?accepts_incomplete=true"), &other).await.expect(409);
        }
    }
    let fetched = client.get("/v2/service_instances/done").await.expect(200);
    assert_eq!((&fetched["plan_id"], &fetched["parameters"]), (&json!(SWITCH.1), &json!({})));
    assert!(broker.containers().len() <= 2, "{:?}", broker.containers());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_with_a_missing_or_wrong_field_is_refused_by_its_name() {
    let broker = TestBroker::builder().switch("300s").start().await;
    let client = &broker.client;
    let good = client.provision_body();
    let refused = async |body: &Value, field: &str| {
        let reply = client.put("/v2/service_instances/i", body).await;
        reply.expect(400);
        let text = reply.description();
        assert!(text.contains(field), "{field}: {text}");
    };
    for field in ["service_id", "plan_id", "organization_guid", "space_guid"] {
        let mut body = good.clone();
        body.as_object_mut().unwrap().remove(field);
        refused(&body, field).await;
        for wrong in [json!(""), json!(1), json!(true), json!([]), json!({}), Value::Null] {
            body[field] = wrong;
            refused(&body, field).await;
        }
    }
    for field in ["parameters", "context", "maintenance_info"] {
        for wrong in [json!(""), json!(1), json!([]), json!("{}"), json!(false)] {
            let mut body = good.clone();
            body[field] = wrong;
            refused(&body, field).await;
        }
    }
    for info in [json!({}), json!({"version": 1}), json!({"version": ""})] {
        let mut body = good.clone();
        body["maintenance_info"] = info;
        refused(&body, "maintenance_info.version").await;
    }
    for (field, value) in [
        ("service_id", "unknown"),
        ("plan_id", "unknown"),
        // A plan of another service, and the right ones in another case.
        ("plan_id", "other-plan"),
        ("service_id", "SWITCH-service"),
    ] {
        let mut body = good.clone();
        body[field] = json!(value);
        refused(&body, "_id").await;
    }
    assert_eq!(broker.containers(), [""; 0]);
    client.deprovision("i").await.expect(410);
    // Optional ones may be absent or null.
    let mut body = good.clone();
    for field in ["parameters", "context", "maintenance_info"] {
        body[field] = Value::Null;
    }
    client.put("/v2/service_instances/i", &body).await.expect(201);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_maintenance_version_that_is_not_the_catalogs_is_a_conflict() {
    let yaml = switch_yaml("300s", "    maintenance_info: {version: 1.2.3, description: why}");
    let broker = TestBroker::builder().yaml(yaml, SWITCH.0, SWITCH.1).start().await;
    let client = &broker.client;
    let path = "/v2/service_instances/i";
    let mut body = client.provision_body();
    for version in ["1.2.4", "1.2.3+build", "01.2.3", "latest"] {
        body["maintenance_info"] = json!({"version": version});
        let refusal = client.put(path, &body).await.expect(422);
        assert_eq!(refusal["error"], "MaintenanceInfoConflict", "{version}");
    }
    let mut without = body.clone();
    without["plan_id"] = json!("switch-second");
    assert_eq!(
        client.put(path, &without).await.expect(422)["error"],
        "MaintenanceInfoConflict",
        "of a plan without any"
    );
    assert_eq!(broker.containers(), [""; 0]);
    // Only the version counts.
    body["maintenance_info"] = json!({"version": "1.2.3", "description": "other", "x": 1});
    client.put(path, &body).await.expect(201);
    let fetched = client.get(path).await.expect(200);
    assert_eq!(fetched["maintenance_info"], json!({"version": "1.2.3"}));
}

#[tokio::test(flavor = "multi_thread")]
async fn capacity_is_checked_before_anything_is_made() {
    let port = 15_000 + rand::random::<u16>() % 4_000;
    let yaml = switch_yaml("300s", "    max_containers: 1");
    let broker = TestBroker::builder()
        .yaml(yaml, SWITCH.0, SWITCH.1)
        .setting("max_containers: 3")
        .setting(format!("host_ports: {port}-{}", port + 1))
        .start()
        .await;
    let client = &broker.client;
    let mut second = client.clone();
    second.plan_id = "switch-second".to_owned();
    let refused = async |client: &crate::support::Client, what: &str| {
        let reply = client.provision("late").await;
        assert_eq!(reply.expect(422)["error"], "CapacityReached");
        assert!(reply.description().contains(what), "{}", reply.description());
        client.provision_async("late").await.expect(422);
        client.get("/v2/service_instances/late/last_operation").await.expect(404);
        client.deprovision("late").await.expect(410);
    };
    client.provision_silent("i1").await;
    refused(client, "plan").await;
    second.provision("i2").await.expect(201);
    refused(&second, "ports").await;
    let to_first = json!({"service_id": SWITCH.0, "plan_id": SWITCH.1});
    let refusal = client.patch("/v2/service_instances/i2", &to_first).await.expect(422);
    assert_eq!(refusal["error"], "CapacityReached");
    let names: BTreeSet<String> = broker.containers().into_iter().collect();
    assert!(names.is_subset(&[broker.container("i1"), broker.container("i2")].into()));
    assert!(!broker.instance_directories().contains(&"i-late".to_owned()));
    // What is deleted makes room.
    client.deprovision("i1").await.expect(200);
    client.provision("i1").await.expect(201);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_limit_of_the_whole_broker_counts_instances_of_all_plans() {
    let broker = TestBroker::builder().switch("300s").setting("max_containers: 2").start().await;
    let client = &broker.client;
    let mut second = client.clone();
    second.plan_id = "switch-second".to_owned();
    client.provision("i1").await.expect(201);
    second.provision("i2").await.expect(201);
    let refusal = client.provision("i3").await.expect(422);
    assert_eq!(refusal["error"], "CapacityReached");
    assert_eq!(broker.containers().len(), 2);
    // A repeat needs no room.
    client.provision("i1").await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operation_ends_before_the_platform_stops_polling() {
    let extra = "    maximum_polling_duration: 5\n";
    let yaml = switch_yaml("300s", extra);
    let broker = TestBroker::builder().yaml(yaml, SWITCH.0, SWITCH.1).start().await;
    let body = broker.client.body_with(&json!({ "mode": "silent" }));
    let started = std::time::Instant::now();
    let path = "/v2/service_instances/i?accepts_incomplete=true";
    broker.client.put(path, &body).await.expect(202);
    let (state, reason) = broker.client.poll("i").await;
    assert_eq!(state, "failed");
    assert!(reason.contains("maximum_polling_duration"), "{reason}");
    assert!(started.elapsed().as_secs() < 60, "long before the plan's readiness timeout");
    assert_eq!(broker.containers(), [""; 0]);
}
