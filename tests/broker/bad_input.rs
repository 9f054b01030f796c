//! Bodies, methods and connections that are not what they should be.

use http::Method;
use serde_json::{Value, json};

use crate::support::{Client, Connection, Reply, TestBroker};

const INSTANCE: &str = "/v2/service_instances/i";

/// A broker, and its catalog to compare with later.
async fn start(limit: &str) -> (TestBroker, Value) {
    let broker = TestBroker::builder()
        .switch("300s")
        .setting(format!("max_body_size: {limit}"))
        .start()
        .await;
    let catalog = broker.client.get("/v2/catalog").await.expect(200);
    (broker, catalog)
}

/// Nothing was made, and the broker is as it was.
async fn assert_unharmed(broker: &TestBroker, catalog: &Value) {
    let client = &broker.client;
    assert_eq!(client.get("/v2/catalog").await.expect(200), *catalog);
    client.deprovision("i").await.expect(410);
    assert_eq!(broker.containers(), [""; 0]);
    assert_eq!(broker.instance_directories(), [""; 0]);
    let log = broker.log_text();
    assert!(!log.contains("panicked") && !log.contains("internal error"), "{log}");
}

async fn send(client: &Client, method: Method, path: &str, body: Vec<u8>) -> Reply {
    client.with_login(method, path, &[("x-broker-api-version", "2.17")], body).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_no_json_object_is_a_bad_request() {
    let (broker, catalog) = start("1m").await;
    let client = &broker.client;
    let good = client.provision_body().to_string();
    let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    let with = |parameters: &str| {
        format!("{},\"parameters\":{parameters}}}", good.strip_suffix('}').unwrap()).into_bytes()
    };
    let bodies: [Vec<u8>; 22] = [
        b"".to_vec(),
        b" ".to_vec(),
        b"{".to_vec(),
        b"nonsense".to_vec(),
        b"[]".to_vec(),
        b"\"text\"".to_vec(),
        b"17".to_vec(),
        b"null".to_vec(),
        b"true".to_vec(),
        format!("[{good}]").into_bytes(),
        format!("{good}{good}").into_bytes(),
        format!("{good},").into_bytes(),
        format!("\u{feff}{good}").into_bytes(),
        good.replace('"', "'").into_bytes(),
        nested(1_000).into_bytes(),
        nested(100_000).into_bytes(),
        with(&format!("{{\"deep\":{}}}", nested(1_000))),
        with(&"{\"a\":".repeat(100_000)),
        [b"{\"service_id\":\"", &[0xff, 0xfe][..], b"\"}"].concat(),
        with("{\"colour\":\"\\ud800\"}"),
        with("{\"colour\":1e999}"),
        with("{\"colour\":\"a\0b\"}"),
    ];
    for (index, body) in bodies.iter().enumerate() {
        for (method, path) in [
            (Method::PUT, INSTANCE),
            (Method::PUT, "/v2/service_instances/i?accepts_incomplete=true"),
            (Method::PATCH, INSTANCE),
            (Method::PUT, "/v2/service_instances/i/service_bindings/b"),
        ] {
            let reply = send(client, method, path, body.clone()).await;
            assert_eq!(reply.status, 400, "body {index}: {:?}", reply.bytes);
            reply.expect_problem(400);
        }
    }
    assert_unharmed(&broker, &catalog).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn json_that_is_odd_but_right_is_served() {
    let (broker, _) = start("64k").await;
    let client = &broker.client;
    let mut body = client.body_with(&json!({"colour": "\u{1f980} \u{7f} \u{2028}"}));
    // As large as Cloud Foundry's annotations make it.
    body["context"] = json!({"annotations": "x".repeat(60_000), "n": 1e300, "null": null});
    let text = body.to_string().replace("service_id", "\\u0073ervice_id");
    let reply = send(client, Method::PUT, INSTANCE, format!(" \r\n\t{text}\n").into_bytes()).await;
    reply.expect(201);
    client.put(INSTANCE, &body).await.expect(200);
    // Bodies of requests that need none are ignored.
    let path = format!("{INSTANCE}?{}", client.ids());
    send(client, Method::GET, INSTANCE, b"{nonsense".to_vec()).await.expect(200);
    send(client, Method::DELETE, &path, b"{nonsense".to_vec()).await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_over_the_limit_is_refused_whether_its_length_is_declared_or_not() {
    let (broker, catalog) = start("64k").await;
    let client = &broker.client;
    let mut body = client.provision_body();
    body["context"] = json!({ "long": "x".repeat(64 << 10) });
    let body = body.to_string();
    let declared = send(client, Method::PUT, INSTANCE, body.clone().into_bytes()).await;
    declared.expect_problem(413);
    assert_eq!(declared.header("connection"), Some("close"));
    let brackets = "[".repeat(100_000).into_bytes();
    send(client, Method::PUT, INSTANCE, brackets).await.expect_problem(413);

    let mut chunked = Connection::open(client).await;
    let head = client.head(&format!("PUT {INSTANCE}"), "Transfer-Encoding: chunked\r\n\r\n");
    chunked.send(head).await;
    for chunk in body.as_bytes().chunks(1000) {
        chunked.send(format!("{:x}\r\n", chunk.len())).await;
        chunked.send([chunk, &b"\r\n"[..]].concat()).await;
    }
    let reply = chunked.read_to_end().await;
    assert!(reply.starts_with("HTTP/1.1 413 "), "{reply}");

    // Refused at once, not waited for.
    for length in ["65537", "99999999999", "18446744073709551615", "99999999999999999999999"] {
        let mut absurd = Connection::open(client).await;
        let more = format!("Content-Length: {length}\r\nExpect: 100-continue\r\n\r\n");
        absurd.send(client.head(&format!("PUT {INSTANCE}"), &more)).await;
        let reply = absurd.read_to_end().await;
        assert!(reply.starts_with("HTTP/1.1 4"), "{length}: {reply}");
    }
    assert_unharmed(&broker, &catalog).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn chunked_and_announced_bodies_are_read_and_cut_off_ones_make_nothing() {
    let (broker, catalog) = start("64k").await;
    let client = &broker.client;
    let body = client.provision_body().to_string();
    let (first, second) = body.split_at(body.len() / 2);
    let line = format!("PUT {INSTANCE}");
    let length = body.len();
    // Cut off in the middle of a declared body, of a chunk, and between two chunks.
    for (more, sent) in [
        (format!("Content-Length: {length}\r\n\r\n"), first.to_owned()),
        ("Transfer-Encoding: chunked\r\n\r\n".to_owned(), format!("{length:x}\r\n{first}")),
        (
            "Transfer-Encoding: chunked\r\n\r\n".to_owned(),
            format!("{:x}\r\n{first}\r\n{:x}\r\n{second}\r\n", first.len(), second.len()),
        ),
    ] {
        let mut cut = Connection::open(client).await;
        cut.send(client.head(&line, &more)).await;
        cut.send(sent).await;
        cut.finish().await;
        let reply = cut.read_to_end().await;
        assert!(reply.is_empty() || reply.starts_with("HTTP/1.1 400 "), "{reply}");
    }
    assert_unharmed(&broker, &catalog).await;

    let mut waits = Connection::open(client).await;
    let more = format!("Content-Length: {length}\r\nExpect: 100-continue\r\n\r\n");
    waits.send(client.head(&line, &more)).await;
    let reply = waits.read_until("\r\n\r\n").await;
    assert!(reply.starts_with("HTTP/1.1 100 "), "{reply}");
    waits.send(&body).await;
    let reply = waits.read_until("{}").await;
    assert!(reply.starts_with("HTTP/1.1 201 "), "{reply}");
    let mut chunked = Connection::open(client).await;
    chunked.send(client.head(&line, "Transfer-Encoding: chunked\r\n\r\n")).await;
    let (one, two) = (first.len(), second.len());
    chunked.send(format!("{one:x}\r\n{first}\r\n{two:X};x=y\r\n{second}\r\n0\r\n\r\n")).await;
    let reply = chunked.read_until("{}").await;
    assert!(reply.starts_with("HTTP/1.1 200 "), "{reply}");
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_methods_and_unknown_routes_are_told_so() {
    let (broker, catalog) = start("64k").await;
    let client = &broker.client;
    let binding = "/v2/service_instances/i/service_bindings/b";
    for (path, allowed) in [
        ("/v2/catalog", "GET, HEAD"),
        (INSTANCE, "GET, HEAD, PUT, PATCH, DELETE"),
        ("/v2/service_instances/i/last_operation", "GET, HEAD"),
        (binding, "GET, HEAD, PUT, DELETE"),
        ("/v2/service_instances/i/service_bindings/b/last_operation", "GET, HEAD"),
    ] {
        for method in ["POST", "PATCH", "DELETE", "OPTIONS", "TRACE", "BREW", "put"] {
            let method = Method::from_bytes(method.as_bytes()).unwrap();
            if allowed.split(", ").any(|known| known == method) {
                continue;
            }
            let body = client.provision_body().to_string().into_bytes();
            let reply = send(client, method.clone(), path, body).await;
            assert_eq!(reply.status, 405, "{method} {path}");
            reply.expect_problem(405);
            assert_eq!(reply.header("allow"), Some(allowed));
        }
    }
    for path in [
        "/",
        "//",
        "/v2",
        "/v2/",
        "/v2/catalog/",
        "//v2/catalog",
        "/V2/catalog",
        "/v2/catalog%2F",
        "/v1/catalog",
        "/v2/service_instances",
        "/v2/service_instances/i/",
        "/v2/service_instances/i/j",
        "/v2/service_instances/../../etc/passwd",
        "/v2/service_instances/i/service_bindings",
        "/v2/service_instances/i/service_bindings/b/c",
    ] {
        for method in [Method::GET, Method::PUT, Method::DELETE] {
            let reply = send(client, method.clone(), path, Vec::new()).await;
            assert_eq!(reply.status, 404, "{method} {path}");
            reply.expect_problem(404);
        }
    }
    let mut star = Connection::open(client).await;
    star.send(client.head("OPTIONS *", "Connection: close\r\n\r\n")).await;
    let reply = star.read_to_end().await;
    assert!(reply.is_empty() || reply.starts_with("HTTP/1.1 4"), "{reply}");
    assert_unharmed(&broker, &catalog).await;
}
