//! Malformed HTTP, and clients that take their time.

use std::time::{Duration, Instant};

use http::Method;

use crate::support::{Connection, TestBroker};

const INSTANCE: &str = "/v2/service_instances/i";

#[tokio::test(flavor = "multi_thread")]
async fn malformed_http_is_refused_and_makes_nothing() {
    let broker = TestBroker::builder().switch("300s").start().await;
    let client = &broker.client;
    let body = client.provision_body().to_string();
    let length = body.len();
    let put = |more: &str| client.head(&format!("PUT {INSTANCE}"), more);
    for request in [
        "\0\u{1}\u{2}garbage\r\n\r\n".to_owned(),
        "GET\r\n\r\n".to_owned(),
        client.head("GET /v2/catalog x", "\r\n"),
        client.head("GET /v2/catalog", "").replace("HTTP/1.1", "HTTP/9.9") + "\r\n",
        client.head("GET /v2/catalog", "no colon here\r\n\r\n"),
        client.head("GET /v2/catalog", "Bad\0Header: x\r\n\r\n"),
        put(&format!("Content-Length: {length}\r\nContent-Length: 1\r\n\r\n{body}")),
        put(&format!("Content-Length: -1\r\n\r\n{body}")),
        put(&format!("Content-Length: x\r\n\r\n{body}")),
        put(&format!("Transfer-Encoding: chunked, identity\r\n\r\n{body}")),
        put(&format!("Transfer-Encoding: chunked\r\n\r\nxyz\r\n{body}\r\n0\r\n\r\n")),
    ] {
        let mut connection = Connection::open(client).await;
        connection.send(&request).await;
        connection.finish().await;
        let reply = connection.read_to_end().await;
        assert!(reply.is_empty() || reply.starts_with("HTTP/1.1 4"), "{request:?}: {reply}");
    }
    client.deprovision("i").await.expect(410);
    assert_eq!(broker.containers(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn unusual_but_right_requests_are_served() {
    let broker = TestBroker::builder().start_unready().await;
    let client = &broker.client;
    let close = "Connection: close\r\n\r\n";
    for request in [
        client.head("GET http://broker/v2/catalog", close),
        client.head("GET http://elsewhere:80/v2/catalog?x", close),
        client.head("GET /v2/catalog", "\r\n").replace("HTTP/1.1", "HTTP/1.0"),
        client.head("GET /v2/catalog", close).replace("Host: broker\r\n", ""),
        client.head("GET /v2/catalog", close).replace("Authorization", "aUTHORIZATION"),
        client.head("GET /v2/catalog", &format!("Content-Length: 0\r\nAccept: x\r\n{close}")),
        format!("\r\n{}", client.head("GET /v2/catalog", close)),
    ] {
        let mut connection = Connection::open(client).await;
        connection.send(&request).await;
        let reply = connection.read_to_end().await;
        assert!(reply.contains(" 200 OK\r\n"), "{request}: {reply:.200}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_headers_and_long_queries_are_served_or_refused() {
    let broker = TestBroker::builder().start_unready().await;
    let client = &broker.client;
    let many = |count: usize| {
        (0..count).fold(String::new(), |text, index| text + &format!("X-H{index}: x\r\n"))
    };
    let get = |query: &str, more: &str| {
        let line = format!("GET /v2/catalog?{query}");
        client.head(&line, &format!("{more}Connection: close\r\n\r\n"))
    };
    for (request, statuses) in [
        (get("", &many(50)), &["200"][..]),
        (get("", &many(1_000)), &["431"]),
        (get("", &format!("X-Long: {}\r\n", "x".repeat(30_000))), &["200"]),
        (get("", &format!("X-Long: {}\r\n", "x".repeat(1 << 20))), &["431"]),
        (get(&"a=b&".repeat(1_000), ""), &["200"]),
        (get(&"&".repeat(10_000), ""), &["200"]),
        (get(&"x".repeat(40_000), ""), &["200"]),
        (get(&"x".repeat(1 << 20), ""), &["414", "431"]),
        (get("%zz=%&=%ff&service_id=a&service_id=b", ""), &["200"]),
    ] {
        let mut connection = Connection::open(client).await;
        connection.send(&request).await;
        let reply = connection.read_to_end().await;
        let status = reply.split(' ').nth(1).unwrap_or_default();
        // A client that is still sending when it is refused may not see the answer.
        let refused = statuses[0] != "200" && reply.is_empty();
        assert!(refused || statuses.contains(&status), "{statuses:?}: {reply:.200}");
    }
    client.get("/v2/catalog").await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kept_connection_stays_in_step_after_errors() {
    let broker = TestBroker::builder().start_unready().await;
    let client = &broker.client;
    let put =
        |head: &str, body: &str| format!("{head}Content-Length: {}\r\n\r\n{body}", body.len());
    // A body that looks like a request, which must never be taken for one.
    let smuggled = client.head("DELETE /v2/catalog", "\r\n");
    let instance = client.head(&format!("PUT {INSTANCE}"), "");
    let requests = [
        put(&instance.replace("Basic", "Other"), &smuggled),
        put(&client.head("PUT /v2/nothing", ""), &smuggled),
        put(&client.head("PUT /v2/catalog", ""), &smuggled),
        put(&instance.replace("2.17", "1.0"), &smuggled),
        put(&instance, &smuggled),
    ];
    for (request, status) in requests.iter().zip(["401", "404", "405", "412", "400"]) {
        let mut connection = Connection::open(client).await;
        connection.send(request).await;
        connection.send(client.head("GET /v2/catalog", "Connection: close\r\n\r\n")).await;
        let replies = connection.read_to_end().await;
        let lines: Vec<&str> = replies.split("HTTP/1.1 ").skip(1).map(|text| &text[..3]).collect();
        assert!(lines == [status, "200"] || lines == [status], "{status}: {lines:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_clients_are_closed_and_delay_nobody() {
    let broker = TestBroker::builder().start().await;
    let client = &broker.client;
    let started = Instant::now();
    let mut idle = Vec::new();
    for _ in 0..50 {
        idle.push(Connection::open(client).await);
    }
    let slow_headers = async {
        let mut connection = Connection::open(client).await;
        connection.send(client.head("GET /v2/catalog", "X-Never-Ending: ")).await;
        connection.read_to_end().await;
        started.elapsed()
    };
    let slow_body = async {
        let mut connection = Connection::open(client).await;
        let head = client.head(&format!("PUT {INSTANCE}"), "Content-Length: 1000\r\n\r\n");
        connection.send(head + "{").await;
        (connection.read_to_end().await, started.elapsed())
    };
    let others = async {
        client.get("/v2/catalog").await.expect(200);
        client.get("/v2/service_instances/i/last_operation").await.expect(404);
        started.elapsed()
    };
    let (headers, (reply, body), others) = tokio::join!(slow_headers, slow_body, others);
    assert!(others < Duration::from_secs(15), "{others:?}");
    assert!(headers < Duration::from_secs(30), "{headers:?}");
    assert!(body < Duration::from_secs(50), "{body:?}");
    assert!(reply.starts_with("HTTP/1.1 408 "), "{reply}");
    for connection in idle {
        connection.read_to_end().await;
    }
    let reply = client.raw(Method::GET, "/healthz", &[], "").await.unwrap();
    reply.expect(200);
    client.deprovision("i").await.expect(410);
}
