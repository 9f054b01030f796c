//! CAPI v3. Each handler names its section.

use std::sync::{Arc, Mutex, MutexGuard};

use serde_json::{Map, Value, json};

use super::{Answer, Asked, Job, KnownBroker, KnownPlan, State, lock, sync};
use crate::support::unique;

/// As small as it can be, so that whoever does not follow pages is found out.
const PER_PAGE: usize = 2;

/// "Global API root". Version 2 is off, as on current platforms.
pub(super) fn root(url: &str) -> Answer {
    Answer::json(
        200,
        json!({ "links": {
            "self": { "href": url },
            "cloud_controller_v2": null,
            "cloud_controller_v3": { "href": format!("{url}/v3"), "meta": { "version": "3.180.0" } },
            "login": { "href": url },
            "uaa": { "href": url },
        }}),
    )
}

/// Everything below `/v3`.
pub(super) fn answer(shared: &Arc<Mutex<State>>, asked: &Asked) -> Answer {
    let mut state = lock(shared);
    if let Err(refusal) = authorize(&mut state, asked) {
        return refusal;
    }
    let body = match json_body(&mut state, asked) {
        Ok(body) => body,
        Err(refusal) => return refusal,
    };
    let path: Vec<&str> = asked.path.split('/').skip(2).collect();
    let method = asked.method.as_str();
    match (method, path.as_slice()) {
        (_, ["service_brokers", guid @ ..]) if guid.len() < 2 => {
            let guid = guid.first().copied();
            brokers(state, shared, asked, guid, body)
        }
        // "Get a job"
        ("GET", ["jobs", id]) => job(&mut state, id),
        // "List service offerings"
        ("GET", ["service_offerings"]) => {
            let wanted = asked.query.get("service_broker_guids");
            let names = asked.query.get("names").map(|names| names.split(',').collect::<Vec<_>>());
            let found = state.offerings.iter().filter(|one| {
                wanted.is_none_or(|wanted| one.broker == *wanted)
                    && names.as_ref().is_none_or(|names| names.contains(&one.name.as_str()))
            });
            let found = found
                .map(|one| {
                    json!({
                        "guid": one.guid, "name": one.name, "available": one.available,
                        "broker_catalog": { "id": one.catalog_id },
                        "relationships": { "service_broker": { "data": { "guid": one.broker } } },
                    })
                })
                .collect();
            list(&mut state, asked, found, &["service_broker_guids", "names"], Value::Null)
        }
        // "Delete a service offering"
        ("DELETE", ["service_offerings", guid]) => {
            let plans = state.plans.iter().filter(|plan| plan.offering == *guid);
            let plans: Vec<String> = plans.map(|plan| plan.guid.clone()).collect();
            if !state.offerings.iter().any(|one| one.guid == *guid) {
                return Answer::not_found("Service offering");
            }
            if asked.query.get("purge").map(String::as_str) != Some("true") {
                return Answer::unprocessable("it has plans");
            }
            state.instances.retain(|(_, plan, _)| !plans.contains(plan));
            state.plans.retain(|plan| plan.offering != *guid);
            state.offerings.retain(|one| one.guid != *guid);
            Answer::json(204, Value::Null)
        }
        // "List service plans"
        ("GET", ["service_plans"]) => {
            let wanted = asked.query.get("service_broker_guids").cloned().unwrap_or_default();
            let offerings = of_broker(&state, &wanted);
            let found = state.plans.iter().filter(|plan| offerings.contains(&plan.offering));
            let found = found.map(plan_object).collect();
            list(&mut state, asked, found, &["service_broker_guids"], Value::Null)
        }
        // "Get", "Update" and "Apply a service plan visibility"
        (_, ["service_plans", guid, "visibility"]) => visibility(&mut state, method, guid, &body),
        // "List organizations"
        ("GET", ["organizations"]) => {
            let names = asked.query.get("names").cloned().unwrap_or_default();
            let names: Vec<String> =
                names.split(',').map(|one| one.replace("%2C", ",").replace("%25", "%")).collect();
            let found = state.organizations.iter().filter(|(_, name)| names.contains(name));
            let found = found.map(|(guid, name)| json!({ "guid": guid, "name": name })).collect();
            list(&mut state, asked, found, &["names"], Value::Null)
        }
        // "List service instances"
        ("GET", ["service_instances"]) => instances(&mut state, asked),
        _ => {
            state.violations.push(format!("{method} {}: no such endpoint", asked.path));
            Answer::error(404, 10000, "CF-NotFound", "Unknown request")
        }
    }
}

fn brokers(
    mut state: MutexGuard<'_, State>,
    shared: &Arc<Mutex<State>>,
    asked: &Asked,
    guid: Option<&str>,
    body: Map<String, Value>,
) -> Answer {
    match (asked.method.as_str(), guid) {
        // "List service brokers"
        ("GET", None) => {
            let all = state.brokers.iter().map(broker_object).collect();
            list(&mut state, asked, all, &["names"], Value::Null)
        }
        // "Create a service broker"
        ("POST", None) => {
            let known = ["name", "url", "authentication", "metadata", "relationships"];
            let broker = match broker_of(&mut state, body, &known, unique("broker-")) {
                Ok(broker) => broker,
                Err(refusal) => return refusal,
            };
            if state.brokers.iter().any(|one| one.name == broker.name) {
                return Answer::unprocessable("Name must be unique");
            }
            state.brokers.push(broker.clone());
            drop(state);
            accepted(shared, &sync::begin(shared, broker, None))
        }
        // "Update a service broker"
        ("PATCH", Some(guid)) => {
            let Some(index) = state.brokers.iter().position(|one| one.guid == guid) else {
                return Answer::not_found("Service broker");
            };
            let known = ["name", "url", "authentication", "metadata"];
            let broker = match broker_of(&mut state, body, &known, guid.to_owned()) {
                Ok(broker) => broker,
                Err(refusal) => return refusal,
            };
            if state.syncing.contains(&broker.guid) {
                return Answer::unprocessable(
                    "Cannot update a broker when other operation is already in progress",
                );
            }
            let before = std::mem::replace(&mut state.brokers[index], broker.clone());
            drop(state);
            accepted(shared, &sync::begin(shared, broker, Some(before)))
        }
        // "Delete a service broker"
        ("DELETE", Some(guid)) => {
            let offerings: Vec<String> = of_broker(&state, guid);
            let plans = state.plans.iter().filter(|plan| offerings.contains(&plan.offering));
            let plans: Vec<String> = plans.map(|plan| plan.guid.clone()).collect();
            if state.instances.iter().any(|(_, plan, _)| plans.contains(plan)) {
                return Answer::unprocessable(
                    "Can not remove brokers that have associated service instances",
                );
            }
            if !state.brokers.iter().any(|one| one.guid == guid) {
                return Answer::not_found("Service broker");
            }
            state.brokers.retain(|one| one.guid != guid);
            state.plans.retain(|plan| !plans.contains(&plan.guid));
            state.offerings.retain(|one| one.broker != guid);
            let id = unique("job-");
            let job = Job { polls: 1, state: "COMPLETE", errors: vec![], warnings: vec![] };
            state.jobs.insert(id.clone(), job);
            drop(state);
            accepted(shared, &id)
        }
        _ => Answer::error(404, 10000, "CF-NotFound", "Unknown request"),
    }
}

/// "Authentication".
fn authorize(state: &mut State, asked: &Asked) -> Result<(), Answer> {
    let token = asked.header("authorization").strip_prefix("Bearer ").unwrap_or_default();
    match state.tokens.get_mut(token) {
        Some(left) if *left > 0 => {
            *left -= 1;
            Ok(())
        }
        Some(_) => Err(Answer::error(401, 1000, "CF-InvalidAuthToken", "Invalid Auth Token")),
        None => {
            let violation = format!("{} {}: without a token", asked.method, asked.path);
            state.violations.push(violation);
            Err(Answer::error(401, 10002, "CF-NotAuthenticated", "Authentication error"))
        }
    }
}

fn json_body(state: &mut State, asked: &Asked) -> Result<Map<String, Value>, Answer> {
    if asked.body.is_empty() {
        return Ok(Map::new());
    }
    let is_json = asked.header("content-type").starts_with("application/json");
    match serde_json::from_slice(&asked.body) {
        Ok(Value::Object(map)) if is_json => Ok(map),
        _ => {
            let violation = format!("{} {}: the body is no JSON", asked.method, asked.path);
            state.violations.push(violation);
            Err(Answer::error(400, 1001, "CF-MessageParseError", "Request invalid"))
        }
    }
}

fn unknown_field(state: &mut State, body: &Map<String, Value>, known: &[&str]) -> Option<Answer> {
    let field = body.keys().find(|key| !known.contains(&key.as_str()))?.clone();
    state.violations.push(format!("unknown field {field}"));
    Some(Answer::unprocessable(&format!("Unknown field(s): '{field}'")))
}

fn accepted(state: &Mutex<State>, job: &str) -> Answer {
    let state = lock(state);
    let host = state.jobs_at.as_ref().unwrap_or(&state.url);
    let location = format!("{host}/v3/jobs/{job}");
    Answer { status: 202, headers: vec![("location", location)], body: Value::Null }
}

fn of_broker(state: &State, broker: &str) -> Vec<String> {
    let mine = state.offerings.iter().filter(|one| one.broker == broker);
    mine.map(|one| one.guid.clone()).collect()
}

fn broker_of(
    state: &mut State,
    body: Map<String, Value>,
    known: &[&str],
    guid: String,
) -> Result<KnownBroker, Answer> {
    if let Some(refusal) = unknown_field(state, &body, known) {
        return Err(refusal);
    }
    let body = Value::Object(body);
    let text = |pointer: &str| body.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
    let login = &body["authentication"];
    match (
        text("/name"),
        text("/url"),
        text("/authentication/credentials/username"),
        text("/authentication/credentials/password"),
    ) {
        (Some(name), Some(url), Some(user), Some(password)) if login["type"] == "basic" => {
            Ok(KnownBroker { guid, name, url, login: (user, password), space: None })
        }
        _ => Err(Answer::unprocessable("Authentication must be an object")),
    }
}

fn broker_object(broker: &KnownBroker) -> Value {
    let relationships = match &broker.space {
        Some(space) => json!({ "space": { "data": { "guid": space } } }),
        None => json!({}),
    };
    json!({
        "guid": broker.guid, "name": broker.name, "url": broker.url,
        "created_at": "2026-01-01T00:00:00Z", "updated_at": "2026-01-01T00:00:00Z",
        "relationships": relationships,
        "metadata": { "labels": {}, "annotations": {} },
    })
}

fn plan_object(plan: &KnownPlan) -> Value {
    json!({
        "guid": plan.guid, "name": plan.name, "available": plan.available, "free": true,
        "visibility_type": plan.visibility,
        "broker_catalog": { "id": plan.catalog_id },
        "relationships": { "service_offering": { "data": { "guid": plan.offering } } },
    })
}

/// "The job object".
fn job(state: &mut State, id: &str) -> Answer {
    let Some(job) = state.jobs.get_mut(id) else { return Answer::not_found("Job") };
    let done = job.polls == 0;
    job.polls = job.polls.saturating_sub(1);
    let object =
        |detail: &String, code: u32| json!({ "code": code, "title": "CF", "detail": detail });
    let errors: Vec<Value> = job.errors.iter().map(|detail| object(detail, 270_012)).collect();
    let warnings: Vec<Value> =
        job.warnings.iter().map(|detail| json!({ "detail": detail })).collect();
    Answer::json(
        200,
        json!({
            "guid": id,
            "operation": "service_broker.catalog.synchronize",
            "state": if done { job.state } else { "PROCESSING" },
            "errors": if done { errors } else { vec![] },
            "warnings": if done { warnings } else { vec![] },
        }),
    )
}

fn visibility(state: &mut State, method: &str, guid: &str, body: &Map<String, Value>) -> Answer {
    if let Some(refusal) = unknown_field(state, body, &["type", "organizations"]) {
        return refusal;
    }
    let names = state.organizations.clone();
    let Some(plan) = state.plans.iter_mut().find(|plan| plan.guid == guid) else {
        return Answer::not_found("Service plan");
    };
    if method == "PATCH" || method == "POST" {
        let kind = body.get("type").and_then(Value::as_str).unwrap_or_default();
        let list = body.get("organizations").and_then(Value::as_array).cloned();
        let guids: Vec<String> = list
            .unwrap_or_default()
            .iter()
            .filter_map(|one| one["guid"].as_str().map(str::to_owned))
            .collect();
        if !matches!(kind, "public" | "admin" | "organization")
            || (kind == "organization") == guids.is_empty()
        {
            let detail = "Type and organizations do not fit together";
            return Answer::error(400, 1004, "CF-InvalidRequest", detail);
        }
        if method == "PATCH" || kind != plan.visibility {
            plan.organizations.clear();
        }
        kind.clone_into(&mut plan.visibility);
        plan.organizations.extend(guids);
    } else if method != "GET" {
        return Answer::error(404, 10000, "CF-NotFound", "Unknown request");
    }
    let name = |guid: &String| {
        let found = names.iter().find(|(known, _)| known == guid);
        json!({ "guid": guid, "name": found.map(|(_, name)| name) })
    };
    let mut object = json!({ "type": plan.visibility });
    if plan.visibility == "organization" {
        object["organizations"] = plan.organizations.iter().map(name).collect();
    }
    Answer::json(200, object)
}

fn instances(state: &mut State, asked: &Asked) -> Answer {
    let wanted = asked.query.get("service_plan_guids").cloned().unwrap_or_default();
    let wanted: Vec<&str> = wanted.split(',').collect();
    let found: Vec<Value> = state
        .instances
        .iter()
        .filter(|(_, plan, _)| wanted.contains(&plan.as_str()))
        .map(|(guid, plan, space)| {
            json!({ "guid": guid, "type": "managed", "relationships": {
                "service_plan": { "data": { "guid": plan } },
                "space": { "data": { "guid": space } },
            }})
        })
        .collect();
    let spaces: Vec<Value> = state
        .spaces
        .iter()
        .map(|(guid, name, organization)| {
            json!({ "guid": guid, "name": name, "relationships": {
                "organization": { "data": { "guid": organization } },
            }})
        })
        .collect();
    let organizations: Vec<Value> = state
        .organizations
        .iter()
        .map(|(guid, name)| json!({ "guid": guid, "name": name }))
        .collect();
    let included = json!({ "spaces": spaces, "organizations": organizations });
    let known = ["type", "service_plan_guids", "fields[space]", "fields[space.organization]"];
    list(state, asked, found, &known, included)
}

/// "Pagination".
fn list(
    state: &mut State,
    asked: &Asked,
    all: Vec<Value>,
    known: &[&str],
    included: Value,
) -> Answer {
    let other = asked.query.keys().find(|key| *key != "page" && !known.contains(&key.as_str()));
    if let Some(parameter) = other {
        state.violations.push(format!("{}: unknown query parameter {parameter}", asked.path));
        let detail =
            format!("The query parameter is invalid: Unknown query parameter(s): '{parameter}'");
        return Answer::error(400, 10005, "CF-BadQueryParameter", &detail);
    }
    let page: usize = asked.query.get("page").and_then(|text| text.parse().ok()).unwrap_or(1);
    let pages = all.len().div_ceil(PER_PAGE).max(1);
    let next = (page < pages).then(|| {
        let mut query = asked.query.clone();
        query.insert("page".to_owned(), (page + 1).to_string());
        let query = form_urlencoded::Serializer::new(String::new()).extend_pairs(&query).finish();
        json!({ "href": format!("{}{}?{query}", state.url, asked.path) })
    });
    let total = all.len();
    let resources: Vec<Value> =
        all.into_iter().skip((page - 1) * PER_PAGE).take(PER_PAGE).collect();
    let mut body = json!({
        "pagination": { "total_results": total, "total_pages": pages, "next": next },
        "resources": resources,
    });
    if !included.is_null() {
        body["included"] = included;
    }
    Answer::json(200, body)
}
