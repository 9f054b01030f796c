//! dockerd goes away and comes back: operations wait for it or fail cleanly, nothing is lost.

use std::fs;

use crate::support::{
    BY_ENVIRONMENT, Builder, Daemon, REDIS, Redis, Tag, TestBroker, eventually, restart_on,
    upgrade_body, versioned_yaml,
};

/// A dockerd of its own with the redis image, and a broker on it with an instance that has data.
async fn with_data(builder: impl FnOnce(&Daemon) -> Builder) -> (Daemon, TestBroker, Redis) {
    let daemon = Daemon::start().await;
    daemon.load_image("redis:7");
    let broker = builder(&daemon).start().await;
    broker.client.provision("r1").await.expect(201);
    let redis = Redis::of(&broker.client.bind("r1", "b1").await.expect(201));
    redis.expect("SET mine precious").await;
    (daemon, broker, redis)
}

/// Waits until a redis answers again.
async fn answers(redis: &Redis) {
    eventually("redis to answer", async || match redis.ask("GET mine").await?.as_str() {
        "precious" => Ok(()),
        other => Err(other.to_owned()),
    })
    .await;
}

/// Containers of the broker on the daemon.
fn containers(daemon: &Daemon) -> String {
    daemon.docker_ok(&["ps", "-a", "--format", "{{.Names}}"])
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_keeps_its_endpoint_and_data_over_a_restart_of_dockerd() {
    let (mut daemon, _broker, redis) = with_data(Daemon::broker).await;
    daemon.stop();
    assert!(redis.ask("PING").await.is_err(), "it is down with its daemon");
    daemon.start_again().await;
    answers(&redis).await;
    daemon.kill();
    daemon.start_again().await;
    answers(&redis).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn operations_accepted_while_dockerd_is_away_go_on_when_it_is_back() {
    let (mut daemon, broker, _) = with_data(Daemon::broker).await;
    daemon.stop();
    let client = &broker.client;
    let ready = client.raw(http::Method::GET, "/readyz", &[], "").await.unwrap();
    assert_eq!((ready.status, ready.json()["docker"].as_str()), (503, Some("unavailable")));
    client.get("/v2/catalog").await.expect(200);
    client.bind("r1", "b2").await.expect(201);
    client.provision_async("r2").await.expect(202);
    let path = format!("/v2/service_instances/r1?accepts_incomplete=true&{}", client.ids());
    client.delete(&path).await.expect(202);
    client.delete(&path).await.expect(202);
    let polled = client.get("/v2/service_instances/r1/last_operation").await.expect(200);
    assert_eq!(polled["state"], "in progress", "never gone while nobody can tell");
    daemon.start_again().await;
    assert_eq!(client.poll("r1").await.0, "succeeded");
    assert_eq!(client.poll("r2").await.0, "succeeded");
    let redis = Redis::of(&client.bind("r2", "b").await.expect(201));
    assert_eq!(redis.expect("PING").await, "+PONG");
    assert_eq!(containers(&daemon), broker.container("r2"));
    assert_eq!(broker.instance_directories(), ["i-r2"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operation_that_waits_too_long_for_dockerd_fails_and_the_instance_can_be_deleted() {
    let impatient = |daemon: &Daemon| daemon.broker().setting("operation_timeout: 2s");
    let (mut daemon, broker, redis) = with_data(impatient).await;
    daemon.stop();
    let client = &broker.client;
    let refused = client.deprovision("r1").await;
    refused.expect(500);
    assert!(refused.description().contains("Docker engine"), "{}", refused.description());
    client.provision("r2").await.expect(500);
    assert_eq!(broker.instance_directories().len(), 2, "the data is still there");
    daemon.start_again().await;
    answers(&redis).await;
    for instance in ["r1", "r2"] {
        client.deprovision(instance).await.expect(200);
        client.deprovision(instance).await.expect(410);
    }
    assert_eq!(containers(&daemon), "");
    assert_eq!(broker.instance_directories(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provision_under_way_survives_a_killed_dockerd() {
    let (mut daemon, broker, redis) = with_data(Daemon::broker).await;
    let names: Vec<String> = (0..6).map(|number| format!("n{number}")).collect();
    for name in &names {
        broker.client.provision_async(name).await.expect(202);
    }
    daemon.kill();
    daemon.start_again().await;
    for name in &names {
        let (state, reason) = broker.client.poll(name).await;
        // What dockerd was told in its last moment may be half done; then it has to be clean.
        if state == "succeeded" {
            let bound = broker.client.bind(name, "b").await.expect(201);
            answers_ping(&Redis::of(&bound)).await;
        } else {
            assert!(!reason.is_empty());
        }
        broker.client.deprovision(name).await.expect(200);
    }
    answers(&redis).await;
    assert_eq!(containers(&daemon), broker.container("r1"));
    assert_eq!(broker.instance_directories(), ["i-r1"]);
}

async fn answers_ping(redis: &Redis) {
    eventually("redis to answer", async || redis.ask("PING").await.map(|_| ())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_instances_return_when_dockerd_has_lost_its_containers() {
    let at_start = |daemon: &Daemon| daemon.broker().setting("reconcile_interval: 0s");
    let (mut daemon, mut broker, redis) = with_data(at_start).await;
    for name in ["n1", "n2", "n3"] {
        broker.client.provision(name).await.expect(201);
    }
    daemon.docker_ok(&["rm", "-f", &broker.container("r1"), &broker.container("n2")]);
    daemon.stop();
    broker.kill();
    daemon.start_again().await;
    broker.launch().await;
    broker.ready().await;
    answers(&redis).await;
    assert_eq!(containers(&daemon).lines().count(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_migration_that_loses_sight_of_dockerd_is_taken_back_and_not_run_again() {
    let mut daemon = Daemon::start().await;
    daemon.stop();
    // The hook itself runs on while its daemon is away.
    daemon.configure(r#"{"live-restore": true}"#);
    daemon.start_again().await;
    let mut tag = Tag::new();
    tag.set_major(15);
    daemon.load_image(&tag.name);
    let plain = versioned_yaml(&tag, BY_ENVIRONMENT, "");
    let hook = "echo run >> /data/runs; sleep 8; echo $MAJOR > /data/VERSION";
    let hook = format!("    lifecycle: {{migrate: '{hook}'}}\n");
    let migrating = versioned_yaml(&tag, BY_ENVIRONMENT, &hook);
    let mut broker = daemon.broker().yaml(plain, REDIS.0, REDIS.1).start().await;
    broker.client.provision("r1").await.expect(201);
    let redis = Redis::of(&broker.client.bind("r1", "b1").await.expect(201));
    redis.expect("SET mine precious").await;
    tag.set_major(17);
    daemon.load_image(&tag.name);
    restart_on(&mut broker, migrating).await;
    let path = "/v2/service_instances/r1?accepts_incomplete=true";
    broker.client.patch(path, &upgrade_body(&broker).await).await.expect(202);
    let instance = broker.directories().join("i-r1");
    eventually("the hook to begin", async || {
        let begun = fs::metadata(instance.join("volumes/data/runs"));
        begun.map(|_| ()).map_err(|error| error.to_string())
    })
    .await;
    daemon.kill();
    daemon.start_again().await;
    let (state, reason) = broker.client.poll("r1").await;
    assert_eq!(state, "failed");
    assert!(reason.contains("was interrupted") && reason.contains("as it was"), "{reason}");
    answers(&redis).await;
    let version = fs::read_to_string(instance.join("volumes/data/VERSION")).unwrap();
    assert_eq!(version, "15\n");
    let mut failed = fs::read_dir(instance.join("failed")).unwrap();
    let left = failed.next().unwrap().unwrap().path().join("data/runs");
    assert_eq!(fs::read_to_string(left).unwrap(), "run\n");
    assert_eq!(containers(&daemon), broker.container("r1"));
}
