//! Who holds a credential and means harm does not keep it from being revoked.

use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{
    binding_users::{bind, instance_of, text},
    binding_users_brokers::{heard, nats},
    support::{Redis, Session, TestBroker, docker, eventually, in_image},
};

const MARIADB: &str = "mariadb:11.8";

/// What a client of mariadb in its image is told; `$USERNAME` and so on are those of a binding.
fn environment(credentials: &Value) -> [(&'static str, &str); 5] {
    [
        ("MYSQL_PWD", text(credentials, "password")),
        ("HOST", text(credentials, "host")),
        ("PORT", text(credentials, "port")),
        ("USERNAME", text(credentials, "username")),
        ("DBNAME", text(credentials, "dbname")),
    ]
}

const CLIENT: &str = "mariadb -h $HOST -P $PORT -u $USERNAME -N $DBNAME";

/// Holds `count` connections in one container until the server ends them. Who is not let in tries
/// again for a while.
fn crowd(credentials: &Value, count: usize) -> Session {
    let script = format!(
        "for i in $(seq {count}); do
           for try in 1 2 3 4 5 6 7 8; do
             {CLIENT} -e 'select sleep(1000)' < /dev/null && break; sleep 1; done &
         done; wait; echo over"
    );
    Session::start(MARIADB, &environment(credentials), &["sh", "-c", &script])
}

fn sql(credentials: &Value, statement: &str) -> Result<String, String> {
    let script = format!("exec {CLIENT} -e \"{statement}\"");
    let (ok, answer) = in_image(MARIADB, &environment(credentials), &["sh", "-c", &script]);
    if ok { Ok(answer) } else { Err(answer) }
}

/// How many connections the administrator sees, besides the own one.
fn connections(broker: &TestBroker, condition: &str) -> Result<usize, String> {
    let query = format!("select count(*) from information_schema.processlist where {condition}");
    let script = format!("MYSQL_PWD=$MARIADB_ROOT_PASSWORD exec mariadb -u root -N -e \"{query}\"");
    let output = docker(&["exec", &broker.container("s1"), "sh", "-c", &script]);
    let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    text.parse().map_err(|_| String::from_utf8_lossy(&output.stderr).into_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_of_clients_in_mariadb11_keeps_nobody_from_being_revoked() {
    let broker = instance_of("op-mariadb11.yml").await;
    let (one, two) = (bind(&broker, "b1", &json!({})).await, bind(&broker, "b2", &json!({})).await);
    let _first = crowd(&one, 45);
    eventually("the first crowd", async || {
        let count = connections(&broker, "info like '%sleep(1000)%' and user <> 'root'")?;
        if count == 40 { Ok(()) } else { Err(format!("{count} connections")) }
    })
    .await;
    // One user alone cannot keep the others out.
    assert_eq!(sql(&two, "select 42").unwrap(), "42");
    let _second = crowd(&two, 20);
    eventually("no connection to be left", async || {
        let count = connections(&broker, "user <> 'root'")?;
        if count == 50 { Ok(()) } else { Err(format!("{count} connections")) }
    })
    .await;
    assert!(sql(&two, "select 42").unwrap_err().contains("Too many connections"));
    broker.client.unbind("s1", "b1").await.expect(200);
    // Those that try again are refused, after the server has looked at them.
    let inside = format!("user = '{}' and command <> 'Connect'", text(&one, "username"));
    assert_eq!(connections(&broker, &inside), Ok(0));
    eventually("the revoked one to be refused", async || match sql(&one, "select 42") {
        Err(refused) if refused.contains("Access denied") => Ok(()),
        Err(refused) if refused.contains("Too many connections") => Err(refused),
        other => panic!("{other:?}"),
    })
    .await;
    // There is room for the next one.
    let three = bind(&broker, "b3", &json!({})).await;
    let answer = eventually("room", async || sql(&three, "select 42")).await;
    assert_eq!(answer, "42");
}

/// A connection to a mariadb whose login stops in its middle: the server knows the user, and asks
/// for an answer that does not come.
async fn login_without_end(credentials: &Value) -> TcpStream {
    const PROTOCOL_41: u32 = 0x200;
    const SECURE_CONNECTION: u32 = 0x8000;
    const PLUGIN_AUTH: u32 = 0x8_0000;
    let address = format!("{}:{}", text(credentials, "host"), text(credentials, "port"));
    let mut stream = TcpStream::connect(address).await.unwrap();
    let mut greeting = [0; 512];
    assert!(stream.read(&mut greeting).await.unwrap() > 4);
    let mut body = (PROTOCOL_41 | SECURE_CONNECTION | PLUGIN_AUTH).to_le_bytes().to_vec();
    body.extend((1_u32 << 24).to_le_bytes());
    body.push(33);
    body.extend([0; 23]);
    body.extend(text(credentials, "username").as_bytes());
    // No answer to the greeting yet, and a method that is not the user's.
    body.extend(b"\0\0another_method\0");
    let length = u32::try_from(body.len()).unwrap().to_le_bytes();
    stream.write_all(&[&length[..3], &[1], &body].concat()).await.unwrap();
    let mut answer = [0; 512];
    let read = stream.read(&mut answer).await.unwrap();
    assert!(read > 4 && answer[4] == 0xfe, "another method is asked for: {:?}", &answer[..read]);
    stream
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_to_mariadb11_that_is_held_in_its_middle_ends_with_its_user() {
    let broker = instance_of("op-mariadb11.yml").await;
    let one = bind(&broker, "b1", &json!({})).await;
    // Its user is locked, not dropped.
    sql(&one, "create view v as select 42").unwrap();
    let mut held = login_without_end(&one).await;
    broker.client.unbind("s1", "b1").await.expect(200);
    let mut rest = Vec::new();
    let ended = tokio::time::timeout(Duration::from_secs(2), held.read_to_end(&mut rest)).await;
    ended.expect("the connection is closed").ok();
    let name = format!("user in ('{}', 'unauthenticated user')", text(&one, "username"));
    assert_eq!(connections(&broker, &name), Ok(0));
}

/// A crowd needs more of them than a shell gives.
fn raise_the_limit_of_files() {
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).unwrap();
}

fn redis(credentials: &Value) -> Redis {
    Redis::of(&json!({ "credentials": credentials }))
}

/// The one is refused, the other finds what it has stored.
async fn revoked_alone(one: &Value, two: &Value) {
    let kept = eventually("the other one to be let in", async || {
        let answer = redis(two).ask("GET kept").await?;
        if answer.starts_with('-') { Err(answer) } else { Ok(answer) }
    })
    .await;
    assert_eq!(kept, "value");
    let refused = redis(one).ask("PING").await.unwrap_err();
    assert!(refused.contains("WRONGPASS"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_of_clients_in_redis7_keeps_nobody_from_being_revoked() {
    raise_the_limit_of_files();
    let broker = instance_of("op-redis7.yml").await;
    let (one, two) = (bind(&broker, "b1", &json!({})).await, bind(&broker, "b2", &json!({})).await);
    assert_eq!(redis(&two).expect("SET kept value").await, "+OK");
    let mut crowd = Vec::new();
    // As many as the plan lets in.
    while let Ok(connection) = redis(&one).connect().await {
        crowd.push(connection);
        assert!(crowd.len() <= 1000);
    }
    assert!(crowd.len() > 990, "{}", crowd.len());
    assert!(redis(&two).ask("PING").await.is_err());
    broker.client.unbind("s1", "b1").await.expect(200);
    revoked_alone(&one, &two).await;
    for connection in &mut crowd {
        connection.hear().await.unwrap_err();
    }
    // What is left of it would keep the same user from being revoked the next time.
    let files = std::fs::read_dir(broker.directories().join("i-s1/volumes/data")).unwrap();
    let names: Vec<_> = files.map(|file| file.unwrap().file_name()).collect();
    assert!(!names.iter().any(|name| name.to_string_lossy().contains("revoked")), "{names:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_script_without_end_in_redis7_keeps_nobody_from_being_revoked() {
    let broker = instance_of("op-redis7.yml").await;
    let two = bind(&broker, "b", &json!({})).await;
    assert_eq!(redis(&two).expect("SET kept value").await, "+OK");
    // One that can be killed, and one that cannot, because it has written.
    for (binding, script) in [("b1", ""), ("b2", "redis.call('set', 'kept', 'changed')")] {
        let one = bind(&broker, binding, &json!({})).await;
        let mut connection = redis(&one).connect().await.unwrap();
        let endless = format!("EVAL \"{script} while true do end\" 0");
        let running = tokio::spawn(async move { connection.ask(&endless).await });
        eventually("the script to run", async || {
            match tokio::time::timeout(Duration::from_millis(500), redis(&two).ask("PING")).await {
                Ok(answer) => Err(format!("{answer:?}")),
                Err(_) => Ok(()),
            }
        })
        .await;
        broker.client.unbind("s1", binding).await.expect(200);
        revoked_alone(&one, &two).await;
        let answer = running.await.unwrap();
        assert!(!answer.is_ok_and(|answer| !answer.starts_with('-')), "it goes on");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_of_clients_in_nats2_keeps_nobody_from_being_revoked() {
    raise_the_limit_of_files();
    let broker = instance_of("op-nats2.yml").await;
    let (one, two) = (bind(&broker, "b1", &json!({})).await, bind(&broker, "b2", &json!({})).await);
    let mut crowd = Vec::new();
    // As many as the plan lets in.
    while let Ok(stream) = nats(&one).await {
        crowd.push(stream);
        assert!(crowd.len() <= 1000);
    }
    assert!(crowd.len() > 990, "{}", crowd.len());
    nats(&two).await.unwrap_err();
    broker.client.unbind("s1", "b1").await.expect(200);
    for stream in &mut crowd {
        heard(stream, "never").await.expect_err("the connection is closed");
    }
    nats(&one).await.expect_err("it is revoked");
    nats(&two).await.unwrap();
}
