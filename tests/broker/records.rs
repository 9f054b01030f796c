//! The record beside each instance's data, and `rebuild-store`, which makes a lost store of them.

use std::fs;

use docker_broker::lifecycle::fault::{Step, VARIABLE};
use serde_json::json;

use crate::{
    disk_full::SmallDisk,
    shared_containers,
    support::{REDIS, Redis, TestBroker, docker_ok, eventually},
};

/// A broker with an instance and a binding to data in it, stopped.
async fn stopped_broker() -> (TestBroker, Redis) {
    let mut broker = TestBroker::builder().start().await;
    broker.client.provision("r1").await.expect(201);
    let redis = Redis::of(&broker.client.bind("r1", "b1").await.expect(201));
    redis.expect("SET mine precious").await;
    broker.terminate().await;
    (broker, redis)
}

/// The store of a stopped broker, all in its one file.
pub(crate) fn whole_store(broker: &TestBroker) -> Vec<u8> {
    let path = broker.data.path().join("broker.db");
    let store = rusqlite::Connection::open(&path).unwrap();
    store.pragma_update(None, "journal_mode", "DELETE").unwrap();
    drop(store);
    fs::read(&path).unwrap()
}

pub(crate) async fn start(broker: &mut TestBroker) {
    broker.launch().await;
    broker.ready().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_store_is_rebuilt_and_every_binding_goes_on_with_its_port_and_password() {
    let (mut broker, redis) = stopped_broker().await;
    broker.lose_store();
    let refused = broker.refused_start();
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.stderr.contains("rebuild-store"), "{refused:?}");
    assert!(!broker.data.path().join("broker.db").exists(), "nothing was made");
    let rebuilt = broker.rebuild_store();
    assert_eq!(rebuilt.code, Some(0), "{rebuilt:?}");
    assert!(rebuilt.stdout.contains("restored    r1: ready, 1 bindings (i-r1)"), "{rebuilt:?}");
    assert!(rebuilt.stdout.contains("no encryption_keys are configured"), "{rebuilt:?}");
    let container = docker_ok(&["inspect", "-f", "{{.Id}}", &broker.container("r1")]);
    start(&mut broker).await;
    assert_eq!(redis.expect("GET mine").await, "precious");
    assert_eq!(docker_ok(&["inspect", "-f", "{{.Id}}", &broker.container("r1")]), container);
    let client = &broker.client;
    let bound = Redis::of(&client.bind("r1", "b1").await.expect(200));
    assert_eq!(bound.expect("GET mine").await, "precious");
    client.bind("r1", "b2").await.expect(201);
    client.unbind("r1", "b1").await.expect(200);
    client.provision("r1").await.expect(200);
    let body = json!({ "service_id": REDIS.0, "plan_id": REDIS.2 });
    client.patch("/v2/service_instances/r1", &body).await.expect(200);
    assert_eq!(redis.expect("GET mine").await, "precious");
    client.provision("r2").await.expect(201);
    for instance in ["r1", "r2"] {
        client.deprovision(instance).await.expect(200);
    }
    assert_eq!(broker.instance_directories(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_was_deleted_does_not_come_back_and_neither_does_its_binding() {
    let mut broker = TestBroker::builder().start().await;
    for instance in ["gone", "stays"] {
        broker.client.provision(instance).await.expect(201);
        for binding in ["b1", "b2"] {
            broker.client.bind(instance, binding).await.expect(201);
        }
    }
    broker.client.unbind("stays", "b1").await.expect(200);
    broker.client.deprovision("gone").await.expect(200);
    broker.kill();
    broker.lose_store();
    let rebuilt = broker.rebuild_store();
    assert_eq!(rebuilt.code, Some(0), "{rebuilt:?}");
    start(&mut broker).await;
    broker.client.get("/v2/service_instances/gone").await.expect(404);
    broker.client.unbind("stays", "b1").await.expect(410);
    broker.client.unbind("stays", "b2").await.expect(200);
    broker.client.provision("gone").await.expect(201);
}

#[tokio::test(flavor = "multi_thread")]
async fn with_the_containers_gone_as_well_the_directories_are_enough() {
    let (mut broker, redis) = stopped_broker().await;
    broker.lose_store();
    docker_ok(&["rm", "-f", &broker.container("r1")]);
    let right = broker.builder.clone();
    broker.builder = right.clone().setting("docker_url: unix:///no/such/docker.sock");
    let rebuilt = broker.rebuild_store();
    assert_eq!(rebuilt.code, Some(10), "nobody has looked at containers: {rebuilt:?}");
    broker.builder = right;
    broker.lose_store();
    let rebuilt = broker.rebuild_store();
    assert_eq!(rebuilt.code, Some(0), "{rebuilt:?}");
    start(&mut broker).await;
    assert_eq!(redis.expect("GET mine").await, "precious");
    broker.client.deprovision("r1").await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_key_nothing_is_changed_and_each_record_is_named() {
    let builder = TestBroker::builder().setting("encryption_keys: [the-key-of-this-test]");
    let mut broker = builder.start().await;
    broker.client.provision("r1").await.expect(201);
    broker.terminate().await;
    broker.lose_store();
    let right = broker.builder.clone();
    broker.builder = right.clone().setting("encryption_keys: [another-key-of-this-test]");
    let refused = broker.rebuild_store();
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.stdout.contains("no key      i-r1"), "{refused:?}");
    assert!(refused.stdout.contains("nothing was changed"), "{refused:?}");
    assert!(!broker.data.path().join("broker.db").exists());
    broker.builder = right;
    assert_eq!(broker.rebuild_store().code, Some(0));
    start(&mut broker).await;
    broker.client.deprovision("r1").await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_record_is_reported_and_the_others_come_back() {
    let mut broker = TestBroker::builder().start().await;
    for instance in ["r1", "r2"] {
        broker.client.provision(instance).await.expect(201);
    }
    for binding in ["b1", "b2"] {
        broker.client.bind("r1", binding).await.expect(201);
    }
    broker.client.unbind("r1", "b1").await.expect(200);
    broker.terminate().await;
    broker.lose_store();
    let rotten = broker.directories().join("i-r1/record");
    let mut bytes = fs::read(&rotten).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&rotten, bytes).unwrap();
    let record = broker.directories().join("i-r2/record");
    fs::write(&record, b"docker-broker record 1\nnonsense").unwrap();
    let rebuilt = broker.rebuild_store();
    assert!(rebuilt.stdout.contains("restored    r1: ready, 2 bindings (i-r1)"), "{rebuilt:?}");
    assert!(rebuilt.stdout.contains("damaged     r1: its record (i-r1)"), "{rebuilt:?}");
    assert_eq!(rebuilt.code, Some(10), "{rebuilt:?}");
    assert!(rebuilt.stdout.contains("skipped     i-r2: its record cannot be used"), "{rebuilt:?}");
    let unknown = format!("no record   container {}: instance r2", broker.container("r2"));
    assert!(rebuilt.stdout.contains(&unknown), "{rebuilt:?}");
    let again = broker.rebuild_store();
    assert_eq!(again.code, Some(1), "{again:?}");
    assert!(again.stderr.contains("has 1 instances"), "{again:?}");
    start(&mut broker).await;
    broker.client.deprovision("r1").await.expect(200);
    assert!(record.exists(), "what nobody knows is left alone");
}

#[tokio::test(flavor = "multi_thread")]
async fn records_are_sealed_private_and_made_anew_when_the_key_changes_or_they_are_lost() {
    let (old, new) = ("the-old-key-of-this-test", "the-new-key-of-this-test");
    let setting = |keys: &str| format!("encryption_keys: [{keys}]");
    let mut broker = TestBroker::builder().setting(setting(old)).start().await;
    for instance in ["r1", "r2"] {
        broker.client.provision(instance).await.expect(201);
    }
    let bound = broker.client.bind("r1", "b1").await.expect(201);
    let password = bound["credentials"]["password"].as_str().unwrap().as_bytes();
    let path = broker.directories().join("i-r1/record");
    let text = fs::read(&path).unwrap();
    assert!(!text.windows(password.len()).any(|window| window == password));
    let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&path).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    broker.terminate().await;
    fs::remove_file(broker.directories().join("i-r2/record")).unwrap();
    broker.builder = broker.builder.clone().setting(setting(&format!("{new}, {old}")));
    start(&mut broker).await;
    broker.terminate().await;
    broker.lose_store();
    broker.builder = broker.builder.clone().setting(setting(new));
    let rebuilt = broker.rebuild_store();
    assert_eq!(rebuilt.code, Some(0), "{rebuilt:?}");
    start(&mut broker).await;
    let redis = Redis::of(&broker.client.bind("r1", "b1").await.expect(200));
    assert_eq!(redis.expect("PING").await, "+PONG");
    broker.client.deprovision("r2").await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_store_leaves_instances_with_newer_records_alone() {
    let (mut broker, redis) = stopped_broker().await;
    let store = broker.data.path().join("broker.db");
    let older = whole_store(&broker);
    start(&mut broker).await;
    broker.client.bind("r1", "b2").await.expect(201);
    broker.client.provision("r2").await.expect(201);
    broker.terminate().await;
    let record = broker.directories().join("i-r1/record");
    let before = fs::read(&record).unwrap();
    broker.lose_store();
    fs::write(&store, older).unwrap();
    broker.launch().await;
    broker.ready().await;
    let log = broker.log_text();
    assert!(log.contains("is newer than the store"), "{log}");
    assert!(log.contains("a directory has no instance; it is left alone"), "{log}");
    broker.client.bind("r1", "b3").await.expect(422);
    let body = json!({ "service_id": REDIS.0, "plan_id": REDIS.2 });
    broker.client.patch("/v2/service_instances/r1", &body).await.expect(422);
    assert_eq!(redis.expect("GET mine").await, "precious");
    broker.terminate().await;
    assert_eq!(fs::read(&record).unwrap(), before);
    broker.lose_store();
    assert_eq!(broker.rebuild_store().code, Some(0));
    start(&mut broker).await;
    broker.client.unbind("r1", "b2").await.expect(200);
    broker.client.deprovision("r2").await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_or_emptied_store_is_refused_with_what_to_do_and_nothing_is_touched() {
    let (mut broker, redis) = stopped_broker().await;
    let store = broker.data.path().join("broker.db");
    let whole = whole_store(&broker);
    let mut torn = whole.clone();
    for byte in &mut torn[4096..8192] {
        *byte = 0xa5;
    }
    for damaged in [Vec::new(), b"no store at all".to_vec(), whole[..4096].to_vec(), torn] {
        fs::write(&store, &damaged).unwrap();
        let refused = broker.refused_start();
        assert_eq!(refused.code, Some(1), "{refused:?}");
        assert!(refused.stderr.contains("rebuild-store"), "{refused:?}");
        assert_eq!(fs::read(&store).unwrap(), damaged, "nothing was changed");
    }
    fs::write(&store, whole).unwrap();
    start(&mut broker).await;
    assert_eq!(redis.expect("GET mine").await, "precious");
}

#[tokio::test(flavor = "multi_thread")]
async fn tenants_of_a_shared_container_come_back_into_it() {
    let mut broker = shared_containers::broker().await;
    for instance in ["one", "two"] {
        broker.client.provision(instance).await.expect(201);
    }
    let bound = [
        Redis::of(&broker.client.bind("one", "b").await.expect(201)),
        Redis::of(&broker.client.bind("two", "b").await.expect(201)),
    ];
    let containers = broker.containers();
    broker.terminate().await;
    broker.lose_store();
    let rebuilt = broker.rebuild_store();
    assert_eq!(rebuilt.code, Some(0), "{rebuilt:?}");
    assert!(rebuilt.stdout.contains("3 instances restored"), "{rebuilt:?}");
    start(&mut broker).await;
    assert_eq!(broker.containers(), containers);
    for redis in &bound {
        assert_eq!(redis.expect("PING").await, "+PONG");
    }
    broker.client.unbind("one", "b").await.expect(200);
    assert!(bound[0].ask("PING").await.is_err() || bound[0].ask("PING").await.unwrap() != "+PONG");
    broker.client.provision("three").await.expect(201);
    for instance in ["one", "two", "three"] {
        broker.client.deprovision(instance).await.expect(200);
    }
    assert_eq!(broker.containers(), [""; 0]);
    assert_eq!(broker.instance_directories(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_was_being_deleted_goes_on_being_deleted() {
    let mut broker = TestBroker::builder().start().await;
    broker.client.provision("r1").await.expect(201);
    broker.kill();
    broker.set_environment(VARIABLE, Some(&Step::DeprovisionStopped.name()));
    start(&mut broker).await;
    let path = format!("/v2/service_instances/r1?accepts_incomplete=true&{}", broker.client.ids());
    let authorization = broker.client.authorization();
    let headers = [("authorization", authorization.as_str()), ("x-broker-api-version", "2.17")];
    // The broker dies before or after its answer.
    drop(broker.client.raw(http::Method::DELETE, &path, &headers, String::new()).await);
    assert!(!broker.ended().await, "it dies by a signal");
    broker.set_environment(VARIABLE, None);
    broker.lose_store();
    let rebuilt = broker.rebuild_store();
    assert!(rebuilt.stdout.contains("restored    r1: deprovisioning"), "{rebuilt:?}");
    start(&mut broker).await;
    eventually("the instance to be gone", async || {
        let reply = broker.client.get("/v2/service_instances/r1").await;
        (reply.status == 404).then_some(()).ok_or_else(|| reply.status.to_string())
    })
    .await;
    assert_eq!(broker.containers(), [""; 0]);
    assert_eq!(broker.instance_directories(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_answered_as_succeeded_before_its_record_can_be_written() {
    let elsewhere = tempfile::tempdir().unwrap();
    let disk = SmallDisk::mount(elsewhere.path());
    let setting = format!("host_directory: {}", elsewhere.path().join("instances").display());
    let mut broker = TestBroker::builder().setting(setting).start().await;
    broker.client.provision("r1").await.expect(201);
    disk.fill();
    // What still fits into the record's last block is used up.
    let mut refused = None;
    for number in 0..50 {
        let id = format!("b{number}");
        if broker.client.bind("r1", &id).await.status == 500 {
            refused = Some(id);
            break;
        }
    }
    let refused = refused.expect("the disk is full at some time");
    let log = broker.log_text();
    assert!(log.contains("the record beside an instance's data could not be written"), "{log}");
    broker.client.bind("r1", &refused).await.expect(500);
    broker.client.provision("r2").await.expect(500);
    assert_eq!(broker.containers(), [broker.container("r1")], "nothing was made");
    disk.free();
    let bound = broker.client.bind("r1", &refused).await.expect(200);
    assert_eq!(Redis::of(&bound).expect("PING").await, "+PONG");
    broker.client.bind("r1", "last").await.expect(201);
    broker.kill();
    broker.lose_store();
    assert_eq!(broker.rebuild_store().code, Some(0));
    start(&mut broker).await;
    broker.client.unbind("r1", &refused).await.expect(200);
    disk.fill();
    // What makes room is not kept from doing so.
    broker.client.deprovision("r1").await.expect(200);
    assert_eq!(broker.containers(), [""; 0]);
    broker.kill();
    drop(disk);
}
