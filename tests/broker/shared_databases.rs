//! The shipped services with shared containers: tenants on real servers.

use http::Method;
use serde_json::{Value, json};

use crate::{
    binding_users::text,
    binding_users_brokers::api,
    support::{TestBroker, docker_ok, eventually, in_image, service_file},
};

/// What a tenant does with its credentials.
type Ask<'a> = &'a dyn Fn(&Value, &str) -> Result<String, String>;

/// A broker with a shared service and two instances in one container.
async fn two_tenants(file: &str) -> (TestBroker, Value, Value) {
    let broker = TestBroker::builder().services(&[service_file(file)]).start().await;
    for instance in ["one", "two"] {
        broker.client.provision_async(instance).await.expect(202);
    }
    for instance in ["one", "two"] {
        let (state, reason) = broker.client.poll(instance).await;
        assert_eq!(state, "succeeded", "{reason}");
    }
    assert_eq!(broker.containers().len(), 1);
    let one = bind(&broker, "one", "b").await;
    let two = bind(&broker, "two", "b").await;
    assert_ne!(one["dbname"], two["dbname"]);
    (broker, one, two)
}

async fn bind(broker: &TestBroker, instance: &str, binding: &str) -> Value {
    broker.client.bind(instance, binding).await.expect(201)["credentials"].take()
}

/// The container is lost, and comes back with all tenants at the next start.
async fn loses_its_container(broker: &mut TestBroker) {
    let [container] = broker.containers().try_into().expect("one container");
    broker.kill();
    docker_ok(&["rm", "-f", &container]);
    broker.launch().await;
    broker.ready().await;
}

/// Two tenants of a database server: each has its own, and one of them goes alone.
async fn databases(file: &str, ask: Ask<'_>) {
    let (mut broker, one, two) = two_tenants(file).await;
    for (credentials, value) in [(&one, "1"), (&two, "2")] {
        ask(credentials, "CREATE TABLE t (n int)").unwrap();
        ask(credentials, &format!("INSERT INTO t VALUES ({value})")).unwrap();
    }
    let mut intruder = one.clone();
    intruder["dbname"] = two["dbname"].clone();
    ask(&intruder, "SELECT n FROM t").expect_err("a tenant is not let into the other's database");
    loses_its_container(&mut broker).await;
    assert_eq!(ask(&one, "SELECT n FROM t").as_deref(), Ok("1"));
    broker.client.unbind("one", "b").await.expect(200);
    ask(&one, "SELECT n FROM t").expect_err("a revoked user is refused");
    let again = bind(&broker, "one", "again").await;
    assert_eq!(ask(&again, "SELECT n FROM t").as_deref(), Ok("1"));
    broker.client.deprovision("one").await.expect(200);
    ask(&again, "SELECT 1").expect_err("the database is dropped, and its users are");
    assert_eq!(ask(&two, "SELECT n FROM t").as_deref(), Ok("2"));
    assert_eq!(broker.containers().len(), 1);
    broker.client.deprovision("two").await.expect(200);
    assert_eq!(broker.containers(), [""; 0]);
    assert_eq!(broker.instance_directories(), [""; 0]);
}

fn postgres(credentials: &Value, statement: &str) -> Result<String, String> {
    let (host, port) = (text(credentials, "host"), text(credentials, "port"));
    let (user, database) = (text(credentials, "username"), text(credentials, "dbname"));
    let password = [("PGPASSWORD", text(credentials, "password"))];
    let login = ["psql", "-XAtq", "-h", host, "-p", port, "-U", user, "-d", database];
    let (ok, answer) =
        in_image("postgres:17", &password, &[&login[..], &["-c", statement]].concat());
    if ok { Ok(answer) } else { Err(answer) }
}

fn mariadb(credentials: &Value, statement: &str) -> Result<String, String> {
    let (host, port) = (text(credentials, "host"), text(credentials, "port"));
    let (user, database) = (text(credentials, "username"), text(credentials, "dbname"));
    let password = [("MYSQL_PWD", text(credentials, "password"))];
    let command = ["mariadb", "-h", host, "-P", port, "-u", user, "-N", "-e", statement, database];
    let (ok, answer) = in_image("mariadb:11.8", &password, &command);
    if ok { Ok(answer) } else { Err(answer) }
}

#[tokio::test(flavor = "multi_thread")]
async fn tenants_of_shared_postgres17_have_databases_of_their_own() {
    databases("op-shared-postgres17.yml", &postgres).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tenants_of_shared_mariadb11_have_databases_of_their_own() {
    databases("op-shared-mariadb11.yml", &mariadb).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tenants_of_shared_rabbitmq4_have_virtual_hosts_of_their_own() {
    let (mut broker, one, two) = two_tenants("op-shared-rabbitmq4.yml").await;
    let queue = |vhost: &Value| format!("queues/{}/orders", text(vhost, "vhost"));
    let durable = || json!({"durable": true});
    // A busy server leaves a question without an answer, and knows a queue a while after it listens.
    let answered =
        async |credentials: &Value, method: Method, path: &str, body: Value, wanted: &[u16]| {
            eventually("the management API", async || {
                let reply = api(credentials, method.clone(), path, body.clone()).await?;
                let good = wanted.contains(&reply.status);
                if good { Ok(reply) } else { Err(format!("{reply:?}")) }
            })
            .await
        };
    for credentials in [&one, &two] {
        // 204 when it has been made without an answer.
        answered(credentials, Method::PUT, &queue(credentials), durable(), &[201, 204]).await;
    }
    for (credentials, other) in [(&one, &two), (&two, &one)] {
        let seen =
            answered(credentials, Method::GET, "vhosts", json!({}), &[200]).await.expect(200);
        assert_eq!(seen.as_array().unwrap().len(), 1, "{seen}");
        let refused = eventually("the management API", async || {
            api(credentials, Method::GET, &queue(other), json!({})).await
        })
        .await;
        assert_eq!(refused.status, 401, "{refused:?}");
    }
    loses_its_container(&mut broker).await;
    answered(&one, Method::GET, &queue(&one), json!({}), &[200]).await;
    answered(&two, Method::GET, &queue(&two), json!({}), &[200]).await;
    let status = async |credentials: &Value| {
        eventually("the management API", async || {
            api(credentials, Method::GET, &queue(credentials), json!({})).await
        })
        .await
        .status
    };
    broker.client.deprovision("one").await.expect(200);
    assert_eq!(status(&one).await, 401);
    assert_eq!(status(&two).await, 200);
    broker.client.deprovision("two").await.expect(200);
    assert_eq!(broker.containers(), [""; 0]);
}
