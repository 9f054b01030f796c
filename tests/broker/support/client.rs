//! An OSB platform in a few lines.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use http::{HeaderMap, Method, Request};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpStream;

use super::{Arguments, PATIENCE, eventually, openapi};

/// What the broker answered.
#[derive(Debug, Clone)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) bytes: Bytes,
}

impl Reply {
    /// The body, which has to be JSON.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.bytes)
            .unwrap_or_else(|error| panic!("not JSON ({error}): {:?}", self.bytes))
    }

    /// The body after checking the status.
    #[track_caller]
    pub(crate) fn expect(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", String::from_utf8_lossy(&self.bytes));
        self.json()
    }

    /// Checks an error: its status, and that it says what is wrong as OSB wants it.
    #[track_caller]
    pub(crate) fn expect_problem(&self, status: u16) {
        let body = self.expect(status);
        assert!(!body["description"].as_str().unwrap_or_default().is_empty(), "{body}");
        assert_eq!(self.header("content-type"), Some("application/json"));
    }

    /// A header, if it is there and readable.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    pub(crate) fn description(&self) -> String {
        self.json()["description"].as_str().unwrap_or_default().to_owned()
    }
}

/// Every secret that a broker has handed out, and those to administer it and its services: none may
/// be in a log, an error or an argument list.
#[derive(Debug, Clone, Default)]
pub(crate) struct Issued(Arc<Mutex<BTreeSet<String>>>);

impl Issued {
    /// Shorter values may stand in innocent text.
    pub(super) const CHARACTERS: usize = 16;
    /// Entries of credentials that are no secrets.
    const OPEN: [&str; 8] =
        ["host", "hostname", "port", "ports", "username", "dbname", "ca_certificate", "vhost"];

    fn take(&self, credentials: &Value) {
        match credentials {
            Value::String(text) if text.len() >= Self::CHARACTERS => {
                self.0.lock().expect("no holder panics").insert(text.clone());
            }
            Value::Array(items) => items.iter().for_each(|item| self.take(item)),
            Value::Object(map) => map
                .iter()
                .filter(|(name, _)| !Self::OPEN.contains(&name.as_str()))
                .for_each(|(_, value)| self.take(value)),
            _ => {}
        }
    }

    /// One more secret, which is no innocent text however short it is.
    pub(crate) fn add(&self, secret: &str) {
        self.0.lock().expect("no holder panics").insert(secret.to_owned());
    }

    /// The first line of `text` with a secret in it, which is masked.
    pub(crate) fn find_in(&self, text: &str) -> Option<String> {
        let secrets = self.0.lock().expect("no holder panics");
        text.lines().find_map(|line| {
            let shown = secrets.iter().find(|secret| line.contains(secret.as_str()))?;
            Some(line.replace(shown.as_str(), "<a secret>"))
        })
    }
}

/// Talks to one broker with its credentials.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    /// `host:port`.
    pub(crate) address: String,
    pub(crate) username: String,
    pub(crate) password: String,
    /// Service and plan that requests are about.
    pub(crate) service_id: String,
    pub(crate) plan_id: String,
    pub(crate) issued: Issued,
}

impl Client {
    /// One request with exactly these headers.
    pub(crate) async fn raw(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Result<Reply, String> {
        let say = |error: &dyn std::error::Error| error.to_string();
        let stream = TcpStream::connect(&self.address).await.map_err(|e| say(&e))?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|e| say(&e))?;
        let connection = tokio::spawn(connection);
        let hurry = (method != Method::GET).then(|| Arguments::watch().hurry());
        let mut request = Request::builder().method(method).uri(path).header("host", &self.address);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(body.into())).map_err(|e| say(&e))?;
        let exchange = async {
            let response = sender.send_request(request).await.map_err(|e| say(&e))?;
            let (parts, body) = response.into_parts();
            let bytes = body.collect().await.map_err(|e| say(&e))?.to_bytes();
            Ok::<_, String>(Reply { status: parts.status.as_u16(), headers: parts.headers, bytes })
        };
        let reply = tokio::time::timeout(PATIENCE, exchange).await;
        connection.abort();
        drop(hurry);
        let reply: Reply = reply.map_err(|_| "no answer in time".to_owned())??;
        if let Ok(document) = serde_json::from_slice::<Value>(&reply.bytes) {
            if reply.status >= 400 {
                assert_eq!(
                    self.issued.find_in(&document.to_string()),
                    None,
                    "a secret in an error"
                );
            }
            self.issued.take(&document["credentials"]);
        }
        Ok(reply)
    }

    /// The `Authorization` header.
    pub(crate) fn authorization(&self) -> String {
        use base64::{Engine, prelude::BASE64_STANDARD};
        let login = BASE64_STANDARD.encode(format!("{}:{}", self.username, self.password));
        format!("Basic {login}")
    }

    /// A request with the login and these headers.
    pub(crate) async fn with_login(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Reply {
        let authorization = self.authorization();
        let headers = [&[("authorization", authorization.as_str())], headers].concat();
        self.raw(method, path, &headers, body).await.expect("the broker answers")
    }

    /// A request as a platform makes it. The reply has to be one that OSB 2.17 allows.
    pub(crate) async fn send(&self, method: Method, path: &str, body: Option<&Value>) -> Reply {
        let headers = [("x-broker-api-version", "2.17"), ("content-type", "application/json")];
        let body = body.map_or_else(Bytes::new, |body| Bytes::from(body.to_string()));
        let reply = self.with_login(method.clone(), path, &headers, body).await;
        let violations = openapi::violations(&method, path, &reply);
        assert!(violations.is_empty(), "{method} {path}: {violations:?}\n{reply:?}");
        reply
    }

    pub(crate) async fn get(&self, path: &str) -> Reply {
        self.send(Method::GET, path, None).await
    }

    pub(crate) async fn put(&self, path: &str, body: &Value) -> Reply {
        self.send(Method::PUT, path, Some(body)).await
    }

    pub(crate) async fn patch(&self, path: &str, body: &Value) -> Reply {
        self.send(Method::PATCH, path, Some(body)).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Reply {
        self.send(Method::DELETE, path, None).await
    }

    /// `service_id=…&plan_id=…`.
    pub(crate) fn ids(&self) -> String {
        format!("service_id={}&plan_id={}", self.service_id, self.plan_id)
    }

    /// Body of a provision without parameters.
    pub(crate) fn provision_body(&self) -> Value {
        json!({
            "service_id": self.service_id, "plan_id": self.plan_id,
            "organization_guid": "org", "space_guid": "space",
        })
    }

    /// Body of a provision with these parameters.
    pub(crate) fn body_with(&self, parameters: &Value) -> Value {
        let mut body = self.provision_body();
        body["parameters"] = parameters.clone();
        body
    }

    /// Body of a request about the service and its plan.
    pub(crate) fn ids_body(&self) -> Value {
        json!({ "service_id": self.service_id, "plan_id": self.plan_id })
    }

    /// Provisions an instance of [`super::switch_yaml`] that never becomes ready; its operation.
    pub(crate) async fn provision_silent(&self, instance: &str) -> String {
        let path = format!("/v2/service_instances/{instance}?accepts_incomplete=true");
        let body = self.body_with(&json!({ "mode": "silent" }));
        let accepted = self.put(&path, &body).await.expect(202);
        accepted["operation"].as_str().expect("an operation").to_owned()
    }

    /// Provisions and waits for the answer.
    pub(crate) async fn provision(&self, instance: &str) -> Reply {
        self.put(&format!("/v2/service_instances/{instance}"), &self.provision_body()).await
    }

    /// Provisions asynchronously: 202.
    pub(crate) async fn provision_async(&self, instance: &str) -> Reply {
        let path = format!("/v2/service_instances/{instance}?accepts_incomplete=true");
        self.put(&path, &self.provision_body()).await
    }

    pub(crate) async fn bind(&self, instance: &str, binding: &str) -> Reply {
        let path = format!("/v2/service_instances/{instance}/service_bindings/{binding}");
        self.put(&path, &self.ids_body()).await
    }

    pub(crate) async fn unbind(&self, instance: &str, binding: &str) -> Reply {
        let ids = self.ids();
        self.delete(&format!("/v2/service_instances/{instance}/service_bindings/{binding}?{ids}"))
            .await
    }

    pub(crate) async fn deprovision(&self, instance: &str) -> Reply {
        self.delete(&format!("/v2/service_instances/{instance}?{}", self.ids())).await
    }

    /// Polls until the last operation has ended: its state and description. 410 is `gone`.
    pub(crate) async fn poll(&self, instance: &str) -> (String, String) {
        let path = format!("/v2/service_instances/{instance}/last_operation");
        eventually("the end of the operation", async || {
            let reply = self.get(&path).await;
            if reply.status == 410 {
                return Ok(("gone".to_owned(), String::new()));
            }
            let body = reply.expect(200);
            let state = body["state"].as_str().expect("a state").to_owned();
            let description = body["description"].as_str().unwrap_or_default().to_owned();
            if state == "in progress" { Err(description) } else { Ok((state, description)) }
        })
        .await
    }
}
