//! Images and plans that differ in their major version, for upgrades.

use serde_json::{Value, json};

use super::{Reply, TestBroker, docker, docker_ok, redis_yaml, unique};

/// A tag that is removed with the test, and every image that it stood for.
#[derive(Debug)]
pub(crate) struct Tag {
    pub(crate) name: String,
    ids: Vec<String>,
}

impl Tag {
    /// A tag that is nobody else's; there is no image behind it yet.
    pub(crate) fn new() -> Self {
        Self { name: format!("{}:1", unique("docker-broker-test/upgrade-")), ids: Vec::new() }
    }

    /// Moves it to `image` with these changes, which are lines of a Dockerfile. The image's id.
    pub(crate) fn set(&mut self, image: &str, changes: &[&str]) -> String {
        self.commit(&docker_ok(&["create", image, "true"]), changes)
    }

    /// Likewise to what a container has become, which is removed.
    pub(crate) fn commit(&mut self, container: &str, changes: &[&str]) -> String {
        let mut args = vec!["commit"];
        args.extend(changes.iter().flat_map(|change| ["--change", change]));
        args.extend([container, self.name.as_str()]);
        let id = docker_ok(&args);
        docker_ok(&["rm", container]);
        self.ids.push(id.clone());
        id
    }

    /// Moves it to redis with this in the environment.
    pub(crate) fn set_major(&mut self, major: u64) -> String {
        self.set("redis:7", &[&format!("ENV MAJOR={major}"), "CMD [\"redis-server\"]"])
    }
}

impl Drop for Tag {
    fn drop(&mut self) {
        docker(&["rmi", "-f", &self.name]);
        for id in &self.ids {
            docker(&["rmi", "-f", id]);
        }
    }
}

/// What says the version of the image.
pub(crate) const BY_ENVIRONMENT: &str = "{environment: MAJOR}";

/// The quick redis on another image. It writes the image's `MAJOR` beside its data when it starts
/// for the first time, and afterwards refuses data of another version, as real servers do.
pub(crate) fn versioned_yaml(tag: &Tag, says: &str, extra: &str) -> String {
    let guard = format!("    data_version: {{file: /data/VERSION, image: {says}}}\n{extra}");
    redis_yaml(&guard)
        .replace("image: redis\n      tag: '7'", &format!("image: {}\n      pull: never", tag.name))
        .replace(
            "exec redis-server -",
            "[ -s /data/VERSION ] || echo $MAJOR > /data/VERSION\n        \
             [ $(cat /data/VERSION) = $MAJOR ] || exit 4\n        exec redis-server -",
        )
}

/// The maintenance version of the client's plan in the catalog.
pub(crate) async fn offered(broker: &TestBroker) -> String {
    let catalog = broker.client.get("/v2/catalog").await.expect(200);
    let plans = catalog["services"].as_array().expect("services").iter();
    let plan = plans
        .flat_map(|service| service["plans"].as_array().expect("plans"))
        .find(|plan| plan["id"] == broker.client.plan_id.as_str())
        .expect("the plan is offered");
    plan["maintenance_info"]["version"].as_str().expect("it has a version").to_owned()
}

/// What `cf upgrade-service` asks for.
pub(crate) async fn upgrade_body(broker: &TestBroker) -> Value {
    json!({
        "service_id": broker.client.service_id,
        "maintenance_info": { "version": offered(broker).await },
    })
}

/// Does it, and waits for the end.
pub(crate) async fn upgrade(broker: &TestBroker, instance: &str) -> Reply {
    let path = format!("/v2/service_instances/{instance}");
    broker.client.patch(&path, &upgrade_body(broker).await).await
}

/// Starts the broker again on other services.
pub(crate) async fn restart_on(broker: &mut TestBroker, yaml: String) {
    broker.kill();
    broker.set_yaml(yaml);
    broker.launch().await;
    broker.ready().await;
}

/// Id of the container of an instance.
pub(crate) fn container_id(broker: &TestBroker, instance: &str) -> String {
    docker_ok(&["inspect", "-f", "{{.Id}}", &broker.container(instance)])
}
