//! Records that follow many changes at once, those of adopted instances, and instances of which the
//! store knows an older state.

use std::fs;

use futures_util::future::join_all;

use crate::{
    adopt::{adopt, adopted, prepared, redis, serves_as_before, start},
    support::{Redis, TestBroker, life},
};

#[tokio::test(flavor = "multi_thread")]
async fn bindings_made_and_removed_at_the_same_time_are_all_in_the_record() {
    let mut broker = TestBroker::builder().start().await;
    broker.client.provision("r1").await.expect(201);
    let name = |round: usize, number: usize| format!("b{round}-{number}");
    for round in 0..8 {
        let client = &broker.client;
        let made = (0..16).map(|number| async move {
            client.bind("r1", &name(round, number)).await.expect(201);
        });
        // Those of the round before, but one.
        let removed = (1..16).filter(|_| round > 0).map(|number| async move {
            client.unbind("r1", &name(round - 1, number)).await.expect(200);
        });
        tokio::join!(join_all(made), join_all(removed));
    }
    // Nothing is compared again before the store is lost.
    broker.kill();
    broker.lose_store();
    let rebuilt = broker.rebuild_store();
    assert_eq!(rebuilt.code, Some(0), "{rebuilt:?}");
    start(&mut broker).await;
    let mut wrong = Vec::new();
    for round in 0..8 {
        for number in 0..16 {
            let id = name(round, number);
            let path = format!("/v2/service_instances/r1/service_bindings/{id}");
            let status = broker.client.get(&path).await.status;
            let expected = if number == 0 || round == 7 { 200 } else { 404 };
            if status != expected {
                wrong.push(format!("{id}: {status}"));
            }
        }
    }
    assert_eq!(wrong, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_adopted_instance_comes_back_although_the_broker_was_never_started_on_it() {
    let (mut broker, mut legacy) = prepared();
    let (id, port, redis) = redis(&mut legacy, &["COLOUR=red"]).await;
    adopted(&broker, &legacy, &id);
    let before = life(&broker.container(&id));
    broker.lose_store();
    let refused = adopt(&broker, &legacy, &[&id], &[]);
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.stderr.contains("rebuild-store"), "{refused:?}");
    assert!(!broker.data.path().join("broker.db").exists(), "nothing was made");
    let rebuilt = broker.rebuild_store();
    assert_eq!(rebuilt.code, Some(0), "{rebuilt:?}");
    assert!(rebuilt.stdout.contains("1 instances restored"), "{rebuilt:?}");
    let client = start(&mut broker).await;
    serves_as_before(&client, &id, port, &redis).await;
    assert_eq!(life(&broker.container(&id)), before, "it runs on");
    client.deprovision(&id).await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_without_instances_does_not_hide_that_one_was_lost() {
    let mut broker = TestBroker::builder().start().await;
    let store = broker.data.path().join("broker.db");
    broker.terminate().await;
    let connection = rusqlite::Connection::open(&store).unwrap();
    connection.pragma_update(None, "journal_mode", "DELETE").unwrap();
    drop(connection);
    let empty = fs::read(&store).unwrap();
    start(&mut broker).await;
    broker.client.provision("r1").await.expect(201);
    broker.terminate().await;
    broker.lose_store();
    fs::write(&store, &empty).unwrap();
    let refused = broker.refused_start();
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.stderr.contains("rebuild-store"), "{refused:?}");
    assert_eq!(broker.rebuild_store().code, Some(0));
    start(&mut broker).await;
    broker.client.deprovision("r1").await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_is_left_alone_can_be_deleted_and_made_again_without_a_restart() {
    let mut broker = TestBroker::builder().start().await;
    broker.client.provision("r1").await.expect(201);
    broker.client.bind("r1", "b1").await.expect(201);
    broker.terminate().await;
    let store = broker.data.path().join("broker.db");
    let connection = rusqlite::Connection::open(&store).unwrap();
    connection.pragma_update(None, "journal_mode", "DELETE").unwrap();
    drop(connection);
    let older = fs::read(&store).unwrap();
    start(&mut broker).await;
    broker.client.bind("r1", "b2").await.expect(201);
    broker.terminate().await;
    broker.lose_store();
    fs::write(&store, older).unwrap();
    start(&mut broker).await;
    broker.client.bind("r1", "b3").await.expect(422);
    broker.client.unbind("r1", "b1").await.expect(200);
    broker.client.deprovision("r1").await.expect(200);
    broker.client.provision("r1").await.expect(201);
    let redis = Redis::of(&broker.client.bind("r1", "b3").await.expect(201));
    assert_eq!(redis.expect("PING").await, "+PONG");
    // What is made then is recorded again.
    broker.kill();
    broker.lose_store();
    assert_eq!(broker.rebuild_store().code, Some(0));
    start(&mut broker).await;
    broker.client.unbind("r1", "b3").await.expect(200);
    broker.client.deprovision("r1").await.expect(200);
}
