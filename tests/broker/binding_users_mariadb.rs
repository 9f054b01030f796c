//! Users of bindings of mariadb11.

use serde_json::{Value, json};

use crate::{
    binding_users::{
        bind, bind_reader, environment, hooks_can_be_repeated, instance_of,
        refuses_an_unknown_role, restart, rotates_without_a_gap, text, with_password_of,
    },
    support::{Session, eventually, in_image},
};

const IMAGE: &str = "mariadb:11.8";

fn mariadb<'a>(credentials: &'a Value, more: &[&'a str]) -> Vec<&'a str> {
    let (host, port) = (text(credentials, "host"), text(credentials, "port"));
    let login = ["mariadb", "-h", host, "-P", port, "-u", text(credentials, "username"), "-N"];
    [&login[..], more, &[text(credentials, "dbname")]].concat()
}

fn sql(credentials: &Value, statement: &str) -> Result<String, String> {
    let password = [("MYSQL_PWD", text(credentials, "password"))];
    let (ok, answer) = in_image(IMAGE, &password, &mariadb(credentials, &["-e", statement]));
    if ok { Ok(answer) } else { Err(answer) }
}

#[track_caller]
fn refused(credentials: &Value, statement: &str, reason: &str) {
    let said = sql(credentials, statement).expect_err(statement);
    assert!(said.contains(reason), "{statement}: {said}");
}

fn session(credentials: &Value) -> Session {
    let password = [("MYSQL_PWD", text(credentials, "password"))];
    let options = ["--unbuffered", "--skip-reconnect"];
    Session::start(IMAGE, &password, &mariadb(credentials, &options))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_binding_of_mariadb11_has_made_outlives_it_and_the_next_one_can_alter_it() {
    let broker = instance_of("op-mariadb11.yml").await;
    let (one, two) = (bind(&broker, "b1", &json!({})).await, bind(&broker, "b2", &json!({})).await);
    let reader = bind_reader(&broker, "reader").await;
    assert_ne!(one["username"], two["username"]);
    assert_ne!(one["password"], two["password"]);
    sql(&one, "create table t (n int); insert into t values (1); create view v as select n from t")
        .unwrap();
    sql(&two, "alter table t add m int; insert into t values (2, 2)").unwrap();
    assert_eq!(sql(&reader, "select sum(n) from v").unwrap(), "3");
    for statement in ["insert into t values (4, 4)", "create table x (n int)", "drop table t"] {
        refused(&reader, statement, "denied");
    }
    let other = format!("set password for {}@'%' = password('mine')", text(&two, "username"));
    for statement in
        ["select * from mysql.global_priv", "create user x", "create database x", &other]
    {
        refused(&one, statement, "denied");
        refused(&reader, statement, "denied");
    }
    refused(&with_password_of(&two, &one), "select 1", "Access denied");
    let environment = environment(&broker);
    let administrator = environment.iter().find(|(name, _)| name == "MARIADB_USER").unwrap();
    for name in ["root", administrator.1.as_str()] {
        let mut as_administrator = one.clone();
        as_administrator["username"] = name.into();
        refused(&as_administrator, "select 1", "Access denied");
    }
    refuses_an_unknown_role(&broker).await;

    broker.client.unbind("s1", "b1").await.expect(200);
    let three = bind(&broker, "b3", &json!({})).await;
    assert_eq!(sql(&three, "alter table t drop m; select sum(n) from v").unwrap(), "3");
    sql(&three, "drop view v").unwrap();
    restart(&broker);
    eventually("mariadb to answer", async || sql(&two, "select 1")).await;
    assert_eq!(sql(&reader, "select sum(n) from t").unwrap(), "3");
    refused(&reader, "delete from t", "denied");
    refused(&one, "select 1", "Access denied");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_user_of_mariadb11_is_thrown_out_at_once_and_the_other_goes_on() {
    let broker = instance_of("op-mariadb11.yml").await;
    let (one, two) = (bind(&broker, "b1", &json!({})).await, bind(&broker, "b2", &json!({})).await);
    let (mut idle, mut busy, mut other) = (session(&one), session(&one), session(&two));
    for session in [&mut idle, &mut busy, &mut other] {
        session.ask("select concat('con', 'nected');", "connected");
    }
    busy.say("select sleep(600);");
    broker.client.unbind("s1", "b1").await.expect(200);
    assert!(busy.ended().contains("ERROR"));
    idle.say("select 1;");
    assert!(idle.ended().contains("ERROR"));
    refused(&one, "select 1", "Access denied");
    other.ask("select concat('still', ' here');", "still here");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_of_mariadb11_is_not_noticed_by_an_application_that_asks_all_the_time() {
    let broker = instance_of("op-mariadb11.yml").await;
    rotates_without_a_gap(&broker, async |credentials| {
        let statement = "create table if not exists t (n int); select * from t";
        let asking = move || sql(&credentials, statement);
        tokio::task::spawn_blocking(asking).await.unwrap().map(drop)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hooks_of_mariadb11_can_be_repeated_by_a_broker_that_was_killed_after_them() {
    hooks_can_be_repeated("op-mariadb11.yml", async |credentials| {
        let asking = move || sql(&credentials, "create table if not exists t (n int)");
        tokio::task::spawn_blocking(asking).await.unwrap().map(drop)
    })
    .await;
}
