//! Bindings of shipped services that have users of their own: what the tests of each have in common.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use docker_broker::lifecycle::fault::{Step, VARIABLE};
use http::Method;
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::support::{TestBroker, docker_ok, eventually, service_file};

/// A broker with one shipped service and an instance `s1` of its first plan.
pub(crate) async fn instance_of(file: &str) -> TestBroker {
    let broker = TestBroker::builder().services(&[service_file(file)]).start().await;
    broker.client.provision_async("s1").await.expect(202);
    let (state, reason) = broker.client.poll("s1").await;
    assert_eq!(state, "succeeded", "{reason}");
    broker
}

fn path(binding: &str) -> String {
    format!("/v2/service_instances/s1/service_bindings/{binding}")
}

/// Makes a binding, with more in the request: its credentials. They are also what a fetch shows, and
/// neither they nor the log hold a secret of the administrator.
pub(crate) async fn bind(broker: &TestBroker, binding: &str, more: &Value) -> Value {
    let mut body = broker.client.ids_body();
    for (key, value) in more.as_object().expect("an object") {
        body[key] = value.clone();
    }
    let secrets = secrets_of_the_administrator(broker);
    for secret in &secrets {
        broker.client.issued.add(secret);
    }
    let bound = broker.client.put(&path(binding), &body).await;
    let credentials = bound.expect(201)["credentials"].take();
    assert_eq!(broker.client.get(&path(binding)).await.expect(200)["credentials"], credentials);
    let shown = credentials.to_string();
    assert!(!secrets.iter().any(|secret| shown.contains(secret)), "shown: {shown}");
    credentials
}

/// Makes a binding that may only read.
pub(crate) async fn bind_reader(broker: &TestBroker, binding: &str) -> Value {
    bind(broker, binding, &json!({"parameters": {"role": "read-only"}})).await
}

/// A role that there is not is refused before anything is made.
pub(crate) async fn refuses_an_unknown_role(broker: &TestBroker) {
    let mut body = broker.client.ids_body();
    body["parameters"] = json!({"role": "administrator"});
    broker.client.put(&path("unknown-role"), &body).await.expect_problem(400);
    broker.client.get(&path("unknown-role")).await.expect(404);
}

pub(crate) fn text<'a>(credentials: &'a Value, key: &str) -> &'a str {
    credentials[key].as_str().unwrap_or_else(|| panic!("no {key} in the credentials"))
}

/// The same credentials with another password.
pub(crate) fn with_password_of(credentials: &Value, other: &Value) -> Value {
    let mut mixed = credentials.clone();
    mixed["password"] = other["password"].clone();
    mixed
}

/// What the container of the instance got as secrets, each with its variable.
pub(crate) fn environment(broker: &TestBroker) -> Vec<(String, String)> {
    let format = "{{range .Config.Env}}{{println .}}{{end}}";
    let text = docker_ok(&["inspect", "-f", format, &broker.container("s1")]);
    let pairs = text.lines().filter_map(|line| line.split_once('='));
    pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

fn secrets_of_the_administrator(broker: &TestBroker) -> Vec<String> {
    let is_secret = |name: &str| name.contains("PASS");
    let secrets: Vec<String> = environment(broker)
        .into_iter()
        .filter(|(name, _)| is_secret(name))
        .map(|pair| pair.1)
        .collect();
    assert!(!secrets.is_empty(), "the container has a password of the administrator");
    secrets
}

/// Stops and starts the container of the instance, as a restart of the machine does.
pub(crate) fn restart(broker: &TestBroker) {
    docker_ok(&["restart", "-t", "30", &broker.container("s1")]);
}

/// Replaces a binding twice while an application asks without a pause, and never fails. What was
/// replaced is refused as soon as it is unbound.
pub(crate) async fn rotates_without_a_gap(
    broker: &TestBroker,
    ask: impl AsyncFn(Value) -> Result<(), String>,
) {
    let (current, seen) = watch::channel(bind(broker, "rotation-0", &json!({})).await);
    let (asked, done) = (AtomicUsize::new(0), AtomicBool::new(false));
    let application = async {
        while !done.load(Ordering::Relaxed) {
            let credentials = seen.borrow().clone();
            ask(credentials).await.expect("the service answers all the time");
            asked.fetch_add(1, Ordering::Relaxed);
            tokio::task::yield_now().await;
        }
    };
    let rotation = async {
        for round in 1..=2 {
            let (old, new) = (format!("rotation-{}", round - 1), format!("rotation-{round}"));
            let before = current.borrow().clone();
            let after = bind(broker, &new, &json!({"predecessor_binding_id": old})).await;
            assert_ne!(after["username"], before["username"]);
            assert_ne!(after["password"], before["password"]);
            current.send(after).expect("the application listens");
            // The question that was under way, and one with the new credentials.
            let enough = asked.load(Ordering::Relaxed) + 2;
            eventually("the application to go on", async || {
                let count = asked.load(Ordering::Relaxed);
                if count >= enough { Ok(()) } else { Err(format!("{count} answers")) }
            })
            .await;
            ask(before.clone()).await.expect("the old one is valid until it is unbound");
            broker.client.unbind("s1", &old).await.expect(200);
            ask(before).await.expect_err("the old one is refused");
        }
        done.store(true, Ordering::Relaxed);
    };
    tokio::join!(application, rotation);
}

/// Sends a request on which the broker dies at `step`, and starts the broker again.
async fn die_at(broker: &mut TestBroker, step: Step, method: Method, path: &str, body: &Value) {
    broker.kill();
    broker.set_environment(VARIABLE, Some(&step.name()));
    broker.launch().await;
    broker.ready().await;
    let authorization = broker.client.authorization();
    let headers = [("authorization", authorization.as_str()), ("x-broker-api-version", "2.17")];
    // Its answer may be lost.
    drop(broker.client.raw(method, path, &headers, body.to_string()).await);
    assert!(!broker.ended().await, "it dies by a signal");
    broker.set_environment(VARIABLE, None);
    broker.launch().await;
    broker.ready().await;
}

/// A broker that dies when a hook has run runs it once more: nothing of it may fail or be left over.
pub(crate) async fn hooks_can_be_repeated(
    file: &str,
    ask: impl AsyncFn(Value) -> Result<(), String>,
) {
    let mut broker = TestBroker::builder().services(&[service_file(file)]).start().await;
    let client = broker.client.clone();
    let instance = "/v2/service_instances/s1?accepts_incomplete=true";
    let body = client.provision_body();
    die_at(&mut broker, Step::ProvisionHooked, Method::PUT, instance, &body).await;
    let (state, reason) = broker.client.poll("s1").await;
    assert_eq!(state, "succeeded", "{reason}");

    let fetched = async |broker: &TestBroker, status: u16| {
        eventually("the end of the operation", async || {
            let reply = broker.client.get(&path("b1")).await;
            if reply.status == status { Ok(reply.json()) } else { Err(format!("{reply:?}")) }
        })
        .await
    };
    let body = client.ids_body();
    die_at(&mut broker, Step::BindHooked, Method::PUT, &path("b1"), &body).await;
    let credentials = fetched(&broker, 200).await["credentials"].take();
    ask(credentials.clone()).await.expect("the user is there");
    let unbind = format!("{}?{}", path("b1"), client.ids());
    die_at(&mut broker, Step::UnbindHooked, Method::DELETE, &unbind, &json!({})).await;
    fetched(&broker, 404).await;
    ask(credentials).await.expect_err("the user is gone");
    ask(bind(&broker, "b2", &json!({})).await).await.expect("the next one is not in the way");
}
