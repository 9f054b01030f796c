//! Real databases through a change of plan, an upgrade, and upgrades that go wrong: host, port, user,
//! password and data of a binding stay.

use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf};

use serde_json::{Value, json};

use crate::{
    binding_users::{bind, instance_of, text},
    support::{Tag, TestBroker, container_id, docker_ok, in_image, offered, service_file, upgrade},
};

/// One of the shipped services, and how its client is called.
struct Database {
    file: &'static str,
    /// A word of the small plan, which is another one in the next configuration.
    setting: (&'static str, &'static str),
    sql: fn(&Value, &str) -> (bool, String),
    /// What starts the server, in the file.
    start: &'static str,
    /// What makes the data unusable.
    damage: &'static str,
}

const POSTGRES: Database = Database {
    file: "op-postgres17.yml",
    setting: ("max_connections=40", "max_connections=41"),
    sql: psql,
    start: "exec docker-entrypoint.sh postgres",
    damage: "rm -rf /var/lib/postgresql/data/base; exit 3",
};

const MARIADB: Database = Database {
    file: "op-mariadb11.yml",
    setting: ("--max-connections=50", "--max-connections=51"),
    sql: mariadb,
    start: "exec docker-entrypoint.sh mariadbd",
    damage: "rm -rf /var/lib/mysql/ibdata1; exit 3",
};

fn psql(credentials: &Value, statement: &str) -> (bool, String) {
    let login = [("PGPASSWORD", text(credentials, "password"))];
    let (host, port) = (text(credentials, "host"), text(credentials, "port"));
    let (user, database) = (text(credentials, "username"), text(credentials, "dbname"));
    let command =
        ["psql", "-XAtq", "-h", host, "-p", port, "-U", user, "-d", database, "-c", statement];
    in_image("postgres:17", &login, &command)
}

fn mariadb(credentials: &Value, statement: &str) -> (bool, String) {
    let login = [("MYSQL_PWD", text(credentials, "password"))];
    let (host, port) = (text(credentials, "host"), text(credentials, "port"));
    let (user, database) = (text(credentials, "username"), text(credentials, "dbname"));
    let command = ["mariadb", "-h", host, "-P", port, "-u", user, "-N", "-e", statement, database];
    in_image("mariadb:11.8", &login, &command)
}

impl Database {
    #[track_caller]
    fn expect(&self, credentials: &Value, statement: &str) -> String {
        let (ok, answer) = (self.sql)(credentials, statement);
        assert!(ok, "{statement}: {answer}");
        answer
    }

    /// The shipped file with other words in it.
    fn with(&self, broker: &TestBroker, words: &[(&str, &str)]) -> PathBuf {
        let mut text = fs::read_to_string(service_file(self.file)).unwrap();
        for (old, new) in words {
            assert!(text.contains(old), "{old}");
            text = text.replace(old, new);
        }
        let file = broker.data.path().join("changed.yml");
        fs::write(&file, text).unwrap();
        file
    }

    async fn restart_with(&self, broker: &mut TestBroker, words: &[(&str, &str)]) {
        let file = self.with(broker, words);
        broker.kill();
        broker.builder.set_services(&[file]);
        broker.launch().await;
        broker.ready().await;
    }

    /// An instance with a table that a binding has made.
    async fn with_data(&self) -> (TestBroker, Value) {
        let broker = instance_of(self.file).await;
        let credentials = bind(&broker, "b1", &json!({})).await;
        self.expect(&credentials, "CREATE TABLE t (n int)");
        self.expect(&credentials, "INSERT INTO t VALUES (41), (42)");
        (broker, credentials)
    }
}

const PATH: &str = "/v2/service_instances/s1";

async fn survives_a_plan_change_and_an_upgrade(database: &Database) {
    let (mut broker, credentials) = database.with_data().await;
    let catalog = broker.client.get("/v2/catalog").await.expect(200);
    let large = catalog["services"][0]["plans"][1]["id"].as_str().unwrap().to_owned();
    let body = json!({"service_id": broker.client.service_id, "plan_id": large});
    broker.client.patch(PATH, &body).await.expect(200);
    assert_eq!(database.expect(&credentials, "SELECT max(n) FROM t"), "42");
    let body = json!({
        "service_id": broker.client.service_id, "plan_id": broker.client.plan_id,
    });
    broker.client.patch(PATH, &body).await.expect(200);
    database.expect(&credentials, "INSERT INTO t VALUES (43)");

    let version = offered(&broker).await;
    database.restart_with(&mut broker, &[database.setting]).await;
    assert_ne!(offered(&broker).await, version);
    let before = container_id(&broker, "s1");
    upgrade(&broker, "s1").await.expect(200);
    assert_ne!(container_id(&broker, "s1"), before);
    let command = docker_ok(&["inspect", "-f", "{{.Config.Cmd}}", &broker.container("s1")]);
    assert!(command.contains(database.setting.1), "{command}");
    assert_eq!(database.expect(&credentials, "SELECT max(n) FROM t"), "43");
    let again = broker.client.bind("s1", "b1").await.expect(200);
    assert_eq!(again["credentials"], credentials);
    broker.client.unbind("s1", "b1").await.expect(200);
    assert!(!(database.sql)(&credentials, "SELECT 1").0, "revoked by the hook as before");
}

async fn comes_back_from_a_version_that_destroys_its_data(database: &Database) {
    let (mut broker, credentials) = database.with_data().await;
    let before = container_id(&broker, "s1");
    let damaging = format!("{}; {}", database.damage, database.start);
    let words = [(database.start, damaging.as_str()), ("timeout: 120s", "timeout: 5s")];
    database.restart_with(&mut broker, &words).await;
    let failed = upgrade(&broker, "s1").await;
    failed.expect(500);
    let text = failed.description();
    assert!(text.contains("did not start") && text.contains("as it was before"), "{text}");
    assert_eq!(container_id(&broker, "s1"), before);
    assert_eq!(database.expect(&credentials, "SELECT max(n) FROM t"), "42");
    database.expect(&credentials, "INSERT INTO t VALUES (43)");
    // And can still be upgraded.
    database.restart_with(&mut broker, &[database.setting]).await;
    upgrade(&broker, "s1").await.expect(200);
    assert_eq!(database.expect(&credentials, "SELECT max(n) FROM t"), "43");
}

#[tokio::test(flavor = "multi_thread")]
async fn bindings_of_postgres17_survive_a_plan_change_and_an_upgrade() {
    survives_a_plan_change_and_an_upgrade(&POSTGRES).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bindings_of_mariadb11_survive_a_plan_change_and_an_upgrade() {
    survives_a_plan_change_and_an_upgrade(&MARIADB).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres17_comes_back_from_a_version_that_destroys_its_data() {
    comes_back_from_a_version_that_destroys_its_data(&POSTGRES).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mariadb11_comes_back_from_a_version_that_destroys_its_data() {
    comes_back_from_a_version_that_destroys_its_data(&MARIADB).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres17_is_not_given_to_an_image_of_another_major_version() {
    let (mut broker, credentials) = POSTGRES.with_data().await;
    // What its server says is another version; PG_VERSION is that of the real one.
    let mut tag = Tag::new();
    let container = docker_ok(&["create", "postgres:17", "true"]);
    let program = broker.data.path().join("postgres");
    fs::write(&program, "#!/bin/sh\necho 'postgres (PostgreSQL) 99.1'\n").unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    docker_ok(&[
        "cp",
        &program.display().to_string(),
        &format!("{container}:/usr/local/sbin/postgres"),
    ]);
    tag.commit(&container, &[]);
    let image = format!("image: {}\n        pull: never", tag.name);
    POSTGRES
        .restart_with(&mut broker, &[("image: postgres\n        tag: '17'", image.as_str())])
        .await;
    let running =
        || docker_ok(&["inspect", "-f", "{{.Id}} {{.State.StartedAt}}", &broker.container("s1")]);
    let before = running();
    let failed = upgrade(&broker, "s1").await;
    failed.expect(500);
    let text = failed.description();
    assert!(text.contains("is of version 99") && text.contains("migrate hook"), "{text}");
    assert_eq!(running(), before);
    assert_eq!(POSTGRES.expect(&credentials, "SELECT max(n) FROM t"), "42");
}
