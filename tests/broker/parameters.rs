//! Developers' parameters: which are taken, and what becomes of them.

use serde_json::{Value, json};

use crate::support::{SWITCH, TestBroker, docker_ok, redis_yaml, switch_yaml};

/// Environment of a container.
fn environment(container: &str) -> Vec<String> {
    let text = docker_ok(&["inspect", "--format", "{{json .Config.Env}}", container]);
    serde_json::from_str(&text).expect("a list of strings")
}

fn has(container: &str, variable: &str) -> bool {
    environment(container).iter().any(|known| known == variable)
}

#[tokio::test(flavor = "multi_thread")]
async fn declared_parameters_reach_the_container_and_others_are_refused() {
    let broker = TestBroker::builder().switch("300s").start().await;
    let client = &broker.client;
    let path = "/v2/service_instances/i";
    for (parameters, name) in [
        (json!({"size": 1}), "size"),
        (json!({"MODE": "on"}), "MODE"),
        (json!({"colour": "red", "LD_PRELOAD": "x"}), "LD_PRELOAD"),
        (json!({"colour": null}), "colour"),
        (json!({"colour": "a\u{0}b"}), "colour"),
    ] {
        let reply = client.put(path, &client.body_with(&parameters)).await;
        reply.expect(400);
        assert!(reply.description().contains(name), "{}", reply.description());
    }
    assert_eq!(broker.containers(), [""; 0]);
    let colour = "red = $HOME \"ä\"\n--flag";
    client.put(path, &client.body_with(&json!({"colour": colour}))).await.expect(201);
    let container = broker.container("i");
    assert!(has(&container, &format!("COLOUR={colour}")), "{:?}", environment(&container));
    assert!(!environment(&container).iter().any(|known| known.starts_with("MODE=")));
}

#[tokio::test(flavor = "multi_thread")]
async fn parameters_that_do_not_fit_the_schema_are_refused_by_name() {
    let extra = r"
    schemas:
      service_instance:
        create:
          parameters:
            type: object
            additionalProperties: false
            required: [colour]
            properties: {colour: {enum: [red, green]}, mode: {type: string, maxLength: 9}}
        update:
          parameters:
            type: object
            additionalProperties: false
            properties: {colour: {enum: [red, green]}}
      service_binding:
        create:
          parameters:
            type: object
            additionalProperties: false
            properties: {read_only: {type: boolean}}
";
    let yaml = switch_yaml("300s", extra);
    let broker = TestBroker::builder().yaml(yaml, SWITCH.0, SWITCH.1).start().await;
    let client = &broker.client;
    let path = "/v2/service_instances/i";
    for (parameters, name) in [
        (json!({}), "colour"),
        (json!({"colour": "blue"}), "colour"),
        (json!({"colour": "red", "mode": 1}), "mode"),
        (json!({"colour": "red", "shape": "round"}), "shape"),
    ] {
        let reply = client.put(path, &client.body_with(&parameters)).await;
        reply.expect(400);
        assert!(reply.description().contains(name), "{}", reply.description());
    }
    client.put(path, &client.body_with(&json!({"colour": "red"}))).await.expect(201);

    let mut update = client.ids_body();
    for (parameters, name) in [(json!({"colour": 1}), "colour"), (json!({"mode": "x"}), "mode")] {
        update["parameters"] = parameters;
        let reply = client.patch(path, &update).await;
        reply.expect(400);
        assert!(reply.description().contains(name), "{}", reply.description());
    }
    update["parameters"] = json!({"colour": "green"});
    client.patch(path, &update).await.expect(200);
    assert!(has(&broker.container("i"), "COLOUR=green"));

    let binding = format!("{path}/service_bindings/b");
    let mut bind = client.ids_body();
    bind["parameters"] = json!({"read_only": "yes"});
    let reply = client.put(&binding, &bind).await;
    reply.expect(400);
    assert!(reply.description().contains("read_only"), "{}", reply.description());
    client.unbind("i", "b").await.expect(410);
    bind["parameters"] = json!({"read_only": true});
    client.put(&binding, &bind).await.expect(201);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_legacy_plan_takes_any_harmless_parameter_as_environment() {
    let yaml =
        switch_yaml("300s", "").replace("    parameters: {mode: MODE, colour: COLOUR}\n", "");
    let broker = TestBroker::builder().yaml(yaml, SWITCH.0, SWITCH.1).start().await;
    let client = &broker.client;
    let path = "/v2/service_instances/i";
    let put = async |parameters: &Value| client.put(path, &client.body_with(parameters)).await;
    for name in [
        "SECRET",
        "PATH",
        "HOME",
        "LD_PRELOAD",
        "LD_LIBRARY_PATH",
        "BASH_ENV",
        "OSB_X",
        "a-b",
        "A=B",
        "1A",
        "",
        "A B",
        "ä",
    ] {
        let reply = put(&json!({ name: "x" })).await;
        reply.expect(400);
        assert!(reply.description().contains(&format!("{name:?}")), "{}", reply.description());
    }
    client.deprovision("i").await.expect(410);
    let options = json!({"JAVA_OPTS": "-Dx=y -Dz=w", "count": 7, "on": true, "list": [1, "a"]});
    put(&options).await.expect(201);
    let container = broker.container("i");
    for variable in ["JAVA_OPTS=-Dx=y -Dz=w", "count=7", "on=true", "list=[1,\"a\"]"] {
        assert!(has(&container, variable), "{variable}: {:?}", environment(&container));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_is_no_way_around_the_schema_of_new_instances() {
    let extra = r"
    schemas:
      service_instance:
        create:
          parameters:
            type: object
            additionalProperties: false
            required: [colour]
            properties: {colour: {enum: [red, green]}, mode: {type: string}}
";
    // The second plan takes other colours, and has a schema for updates beside it.
    let for_updates =
        "        update: {parameters: {properties: {colour: {enum: [green, blue]}, size: {}}}}\n";
    let second = format!("{}{for_updates}", extra.replace("[red, green]", "[green, blue]"));
    let yaml = switch_yaml("300s", extra);
    let (first, others) = yaml.split_once("  - id: switch-second").unwrap();
    let (plan, others) = others.split_once("- id: other-service").unwrap();
    let yaml = format!("{first}  - id: switch-second{plan}{second}- id: other-service{others}");
    let broker = TestBroker::builder().yaml(yaml, SWITCH.0, SWITCH.1).start().await;
    let client = &broker.client;
    let path = "/v2/service_instances/i";
    client.put(path, &client.body_with(&json!({"colour": "red", "mode": "x"}))).await.expect(201);
    let update = async |parameters: Value, plan: &str| {
        let body = json!({"service_id": SWITCH.0, "plan_id": plan, "parameters": parameters});
        client.patch(path, &body).await
    };
    for (parameters, name) in [
        (json!({"colour": "blue"}), "colour"),
        (json!({"colour": null}), "colour"),
        (json!({"shape": "round"}), "shape"),
    ] {
        let reply = update(parameters, SWITCH.1).await;
        reply.expect(400);
        assert!(reply.description().contains(name), "{}", reply.description());
    }
    // What is sent has to fit the schema for updates; what is stored has to fit another plan.
    update(json!({"colour": "red"}), "switch-second").await.expect(400);
    for parameters in [json!({}), Value::Null] {
        let reply = update(parameters, "switch-second").await;
        reply.expect(400);
        assert!(reply.description().contains("red"), "{}", reply.description());
    }
    assert!(has(&broker.container("i"), "COLOUR=red"), "nothing was touched");
    update(json!({"colour": "blue", "mode": null}), "switch-second").await.expect(200);
    let fetched = client.get(path).await.expect(200);
    assert_eq!(fetched["parameters"], json!({"colour": "blue"}));
    // Back in the first plan the colour that is stored would not fit.
    let reply = update(json!({}), SWITCH.1).await;
    reply.expect(400);
    assert!(reply.description().contains("colour"), "{}", reply.description());
    update(json!({"colour": "green"}), SWITCH.1).await.expect(200);
    assert!(has(&broker.container("i"), "COLOUR=green"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_cannot_override_credentials_or_reserved_names_either() {
    let yaml =
        switch_yaml("300s", "").replace("    parameters: {mode: MODE, colour: COLOUR}\n", "");
    let broker = TestBroker::builder().yaml(yaml, SWITCH.0, SWITCH.1).start().await;
    let client = &broker.client;
    let path = "/v2/service_instances/i";
    client.put(path, &client.body_with(&json!({"MODE": "on"}))).await.expect(201);
    let secret = |container: &str| {
        let found = environment(container).into_iter().find(|known| known.starts_with("SECRET="));
        found.expect("the plan's password is in the environment")
    };
    let container = broker.container("i");
    let before = secret(&container);
    for name in ["SECRET", "LD_PRELOAD", "OSB_ACTION", "DOCKER_HOST", "A-B"] {
        let body = json!({"service_id": SWITCH.0, "parameters": { name: "x" }});
        let reply = client.patch(path, &body).await;
        reply.expect(400);
        assert!(reply.description().contains(&format!("{name:?}")), "{}", reply.description());
    }
    let body = json!({"service_id": SWITCH.0, "parameters": {"NEW": "x"}});
    client.patch(path, &body).await.expect(200);
    assert!(has(&container, "NEW=x") && has(&container, "MODE=on"));
    assert_eq!(secret(&container), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn parameters_of_a_bind_are_checked_also_when_the_plan_has_left_the_catalog() {
    let extra = r"
    schemas:
      service_binding:
        create:
          parameters: {properties: {role: {enum: [read-only]}}, additionalProperties: false}
";
    let yaml = switch_yaml("300s", extra);
    let mut broker = TestBroker::builder().yaml(yaml, SWITCH.0, SWITCH.1).start().await;
    broker.client.provision("i").await.expect(201);
    for offered in [true, false] {
        if !offered {
            broker.terminate().await;
            broker.set_yaml(redis_yaml(""));
            broker.launch().await;
            broker.ready().await;
        }
        let client = &broker.client;
        let path = format!("/v2/service_instances/i/service_bindings/{offered}");
        let mut bind = client.ids_body();
        for wrong in [json!({"role": "owner"}), json!({"rule": "read-only"})] {
            bind["parameters"] = wrong;
            let reply = client.put(&path, &bind).await;
            reply.expect(400);
            assert!(reply.description().starts_with("parameters: "), "{}", reply.description());
        }
        bind["parameters"] = json!({"role": "read-only"});
        client.put(&path, &bind).await.expect(201);
        client.put(&path, &bind).await.expect(200);
    }
}
