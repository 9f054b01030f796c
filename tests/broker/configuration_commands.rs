//! The configuration as an operator meets it: commands, exit codes, and what is never shown.

use std::{fs, path::Path};

use serde_json::Value;

use crate::support::{REDIS, TestBroker, docker_broker, redis_yaml, service_file};

/// The quick redis with its plan `large` alone.
fn only_large() -> String {
    let yaml = redis_yaml("");
    let start = yaml.find("\n  - id: redis-small").expect("the plan small");
    let end = yaml.find("\n  - id: redis-large").expect("the plan large");
    format!("{}{}", &yaml[..start], &yaml[end..])
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a temporary path is UTF-8")
}

#[test]
fn check_config_says_what_is_good_and_exits_with_0() {
    let file = service_file("op-redis7.yml");
    let done = docker_broker(&["check-config", "--services", text(&file)]);
    assert_eq!(done.code, Some(0), "{done:?}");
    assert!(done.stdout.contains("the configuration is good: 1 services"), "{done:?}");
    assert_eq!(done.stderr, "");
}

#[test]
fn check_config_lists_every_problem_on_standard_error_and_exits_with_78() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("s.yml");
    fs::write(&file, "services:\n- {id: s, name: a b, plans: []}\n").unwrap();
    for command in ["check-config", "catalog", "fetch-images", "serve"] {
        let done = docker_broker(&[command, "--services", text(&file)]);
        assert_eq!(done.code, Some(78), "{done:?}");
        assert_eq!(done.stdout, "");
        let place = format!("error: {}: services[0]", file.display());
        for words in [".description: is missing", ".name: is \"a b\"", ".plans: must hold"] {
            assert!(done.stderr.contains(&format!("{place}{words}")), "{words}: {}", done.stderr);
        }
        assert!(done.stderr.contains("the configuration has 3 errors"), "{}", done.stderr);
    }
}

#[test]
fn a_warning_is_shown_and_does_not_fail_the_check() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("s.yml");
    fs::write(
        &file,
        redis_yaml("").replace("  description: redis", "  decription: x\n  description: redis"),
    )
    .unwrap();
    let done = docker_broker(&["check-config", "--services", text(&file)]);
    assert_eq!(done.code, Some(0), "{done:?}");
    assert!(done.stderr.contains("warning: "), "{done:?}");
    assert!(done.stderr.contains("is \"description\" meant?"), "{done:?}");
}

#[test]
fn an_option_wins_over_the_settings_file_without_a_warning() {
    let directory = tempfile::tempdir().unwrap();
    let (settings, password) = (directory.path().join("broker.yml"), directory.path().join("pw"));
    let text = "username: a\npassword: in-the-file\nport: 1\nlog_level: debug\nname: one\n\
                data_directory: /nowhere\nlisten_address: 10.0.0.1\nexternal_ip: 10.0.0.1\n\
                external_host: a\ndocker_url: tcp://a:1\nlog_format: json\nservices: []\n";
    fs::write(&settings, text).unwrap();
    fs::write(&password, "from-the-option\n").unwrap();
    let overrides = docker_broker::config::Overrides {
        username: Some("b".to_owned()),
        password_file: Some(password),
        port: Some(2),
        log_level: Some("warn".to_owned()),
        name: Some("two".to_owned()),
        data_directory: Some("/there".into()),
        listen_address: Some([127, 0, 0, 1].into()),
        external_ip: Some([127, 0, 0, 1].into()),
        external_host: Some("b".to_owned()),
        docker_url: Some("unix:///b".to_owned()),
        log_format: Some(docker_broker::config::LogFormat::Text),
        password: None,
    };
    let (configuration, problems) = docker_broker::config::load(Some(&settings), &[], &overrides);
    assert_eq!(problems, []);
    let settings = configuration.unwrap().settings;
    assert_eq!(settings.login.password.as_deref(), Some("from-the-option"));
    assert_eq!((settings.login.username.as_str(), settings.port), ("b", 2));
    assert_eq!((settings.external_host.as_str(), settings.name.as_str()), ("b", "two"));
}

#[test]
fn wrong_usage_exits_with_2() {
    for args in [&["nonsense"][..], &["serve", "--nonsense"], &["serve", "--port", "x"]] {
        let done = docker_broker(args);
        assert_eq!(done.code, Some(2), "{args:?}: {done:?}");
        assert!(done.stderr.contains("--help"), "{args:?}: {done:?}");
    }
}

#[test]
fn help_mentions_every_command_and_version_says_the_version() {
    let help = docker_broker(&["--help"]);
    assert_eq!(help.code, Some(0));
    for command in
        ["serve", "check-config", "fetch-images", "catalog", "wait", "sanity-test", "version"]
    {
        let line = format!("\n  {command} ");
        assert!(help.stdout.contains(&line), "{command}: {}", help.stdout);
        let own = docker_broker(&[command, "--help"]);
        assert!(own.code == Some(0) && own.stdout.contains("Usage:"), "{own:?}");
    }
    for args in [["version"], ["--version"]] {
        let done = docker_broker(&args);
        let expected = concat!("docker-broker ", env!("CARGO_PKG_VERSION"));
        assert_eq!((done.code, done.stdout.trim()), (Some(0), expected));
    }
}

#[test]
fn catalog_prints_the_catalog_as_json() {
    let files = [service_file("op-redis7.yml"), service_file("op-postgres17.yml")];
    let done =
        docker_broker(&["catalog", "--services", text(&files[0]), "--services", text(&files[1])]);
    assert_eq!(done.code, Some(0), "{done:?}");
    let catalog: Value = serde_json::from_str(&done.stdout).unwrap();
    let services = catalog["services"].as_array().unwrap();
    assert_eq!(services.len(), 2);
    assert!(services.iter().all(|service| service["plans"][0]["id"].is_string()), "{catalog}");
}

#[test]
fn no_secret_is_shown_by_a_check_that_fails() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("broker.yml");
    let secrets = ["login-secret", "key-secret", "registry-secret", "pinned-secret"];
    fs::write(
        &file,
        "username: 'a:b'\npassword: login-secret\nport: x\n\
         encryption_keys: [key-secret]\n\
         registries:\n- {password: registry-secret}\n- {host: 'https://u:registry-secret@r', password: registry-secret}\n\
         services:\n- id: s\n  plans:\n  - id: p\n    credentials:\n      \
         password: {key: 'no name', value: pinned-secret}\n      \
         username: {key: A, value: [pinned-secret]}\n",
    )
    .unwrap();
    let done = docker_broker(&["check-config", "--config", text(&file)]);
    assert_eq!(done.code, Some(78), "{done:?}");
    assert!(done.stderr.lines().count() > 10, "{}", done.stderr);
    for secret in secrets {
        assert!(!format!("{done:?}").contains(secret), "{secret}: {}", done.stderr);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_is_in_the_log_even_at_its_most_detailed_level() {
    let key = "a-very-secret-encryption-key";
    let broker = TestBroker::builder()
        .setting(format!("encryption_keys: [{key}]"))
        .setting("registries: [{host: registry.example, username: u, password: registry-secret}]")
        .setting("log_level: trace")
        .start()
        .await;
    let client = &broker.client;
    client.provision("s1").await.expect(201);
    let bound = client.bind("s1", "b1").await.expect(201);
    let password = bound["credentials"]["password"].as_str().unwrap();
    client.unbind("s1", "b1").await.expect(200);
    client.deprovision("s1").await.expect(200);
    let log = broker.log_text();
    assert!(log.contains("\"TRACE\"") && log.contains("\"DEBUG\""), "{log}");
    let authorization = client.authorization();
    let login = authorization.trim_start_matches("Basic ");
    for secret in [key, "registry-secret", password, &client.password, login] {
        assert!(!log.contains(secret), "{secret} is in the log:\n{log}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_that_left_the_configuration_serves_its_instances_and_is_not_offered() {
    let mut broker = TestBroker::builder().start().await;
    broker.client.provision("h1").await.expect(201);
    broker.client.bind("h1", "b1").await.expect(201);
    broker.terminate().await;
    broker.builder = broker.builder.clone().yaml(only_large(), REDIS.0, REDIS.1);
    broker.launch().await;
    broker.ready().await;
    let client = &broker.client;
    let said = broker.log().into_iter().find(|entry| {
        entry["message"].as_str().is_some_and(|text| text.contains("has left the configuration"))
    });
    let said = said.unwrap_or_else(|| panic!("{}", broker.log_text()));
    assert_eq!((&said["plan.id"], &said["instances"]), (&REDIS.1.into(), &1.into()));
    let catalog = client.get("/v2/catalog").await.expect(200);
    let plans = catalog["services"][0]["plans"].as_array().unwrap();
    assert_eq!(plans.len(), 1, "{catalog}");
    assert_eq!(plans[0]["id"], REDIS.2);
    client.provision("h2").await.expect(400);
    client.get("/v2/service_instances/h1").await.expect(200);
    let bound = client.bind("h1", "b2").await.expect(201);
    assert!(bound["credentials"]["uri"].is_string(), "{bound}");
    client.unbind("h1", "b1").await.expect(200);
    client.unbind("h1", "b2").await.expect(200);
    client.deprovision("h1").await.expect(200);
    assert_eq!(broker.containers(), [""; 0]);
}
