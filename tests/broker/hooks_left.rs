//! Hooks that still run when nobody waits for them any more, and what the log shows of hooks.

use docker_broker::lifecycle::fault::{Step, VARIABLE};
use serde_json::json;

use crate::support::{HOOKED, TestBroker, docker, docker_ok, eventually, hooked_yaml};

async fn broker(yaml: &str) -> TestBroker {
    TestBroker::builder().yaml(yaml, HOOKED.0, HOOKED.1).start().await
}

/// The first line of a hook in [`hooked_yaml`] with another one before it.
fn with(yaml: &str, hook: &str, line: &str) -> String {
    let begin = format!("      {hook}: |\n");
    assert!(yaml.contains(&begin));
    yaml.replace(&begin, &format!("{begin}        {line}\n"))
}

fn runs(broker: &TestBroker, program: &str) -> bool {
    // Without a container nothing runs either.
    let output = docker(&["exec", &broker.container("i"), "ps", "-o", "args"]);
    String::from_utf8_lossy(&output.stdout).lines().any(|line| line == program)
}

async fn running(broker: &TestBroker, program: &str) {
    eventually(program, async || {
        if runs(broker, program) { Ok(()) } else { Err("it does not run".to_owned()) }
    })
    .await;
}

async fn again(broker: &mut TestBroker) {
    broker.launch().await;
    broker.ready().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deprovision_ends_the_provision_hook_that_a_dead_broker_has_left() {
    let yaml = with(&hooked_yaml("60s", ""), "provision", "sleep 1000001");
    let look = "echo \"left: $(ps -o args | grep -c '^sleep 1000001')\" >&2; exit 0";
    let mut broker = broker(&with(&yaml, "deprovision", look)).await;
    broker.client.provision_async("i").await.expect(202);
    running(&broker, "sleep 1000001").await;
    broker.kill();
    broker.set_environment(VARIABLE, Some(&Step::DeprovisionAccepted.name()));
    again(&mut broker).await;
    running(&broker, "sleep 1000001").await;
    let path = format!("/v2/service_instances/i?accepts_incomplete=true&{}", broker.client.ids());
    let authorization = broker.client.authorization();
    let headers = [("authorization", authorization.as_str()), ("x-broker-api-version", "2.17")];
    drop(broker.client.raw(http::Method::DELETE, &path, &headers, "").await);
    assert!(!broker.ended().await, "it dies by a signal");
    broker.set_environment(VARIABLE, None);
    broker.launch().await;
    eventually("the deprovision hook", async || {
        let log = broker.log_text();
        if log.contains("left: 0") { Ok(()) } else { Err(log) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bind_that_is_halted_before_its_turn_ends_the_hook_that_a_dead_broker_has_left() {
    let hook = r#"case "$OSB_BINDING_ID" in a) [ -e /tmp/second ] || exit 10; sleep 1000001 ;; b) sleep 1000002 ;; esac"#;
    let mut broker = broker(&with(&hooked_yaml("110s", ""), "bind", hook)).await;
    broker.client.provision("i").await.expect(201);
    let path = |binding: &str| {
        format!("/v2/service_instances/i/service_bindings/{binding}?accepts_incomplete=true")
    };
    for binding in ["a", "b"] {
        broker.client.put(&path(binding), &broker.client.ids_body()).await.expect(202);
    }
    running(&broker, "sleep 1000002").await;
    docker_ok(&["exec", &broker.container("i"), "touch", "/tmp/second"]);
    // Both go on at once, and either may be first: until it is the other one.
    loop {
        broker.kill();
        again(&mut broker).await;
        let patience = std::time::Duration::from_secs(5);
        if tokio::time::timeout(patience, running(&broker, "sleep 1000001")).await.is_ok() {
            break;
        }
    }
    assert!(runs(&broker, "sleep 1000002"), "the one whose turn it is not yet was left");
    let unbind = format!("{}&{}", path("b"), broker.client.ids());
    broker.client.delete(&unbind).await.expect(202);
    eventually("the end of the hook", async || {
        if runs(&broker, "sleep 1000002") { Err("it runs".to_owned()) } else { Ok(()) }
    })
    .await;
    assert!(runs(&broker, "sleep 1000001"), "the other one goes on");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_shows_nothing_of_what_developers_send_and_hooks_make() {
    let roles = "            properties: {mode: {type: string}, n";
    let listed = "            properties: {role: {enum: [read-only]}, mode: {type: string}, n";
    let yaml = hooked_yaml("20s", "");
    assert!(yaml.contains(roles));
    // The texts of hooks are among the arguments of their shells, so none has the whole secret.
    let yaml = with(
        &yaml.replace(roles, listed),
        "bind",
        "grep -o '\"parameters.*' | tail -n 1 >&2; printf '{\"key\": \"made-by-the-%s\"}' hook; exit 0",
    );
    let broker =
        broker(&with(&yaml, "unbind", "printf 'revoked: made-by-the-%s\\n' hook >&2")).await;
    broker.client.provision("i").await.expect(201);
    let mut body = broker.client.ids_body();
    body["parameters"] = json!({"role": "read-only", "mode": "phrase of a developer", "list": ["another phrase", "short"]});
    let path = "/v2/service_instances/i/service_bindings/b";
    let bound = broker.client.put(path, &body).await.expect(201);
    assert_eq!(bound["credentials"]["key"], "made-by-the-hook");
    broker.client.unbind("i", "b").await.expect(200);
    let log = broker.log_text();
    for shown in ["read-only", "short", "revoked: [redacted]"] {
        assert!(log.contains(shown), "{shown}: {log}");
    }
    for hidden in ["phrase of a developer", "another phrase", "made-by-the-hook"] {
        assert!(!log.contains(hidden), "{hidden}: {log}");
    }
}
