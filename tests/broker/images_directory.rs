//! Images without a registry: tarballs in the images directory.

use std::{fs, path::Path};

use crate::{
    images::{logged, offering, provision},
    support::{Daemon, TestBroker, docker, docker_broker, docker_ok, unique},
};

/// Writes `FILE` with an image that has this name, which is removed from the engine.
fn tarball(file: &Path, image: &str) {
    docker_ok(&["tag", "busybox:1", image]);
    docker_ok(&["save", "-o", file.to_str().expect("a temporary path is UTF-8"), image]);
    docker_ok(&["rmi", image]);
}

/// Removes an image at the end of a test.
struct Remove(String);

impl Drop for Remove {
    fn drop(&mut self) {
        docker(&["rmi", "-f", &self.0]);
    }
}

fn new_image() -> (String, Remove) {
    let image = format!("{}:1", unique("tarball-"));
    (image.clone(), Remove(image))
}

#[tokio::test(flavor = "multi_thread")]
async fn tarballs_are_loaded_at_the_start_and_a_broken_one_keeps_nothing_else_from_working() {
    let (image, _remove) = new_image();
    let directory = tempfile::tempdir().unwrap();
    // Names before and after the good one.
    fs::write(directory.path().join("a.tar"), "this is no tarball").unwrap();
    tarball(&directory.path().join("b.tar"), &image);
    fs::write(directory.path().join("c.tar"), "").unwrap();
    fs::write(directory.path().join("README"), "not looked at").unwrap();
    let builder =
        TestBroker::builder().setting(format!("images_directory: {}", directory.path().display()));
    let broker = offering(builder, &[("plan", &image, "pull: never")]).start().await;
    logged(&broker, "loaded images", "file", "b.tar").await;
    logged(&broker, "cannot load images", "error", "a.tar").await;
    logged(&broker, "the image is here", "image", &image).await;
    provision(&broker, "plan", "i1").await.expect(201);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_images_directory_that_goes_away_after_the_start_is_only_reported() {
    let mut daemon = Daemon::start().await;
    daemon.stop();
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path().display().to_string();
    let builder = daemon.broker().setting(format!("images_directory: {place}"));
    let broker = offering(builder, &[("plan", "busybox:1", "pull: never")]).start_unready().await;
    logged(&broker, "recovery waits for the Docker engine", "error", "cannot be reached").await;
    drop(directory);
    daemon.start_again().await;
    broker.ready().await;
    logged(&broker, "cannot load images", "error", &place).await;
}

#[test]
fn fetch_images_loads_tarballs_and_goes_on_after_a_broken_one() {
    let (image, _remove) = new_image();
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    fs::create_dir(path("images")).unwrap();
    fs::write(path("images/a.tar"), "this is no tarball").unwrap();
    tarball(&path("images/b.tar"), &image);
    let config = path("broker.yml");
    let write = |images: &[&str]| {
        let plan = |image: &&str| {
            let id = docker_broker::catalog::hex(image.as_bytes());
            let container = format!("container: {{image: '{image}'}}");
            format!("  - {{id: {id}, name: {id}, description: p, {container}}}\n")
        };
        let plans: Vec<String> = images.iter().map(plan).collect();
        let text = format!(
            "images_directory: {}\nservices:\n- id: s\n  name: s\n  description: s\n  plans:\n{}",
            path("images").display(),
            plans.concat()
        );
        fs::write(&config, text).unwrap();
    };
    let run = || docker_broker(&["fetch-images", "--config", config.to_str().unwrap()]);
    // Nothing listens on port 1.
    write(&[&image, "127.0.0.1:1/app:1"]);
    let done = run();
    assert_eq!(done.code, Some(1), "{done:?}");
    for words in ["a.tar", "127.0.0.1:1/app:1: cannot pull"] {
        assert!(done.stderr.contains(words), "{words}: {done:?}");
    }
    assert!(docker(&["image", "inspect", &image]).status.success(), "{done:?}");
    fs::remove_file(path("images/a.tar")).unwrap();
    write(&[&image]);
    let done = run();
    assert_eq!(done.code, Some(0), "{done:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn tarballs_are_loaded_also_when_dockerd_comes_later_than_the_broker() {
    let mut daemon = Daemon::start().await;
    daemon.stop();
    let (image, _remove) = new_image();
    let directory = tempfile::tempdir().unwrap();
    tarball(&directory.path().join("image.tar"), &image);
    let builder =
        daemon.broker().setting(format!("images_directory: {}", directory.path().display()));
    let broker = offering(builder, &[("plan", &image, "pull: never")]).start_unready().await;
    logged(&broker, "recovery waits for the Docker engine", "error", "cannot be reached").await;
    daemon.start_again().await;
    broker.ready().await;
    logged(&broker, "the image is here", "image", &image).await;
    provision(&broker, "plan", "i1").await.expect(201);
}
