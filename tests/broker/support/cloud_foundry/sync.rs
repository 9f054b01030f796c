//! The job that reads a broker's catalog, as the Cloud Controller does (CAPI v3 "Service broker
//! jobs"): a real request with basic auth.

use std::sync::{Arc, Mutex};

use serde_json::Value;

use super::{Job, KnownBroker, KnownOffering, KnownPlan, State, lock};
use crate::support::unique;

/// Begins the job; its id. A catalog that is refused leaves the broker as it was: `before`.
pub(super) fn begin(
    state: &Arc<Mutex<State>>,
    broker: KnownBroker,
    before: Option<KnownBroker>,
) -> String {
    let id = unique("job-");
    lock(state).syncing.push(broker.guid.clone());
    let running = Job { polls: u32::MAX, state: "PROCESSING", errors: vec![], warnings: vec![] };
    lock(state).jobs.insert(id.clone(), running);
    let (state, job) = (Arc::clone(state), id.clone());
    tokio::spawn(async move {
        let catalog = read(&state, &broker).await;
        let pause = lock(&state).sync_takes;
        tokio::time::sleep(pause).await;
        let mut state = lock(&state);
        let outcome = catalog.and_then(|catalog| apply(&mut state, &broker.guid, &catalog));
        state.syncing.retain(|guid| *guid != broker.guid);
        if let (Err(_), Some(before)) = (&outcome, before) {
            state.brokers.retain(|one| one.guid != before.guid);
            state.brokers.push(before);
        }
        let warnings = state.job_warning.iter().cloned().collect();
        let (word, errors) = match outcome {
            Ok(()) => ("COMPLETE", Vec::new()),
            Err(error) => ("FAILED", vec![error]),
        };
        // One more answer says that it is not done.
        state.jobs.insert(job, Job { polls: 1, state: word, errors, warnings });
    });
    id
}

async fn read(state: &Mutex<State>, broker: &KnownBroker) -> Result<Value, String> {
    let url = format!("{}/v2/catalog", broker.url);
    let unreachable = || format!("The service broker could not be reached: {url}");
    if lock(state).brokers_unreachable {
        return Err(unreachable());
    }
    let client = reqwest::Client::builder().no_proxy().build().expect("a client");
    let answer = client
        .get(&url)
        .basic_auth(&broker.login.0, Some(&broker.login.1))
        .header("X-Broker-API-Version", "2.17")
        .header("X-Api-Info-Location", "api.example.com/v2/info")
        .send()
        .await
        .map_err(|_| unreachable())?;
    match answer.status().as_u16() {
        200 => answer.json().await.map_err(|_| {
            format!("The service broker returned an invalid response for the request to {url}")
        }),
        401 => Err(format!(
            "Authentication with the service broker failed. Double-check that the username and \
             password are correct: {url}"
        )),
        other => Err(format!("The service broker rejected the request to {url}. Status: {other}")),
    }
}

/// A few of the checks of a real one.
fn check(services: &[Value]) -> Result<(), String> {
    let mut problems = Vec::new();
    let mut seen: Vec<&str> = Vec::new();
    for service in services {
        let name = text(&service["name"]);
        if seen.contains(&name) {
            problems.push("Service names must be unique within a broker".to_owned());
        }
        seen.push(name);
        if service["plans"].as_array().is_none_or(Vec::is_empty) {
            problems.push(format!("Service {name}\n  At least one plan is required"));
        }
    }
    if problems.is_empty() {
        Ok(())
    } else {
        Err(format!("Service broker catalog is invalid: \n{}\n", problems.join("\n")))
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// New services and plans are seen by administrators only; what is gone goes, unless it has
/// instances.
fn apply(state: &mut State, broker: &str, catalog: &Value) -> Result<(), String> {
    let services = catalog["services"].as_array().cloned().unwrap_or_default();
    check(&services)?;
    for offering in state.offerings.iter_mut().filter(|one| one.broker == broker) {
        offering.available = false;
        let plans = state.plans.iter_mut().filter(|plan| plan.offering == offering.guid);
        plans.for_each(|plan| plan.available = false);
    }
    for service in &services {
        let id = text(&service["id"]);
        let known =
            state.offerings.iter().position(|one| one.broker == broker && one.catalog_id == id);
        let index = known.unwrap_or_else(|| {
            state.offerings.push(KnownOffering {
                guid: unique("offering-"),
                broker: broker.to_owned(),
                name: String::new(),
                catalog_id: id.to_owned(),
                available: true,
            });
            state.offerings.len() - 1
        });
        text(&service["name"]).clone_into(&mut state.offerings[index].name);
        state.offerings[index].available = true;
        let offering = state.offerings[index].guid.clone();
        for plan in service["plans"].as_array().into_iter().flatten() {
            let (id, name) = (text(&plan["id"]), text(&plan["name"]));
            let known = state.plans.iter_mut().find(|one| one.catalog_id == id);
            if let Some(known) = known {
                name.clone_into(&mut known.name);
                known.available = true;
                continue;
            }
            state.plans.push(KnownPlan {
                guid: unique("plan-"),
                offering: offering.clone(),
                name: name.to_owned(),
                catalog_id: id.to_owned(),
                available: true,
                visibility: "admin".to_owned(),
                organizations: Vec::new(),
            });
        }
    }
    let used: Vec<String> = state.instances.iter().map(|(_, plan, _)| plan.clone()).collect();
    state.plans.retain(|plan| plan.available || used.contains(&plan.guid));
    let kept: Vec<String> = state.plans.iter().map(|plan| plan.offering.clone()).collect();
    state.offerings.retain(|one| one.available || kept.contains(&one.guid));
    Ok(())
}
