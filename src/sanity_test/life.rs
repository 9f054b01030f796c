//! The life of one instance of one plan, in the words of OSB.

use std::{
    fmt,
    time::{Duration, Instant},
};

use http::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use super::check::Checks;
use crate::{api_client::ApiClient, catalog::Offer, docker::Engine};

/// Longest time of one request.
const REQUEST: Duration = Duration::from_mins(1);
const POLL_EVERY: Duration = Duration::from_millis(200);
const FIRST_BINDING: &str = "binding-1";
const SECOND_BINDING: &str = "binding-2";

/// What went wrong in which step. Holds no secrets.
#[derive(Debug)]
pub(super) struct Failure {
    step: &'static str,
    reason: String,
}

impl Failure {
    pub(super) fn new(step: &'static str, reason: impl Into<String>) -> Self {
        Self { step, reason: reason.into() }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.step, self.reason)
    }
}

/// One instance under test.
pub(super) struct Life<'a> {
    client: &'a ApiClient,
    engine: &'a Engine,
    offer: &'a Offer,
    id: String,
    limit: Duration,
    /// An instance, and a binding, may be there from the moment in which they are asked for.
    begun: bool,
    bindings: Vec<&'static str>,
    ready_in: Option<Duration>,
    done: Vec<String>,
}

impl<'a> Life<'a> {
    pub(super) fn new(
        client: &'a ApiClient,
        engine: &'a Engine,
        offer: &'a Offer,
        id: String,
        limit: Duration,
    ) -> Self {
        Self {
            client,
            engine,
            offer,
            id,
            limit,
            begun: false,
            bindings: Vec::new(),
            ready_in: None,
            done: Vec::new(),
        }
    }

    pub(super) fn ready_in(&self) -> String {
        self.ready_in.map_or_else(|| "-".to_owned(), |took| format!("{:.1} s", took.as_secs_f64()))
    }

    pub(super) fn checked(&self) -> String {
        self.done.join(", ")
    }

    /// Whether the broker has said that nothing is left of it.
    pub(super) fn is_gone(&self) -> bool {
        !self.begun
    }

    /// From provision to deprovision.
    pub(super) async fn run(&mut self) -> Result<(), Failure> {
        self.provision().await?;
        if self.offer.service.is_bindable(&self.offer.plan) {
            self.use_bindings().await?;
        }
        self.clean_up().await?;
        self.done.push("deprovision".to_owned());
        Ok(())
    }

    async fn provision(&mut self) -> Result<(), Failure> {
        let step = "provision";
        let plan = &self.offer.plan;
        let mut body = json!({
            "service_id": self.offer.service.id,
            "plan_id": plan.id,
            "organization_guid": "sanity-test",
            "space_guid": "sanity-test",
        });
        if let Some(parameters) = &plan.sanity_test.parameters {
            body["parameters"] = parameters.clone();
        }
        let begin = Instant::now();
        self.begun = true;
        let path = format!("{}?accepts_incomplete=true", instance_path(&self.id));
        let (status, answer) = send(self.client, step, Method::PUT, &path, Some(&body)).await?;
        match status {
            StatusCode::CREATED | StatusCode::OK => {}
            StatusCode::ACCEPTED => self.wait_for(step, &answer).await?,
            _ => return Err(refused(step, status, &answer)),
        }
        self.ready_in = Some(begin.elapsed());
        self.done.push(step.to_owned());
        Ok(())
    }

    async fn wait_for(&self, step: &'static str, accepted: &Value) -> Result<(), Failure> {
        let end = Instant::now() + self.limit;
        loop {
            match last_operation(self.client, step, &self.id, accepted).await? {
                Progress::Succeeded | Progress::Gone => return Ok(()),
                Progress::Failed(reason) => return Err(Failure::new(step, reason)),
                Progress::Running if Instant::now() >= end => {
                    return Err(too_slow(step, self.limit));
                }
                Progress::Running => sleep(POLL_EVERY).await,
            }
        }
    }

    /// Two bindings; the second one works also after the first one is gone.
    async fn use_bindings(&mut self) -> Result<(), Failure> {
        let offer = self.offer;
        let credentials = self.bind(FIRST_BINDING, None).await?;
        let checks = Checks { engine: self.engine, plan: &offer.plan, instance_id: &self.id };
        let made = checks.run(&credentials).await.map_err(|e| Failure::new("connect", e))?;
        self.done.push("bind".to_owned());
        self.done.extend(made);
        let rotatable = offer.plan.binding_rotatable;
        let step = if rotatable { "rotation" } else { "second bind" };
        let second = self.bind(SECOND_BINDING, rotatable.then_some(FIRST_BINDING)).await?;
        self.unbind(FIRST_BINDING).await?;
        let checks = Checks { engine: self.engine, plan: &offer.plan, instance_id: &self.id };
        checks.run(&second).await.map_err(|e| Failure::new(step, e))?;
        self.done.push(step.to_owned());
        self.unbind(SECOND_BINDING).await?;
        self.done.push("unbind".to_owned());
        Ok(())
    }

    /// The binding's document.
    async fn bind(
        &mut self,
        id: &'static str,
        predecessor: Option<&str>,
    ) -> Result<Value, Failure> {
        let step = if predecessor.is_some() { "rotation" } else { "bind" };
        let body = match predecessor {
            Some(predecessor) => json!({ "predecessor_binding_id": predecessor }),
            None => json!({
                "service_id": self.offer.service.id,
                "plan_id": self.offer.plan.id,
            }),
        };
        self.bindings.push(id);
        let path = binding_path(&self.id, id);
        let (status, answer) = send(self.client, step, Method::PUT, &path, Some(&body)).await?;
        match status {
            StatusCode::CREATED | StatusCode::OK => Ok(answer),
            _ => Err(refused(step, status, &answer)),
        }
    }

    async fn unbind(&mut self, id: &'static str) -> Result<(), Failure> {
        let query = query(&self.offer.service.id, &self.offer.plan.id);
        let path = format!("{}?{query}", binding_path(&self.id, id));
        let (status, answer) = send(self.client, "unbind", Method::DELETE, &path, None).await?;
        if !matches!(status, StatusCode::OK | StatusCode::GONE) {
            return Err(refused("unbind", status, &answer));
        }
        self.bindings.retain(|known| *known != id);
        Ok(())
    }

    /// Removes whatever there may be of the instance.
    pub(super) async fn clean_up(&mut self) -> Result<(), Failure> {
        if !self.begun {
            return Ok(());
        }
        let mut unbound = Ok(());
        for id in self.bindings.clone() {
            // A service that is broken may not unbind; the instance goes all the same.
            if let Err(failure) = self.unbind(id).await {
                unbound = Err(failure);
            }
        }
        let (service, plan) = (&self.offer.service.id, &self.offer.plan.id);
        remove(self.client, &self.id, service, plan, self.limit).await?;
        self.begun = false;
        unbound
    }
}

/// Deprovisions an instance and sees that it is gone.
pub(super) async fn remove(
    client: &ApiClient,
    id: &str,
    service_id: &str,
    plan_id: &str,
    limit: Duration,
) -> Result<(), Failure> {
    let step = "deprovision";
    let query = query(service_id, plan_id);
    let path = format!("{}?accepts_incomplete=true&{query}", instance_path(id));
    let end = Instant::now() + limit;
    loop {
        let (status, answer) = send(client, step, Method::DELETE, &path, None).await?;
        match status {
            // Asked until it says that it knows nothing of the instance any more.
            StatusCode::GONE => return Ok(()),
            StatusCode::OK => {}
            StatusCode::ACCEPTED => loop {
                match last_operation(client, step, id, &answer).await? {
                    Progress::Succeeded | Progress::Gone => break,
                    Progress::Failed(reason) => return Err(Failure::new(step, reason)),
                    Progress::Running if Instant::now() >= end => {
                        return Err(too_slow(step, limit));
                    }
                    Progress::Running => sleep(POLL_EVERY).await,
                }
            },
            _ => return Err(refused(step, status, &answer)),
        }
        if Instant::now() >= end {
            return Err(too_slow(step, limit));
        }
    }
}

enum Progress {
    Running,
    Succeeded,
    Gone,
    Failed(String),
}

async fn last_operation(
    client: &ApiClient,
    step: &'static str,
    id: &str,
    accepted: &Value,
) -> Result<Progress, Failure> {
    let operation = match accepted["operation"].as_str() {
        Some(operation) => format!("?operation={}", encoded(operation)),
        None => String::new(),
    };
    let path = format!("{}/last_operation{operation}", instance_path(id));
    let (status, answer) = send(client, step, Method::GET, &path, None).await?;
    match (status, answer["state"].as_str()) {
        (StatusCode::GONE, _) => Ok(Progress::Gone),
        (StatusCode::OK, Some("succeeded")) => Ok(Progress::Succeeded),
        (StatusCode::OK, Some("in progress")) => Ok(Progress::Running),
        (StatusCode::OK, Some("failed")) => {
            let reason = answer["description"].as_str().unwrap_or("it failed without a reason");
            Ok(Progress::Failed(reason.to_owned()))
        }
        _ => Err(refused(step, status, &answer)),
    }
}

async fn send(
    client: &ApiClient,
    step: &'static str,
    method: Method,
    path: &str,
    body: Option<&Value>,
) -> Result<(StatusCode, Value), Failure> {
    match timeout(REQUEST, client.send(method, path, body)).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(Failure::new(step, format!("the broker: {error:#}"))),
        Err(_) => Err(Failure::new(step, "the broker does not answer")),
    }
}

/// Only what OSB calls the description: another answer may hold credentials.
fn refused(step: &'static str, status: StatusCode, answer: &Value) -> Failure {
    let description = answer["description"].as_str().unwrap_or("no description");
    Failure::new(step, format!("the broker answered {status}: {description}"))
}

fn too_slow(step: &'static str, limit: Duration) -> Failure {
    Failure::new(step, format!("it is not done after {} s", limit.as_secs()))
}

fn instance_path(id: &str) -> String {
    format!("/v2/service_instances/{}", encoded(id))
}

fn binding_path(instance: &str, binding: &str) -> String {
    format!("{}/service_bindings/{binding}", instance_path(instance))
}

fn query(service_id: &str, plan_id: &str) -> String {
    format!("service_id={}&plan_id={}", encoded(service_id), encoded(plan_id))
}

fn encoded(text: &str) -> String {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
}
