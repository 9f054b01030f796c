//! Platforms that provision, bind, rotate, update, unbind and deprovision, and the applications
//! that write meanwhile.

use std::{sync::Arc, time::Duration};

use http::Method;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::{
    apps::App,
    schedule::{Op, Timed},
    support::Reply,
    world::{Binding, Instance, Rule, World},
};

/// How a request or an operation has ended for its platform.
#[derive(Debug, PartialEq)]
enum Outcome {
    Done(Value),
    Failed,
    /// The platform was not told.
    Unknown,
}

/// Works through the operations until the world stops.
pub(crate) async fn work(world: Arc<World>, operations: Vec<Timed>) {
    let mut current: Option<Arc<Instance>> = None;
    let mut updates = 0;
    for Timed { pause, op, patient } in operations {
        sleep(pause).await;
        if world.stopping() {
            return;
        }
        match (op, &current) {
            (Op::Provision(kind), None) => {
                let instance = world.new_instance(kind);
                if provision(&world, &instance).await {
                    instance.state().succeeded = true;
                    current = Some(instance);
                }
            }
            (Op::Bind, Some(instance)) => bind(&world, instance, None, patient).await,
            (Op::Rotate, Some(instance)) => {
                if let Some(old) = instance.live().first() {
                    bind(&world, instance, Some(&old.id), patient).await;
                }
            }
            (Op::Unbind, Some(instance)) => {
                // The last one stays, or nothing could be written.
                let live = instance.live();
                if let [old, _, ..] = live.as_slice() {
                    unbind(&world, instance, &old.id, patient).await;
                }
            }
            (Op::Update, Some(instance)) => {
                updates += 1;
                update(&world, instance, updates % 2).await;
            }
            (Op::Deprovision, Some(instance)) => {
                deprovision(&world, instance).await;
                current = None;
            }
            _ => {}
        }
    }
}

fn ids(instance: &Instance, plan: usize) -> Value {
    json!({ "service_id": instance.kind.service(), "plan_id": instance.kind.plans()[plan] })
}

/// The same as a query.
pub(crate) fn query(instance: &Instance, plan: &str) -> String {
    format!("service_id={}&plan_id={plan}", instance.kind.service())
}

/// The plan that the broker says it has; the first one, if it does not say.
pub(crate) async fn plan(world: &World, instance: &Instance) -> String {
    let said = world.ask(&Method::GET, &instance.path(), None).await;
    let said = said.ok().filter(|reply| reply.status == 200).map(|reply| reply.json());
    let said = said.and_then(|body| body["plan_id"].as_str().map(str::to_owned));
    said.unwrap_or_else(|| instance.kind.plans()[0].to_owned())
}

/// Follows an operation to its end, or until the world has stopped for a while.
async fn follow(world: &World, path: &str, reply: Result<Reply, String>) -> Outcome {
    const AFTERWARDS: Duration = Duration::from_secs(2);
    let Ok(reply) = reply else { return Outcome::Unknown };
    match reply.status {
        200 | 201 => return Outcome::Done(reply.json()),
        202 => {}
        410 => return Outcome::Done(Value::Null),
        _ => return Outcome::Failed,
    }
    let path = format!("{path}/last_operation");
    let mut end = None;
    loop {
        sleep(Duration::from_millis(100)).await;
        if world.stopping() && *end.get_or_insert(Instant::now() + AFTERWARDS) < Instant::now() {
            return Outcome::Unknown;
        }
        let limit = Duration::from_secs(5);
        let Ok(reply) = world.once(&Method::GET, &path, None, limit).await else { continue };
        match (reply.status, reply.json()["state"].as_str()) {
            (200, Some("succeeded")) | (410, _) => return Outcome::Done(Value::Null),
            (200, Some("failed")) => return Outcome::Failed,
            (404, _) => return Outcome::Unknown,
            _ => {}
        }
    }
}

async fn provision(world: &World, instance: &Instance) -> bool {
    let mut body = ids(instance, 0);
    body["organization_guid"] = "org".into();
    body["space_guid"] = "space".into();
    let path = format!("{}?accepts_incomplete=true", instance.path());
    let reply = world.ask(&Method::PUT, &path, Some(&body)).await;
    let outcome = follow(world, &instance.path(), reply).await;
    matches!(outcome, Outcome::Done(_))
}

async fn bind(world: &Arc<World>, instance: &Arc<Instance>, old: Option<&str>, patient: bool) {
    let id = world.name("b");
    let mut body = json!({});
    if let Some(old) = old {
        body["predecessor_binding_id"] = old.into();
    }
    if body.get("predecessor_binding_id").is_none() {
        let plan = plan(world, instance).await;
        body = json!({ "service_id": instance.kind.service(), "plan_id": plan });
    }
    let binding = Binding { id: id.clone(), document: None, unbinding: false, gone: false };
    instance.state().bindings.push(binding);
    let path = format!("{}/service_bindings/{id}", instance.path());
    let asked = format!("{path}?accepts_incomplete={patient}");
    let reply = world.ask(&Method::PUT, &asked, Some(&body)).await;
    let mut outcome = follow(world, &path, reply).await;
    if outcome == Outcome::Done(Value::Null) {
        let reply = world.ask(&Method::GET, &path, None).await;
        outcome = match reply {
            Ok(reply) if reply.status == 200 => Outcome::Done(reply.json()),
            _ => Outcome::Unknown,
        };
    }
    if let Outcome::Done(document) = outcome {
        instance.with_binding(&id, |binding| binding.document = Some(document));
        if !std::mem::replace(&mut instance.state().writer, true) {
            tokio::spawn(write(Arc::clone(world), Arc::clone(instance)));
        }
    }
}

async fn unbind(world: &World, instance: &Instance, id: &str, patient: bool) {
    instance.with_binding(id, |binding| binding.unbinding = true);
    let ids = query(instance, &plan(world, instance).await);
    let path = format!("{}/service_bindings/{id}", instance.path());
    let asked = format!("{path}?accepts_incomplete={patient}&{ids}");
    let reply = world.ask(&Method::DELETE, &asked, None).await;
    if let Outcome::Done(_) = follow(world, &path, reply).await {
        instance.with_binding(id, |binding| binding.gone = true);
    }
}

async fn update(world: &World, instance: &Instance, plan: usize) {
    let path = format!("{}?accepts_incomplete=true", instance.path());
    let reply = world.ask(&Method::PATCH, &path, Some(&ids(instance, plan))).await;
    if reply.as_ref().is_ok_and(|reply| reply.status == 404) {
        world.problem(Rule::Answer, format!("{} was answered and is not known", instance.id));
    }
    follow(world, &instance.path(), reply).await;
}

async fn deprovision(world: &World, instance: &Instance) {
    let ids = query(instance, &plan(world, instance).await);
    instance.state().deleting = true;
    let path = format!("{}?accepts_incomplete=true&{ids}", instance.path());
    let reply = world.ask(&Method::DELETE, &path, None).await;
    follow(world, &instance.path(), reply).await;
}

/// An application: writes numbers through one binding after another, for as long as any works.
async fn write(world: Arc<World>, instance: Arc<Instance>) {
    const PAUSE: Duration = Duration::from_millis(15);
    const AWAY: Duration = Duration::from_millis(100);
    let done = || world.stopping() || instance.state().deleting;
    let mut turn = 0;
    while !done() {
        turn += 1;
        let live = instance.live();
        let document = live.get(turn % live.len().max(1)).and_then(|one| one.document.clone());
        let Some(document) = document else {
            sleep(AWAY).await;
            continue;
        };
        let Ok(mut app) = App::open(instance.kind, &document).await else {
            sleep(AWAY).await;
            continue;
        };
        if app.prepare().await.is_err() {
            sleep(AWAY).await;
            continue;
        }
        // A while through this one.
        for _ in 0..50 {
            if done() {
                break;
            }
            let number = {
                let mut state = instance.state();
                state.next += 1;
                state.next
            };
            if app.write(number).await.is_err() {
                break;
            }
            instance.state().confirmed.insert(number);
            sleep(PAUSE).await;
        }
    }
}
