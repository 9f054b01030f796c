//! What goes wrong while registering: each with its exit code and a sentence that says what to do.

use std::{convert::Infallible, time::Duration};

use bytes::Bytes;
use http_body_util::Full;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::support::{
    BROKER, Fault, Finished, KnownBroker, NOBODY, Platform, TestBroker, Tls, registrar,
    registrar_settings,
};

async fn scene(tls: Tls) -> (Platform, TestBroker, Value) {
    let broker = TestBroker::builder().setting("fetch_images: false").start_unready().await;
    let platform = Platform::with(tls).await;
    let settings = registrar_settings(&platform, &broker);
    (platform, broker, settings)
}

#[track_caller]
fn fails(done: &Finished, words: &[&str]) {
    assert_eq!(done.code, Some(1), "{done:?}");
    for words in words {
        assert!(done.stderr.contains(words), "{words:?} is not in:\n{}", done.stderr);
    }
}

fn fault(on: &'static str, times: u32, status: u16) -> Fault {
    Fault { on, times, status, headers: Vec::new(), after: false }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_login_and_one_that_is_no_administrator_are_told_apart() {
    let (platform, _broker, mut settings) = scene(Tls::None).await;
    settings["cf"]["password"] = "a-wrong-password".into();
    let wrong = registrar("register", &settings, &[]).await;
    let words =
        "UAA refuses the login of admin: Bad credentials; check cf.username and cf.password";
    fails(&wrong, &[words]);
    settings["cf"]["username"] = NOBODY.0.into();
    settings["cf"]["password"] = NOBODY.1.into();
    fails(&registrar("register", &settings, &[]).await, &["nobody has not the scope", "use an"]);
    // A role may be taken away after the login.
    let (platform_2, _broker_2, settings) = scene(Tls::None).await;
    platform_2.state().faults = vec![fault("POST /v3/service_brokers", 1, 403)];
    let words = ["does not let admin create the broker (403", "a fault of the test", "log in as"];
    fails(&registrar("register", &settings, &[]).await, &words);
    assert_eq!(platform.changes(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_that_are_no_good_are_named_without_their_values_and_exit_with_78() {
    let (_platform, _broker, settings) = scene(Tls::None).await;
    let with = |pointer: &str, value: Value| {
        let mut changed = settings.clone();
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        changed.pointer_mut(parent).unwrap()[key] = value;
        changed
    };
    for (settings, words) in [
        (with("/cf/api_url", "".into()), "cf.api_url is empty"),
        (with("/cf/api_url", "api.example.com".into()), "cf.api_url: relative URL"),
        (with("/cf/api_url", "ftp://x".into()), "cf.api_url must begin with https://"),
        (with("/cf/api_url", "https://a:b@x".into()), "must not hold a login"),
        (with("/cf/username", Value::Null), "cf.username and cf.password, or cf.client_id"),
        (with("/cf/password", Value::Null), "cf.username is given without cf.password"),
        (with("/cf/client_id", "x".into()), "cf.client_id is given without cf.client_secret"),
        (with("/cf/service_access", "sometimes".into()), "sometimes"),
        (with("/cf/nonsense", 1.into()), "unknown field `nonsense`"),
        (with("/cf/remove_access", "1234567890".into()), "cf.remove_access: a value of the wrong"),
        (with("/cf/ca_cert", "no pem".into()), "cf.ca_cert holds no PEM certificate"),
        (with("/broker/name", " ".into()), "broker.name is empty"),
    ] {
        let done = registrar("register", &settings, &[]).await;
        assert_eq!(done.code, Some(78), "{words}: {done:?}");
        assert!(done.stderr.contains(words), "{words}: {done:?}");
        assert!(!done.stderr.contains("1234567890"), "{done:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_that_is_away_silent_or_something_else_is_named() {
    let (platform, broker, mut settings) = scene(Tls::None).await;
    platform.state().is_silent = true;
    settings["cf"]["request_timeout_seconds"] = 1.into();
    let silent = registrar("register", &settings, &[]).await;
    fails(&silent, &["the Cloud Foundry API at http://127.0.0.1", "it does not answer in time"]);
    settings["cf"]["api_url"] = "http://127.0.0.1:1".into();
    let away = registrar("register", &settings, &[]).await;
    fails(&away, &["http://127.0.0.1:1 cannot be reached", "check the address, DNS, firewall"]);
    settings["cf"]["api_url"] = "http://no-such-host.invalid".into();
    fails(
        &registrar("register", &settings, &[]).await,
        &["no-such-host.invalid cannot be reached"],
    );
    settings["cf"]["api_url"] = format!("http://{}", broker.client.address).into();
    let other = registrar("register", &settings, &[]).await;
    fails(&other, &["is not the root of a Cloud Foundry API", "check cf.api_url"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_private_ca_is_trusted_when_it_is_given_and_a_wrong_host_name_never() {
    let (platform, _broker, mut settings) = scene(Tls::PrivateCa).await;
    let untrusted = registrar("register", &settings, &[]).await;
    fails(&untrusted, &["its certificate is not trusted; give its CA in cf.ca_cert"]);
    settings["cf"]["ca_cert"] = platform.ca.clone().into();
    let trusted = registrar("register", &settings, &[]).await;
    assert_eq!(trusted.code, Some(0), "{trusted:?}");
    let (other, _broker_2, mut settings) = scene(Tls::WrongHost).await;
    settings["cf"]["ca_cert"] = other.ca.clone().into();
    let wrong = registrar("register", &settings, &[]).await;
    fails(&wrong, &["its certificate is for another host"]);
    settings["cf"]["skip_ssl_validation"] = true.into();
    let skipped = registrar("register", &settings, &[]).await;
    assert_eq!(skipped.code, Some(0), "{skipped:?}");
    platform.assert_contented();
    other.assert_contented();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_of_that_name_that_is_another_one_is_left_alone() {
    let (platform, _broker, settings) = scene(Tls::None).await;
    let other = TestBroker::builder().switch("20s").setting("fetch_images: false");
    let other = other.start_unready().await;
    let theirs = registrar_settings(&platform, &other);
    assert_eq!(registrar("register", &theirs, &[]).await.code, Some(0));
    platform.changes();
    let refused = registrar("register", &settings, &[]).await;
    let where_it_is = format!("is registered at http://{}", other.client.address);
    fails(&refused, &["a broker named docker-broker", &where_it_is, "choose another name"]);
    platform.state().brokers = vec![KnownBroker {
        guid: "g".to_owned(),
        name: BROKER.to_owned(),
        url: "http://space.example.com".to_owned(),
        login: (String::new(), String::new()),
        space: Some("space".to_owned()),
    }];
    let in_a_space = registrar("register", &settings, &[]).await;
    fails(&in_a_space, &["belongs to one space; delete it, or register under another name"]);
    assert_eq!(platform.changes(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_another_broker_offers_as_well_is_a_warning() {
    let (platform, broker, settings) = scene(Tls::None).await;
    assert_eq!(registrar("register", &settings, &[]).await.code, Some(0));
    let twin = TestBroker::builder().setting("fetch_images: false").start_unready().await;
    let mut theirs = registrar_settings(&platform, &twin);
    theirs["broker"]["name"] = "twin".into();
    let done = registrar("register", &theirs, &[]).await;
    assert_eq!(done.code, Some(0), "{done:?}");
    let words = "another broker offers a service named redis-for-tests as well; cf create-service";
    assert!(done.stdout.contains(words), "{done:?}");
    drop(broker);
}

/// A broker that answers every request with this.
async fn broker_that_says(body: Value) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let body = body.to_string();
            tokio::spawn(async move {
                let service = service_fn(move |_| {
                    let body = Full::new(Bytes::from(body.clone()));
                    async move { Ok::<_, Infallible>(http::Response::new(body)) }
                });
                let http = hyper::server::conn::http1::Builder::new();
                drop(http.serve_connection(TokioIo::new(stream), service).await);
            });
        }
    });
    url
}

#[tokio::test(flavor = "multi_thread")]
async fn each_message_about_a_catalog_that_is_refused_has_a_line() {
    let (_platform, _broker, mut settings) = scene(Tls::None).await;
    let service = json!({ "id": "a", "name": "twice", "plans": [] });
    let url = broker_that_says(json!({ "services": [service, service] })).await;
    settings["broker"]["url"] = url.into();
    let refused = registrar("register", &settings, &[]).await;
    let lines =
        "\n  Service twice\n    At least one plan is required\n  Service names must be unique";
    fails(&refused, &[lines]);
    settings["broker"]["name"] = "other".into();
    settings["broker"]["url"] = broker_that_says(json!({ "hello": 1 })).await.into();
    let empty = registrar("register", &settings, &[]).await;
    assert!(empty.stdout.contains("its answer is no catalog"), "{empty:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_cannot_be_reached_or_refuses_the_login_is_named() {
    let (platform, broker, mut settings) = scene(Tls::None).await;
    platform.state().brokers_unreachable = true;
    let from_cc = registrar("register", &settings, &[]).await;
    let words =
        ["The service broker could not be reached", "see that the Cloud Controller reaches"];
    fails(&from_cc, &words);
    platform.state().brokers_unreachable = false;
    // It is known by now, and the next run mends it.
    assert_eq!(registrar("register", &settings, &[]).await.code, Some(0));
    settings["broker"]["password"] = "a-wrong-broker-password".into();
    let refused = registrar("register", &settings, &[]).await;
    fails(&refused, &["Authentication with the service broker failed", "deploy broker and"]);
    assert!(refused.stdout.contains("it refuses the user and password that the"), "{refused:?}");
    settings["broker"]["take_over"] = true.into();
    settings["broker"]["url"] = "http://127.0.0.1:1".into();
    let away = registrar("register", &settings, &[]).await;
    assert!(away.stdout.contains("the broker at http://127.0.0.1:1 cannot be reached"), "{away:?}");
    fails(&away, &["The service broker could not be reached: http://127.0.0.1:1"]);
    // The platform alone reaches it, by a route that this VM does not have.
    platform.state().brokers.clear();
    platform.state().offerings.clear();
    let mut settings = registrar_settings(&platform, &broker);
    settings["proxies"] = json!({ "http": "http://127.0.0.1:1", "no_proxy": "localhost" });
    let api = platform.url().replace("127.0.0.1", "localhost");
    settings["cf"]["api_url"] = api.clone().into();
    platform.state().url = api;
    let done = registrar("register", &settings, &[]).await;
    assert_eq!(done.code, Some(0), "{done:?}");
    assert!(done.stdout.contains("Warning: the broker does not show its catalog"), "{done:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_busy_platform_is_given_the_time_that_it_asks_for() {
    let (platform, _broker, settings) = scene(Tls::None).await;
    let headers = vec![("retry-after", "1")];
    let limited = Fault { headers, ..fault("POST /v3/service_brokers", 2, 429) };
    platform.state().faults = vec![
        limited,
        fault("GET /v3/service_plans", 2, 500),
        fault("PATCH /v3/service_plans", 1, 502),
    ];
    let started = std::time::Instant::now();
    let done = registrar("register", &settings, &[]).await;
    assert_eq!(done.code, Some(0), "{done:?}");
    assert!(started.elapsed() >= Duration::from_secs(2));
    platform.assert_contented();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_platform_that_stays_ill_is_given_up_with_its_status() {
    let (platform, _broker, settings) = scene(Tls::None).await;
    platform.state().faults = vec![fault("GET /v3/service_brokers", 1000, 503)];
    let ill = registrar("register", &settings, &[]).await;
    fails(&ill, &["it answered 503 Service Unavailable 5 times in a row; try again later"]);
    let headers = vec![("retry-after", "86400")];
    platform.state().faults = vec![Fault { headers, ..fault("GET /v3/service_brokers", 9, 429) }];
    let words = ["429 Too Many Requests 1 times in a row; try again in 86400 s"];
    fails(&registrar("register", &settings, &[]).await, &words);
    assert_eq!(platform.changes(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_whose_answers_were_lost_are_taken_up_instead_of_failing() {
    let (platform, _broker, mut settings) = scene(Tls::None).await;
    platform.state().sync_takes = Duration::from_secs(3);
    let lost = |on| Fault { after: true, ..fault(on, 1, 502) };
    platform.state().faults = vec![lost("POST /v3/service_brokers")];
    let done = registrar("register", &settings, &[]).await;
    assert_eq!(done.code, Some(0), "{done:?}");
    assert_eq!(platform.state().brokers.len(), 1);
    assert!(!platform.access().is_empty());
    assert!(platform.access().values().all(|(kind, _)| kind == "public"));
    platform.state().faults = vec![lost("PATCH /v3/service_brokers")];
    let done = registrar("register", &settings, &[]).await;
    assert_eq!(done.code, Some(0), "{done:?}");
    settings["purge"] = true.into();
    platform.state().faults =
        vec![lost("DELETE /v3/service_offerings"), lost("DELETE /v3/service_brokers")];
    let done = registrar("deregister", &settings, &[]).await;
    assert_eq!(done.code, Some(0), "{done:?}");
    assert!(platform.state().brokers.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_sent_to_no_other_host() {
    let (platform, _broker, settings) = scene(Tls::None).await;
    // Where the platform says its jobs are.
    let elsewhere = Platform::start().await;
    platform.state().jobs_at = Some(elsewhere.url());
    let done = registrar("register", &settings, &[]).await;
    fails(&done, &["it leads to another host"]);
    assert_eq!(elsewhere.state().requests, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn warnings_of_the_platform_are_shown() {
    let (platform, _broker, settings) = scene(Tls::None).await;
    platform.state().job_warning = Some("the catalog has a service without a description".into());
    let done = registrar("register", &settings, &[]).await;
    assert_eq!(done.code, Some(0), "{done:?}");
    assert!(done.stdout.contains("Warning: the catalog has a service without"), "{done:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn proxies_of_the_environment_are_used_except_for_no_proxy() {
    let (_platform, _broker, settings) = scene(Tls::None).await;
    let proxy = [("HTTP_PROXY", "http://127.0.0.1:1")];
    let refused = registrar("register", &settings, &proxy).await;
    fails(&refused, &["cannot be reached"]);
    let around = [proxy[0], ("NO_PROXY", "127.0.0.1")];
    let done = registrar("register", &settings, &around).await;
    assert_eq!(done.code, Some(0), "{done:?}");
}
