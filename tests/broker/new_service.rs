//! `docker-broker new-service`: from an image to a file that is good as it is.

use std::fs;

use docker_broker::config::{Severity, load_services};
use tempfile::TempDir;

use crate::support::{Finished, Registry, docker, docker_broker, docker_ok, unique};

/// Writes the file of an image; its text.
fn written(directory: &TempDir, image: &str, more: &[&str]) -> String {
    let file = directory.path().join("op-new.yml");
    let path = file.to_str().expect("a temporary path is UTF-8");
    let made = docker_broker(&[&["new-service", image, "--output", path], more].concat());
    assert_eq!(made.code, Some(0), "{made:?}");
    let checked = docker_broker(&["check-config", "--services", path]);
    assert_eq!(checked.code, Some(0), "{checked:?}");
    assert_eq!(checked.stderr, "", "there are no warnings");
    fs::read_to_string(file).expect("it was written")
}

fn has(text: &str, lines: &[&str]) {
    for line in lines {
        assert!(text.lines().any(|known| known.trim() == *line), "{line}\n{text}");
    }
}

#[test]
fn a_server_that_is_known_gets_its_user_volume_readiness_test_and_credentials() {
    let directory = tempfile::tempdir().unwrap();
    let text = written(&directory, "redis:7", &[]);
    has(
        &text,
        &[
            "name: redis7",
            "image: redis",
            "tag: '7'",
            "user: '999:999'",
            "expose_ports: [6379/tcp]",
            "- {path: /data, owner: '999:999', mode: '0700'}",
            "expect: \"+PONG\"",
            "password: {key: REDIS_PASSWORD}",
        ],
    );
    let directory = tempfile::tempdir().unwrap();
    let text = written(&directory, "postgres:17", &["--name", "db"]);
    has(
        &text,
        &[
            "name: db",
            "user: '999:999'",
            "- {path: /var/lib/postgresql/data, owner: '999:999', mode: '0700'}",
            "dbname: {key: POSTGRES_DB}",
            "uri: {prefix: postgres, port: 5432/tcp}",
        ],
    );
    assert!(text.contains("'/run/postgresql:size=1m,uid=999,gid=999,mode=0755'"), "{text}");
}

/// An image that nobody knows, removed at the end.
struct Odd(String);

impl Odd {
    fn new(changes: &[&str]) -> Self {
        let (container, image) = (unique("odd-"), format!("{}:v3.1-x", unique("odd-")));
        let script = "mkdir -p '/var/lib/odd data' && chown 4711:4712 '/var/lib/odd data'";
        docker_ok(&["run", "--name", &container, "busybox:1", "sh", "-c", script]);
        let changes = changes.iter().flat_map(|change| ["--change", change]);
        let commit = [&["commit"], &changes.collect::<Vec<_>>()[..], &[&container, &image]];
        docker_ok(&commit.concat());
        docker_ok(&["rm", &container]);
        Self(image)
    }
}

impl Drop for Odd {
    fn drop(&mut self) {
        docker(&["rmi", "-f", &self.0]);
    }
}

#[test]
fn an_image_that_nobody_knows_is_read_and_what_is_guessed_is_marked() {
    let image = Odd::new(&[
        "VOLUME [\"/var/lib/odd data\"]",
        "EXPOSE 8080/tcp 514/udp",
        "ENV APP_PASSWORD=changeme APP_USER=app APP_DB=main ADMIN_TOKEN=changeme MODE=fast",
        "CMD [\"httpd\", \"-f\", \"-p\", \"8080\"]",
    ]);
    let directory = tempfile::tempdir().unwrap();
    let text = written(&directory, &image.0, &["--name", "odd"]);
    has(
        &text,
        &[
            "user: '4711:4712'",
            "expose_ports: [514/udp, 8080/tcp]",
            "- {path: /var/lib/odd data, owner: '4711:4712', mode: '0700'}",
            "readiness: {tcp: 8080/tcp, timeout: 120s}",
            "secret_environment: [ADMIN_TOKEN]",
            "username: {key: APP_USER}",
            "password: {key: APP_PASSWORD}",
            "dbname: {key: APP_DB}",
        ],
    );
    assert!(text.contains("# The image sets MODE"), "{text}");
    assert!(text.contains("# CHECK"), "{text}");
    assert!(!text.contains("changeme"), "values are not repeated: {text}");
    // Nothing of it was started or kept.
    let left = docker_ok(&["ps", "-aq", "--filter", &format!("ancestor={}", image.0)]);
    assert_eq!(left, "");
}

#[test]
fn an_image_that_says_nothing_makes_a_good_file_all_the_same() {
    let directory = tempfile::tempdir().unwrap();
    let text = written(&directory, "busybox:1", &[]);
    has(&text, &["name: busybox1", "expose_ports: []", "volumes: []"]);
    let odd = Odd::new(&["USER app:app", "CMD [\"say\", \"a\\nb: # c\"]", "EXPOSE 1 2 3"]);
    let directory = tempfile::tempdir().unwrap();
    has(&written(&directory, &odd.0, &[]), &["user: app:app"]);
}

#[test]
fn each_file_has_ids_of_its_own() {
    let ids = || {
        let made = docker_broker(&["new-service", "busybox:1"]);
        assert_eq!(made.code, Some(0), "{made:?}");
        let file = tempfile::Builder::new().suffix(".yml").tempfile().unwrap();
        fs::write(file.path(), &made.stdout).unwrap();
        let (catalog, problems) = load_services(&[file.path().to_owned()]);
        assert!(problems.iter().all(|one| one.severity != Severity::Error), "{problems:?}");
        let catalog = catalog.unwrap();
        let service = &catalog.services()[0];
        [service.id.clone(), service.plans[0].id.clone()]
    };
    let all: std::collections::BTreeSet<String> = [ids(), ids()].into_iter().flatten().collect();
    assert_eq!(all.len(), 4, "{all:?}");
    for id in all {
        let lengths: Vec<usize> = id.split('-').map(str::len).collect();
        assert_eq!(lengths, [8, 4, 4, 4, 12], "{id}");
        assert_eq!(id.chars().nth(14), Some('4'), "{id}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_is_not_here_is_pulled() {
    let registry = Registry::with(&[("busybox:1", "team/web:2")]).await;
    let made = docker_broker(&["new-service", &registry.image("team/web:2")]);
    assert_eq!(made.code, Some(0), "{made:?}");
    has(&made.stdout, &["name: web2", &format!("image: '{}'", registry.image("team/web"))]);
}

#[test]
fn what_cannot_be_written_is_one_sentence_and_exit_code_1() {
    let refused = |args: &[&str], words: &str| {
        let done: Finished = docker_broker(&[&["new-service"], args].concat());
        assert_eq!(done.code, Some(1), "{done:?}");
        assert!(done.stderr.contains(words), "{words}: {done:?}");
        assert_eq!(done.stdout, "");
    };
    refused(&["UPPER CASE"], "image \"UPPER CASE\"");
    refused(&["127.0.0.1:1/none:1"], "the image is needed to be looked into: ");
    refused(&["busybox:1", "--name", "a b"], "\"a b\" cannot be the name of a service");
    let url = "unix:///nonexistent/docker.sock";
    refused(&["busybox:1", "--docker-url", url], "cannot be reached");
    // A file that is there may have ids that platforms know.
    let file = tempfile::NamedTempFile::new().unwrap();
    let path = file.path().to_str().unwrap();
    refused(&["busybox:1", "--output", path], &format!("cannot write {path}: File exists"));
}
