//! Hooks: what they are told, what they print, how they end.

use serde_json::{Value, json};

use crate::support::{Client, HOOKED, Reply, TestBroker, docker_ok, hooked_yaml, users};

async fn broker(timeout: &str) -> TestBroker {
    TestBroker::builder().yaml(hooked_yaml(timeout, ""), HOOKED.0, HOOKED.1).start().await
}

fn path(binding: &str) -> String {
    format!("/v2/service_instances/i/service_bindings/{binding}")
}

async fn bind(client: &Client, binding: &str, mode: &str) -> Reply {
    let mut body = client.ids_body();
    body["parameters"] = json!({ "mode": mode });
    client.put(&path(binding), &body).await
}

fn read(broker: &TestBroker, file: &str) -> String {
    docker_ok(&["exec", &broker.container("i"), "cat", file])
}

fn read_json(broker: &TestBroker, file: &str) -> Value {
    serde_json::from_str(&read(broker, file)).expect("a JSON document")
}

/// What the last bind hook had in its environment.
fn knows(broker: &TestBroker, lines: &[String], absent: &[&str]) {
    let environment = read(broker, "/tmp/bind.env");
    for line in lines {
        assert!(environment.lines().any(|known| known == line), "{line}: {environment}");
    }
    for name in absent {
        assert!(!environment.contains(name), "{name}: {environment}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_binding_has_its_own_user_and_the_administrator_is_never_handed_out() {
    let broker = broker("30s").await;
    let client = &broker.client;
    let mut body = client.provision_body();
    body["context"] = json!({"platform": "test"});
    body["parameters"] = json!({"mode": "x"});
    client.put("/v2/service_instances/i", &body).await.expect(201);
    let told = read_json(&broker, "/tmp/provision.json");
    let admin = told["instance"]["credentials"].clone();
    let (host, port) = (told["host"].clone(), told["ports"]["3306/tcp"].clone());
    assert!(admin["password"].as_str().unwrap().len() >= 20);
    assert_eq!(
        told,
        json!({
            "contract": 1, "action": "provision", "host": "127.0.0.1", "ports": told["ports"],
            "service": {"id": HOOKED.0, "name": "hooked"}, "plan": {"id": HOOKED.1, "name": "plan"},
            "instance": {
                "id": "i", "name": "i-i", "parameters": {"mode": "x"},
                "context": {"platform": "test"}, "organization_guid": "org",
                "space_guid": "space", "credentials": admin,
            },
        })
    );

    let mut body = client.ids_body();
    body["context"] = json!({"platform": "test"});
    body["app_guid"] = json!("app");
    body["parameters"] = json!({"mode": "x", "n": 3, "list": [1]});
    let first = client.put(&path("one"), &body).await.expect(201);
    let told = read_json(&broker, "/tmp/bind.json");
    assert_eq!(told["action"], "bind");
    assert_eq!(told["instance"]["credentials"], admin);
    let (username, password) =
        (&first["credentials"]["username"], &first["credentials"]["password"]);
    assert_eq!(
        told["binding"],
        json!({
            "id": "one", "predecessor_id": null, "parameters": body["parameters"],
            "context": {"platform": "test"}, "app_guid": "app",
            "credentials": {"username": username, "password": password},
        })
    );
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let lines = [
        "OSB_CONTRACT=1".to_owned(),
        "OSB_ACTION=bind".to_owned(),
        "OSB_INSTANCE_ID=i".to_owned(),
        "OSB_BINDING_ID=one".to_owned(),
        format!("OSB_SERVICE_ID={}", HOOKED.0),
        "OSB_SERVICE_NAME=hooked".to_owned(),
        format!("OSB_PLAN_ID={}", HOOKED.1),
        "OSB_PLAN_NAME=plan".to_owned(),
        format!("OSB_HOST={}", text(&host)),
        format!("OSB_PORT={port}"),
        format!("OSB_PORT_3306={port}"),
        format!("OSB_PORT_33060={}", told["ports"]["33060/tcp"]),
        "OSB_ORGANIZATION_GUID=org".to_owned(),
        "OSB_SPACE_GUID=space".to_owned(),
        "OSB_APP_GUID=app".to_owned(),
        format!("OSB_USERNAME={}", text(&admin["username"])),
        format!("OSB_PASSWORD={}", text(&admin["password"])),
        "OSB_DBNAME=db".to_owned(),
        format!("OSB_BINDING_USERNAME={}", text(username)),
        format!("OSB_BINDING_PASSWORD={}", text(password)),
        "OSB_PARAM_MODE=x".to_owned(),
        "OSB_PARAM_N=3".to_owned(),
    ];
    knows(&broker, &lines, &["OSB_PARAM_LIST", "OSB_PREDECESSOR"]);

    let rotation = json!({"predecessor_binding_id": "one"});
    let second = client.put(&path("two"), &rotation).await.expect(201);
    assert!(read(&broker, "/tmp/bind.env").contains("OSB_PREDECESSOR_BINDING_ID=one\n"));
    assert_ne!(first["credentials"]["username"], second["credentials"]["username"]);
    assert_ne!(first["credentials"]["password"], second["credentials"]["password"]);
    let known = users(&broker, "i");
    assert_eq!(known.len(), 2);
    for document in [&first, &second] {
        let (user, password) = (
            text(&document["credentials"]["username"]),
            text(&document["credentials"]["password"]),
        );
        assert_eq!(known[&user], password);
        let uri = format!("test://{user}:{password}@127.0.0.1:{port}/db");
        assert_eq!(document["credentials"]["uri"], uri.as_str());
        assert!(!document.to_string().contains(&text(&admin["password"])));
    }
    // Repeated, nothing is made.
    assert_eq!(client.put(&path("one"), &body).await.expect(200), first);
    assert_eq!(users(&broker, "i"), known);

    client.unbind("i", "one").await.expect(200);
    let left = users(&broker, "i");
    assert_eq!(left.keys().collect::<Vec<_>>(), [&text(&second["credentials"]["username"])]);
    let told = read_json(&broker, "/tmp/unbind.json");
    assert_eq!(told["binding"]["credentials"]["username"], *username);
    client.unbind("i", "one").await.expect(410);
    assert_eq!(client.get(&path("two")).await.expect(200)["credentials"], second["credentials"]);
    // Its own hook fails, and it goes all the same; bindings go with it.
    client.deprovision("i").await.expect(200);
    client.get(&path("two")).await.expect(404);
    assert_eq!(broker.containers(), [] as [String; 0]);
    let log = broker.log_text();
    for document in [&first["credentials"], &second["credentials"], &admin] {
        assert!(!log.contains(&text(&document["password"])), "the log shows a password");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hook_that_fails_leaves_no_user_and_says_why() {
    let broker = broker("6s").await;
    let client = &broker.client;
    client.provision("i").await.expect(201);
    for (mode, reason) in [
        ("fail", "the bind hook failed with exit code 1"),
        ("garbage", "the bind hook printed something that is no JSON object"),
        ("list", "the bind hook printed something that is no JSON object"),
        ("much", "the bind hook printed more than 1048576 bytes"),
        // On a slow machine its last attempt may be the one that takes too long.
        ("never", " 6 s"),
        ("hang", "the bind hook did not end within 6 s"),
        ("missing", "the bind hook is missing, or calls a program that is (exit code 127)"),
        ("directory", "not executable, or its user does not exist (exit code 126)"),
    ] {
        let reply = bind(client, mode, mode).await;
        assert_eq!(reply.status, 500, "{mode}");
        assert!(reply.description().contains(reason), "{mode}: {}", reply.description());
        assert_eq!(users(&broker, "i").len(), 0, "{mode}");
        client.get(&path(mode)).await.expect(404);
        let last = client.get(&format!("{}/last_operation", path(mode))).await.expect(200);
        assert_eq!(last["state"], "failed", "{mode}");
        client.unbind("i", mode).await.expect(200);
        client.unbind("i", mode).await.expect(410);
    }
    // What hung was ended, with everything that it had started.
    let processes = docker_ok(&["exec", &broker.container("i"), "ps", "-o", "args"]);
    assert_eq!(processes.matches("sleep 1000000").count(), 1, "{processes}");
    let log = broker.log_text();
    assert!(log.contains("the password [redacted] of [redacted] is wrong"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_parameters_are_a_bad_request_and_leave_nothing() {
    let broker = broker("30s").await;
    let client = &broker.client;
    let mut body = client.body_with(&json!({"mode": "refuse"}));
    let reply = client.put("/v2/service_instances/i", &body).await;
    assert_eq!((reply.status, reply.description()), (400, "mode refuse is no good".to_owned()));
    assert_eq!(broker.containers(), [] as [String; 0]);
    client.deprovision("i").await.expect(200);
    body = client.body_with(&json!({"mode": "fail"}));
    client.put("/v2/service_instances/i", &body).await.expect(500);
    client.deprovision("i").await.expect(200);

    client.provision("i").await.expect(201);
    let reply = bind(client, "b", "refuse").await;
    assert_eq!((reply.status, reply.description()), (400, "no such role".to_owned()));
    assert_eq!(users(&broker, "i").len(), 0);
    client.unbind("i", "b").await.expect(410);
    bind(client, "b", "other").await.expect(201);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hook_that_is_not_ready_is_run_again() {
    let broker = broker("60s").await;
    let catalog = broker.client.get("/v2/catalog").await.expect(200);
    assert_eq!(catalog["services"][0]["plans"][0]["binding_rotatable"], true);
    broker.client.provision("i").await.expect(201);
    bind(&broker.client, "b", "later").await.expect(201);
    assert_eq!(read(&broker, "/tmp/ran").matches("bind b").count(), 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_hook_prints_is_the_binding_with_its_tokens_replaced() {
    let broker = broker("30s").await;
    let client = &broker.client;
    client.provision("i").await.expect(201);
    let plain = bind(client, "plain", "x").await.expect(201);
    let ports = &plain["credentials"]["ports"];
    let text = |port: &str| ports[port].as_str().unwrap().to_owned();
    let host = plain["credentials"]["host"].as_str().unwrap();
    let nested = bind(client, "nested", "nested").await.expect(201);
    assert_eq!(
        nested["credentials"],
        json!({
            "a": {"b": [format!("{host}:{}", text("3306/tcp")), {"c": text("33060/tcp")}]},
            "n": 1.5, "no": null, "t": true,
        })
    );
    let envelope = bind(client, "envelope", "envelope").await.expect(201);
    assert_eq!(envelope, json!({"credentials": {"key": text("3306/tcp")}, "endpoints": []}));
    assert_eq!(
        client.get(&path("envelope")).await.expect(200)["credentials"],
        envelope["credentials"]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_binds_at_once_make_twenty_users_one_after_the_other() {
    let broker = broker("30s").await;
    let client = &broker.client;
    client.provision("i").await.expect(201);
    let binds = (0..20).map(|n| {
        let id = format!("b{n}");
        async move { (bind(client, &id, "turn").await.expect(201), id) }
    });
    let bound = futures_util::future::join_all(binds).await;
    let known = users(&broker, "i");
    assert_eq!(known.len(), 20);
    for (document, id) in &bound {
        let credentials = &document["credentials"];
        let user = credentials["username"].as_str().unwrap();
        assert_eq!(credentials["password"], known[user].as_str(), "{id}");
    }
    let unbinds = bound.iter().map(|(_, id)| client.unbind("i", id));
    for reply in futures_util::future::join_all(unbinds).await {
        reply.expect(200);
    }
    assert_eq!(users(&broker, "i").len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_runs_its_hook_and_bindings_stay_as_they_are() {
    let broker = broker("30s").await;
    let client = &broker.client;
    client.provision("i").await.expect(201);
    let bound = client.bind("i", "b").await.expect(201);
    let body = json!({"service_id": HOOKED.0, "parameters": {"mode": "y"}});
    client.patch("/v2/service_instances/i", &body).await.expect(200);
    let told = read_json(&broker, "/tmp/update.json");
    assert_eq!(told["action"], "update");
    assert_eq!(told["instance"]["parameters"], json!({"mode": "y"}));
    assert_eq!(client.get(&path("b")).await.expect(200)["credentials"], bound["credentials"]);
}
