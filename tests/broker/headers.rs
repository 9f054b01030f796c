//! The API version, the two identities, and the login.

use base64::{Engine, prelude::BASE64_STANDARD};
use http::Method;
use serde_json::Value;

use crate::support::{Client, Reply, TestBroker, redis_yaml};

/// One of each endpoint, an unknown route and a wrong method.
const REQUESTS: [(Method, &str); 14] = [
    (Method::GET, "/v2/catalog"),
    (Method::PUT, "/v2/service_instances/i"),
    (Method::GET, "/v2/service_instances/i"),
    (Method::PATCH, "/v2/service_instances/i"),
    (Method::DELETE, "/v2/service_instances/i"),
    (Method::GET, "/v2/service_instances/i/last_operation"),
    (Method::PUT, "/v2/service_instances/i/service_bindings/b"),
    (Method::GET, "/v2/service_instances/i/service_bindings/b"),
    (Method::DELETE, "/v2/service_instances/i/service_bindings/b"),
    (Method::GET, "/v2/service_instances/i/service_bindings/b/last_operation"),
    (Method::POST, "/v2/catalog"),
    (Method::GET, "/v2/unknown"),
    (Method::GET, "/"),
    (Method::POST, "/healthz"),
];

const IDENTITY: &str = "x-broker-api-request-identity";
const ORIGIN: &str = "x-broker-api-originating-identity";

/// A GET with the broker's login and these headers only.
async fn get(client: &Client, path: &str, more: &[(&str, &str)]) -> Reply {
    client.with_login(Method::GET, path, more, "").await
}

#[tokio::test(flavor = "multi_thread")]
async fn any_2_x_is_served_and_other_versions_are_refused_with_a_hint() {
    let broker = TestBroker::builder().start_unready().await;
    let client = &broker.client;
    for version in ["2.17", "2.0", "2.13", "2.18", "2.100", " 2.17 "] {
        let reply = get(client, "/v2/catalog", &[("x-broker-api-version", version)]).await;
        assert_eq!(reply.status, 200, "{version}");
    }
    for version in ["1.0", "3.0", "0.2", "12.17", "20.17"] {
        let reply = get(client, "/v2/catalog", &[("x-broker-api-version", version)]).await;
        reply.expect_problem(412);
        assert!(reply.description().contains("2.17"), "{}", reply.description());
    }
    for version in ["", "2", "2.", ".17", "latest", "2.17.1", "-2.17", "2.99999999999", "2.ä"] {
        let reply = get(client, "/v2/catalog", &[("x-broker-api-version", version)]).await;
        assert!(matches!(reply.status, 400 | 412), "{version}: {}", reply.status);
        assert!(!reply.description().is_empty());
    }
    let reply = get(client, "/v2/catalog", &[]).await;
    reply.expect_problem(400);
    assert!(reply.description().contains("X-Broker-API-Version"), "{}", reply.description());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_version_has_no_effect() {
    let broker = TestBroker::builder().switch("300s").start().await;
    let client = &broker.client;
    let body = client.provision_body().to_string();
    let path = "/v2/service_instances/i";
    for version in [&[][..], &[("x-broker-api-version", "1.0")][..]] {
        let reply = client.with_login(Method::PUT, path, version, body.clone()).await;
        assert!(matches!(reply.status, 400 | 412), "{}", reply.status);
    }
    client.deprovision("i").await.expect(410);
    assert_eq!(broker.containers(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_version_may_be_missing_where_the_operator_allows_it() {
    let broker = TestBroker::builder().setting("require_api_version: false").start_unready().await;
    assert_eq!(get(&broker.client, "/v2/catalog", &[]).await.status, 200);
    let old = get(&broker.client, "/v2/catalog", &[("x-broker-api-version", "1.0")]).await;
    old.expect_problem(412);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_request_identity_comes_back_whatever_the_answer_and_is_never_invented() {
    let broker = TestBroker::builder().start_unready().await;
    let client = &broker.client;
    let version = ("x-broker-api-version", "2.17");
    let authorization = client.authorization();
    let login = ("authorization", authorization.as_str());
    let cases = [
        (Method::GET, "/v2/catalog", vec![login, version], 200),
        (Method::GET, "/v2/catalog", vec![login], 400),
        (Method::GET, "/v2/catalog", vec![version], 401),
        (Method::GET, "/v2/service_instances/i", vec![login, version], 404),
        (Method::GET, "/v2/unknown", vec![login, version], 404),
        (Method::POST, "/v2/catalog", vec![login, version], 405),
        (
            Method::DELETE,
            "/v2/service_instances/i?service_id=s&plan_id=p",
            vec![login, version],
            410,
        ),
        (Method::GET, "/v2/catalog", vec![login, ("x-broker-api-version", "3.0")], 412),
        (Method::PUT, "/v2/service_instances/i", vec![login, version], 400),
    ];
    for (method, path, headers, status) in cases {
        let plain = client.raw(method.clone(), path, &headers, "").await.unwrap();
        assert_eq!(plain.status, status, "{method} {path}");
        assert!(plain.headers.get(IDENTITY).is_none(), "{plain:?}");
        for identity in ["e26cee84-6b38-4456-b34e-d1a9f002c956", "any text, %0d%0aX: y", "x"] {
            let headers = [&headers[..], &[(IDENTITY, identity)]].concat();
            let reply = client.raw(method.clone(), path, &headers, "").await.unwrap();
            assert_eq!(reply.status, status);
            assert_eq!(reply.header(IDENTITY), Some(identity), "{method} {path}");
            assert!(reply.headers.get("x").is_none());
        }
        let headers = [&headers[..], &[(IDENTITY, "")]].concat();
        let empty = client.raw(method, path, &headers, "").await.unwrap();
        assert!(empty.headers.get(IDENTITY).is_none(), "{empty:?}");
    }
    // Bytes above ASCII come back as they are.
    let odd = get(client, "/v2/catalog", &[version, (IDENTITY, "ä\u{fffd}")]).await;
    assert_eq!(odd.headers[IDENTITY].as_bytes(), "ä\u{fffd}".as_bytes());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_originating_identity_is_never_a_reason_to_fail() {
    let broker = TestBroker::builder().start_unready().await;
    let encode = |text: &str| BASE64_STANDARD.encode(text);
    for value in [
        format!("cloudfoundry {}", encode(r#"{"user_id": "683ea748"}"#)),
        format!("kubernetes {}", encode(r#"{"username": "duke", "groups": ["admin"]}"#)),
        format!("anything {}", encode("{}")),
        format!("cloudfoundry {}", encode("[]")),
        format!("cloudfoundry {}", encode("not json")),
        "cloudfoundry !!!".to_owned(),
        "cloudfoundry".to_owned(),
        " ".to_owned(),
        "cloudfoundry \u{fffd}ä".to_owned(),
        format!("x {}", encode(&"[".repeat(10_000))),
    ] {
        let headers = [("x-broker-api-version", "2.17"), (ORIGIN, value.as_str())];
        let reply = get(&broker.client, "/v2/catalog", &headers).await;
        assert!(matches!(reply.status, 200 | 400), "{value}: {}", reply.status);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_request_without_the_right_login_is_unauthorized() {
    let broker = TestBroker::builder().yaml(redis_yaml(""), "s", "p").start_unready().await;
    let client = &broker.client;
    let token = |user: &str, password: &str| BASE64_STANDARD.encode(format!("{user}:{password}"));
    let password = client.password.as_str();
    let good = token("broker", password);
    let wrong = [
        None,
        Some(String::new()),
        Some("Basic".to_owned()),
        Some("Basic ".to_owned()),
        Some("Basic !!!".to_owned()),
        Some("Basic \u{fffd}".to_owned()),
        Some(format!("Bearer {good}")),
        Some(good.clone()),
        Some(format!("Basic {}", token("other", password))),
        Some(format!("Basic {}", token("broker", "wrong"))),
        Some(format!("Basic {}", token("broker", ""))),
        Some(format!("Basic {}", token("broker", &format!("{password}x")))),
        Some(format!("Basic {}", token("Broker", password))),
        Some(format!("Basic {}", BASE64_STANDARD.encode("broker"))),
        Some(format!("Basic {}", token("broker", &password[1..]))),
    ];
    for (method, path) in REQUESTS {
        for authorization in &wrong {
            let mut headers = vec![("x-broker-api-version", "2.17")];
            headers.extend(authorization.as_ref().map(|value| ("authorization", value.as_str())));
            let reply = client.raw(method.clone(), path, &headers, "{}").await.unwrap();
            reply.expect_problem(401);
            let challenge = reply.header("www-authenticate").unwrap();
            assert!(challenge.starts_with("Basic realm="), "{challenge}");
            assert!(!String::from_utf8_lossy(&reply.bytes).contains(password));
        }
    }
    for scheme in ["Basic", "basic", "BASIC", "bAsIc"] {
        let login = format!("{scheme} {good}");
        let headers = [("authorization", login.as_str()), ("x-broker-api-version", "2.17")];
        let reply = client.raw(Method::GET, "/v2/catalog", &headers, "").await.unwrap();
        assert_eq!(reply.status, 200, "{scheme}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn health_is_told_to_anybody_but_nothing_else_is() {
    let broker = TestBroker::builder().start().await;
    let client = &broker.client;
    for (path, status) in [("/healthz", "ok"), ("/readyz", "ready")] {
        let reply = client.raw(Method::GET, path, &[], "").await.unwrap();
        assert_eq!(reply.expect(200)["status"], status);
        let head = client.raw(Method::HEAD, path, &[], "").await.unwrap();
        assert_eq!((head.status, head.bytes.len()), (200, 0));
        let text = String::from_utf8_lossy(&reply.bytes).into_owned();
        for secret in ["docker.sock", broker.data.path().to_str().unwrap(), &client.password] {
            assert!(!text.contains(secret), "{text}");
        }
    }
    for path in ["/healthz/", "/healthz/x", "/readyz%2F", "/v2/catalog;/healthz"] {
        let reply = client.raw(Method::GET, path, &[], "").await.unwrap();
        reply.expect_problem(401);
    }
    let log: Vec<Value> = broker.log();
    assert!(!log.is_empty() && !broker.log_text().contains(&client.password));
}
