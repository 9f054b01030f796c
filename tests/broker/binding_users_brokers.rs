//! Users of bindings of the message brokers: rabbitmq4 and nats2.

use std::time::Duration;

use http::Method;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{
    binding_users::{
        bind, environment, hooks_can_be_repeated, instance_of, restart, rotates_without_a_gap,
        text, with_password_of,
    },
    support::{Amqp, Client, Issued, PATIENCE, Reply, TestBroker, eventually},
};

/// Longest time for an answer of the management API.
const ANSWER: Duration = Duration::from_secs(15);

/// A request to the management API of a rabbitmq.
pub(crate) async fn api(
    credentials: &Value,
    method: Method,
    path: &str,
    body: Value,
) -> Result<Reply, String> {
    let (user, password) = (text(credentials, "username"), text(credentials, "password"));
    let address =
        format!("{}:{}", text(credentials, "host"), text(&credentials["ports"], "15672/tcp"));
    let uri = format!("http://{user}:{password}@{address}/api/");
    assert_eq!(text(credentials, "http_api_uri"), uri);
    let client = Client {
        address,
        username: user.to_owned(),
        password: password.to_owned(),
        service_id: String::new(),
        plan_id: String::new(),
        issued: Issued::default(),
    };
    let authorization = client.authorization();
    let headers = [("authorization", authorization.as_str()), ("content-type", "application/json")];
    let path = format!("/api/{path}");
    // A restarted server may leave a question without an answer.
    let asked = client.raw(method, &path, &headers, body.to_string());
    tokio::time::timeout(ANSWER, asked).await.map_err(|_| "no answer in time".to_owned())?
}

/// Whether the management API takes these credentials.
async fn who_am_i(credentials: &Value) -> Result<(), String> {
    let reply = api(credentials, Method::GET, "whoami", json!({})).await?;
    if reply.status == 200 { Ok(()) } else { Err(format!("{}", reply.status)) }
}

/// One instance for all of it: a rabbitmq takes its time to start.
#[tokio::test(flavor = "multi_thread")]
async fn bindings_of_rabbitmq4_are_users_of_one_virtual_host_rotated_and_revoked_alone() {
    let broker = instance_of("op-rabbitmq4.yml").await;
    let (one, two) = (bind(&broker, "b1", &json!({})).await, bind(&broker, "b2", &json!({})).await);
    eventually("the management API", async || who_am_i(&one).await).await;
    assert_ne!(one["username"], two["username"]);
    assert_ne!(one["password"], two["password"]);
    let vhost = text(&one, "dbname");
    let queue = format!("queues/{vhost}/orders");
    let made = api(&one, Method::PUT, &queue, json!({"durable": true})).await.unwrap();
    assert_eq!(made.status, 201, "{made:?}");
    let message = json!({
        "properties": {"delivery_mode": 2}, "routing_key": "orders",
        "payload": "42", "payload_encoding": "string",
    });
    let publish = format!("exchanges/{vhost}/amq.default/publish");
    let routed = api(&two, Method::POST, &publish, message).await.unwrap().expect(200);
    assert_eq!(routed["routed"], true);
    is_no_administrator(&broker, &one, &two).await;

    let connection = Amqp::connect(&one).await.unwrap();
    let other = Amqp::connect(&two).await.unwrap();
    broker.client.unbind("s1", "b1").await.expect(200);
    let reason = tokio::time::timeout(PATIENCE, connection.closed()).await.unwrap();
    assert!(reason.contains("deleted"), "{reason}");
    Amqp::connect(&one).await.expect_err("it is revoked");
    assert_eq!(who_am_i(&one).await, Err("401".to_owned()));
    other.close().await.expect("the other connection is open");
    rotates_without_a_gap(&broker, async |credentials| {
        Amqp::connect(&credentials).await?.close().await
    })
    .await;

    // What the revoked one has made is still there.
    restart(&broker);
    let get = json!({"count": 1, "ackmode": "ack_requeue_false", "encoding": "auto"});
    let messages = eventually("the queue to be back", async || {
        let reply = api(&two, Method::POST, &format!("{queue}/get"), get.clone()).await?;
        if reply.status == 200 { Ok(reply.json()) } else { Err(format!("{reply:?}")) }
    })
    .await;
    assert_eq!(messages[0]["payload"], "42");
    assert_eq!(api(&two, Method::DELETE, &queue, json!({})).await.unwrap().status, 204);
    Amqp::connect(&one).await.expect_err("it is revoked");
}

/// Neither an administrator nor somebody in another virtual host, nor with another's password.
async fn is_no_administrator(broker: &TestBroker, one: &Value, two: &Value) {
    for path in ["users", "permissions", "definitions"] {
        let refused = api(one, Method::GET, path, json!({})).await.unwrap();
        assert!([401, 403].contains(&refused.status), "{path}: {refused:?}");
    }
    // Nor may one keep the others out of what they share.
    let vhost = text(one, "dbname");
    for (method, path, body) in [
        (Method::PUT, format!("vhost-limits/{vhost}/max-connections"), json!({"value": 0})),
        (
            Method::PUT,
            format!("parameters/vhost-limits/{vhost}/limits"),
            json!({"component": "vhost-limits", "vhost": vhost, "name": "limits", "value": {"max-connections": 0}}),
        ),
    ] {
        let refused = api(one, method, &path, body).await.unwrap();
        assert!([400, 401, 403].contains(&refused.status), "{path}: {refused:?}");
    }
    Amqp::connect(two).await.expect("nobody is kept out").close().await.unwrap();
    let mut elsewhere = one.clone();
    elsewhere["dbname"] = "/".into();
    Amqp::connect(&elsewhere).await.expect_err("another virtual host");
    Amqp::connect(&with_password_of(two, one)).await.expect_err("a wrong password");
    let environment = environment(broker);
    let administrator =
        environment.iter().find(|(name, _)| name == "RABBITMQ_DEFAULT_USER").unwrap();
    let mut as_administrator = one.clone();
    as_administrator["username"] = administrator.1.clone().into();
    Amqp::connect(&as_administrator).await.expect_err("a wrong password");
}

/// A connection to a nats that has logged in.
pub(crate) async fn nats(credentials: &Value) -> Result<TcpStream, String> {
    let address = format!("{}:{}", text(credentials, "host"), text(credentials, "port"));
    let mut stream = TcpStream::connect(address).await.map_err(|error| error.to_string())?;
    let login = json!({
        "user": credentials["username"], "pass": credentials["password"], "verbose": false,
    });
    let hello = format!("CONNECT {login}\r\nPING\r\n");
    stream.write_all(hello.as_bytes()).await.map_err(|error| error.to_string())?;
    heard(&mut stream, "PONG").await?;
    Ok(stream)
}

/// Reads until `wanted` comes; else what came.
pub(crate) async fn heard(stream: &mut TcpStream, wanted: &str) -> Result<(), String> {
    let mut answer = Vec::new();
    while !String::from_utf8_lossy(&answer).contains(wanted) {
        let read = stream.read_buf(&mut answer).await.map_err(|error| error.to_string())?;
        if read == 0 {
            return Err(String::from_utf8_lossy(&answer).into_owned());
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn bindings_of_nats2_are_users_that_are_revoked_alone_and_outlive_a_restart() {
    let broker = instance_of("op-nats2.yml").await;
    let (one, two) = (bind(&broker, "b1", &json!({})).await, bind(&broker, "b2", &json!({})).await);
    assert_ne!(one["username"], two["username"]);
    let (mut first, mut second) = (nats(&one).await.unwrap(), nats(&two).await.unwrap());
    second.write_all(b"SUB news 1\r\nPING\r\n").await.unwrap();
    heard(&mut second, "PONG").await.unwrap();
    first.write_all(b"PUB news 5\r\nhello\r\n").await.unwrap();
    heard(&mut second, "hello").await.unwrap();
    nats(&with_password_of(&two, &one)).await.expect_err("a wrong password");

    broker.client.unbind("s1", "b1").await.expect(200);
    heard(&mut first, "never").await.expect_err("the connection is closed");
    nats(&one).await.expect_err("it is revoked");
    second.write_all(b"PING\r\n").await.unwrap();
    heard(&mut second, "PONG").await.unwrap();
    restart(&broker);
    let mut second = eventually("nats to answer", async || nats(&two).await).await;
    nats(&one).await.expect_err("it is revoked");

    // A rotation: open connections notice nothing until the old binding goes.
    let three = bind(&broker, "b3", &json!({"predecessor_binding_id": "b2"})).await;
    let mut third = nats(&three).await.unwrap();
    for stream in [&mut second, &mut third] {
        stream.write_all(b"PING\r\n").await.unwrap();
        heard(stream, "PONG").await.unwrap();
    }
    broker.client.unbind("s1", "b2").await.expect(200);
    heard(&mut second, "never").await.expect_err("the connection is closed");
    third.write_all(b"PING\r\n").await.unwrap();
    heard(&mut third, "PONG").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn hooks_of_nats2_can_be_repeated_by_a_broker_that_was_killed_after_them() {
    hooks_can_be_repeated("op-nats2.yml", async |credentials| nats(&credentials).await.map(drop))
        .await;
}
