//! Users of bindings of postgres17.

use serde_json::{Value, json};

use crate::{
    binding_users::{
        bind, bind_reader, environment, hooks_can_be_repeated, instance_of,
        refuses_an_unknown_role, restart, rotates_without_a_gap, text, with_password_of,
    },
    support::{Session, TestBroker, eventually, in_image, service_file},
};

const IMAGE: &str = "postgres:17";

fn psql<'a>(credentials: &'a Value, more: &[&'a str]) -> Vec<&'a str> {
    let (host, port) = (text(credentials, "host"), text(credentials, "port"));
    let (user, database) = (text(credentials, "username"), text(credentials, "dbname"));
    [&["psql", "-XAt", "-h", host, "-p", port, "-U", user, "-d", database], more].concat()
}

fn sql(credentials: &Value, statement: &str) -> Result<String, String> {
    let password = [("PGPASSWORD", text(credentials, "password"))];
    let (ok, answer) = in_image(IMAGE, &password, &psql(credentials, &["-qc", statement]));
    if ok { Ok(answer) } else { Err(answer) }
}

#[track_caller]
fn refused(credentials: &Value, statement: &str, reason: &str) {
    let said = sql(credentials, statement).expect_err(statement);
    assert!(said.contains(reason), "{statement}: {said}");
}

fn session(credentials: &Value) -> Session {
    let password = [("PGPASSWORD", text(credentials, "password"))];
    Session::start(IMAGE, &password, &psql(credentials, &[]))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_binding_of_postgres17_has_made_the_next_ones_can_alter_and_a_reader_can_read() {
    let broker = instance_of("op-postgres17.yml").await;
    let (one, two) = (bind(&broker, "b1", &json!({})).await, bind(&broker, "b2", &json!({})).await);
    let reader = bind_reader(&broker, "reader").await;
    assert_ne!(one["username"], two["username"]);
    assert_ne!(one["password"], two["password"]);
    sql(
        &one,
        "CREATE TABLE t (n int); INSERT INTO t VALUES (1);
         CREATE SCHEMA s; CREATE VIEW s.v AS SELECT * FROM t;
         SET ROLE NONE; CREATE SCHEMA mine; CREATE TABLE mine.t (n int);",
    )
    .unwrap();
    sql(
        &two,
        "ALTER TABLE t ADD m int; INSERT INTO t VALUES (2, 2); INSERT INTO mine.t VALUES (3)",
    )
    .unwrap();
    assert_eq!(sql(&reader, "SELECT sum(v.n) + (SELECT n FROM mine.t) FROM s.v").unwrap(), "6");
    for statement in [
        "INSERT INTO t VALUES (4)",
        "CREATE TABLE x ()",
        "CREATE TEMP TABLE x ()",
        "DROP TABLE mine.t",
    ] {
        sql(&reader, statement).expect_err(statement);
    }
    refuses_an_unknown_role(&broker).await;

    broker.client.unbind("s1", "b1").await.expect(200);
    let three = bind(&broker, "b3", &json!({})).await;
    sql(&three, "DROP VIEW s.v; ALTER TABLE t DROP m; ALTER TABLE mine.t ADD m int").unwrap();
    assert_eq!(sql(&three, "SELECT sum(n) FROM t").unwrap(), "3");
    restart(&broker);
    eventually("postgres to answer", async || sql(&two, "DROP TABLE mine.t")).await;
    assert_eq!(sql(&reader, "SELECT sum(n) FROM t").unwrap(), "3");
    refused(&reader, "DELETE FROM t", "permission denied");
    broker.client.deprovision("s1").await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn bindings_of_postgres17_are_no_administrators_and_keep_their_passwords() {
    let broker = instance_of("op-postgres17.yml").await;
    let (one, two) = (bind(&broker, "b1", &json!({})).await, bind(&broker, "b2", &json!({})).await);
    let reader = bind_reader(&broker, "reader").await;
    let other = format!("ALTER ROLE {} PASSWORD 'mine'", text(&two, "username"));
    for credentials in [&one, &reader] {
        for statement in [
            "SELECT rolpassword FROM pg_authid",
            "CREATE ROLE x LOGIN",
            "CREATE DATABASE x",
            &other,
        ] {
            refused(credentials, statement, "permission denied");
        }
        refused(credentials, "COPY (SELECT 1) TO PROGRAM 'cat'", "pg_execute_server_program");
    }
    // Nothing is to be found in the databases of the server itself.
    for database in ["postgres", "template1"] {
        let mut elsewhere = one.clone();
        elsewhere["dbname"] = database.into();
        refused(&elsewhere, "SELECT 1", "permission denied for database");
    }
    refused(&with_password_of(&two, &one), "SELECT 1", "password authentication failed");
    let environment = environment(&broker);
    let administrator = environment.iter().find(|(name, _)| name == "POSTGRES_USER").unwrap();
    let mut as_administrator = one.clone();
    as_administrator["username"] = administrator.1.clone().into();
    refused(&as_administrator, "SELECT 1", "password authentication failed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_role_of_postgres17_is_thrown_out_at_once_and_the_other_goes_on() {
    let broker = instance_of("op-postgres17.yml").await;
    let (one, two) = (bind(&broker, "b1", &json!({})).await, bind(&broker, "b2", &json!({})).await);
    let (mut idle, mut busy, mut other) = (session(&one), session(&one), session(&two));
    for session in [&mut idle, &mut busy, &mut other] {
        session.ask("SELECT 'con' || 'nected';", "connected");
    }
    busy.say("SELECT pg_sleep(600);");
    broker.client.unbind("s1", "b1").await.expect(200);
    assert!(busy.ended().contains("terminating connection"));
    idle.say("SELECT 1;");
    assert!(idle.ended().contains("terminating connection"));
    refused(&one, "SELECT 1", "password authentication failed");
    other.ask("SELECT 'still' || ' here';", "still here");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_of_postgres17_is_not_noticed_by_an_application_that_asks_all_the_time() {
    let broker = instance_of("op-postgres17.yml").await;
    rotates_without_a_gap(&broker, async |credentials| {
        let asking = move || sql(&credentials, "CREATE TABLE IF NOT EXISTS t (); SELECT * FROM t");
        tokio::task::spawn_blocking(asking).await.unwrap().map(drop)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hooks_of_postgres17_can_be_repeated_by_a_broker_that_was_killed_after_them() {
    hooks_can_be_repeated("op-postgres17.yml", async |credentials| {
        let asking = move || sql(&credentials, "CREATE TABLE IF NOT EXISTS t (); SELECT * FROM t");
        tokio::task::spawn_blocking(asking).await.unwrap().map(drop)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_postgres17_whose_first_start_was_cut_off_fails_at_once_and_says_why() {
    // As after a full disk: the directory is there, the database is not.
    let cut_off = "          exec docker-entrypoint.sh postgres";
    let half = "          [ -e $PGDATA/PG_VERSION ] || initdb -U $POSTGRES_USER > /dev/null\n";
    let yaml = std::fs::read_to_string(service_file("op-postgres17.yml")).unwrap();
    let yaml = yaml.replacen(cut_off, &format!("{half}{cut_off}"), 1);
    let (service, plan) =
        ("601e2379-c0ee-44a7-a849-0aade3140bf7", "4b5579e2-65da-4f68-a12c-ae02710761da");
    let broker = TestBroker::builder().yaml(yaml, service, plan).start().await;
    let refused = broker.client.provision("s1").await;
    refused.expect(500);
    assert!(refused.description().contains("provision hook"), "{}", refused.description());
    assert!(broker.log_text().contains("the first start of the server was cut off"));
    broker.client.deprovision("s1").await.expect(200);
    assert_eq!(broker.instance_directories(), [""; 0]);
}
