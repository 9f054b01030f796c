//! Images are obtained at the start, once each, again for as long as that fails, and a plan whose
//! image cannot be had stands alone.

use std::fs;

use crate::support::{
    Builder, Registry, Reply, TestBroker, docker, docker_broker, docker_ok, eventually, unique,
};

/// A broker of one service with these plans: name, image, more keys of the container.
pub(crate) fn offering(builder: Builder, plans: &[(&str, &str, &str)]) -> Builder {
    let plan = |(name, image, more): &(&str, &str, &str)| {
        format!(
            "  - id: {name}\n    name: {name}\n    description: a plan\n    container:\n      \
             image: '{image}'\n      command: [sleep, '1000000']\n      {more}\n"
        )
    };
    let plans_yaml: String = plans.iter().map(plan).collect();
    let yaml = format!(
        "services:\n- id: service\n  name: {}\n  description: a service\n  plans:\n{plans_yaml}",
        unique("images-")
    );
    builder.yaml(yaml, "service", plans[0].0)
}

/// Provisions an instance of a plan.
pub(crate) async fn provision(broker: &TestBroker, plan: &str, instance: &str) -> Reply {
    let mut client = broker.client.clone();
    plan.clone_into(&mut client.plan_id);
    client.provision(instance).await
}

/// Waits until the log has an entry with these words whose `key` contains `value`.
pub(crate) async fn logged(broker: &TestBroker, words: &str, key: &str, value: &str) {
    eventually(&format!("{words:?} with {key} {value:?}"), async || {
        let found = broker.log().iter().any(|entry| {
            entry["message"].as_str().is_some_and(|text| text.contains(words))
                && entry[key].as_str().is_some_and(|text| text.contains(value))
        });
        if found { Ok(()) } else { Err(broker.log_text()) }
    })
    .await;
}

/// Waits until a plan whose image could not be had makes instances again.
pub(crate) async fn comes_back(broker: &TestBroker, plan: &str, instance: &str) {
    eventually("the plan to come back by itself", async || {
        let reply = provision(broker, plan, instance).await;
        if reply.status == 201 { Ok(()) } else { Err(reply.description()) }
    })
    .await;
}

fn is_here(image: &str) -> bool {
    docker(&["image", "inspect", image]).status.success()
}

fn id_of(image: &str) -> String {
    docker_ok(&["image", "inspect", "--format", "{{.Id}}", image])
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_pulled_at_the_start_once_however_many_plans_use_it() {
    let registry = Registry::with(&[("busybox:1", "app:1")]).await;
    let image = registry.image("app:1");
    let before = registry.count("HEAD", "/v2/app/manifests/1");
    let builder = TestBroker::builder();
    let plans = [("one", image.as_str(), ""), ("two", &image, ""), ("three", &image, "")];
    let broker = offering(builder, &plans).start().await;
    logged(&broker, "the image is here", "image", &image).await;
    logged(&broker, "pulling", "image", &image).await;
    assert!(is_here(&image));
    for (plan, _, _) in plans {
        provision(&broker, plan, plan).await.expect(201);
    }
    let log = broker.log();
    assert_eq!(log.iter().filter(|entry| entry["message"] == "pulling").count(), 1);
    assert_eq!(registry.count("HEAD", "/v2/app/manifests/1") - before, 1, "{}", registry.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_tag_disables_its_plans_alone_and_says_what_to_check() {
    let registry = Registry::with(&[("busybox:1", "app:1")]).await;
    let (good, bad) = (registry.image("app:1"), registry.image("app:2"));
    let plans = [("good", good.as_str(), ""), ("bad", bad.as_str(), "")];
    let broker = offering(TestBroker::builder(), &plans).start().await;
    logged(&broker, "cannot obtain an image", "image", &bad).await;
    let refused = provision(&broker, "bad", "i1").await;
    let body = refused.expect(422);
    assert_eq!(body["error"], "ImageUnavailable");
    let text = refused.description();
    assert!(text.contains(&bad) && text.contains("check image and tag"), "{text}");
    provision(&broker, "good", "i2").await.expect(201);
    let catalog = broker.client.get("/v2/catalog").await.expect(200);
    assert_eq!(catalog["services"][0]["plans"].as_array().unwrap().len(), 2);
    assert_eq!(broker.containers(), [broker.container("i2")]);
    // Nothing is left of what was refused.
    broker.client.get("/v2/service_instances/i1").await.expect(404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_comes_back_by_itself_when_its_registry_does() {
    let mut registry = Registry::with(&[("busybox:1", "app:1")]).await;
    registry.stop();
    let image = registry.image("app:1");
    let plans = [("remote", image.as_str(), ""), ("local", "busybox:1", "")];
    let broker = offering(TestBroker::builder(), &plans).start().await;
    logged(&broker, "cannot obtain an image", "image", &image).await;
    let refused = provision(&broker, "remote", "i1").await;
    refused.expect(422);
    let text = refused.description();
    assert!(text.contains("check that the registry runs"), "{text}");
    broker.client.get("/v2/catalog").await.expect(200);
    provision(&broker, "local", "i2").await.expect(201);
    registry.start().await;
    comes_back(&broker, "remote", "i1").await;
    logged(&broker, "the image is here", "image", &image).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_can_be_named_by_its_digest() {
    let mut registry = Registry::new();
    registry.start().await;
    let digest = registry.push("busybox:1", "app:1");
    let by_digest = format!("{}@{digest}", registry.image("app"));
    // The tag beside a digest is a remark, even if nothing has it.
    let with_tag = format!("{}@{digest}", registry.image("other:9"));
    registry.push("busybox:1", "other:1");
    let plans = [("one", by_digest.as_str(), ""), ("two", with_tag.as_str(), "")];
    let broker = offering(TestBroker::builder(), &plans).start().await;
    provision(&broker, "one", "i1").await.expect(201);
    provision(&broker, "two", "i2").await.expect(201);
    let used = docker_ok(&["inspect", "--format", "{{.Config.Image}}", &broker.container("i1")]);
    assert_eq!(used, by_digest);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_that_must_never_pull_says_how_its_image_gets_there() {
    let registry = Registry::with(&[("busybox:1", "app:1")]).await;
    let image = registry.image("app:1");
    let plans = [("never", image.as_str(), "pull: never"), ("here", "busybox:1", "pull: never")];
    let broker = offering(TestBroker::builder(), &plans).start().await;
    logged(&broker, "cannot obtain an image", "image", &image).await;
    let refused = provision(&broker, "never", "i1").await;
    refused.expect(422);
    assert!(refused.description().contains("docker load"), "{}", refused.description());
    assert_eq!(registry.count("HEAD", "/v2/app/manifests"), 0);
    assert!(!is_here(&image));
    provision(&broker, "here", "i2").await.expect(201);
    docker_ok(&["tag", "busybox:1", &image]);
    comes_back(&broker, "never", "i1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn always_takes_the_newest_image_of_a_tag_and_missing_the_one_that_is_here() {
    let registry = Registry::with(&[("redis:7", "app:1"), ("redis:7", "kept:1")]).await;
    let (always, kept) = (registry.image("app:1"), registry.image("kept:1"));
    for image in [&always, &kept] {
        docker_ok(&["tag", "busybox:1", image]);
    }
    let plans = [("always", always.as_str(), "pull: always"), ("kept", kept.as_str(), "")];
    let broker = offering(TestBroker::builder(), &plans).start().await;
    for image in [&always, &kept] {
        logged(&broker, "the image is here", "image", image).await;
    }
    assert_eq!(id_of(&always), id_of("redis:7"));
    assert_eq!(id_of(&kept), id_of("busybox:1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_fetch_images_an_image_is_pulled_by_the_provision_that_needs_it() {
    let mut registry = Registry::with(&[("busybox:1", "app:1")]).await;
    let image = registry.image("app:1");
    registry.stop();
    let builder = TestBroker::builder().setting("fetch_images: false");
    let broker = offering(builder, &[("plan", &image, "")]).start().await;
    assert!(!broker.log().iter().any(|entry| entry["message"] == "pulling"));
    let failed = provision(&broker, "plan", "i1").await;
    assert!(failed.status >= 400, "{failed:?}");
    assert!(failed.description().contains("check that the registry runs"), "{failed:?}");
    // A plan that failed once is not lost.
    registry.start().await;
    comes_back(&broker, "plan", "i2").await;
    assert!(is_here(&image));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_removed_behind_the_brokers_back_is_obtained_again() {
    let mut registry = Registry::with(&[("busybox:1", "app:1")]).await;
    let image = registry.image("app:1");
    let broker =
        offering(TestBroker::builder(), &[("plan", &image, "stop_timeout: 1s")]).start().await;
    logged(&broker, "the image is here", "image", &image).await;
    docker_ok(&["rmi", &image]);
    provision(&broker, "plan", "i1").await.expect(201);
    assert!(is_here(&image));
    broker.client.deprovision("i1").await.expect(200);
    // Also when it cannot be had at that moment.
    docker_ok(&["rmi", &image]);
    registry.stop();
    let failed = provision(&broker, "plan", "i2").await;
    assert!(failed.status >= 400, "{failed:?}");
    registry.start().await;
    comes_back(&broker, "plan", "i3").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fetch_images_obtains_all_it_can_and_its_exit_code_says_whether_that_was_all() {
    let registry = Registry::with(&[("busybox:1", "app:1"), ("busybox:1", "app:2")]).await;
    let directory = tempfile::tempdir().unwrap();
    let run = |tags: &[&str]| {
        let plan = |tag: &&str| {
            format!(
                "  - {{id: p{tag}, name: p{tag}, description: p, container: {{image: '{}'}}}}\n",
                registry.image(&format!("app:{tag}"))
            )
        };
        let plans: String = tags.iter().map(plan).collect();
        let file = directory.path().join("services.yml");
        let text = format!("services:\n- id: s\n  name: s\n  description: s\n  plans:\n{plans}");
        fs::write(&file, text).unwrap();
        let (file, data) = (file.display().to_string(), directory.path().join("data"));
        let data = data.display().to_string();
        docker_broker(&["fetch-images", "--services", &file, "--data-dir", &data])
    };
    let done = run(&["1"]);
    assert_eq!(done.code, Some(0), "{done:?}");
    assert!(done.stderr.contains("pulling") && is_here(&registry.image("app:1")), "{done:?}");
    let done = run(&["1", "missing", "2"]);
    assert_eq!(done.code, Some(1), "{done:?}");
    let line = done.stderr.lines().find(|line| line.starts_with("docker-broker: "));
    let line = line.unwrap_or_else(|| panic!("{done:?}"));
    assert!(line.contains(&registry.image("app:missing")), "{line}");
    assert!(line.contains("check image and tag"), "{line}");
    assert!(is_here(&registry.image("app:2")), "the others are obtained all the same");
}
