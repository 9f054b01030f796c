//! What the configuration says about a CA that cannot be used, and about `tls` of a plan.

use std::fs;

use crate::support::{Ca, TestBroker, docker_broker, docker_ok, eventually, redis_yaml, unique};

/// What `check-config` says with these settings and these further keys of a plan.
fn check(settings: &str, plan: &str) -> (Option<i32>, String) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let services = directory.path().join("services.yml");
    fs::write(&services, redis_yaml(plan)).expect("a file can be written");
    let file = directory.path().join("broker.yml");
    let text = format!("name: {}\nservice_files: [services.yml]\n{settings}\n", unique("t-"));
    fs::write(&file, text).expect("a file can be written");
    let file = file.to_str().expect("a temporary path is UTF-8");
    let done = docker_broker(&["check-config", "--config", file]);
    (done.code, done.stdout + &done.stderr)
}

fn indented(text: &str) -> String {
    format!("    {}\n", text.trim_end().replace('\n', "\n    "))
}

#[test]
fn a_ca_may_be_in_files_or_in_the_settings_with_any_kind_of_key() {
    let sec1 = ["ecparam", "-name", "secp384r1", "-genkey", "-noout"];
    for ca in [
        Ca::new("ecdsa"),
        Ca::rsa("rsa"),
        Ca::openssl("sec 1", &sec1),
        Ca::openssl("ed25519", &["genpkey", "-algorithm", "ed25519"]),
    ] {
        assert_eq!(check(&ca.setting(""), "").0, Some(0));
        let (certificate, key) = (indented(&ca.certificate), indented(&ca.key));
        let text =
            format!("service_tls:\n  ca_certificate: |\n{certificate}  ca_private_key: |\n{key}");
        let (code, output) = check(&text, "");
        assert_eq!(code, Some(0), "{output}");
    }
}

#[test]
fn a_ca_that_cannot_be_used_is_named() {
    let (ca, other) = (Ca::new("ca"), Ca::new("other"));
    let setting = |certificate: &str, key: &str| {
        format!("service_tls: {{ca_certificate: {certificate}, ca_private_key: {key}}}")
    };
    let path = |ca: &Ca, name: &str| ca.file(name).display().to_string();
    let (certificate, key) = (path(&ca, "ca.pem"), path(&ca, "ca.key"));
    let leaf = rcgen::generate_simple_self_signed(["leaf".to_owned()]).expect("a certificate");
    fs::write(other.file("leaf.pem"), leaf.cert.pem()).expect("a file can be written");
    fs::write(other.file("none.pem"), "nothing").expect("a file can be written");
    let (leaf, none) = (path(&other, "leaf.pem"), path(&other, "none.pem"));
    for (settings, place, words) in [
        (setting("/nowhere/ca.pem", &key), "ca_certificate", "cannot read /nowhere/ca.pem"),
        (setting(&none, &key), "ca_certificate", "holds no PEM certificate"),
        (setting(&leaf, &key), "ca_certificate", "no CA's"),
        (setting(&certificate, &none), "ca_private_key", "holds no PEM private key"),
        (setting(&certificate, &certificate), "ca_private_key", "holds no PEM private key"),
        (setting(&certificate, &path(&other, "ca.key")), "ca_private_key", "is not the key of"),
        ("service_tls: {}".to_owned(), "ca_private_key", "is missing"),
        (ca.setting(", lifetime: 1d, renew_before: 2d"), "renew_before", "must be shorter"),
    ] {
        let (code, output) = check(&settings, "");
        assert_eq!(code, Some(78), "{output}");
        let found = output.lines().find(|line| line.contains(&format!("service_tls.{place}: ")));
        assert!(found.is_some_and(|line| line.contains(words)), "{words}: {output}");
    }
    let (code, output) = check(&Ca::expired("expired").setting(""), "");
    assert!(code == Some(0) && output.contains("ca_certificate: has expired"), "{output}");
    let host = format!("external_host: bücher.example.com\n{}", ca.setting(""));
    let (code, output) = check(&host, "");
    assert_eq!(code, Some(78), "{output}");
    assert!(output.contains("external_host: no certificate can be made"), "{output}");
}

#[test]
fn mistakes_in_tls_of_a_plan_are_named() {
    for (tls, words) in [
        ("{}", "tls.reload: is missing"),
        ("{reload: {signal: now}}", "tls.reload.signal: is \"now\""),
        ("{reload: restart, directory: tls}", "tls.directory: \"tls\" must be an absolute path"),
        ("{reload: restart, directory: /data/tls}", "tls.directory: and the volume /data"),
        ("{reload: restart, mode: '0444'}", "tls.mode: must not let everybody"),
        ("{reload: restart, owner: redis}", "tls.owner: "),
    ] {
        let (code, output) = check("", &format!("    tls: {tls}\n"));
        assert_eq!(code, Some(78), "{output}");
        assert!(output.contains(words), "{words}: {output}");
    }
    let asked = "    sanity_test: {tcp: 6379/tcp, tls: true, send: x, expect: y}\n";
    let (code, output) = check("", asked);
    assert!(code == Some(78) && output.contains("the plan has no tls"), "{output}");
}

/// A service that says in its log what it was given, and whenever it was told to look again.
fn listing(reload: &str, command: &str) -> String {
    format!(
        r#"services:
- id: listing-service
  name: listing
  description: a listing
  plans:
  - id: listing-plan
    name: plan
    description: a plan
    tls: {{directory: /certificates, reload: {reload}, required: false}}
    container:
      image: busybox
      tag: '1'
      user: '1234:1234'
      command:
      - sh
      - -c
      - |
        {command}
    credentials:
      template: {{secured: "{{{{tls}}}}", trusted: "{{{{ca_certificate}}}}"}}
"#
    )
}

/// The lines of the log of `s1`, once there are that many.
async fn lines(broker: &TestBroker, wanted: &[&str]) {
    eventually("the container's log", async || {
        let text = docker_ok(&["logs", &broker.container("s1")]);
        if text.lines().eq(wanted.iter().copied()) { Ok(()) } else { Err(text) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_certificate_is_taken_by_signal_script_or_restart_and_a_failure_is_tried_again() {
    let show = "echo $SERVICE_TLS; stat -Lc '%a %u' /certificates/tls.key";
    let wait = format!("{show}; trap 'echo hup' HUP; while :; do sleep 1 & wait $!; done");
    let sleep = format!("{show}; exec sleep 1000");
    // The first run of the script fails.
    let script = "'[ -e /tmp/told ] && echo script > /proc/1/fd/1 || { : > /tmp/told; false; }'";
    let on = ["on", "400 1234"];
    for (reload, command, more) in [
        ("{signal: HUP}", &wait, &["hup"][..]),
        (script, &sleep, &["script"]),
        ("restart", &sleep, &on),
    ] {
        let ca = Ca::new("reload");
        let yaml = listing(reload, command);
        let builder = TestBroker::builder().yaml(yaml, "listing-service", "listing-plan");
        let mut broker = builder.setting(ca.setting("")).start().await;
        broker.client.provision("s1").await.expect(201);
        let document = broker.client.bind("s1", "b1").await.expect(201);
        assert_eq!(document["credentials"]["secured"], "true");
        assert_eq!(document["credentials"]["trusted"], ca.certificate);
        lines(&broker, &on).await;
        broker.kill();
        let other = Ca::new("another");
        broker.builder = broker.builder.clone().setting(other.setting(""));
        broker.launch().await;
        lines(&broker, &[&on[..], more].concat()).await;
        let failed = broker.log_text().contains("a TLS certificate could not be renewed");
        assert_eq!(failed, reload == script, "{}", broker.log_text());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_ca_the_same_plan_is_told_that_there_is_no_tls() {
    let yaml = listing("restart", "echo $SERVICE_TLS; ls -d /certificates; exec sleep 1000");
    let builder = TestBroker::builder().yaml(yaml, "listing-service", "listing-plan");
    let broker = builder.start().await;
    broker.client.provision("s1").await.expect(201);
    let document = broker.client.bind("s1", "b1").await.expect(201);
    assert_eq!(document["credentials"]["secured"], "false");
    assert_eq!(document["credentials"]["trusted"], "");
    lines(&broker, &["off"]).await;
}
