//! `docker-broker upgrade-all` against a running broker.

use serde_json::Value;

use crate::support::{
    REDIS, Redis, SWITCH, TestBroker, docker_ok, eventually, redis_yaml, switch_yaml,
};

fn redis(version: &str, memory: &str) -> String {
    redis_yaml(&format!("    maintenance_info: {{version: {version}}}\n"))
        .replace("memory: 64m", &format!("memory: {memory}"))
}

/// A broker with these instances, restarted with other services.
async fn restarted(
    first: String,
    second: String,
    ids: (&str, &str),
    instances: &[&str],
) -> TestBroker {
    let mut broker = TestBroker::builder().yaml(first, ids.0, ids.1).start().await;
    for instance in instances {
        broker.client.provision(instance).await.expect(201);
    }
    broker.kill();
    broker.set_yaml(second);
    broker.launch().await;
    broker.ready().await;
    broker
}

fn memory(broker: &TestBroker, instance: &str) -> String {
    docker_ok(&["inspect", "--format", "{{.HostConfig.Memory}}", &broker.container(instance)])
}

fn container_id(broker: &TestBroker, instance: &str) -> String {
    docker_ok(&["inspect", "--format", "{{.Id}}", &broker.container(instance)])
}

#[tokio::test(flavor = "multi_thread")]
async fn every_instance_gets_the_new_plan_with_its_data_and_a_second_run_does_nothing() {
    let all = ["one", "two", "three"];
    let broker = {
        let mut broker =
            TestBroker::builder().yaml(redis("1.0.0", "64m"), REDIS.0, REDIS.1).start().await;
        for instance in all {
            broker.client.provision(instance).await.expect(201);
        }
        let bound = broker.client.bind("one", "b").await.expect(201);
        assert_eq!(Redis::of(&bound).ask("SET key kept").await.as_deref(), Ok("+OK"));
        broker.kill();
        broker.set_yaml(redis("1.1.0", "80m"));
        broker.launch().await;
        broker.ready().await;
        broker
    };
    let before: Vec<_> = all.iter().map(|one| container_id(&broker, one)).collect();
    let dry = broker.operate("upgrade-all", &["--dry-run", "--canaries", "1"]).await;
    let text = dry.expect(0);
    for words in [
        "3 instances: 3 to upgrade",
        "one (redis-for-tests/small): 1.0.0 -> 1.1.0, as a canary",
        "two (redis-for-tests/small): 1.0.0 -> 1.1.0\n",
        "container.limits.memory_bytes: 67108864 -> 83886080",
    ] {
        assert!(text.contains(words), "{words}: {text}");
    }
    let after: Vec<_> = all.iter().map(|one| container_id(&broker, one)).collect();
    assert_eq!(before, after, "a dry run touches nothing");

    let run = broker.operate("upgrade-all", &["--canaries", "1", "--max-in-flight", "2"]).await;
    let text = run.expect(0);
    assert!(text.contains("[canary 1/1] one (redis-for-tests/small): done in "), "{text}");
    assert!(text.contains("3 upgraded in "), "{text}");
    assert!(text.contains("all are up to date"), "{text}");
    for instance in all {
        assert_eq!(memory(&broker, instance), (80 << 20).to_string());
    }
    let bound = broker.client.bind("one", "c").await.expect(201);
    assert_eq!(Redis::of(&bound).ask("GET key").await.as_deref(), Ok("kept"));
    let upgraded: Vec<_> = all.iter().map(|one| container_id(&broker, one)).collect();
    let again = broker.operate("upgrade-all", &[]).await;
    assert!(again.expect(0).contains("0 to upgrade, 3 up to date"), "{again:?}");
    let after: Vec<_> = all.iter().map(|one| container_id(&broker, one)).collect();
    assert_eq!(upgraded, after);
}

/// A plan whose container never answers with the second version.
fn switch(version: &str, broken: bool) -> String {
    let extra = format!("    maintenance_info: {{version: {version}}}\n");
    let yaml = switch_yaml("2s", &extra);
    if broken { yaml.replacen("case \"$MODE\" in", "case silent in", 1) } else { yaml }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_canary_that_fails_stops_everything_and_its_reason_is_said() {
    let all = ["one", "two", "three"];
    let ids = (SWITCH.0, SWITCH.1);
    let broker = restarted(switch("1.0.0", false), switch("1.1.0", true), ids, &all).await;
    let others: Vec<_> = ["two", "three"].iter().map(|one| container_id(&broker, one)).collect();
    let args = ["--canaries", "1", "--max-in-flight", "3", "--continue-on-failure"];
    let run = broker.operate("upgrade-all", &args).await;
    let text = run.expect(1);
    assert!(text.contains("one (switch/switch-plan): the service did not start"), "{text}");
    assert!(text.contains("two (switch/switch-plan): not tried"), "{text}");
    assert!(text.contains("0 upgraded in "), "{text}");
    assert!(text.contains("3 are not up to date"), "{text}");
    let after: Vec<_> = ["two", "three"].iter().map(|one| container_id(&broker, one)).collect();
    assert_eq!(others, after);
    // Without canaries, but with patience, each is tried.
    let run = broker.operate("upgrade-all", &["--continue-on-failure"]).await;
    let text = run.expect(1);
    assert!(!text.contains("not tried"), "{text}");
    assert_eq!(text.matches("FAILED: the service did not start").count(), 3, "{text}");
    // And by itself it stops at the first.
    let run = broker.operate("upgrade-all", &[]).await;
    assert_eq!(run.expect(1).matches("FAILED").count(), 1, "{run:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_was_chosen_is_upgraded() {
    let all = ["one", "two"];
    let mut broker =
        restarted(redis("1.0.0", "64m"), redis("1.1.0", "80m"), (REDIS.0, REDIS.1), &all).await;
    broker.client.plan_id = REDIS.2.to_owned();
    broker.client.provision("large").await.expect(201);
    let run = broker.operate("upgrade-all", &["--only", "redis-for-tests/large"]).await;
    assert!(run.expect(0).contains("1 instances: 0 to upgrade, 1 up to date"), "{run:?}");
    let run = broker.operate("upgrade-all", &["--instance", "two"]).await;
    run.expect(0);
    assert_eq!(memory(&broker, "one"), (64 << 20).to_string());
    assert_eq!(memory(&broker, "two"), (80 << 20).to_string());
    for args in [["--only", "no-service"], ["--instance", "no-instance"]] {
        let run = broker.operate("upgrade-all", &args).await;
        assert!(run.stderr.contains(args[1]), "{run:?}");
        run.expect(1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_busy_instance_is_tried_again_and_given_up_at_the_limit() {
    let slow = |version: &str| {
        switch_yaml("60s", &format!("    maintenance_info: {{version: {version}}}\n"))
    };
    let ids = (SWITCH.0, SWITCH.1);
    let broker = restarted(slow("1.0.0"), slow("1.1.0"), ids, &["one"]).await;
    // An update that does not end keeps it busy.
    let body = serde_json::json!({ "service_id": SWITCH.0, "parameters": { "mode": "silent" } });
    let path = "/v2/service_instances/one?accepts_incomplete=true";
    broker.client.patch(path, &body).await.expect(202);
    let args = ["--attempt-limit", "2", "--attempt-interval", "100ms"];
    let run = broker.operate("upgrade-all", &args).await;
    let text = run.expect(1);
    assert!(text.contains("tried again in 0 s"), "{text}");
    assert!(text.contains("(tried 2 times)"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_run_ends_what_it_began_and_the_next_one_goes_on() {
    let all = ["one", "two", "three"];
    let broker =
        restarted(redis("1.0.0", "64m"), redis("1.1.0", "80m"), (REDIS.0, REDIS.1), &all).await;
    let child = broker.operator("upgrade-all", &[]).spawn().unwrap();
    eventually("the first upgrade to be under way", async || {
        let document = broker.operate("instances", &["--json"]).await.expect_json(0);
        let busy = |one: &Value| one["state"] == "updating";
        let list = document["instances"].as_array().cloned().unwrap_or_default();
        if list.iter().any(busy) { Ok(()) } else { Err(document.to_string()) }
    })
    .await;
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let ended = tokio::task::spawn_blocking(|| child.wait_with_output()).await.unwrap().unwrap();
    let text = String::from_utf8_lossy(&ended.stdout).into_owned();
    assert_eq!(ended.status.code(), Some(1), "{text}");
    assert!(text.contains("SIGINT: nothing more is begun; under way: "), "{text}");
    assert!(text.contains("three (redis-for-tests/small): not tried"), "{text}");
    let next = broker.operate("upgrade-all", &[]).await;
    assert!(next.expect(0).contains("all are up to date"), "{next:?}");
    assert!(!next.stdout.contains(" 3 to upgrade"), "{next:?}");
    for instance in all {
        assert_eq!(memory(&broker, instance), (80 << 20).to_string());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_runs_with_another_configuration_is_not_driven() {
    let broker = {
        let broker =
            TestBroker::builder().yaml(redis("1.0.0", "64m"), REDIS.0, REDIS.1).start().await;
        broker.client.provision("one").await.expect(201);
        broker
    };
    // The file changes, the broker runs on.
    let file = broker.data.path().join("services.yml");
    std::fs::write(file, redis("1.1.0", "80m")).unwrap();
    let run = broker.operate("upgrade-all", &[]).await;
    run.expect(1);
    assert!(run.stderr.contains("offers version 1.0.0 of redis-for-tests/small"), "{run:?}");
    assert_eq!(memory(&broker, "one"), (64 << 20).to_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_upgrade_can_change_is_not_counted_as_up_to_date() {
    let broker =
        restarted(redis("1.0.0", "64m"), redis("1.0.0", "80m"), (REDIS.0, REDIS.1), &["one"]).await;
    let run = broker.operate("upgrade-all", &[]).await;
    let text = run.expect(1);
    assert!(text.contains("0 to upgrade, 0 up to date, 1 held"), "{text}");
    assert!(text.contains("1 are not up to date"), "{text}");
    assert!(text.contains("raise it in the service file"), "{text}");
}
