//! Copies of the store, taken while it is in use.

use std::fs;

use crate::support::{Redis, TestBroker, eventually};

fn copies(broker: &TestBroker) -> Vec<String> {
    let entries = fs::read_dir(broker.data.path().join("backup")).into_iter().flatten().flatten();
    // Not the one that is being made.
    let whole = entries.filter(|entry| entry.path().extension().is_some_and(|end| end == "db"));
    let mut names: Vec<_> =
        whole.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[tokio::test(flavor = "multi_thread")]
async fn the_store_is_copied_at_intervals_and_the_newest_copy_is_named_when_it_is_damaged() {
    let setting = "store_backup: {interval: 1s, keep: 2}";
    let mut broker = TestBroker::builder().setting(setting).start().await;
    broker.client.provision("r1").await.expect(201);
    let redis = Redis::of(&broker.client.bind("r1", "b1").await.expect(201));
    let first = copies(&broker).pop();
    let newest = eventually("two more copies", async || {
        let mut later = copies(&broker);
        later.retain(|name| Some(name) > first.as_ref());
        later.into_iter().nth(1).ok_or_else(|| format!("{:?}", copies(&broker)))
    })
    .await;
    broker.terminate().await;
    let all = copies(&broker);
    assert_eq!(all.len(), 2, "{all:?}");
    assert!(*all.last().unwrap() >= newest);
    let newest = broker.data.path().join("backup").join(all.last().unwrap());
    broker.lose_store();
    let store = broker.data.path().join("broker.db");
    fs::write(&store, b"this is no store at all, though a file of some length").unwrap();
    let refused = broker.refused_start();
    assert_eq!(refused.code, Some(1), "{refused:?}");
    let advice = format!("cp {} {}", newest.display(), store.display());
    assert!(refused.stderr.contains(&advice), "{refused:?}");
    fs::copy(&newest, &store).unwrap();
    broker.launch().await;
    broker.ready().await;
    assert_eq!(redis.expect("PING").await, "+PONG");
    broker.client.unbind("r1", "b1").await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_cannot_be_made_is_an_error_in_the_log_and_shows_in_the_health() {
    let broker = TestBroker::builder().setting("store_backup: {interval: 1s, keep: 2}").prepare();
    let mut broker = broker;
    // In the way of the directory.
    fs::write(broker.data.path().join("backup"), b"").unwrap();
    broker.launch().await;
    broker.ready().await;
    eventually("the failure to show", async || {
        let reply = broker.client.raw(http::Method::GET, "/readyz", &[], "").await?;
        let health = reply.json();
        assert_eq!(reply.status, 200, "the broker works all the same");
        (health["store_backup"] == "failing").then_some(()).ok_or_else(|| health.to_string())
    })
    .await;
    assert!(broker.log_text().contains("the store cannot be copied"), "{}", broker.log_text());
    fs::remove_file(broker.data.path().join("backup")).unwrap();
    eventually("a copy", async || copies(&broker).pop().map(drop).ok_or_else(|| "none".to_owned()))
        .await;
}
