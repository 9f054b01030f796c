//! Data that would go with the container, and directories that have lost theirs.

use std::fs;

use docker_broker::lifecycle::fault::{Step, VARIABLE};

use crate::kill_at_every_step::{arm, send};
use crate::support::{Client, Daemon, REDIS, Redis, TestBroker, docker_ok, eventually, redis_yaml};

/// A redis whose plan keeps its data elsewhere than the image says.
fn misplaced(ephemeral: &str) -> String {
    let volume = "volumes:\n      - {path: /elsewhere, owner: '999:999'}";
    let yaml = redis_yaml("").replace("dir /data", "dir /elsewhere");
    yaml.replace(
        "volumes:\n      - {path: /data, owner: '999:999'}",
        &format!("{volume}{ephemeral}"),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_that_would_lose_the_images_data_makes_no_instances_until_it_says_ephemeral() {
    let mut broker = TestBroker::builder().yaml(misplaced(""), REDIS.0, REDIS.1).start().await;
    eventually("the problem to be said", async || {
        let log = broker.log_text();
        let said = log.contains("a plan makes no new instances, because their data would be lost");
        said.then_some(()).ok_or(log)
    })
    .await;
    let refused = broker.client.provision("r1").await;
    refused.expect(422);
    let text = refused.description();
    assert!(text.contains("keeps data in /data") && text.contains("ephemeral: [/data]"), "{text}");
    assert_eq!(broker.containers(), [""; 0]);
    broker.terminate().await;
    broker.set_yaml(misplaced("\n      ephemeral: [/data]"));
    broker.launch().await;
    broker.ready().await;
    broker.client.provision("r1").await.expect(201);
    broker.client.deprovision("r1").await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_without_any_volume_is_taken_for_ephemeral_with_a_warning() {
    let yaml = redis_yaml("")
        .replace("      volumes:\n      - {path: /data, owner: '999:999'}\n", "")
        .replace("read_only: true, tmpfs: ['/tmp:size=16m']", "read_only: false");
    let broker = TestBroker::builder().yaml(yaml, REDIS.0, REDIS.1).start().await;
    broker.client.provision("r1").await.expect(201);
    assert!(broker.log_text().contains("it is taken for ephemeral"), "{}", broker.log_text());
}

/// A broker with data in `r1`, and in `r2` a redis that keeps nothing; stopped, with the
/// containers gone.
async fn without_containers() -> (TestBroker, Redis) {
    let mut broker = TestBroker::builder().start().await;
    for instance in ["r1", "r2"] {
        broker.client.provision(instance).await.expect(201);
    }
    let redis = Redis::of(&broker.client.bind("r1", "b1").await.expect(201));
    redis.expect("SET mine precious").await;
    broker.terminate().await;
    for instance in ["r1", "r2"] {
        docker_ok(&["rm", "-f", &broker.container(instance)]);
    }
    (broker, redis)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_whose_directory_was_emptied_is_reported_and_not_initialised_afresh() {
    let (mut broker, redis) = without_containers().await;
    let data = broker.directories().join("i-r1/volumes/data");
    let aside = broker.data.path().join("aside");
    fs::rename(&data, &aside).unwrap();
    fs::create_dir(&data).unwrap();
    broker.launch().await;
    broker.ready().await;
    assert_eq!(broker.containers(), [broker.container("r2")]);
    let log = broker.log_text();
    assert!(log.contains("is empty although it held data"), "{log}");
    broker.client.bind("r1", "b2").await.expect(422);
    assert_eq!(fs::read_dir(&data).unwrap().count(), 0);
    broker.terminate().await;
    fs::remove_dir(&data).unwrap();
    fs::rename(&aside, &data).unwrap();
    broker.launch().await;
    broker.ready().await;
    assert_eq!(redis.expect("GET mine").await, "precious");
}

#[tokio::test(flavor = "multi_thread")]
async fn neither_dockerd_nor_a_bind_undoes_that_an_instance_without_its_data_is_kept_stopped() {
    let mut daemon = Daemon::start().await;
    daemon.load_image("redis:7");
    let mut broker = daemon.broker().start().await;
    broker.client.provision("r1").await.expect(201);
    let redis = Redis::of(&broker.client.bind("r1", "b1").await.expect(201));
    redis.expect("SET mine precious").await;
    let name = broker.container("r1");
    let policy = |daemon: &Daemon| {
        daemon.docker_ok(&["inspect", "-f", "{{.HostConfig.RestartPolicy.Name}}", &name])
    };
    let planned = policy(&daemon);
    broker.terminate().await;
    let data = broker.directories().join("i-r1/volumes/data");
    let aside = broker.data.path().join("aside");
    fs::rename(&data, &aside).unwrap();
    fs::create_dir(&data).unwrap();
    broker.launch().await;
    broker.ready().await;
    broker.sickens("r1", "is empty although it held data").await;
    daemon.stop();
    daemon.start_again().await;
    assert_eq!(daemon.docker_ok(&["ps", "--quiet"]), "", "dockerd starts what may run again");
    broker.client.bind("r1", "b2").await.expect(422);
    // It answers, but not with the data.
    daemon.docker_ok(&["start", &name]);
    broker.client.bind("r1", "b2").await.expect(422);
    broker.terminate().await;
    daemon.docker_ok(&["stop", &name]);
    fs::remove_dir_all(&data).unwrap();
    fs::rename(&aside, &data).unwrap();
    broker.launch().await;
    broker.ready().await;
    assert_eq!(redis.expect("GET mine").await, "precious");
    assert_eq!(policy(&daemon), planned);
}

/// Two plans, of which the second keeps nothing.
fn with_caches() -> String {
    let yaml = redis_yaml("");
    let volume = "      volumes:\n      - {path: /data, owner: '999:999'}\n";
    let (first, second) = yaml.rsplit_once(volume).unwrap();
    format!("{first}{}", second.replace("read_only: true", "read_only: false"))
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_disk_nothing_is_started_or_made_and_with_it_everything_is_there() {
    let mut broker = TestBroker::builder().yaml(with_caches(), REDIS.0, REDIS.1).start().await;
    broker.client.provision("r1").await.expect(201);
    let redis = Redis::of(&broker.client.bind("r1", "b1").await.expect(201));
    redis.expect("SET mine precious").await;
    let of_caches =
        |broker: &TestBroker| Client { plan_id: REDIS.2.to_owned(), ..broker.client.clone() };
    of_caches(&broker).provision("cache").await.expect(201);
    // Accepted, but not made yet.
    arm(&mut broker, Step::ProvisionAccepted).await;
    let body = broker.client.provision_body();
    send(&broker, http::Method::PUT, "/v2/service_instances/r3?accepts_incomplete=true", &body)
        .await;
    assert!(!broker.ended().await, "it dies by a signal");
    broker.set_environment(VARIABLE, None);
    for instance in ["r1", "cache"] {
        docker_ok(&["rm", "-f", "-v", &broker.container(instance)]);
    }
    let (disk, aside) = (broker.directories(), broker.data.path().join("aside"));
    fs::rename(&disk, &aside).unwrap();
    fs::create_dir(&disk).unwrap();
    broker.launch().await;
    broker.ready().await;
    assert!(broker.log_text().contains("is the disk mounted?"), "{}", broker.log_text());
    // It has nothing to lose, but whether it was deleted since nobody can tell.
    assert_eq!(broker.containers(), [""; 0]);
    of_caches(&broker).bind("cache", "b1").await.expect(422);
    let refused = broker.client.provision("r4").await;
    refused.expect(422);
    assert!(refused.description().contains("ask the operator"), "{}", refused.description());
    eventually("the interrupted provision to fail", async || {
        let state = broker.client.get("/v2/service_instances/r3/last_operation").await.json();
        if state["state"] == "failed" { Ok(()) } else { Err(state.to_string()) }
    })
    .await;
    assert_eq!(broker.instance_directories(), [""; 0], "nothing is made below the mount point");
    broker.terminate().await;
    fs::remove_dir_all(&disk).unwrap();
    fs::rename(&aside, &disk).unwrap();
    broker.launch().await;
    broker.ready().await;
    assert_eq!(redis.expect("GET mine").await, "precious");
    of_caches(&broker).bind("cache", "b2").await.expect(201);
    broker.client.provision("r3").await.expect(201);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_has_emptied_one_of_its_volumes_goes_on_when_the_broker_starts() {
    let volume = "      - {path: /data, owner: '999:999'}\n";
    let yaml = redis_yaml("")
        .replace(volume, &format!("{volume}      - {{path: /spool, owner: '999:999'}}\n"));
    let mut broker = TestBroker::builder().yaml(yaml, REDIS.0, REDIS.1).start().await;
    broker.client.provision("r1").await.expect(201);
    let redis = Redis::of(&broker.client.bind("r1", "b1").await.expect(201));
    redis.expect("SET mine precious").await;
    let file = broker.directories().join("i-r1/volumes/spool/file");
    fs::write(&file, "for a while").unwrap();
    broker.terminate().await;
    broker.launch().await;
    broker.ready().await;
    broker.terminate().await;
    fs::remove_file(&file).unwrap();
    broker.launch().await;
    broker.ready().await;
    assert_eq!(redis.expect("GET mine").await, "precious");
    broker.client.bind("r1", "b2").await.expect(201);
}
