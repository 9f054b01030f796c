//! Registries that need more than their name: a login, a private CA, permission for plain HTTP.

use std::{fs, path::PathBuf};

use crate::{
    images::{comes_back, logged, offering, provision},
    support::{Daemon, PASSWORD, Registry, TestBroker, USERNAME},
};

/// A registry that demands a login, with one image in it.
async fn protected() -> Registry {
    let mut registry = Registry::with(&[("busybox:1", "app:1")]).await;
    registry.stop();
    let mut registry = registry.protected();
    registry.start().await;
    registry
}

/// A registry with one image that runs beside a daemon.
async fn beside(daemon: &Daemon, certified: bool) -> Registry {
    let mut registry = Registry::with(&[("busybox:1", "app:1")]).await;
    registry.stop();
    let mut registry = registry.beside(daemon);
    if certified {
        registry = registry.certified();
    }
    registry.start().await;
    registry
}

/// What dockerd reads of a registry's CA; removed at the end.
struct Certificates(PathBuf);

impl Certificates {
    fn of(registry: &Registry) -> Self {
        Self(PathBuf::from("/etc/docker/certs.d").join(registry.address()))
    }
}

impl Drop for Certificates {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_pulled_with_the_login_of_its_registry() {
    let registry = protected().await;
    let image = registry.image("app:1");
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), format!("{PASSWORD}\n")).unwrap();
    for password in
        [format!("password: {PASSWORD}"), format!("password_file: {}", file.path().display())]
    {
        let host = registry.address();
        let setting = format!("registries: [{{host: '{host}', username: {USERNAME}, {password}}}]");
        let builder = TestBroker::builder().setting(setting);
        let broker = offering(builder, &[("plan", &image, "pull: always")]).start().await;
        provision(&broker, "plan", "i1").await.expect(201);
        assert!(!broker.log_text().contains(PASSWORD), "{}", broker.log_text());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_or_with_a_wrong_login_only_the_plans_of_that_registry_are_disabled() {
    let registry = protected().await;
    let image = registry.image("app:1");
    let host = registry.address();
    let wrong = format!("registries: [{{host: '{host}', username: {USERNAME}, password: wrong}}]");
    for (setting, advice) in [
        ("registries: []".to_owned(), "add the registry with username and password"),
        (wrong, "check username and password of the registry"),
    ] {
        let builder = TestBroker::builder().setting(setting);
        let plans = [("private", image.as_str(), ""), ("public", "busybox:1", "")];
        let broker = offering(builder, &plans).start().await;
        logged(&broker, "cannot obtain an image", "error", advice).await;
        let refused = provision(&broker, "private", "i1").await;
        refused.expect(422);
        assert!(refused.description().contains(advice), "{}", refused.description());
        provision(&broker, "public", "i2").await.expect(201);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_with_a_private_ca_works_once_the_broker_knows_the_ca() {
    let daemon = Daemon::start().await;
    let registry = beside(&daemon, true).await;
    let _certificates = Certificates::of(&registry);
    let image = registry.image("app:1");
    {
        let broker = offering(daemon.broker(), &[("plan", &image, "")]).start().await;
        logged(&broker, "cannot obtain an image", "error", "ca_certificate").await;
        let refused = provision(&broker, "plan", "i1").await;
        refused.expect(422);
        assert!(refused.description().contains("unknown authority"), "{}", refused.description());
    }
    let file = registry.ca_file().display().to_string();
    let text = fs::read_to_string(&file).unwrap();
    for (id, ca) in [("i1", file), ("i2", serde_json::Value::from(text).to_string())] {
        let known = Certificates::of(&registry);
        let host = registry.address();
        let setting = format!("registries: [{{host: '{host}', ca_certificate: {ca}}}]");
        let builder = daemon.broker().setting(setting);
        let broker = offering(builder, &[("plan", &image, "pull: always")]).start().await;
        provision(&broker, "plan", id).await.expect(201);
        drop((broker, known));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_insecure_registry_that_dockerd_does_not_allow_is_said_at_the_start() {
    let mut daemon = Daemon::start().await;
    let registry = beside(&daemon, false).await;
    let image = registry.image("app:1");
    let setting = format!("registries: [{{host: '{}', insecure: true}}]", registry.address());
    let builder = daemon.broker().setting(setting);
    let broker = offering(builder, &[("plan", &image, "")]).start().await;
    logged(&broker, "a registry cannot be used", "problem", registry.address()).await;
    logged(&broker, "cannot obtain an image", "error", "allow it as an insecure registry").await;
    provision(&broker, "plan", "i1").await.expect(422);
    daemon.stop();
    daemon.configure(&format!("{{\"insecure-registries\": [\"{}\"]}}", registry.address()));
    daemon.start_again().await;
    comes_back(&broker, "plan", "i2").await;
}
