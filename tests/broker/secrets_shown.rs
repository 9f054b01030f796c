//! The watch over secrets that every test has: it sees what it has to see.

use std::process::Command;

use crate::support::{Arguments, HOOKED, Issued, TestBroker, hooked_yaml, in_image, unique};

fn issued() -> (Issued, String) {
    let (issued, secret) = (Issued::default(), unique("a-secret-of-someone-"));
    issued.add(&secret);
    (issued, secret)
}

#[test]
fn a_secret_in_an_argument_list_is_seen_after_its_process_has_ended() {
    let (issued, secret) = issued();
    let watch = Arguments::watch();
    let script = ["-c", "sleep 0.5"];
    assert!(Command::new("sh").args(script).env("SECRET", &secret).status().unwrap().success());
    assert_eq!(watch.find(&issued), None, "an environment is not for everybody to read");
    assert!(Command::new("sh").args(script).arg(&secret).status().unwrap().success());
    assert!(watch.find(&issued).unwrap().contains("<a secret>"));
}

#[test]
fn a_secret_in_an_argument_list_inside_a_container_is_seen() {
    let (issued, secret) = issued();
    let watch = Arguments::watch();
    let run = |script: &str| {
        let (ok, text) = in_image("busybox:1", &[("SECRET", &secret)], &["sh", "-c", script]);
        assert!(ok, "{text}");
    };
    run("sleep 0.2");
    assert_eq!(watch.find(&issued), None);
    run("sh -c 'sleep 0.5; true' \"$SECRET\"");
    assert!(watch.find(&issued).unwrap().contains("<a secret>"));
}

/// Binds to a service whose bind hook has these lines besides its own.
async fn bind_with_hook(lines: &str) {
    let begin = "      bind: |\n";
    let yaml = hooked_yaml("20s", "").replace(begin, &format!("{begin}        {lines}\n"));
    let broker = TestBroker::builder().yaml(yaml, HOOKED.0, HOOKED.1).start().await;
    broker.client.provision("i").await.expect(201);
    broker.client.bind("i", "b").await.expect(201);
}

#[tokio::test(flavor = "multi_thread")]
#[should_panic(expected = "a secret in an argument list")]
async fn a_hook_that_shows_a_password_of_a_binding_in_an_argument_list_fails_its_test() {
    bind_with_hook("sh -c 'sleep 0.5; true' \"$OSB_BINDING_PASSWORD\"").await;
}

#[tokio::test(flavor = "multi_thread")]
#[should_panic(expected = "a secret in an argument list")]
async fn a_hook_that_shows_a_password_of_the_administrator_in_an_argument_list_fails_its_test() {
    bind_with_hook("sh -c 'sleep 0.5; true' \"$ADMIN_PASSWORD\"").await;
}

#[tokio::test(flavor = "multi_thread")]
#[should_panic(expected = "a secret in a container's log")]
async fn a_service_that_logs_a_password_of_a_binding_fails_its_test() {
    bind_with_hook("echo \"$OSB_BINDING_PASSWORD\" > /proc/1/fd/1").await;
}
