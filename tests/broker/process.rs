//! The broker as a process: how it stops, what it says of itself while it runs.

use std::time::Duration;

use http::Method;
use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::support::{
    Builder, TestBroker, busybox_service, docker, docker_broker, docker_ok, eventually,
};

/// From the signal to the end, by the promise to bpm and monit.
const BUDGET: Duration = Duration::from_secs(15);

/// A broker whose instances are not ready before a test opens them.
fn closed_instances() -> Builder {
    let readiness = "      readiness: {exec: [test, -e, /tmp/open], timeout: 60s}\n      \
                     stop_timeout: 1s";
    let yaml = busybox_service("sleep 1000000", readiness);
    TestBroker::builder().yaml(yaml, "busybox-service", "busybox-plan")
}

async fn running(container: &str) {
    eventually("the container to run", async || {
        let output = docker(&["inspect", "--format", "{{.State.Running}}", container]);
        let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        if text == "true" { Ok(()) } else { Err(text) }
    })
    .await;
}

fn interrupt(broker: &TestBroker) {
    let pid = Pid::from_raw(i32::try_from(broker.pid()).expect("a pid")).expect("a pid");
    kill_process(pid, Signal::INT).expect("a running process takes signals");
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_ends_it_in_time_with_idle_and_half_open_connections() {
    let mut broker = TestBroker::builder().start().await;
    let mut silent = TcpStream::connect(&broker.client.address).await.unwrap();
    let mut half = TcpStream::connect(&broker.client.address).await.unwrap();
    half.write_all(b"PUT /v2/service_instances/x HTTP/1.1\r\nhost: x\r\n").await.unwrap();
    let mut kept = TcpStream::connect(&broker.client.address).await.unwrap();
    kept.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut answer = [0; 12];
    kept.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200");
    let (took, succeeded) = broker.terminate().await;
    assert!(succeeded, "{}", broker.log_text());
    assert!(took < BUDGET, "{took:?}");
    for stream in [&mut silent, &mut half, &mut kept] {
        // It is closed, one way or the other.
        let mut rest = Vec::new();
        drop(stream.read_to_end(&mut rest).await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_ends_it_in_time_in_the_middle_of_a_provision_which_then_goes_on() {
    let mut broker = closed_instances().start().await;
    let client = broker.client.clone();
    let waiting = tokio::spawn(async move { client.provision("p1").await });
    let container = broker.container("p1");
    running(&container).await;
    let (took, succeeded) = broker.terminate().await;
    assert!(succeeded && took < BUDGET, "{took:?}: {}", broker.log_text());
    let reply = waiting.await.unwrap();
    assert_eq!(reply.status, 503, "{reply:?}");
    assert!(reply.description().contains("goes on after its next start"), "{reply:?}");
    let id = docker_ok(&["inspect", "--format", "{{.Id}}", &container]);
    broker.launch().await;
    let last = broker.client.get("/v2/service_instances/p1/last_operation").await.expect(200);
    assert_eq!(last["state"], "in progress");
    docker_ok(&["exec", &container, "touch", "/tmp/open"]);
    assert_eq!(broker.client.poll("p1").await.0, "succeeded");
    assert_eq!(docker_ok(&["inspect", "--format", "{{.Id}}", &container]), id);
    // It found the network of its first start.
    let label = format!("label=io.docker-broker.owner={}", broker.name());
    broker.ready().await;
    assert_eq!(docker_ok(&["network", "ls", "-q", "--filter", &label]).lines().count(), 1);
    broker.client.deprovision("p1").await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_stops_it_as_sigterm_does() {
    let mut broker = TestBroker::builder().start().await;
    interrupt(&broker);
    assert!(broker.ended().await, "{}", broker.log_text());
    assert!(broker.log().iter().any(|entry| entry["signal"] == "SIGINT"), "{}", broker.log_text());
    assert!(TcpStream::connect(&broker.client.address).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn it_listens_and_offers_its_catalog_while_dockerd_is_away() {
    let builder = TestBroker::builder().setting("docker_url: unix:///no/such/docker.sock");
    let mut broker = builder.start_unready().await;
    let ask = async |path: &str| broker.client.raw(Method::GET, path, &[], "").await.unwrap();
    ask("/healthz").await.expect(200);
    let ready = ask("/readyz").await.expect(503);
    assert_eq!(ready["docker"], "unavailable");
    assert_eq!(ready["store"], "ok");
    assert_eq!(ready["status"], "not ready");
    assert!(!ready.to_string().contains("/no/such"), "anybody may ask: {ready}");
    broker.client.get("/v2/catalog").await.expect(200);
    let wait = wait_for(&broker, "300ms");
    assert_eq!(wait.0, Some(1));
    assert!(wait.1.contains("\"docker\":\"unavailable\""), "{}", wait.1);
    // An operation that waits for dockerd does not hold it up either.
    broker.client.provision_async("i1").await.expect(202);
    let (took, succeeded) = broker.terminate().await;
    assert!(succeeded && took < BUDGET, "{took:?}: {}", broker.log_text());
}

fn wait_for(broker: &TestBroker, limit: &str) -> (Option<i32>, String) {
    let url = format!("http://{}", broker.client.address);
    let done = docker_broker(&["wait", "--url", &url, "--timeout", limit]);
    (done.code, done.stderr)
}

#[tokio::test(flavor = "multi_thread")]
async fn wait_returns_when_the_broker_is_ready_and_says_why_it_is_not() {
    let broker = TestBroker::builder().start_unready().await;
    assert_eq!(wait_for(&broker, "60s"), (Some(0), String::new()));
    let address = broker.client.address.clone();
    // By the settings of the broker instead, whatever address it listens on.
    let settings = tempfile::NamedTempFile::new().unwrap();
    let (_, port) = address.rsplit_once(':').unwrap();
    std::fs::write(settings.path(), format!("listen_address: 0.0.0.0\nport: {port}")).unwrap();
    let file = settings.path().to_str().unwrap();
    let by_settings = ["wait", "--config", file, "--timeout", "60s"];
    assert_eq!(docker_broker(&by_settings).code, Some(0));
    drop(broker);
    let gone = format!("http://{address}");
    for (args, code, words) in [
        (["--url", gone.as_str(), "--timeout", "200ms"], 1, "cannot connect"),
        (["--url", "https://127.0.0.1:1", "--timeout", "1s"], 1, "must begin with http://"),
        (["--url", "nonsense", "--timeout", "1s"], 1, "nonsense"),
        (["--url", gone.as_str(), "--timeout", "soon"], 2, "is not a duration"),
        (["--config", file, "--timeout", "200ms"], 1, "cannot connect"),
        (["--config", "/no/such", "--timeout", "1s"], 78, "/no/such"),
    ] {
        let done = docker_broker(&[&["wait"], &args[..]].concat());
        assert_eq!(done.code, Some(code), "{done:?}");
        assert!(done.stderr.contains(words), "{words}: {done:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_line_of_its_log_is_json_and_names_request_operation_and_instance() {
    let broker = TestBroker::builder().start().await;
    let client = &broker.client;
    let identity = "0f0e0d0c-1111-2222-3333-444455556666";
    let authorization = client.authorization();
    let headers = [
        ("authorization", authorization.as_str()),
        ("x-broker-api-version", "2.17"),
        ("x-broker-api-request-identity", identity),
    ];
    let body = client.provision_body().to_string();
    let path = "/v2/service_instances/log-1";
    client.raw(Method::PUT, path, &headers, body).await.unwrap().expect(201);
    let find = |message: &str| {
        let log = broker.log();
        let found = log.into_iter().find(|entry| entry["message"] == message);
        found.unwrap_or_else(|| panic!("no {message:?}:\n{}", broker.log_text()))
    };
    eventually("the request in the log", async || {
        let log = broker.log_text();
        if log.contains("\"request\",\"method\"") { Ok(()) } else { Err(log) }
    })
    .await;
    for message in ["provision accepted", "request"] {
        assert_eq!(find(message)["span"]["request.id"], identity, "{message}");
    }
    let (accepted, done) = (find("provision accepted"), find("operation succeeded"));
    assert_eq!(accepted["instance.id"], "log-1");
    assert_eq!(done["instance.id"], "log-1");
    assert!(accepted["operation.id"].is_string());
    assert_eq!(accepted["operation.id"], done["operation.id"]);
    let request = find("request");
    assert_eq!((&request["status"], &request["path"]), (&201.into(), &path.into()));
    let text = broker.log_text();
    assert_eq!(broker.log().len(), text.lines().count(), "a line is no JSON:\n{text}");
    assert!(broker.log().iter().all(|entry| entry["timestamp"].is_string()), "{text}");
}
