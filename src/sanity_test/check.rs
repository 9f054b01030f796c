//! Real connections with a binding's document, as an application would make them.

use std::{fmt::Write as _, time::Duration};

use serde_json::Value;
use tokio::{net::TcpStream, time::timeout};

use crate::{
    catalog::{Exchange, Plan},
    credentials::{redact, render_document_text},
    docker::{Condition, Engine, Labels},
    probe::{self, Trust},
    telemetry::Chain,
};

const CONNECT: Duration = Duration::from_secs(10);
const EXCHANGE: Duration = Duration::from_secs(30);
const EXEC: Duration = Duration::from_mins(1);
/// Entries of the credentials that are no secrets.
const OPEN: [&str; 6] = ["host", "hostname", "port", "username", "dbname", "ca_certificate"];

/// The checks of one instance.
pub(super) struct Checks<'a> {
    pub(super) engine: &'a Engine,
    pub(super) plan: &'a Plan,
    pub(super) instance_id: &'a str,
}

impl Checks<'_> {
    /// What was checked; or why it does not work, without secrets.
    pub(super) async fn run(&self, document: &Value) -> Result<Vec<String>, String> {
        let credentials = &document["credentials"];
        let clean = |text: String| redact(&text, secrets(credentials));
        let mut done = vec![self.connect_to_endpoints(document).await?];
        if let Some(exchange) = &self.plan.sanity_test.exchange {
            self.exchange(exchange, credentials).await.map_err(clean)?;
            done.push(format!("protocol on {}", exchange.port));
        }
        if let Some(command) = &self.plan.sanity_test.exec {
            self.exec(command, credentials).await.map_err(clean)?;
            done.push("client command".to_owned());
        }
        Ok(done)
    }

    /// Every TCP port that the plan names answers; of those that only the image names, one does:
    /// images expose more than they listen on.
    async fn connect_to_endpoints(&self, document: &Value) -> Result<String, String> {
        let endpoints = document["endpoints"].as_array().cloned().unwrap_or_default();
        let tcp = endpoints.iter().filter(|endpoint| endpoint["protocol"] == "tcp");
        let (mut open, mut failed) = (0, String::new());
        for endpoint in tcp {
            let host = endpoint["host"].as_str().unwrap_or_default();
            for port in endpoint["ports"].as_array().into_iter().flatten() {
                let port = port.as_str().unwrap_or_default();
                match connect(host, port).await {
                    Ok(_) => open += 1,
                    Err(error) => {
                        let comma = if failed.is_empty() { "" } else { "; " };
                        // Writing to a string cannot fail.
                        let _infallible = write!(failed, "{comma}{error}");
                    }
                }
            }
        }
        let named = !self.plan.container.expose_ports.is_empty();
        if failed.is_empty() || (!named && open > 0) {
            return Ok(format!("tcp x {open}"));
        }
        Err(failed)
    }

    async fn exchange(&self, exchange: &Exchange, credentials: &Value) -> Result<(), String> {
        let host = credentials["host"].as_str();
        let port = credentials["ports"][exchange.port.to_string()].as_str();
        let (Some(host), Some(port)) = (host, port) else {
            return Err(format!(
                "sanity_test.tcp needs host and ports[{}] in the credentials of a binding",
                exchange.port
            ));
        };
        let text = render_document_text(&exchange.send, credentials).map_err(|e| e.to_string())?;
        let mut stream = connect(host, port).await?;
        let (send, expect) = (text.as_bytes(), exchange.expect.as_bytes());
        let ca = credentials["ca_certificate"].as_str().filter(|_| exchange.tls);
        let answer = async {
            let Some(ca) = ca else {
                return probe::exchange(&mut stream, send, expect).await.map_err(|e| e.to_string());
            };
            let mut stream = probe::secure(stream, host, Trust::Authorities(ca)).await?;
            probe::exchange(&mut stream, send, expect).await.map_err(|e| e.to_string())
        };
        match timeout(EXCHANGE, answer).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(format!("{host}:{port} ({}): {error}", exchange.port)),
            Err(_) => Err(format!("{host}:{port} ({}): no answer", exchange.port)),
        }
    }

    /// The containers of which one serves the instance. A shared one does not say who lives in it,
    /// but lets in nobody else.
    async fn containers(&self) -> Result<Vec<String>, String> {
        if let Some(name) = &self.plan.container.existing {
            return Ok(vec![name.clone()]);
        }
        let owned = self.engine.list_owned().await.map_err(|e| Chain(&e).to_string())?;
        let shared = self.plan.tenancy.is_some();
        let serves = |labels: &Labels| {
            if shared {
                labels.plan_id == self.plan.id
            } else {
                labels.instance_id == self.instance_id
            }
        };
        let serving = owned
            .into_iter()
            .filter(|one| one.condition == Condition::Running && serves(&one.labels));
        Ok(serving.map(|one| one.name).collect())
    }

    async fn exec(&self, command: &[String], credentials: &Value) -> Result<(), String> {
        let environment: Vec<String> =
            ["hostname", "port", "username", "password", "dbname", "uri"]
                .into_iter()
                .filter_map(|name| {
                    let value = credentials[name].as_str()?;
                    Some(format!("BINDING_{}={value}", name.to_uppercase()))
                })
                .collect();
        let mut failed = "its container does not run".to_owned();
        for container in self.containers().await? {
            let ran = self.engine.exec(&container, command, &environment, EXEC).await;
            let (code, output) = ran.map_err(|e| Chain(&e).to_string())?;
            if code == 0 {
                return Ok(());
            }
            let last = output.trim().lines().last().unwrap_or("it printed nothing");
            failed = format!("the client command ended with exit code {code}: {last}");
        }
        Err(failed)
    }
}

async fn connect(host: &str, port: &str) -> Result<TcpStream, String> {
    let number: u16 = port.parse().map_err(|_| format!("{host}:{port} is no address"))?;
    match timeout(CONNECT, TcpStream::connect((host, number))).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) => Err(format!("cannot connect to {host}:{port}: {error}")),
        Err(_) => Err(format!("cannot connect to {host}:{port}: no answer")),
    }
}

/// Every string of the credentials that may be one, at any depth.
fn secrets(credentials: &Value) -> Vec<&str> {
    fn walk<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
        match value {
            Value::String(text) => found.push(text),
            Value::Array(items) => items.iter().for_each(|item| walk(item, found)),
            Value::Object(map) => map.values().for_each(|item| walk(item, found)),
            _ => {}
        }
    }
    let mut found = Vec::new();
    for (name, value) in credentials.as_object().into_iter().flatten() {
        if !OPEN.contains(&name.as_str()) {
            walk(value, &mut found);
        }
    }
    found
}
