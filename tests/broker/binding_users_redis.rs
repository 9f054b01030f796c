//! Users of bindings of redis7.

use serde_json::{Value, json};

use crate::{
    binding_users::{
        bind, bind_reader, environment, hooks_can_be_repeated, instance_of,
        refuses_an_unknown_role, restart, rotates_without_a_gap, text, with_password_of,
    },
    support::{Redis, eventually},
};

fn redis(credentials: &Value) -> Redis {
    Redis::of(&json!({ "credentials": credentials }))
}

async fn refused(credentials: &Value, command: &str, reason: &str) {
    let answer = redis(credentials).ask(command).await;
    let said = answer.unwrap_or_else(|error| error);
    assert!(said.contains(reason), "{command}: {said}");
}

/// After a restart it says for a while that it is loading its data.
async fn answers_again(credentials: &Value) {
    eventually("redis to answer again", async || {
        let answer = redis(credentials).ask("PING").await?;
        if answer == "+PONG" { Ok(()) } else { Err(answer) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_bindings_of_redis7_share_the_keys_and_nothing_else() {
    let broker = instance_of("op-redis7.yml").await;
    let (one, two) = (bind(&broker, "b1", &json!({})).await, bind(&broker, "b2", &json!({})).await);
    let reader = bind_reader(&broker, "reader").await;
    assert_ne!(one["username"], two["username"]);
    assert_ne!(one["password"], two["password"]);
    assert_eq!(redis(&one).expect("SET a 1").await, "+OK");
    assert_eq!(redis(&two).expect("INCR a").await, ":2");
    assert_eq!(redis(&reader).expect("GET a").await, "2");
    for command in ["SET a 1", "FLUSHALL", "PUBLISH a 1", "EVAL return 0"] {
        refused(&reader, command, "-NOPERM").await;
    }
    let other = format!("ACL GETUSER {}", text(&two, "username"));
    for command in ["ACL LIST", &other, "ACL DELUSER x", "CONFIG GET requirepass", "MONITOR"] {
        refused(&one, command, "-NOPERM").await;
        refused(&reader, command, "-NOPERM").await;
    }
    refused(&with_password_of(&two, &one), "PING", "-WRONGPASS").await;
    let mut administrator = one.clone();
    administrator["username"] = "default".into();
    refused(&administrator, "PING", "-WRONGPASS").await;
    refuses_an_unknown_role(&broker).await;

    restart(&broker);
    answers_again(&two).await;
    assert_eq!(redis(&one).expect("INCR a").await, ":3");
    refused(&reader, "SET a 1", "-NOPERM").await;
    refused(&one, "ACL LIST", "-NOPERM").await;
    // What is on the disk opens nothing.
    let file = broker.directories().join("i-s1/volumes/data/users.acl");
    let users = std::fs::read_to_string(file).unwrap();
    assert!(users.contains(text(&one, "username")), "{users}");
    for credentials in [&one, &two, &reader] {
        assert!(!users.contains(text(credentials, "password")), "{users}");
    }
    for (name, value) in environment(&broker) {
        assert!(!name.contains("PASSWORD") || !users.contains(&value), "{users}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_user_of_redis7_is_thrown_out_at_once_and_the_other_goes_on() {
    let broker = instance_of("op-redis7.yml").await;
    let (one, two) = (bind(&broker, "b1", &json!({})).await, bind(&broker, "b2", &json!({})).await);
    let mut connection = redis(&one).connect().await.unwrap();
    assert_eq!(connection.ask("SET a 1").await.unwrap(), "+OK");
    let mut subscriber = redis(&one).connect().await.unwrap();
    subscriber.ask("SUBSCRIBE news").await.unwrap();
    for _ in 0..5 {
        subscriber.hear().await.unwrap();
    }
    let mut other = redis(&two).connect().await.unwrap();
    broker.client.unbind("s1", "b1").await.expect(200);
    connection.hear().await.expect_err("the connection is closed");
    subscriber.hear().await.expect_err("the connection is closed");
    refused(&one, "PING", "-WRONGPASS").await;
    assert_eq!(other.ask("GET a").await.unwrap(), "1");
    restart(&broker);
    answers_again(&two).await;
    refused(&one, "PING", "-WRONGPASS").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_of_redis7_is_not_noticed_by_an_application_that_asks_all_the_time() {
    let broker = instance_of("op-redis7.yml").await;
    rotates_without_a_gap(&broker, async |credentials| {
        redis(&credentials).ask("INCR a").await.map(drop)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hooks_of_redis7_can_be_repeated_by_a_broker_that_was_killed_after_them() {
    hooks_can_be_repeated("op-redis7.yml", async |credentials| {
        redis(&credentials).ask("INCR a").await.map(drop)
    })
    .await;
}
