//! A store that comes from a backup, or was made anew without some: of what it does not know,
//! nothing is removed, written over or made again.

use std::{fs, time::SystemTime};

use docker_broker::lifecycle::fault::{Step, VARIABLE};

use crate::{
    kill_at_every_step::send,
    kill_support::arm,
    records::{start, whole_store},
    shared_containers::{self, Tenant},
    support::{REDIS, Redis, TestBroker, docker_ok, eventually, redis_yaml, upgrade_body},
};

/// Puts an older store in the place of the present one, and starts the broker on it.
async fn start_on(broker: &mut TestBroker, older: &[u8]) {
    if broker.is_running() {
        broker.terminate().await;
    }
    broker.lose_store();
    fs::write(broker.data.path().join("broker.db"), older).unwrap();
    start(broker).await;
}

/// The store as it is now; the broker runs on.
async fn copy_of_store(broker: &mut TestBroker) -> Vec<u8> {
    broker.terminate().await;
    let copy = whole_store(broker);
    start(broker).await;
    copy
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shared_container_stays_while_the_store_may_not_know_who_lives_in_it() {
    let mut broker = shared_containers::broker().await;
    broker.client.provision("one").await.expect(201);
    let older = copy_of_store(&mut broker).await;
    broker.client.provision("two").await.expect(201);
    let two = Tenant::bind(&broker.client, "two").await;
    two.set("precious").await;
    start_on(&mut broker, &older).await;
    let refused = broker.client.deprovision("one").await;
    refused.expect(500);
    assert!(refused.description().contains("another service instance"), "{refused:?}");
    let log = broker.log_text();
    assert!(log.contains("the record in i-two says that its instance lives there"), "{log}");
    two.has("precious").await;
    // A rebuild that has to do without the other one knows as little.
    broker.terminate().await;
    broker.lose_store();
    let (record, nonsense) = (broker.directories().join("i-two/record"), b"nonsense");
    let whole = fs::read(&record).unwrap();
    fs::write(&record, nonsense).unwrap();
    assert_eq!(broker.rebuild_store().code, Some(10));
    start(&mut broker).await;
    broker.client.deprovision("one").await.expect(500);
    two.has("precious").await;
    fs::write(&record, whole).unwrap();
    broker.terminate().await;
    broker.operate("orphans", &["--adopt", "i-two"]).await.expect(0);
    start(&mut broker).await;
    broker.client.deprovision("one").await.expect(200);
    two.has("precious").await;
    broker.client.deprovision("two").await.expect(200);
    assert_eq!(broker.containers(), [""; 0]);
    assert_eq!(broker.instance_directories(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_without_data_that_was_deleted_is_not_made_again() {
    let yaml = redis_yaml("")
        .replace("      volumes:\n      - {path: /data, owner: '999:999'}\n", "")
        .replace("read_only: true, tmpfs: ['/tmp:size=16m']", "read_only: false");
    let builder = TestBroker::builder().yaml(yaml, REDIS.0, REDIS.1);
    let mut broker = builder.setting("reconcile_interval: 1s").start().await;
    for instance in ["gone", "stays"] {
        broker.client.provision(instance).await.expect(201);
    }
    let older = copy_of_store(&mut broker).await;
    broker.client.deprovision("gone").await.expect(200);
    start_on(&mut broker, &older).await;
    assert_eq!(broker.containers(), [broker.container("stays")]);
    assert_eq!(broker.instance_directories(), ["i-stays"]);
    let log = broker.log_text();
    assert!(log.contains("its directory is gone, as if it had been deleted"), "{log}");
    broker.client.bind("gone", "b").await.expect(422);
    broker.client.bind("stays", "b").await.expect(201);
    // It was not deleted: the disk was late.
    let (directory, aside) =
        (broker.directories().join("i-stays"), broker.data.path().join("aside"));
    broker.terminate().await;
    fs::rename(&directory, &aside).unwrap();
    docker_ok(&["rm", "-f", &broker.container("stays")]);
    start(&mut broker).await;
    broker.client.bind("stays", "b").await.expect(422);
    fs::rename(&aside, &directory).unwrap();
    eventually("the instance to come back", async || {
        let reply = broker.client.bind("stays", "b").await;
        (reply.status == 200).then_some(()).ok_or_else(|| reply.status.to_string())
    })
    .await;
    for instance in ["gone", "stays"] {
        broker.client.deprovision(instance).await.expect(200);
    }
    assert_eq!(broker.instance_directories(), [""; 0]);
}

/// Of two instances with one id the store tells the times apart by seconds.
async fn another_second() {
    let second = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    let begun = second();
    eventually("another second", async || (second() > begun).then_some(()).ok_or_else(String::new))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_made_again_with_the_same_id_keeps_its_record_from_an_older_store() {
    let mut broker = TestBroker::builder().start().await;
    broker.client.provision("r1").await.expect(201);
    for binding in ["b1", "b2", "b3"] {
        broker.client.bind("r1", binding).await.expect(201);
    }
    let older = copy_of_store(&mut broker).await;
    another_second().await;
    broker.client.deprovision("r1").await.expect(200);
    broker.client.provision("r1").await.expect(201);
    let redis = Redis::of(&broker.client.bind("r1", "b").await.expect(201));
    redis.expect("SET mine precious").await;
    broker.terminate().await;
    let path = broker.directories().join("i-r1/record");
    let record = fs::read(&path).unwrap();
    start_on(&mut broker, &older).await;
    broker.client.bind("r1", "b4").await.expect(422);
    assert_eq!(redis.expect("GET mine").await, "precious");
    broker.terminate().await;
    assert_eq!(fs::read(&path).unwrap(), record);
    broker.lose_store();
    assert_eq!(broker.rebuild_store().code, Some(0));
    start(&mut broker).await;
    broker.client.bind("r1", "b").await.expect(200);
}

/// Upgrades an instance with a broker that dies at `step`.
async fn dies_upgrading(broker: &mut TestBroker, step: Step, instance: &str) {
    arm(broker, step).await;
    let path = format!("/v2/service_instances/{instance}?accepts_incomplete=true");
    let body = upgrade_body(broker).await;
    send(broker, http::Method::PATCH, &path, &body).await;
    assert!(!broker.ended().await, "it dies by a signal");
    broker.set_environment(VARIABLE, None);
}

/// Upgrades an instance with a broker that dies with the new container made and then goes on. The
/// store as it was in between.
async fn upgraded(broker: &mut TestBroker, instance: &str) -> Vec<u8> {
    dies_upgrading(broker, Step::UpdateCreated, instance).await;
    let copy = whole_store(broker);
    start(broker).await;
    assert_eq!(broker.client.poll(instance).await.0, "succeeded");
    copy
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_an_older_store_has_as_being_updated_can_be_deleted() {
    let mut broker = TestBroker::builder().start().await;
    broker.client.provision("r1").await.expect(201);
    broker.set_yaml(redis_yaml("").replace("memory: 64m", "memory: 96m"));
    let older = upgraded(&mut broker, "r1").await;
    start_on(&mut broker, &older).await;
    broker.client.bind("r1", "b").await.expect(422);
    broker.client.deprovision("r1").await.expect(200);
    assert_eq!(broker.containers(), [""; 0]);
    assert_eq!(broker.instance_directories(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_goes_on_as_soon_as_the_record_of_its_instance_can_be_read() {
    let mut broker = TestBroker::builder().start().await;
    broker.client.provision("r1").await.expect(201);
    let redis = Redis::of(&broker.client.bind("r1", "b").await.expect(201));
    redis.expect("SET mine precious").await;
    broker.set_yaml(redis_yaml("").replace("memory: 64m", "memory: 96m"));
    dies_upgrading(&mut broker, Step::UpdateStopped, "r1").await;
    let (record, aside) =
        (broker.directories().join("i-r1/record"), broker.data.path().join("aside"));
    fs::rename(&record, &aside).unwrap();
    fs::create_dir(&record).unwrap();
    start(&mut broker).await;
    broker.client.bind("r1", "b2").await.expect(422);
    fs::remove_dir(&record).unwrap();
    fs::rename(&aside, &record).unwrap();
    assert_eq!(broker.client.poll("r1").await.0, "succeeded");
    assert_eq!(redis.expect("GET mine").await, "precious");
    broker.client.bind("r1", "b2").await.expect(201);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_waits_for_the_upgrade_of_a_shared_container_of_which_only_an_older_store_knows() {
    let mut broker = shared_containers::broker().await;
    for instance in ["one", "two"] {
        broker.client.provision(instance).await.expect(201);
    }
    let newer = shared_containers::yaml(":").replace("memory: 64m", "memory: 96m");
    broker.set_yaml(newer.replace("tenancy:", "maintenance_info: {version: 1.1.0}\n    tenancy:"));
    let older = upgraded(&mut broker, "one").await;
    start_on(&mut broker, &older).await;
    let body = upgrade_body(&broker).await;
    let refused = broker.client.patch("/v2/service_instances/two", &body).await;
    refused.expect(500);
    assert!(refused.description().contains("older state"), "{refused:?}");
    for instance in ["one", "two"] {
        broker.client.deprovision(instance).await.expect(200);
    }
    assert_eq!(broker.containers(), [""; 0]);
    assert_eq!(broker.instance_directories(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_an_older_store_does_not_know_is_adopted_with_its_port_bindings_and_data()
{
    let mut broker = TestBroker::builder().start().await;
    broker.client.provision("r1").await.expect(201);
    let older = copy_of_store(&mut broker).await;
    broker.client.provision("r2").await.expect(201);
    let bound = broker.client.bind("r2", "b1").await.expect(201);
    let redis = Redis::of(&bound);
    redis.expect("SET mine precious").await;
    start_on(&mut broker, &older).await;
    let listed = broker.operate("orphans", &[]).await;
    assert!(listed.expect(10).contains("--adopt brings it back"), "{listed:?}");
    let running = broker.operate("orphans", &["--adopt", "i-r2"]).await;
    running.expect(1);
    assert!(running.stderr.contains("needs the broker stopped"), "{running:?}");
    broker.terminate().await;
    let unfit = broker.operate("orphans", &["--adopt", "i-r1", "i-r3"]).await;
    let said = unfit.expect(1);
    assert!(said.contains("not adopted i-r1: the store knows it"), "{said}");
    assert!(said.contains("not adopted i-r3: there is no record"), "{said}");
    let adopted = broker.operate("orphans", &["--adopt", "i-r2"]).await;
    assert!(adopted.expect(0).contains("restored    r2: ready, 1 bindings (i-r2)"), "{adopted:?}");
    start(&mut broker).await;
    assert_eq!(redis.expect("GET mine").await, "precious");
    assert_eq!(broker.client.bind("r2", "b1").await.expect(200), bound);
    assert_eq!(broker.operate("orphans", &[]).await.expect(0).lines().count(), 1);
    broker.client.unbind("r2", "b1").await.expect(200);
    for instance in ["r1", "r2"] {
        broker.client.deprovision(instance).await.expect(200);
    }
    assert_eq!(broker.instance_directories(), [""; 0]);
}
