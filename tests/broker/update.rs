//! Updates: what changes, what stays, and the way back.

use serde_json::{Value, json};

use crate::support::{
    Client, REDIS, Redis, SWITCH, TestBroker, docker_ok, eventually, redis_yaml, switch_yaml,
};

fn inspect(container: &str, format: &str) -> String {
    docker_ok(&["inspect", "--format", format, container])
}

async fn update(client: &Client, instance: &str, more: &Value) -> crate::support::Reply {
    let mut body = json!({ "service_id": client.service_id });
    for (key, value) in more.as_object().expect("an object") {
        body[key] = value.clone();
    }
    client.patch(&format!("/v2/service_instances/{instance}"), &body).await
}

#[tokio::test(flavor = "multi_thread")]
async fn another_plan_keeps_port_password_and_data() {
    let broker = TestBroker::builder().start().await;
    let client = &broker.client;
    client.provision("i").await.expect(201);
    let bound = client.bind("i", "b").await.expect(201);
    let credentials = &bound["credentials"];
    assert_eq!(Redis::of(&bound).expect("SET kept value").await, "+OK");
    let container = broker.container("i");
    let memory = || inspect(&container, "{{.HostConfig.Memory}}");
    assert_eq!(memory(), (64 << 20).to_string());
    assert_eq!(update(client, "i", &json!({"plan_id": REDIS.2})).await.expect(200), json!({}));
    assert_eq!(memory(), (96 << 20).to_string());
    assert_eq!(Redis::of(&bound).expect("GET kept").await, "value");
    assert_eq!(broker.containers(), [container]);

    // From now on the instance is one of the new plan.
    let fetched = client.get("/v2/service_instances/i").await.expect(200);
    assert_eq!(fetched["plan_id"], REDIS.2);
    let mut client = client.clone();
    client.plan_id = REDIS.2.to_owned();
    assert_eq!(client.bind("i", "b2").await.expect(201)["credentials"], *credentials);
    client.deprovision("i").await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn parameters_are_merged_and_what_is_not_given_stays() {
    let broker = TestBroker::builder().switch("300s").start().await;
    let client = &broker.client;
    let path = "/v2/service_instances/i";
    let body = client.body_with(&json!({"colour": "red", "mode": "on"}));
    client.put(path, &body).await.expect(201);
    let container = broker.container("i");
    let id = || inspect(&container, "{{.Id}}");
    let first = id();
    // No effect: nothing given, the same again, the present plan, another context.
    for nothing in [
        json!({}),
        json!({"parameters": {}}),
        json!({"parameters": {"colour": "red"}}),
        json!({"plan_id": SWITCH.1, "previous_values": {"plan_id": "x", "unknown": 1}}),
        json!({"plan_id": null, "parameters": null, "context": {"platform": "cloudfoundry"}}),
    ] {
        assert_eq!(update(client, "i", &nothing).await.expect(200), json!({}));
        let path = format!("{path}?accepts_incomplete=true");
        client.patch(&path, &json!({"service_id": SWITCH.0})).await.expect(200);
    }
    assert_eq!(id(), first, "the container was made anew");
    let parameters = async || client.get(path).await.expect(200)["parameters"].clone();
    assert_eq!(parameters().await, json!({"colour": "red", "mode": "on"}));

    update(client, "i", &json!({"parameters": {"colour": "green"}})).await.expect(200);
    assert_eq!(parameters().await, json!({"colour": "green", "mode": "on"}));
    assert!(inspect(&container, "{{.Config.Env}}").contains("COLOUR=green"));
    update(client, "i", &json!({"parameters": {"mode": null}})).await.expect(200);
    assert_eq!(parameters().await, json!({"colour": "green"}), "null takes one back");
    update(client, "i", &json!({"plan_id": "switch-second"})).await.expect(200);
    assert_eq!(parameters().await, json!({"colour": "green"}));
    assert!(inspect(&container, "{{.Config.Env}}").contains("COLOUR=green"));
    // The original request does not describe the instance any more.
    client.put(path, &body).await.expect(409);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_that_does_not_fit_is_refused_and_changes_nothing() {
    let yaml = switch_yaml("300s", "    maintenance_info: {version: 1.0.0}");
    // The other plan would leave the data behind.
    let (first, others) = yaml.split_once("- id: switch-second").unwrap();
    let others = others.replacen("path: /data", "path: /elsewhere", 1);
    let yaml = format!("{first}- id: switch-second{others}");
    let broker = TestBroker::builder().yaml(yaml, SWITCH.0, SWITCH.1).start().await;
    let client = &broker.client;
    client.provision("i").await.expect(201);
    let mut fixed = client.clone();
    (fixed.service_id, fixed.plan_id) = ("other-service".to_owned(), "other-plan".to_owned());
    fixed.provision("fixed").await.expect(201);
    let state = async || {
        let id = |instance: &str| inspect(&broker.container(instance), "{{.Id}}");
        let fetched = client.get("/v2/service_instances/i").await.expect(200);
        (fetched, id("i"), id("fixed"))
    };
    let before = state().await;
    for (body, status) in [
        (json!({"service_id": null}), 400),
        (json!({"service_id": ""}), 400),
        (json!({"service_id": 1}), 400),
        (json!({"service_id": "unknown"}), 400),
        (json!({"service_id": "other-service"}), 400),
        (json!({"plan_id": "unknown"}), 400),
        (json!({"plan_id": "other-plan"}), 400),
        (json!({"plan_id": 1}), 400),
        (json!({"plan_id": ""}), 400),
        (json!({"plan_id": "switch-second", "parameters": []}), 400),
        (json!({"plan_id": "switch-second", "parameters": {"unknown": 1}}), 400),
        (json!({"parameters": {"colour": "x"}, "maintenance_info": {"version": "2.0.0"}}), 422),
        (json!({"plan_id": "switch-second", "maintenance_info": {"version": "1.0.0"}}), 422),
    ] {
        let reply = update(client, "i", &body).await;
        assert_eq!(reply.status, status, "{body}: {}", reply.description());
        if status == 422 {
            assert_eq!(reply.json()["error"], "MaintenanceInfoConflict");
        }
    }
    let refusal = update(client, "i", &json!({"plan_id": "switch-second"})).await;
    refusal.expect(422);
    assert!(refusal.description().contains("/data"), "{}", refusal.description());
    update(client, "none", &json!({})).await.expect(404);
    client.deprovision("none").await.expect(410);
    let refusal = update(&fixed, "fixed", &json!({"plan_id": "other-second"})).await;
    refusal.expect(422);
    assert!(refusal.description().contains("plan"), "{}", refusal.description());
    assert_eq!(state().await, before);
    // Its parameters may change all the same, and the catalog's version is accepted.
    update(&fixed, "fixed", &json!({"parameters": {"colour": "x"}})).await.expect(200);
    let version = json!({"maintenance_info": {"version": "1.0.0", "description": "x"}});
    update(client, "i", &version).await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn while_an_update_runs_everything_else_is_a_concurrency_error() {
    let broker = TestBroker::builder().switch("300s").start().await;
    let client = &broker.client;
    client.provision("i").await.expect(201);
    client.bind("i", "b").await.expect(201);
    let path = "/v2/service_instances/i?accepts_incomplete=true";
    let mut body = client.ids_body();
    (body["plan_id"], body["parameters"]) = (json!("switch-second"), json!({"mode": "silent"}));
    let operation = client.patch(path, &body).await.expect(202)["operation"].clone();
    assert_eq!(client.patch(path, &body).await.expect(202)["operation"], operation);

    let concurrency = |reply: &crate::support::Reply| {
        assert_eq!(reply.expect(422)["error"], "ConcurrencyError");
    };
    concurrency(&update(client, "i", &json!({"parameters": {"colour": "x"}})).await);
    concurrency(&client.bind("i", "b2").await);
    concurrency(&client.deprovision("i").await);
    concurrency(&client.get("/v2/service_instances/i").await);
    // Polling works with the old plan id, and there is one binding as before.
    let poll = format!("/v2/service_instances/i/last_operation?{}", client.ids());
    assert_eq!(client.get(&poll).await.expect(200)["state"], "in progress");
    client.get("/v2/service_instances/i/service_bindings/b").await.expect(200);
    client.get("/v2/service_instances/i/service_bindings/b2").await.expect(404);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_that_cannot_become_ready_goes_back() {
    // The second plan listens nowhere.
    let yaml = redis_yaml("");
    let (small, large) = yaml.split_once("- id: redis-large").unwrap();
    let large = large.replace("exec redis-server -", "exec sleep 1000").replace("30s", "1s");
    let yaml = format!("{small}- id: redis-large{large}");
    let broker = TestBroker::builder().yaml(yaml, REDIS.0, REDIS.1).start().await;
    let client = &broker.client;
    client.provision("i").await.expect(201);
    let bound = client.bind("i", "b").await.expect(201);
    assert_eq!(Redis::of(&bound).expect("SET kept value").await, "+OK");

    let reply = update(client, "i", &json!({"plan_id": REDIS.2})).await;
    let body = reply.expect(500);
    assert!(reply.description().contains("did not"), "{}", reply.description());
    assert_eq!(body["update_repeatable"], true);
    assert_eq!(Redis::of(&bound).expect("GET kept").await, "value");

    let path = "/v2/service_instances/i?accepts_incomplete=true";
    let target = json!({"service_id": REDIS.0, "plan_id": REDIS.2});
    client.patch(path, &target).await.expect(202);
    let poll = "/v2/service_instances/i/last_operation";
    let end = eventually("the end of the update", async || {
        let body = client.get(poll).await.expect(200);
        if body["state"] == "in progress" { Err(body.to_string()) } else { Ok(body) }
    })
    .await;
    assert_eq!((&end["state"], &end["instance_usable"]), (&json!("failed"), &json!(true)));
    assert!(end["description"].as_str().unwrap().contains("within 1 s"), "{end}");
    assert_eq!(Redis::of(&bound).expect("GET kept").await, "value");

    let fetched = client.get("/v2/service_instances/i").await.expect(200);
    assert_eq!(fetched["plan_id"], REDIS.1);
    assert_eq!(broker.containers(), [broker.container("i")]);
    assert_eq!(inspect(&broker.container("i"), "{{.HostConfig.RestartPolicy.Name}}"), "always");
    client.deprovision("i").await.expect(200);
    assert_eq!(broker.instance_directories(), [""; 0]);
}
