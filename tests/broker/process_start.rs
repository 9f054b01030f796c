//! What keeps the broker from starting, and that nothing is changed then.

use std::fs;

use crate::support::{Finished, TestBroker, docker_broker, unique};

/// Runs `serve` once more with the settings of a broker, with some text replaced.
fn serve_again(broker: &TestBroker, replace: &str, by: &str) -> Finished {
    let settings = fs::read_to_string(broker.settings_file()).expect("its settings can be read");
    assert!(settings.contains(replace), "{settings}");
    let file = broker.data.path().join("other.yml");
    fs::write(&file, settings.replace(replace, by)).expect("a file can be written");
    docker_broker(&["serve", "--config", file.to_str().expect("a temporary path is UTF-8")])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_broker_on_the_same_data_directory_is_refused() {
    let broker = TestBroker::builder().start().await;
    broker.client.provision("i1").await.expect(201);
    let second = serve_again(&broker, "port: 0", "port: 0");
    assert_eq!(second.code, Some(1), "{second:?}");
    let expected =
        format!("another docker-broker runs on {}; stop it", broker.data.path().display());
    assert!(second.stderr.contains(&expected), "{second:?}");
    broker.client.bind("i1", "b1").await.expect(201);
    broker.client.deprovision("i1").await.expect(200);
}

#[test]
fn a_port_that_is_in_use_is_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let data = tempfile::tempdir().unwrap();
    let (data, port) = (data.path().display().to_string(), address.port().to_string());
    let name = unique("t-");
    let done = docker_broker(&["serve", "--data-dir", &data, "--port", &port, "--name", &name]);
    assert_eq!(done.code, Some(1), "{done:?}");
    let expected = format!("docker-broker: cannot listen on {address}: Address already in use");
    assert!(done.stderr.contains(&expected), "{done:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_encryption_key_is_refused_and_nothing_is_changed() {
    let key = "the-first-key-of-this-test";
    let setting = format!("encryption_keys: [{key}]");
    let mut broker = TestBroker::builder().setting(setting).start().await;
    broker.client.provision("i1").await.expect(201);
    let bound = broker.client.bind("i1", "b1").await.expect(201);
    broker.terminate().await;
    let refused = serve_again(&broker, key, "another-key-of-this-test");
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.stderr.contains("the store was encrypted with another key"), "{refused:?}");
    assert!(!format!("{refused:?}").contains("another-key-of"), "{refused:?}");
    broker.launch().await;
    broker.ready().await;
    let path = "/v2/service_instances/i1/service_bindings/b1";
    let found = broker.client.get(path).await.expect(200);
    assert_eq!(found["credentials"], bound["credentials"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_encryption_key_in_front_of_the_old_one_keeps_what_is_there_readable() {
    let (old, new) = ("the-first-key-of-this-test", "the-second-key-of-this-test");
    let setting = |keys: &str| format!("encryption_keys: [{keys}]");
    let mut broker = TestBroker::builder().setting(setting(old)).start().await;
    broker.client.provision("i1").await.expect(201);
    let bound = broker.client.bind("i1", "b1").await.expect(201);
    broker.terminate().await;
    broker.builder = broker.builder.clone().setting(setting(&format!("{new}, {old}")));
    broker.launch().await;
    broker.ready().await;
    let path = "/v2/service_instances/i1/service_bindings";
    let found = broker.client.get(&format!("{path}/b1")).await.expect(200);
    assert_eq!(found["credentials"], bound["credentials"]);
    let second = broker.client.bind("i1", "b2").await.expect(201);
    assert_eq!(second["credentials"]["password"], bound["credentials"]["password"]);
    // What was written meanwhile needs the new key: the old one alone cannot read it.
    broker.terminate().await;
    broker.builder = broker.builder.clone().setting(setting(&format!("{old}, {new}")));
    broker.launch().await;
    broker.ready().await;
    let found = broker.client.get(&format!("{path}/b2")).await.expect(200);
    assert_eq!(found["credentials"], second["credentials"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_of_a_newer_version_is_refused_and_left_as_it_is() {
    let mut broker = TestBroker::builder().start().await;
    broker.terminate().await;
    let file = broker.data.path().join("broker.db");
    let version = || {
        let store = rusqlite::Connection::open(&file).unwrap();
        store.pragma_query_value(None, "user_version", |row| row.get::<_, i64>(0)).unwrap()
    };
    let known = version();
    let store = rusqlite::Connection::open(&file).unwrap();
    store.pragma_update(None, "user_version", 99).unwrap();
    drop(store);
    let refused = serve_again(&broker, "port: 0", "port: 0");
    assert_eq!(refused.code, Some(1), "{refused:?}");
    let expected = format!("has schema 99, but this version knows only up to {known}");
    assert!(refused.stderr.contains(&expected), "{refused:?}");
    assert_eq!(version(), 99);
}

#[test]
fn a_data_directory_that_cannot_be_made_or_written_is_named() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let below_a_file = file.path().join("data").display().to_string();
    for data in [below_a_file.as_str(), "/proc/docker-broker-data", "/proc"] {
        let done = docker_broker(&["serve", "--data-dir", data, "--port", "0"]);
        assert_eq!(done.code, Some(1), "{done:?}");
        let last = done.stderr.lines().last().unwrap_or_default();
        assert!(last.starts_with("docker-broker: cannot") && last.contains(data), "{done:?}");
    }
}
