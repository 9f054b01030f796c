//! Changing the encryption key: at a start, and by `rotate-keys`.

use std::fs;

use serde_json::json;

use crate::support::{Finished, Redis, TestBroker, docker_broker};

const OLD: &str = "the-old-key-of-this-test";
const NEW: &str = "the-new-key-of-this-test";

/// A broker that used the old key, with an instance and a binding, stopped.
async fn stopped_broker() -> (TestBroker, Redis) {
    let mut broker = with_keys(OLD).start().await;
    broker.client.provision("i1").await.expect(201);
    let redis = Redis::of(&broker.client.bind("i1", "b1").await.expect(201));
    broker.terminate().await;
    (broker, redis)
}

fn with_keys(keys: &str) -> crate::support::Builder {
    TestBroker::builder().setting(format!("encryption_keys: [{keys}]"))
}

async fn start_with(broker: &mut TestBroker, keys: &str) {
    let setting = format!("encryption_keys: [{keys}]");
    broker.builder = broker.builder.clone().setting(setting);
    broker.launch().await;
    broker.ready().await;
}

/// `rotate-keys` with the broker's settings, but these keys.
fn rotate(broker: &TestBroker, keys: &str) -> Finished {
    let settings = fs::read_to_string(broker.settings_file()).unwrap();
    let file = broker.data.path().join("rotate.yml");
    let settings = settings.lines().map(|line| match line.split_once("encryption_keys:") {
        Some(_) => format!("encryption_keys: [{keys}]\n"),
        None => format!("{line}\n"),
    });
    fs::write(&file, settings.collect::<String>()).unwrap();
    docker_broker(&["rotate-keys", "--config", file.to_str().unwrap()])
}

/// Fingerprints with which the sealed values begin, in hex.
fn fingerprints(broker: &TestBroker) -> Vec<String> {
    let store = rusqlite::Connection::open(broker.data.path().join("broker.db")).unwrap();
    let all = ["definitions", "instances", "bindings", "operations"]
        .map(|table| format!("SELECT sealed FROM {table} WHERE sealed IS NOT NULL"));
    let sql = format!(
        "SELECT DISTINCT hex(substr(sealed, 1, 8)) FROM ({} UNION ALL SELECT value FROM meta)",
        all.join(" UNION ALL ")
    );
    let mut statement = store.prepare(&sql).unwrap();
    statement.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_with_a_new_first_key_seals_everything_again_and_the_old_one_can_go() {
    let (mut broker, redis) = stopped_broker().await;
    let before = fingerprints(&broker);
    start_with(&mut broker, &format!("{NEW}, {OLD}")).await;
    let log = broker.log_text();
    assert!(log.contains("the others are not needed any more"), "{log}");
    assert!(!log.contains(OLD) && !log.contains(NEW), "{log}");
    broker.terminate().await;
    let after = fingerprints(&broker);
    assert!(before.len() == 1 && after.len() == 1 && before != after, "{before:?} {after:?}");
    start_with(&mut broker, NEW).await;
    assert!(!broker.log_text().contains("the encryption key has changed"));
    let path = "/v2/service_instances/i1/service_bindings/b1";
    let bound = broker.client.get(path).await.expect(200);
    assert_eq!(Redis::of(&bound).expect("PING").await, "+PONG");
    assert_eq!(redis.expect("PING").await, "+PONG");
    let body = json!({ "service_id": broker.client.service_id, "plan_id": "redis-large" });
    broker.client.patch("/v2/service_instances/i1", &body).await.expect(200);
    broker.client.deprovision("i1").await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn rotate_keys_says_how_many_were_sealed_again_and_that_the_old_key_may_go() {
    let (mut broker, _) = stopped_broker().await;
    let done = rotate(&broker, &format!("{NEW}, {OLD}"));
    assert_eq!(done.code, Some(0), "{done:?}");
    // The proof of the key, a plan, an instance, a binding.
    let expected = "4 secrets were sealed again; everything is sealed with the first of \
                    encryption_keys, and the others may be removed\n";
    assert_eq!(done.stdout, expected, "{done:?}");
    assert!(!done.stderr.contains(OLD) && !done.stderr.contains(NEW), "{done:?}");
    let again = rotate(&broker, NEW);
    assert!(again.stdout.starts_with("0 secrets were sealed again"), "{again:?}");
    start_with(&mut broker, NEW).await;
    let path = "/v2/service_instances/i1/service_bindings/b1";
    let bound = broker.client.get(path).await.expect(200);
    assert_eq!(Redis::of(&bound).expect("PING").await, "+PONG");
}

#[tokio::test(flavor = "multi_thread")]
async fn rotate_keys_refuses_what_it_cannot_do_and_changes_nothing() {
    let (mut broker, _) = stopped_broker().await;
    let before = fingerprints(&broker);
    let wrong = rotate(&broker, NEW);
    assert_eq!(wrong.code, Some(1), "{wrong:?}");
    assert!(wrong.stderr.contains("the store was encrypted with another key"), "{wrong:?}");
    let none = docker_broker(&[
        "rotate-keys",
        "--data-dir",
        broker.data.path().to_str().unwrap(),
        "--name",
        broker.name(),
    ]);
    assert_eq!(none.code, Some(1), "{none:?}");
    assert!(none.stderr.contains("no encryption_keys are configured"), "{none:?}");
    start_with(&mut broker, OLD).await;
    let running = rotate(&broker, &format!("{NEW}, {OLD}"));
    assert_eq!(running.code, Some(1), "{running:?}");
    assert!(running.stderr.contains("a running broker needs no rotate-keys"), "{running:?}");
    assert_eq!(fingerprints(&broker), before);
}
