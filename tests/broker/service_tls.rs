//! TLS between applications and services, with a CA of the operator's.

use std::{fs, os::unix::fs::PermissionsExt};

use docker_broker::certificates::Leaf;
use serde_json::{Value, json};

use crate::support::{
    Ca, REDIS as PLANS, Redis, Reply, TestBroker, client, docker_ok, eventually, redis_yaml,
    service_file, session, shown_certificate,
};

/// A service, how its protocol begins TLS, and how a client of its image connects with TLS or
/// without.
struct Kind {
    file: &'static str,
    image: &'static str,
    starttls: &'static str,
    uri: (&'static str, &'static str),
    verified: &'static str,
    plain: &'static str,
    /// What the client says then: one of these, depending on versions and on who is first.
    refusals: &'static [&'static str],
    /// A client that stays connected, and a question that it answers with `secured`.
    session: &'static str,
    question: &'static str,
}

const REDIS: Kind = Kind {
    file: "op-redis7.yml",
    image: "redis:7",
    starttls: "",
    uri: ("rediss://", ""),
    verified: "redis-cli -h $HOST -p $PORT --user $USERNAME --tls --cacert $CA --sni $HOST echo secured",
    plain: "redis-cli -h $HOST -p $PORT --user $USERNAME ping",
    refusals: &["reset", "closed"],
    session: "exec redis-cli -h $HOST -p $PORT --user $USERNAME --tls --cacert $CA",
    question: "echo secured",
};

const POSTGRES: Kind = Kind {
    file: "op-postgres17.yml",
    image: "postgres:17",
    starttls: "postgres",
    uri: ("postgres://", "?sslmode=require"),
    verified: "PGSSLROOTCERT=$CA PGSSLMODE=verify-full psql -h $HOST -p $PORT -U $USERNAME -d $DBNAME \
               -Atc \"select 'secured'\"",
    plain: "PGSSLMODE=disable psql -h $HOST -p $PORT -U $USERNAME -d $DBNAME -c 'select 1'",
    refusals: &["no encryption", "SSL off"],
    session: "PGSSLMODE=require exec psql -h $HOST -p $PORT -U $USERNAME -d $DBNAME -At",
    question: "select 'secured';",
};

const MARIADB: Kind = Kind {
    file: "op-mariadb11.yml",
    image: "mariadb:11.8",
    starttls: "mysql",
    uri: ("mysql://", "?ssl-mode=REQUIRED"),
    verified: "mariadb --ssl-ca=$CA --ssl-verify-server-cert -h $HOST -P $PORT -u $USERNAME -N -e \
               \"select 'secured'\" $DBNAME",
    plain: "mariadb --skip-ssl -h $HOST -P $PORT -u $USERNAME -e 'select 1' $DBNAME",
    refusals: &["insecure transport", "Access denied"],
    session: "exec mariadb --ssl --skip-ssl-verify-server-cert -h $HOST -P $PORT -u $USERNAME -nN \
              $DBNAME",
    question: "select 'secured';",
};

fn of(leaf: &str) -> Leaf {
    Leaf::parse(&format!("{leaf}-----END CERTIFICATE-----\n")).expect("a certificate")
}

async fn bound(broker: &TestBroker) -> Value {
    broker.client.provision_async("s1").await.expect(202);
    let (state, reason) = broker.client.poll("s1").await;
    assert_eq!(state, "succeeded", "{reason}");
    broker.client.bind("s1", "b1").await.expect(201)
}

/// Starts the broker again, with other settings.
async fn restart(broker: &mut TestBroker, setting: String) {
    broker.kill();
    broker.builder = broker.builder.clone().setting(setting);
    broker.launch().await;
    broker.ready().await;
}

async fn said(broker: &TestBroker, message: &str) {
    eventually(message, async || {
        let log = broker.log();
        let found = log.iter().any(|entry| entry["message"] == message);
        if found { Ok(()) } else { Err(broker.log_text()) }
    })
    .await;
}

const RENEWED: &str = "the service has taken its new TLS certificate";

/// The files that the container of `s1` sees.
fn files(broker: &TestBroker) -> [String; 3] {
    let directory = broker.directories().join("i-s1/tls");
    ["ca.crt", "tls.crt", "tls.key"].map(|file| fs::read_to_string(directory.join(file)).unwrap())
}

/// Everything that is promised of a service with TLS, from its first connection to its renewal
/// under one that stays open.
async fn speaks_tls(kind: &Kind, ca: &Ca) {
    let first = ca.setting(", lifetime: 10h, renew_before: 1h");
    let builder = TestBroker::builder().services(&[service_file(kind.file)]);
    let mut broker = builder.setting(first).start().await;
    let document = bound(&broker).await;
    let credentials = &document["credentials"];
    assert_eq!(credentials["tls"], true);
    assert_eq!(credentials["ca_certificate"], ca.certificate);
    let uri = credentials["uri"].as_str().unwrap();
    assert!(uri.starts_with(kind.uri.0) && uri.ends_with(kind.uri.1), "{uri}");

    // Who verifies gets in, plain connections do not.
    let run = |script| client(kind.image, &document, script);
    assert_eq!(run(kind.verified), (true, "secured".to_owned()));
    let (ok, answer) = run(kind.plain);
    assert!(!ok && kind.refusals.iter().any(|words| answer.contains(words)), "{answer}");
    let shown = shown_certificate(&document, kind.starttls).unwrap();
    assert_eq!(of(&shown).names, ["127.0.0.1"]);
    let mut stranger = document.clone();
    stranger["credentials"]["ca_certificate"] = Ca::new("stranger").certificate.into();
    assert!(shown_certificate(&stranger, kind.starttls).is_err());
    let (ok, _) = client(kind.image, &stranger, kind.verified);
    assert!(!ok, "a client that trusts another CA gets in");

    // The key is the service's own.
    let key = broker.directories().join("i-s1/tls/tls.key");
    assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o7777, 0o400);
    let [_, _, secret] = files(&broker);
    let line = secret.lines().nth(1).unwrap();
    let container = broker.container("s1");
    assert!(!docker_ok(&["inspect", &container]).contains(line));
    assert!(!document.to_string().contains(line));
    let write = ["exec", &container, "sh", "-c", "echo > /tls/tls.crt"];
    assert!(!crate::support::docker(&write).status.success());

    // A renewal does not disturb who is connected, and bindings stay as they are.
    let mut session = session(kind.image, &document, kind.session);
    session.ask(kind.question, "secured");
    let started = ["inspect", "-f", "{{.State.StartedAt}}", &container];
    let before = docker_ok(&started);
    restart(&mut broker, ca.setting(", lifetime: 20h, renew_before: 11h")).await;
    said(&broker, RENEWED).await;
    session.ask(kind.question, "secured");
    eventually("new connections to see the new certificate", async || {
        let now = shown_certificate(&document, kind.starttls)?;
        if now == shown { Err("the old certificate".to_owned()) } else { Ok(()) }
    })
    .await;
    assert_eq!(run(kind.verified), (true, "secured".to_owned()));
    assert_eq!(docker_ok(&started), before);
    assert_ne!(files(&broker)[2], secret);
    assert_eq!(broker.client.bind("s1", "b1").await.expect(200), document);
    for key in [&secret, &files(&broker)[2], &ca.key] {
        assert!(!broker.log_text().contains(key.lines().nth(1).unwrap()));
    }
    broker.client.deprovision("s1").await.expect(200);
    assert_eq!(broker.instance_directories(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn redis7_speaks_tls_alone_and_its_certificate_is_renewed_under_open_connections() {
    speaks_tls(&REDIS, &Ca::rsa("redis")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres17_speaks_tls_alone_and_its_certificate_is_renewed_under_open_connections() {
    speaks_tls(&POSTGRES, &Ca::new("postgres")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mariadb11_speaks_tls_alone_and_its_certificate_is_renewed_under_open_connections() {
    speaks_tls(&MARIADB, &Ca::new("mariadb")).await;
}

fn redis() -> crate::support::Builder {
    // What is removed here is to come back at the next start.
    TestBroker::builder()
        .setting("reconcile_interval: 0s")
        .services(&[service_file("op-redis7.yml")])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_and_a_lost_container_leave_the_certificate_as_it_is() {
    let ca = Ca::new("kept");
    let mut broker = redis().setting(ca.setting("")).start().await;
    let document = bound(&broker).await;
    let before = files(&broker);
    docker_ok(&["rm", "-f", &broker.container("s1")]);
    restart(&mut broker, ca.setting("")).await;
    shown_certificate(&document, "").unwrap();
    assert_eq!(files(&broker), before);
    let [_, _, secret] = before;
    // A lost certificate is made anew for the container that is made anew.
    docker_ok(&["rm", "-f", &broker.container("s1")]);
    fs::remove_dir_all(broker.directories().join("i-s1/tls")).unwrap();
    restart(&mut broker, ca.setting("")).await;
    shown_certificate(&document, "").unwrap();
    let before = files(&broker);
    assert_ne!(before[2], secret);
    // So does one that cannot be renewed: the instance comes back with what it has.
    docker_ok(&["rm", "-f", &broker.container("s1")]);
    restart(&mut broker, Ca::expired("expired").setting("")).await;
    said(&broker, "a TLS certificate could not be renewed; it is tried again").await;
    shown_certificate(&document, "").unwrap();
    assert_eq!(files(&broker), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_host_is_added_to_the_certificate_and_old_bindings_go_on_working() {
    let ca = Ca::new("hosts");
    let mut broker = redis().setting(ca.setting("")).start().await;
    let old = bound(&broker).await;
    broker.builder = broker.builder.clone().setting("external_host: localhost");
    restart(&mut broker, ca.setting("")).await;
    said(&broker, RENEWED).await;
    let new = broker.client.bind("s1", "b2").await.expect(201);
    assert_eq!(new["credentials"]["host"], "localhost");
    let shown = shown_certificate(&new, "").unwrap();
    assert_eq!(of(&shown).names, ["localhost", "127.0.0.1"]);
    assert_eq!(shown_certificate(&old, "").unwrap(), shown);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_ca_is_trusted_before_it_signs() {
    let (old, new) = (Ca::new("old"), Ca::new("new"));
    let mut broker = redis().setting(old.setting("")).start().await;
    let first = bound(&broker).await;
    old.trust_too(&[&new]);
    restart(&mut broker, old.setting("")).await;
    said(&broker, RENEWED).await;
    let second = broker.client.bind("s1", "b2").await.expect(201);
    let both = format!("{}{}", old.certificate, new.certificate);
    assert_eq!(second["credentials"]["ca_certificate"], both);
    shown_certificate(&first, "").unwrap();
    shown_certificate(&second, "").unwrap();
    new.trust_too(&[&old]);
    restart(&mut broker, new.setting("")).await;
    said(&broker, RENEWED).await;
    shown_certificate(&second, "").unwrap();
    assert!(shown_certificate(&first, "").is_err(), "signed by a CA that the first one knows");
}

#[tokio::test(flavor = "multi_thread")]
async fn instances_keep_what_they_were_made_with_when_tls_is_turned_on_or_off() {
    let ca = Ca::new("later");
    let mut broker = redis().start().await;
    let plain = bound(&broker).await;
    assert_eq!(plain["credentials"].get("tls"), None);
    assert_eq!(plain["credentials"].get("ca_certificate"), None);
    docker_ok(&["rm", "-f", &broker.container("s1")]);
    restart(&mut broker, ca.setting("")).await;
    assert_eq!(Redis::of(&plain).expect("PING").await, "+PONG");
    assert_eq!(broker.client.bind("s1", "b2").await.expect(201)["credentials"].get("tls"), None);
    broker.client.provision("s2").await.expect(201);
    let secure = broker.client.bind("s2", "b1").await.expect(201);
    shown_certificate(&secure, "").unwrap();

    docker_ok(&["rm", "-f", &broker.container("s2")]);
    restart(&mut broker, "service_tls:".to_owned()).await;
    shown_certificate(&secure, "").unwrap();
    broker.client.bind("s2", "b2").await.expect_problem(422);
    assert_eq!(broker.client.bind("s2", "b1").await.expect(200), secure);
    said(&broker, "its TLS certificate is not renewed: service_tls is not configured any more")
        .await;
    assert_eq!(Redis::of(&plain).expect("PING").await, "+PONG");
    for instance in ["s1", "s2"] {
        broker.client.deprovision(instance).await.expect(200);
    }
    assert_eq!(broker.instance_directories(), [""; 0]);
}

/// Asks for another plan of the service.
async fn change(broker: &TestBroker, plan: &str) -> Reply {
    let body = json!({ "service_id": broker.client.service_id, "plan_id": plan });
    broker.client.patch("/v2/service_instances/s1", &body).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_larger_plan_has_the_same_certificate() {
    let ca = Ca::new("update");
    let broker = redis().setting(ca.setting("")).start().await;
    let document = bound(&broker).await;
    let shown = shown_certificate(&document, "").unwrap();
    change(&broker, "168dfa15-e821-4486-bada-a5d6df6519c2").await.expect(200);
    assert_eq!(shown_certificate(&document, "").unwrap(), shown);
    assert_eq!(client("redis:7", &document, REDIS.verified), (true, "secured".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_without_tls_is_refused_as_the_next_one_of_an_instance_with_it() {
    let (ca, tls) = (Ca::new("update"), "    tls: {reload: restart}\n");
    let yaml = redis_yaml(tls);
    let (small, large) = yaml.rsplit_once(tls).unwrap();
    let builder = TestBroker::builder().yaml(format!("{small}{large}"), PLANS.0, PLANS.1);
    let broker = builder.setting(ca.setting("")).start().await;
    broker.client.provision("s1").await.expect(201);
    let reply = change(&broker, PLANS.2).await;
    reply.expect_problem(422);
    assert!(reply.description().contains("use TLS"), "{}", reply.description());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_was_not_told_before_a_crash_is_told_after_it() {
    let ca = Ca::new("crash");
    let mut broker = redis().setting(ca.setting("")).start().await;
    let document = bound(&broker).await;
    broker.kill();
    // What a renewal leaves until the service has taken the new certificate.
    fs::write(broker.directories().join("i-s1/tls-reload"), "").unwrap();
    restart(&mut broker, ca.setting("")).await;
    said(&broker, RENEWED).await;
    shown_certificate(&document, "").unwrap();
    eventually("the broker to remember that", async || {
        let there = broker.directories().join("i-s1/tls-reload").exists();
        if there { Err(broker.log_text()) } else { Ok(()) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_that_came_no_further_than_its_stop_is_gone_on_with() {
    let ca = Ca::new("restart");
    let yaml = redis_yaml("    tls: {reload: restart}\n");
    let builder = TestBroker::builder().yaml(yaml, PLANS.0, PLANS.1);
    let broker = builder.setting(ca.setting("")).start().await;
    let document = bound(&broker).await;
    docker_ok(&["stop", "-t", "10", &broker.container("s1")]);
    fs::write(broker.directories().join("i-s1/tls-reload"), "").unwrap();
    // By whoever comes first: the look after certificates, or that after containers.
    let pending = broker.directories().join("i-s1/tls-reload");
    eventually("the end of the restart", async || {
        if pending.exists() { Err("it is pending".to_owned()) } else { Ok(()) }
    })
    .await;
    assert_eq!(Redis::of(&document).expect("PING").await, "+PONG");
}
