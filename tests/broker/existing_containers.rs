//! `container.existing`: the broker serves a container that somebody else has made, and never
//! makes, stops, renames or removes it.

use std::process::Command;

use docker_broker::lifecycle::fault::{Step, VARIABLE};
use serde_json::{Value, json};

use crate::support::{Redis, TestBroker, busybox_service, docker, docker_ok, eventually, unique};

const SERVICE: (&str, &str) = ("existing-service", "existing-plan");
const PASSWORD: &str = "a-password-of-the-operator";

/// A redis of the operator's, which goes with the test.
struct Operators {
    name: String,
}

impl Drop for Operators {
    fn drop(&mut self) {
        docker(&["rm", "-f", "-v", &self.name]);
    }
}

impl Operators {
    fn new() -> Self {
        Self { name: unique("operators-redis-") }
    }

    /// Makes it, anew if it is there; the id.
    fn make(&self) -> String {
        docker(&["rm", "-f", "-v", &self.name]);
        let script = r#"echo "requirepass $PASSWORD" | exec redis-server -"#;
        let made = Command::new("docker")
            .args(["run", "-d", "--name", &self.name, "-p", "127.0.0.1::6379"])
            .args(["--env", "PASSWORD", "redis:7", "sh", "-c", script])
            .env("PASSWORD", PASSWORD)
            .output()
            .unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        assert!(made.status.success(), "{}", text(&made.stderr));
        text(&made.stdout)
    }

    /// Its id, start and name as they are now.
    fn state(&self) -> String {
        docker_ok(&["inspect", "-f", "{{.Id}} {{.State.StartedAt}} {{.Name}}", &self.name])
    }

    fn yaml(&self) -> String {
        let plan = |id: &str, name: &str, container: &str| {
            format!(
                r#"
  - id: {id}
    name: {id}
    description: a plan
    container:
      existing: {container}
      readiness: {{tcp: 6379/tcp, send: "AUTH {{{{password}}}}\r\nPING\r\n", expect: +PONG}}
    credentials:
      username: {{value: default}}
      password: {{value: {PASSWORD}}}
      uri: {{prefix: redis, port: 6379/tcp}}
{name}"#
            )
        };
        let fixed = "      static: {redis: 'redis://:{{password}}@$HOST:$PORT_6379', n: [1]}";
        let elsewhere = plan("elsewhere-plan", "", "no-such-container-anywhere");
        format!(
            "services:\n- id: {}\n  name: existing\n  description: d\n  plans:{}{}{elsewhere}{}",
            SERVICE.0,
            plan(SERVICE.1, "", &self.name),
            plan("static-plan", fixed, &self.name),
            // Another service in the same file goes on.
            busybox_service("exec httpd -f -p 8080", "").replace("services:\n", "\n"),
        )
    }

    async fn broker(&self) -> TestBroker {
        TestBroker::builder().yaml(self.yaml(), SERVICE.0, SERVICE.1).start().await
    }
}

async fn restart(broker: &mut TestBroker) {
    broker.kill();
    broker.launch().await;
    broker.ready().await;
}

fn port(bound: &Value) -> String {
    bound["credentials"]["port"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_existing_container_survives_its_instances_and_the_broker() {
    let operators = Operators::new();
    operators.make();
    let before = operators.state();
    let mut broker = operators.broker().await;
    let client = broker.client.clone();
    for instance in ["one", "two"] {
        client.provision(instance).await.expect(201);
    }
    let redis = Redis::of(&client.bind("one", "b").await.expect(201));
    assert_eq!(redis.expect("SET mine precious").await, "+OK");
    assert_eq!(broker.containers(), [""; 0], "the broker makes nothing");
    let mut directories = broker.instance_directories();
    directories.sort();
    assert_eq!(directories, ["i-one", "i-two"], "with nothing but their records");
    restart(&mut broker).await;
    let client = broker.client.clone();
    client.provision("one").await.expect(200);
    client.bind("one", "b").await.expect(200);
    // The plans of one container are alike; another one has other data.
    let change = |plan: &str| json!({"service_id": SERVICE.0, "plan_id": plan});
    client.patch("/v2/service_instances/one", &change("static-plan")).await.expect(200);
    let moved = client.patch("/v2/service_instances/two", &change("elsewhere-plan")).await;
    assert!(moved.description().contains("another container"), "{moved:?}");
    moved.expect_problem(422);
    let mut fixed = client.clone();
    fixed.plan_id = "static-plan".to_owned();
    let bound = fixed.bind("one", "static").await.expect(201);
    let port = bound["endpoints"][0]["ports"][0].as_str().unwrap();
    let url = format!("redis://:{PASSWORD}@127.0.0.1:{port}");
    assert_eq!(bound["credentials"], json!({"redis": url, "n": [1]}));
    fixed.deprovision("one").await.expect(200);
    client.deprovision("two").await.expect(200);
    client.deprovision("two").await.expect(410);
    restart(&mut broker).await;
    assert_eq!(operators.state(), before);
    assert_eq!(redis.expect("GET mine").await, "precious");
    assert!(!broker.log_text().contains(PASSWORD), "the log shows a password");
}

#[tokio::test(flavor = "multi_thread")]
async fn hooks_give_each_binding_its_own_user_in_an_existing_container() {
    let operators = Operators::new();
    operators.make();
    let before = operators.state();
    let cli = "export REDISCLI_AUTH=\"$OSB_PASSWORD\"; redis-cli";
    let hooks = format!(
        r#"    lifecycle:
      provision: {cli} SET "owner:$OSB_DBNAME" "$OSB_PORT"
      deprovision: {cli} DEL "owner:$OSB_DBNAME"
      bind: |
        export REDISCLI_AUTH="$OSB_PASSWORD"
        printf '>%s' "$OSB_BINDING_PASSWORD" |
          redis-cli -x ACL SETUSER "$OSB_BINDING_USERNAME" on '~*' '+@all' >&2
        redis-cli SET "binding:$OSB_BINDING_ID" "$OSB_PORT" >&2
      unbind: {cli} ACL DELUSER "$OSB_BINDING_USERNAME" >&2
"#
    );
    let hooks = hooks.replace("provision: export", "provision: exec >&2; export");
    let yaml =
        operators.yaml().replace("    credentials:\n", &format!("{hooks}    credentials:\n"));
    let yaml = yaml
        .replace("      uri: {prefix: redis", "      dbname: {key: D}\n      uri: {prefix: redis");
    let broker = TestBroker::builder().yaml(yaml, SERVICE.0, SERVICE.1).start().await;
    let client = &broker.client;
    client.provision("one").await.expect(201);
    client.provision("two").await.expect(201);
    let bound = client.bind("one", "b").await.expect(201);
    let other = client.bind("two", "c").await.expect(201);
    let ask = async |bound: &Value, command: &str| {
        let credentials = &bound["credentials"];
        assert_ne!(credentials["password"], PASSWORD, "the administrator's is never handed out");
        Redis::of(bound).ask(command).await
    };
    let dbname = |bound: &Value| bound["credentials"]["dbname"].as_str().unwrap().to_owned();
    let (one, two) = (dbname(&bound), dbname(&other));
    assert_ne!(one, two);
    for key in ["binding:b".to_owned(), format!("owner:{one}"), format!("owner:{two}")] {
        assert_eq!(ask(&bound, &format!("GET {key}")).await, Ok(port(&bound)), "{key}");
    }
    client.unbind("one", "b").await.expect(200);
    assert!(ask(&bound, "PING").await.is_err(), "a revoked user is refused");
    client.deprovision("one").await.expect(200);
    assert_eq!(ask(&other, &format!("GET owner:{one}")).await, Ok("nil".to_owned()));
    assert_eq!(ask(&other, &format!("GET owner:{two}")).await, Ok(port(&other)));
    client.unbind("two", "c").await.expect(200);
    client.deprovision("two").await.expect(200);
    assert_eq!(operators.state(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_ports_of_an_existing_container_are_read_again_when_it_was_made_again() {
    let operators = Operators::new();
    operators.make();
    let mut broker = operators.broker().await;
    let client = broker.client.clone();
    client.provision("one").await.expect(201);
    let old = client.bind("one", "old").await.expect(201);
    // Docker gives out the next port, so it is another one.
    let new = eventually("another port", async || {
        operators.make();
        eventually("redis", async || {
            let bound = client.bind("one", &unique("b")).await;
            Redis::of(&bound.expect(201)).ask("PING").await
        })
        .await;
        let bound = client.bind("one", &unique("b")).await.expect(201);
        if port(&bound) == port(&old) { Err("the same".to_owned()) } else { Ok(bound) }
    })
    .await;
    assert_eq!(Redis::of(&new).expect("PING").await, "+PONG");
    assert_eq!(client.bind("one", "old").await.expect(200), old, "a binding stays as it is");
    docker_ok(&["stop", "-t", "0", &operators.name]);
    let refused = client.bind("one", "stopped").await;
    assert!(refused.description().contains("does not run"), "{}", refused.description());
    refused.expect_problem(422);
    client.bind("one", "old").await.expect(200);
    restart(&mut broker).await;
    let client = broker.client.clone();
    assert_eq!(docker_ok(&["inspect", "-f", "{{.State.Running}}", &operators.name]), "false");
    client.unbind("one", "old").await.expect(200);
    docker_ok(&["start", &operators.name]);
    eventually("a binding", async || {
        let bound = client.bind("one", &unique("b")).await;
        if bound.status == 201 {
            Redis::of(&bound.json()).ask("PING").await
        } else {
            Err(bound.description())
        }
    })
    .await;
    docker_ok(&["rm", "-f", &operators.name]);
    client.deprovision("one").await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_without_its_container_is_disabled_and_the_broker_serves_the_others() {
    let operators = Operators::new();
    let broker = operators.broker().await;
    let client = &broker.client;
    let log = broker.log_text();
    for word in [operators.name.as_str(), "no-such-container-anywhere", "makes no instances"] {
        assert!(log.contains(word), "{word} is missing in {log}");
    }
    let refused = client.provision("one").await;
    let text = refused.description();
    assert!(text.contains(&operators.name) && text.contains("does not exist"), "{text}");
    refused.expect_problem(422);
    client.deprovision("one").await.expect(410);
    let mut other = client.clone();
    other.service_id = "busybox-service".to_owned();
    other.plan_id = "busybox-plan".to_owned();
    other.provision("other").await.expect(201);
    // It comes back by itself.
    operators.make();
    client.provision("one").await.expect(201);
    Redis::of(&client.bind("one", "b").await.expect(201)).expect("PING").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_killed_on_the_way_leaves_the_existing_container_alone() {
    let operators = Operators::new();
    operators.make();
    let before = operators.state();
    let mut broker = operators.broker().await;
    let path = "/v2/service_instances/one?accepts_incomplete=true";
    for step in [Step::ProvisionAccepted, Step::ProvisionReady, Step::ProvisionCommitted] {
        broker.kill();
        broker.set_environment(VARIABLE, Some(&step.name()));
        broker.launch().await;
        broker.ready().await;
        let client = broker.client.clone();
        let authorization = client.authorization();
        let headers = [("authorization", authorization.as_str()), ("x-broker-api-version", "2.17")];
        let body = client.provision_body().to_string();
        // The broker dies before or after its answer.
        drop(client.raw(http::Method::PUT, path, &headers, body).await);
        assert!(!broker.ended().await, "it dies by a signal");
        broker.set_environment(VARIABLE, None);
        broker.launch().await;
        broker.ready().await;
        let client = &broker.client;
        assert_eq!(client.poll("one").await.0, "succeeded");
        Redis::of(&client.bind("one", "b").await.expect(201)).expect("PING").await;
        client.deprovision("one").await.expect(200);
    }
    assert_eq!(operators.state(), before);
}
