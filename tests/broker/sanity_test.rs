//! `docker-broker sanity-test` against a running broker.

use std::process::{Child, Command, Stdio};

use crate::support::{
    Ca, TestBroker, busybox_service, docker, docker_ok, eventually, redis_yaml, service_file,
    switch_yaml, unique,
};

/// How the command ended, with its output in one piece.
struct Run {
    code: Option<i32>,
    text: String,
}

fn command(broker: &TestBroker, args: &[&str]) -> Command {
    let (_, port) = broker.client.address.rsplit_once(':').expect("an address has a port");
    let mut command = Command::new(env!("CARGO_BIN_EXE_docker-broker"));
    command
        .args(["sanity-test", "--config"])
        .arg(broker.settings_file())
        .args(["--port", port])
        .args(args)
        .env("DOCKER_BROKER_PASSWORD", &broker.client.password)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

fn finish(child: Child) -> Run {
    let output = child.wait_with_output().expect("the command can be waited for");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Run { code: output.status.code(), text: text(&output.stdout) + &text(&output.stderr) }
}

async fn run(broker: &TestBroker, args: &[&str]) -> Run {
    let child = command(broker, args).spawn().expect("the command can be started");
    tokio::task::spawn_blocking(|| finish(child)).await.expect("it ends")
}

fn nothing_is_left(broker: &TestBroker) {
    assert_eq!(broker.containers(), [""; 0]);
    assert_eq!(broker.instance_directories(), [""; 0]);
}

const PING: &str = r#"    sanity_test: {tcp: 6379/tcp, send: "AUTH {{username}} {{password}}\r\nPING\r\n", expect: +PONG}
"#;

#[tokio::test(flavor = "multi_thread")]
async fn every_plan_passes_twice_in_a_row_and_nothing_is_left() {
    let exec = r#"    sanity_test:
      exec: [sh, -c, 'REDISCLI_AUTH=$BINDING_PASSWORD redis-cli --user "$BINDING_USERNAME" ping | grep PONG']
"#;
    for extra in [format!("    binding_rotatable: true\n{PING}"), exec.to_owned()] {
        let builder = TestBroker::builder();
        let broker = builder.yaml(redis_yaml(&extra), "redis-service", "redis-small").start().await;
        for _ in 0..2 {
            let run = run(&broker, &[]).await;
            assert_eq!(run.code, Some(0), "{}", run.text);
            for words in ["redis-for-tests  small  ok", "redis-for-tests  large  ok", "all of them"]
            {
                assert!(run.text.contains(words), "{words}: {}", run.text);
            }
            let check = if extra.contains("exec") { "client command" } else { "rotation" };
            assert!(run.text.contains(check), "{}", run.text);
            nothing_is_left(&broker);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn shipped_services_pass_with_their_own_checks_over_tls() {
    let ca = Ca::new("sanity test");
    let files = ["op-redis7.yml", "op-postgres17.yml", "op-mariadb11.yml"].map(service_file);
    let broker = TestBroker::builder().services(&files).setting(ca.setting("")).start().await;
    let only = ["redis7/small", "postgres17/small", "mariadb11/small"];
    let args: Vec<&str> = only.into_iter().flat_map(|name| ["--only", name]).collect();
    let run = run(&broker, &args).await;
    assert_eq!(run.code, Some(0), "{}", run.text);
    nothing_is_left(&broker);
}

#[tokio::test(flavor = "multi_thread")]
async fn shipped_services_pass_with_their_own_checks() {
    let files = [
        "op-redis7.yml",
        "op-postgres17.yml",
        "op-mariadb11.yml",
        "op-rabbitmq4.yml",
        "op-memcached16.yml",
        "op-nats2.yml",
    ];
    let broker = TestBroker::builder().services(&files.map(service_file)).start().await;
    let only = [
        "redis7",
        "postgres17/small",
        "mariadb11/small",
        "rabbitmq4/small",
        "memcached16/small",
        "nats2/small",
    ];
    let args: Vec<&str> = only.into_iter().flat_map(|name| ["--only", name]).collect();
    let run = run(&broker, &args).await;
    assert_eq!(run.code, Some(0), "{}", run.text);
    assert!(run.text.contains("7 plans tested"), "{}", run.text);
    nothing_is_left(&broker);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_that_does_not_work_fails_alone_with_its_reason_and_is_cleaned_up() {
    let wrong = PING.replace("+PONG", "+PANG").replace("PING\\r\\n", "PING\\r\\nQUIT\\r\\n");
    let mut yaml = redis_yaml(PING);
    // Only the first of the two plans.
    yaml = yaml.replacen(PING, &wrong, 1);
    let broker = TestBroker::builder().yaml(yaml, "redis-service", "redis-small").start().await;
    let run = run(&broker, &[]).await;
    assert_eq!(run.code, Some(1), "{}", run.text);
    for words in [
        "redis-for-tests  small  FAILED",
        "redis-for-tests  large  ok",
        "redis-for-tests/small: connect: 127.0.0.1:",
        "another answer than expected",
    ] {
        assert!(run.text.contains(words), "{words}: {}", run.text);
    }
    nothing_is_left(&broker);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provision_that_fails_is_said_and_cleaned_up() {
    let test = "    sanity_test: {parameters: {mode: broken}}\n";
    let yaml = switch_yaml("20s", test);
    let broker = TestBroker::builder().yaml(yaml, "switch-service", "switch-plan").start().await;
    let only = run(&broker, &["--only", "switch/switch-plan"]).await;
    assert_eq!(only.code, Some(1), "{}", only.text);
    assert!(only.text.contains("switch/switch-plan: provision: "), "{}", only.text);
    assert!(only.text.contains("exit code 3"), "{}", only.text);
    nothing_is_left(&broker);
    // A plan that cannot be bound is provisioned and deprovisioned.
    let unbindable = run(&broker, &["--only", "other/other-plan"]).await;
    assert_eq!(unbindable.code, Some(0), "{}", unbindable.text);
    assert!(unbindable.text.contains("provision, deprovision"), "{}", unbindable.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_that_a_client_command_prints_are_masked() {
    let test = r"    sanity_test: {exec: [sh, -c, 'echo password $BINDING_PASSWORD; exit 4']}
";
    let yaml = redis_yaml(test);
    let broker = TestBroker::builder().yaml(yaml, "redis-service", "redis-small").start().await;
    let run = run(&broker, &["--only", "redis-for-tests/small"]).await;
    assert_eq!(run.code, Some(1), "{}", run.text);
    assert!(run.text.contains("exit code 4: password [redacted]"), "{}", run.text);
    nothing_is_left(&broker);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_run_cleans_up_and_the_next_one_removes_what_a_killed_one_left() {
    let test = "    sanity_test: {parameters: {mode: silent}}\n";
    let yaml = switch_yaml("60s", test);
    let broker = TestBroker::builder().yaml(yaml, "switch-service", "switch-plan").start().await;
    let begin = async || {
        let child = command(&broker, &["--only", "switch/switch-plan"]).spawn().unwrap();
        eventually("the instance to have a container", async || {
            let running = broker.containers().iter().any(|name| !name.is_empty());
            if running { Ok(()) } else { Err(broker.log_text()) }
        })
        .await;
        child
    };
    let interrupted = begin().await;
    let pid = rustix::process::Pid::from_child(&interrupted);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let ended = tokio::task::spawn_blocking(|| finish(interrupted)).await.unwrap();
    assert_eq!(ended.code, Some(1), "{}", ended.text);
    assert!(ended.text.contains("interrupted by SIGINT; what was made"), "{}", ended.text);
    nothing_is_left(&broker);
    let mut killed = begin().await;
    // While one runs, another is refused.
    let second = run(&broker, &["--only", "other/other-plan"]).await;
    assert!(second.text.contains("another sanity-test runs"), "{}", second.text);
    assert_eq!(second.code, Some(1));
    killed.kill().unwrap();
    killed.wait().unwrap();
    let next = run(&broker, &["--only", "other/other-plan"]).await;
    assert_eq!(next.code, Some(0), "{}", next.text);
    assert!(next.text.contains("which an earlier run left behind"), "{}", next.text);
    nothing_is_left(&broker);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_a_killed_run_left_without_a_container_is_removed_as_well() {
    let test = "    sanity_test: {parameters: {mode: broken}}\n";
    let yaml = switch_yaml("20s", test);
    let broker = TestBroker::builder().yaml(yaml, "switch-service", "switch-plan").start().await;
    let id = "sanity-test-killed";
    let mut body = broker.client.provision_body();
    body["parameters"] = serde_json::json!({ "mode": "broken" });
    let path = format!("/v2/service_instances/{id}");
    assert!(broker.client.put(&path, &body).await.status >= 400, "it fails and keeps its row");
    assert_eq!(broker.containers(), [""; 0]);
    let journal = broker.data.path().join("sanity-test.lock");
    std::fs::write(&journal, format!("{id}\nswitch-service\nswitch-plan\n")).unwrap();
    let run = run(&broker, &["--only", "other/other-plan"]).await;
    assert_eq!(run.code, Some(0), "{}", run.text);
    assert!(run.text.contains("removing sanity-test-killed"), "{}", run.text);
    broker.client.deprovision(id).await.expect(410);
    assert_eq!(std::fs::read_to_string(&journal).unwrap(), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_whose_removal_failed_is_removed_by_the_next_run() {
    // It lives in a container that is not the broker's, so nothing of Docker's names it.
    let container = unique("operators-");
    docker_ok(&["run", "-d", "--name", &container, "busybox:1", "sleep", "1000"]);
    let yaml = format!(
        "services:
- id: existing-service
  name: existing
  description: d
  bindable: false
  plans:
  - id: existing-plan
    name: plan
    description: d
    container: {{existing: {container}}}
    lifecycle: {{deprovision: '[ ! -e /tmp/refuse ]'}}
{}",
        busybox_service("exec httpd -f -p 80", "").replace("services:\n", "")
    );
    let broker =
        TestBroker::builder().yaml(yaml, "existing-service", "existing-plan").start().await;
    docker_ok(&["exec", &container, "touch", "/tmp/refuse"]);
    let failed = run(&broker, &[]).await;
    assert_eq!(failed.code, Some(1), "{}", failed.text);
    assert!(failed.text.contains("existing/plan: deprovision: "), "{}", failed.text);
    assert!(failed.text.contains("busybox-for-tests  plan  ok"), "{}", failed.text);
    docker_ok(&["exec", &container, "rm", "/tmp/refuse"]);
    let next = run(&broker, &["--only", "busybox-for-tests"]).await;
    docker(&["rm", "-f", &container]);
    assert_eq!(next.code, Some(0), "{}", next.text);
    assert!(next.text.contains("which an earlier run left behind"), "{}", next.text);
    let journal = broker.data.path().join("sanity-test.lock");
    assert_eq!(std::fs::read_to_string(&journal).unwrap(), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_keeps_it_from_testing_at_all_is_one_sentence_and_exit_code_1() {
    let mut broker = TestBroker::builder().start().await;
    let unknown = run(&broker, &["--only", "nobody"]).await;
    assert_eq!(unknown.code, Some(1), "{}", unknown.text);
    assert!(unknown.text.contains("no service or plan \"nobody\""), "{}", unknown.text);
    let other_password = command(&broker, &[]).env("DOCKER_BROKER_PASSWORD", "wrong").spawn();
    let refused = finish(other_password.unwrap());
    assert_eq!(refused.code, Some(1), "{}", refused.text);
    assert!(refused.text.contains("refuses to show its catalog: 401"), "{}", refused.text);
    // A plan that the running broker does not know yet.
    let file = broker.data.path().join("services.yml");
    std::fs::write(&file, busybox_service("exec httpd -f -p 80", "")).unwrap();
    let stale = run(&broker, &[]).await;
    assert_eq!(stale.code, Some(1), "{}", stale.text);
    assert!(stale.text.contains("catalog: the running broker does not offer"), "{}", stale.text);
    broker.kill();
    let gone = run(&broker, &[]).await;
    assert_eq!(gone.code, Some(1), "{}", gone.text);
    assert!(gone.text.contains("no broker answers at http://127.0.0.1:"), "{}", gone.text);
}
