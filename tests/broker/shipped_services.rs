//! The service files that are shipped, each with a real server and its own protocol.

use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::support::{
    Client, Issued, PATIENCE, Redis, TestBroker, docker_ok, in_image, service_file,
};

/// A broker with one shipped service, an instance `s1` of its first plan, and a binding's
/// credentials.
async fn bound(file: &str) -> (TestBroker, Value) {
    let broker = TestBroker::builder().services(&[service_file(file)]).start().await;
    broker.client.provision_async("s1").await.expect(202);
    let (state, reason) = broker.client.poll("s1").await;
    assert_eq!(state, "succeeded", "{reason}");
    let document = broker.client.bind("s1", "b1").await.expect(201);
    (broker, document["credentials"].clone())
}

fn text<'a>(credentials: &'a Value, key: &str) -> &'a str {
    credentials[key].as_str().unwrap_or_else(|| panic!("no {key} in the credentials"))
}

/// Removes the instance and looks that nothing is left.
async fn gone(broker: &TestBroker) {
    broker.client.deprovision("s1").await.expect(200);
    assert_eq!(broker.containers(), [""; 0]);
    assert_eq!(broker.instance_directories(), [""; 0]);
}

async fn connect(credentials: &Value) -> TcpStream {
    let address = format!("{}:{}", text(credentials, "host"), text(credentials, "port"));
    TcpStream::connect(address).await.unwrap()
}

/// Sends `request` and reads until the answer contains `wanted`.
async fn says(stream: &mut TcpStream, request: &str, wanted: &str) {
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let reading = async {
        while !String::from_utf8_lossy(&answer).contains(wanted) {
            let read = stream.read_buf(&mut answer).await.unwrap();
            assert!(read > 0, "it hung up after {:?}", String::from_utf8_lossy(&answer));
        }
    };
    tokio::time::timeout(PATIENCE, reading).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn redis7_answers_its_uri_and_refuses_a_wrong_password() {
    let (broker, credentials) = bound("op-redis7.yml").await;
    let uri = text(&credentials, "uri");
    assert_eq!(Redis::of_uri(uri).expect("SET a 1").await, "+OK");
    let mut wrong = credentials.clone();
    wrong["password"] = "wrong".into();
    let refused = Redis::of(&json!({ "credentials": wrong })).ask("PING").await;
    assert!(refused.unwrap_err().contains("WRONGPASS"));
    gone(&broker).await;
}

/// Asks postgres with a URI, which psql reads: in its arguments everybody could read the password. It
/// wants a connection before that.
fn psql(credentials: &Value, uri: &str, query: &str) -> (bool, String) {
    let environment = [
        ("PGHOST", text(credentials, "host")),
        ("PGPORT", text(credentials, "port")),
        ("PGUSER", text(credentials, "username")),
        ("PGPASSWORD", text(credentials, "password")),
        ("PGDATABASE", text(credentials, "dbname")),
        ("URI", uri),
        ("QUERY", query),
    ];
    let script = r#"printf '%s\n' "\connect '$URI'" "$QUERY" | psql -XAtq -v ON_ERROR_STOP=1"#;
    in_image("postgres:17", &environment, &["sh", "-c", script])
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres17_answers_its_uri_and_keeps_its_data_over_a_restart_of_its_container() {
    let (broker, credentials) = bound("op-postgres17.yml").await;
    let uri = text(&credentials, "uri");
    let sql = |query: &str| psql(&credentials, uri, query);
    let (ok, answer) = sql("create table t (n int); insert into t values (42)");
    assert!(ok, "{answer}");
    docker_ok(&["restart", "-t", "10", &broker.container("s1")]);
    let answer = crate::support::eventually("postgres to answer", async || {
        let (ok, answer) = sql("select n from t");
        if ok { Ok(answer) } else { Err(answer) }
    })
    .await;
    assert_eq!(answer, "42");
    let wrong = uri.replace(text(&credentials, "password"), "wrong");
    let (ok, answer) = psql(&credentials, &wrong, "select 1");
    assert!(!ok && answer.contains("password authentication failed"), "{answer}");
    gone(&broker).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mariadb11_answers_with_its_credentials() {
    let (broker, credentials) = bound("op-mariadb11.yml").await;
    let (host, port) = (text(&credentials, "host"), text(&credentials, "port"));
    let (user, database) = (text(&credentials, "username"), text(&credentials, "dbname"));
    let login = ["mariadb", "-h", host, "-P", port, "-u", user, "-N", "-e"];
    let sql = |password: &str, query: &str| {
        let command = [&login[..], &[query, database]].concat();
        in_image("mariadb:11.8", &[("MYSQL_PWD", password)], &command)
    };
    let query = "create table t (n int); insert into t values (42); select n from t";
    assert_eq!(sql(text(&credentials, "password"), query), (true, "42".to_owned()));
    let (ok, answer) = sql("wrong", "select 1");
    assert!(!ok && answer.contains("Access denied"), "{answer}");
    let uri = format!("mysql://{user}:{}@{host}:{port}/{database}", text(&credentials, "password"));
    assert_eq!(text(&credentials, "uri"), uri);
    gone(&broker).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rabbitmq4_speaks_amqp_and_knows_its_user() {
    let (broker, credentials) = bound("op-rabbitmq4.yml").await;
    // AMQP 0-9-1, 4.2.2: the server answers the header with Connection.Start (class 10, method 10).
    let mut stream = connect(&credentials).await;
    stream.write_all(b"AMQP\x00\x00\x09\x01").await.unwrap();
    let mut frame = [0; 11];
    stream.read_exact(&mut frame).await.unwrap();
    assert_eq!((frame[0], &frame[7..]), (1, &[0, 10, 0, 10][..]));
    let management = Client {
        address: format!(
            "{}:{}",
            text(&credentials, "host"),
            text(&credentials["ports"], "15672/tcp")
        ),
        username: text(&credentials, "username").to_owned(),
        password: text(&credentials, "password").to_owned(),
        service_id: String::new(),
        plan_id: String::new(),
        issued: Issued::default(),
    };
    let authorization = management.authorization();
    let whoami = crate::support::eventually("the management API", async || {
        let headers = [("authorization", authorization.as_str())];
        let reply = management.raw(http::Method::GET, "/api/whoami", &headers, "").await?;
        if reply.status == 200 { Ok(reply.json()) } else { Err(format!("{reply:?}")) }
    })
    .await;
    assert_eq!(whoami["name"], credentials["username"]);
    gone(&broker).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn memcached16_takes_its_password_and_refuses_without_one() {
    let (broker, credentials) = bound("op-memcached16.yml").await;
    let login = format!("{} {}", text(&credentials, "username"), text(&credentials, "password"));
    let mut stream = connect(&credentials).await;
    says(&mut stream, "get a\r\n", "CLIENT_ERROR unauthenticated").await;
    says(&mut stream, &format!("set auth 0 0 {}\r\n{login}\r\n", login.len()), "STORED").await;
    says(&mut stream, "set a 0 0 2\r\n42\r\n", "STORED").await;
    says(&mut stream, "get a\r\n", "42\r\nEND").await;
    gone(&broker).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nats2_takes_its_password_and_refuses_a_wrong_one() {
    let (broker, credentials) = bound("op-nats2.yml").await;
    let hello = |password: &str| {
        let options = json!({ "user": credentials["username"], "pass": password, "verbose": true });
        format!("CONNECT {options}\r\nPING\r\n")
    };
    let mut stream = connect(&credentials).await;
    says(&mut stream, &hello(text(&credentials, "password")), "PONG").await;
    let mut stream = connect(&credentials).await;
    says(&mut stream, &hello("wrong"), "Authorization Violation").await;
    gone(&broker).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn etcd35_stores_and_returns_a_key() {
    let (broker, credentials) = bound("op-etcd35.yml").await;
    let etcd = Client {
        address: text(&credentials, "uri").trim_start_matches("http://").to_owned(),
        username: String::new(),
        password: String::new(),
        service_id: String::new(),
        plan_id: String::new(),
        issued: Issued::default(),
    };
    let encoded = |text: &str| BASE64_STANDARD.encode(text);
    let ask = async |path: &str, body: Value| {
        let reply = etcd.raw(http::Method::POST, path, &[], body.to_string()).await.unwrap();
        reply.expect(200)
    };
    ask("/v3/kv/put", json!({ "key": encoded("a"), "value": encoded("42") })).await;
    let found = ask("/v3/kv/range", json!({ "key": encoded("a") })).await;
    assert_eq!(found["kvs"][0]["value"], encoded("42"));
    gone(&broker).await;
}

#[test]
fn every_shipped_file_is_good_and_all_of_them_go_together() {
    let (catalog, problems) = docker_broker::config::load_services(&[service_file("op-*.yml")]);
    assert_eq!(problems, []);
    assert_eq!(catalog.unwrap().services().len(), 19);
}
