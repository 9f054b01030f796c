//! The VM is made anew: dockerd has lost everything, the store perhaps as well, and the address is
//! another one.

use serde_json::{Value, json};

use crate::{
    binding_users::text,
    support::{Client, Daemon, Redis, TestBroker, docker_ok, in_image, service_file},
};

/// What is asked of a service: image, client, statement.
type Question = (&'static str, &'static str, &'static str, fn(&Value) -> Vec<String>);

const QUESTIONS: [Question; 3] = [
    ("redis:7", "SET mine precious", "GET mine", redis),
    ("postgres:17", "CREATE TABLE t AS SELECT 'precious' AS mine", "SELECT mine FROM t", postgres),
    ("mariadb:11.8", "CREATE TABLE t AS SELECT 'precious' AS mine", "SELECT mine FROM t", mariadb),
];

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

fn redis(c: &Value) -> Vec<String> {
    let prefix = ["redis-cli", "--no-auth-warning", "-h", text(c, "host"), "-p", text(c, "port")];
    words(&[&prefix[..], &["--user", text(c, "username")]].concat())
}

fn postgres(c: &Value) -> Vec<String> {
    let (host, port) = (text(c, "host"), text(c, "port"));
    let (user, database) = (text(c, "username"), text(c, "dbname"));
    words(&["psql", "-XAtq", "-h", host, "-p", port, "-U", user, "-d", database, "-c"])
}

fn mariadb(c: &Value) -> Vec<String> {
    let (host, port) = (text(c, "host"), text(c, "port"));
    let (user, database) = (text(c, "username"), text(c, "dbname"));
    words(&["mariadb", "-N", "-h", host, "-P", port, "-u", user, database, "-e"])
}

fn ask(question: Question, credentials: &Value, statement: &str) -> Result<String, String> {
    let (image, _, _, client) = question;
    let password = text(credentials, "password");
    let environment =
        [("REDISCLI_AUTH", password), ("PGPASSWORD", password), ("MYSQL_PWD", password)];
    let mut command = client(credentials);
    if image.starts_with("redis") {
        command.extend(statement.split(' ').map(|word| match word {
            "mine" => format!("{}mine", credentials["key_prefix"].as_str().unwrap_or_default()),
            word => word.to_owned(),
        }));
    } else {
        command.push(statement.to_owned());
    }
    let command: Vec<&str> = command.iter().map(String::as_str).collect();
    let (ok, said) = in_image(image, &environment, &command);
    if ok { Ok(said.trim().to_owned()) } else { Err(said) }
}

fn everything_is_there(bound: &[Value]) {
    for (question, bound) in QUESTIONS.into_iter().zip(bound) {
        let answer = ask(question, &bound["credentials"], question.2);
        assert_eq!(answer.as_deref(), Ok("precious"), "{}", question.0);
    }
}

/// The client for a service of another file.
fn client_of(broker: &TestBroker, file: &str) -> Client {
    let (service_id, plan_id) = crate::support::plan_of(&service_file(file));
    Client { service_id, plan_id, ..broker.client.clone() }
}

#[tokio::test(flavor = "multi_thread")]
async fn three_services_return_before_readiness_without_dockers_data_and_without_the_store() {
    let images = tempfile::tempdir().unwrap();
    for (image, ..) in QUESTIONS {
        let file = images.path().join(format!("{}.tar", image.replace(':', "-")));
        docker_ok(&["save", "-o", file.to_str().unwrap(), image]);
    }
    let mut daemon = Daemon::start().await;
    let files = ["op-redis7.yml", "op-postgres17.yml", "op-mariadb11.yml"];
    let builder = daemon
        .broker()
        .services(&files.map(service_file))
        .setting(format!("images_directory: {}", images.path().display()));
    let mut broker = builder.start().await;
    let mut bound = Vec::new();
    for (file, question) in files.into_iter().zip(QUESTIONS) {
        let client = client_of(&broker, file);
        client.provision_async(file).await.expect(202);
        assert_eq!(client.poll(file).await.0, "succeeded");
        let document = client.bind(file, "b1").await.expect(201);
        ask(question, &document["credentials"], question.1).unwrap();
        bound.push(document);
    }
    everything_is_there(&bound);
    // dockerd's root is gone.
    broker.terminate().await;
    daemon.wipe();
    daemon.start_again().await;
    broker.launch().await;
    broker.ready().await;
    everything_is_there(&bound);
    // So is the store.
    broker.terminate().await;
    daemon.wipe();
    daemon.start_again().await;
    broker.lose_store();
    let rebuilt = broker.rebuild_store();
    assert_eq!(rebuilt.code, Some(0), "{rebuilt:?}");
    broker.launch().await;
    broker.ready().await;
    everything_is_there(&bound);
    for (file, (question, before)) in files.into_iter().zip(QUESTIONS.into_iter().zip(&bound)) {
        let client = client_of(&broker, file);
        assert_eq!(client.bind(file, "b1").await.expect(200), *before);
        let other = client.bind(file, "b2").await.expect(201);
        assert!(ask(question, &other["credentials"], question.2).is_ok(), "{file}");
        client.unbind(file, "b1").await.expect(200);
        let revoked = ask(question, &before["credentials"], question.2);
        assert!(!matches!(&revoked, Ok(said) if said == "precious"), "{file}: {revoked:?}");
        client.deprovision(file).await.expect(200);
    }
    assert_eq!(broker.instance_directories(), [""; 0]);
    drop(broker);
}

#[tokio::test(flavor = "multi_thread")]
async fn with_another_address_containers_move_there_and_bindings_stay_word_for_word() {
    let name = "services.example.test";
    let mut broker = TestBroker::builder()
        .setting("external_ip: 127.0.0.1")
        .setting(format!("external_host: {name}"))
        .start()
        .await;
    broker.client.provision("r1").await.expect(201);
    let bound = broker.client.bind("r1", "b1").await.expect(201);
    assert_eq!(bound["credentials"]["host"], name);
    // What the name leads to.
    let at = |address: &str| {
        let mut there = bound.clone();
        there["credentials"]["host"] = address.into();
        Redis::of(&there)
    };
    assert_eq!(at("127.0.0.1").expect("SET mine precious").await, "+OK");
    broker.terminate().await;
    broker.builder = broker.builder.clone().setting("external_ip: 127.0.0.2");
    broker.launch().await;
    broker.ready().await;
    assert_eq!(at("127.0.0.2").expect("GET mine").await, "precious");
    assert!(at("127.0.0.1").ask("PING").await.is_err(), "nothing is published there any more");
    let path = "/v2/service_instances/r1/service_bindings/b1";
    assert_eq!(broker.client.get(path).await.expect(200)["credentials"], bound["credentials"]);
    assert!(!broker.log_text().contains("another host"), "{}", broker.log_text());
    broker.terminate().await;
    // A name that new bindings do not have is said once, with how many have it.
    broker.builder = broker.builder.clone().setting("external_host: other.example.test");
    broker.launch().await;
    broker.ready().await;
    let said = broker.log().into_iter().find(|line| line["host"] == name).expect("it is said");
    assert_eq!(said["bindings"], json!(1));
    assert_eq!(broker.client.get(path).await.expect(200)["credentials"], bound["credentials"]);
}
