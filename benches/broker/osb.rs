//! Requests to the broker, and what to do with the replies.

use std::{
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::{Value, json};

use crate::http::{self, Connection};

pub(crate) const USER: &str = "bench";
pub(crate) const PASSWORD: &str = "bench-password";
/// As in redis.yml.
pub(crate) const SERVICE_ID: &str = "bench-service";
pub(crate) const PLAN_ID: &str = "bench-plan";
pub(crate) const LARGER_ID: &str = "bench-larger";
const PATIENCE: Duration = Duration::from_mins(1);

fn request(method: &str, path: &str, body: Option<&Value>) -> Vec<u8> {
    let login = BASE64_STANDARD.encode(format!("{USER}:{PASSWORD}"));
    let authorization = format!("Basic {login}");
    let headers = [("Authorization", &*authorization), ("X-Broker-API-Version", "2.17")];
    http::request(method, path, &headers, body)
}

pub(crate) fn get(path: &str) -> Vec<u8> {
    request("GET", path, None)
}

pub(crate) fn catalog() -> Vec<u8> {
    get("/v2/catalog")
}

pub(crate) fn fetch(instance: &str) -> Vec<u8> {
    get(&format!("/v2/service_instances/{instance}"))
}

pub(crate) fn fetch_binding(instance: &str, binding: &str) -> Vec<u8> {
    get(&format!("/v2/service_instances/{instance}/service_bindings/{binding}"))
}

pub(crate) fn last_operation(instance: &str) -> Vec<u8> {
    get(&format!("/v2/service_instances/{instance}/last_operation"))
}

pub(crate) fn provision(instance: &str, accepts_incomplete: bool) -> Vec<u8> {
    let body = json!({
        "service_id": SERVICE_ID, "plan_id": PLAN_ID,
        "organization_guid": "org", "space_guid": "space",
    });
    let path = format!("/v2/service_instances/{instance}?accepts_incomplete={accepts_incomplete}");
    request("PUT", &path, Some(&body))
}

pub(crate) fn deprovision(instance: &str, accepts_incomplete: bool) -> Vec<u8> {
    let path = format!(
        "/v2/service_instances/{instance}?service_id={SERVICE_ID}&plan_id={PLAN_ID}\
         &accepts_incomplete={accepts_incomplete}"
    );
    request("DELETE", &path, None)
}

/// To another plan; the reply comes when that is done.
pub(crate) fn update(instance: &str, plan: &str) -> Vec<u8> {
    let body = json!({ "service_id": SERVICE_ID, "plan_id": plan });
    request("PATCH", &format!("/v2/service_instances/{instance}"), Some(&body))
}

pub(crate) fn bind(instance: &str, binding: &str) -> Vec<u8> {
    let body = json!({ "service_id": SERVICE_ID, "plan_id": PLAN_ID });
    let path = format!("/v2/service_instances/{instance}/service_bindings/{binding}");
    request("PUT", &path, Some(&body))
}

/// Port and password of an instance: what a binding says.
pub(crate) fn login_of(broker: &mut Connection, instance: &str) -> Result<(u16, String)> {
    let document = broker.exchange(&bind(instance, "login"))?.expect(201)?;
    let value = |name: &str| document["credentials"][name].as_str().unwrap_or_default();
    Ok((value("port").parse()?, value("password").to_owned()))
}

/// Polls until the last operation on an instance has succeeded.
pub(crate) fn poll(broker: &mut Connection, instance: &str, pause: Duration) -> Result<()> {
    let request = last_operation(instance);
    let end = Instant::now() + PATIENCE;
    while Instant::now() < end {
        let reply = broker.exchange(&request)?.expect(200)?;
        match reply["state"].as_str() {
            Some("succeeded") => return Ok(()),
            Some("in progress") => sleep(pause),
            _ => bail!("the operation on {instance} ended as {reply}"),
        }
    }
    bail!("the operation on {instance} does not end")
}
