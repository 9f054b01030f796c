//! HTTPS beside plain HTTP, with a certificate that is replaced while the broker runs.

use std::{fs, path::PathBuf, sync::Arc};

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use rustls_pki_types::{CertificateDer, ServerName};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::{
    TlsConnector,
    rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion, crypto::ring, version},
};

use crate::support::{Builder, TestBroker, docker_broker, eventually, unique};

/// Files of a certificate and its key, as an operator gives them to the broker.
struct Files {
    directory: TempDir,
}

/// A certificate for `localhost` that signs itself.
struct Certificate {
    der: CertificateDer<'static>,
    pem: String,
    key: String,
}

impl Certificate {
    fn new() -> Self {
        let made =
            rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
        Self {
            der: made.cert.der().clone(),
            pem: made.cert.pem(),
            key: made.signing_key.serialize_pem(),
        }
    }
}

impl Files {
    fn new(certificate: &str, key: &str) -> Self {
        let files = Self { directory: tempfile::tempdir().expect("a temporary directory") };
        files.replace(certificate, key);
        files
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn replace(&self, certificate: &str, key: &str) {
        fs::write(self.path("key.pem"), key).expect("a file can be written");
        fs::write(self.path("certificate.pem"), certificate).expect("a file can be written");
    }

    fn setting(&self) -> String {
        format!(
            "tls: {{port: 0, certificate: {}, private_key: {}, reload_interval: 100ms}}",
            self.path("certificate.pem").display(),
            self.path("key.pem").display()
        )
    }

    fn broker(&self) -> Builder {
        TestBroker::builder().setting(self.setting())
    }

    /// What `serve` says when it does not start with these files, and `check-config` before it.
    fn refused(&self) -> [String; 2] {
        let settings = format!(
            "name: {}\ndata_directory: {}\nport: 0\n{}\n",
            unique("t-"),
            self.path("data").display(),
            self.setting()
        );
        fs::write(self.path("broker.yml"), settings).expect("a file can be written");
        let file = self.path("broker.yml");
        let file = file.to_str().expect("a temporary path is UTF-8");
        [("serve", 1), ("check-config", 78)].map(|(command, code)| {
            let done = docker_broker(&[command, "--config", file]);
            assert_eq!(done.code, Some(code), "{done:?}");
            done.stderr
        })
    }
}

/// A client's connection, and the certificate that it was shown.
struct Connection {
    sender: SendRequest<Empty<Bytes>>,
    shown: CertificateDer<'static>,
}

impl Connection {
    async fn open(
        broker: &TestBroker,
        trusted: &[&Certificate],
        versions: &[&'static SupportedProtocolVersion],
    ) -> Result<Self, String> {
        let mut roots = RootCertStore::empty();
        for certificate in trusted {
            roots.add(certificate.der.clone()).expect("a certificate that can be trusted");
        }
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(versions)
            .expect("known versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        let stream = TcpStream::connect(address(broker)).await.expect("the broker listens");
        let name = ServerName::try_from("localhost").expect("a name");
        let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await;
        let stream = stream.map_err(|error| error.to_string())?;
        let (_, session) = stream.get_ref();
        let shown = session.peer_certificates().expect("the server shows a certificate")[0]
            .clone()
            .into_owned();
        let (sender, connection) = handshake(TokioIo::new(stream)).await.expect("a connection");
        tokio::spawn(connection);
        Ok(Self { sender, shown })
    }

    /// Status and body of the catalog.
    async fn catalog(&mut self, broker: &TestBroker) -> (u16, String) {
        let request = Request::get("/v2/catalog")
            .header("host", "localhost")
            .header("x-broker-api-version", "2.17")
            .header("authorization", broker.client.authorization())
            .body(Empty::new())
            .expect("a request");
        let reply = self.sender.send_request(request).await.expect("the broker answers");
        let status = reply.status().as_u16();
        let body = reply.into_body().collect().await.expect("a whole body").to_bytes();
        (status, String::from_utf8_lossy(&body).into_owned())
    }
}

const MODERN: &[&SupportedProtocolVersion] = &[&version::TLS12, &version::TLS13];

/// `host:port` of the HTTPS listener.
fn address(broker: &TestBroker) -> String {
    let log = broker.log();
    let mut urls = log.iter().filter_map(|entry| entry["url"].as_str());
    let url = urls.find_map(|url| url.strip_prefix("https://"));
    url.unwrap_or_else(|| panic!("no HTTPS:\n{}", broker.log_text())).to_owned()
}

/// A broker whose HTTPS listener is open.
async fn start(files: &Files) -> TestBroker {
    let broker = files.broker().start().await;
    // The log is read by a thread of its own.
    eventually("the HTTPS listener", async || {
        let log = broker.log_text();
        if log.contains("https://") { Ok(()) } else { Err(log) }
    })
    .await;
    broker
}

async fn logged(broker: &TestBroker, words: &str) {
    eventually(words, async || {
        let log = broker.log_text();
        if log.contains(words) { Ok(()) } else { Err(log) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn https_and_plain_http_serve_the_same_api() {
    let certificate = Certificate::new();
    let files = Files::new(&certificate.pem, &certificate.key);
    let broker = start(&files).await;
    let plain = broker.client.get("/v2/catalog").await.expect(200).to_string();
    for versions in [&[&version::TLS12][..], &[&version::TLS13]] {
        let mut connection = Connection::open(&broker, &[&certificate], versions).await.unwrap();
        assert_eq!(connection.shown, certificate.der);
        assert_eq!(connection.catalog(&broker).await, (200, plain.clone()));
    }
    let other = Certificate::new();
    let error = Connection::open(&broker, &[&other], MODERN).await.err();
    assert!(error.is_some(), "a client that does not trust the certificate must not connect");
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_1_1_and_plain_text_on_the_https_port_are_refused() {
    let certificate = Certificate::new();
    let files = Files::new(&certificate.pem, &certificate.key);
    let broker = start(&files).await;
    // A ClientHello of TLS 1.1 (RFC 4346, 7.4.1.2): version, random, no session, one cipher suite
    // (TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA), no compression; groups, point formats and, so
    // that only the version is wrong, signature algorithms.
    let extensions = [0, 10, 0, 4, 0, 2, 0, 29, 0, 11, 0, 2, 1, 0, 0, 13, 0, 4, 0, 2, 4, 3];
    let mut body = vec![3, 2];
    body.extend([7; 32]);
    body.extend([0, 0, 2, 0xc0, 0x13, 1, 0, 0, u8::try_from(extensions.len()).unwrap()]);
    body.extend(extensions);
    let length = u8::try_from(body.len()).unwrap();
    let hello = [&[22, 3, 1, 0, length + 4, 1, 0, 0, length], body.as_slice()].concat();
    let mut stream = TcpStream::connect(address(&broker)).await.unwrap();
    stream.write_all(&hello).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    // RFC 5246, 7.2: alert (21), fatal (2), protocol_version (70).
    assert_eq!((answer.first(), &answer[5..]), (Some(&21), &[2, 70][..]), "{answer:?}");
    let mut stream = TcpStream::connect(address(&broker)).await.unwrap();
    stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    assert!(!String::from_utf8_lossy(&answer).contains("200"), "{answer:?}");
    Connection::open(&broker, &[&certificate], MODERN).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replaced_certificate_is_shown_to_new_connections_while_old_ones_go_on() {
    let (first, second) = (Certificate::new(), Certificate::new());
    let files = Files::new(&first.pem, &first.key);
    let broker = start(&files).await;
    let mut old = Connection::open(&broker, &[&first], MODERN).await.unwrap();
    files.replace(&second.pem, &second.key);
    logged(&broker, "the TLS certificate was replaced").await;
    let mut new = Connection::open(&broker, &[&second], MODERN).await.unwrap();
    assert_eq!(new.shown, second.der);
    assert_eq!(new.catalog(&broker).await.0, 200);
    assert_eq!(old.catalog(&broker).await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_replacement_is_reported_once_and_the_old_certificate_stays() {
    let (first, second) = (Certificate::new(), Certificate::new());
    let files = Files::new(&first.pem, &first.key);
    let broker = start(&files).await;
    let said = "the new TLS certificate is not used";
    let reports = || broker.log_text().matches(said).count();
    fs::write(files.path("certificate.pem"), "half a certif").unwrap();
    logged(&broker, said).await;
    let connection = Connection::open(&broker, &[&first], MODERN).await.unwrap();
    assert_eq!(connection.shown, first.der);
    // A certificate without its key is as bad.
    fs::write(files.path("certificate.pem"), &second.pem).unwrap();
    eventually("the second report", async || match reports() {
        2 => Ok(()),
        other => Err(format!("{other} reports")),
    })
    .await;
    let connection = Connection::open(&broker, &[&first], MODERN).await.unwrap();
    assert_eq!(connection.shown, first.der);
    fs::write(files.path("key.pem"), &second.key).unwrap();
    logged(&broker, "the TLS certificate was replaced").await;
    let connection = Connection::open(&broker, &[&second], MODERN).await.unwrap();
    assert_eq!(connection.shown, second.der);
    assert_eq!(reports(), 2, "{}", broker.log_text());
}

#[test]
fn a_certificate_that_cannot_be_used_is_named_by_the_check_and_at_the_start() {
    let (one, other) = (Certificate::new(), Certificate::new());
    for (certificate, key, words) in [
        (one.pem.as_str(), other.key.as_str(), "certificate.pem and its key cannot be used"),
        ("no certificate", &one.key, "certificate.pem holds no certificate"),
        (&one.pem, "no key", "key.pem"),
        (&one.key, &one.key, "certificate.pem holds no certificate"),
    ] {
        let files = Files::new(certificate, key);
        for said in files.refused() {
            assert!(said.contains(words), "{words}: {said}");
            assert!(!said.contains("BEGIN"), "{said}");
        }
    }
}
