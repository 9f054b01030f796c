//! `docker-broker adopt`: containers of cf-containers-broker become instances without being stopped.

use std::{collections::BTreeSet, fs, path::Path};

use serde_json::{Value, json};

use crate::support::{
    Client, Finished, Legacy, Recipe, Redis, TestBroker, derived, docker, docker_broker, docker_ok,
    ephemeral_ports, eventually, guid, in_image, life,
};

pub(crate) const SERVICE: &str = "legacy-service";
pub(crate) const PLANS: [&str; 5] =
    ["legacy-redis", "legacy-redis-large", "legacy-postgres", "legacy-two", "legacy-broken"];
/// The password is in no argument list.
const REDIS_SHELL: &str = r#"printf 'dir /data\nappendonly yes\nprotected-mode no\nrequirepass %s\n' "$REDIS_PASSWORD" > /tmp/redis.conf; exec redis-server /tmp/redis.conf"#;
const TWO_SHELL: &str = "httpd -p 8080; exec httpd -f -p 8081";

/// Service files as cf-containers-broker read them.
fn yaml() -> String {
    let redis = |id: &str, memory: &str| {
        format!(
            "
  - id: {id}
    name: {id}
    description: d
    container:
      backend: docker
      image: redis
      tag: '7'
      entrypoint: [/bin/sh, -c]
      command: [{}]
      persistent_volumes: [/data]
      expose_ports: [6379/tcp]
      environment: [MODE=plan]
      memory: {memory}
    credentials:
      password: {{key: REDIS_PASSWORD}}",
            Value::from(REDIS_SHELL)
        )
    };
    format!(
        "services:
- id: {SERVICE}
  name: legacy
  description: d
  plans:{}{}
  - id: {}
    name: postgres
    description: d
    container:
      backend: docker
      image: postgres
      tag: '17'
      persistent_volumes: [/var/lib/postgresql/data]
    credentials:
      username: {{key: POSTGRES_USER}}
      password: {{key: POSTGRES_PASSWORD}}
      dbname: {{key: POSTGRES_DB}}
      uri: {{prefix: postgres}}
  - id: {}
    name: two
    description: d
    container:
      backend: docker
      image: busybox
      tag: '1'
      entrypoint: [/bin/sh, -c]
      command: ['{TWO_SHELL}']
      expose_ports: [8080/tcp, 8081/tcp]
    credentials:
      password: {{key: SECRET, value: fixed-for-everybody}}
      uri: {{prefix: http, port: 8081/tcp}}
  - id: {}
    name: broken
    description: d
    container:
      backend: docker
      image: busybox
      tag: '1'
      entrypoint: [/bin/sh, -c]
      command: ['exit 3']
      persistent_volumes: [/data]
      expose_ports: [6379/tcp]
      restart: 'no'
    credentials:
      password: {{key: REDIS_PASSWORD}}
",
        redis(PLANS[0], "64m"),
        redis(PLANS[1], "96m"),
        PLANS[2],
        PLANS[3],
        PLANS[4],
    )
}

/// A new broker beside the old one, not started yet.
pub(crate) fn prepared() -> (TestBroker, Legacy) {
    let broker = TestBroker::builder().yaml(yaml(), SERVICE, PLANS[0]).prepare();
    broker.write_settings();
    (broker, Legacy::new())
}

/// A redis of the old broker with data in it.
pub(crate) async fn redis(legacy: &mut Legacy, more: &[&str]) -> (String, u16, Redis) {
    let [port] = ephemeral_ports();
    redis_at(legacy, port, more).await
}

/// The same at this port; 0: at one that Docker chooses.
async fn redis_at(legacy: &mut Legacy, port: u16, more: &[&str]) -> (String, u16, Redis) {
    let id = guid();
    let password = derived("PWD", &id);
    let mut environment = vec!["MODE=plan".to_owned(), format!("REDIS_PASSWORD={password}")];
    environment.extend(more.iter().map(|text| (*text).to_owned()));
    let ports = [("6379/tcp", port)];
    let recipe = Recipe {
        plan: PLANS[0],
        image: "redis:7",
        shell: REDIS_SHELL,
        environment,
        volumes: &["/data"],
        without_binds: false,
        ports: &ports,
    };
    let made = legacy.make(&id, &recipe);
    let port = if port == 0 { published(&made) } else { port };
    let redis = Redis::with_password(port, &password);
    eventually("redis", async || redis.ask("SET mine precious").await).await;
    (id, port, redis)
}

/// The host port of the redis in a container.
fn published(container: &str) -> u16 {
    let text = docker_ok(&["port", container, "6379/tcp"]);
    text.lines().next().unwrap().rsplit(':').next().unwrap().parse().unwrap()
}

pub(crate) fn adopt(broker: &TestBroker, legacy: &Legacy, ids: &[&str], more: &[&str]) -> Finished {
    let (settings, directory) = (broker.settings_file(), legacy.directory());
    let mut args = vec!["adopt", "--config", settings.to_str().unwrap()];
    args.extend(["--legacy-directory", directory.to_str().unwrap()]);
    // Other tests have such containers as well.
    args.extend(ids.iter().flat_map(|id| ["--instance", id]));
    args.extend(more);
    docker_broker(&args)
}

#[track_caller]
pub(crate) fn adopted(broker: &TestBroker, legacy: &Legacy, id: &str) {
    let done = adopt(broker, legacy, &[id], &[]);
    assert_eq!(done.code, Some(0), "{done:?}");
    assert!(done.stdout.contains("1 adopted, 0 already adopted, 0 not adopted"), "{done:?}");
}

pub(crate) async fn start(broker: &mut TestBroker) -> Client {
    broker.launch().await;
    broker.ready().await;
    broker.client.clone()
}

async fn restart(broker: &mut TestBroker) {
    broker.kill();
    start(broker).await;
}

/// Everything below a directory, with what links mean.
pub(crate) fn tree(directory: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(directory).unwrap().map(Result::unwrap) {
        let link = fs::read_link(entry.path()).unwrap_or_default();
        found.insert(format!("{} {}", entry.path().display(), link.display()));
        if entry.file_type().unwrap().is_dir() {
            found.extend(tree(&entry.path()));
        }
    }
    found
}

async fn change_plan(client: &Client, id: &str) {
    let body = json!({"service_id": SERVICE, "plan_id": PLANS[1]});
    client.patch(&format!("/v2/service_instances/{id}"), &body).await.expect(200);
}

/// Port, data and password are what they were.
pub(crate) async fn serves_as_before(client: &Client, id: &str, port: u16, redis: &Redis) {
    eventually("redis", async || redis.ask("PING").await).await;
    assert_eq!(redis.expect("GET mine").await, "precious");
    let bound = client.bind(id, &guid()).await.expect(201);
    let credentials = &bound["credentials"];
    assert_eq!(credentials["password"], derived("PWD", id).as_str());
    assert_eq!(credentials["port"], port.to_string().as_str());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_container_is_adopted_while_its_clients_stay_connected() {
    let (mut broker, mut legacy) = prepared();
    let (id, port, redis) = redis(&mut legacy, &["COLOUR=red=blue"]).await;
    let old = format!("cf-{id}");
    let facts = docker_ok(&["inspect", &old]);
    let facts: Value = serde_json::from_str(&facts).unwrap();
    let source = facts[0]["Mounts"][0]["Source"].as_str().unwrap();
    assert_eq!(Path::new(source), legacy.directory_of(&id).join("data"));
    let mut connection = redis.connect().await.unwrap();
    let before = life(&old);
    adopted(&broker, &legacy, &id);
    let new = broker.container(&id);
    assert_eq!(life(&new), before);
    let client = start(&mut broker).await;
    assert_eq!(life(&new), before, "the start of the broker leaves it alone as well");
    assert_eq!(connection.ask("SET mine precious").await.unwrap(), "+OK");
    serves_as_before(&client, &id, port, &redis).await;
    // The platform knows bindings of which this broker never heard.
    let unknown = format!("/v2/service_instances/{id}/service_bindings/of-the-old-broker");
    client.get(&unknown).await.expect(404);
    client.unbind(&id, "of-the-old-broker").await.expect(410);
    let mut body = client.provision_body();
    body["parameters"] = json!({"COLOUR": "red=blue"});
    let path = format!("/v2/service_instances/{id}");
    client.put(&path, &body).await.expect(200);
    body["parameters"] = json!({"COLOUR": "green"});
    client.put(&path, &body).await.expect_problem(409);
    restart(&mut broker).await;
    assert_eq!(life(&new), before);
    assert_eq!(connection.ask("GET mine").await.unwrap(), "precious");
    // Its restart policy is what keeps it up, and it finds its data by the old path.
    docker_ok(&["restart", "-t", "1", &new]);
    serves_as_before(&broker.client, &id, port, &redis).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_makes_an_adopted_instance_anew_with_all_that_its_clients_know() {
    let (mut broker, mut legacy) = prepared();
    let (id, port, redis) =
        redis(&mut legacy, &["COLOUR=red=blue", "DOCKER_HOST_PORT_6379=1"]).await;
    adopted(&broker, &legacy, &id);
    let client = start(&mut broker).await;
    let container = broker.container(&id);
    let hostname = docker_ok(&["exec", &container, "hostname"]);
    change_plan(&client, &id).await;
    let mut large = client.clone();
    PLANS[1].clone_into(&mut large.plan_id);
    serves_as_before(&large, &id, port, &redis).await;
    assert_eq!(broker.containers(), [container.as_str()], "it is one of ours now");
    let made = docker_ok(&["inspect", "-f", "{{.HostConfig.Memory}} {{.Config.Env}}", &container]);
    assert!(made.starts_with(&(96 << 20).to_string()), "{made}");
    for word in ["COLOUR=red=blue", "DOCKER_HOST_PORT_6379=1", &format!("NAME=cf-{id}")] {
        assert!(made.contains(word), "{word} is missing in {made}");
    }
    assert_eq!(docker_ok(&["exec", &container, "hostname"]), hostname);
    restart(&mut broker).await;
    assert!(!docker(&["inspect", &format!("{container}.old")]).status.success());
    let again = adopt_while_stopped(&mut broker, &legacy, &id).await;
    assert_eq!(again.code, Some(0), "{again:?}");
    assert!(again.stdout.contains("its first container is gone"), "{again:?}");
    assert!(again.stdout.contains("0 adopted, 1 already adopted"), "{again:?}");
    large.address.clone_from(&broker.client.address);
    serves_as_before(&large, &id, port, &redis).await;
    large.deprovision(&id).await.expect(200);
    nothing_is_left(&broker, &legacy, &id);
}

async fn adopt_while_stopped(broker: &mut TestBroker, legacy: &Legacy, id: &str) -> Finished {
    broker.terminate().await;
    let done = adopt(broker, legacy, &[id], &[]);
    start(broker).await;
    done
}

#[track_caller]
pub(crate) fn nothing_is_left(broker: &TestBroker, legacy: &Legacy, id: &str) {
    for name in [broker.container(id), format!("cf-{id}"), format!("{}.old", broker.container(id))]
    {
        assert!(!docker(&["inspect", &name]).status.success(), "{name} is left");
    }
    assert!(fs::symlink_metadata(legacy.directory_of(id)).is_err(), "the link is left");
    assert_eq!(broker.instance_directories(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deprovision_removes_the_adopted_container_its_directory_and_nothing_else() {
    let (mut broker, mut legacy) = prepared();
    let (id, ..) = redis(&mut legacy, &[]).await;
    let (stranger, _, other) = redis(&mut legacy, &[]).await;
    let before = life(&format!("cf-{stranger}"));
    adopted(&broker, &legacy, &id);
    let client = start(&mut broker).await;
    client.deprovision(&id).await.expect(200);
    nothing_is_left(&broker, &legacy, &id);
    client.deprovision(&id).await.expect(410);
    // One that was not adopted is nobody's: neither its id nor its container is known.
    client.deprovision(&stranger).await.expect(410);
    restart(&mut broker).await;
    assert_eq!(life(&format!("cf-{stranger}")), before);
    assert_eq!(other.expect("GET mine").await, "precious");
    assert!(legacy.directory_of(&stranger).is_dir());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_adopted_container_that_was_removed_or_stopped_comes_back() {
    let (mut broker, mut legacy) = prepared();
    let (id, port, redis) = redis(&mut legacy, &["COLOUR=red"]).await;
    adopted(&broker, &legacy, &id);
    start(&mut broker).await;
    let container = broker.container(&id);
    broker.kill();
    let before = docker_ok(&["inspect", "-f", "{{.Id}}", &container]);
    docker_ok(&["stop", "-t", "5", &container]);
    let client = start(&mut broker).await;
    serves_as_before(&client, &id, port, &redis).await;
    assert_eq!(docker_ok(&["inspect", "-f", "{{.Id}}", &container]), before, "it was started");
    broker.kill();
    docker_ok(&["rm", "-f", "-v", &container]);
    let client = start(&mut broker).await;
    serves_as_before(&client, &id, port, &redis).await;
    assert_ne!(docker_ok(&["inspect", "-f", "{{.Id}}", &container]), before);
    let environment = docker_ok(&["inspect", "-f", "{{.Config.Env}}", &container]);
    assert!(environment.contains("COLOUR=red"), "{environment}");
    client.deprovision(&id).await.expect(200);
    nothing_is_left(&broker, &legacy, &id);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_that_was_removed_with_the_old_brokers_directory_comes_back_before_the_container() {
    let (mut broker, mut legacy) = prepared();
    let (id, port, redis) = redis(&mut legacy, &[]).await;
    adopted(&broker, &legacy, &id);
    let client = start(&mut broker).await;
    let link = legacy.directory_of(&id);
    fs::remove_dir_all(legacy.directory()).unwrap();
    docker_ok(&["stop", "-t", "5", &broker.container(&id)]);
    serves_as_before(&client, &id, port, &redis).await;
    assert!(link.is_symlink());
    // A server that was started without it has begun anew there: for people to look at.
    broker.kill();
    fs::remove_file(&link).unwrap();
    fs::create_dir_all(link.join("data")).unwrap();
    let client = start(&mut broker).await;
    let body = json!({"service_id": SERVICE, "plan_id": PLANS[1]});
    client.patch(&format!("/v2/service_instances/{id}"), &body).await.expect_problem(500);
    client.deprovision(&id).await.expect(200);
    assert_eq!(broker.instance_directories(), [""; 0]);
    assert!(link.join("data").is_dir());
}

#[tokio::test(flavor = "multi_thread")]
async fn instances_of_several_plans_keep_their_credentials_and_ports() {
    let (mut broker, mut legacy) = prepared();
    let [sql, first, second] = ephemeral_ports();
    let (postgres, two) = (guid(), guid());
    let [user, password, database] = ["USER", "PWD", "DB"].map(|kind| derived(kind, &postgres));
    let recipe = Recipe {
        plan: PLANS[2],
        image: "postgres:17",
        shell: "",
        environment: vec![
            format!("POSTGRES_USER={user}"),
            format!("POSTGRES_PASSWORD={password}"),
            format!("POSTGRES_DB={database}"),
        ],
        volumes: &["/var/lib/postgresql/data"],
        without_binds: true,
        ports: &[("5432/tcp", sql)],
    };
    let in_postgres = legacy.make(&postgres, &recipe);
    assert_eq!(docker_ok(&["inspect", "-f", "{{json .HostConfig.Binds}}", &in_postgres]), "null");
    let ports = [("8080/tcp", first), ("8081/tcp", second)];
    let environment = vec!["SECRET=fixed-for-everybody".to_owned()];
    let recipe = Recipe {
        plan: PLANS[3],
        image: "busybox:1",
        shell: TWO_SHELL,
        environment,
        volumes: &[],
        without_binds: false,
        ports: &ports,
    };
    let in_two = legacy.make(&two, &recipe);
    let ask = |port: &str, user: &str, password: &str, database: &str| {
        let url = format!("host=127.0.0.1 port={port} user={user} dbname={database}");
        in_image(
            "postgres:17",
            &[("PGPASSWORD", password)],
            &["psql", &url, "-Atc", "SELECT 1 + 1"],
        )
    };
    eventually("postgres", async || match ask(&sql.to_string(), &user, &password, &database) {
        (true, _) => Ok(()),
        (false, text) => Err(text),
    })
    .await;
    let before = (life(&in_postgres), life(&in_two));
    let done = adopt(&broker, &legacy, &[&postgres, &two], &[]);
    assert_eq!(done.code, Some(0), "{done:?}");
    assert!(done.stdout.contains("2 adopted"), "{done:?}");
    assert!(!format!("{done:?}").contains(&password), "a password in the report");
    for text in [format!("5432/tcp at {sql}"), format!("8081/tcp at {second}")] {
        assert!(done.stdout.contains(&text), "{text} is missing: {done:?}");
    }
    let mut client = start(&mut broker).await;
    assert_eq!((life(&in_postgres), life(&in_two)), before);
    PLANS[2].clone_into(&mut client.plan_id);
    let bound = client.bind(&postgres, "new").await.expect(201);
    let expected = json!({
        "hostname": "127.0.0.1", "host": "127.0.0.1", "port": sql.to_string(),
        "ports": {"5432/tcp": sql.to_string()},
        "username": user, "password": password, "dbname": database,
        "uri": format!("postgres://{user}:{password}@127.0.0.1:{sql}/{database}"),
    });
    assert_eq!(bound["credentials"], expected);
    assert_eq!(ask(&sql.to_string(), &user, &password, &database), (true, "2".to_owned()));
    PLANS[3].clone_into(&mut client.plan_id);
    let bound = client.bind(&two, "new").await.expect(201);
    let expected = json!({
        "hostname": "127.0.0.1", "host": "127.0.0.1", "port": second.to_string(),
        "ports": {"8080/tcp": first.to_string(), "8081/tcp": second.to_string()},
        "password": "fixed-for-everybody",
        "uri": format!("http://:fixed-for-everybody@127.0.0.1:{second}"),
    });
    assert_eq!(bound["credentials"], expected);
    client.deprovision(&two).await.expect(200);
    PLANS[2].clone_into(&mut client.plan_id);
    client.deprovision(&postgres).await.expect(200);
    nothing_is_left(&broker, &legacy, &postgres);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_docker_chose_comes_back_when_docker_has_chosen_another() {
    let (mut broker, mut legacy) = prepared();
    let (id, port, redis) = redis_at(&mut legacy, 0, &[]).await;
    let done = adopt(&broker, &legacy, &[&id], &[]);
    assert_eq!(done.code, Some(0), "{done:?}");
    assert!(done.stdout.contains("Docker chose the host port of 6379/tcp"), "{done:?}");
    start(&mut broker).await;
    broker.kill();
    let container = broker.container(&id);
    let before = docker_ok(&["inspect", "-f", "{{.Id}}", &container]);
    docker_ok(&["restart", "-t", "5", &container]);
    assert_ne!(published(&container), port, "Docker chooses anew");
    let client = start(&mut broker).await;
    serves_as_before(&client, &id, port, &redis).await;
    assert_ne!(docker_ok(&["inspect", "-f", "{{.Id}}", &container]), before);
    docker_ok(&["restart", "-t", "5", &container]);
    serves_as_before(&client, &id, port, &redis).await;
}
