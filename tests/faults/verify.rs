//! What has to be true when the faults are over.

use std::{collections::BTreeSet, fs, sync::Arc, time::Duration};

use http::Method;
use serde_json::Value;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};

use crate::{
    apps::{App, Denied},
    clients::{plan, query},
    stage::Stage,
    world::{Binding, Instance, Rule, World},
};

/// For everything that needs time to become true.
const PATIENCE: Duration = Duration::from_mins(4);

/// All of it, in turn.
pub(crate) async fn all(stage: &Arc<Stage>, world: &Arc<World>) {
    if !ready(world).await {
        return;
    }
    let started = Instant::now();
    let passed = |what: &str| println!("{what} after {:.1} s", started.elapsed().as_secs_f64());
    each(world, operations_end).await;
    passed("operations have ended");
    each(world, bindings_and_writes).await;
    passed("bindings and writes are checked");
    each(world, can_be_deleted).await;
    passed("instances are deleted");
    nothing_is_left(stage, world).await;
}

/// Does the same for each instance, a few at a time.
async fn each<F>(world: &Arc<World>, check: impl Fn(Arc<World>, Arc<Instance>) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    let mut tasks = JoinSet::new();
    for instance in world.instances() {
        tasks.spawn(check(Arc::clone(world), instance));
    }
    while let Some(ended) = tasks.join_next().await {
        if let Err(error) = ended {
            world.problem(Rule::Answer, error.to_string());
        }
    }
}

async fn ready(world: &World) -> bool {
    let end = Instant::now() + PATIENCE;
    let mut last = String::new();
    while Instant::now() < end {
        match world.once(&Method::GET, "/readyz", None, PATIENCE).await {
            Ok(reply) if reply.status == 200 => return true,
            Ok(reply) => last = String::from_utf8_lossy(&reply.bytes).into_owned(),
            Err(error) => last = error,
        }
        sleep(Duration::from_millis(50)).await;
    }
    world.problem(Rule::Answer, format!("the broker does not become ready: {last}"));
    false
}

/// Every operation that was accepted ends.
async fn operations_end(world: Arc<World>, instance: Arc<Instance>) {
    let bindings: Vec<String> =
        instance.state().bindings.iter().map(|binding| binding.id.clone()).collect();
    let paths = bindings.iter().map(|id| format!("{}/service_bindings/{id}", instance.path()));
    for path in std::iter::once(instance.path()).chain(paths) {
        let path = format!("{path}/last_operation");
        let end = Instant::now() + PATIENCE;
        loop {
            let reply = world.once(&Method::GET, &path, None, PATIENCE).await;
            let busy = match &reply {
                Ok(reply) if reply.status == 200 => reply.json()["state"] == "in progress",
                Ok(reply) => reply.status >= 500,
                Err(_) => true,
            };
            if !busy {
                break;
            }
            if Instant::now() > end {
                world.problem(Rule::Unfinished, format!("{path}: {reply:?}"));
                break;
            }
            sleep(Duration::from_millis(50)).await;
        }
    }
}

/// Every binding that was answered works, says the same as ever, and shows every write; every one
/// that was revoked does not work any more.
async fn bindings_and_writes(world: Arc<World>, instance: Arc<Instance>) {
    if !instance.has_to_be_there() {
        return;
    }
    let present = world.ask(&Method::GET, &instance.path(), None).await;
    if !present.as_ref().is_ok_and(|reply| reply.status == 200) {
        world.problem(Rule::Lost, format!("{} was answered and is gone: {present:?}", instance.id));
        return;
    }
    for binding in instance.live() {
        let document = binding.document.clone().unwrap_or_default();
        says_the_same(&world, &instance, &binding.id, &document).await;
        match read(&instance, &document).await {
            Ok(found) => compare(&world, &instance, &binding, &found),
            Err(error) => {
                let text =
                    format!("{} of {} ({:?}): {error}", binding.id, instance.id, instance.kind);
                world.problem(Rule::Binding, text);
            }
        }
    }
    let revoked: Vec<Binding> = instance.state().bindings.clone();
    for binding in revoked.iter().filter(|binding| binding.gone) {
        let Some(document) = &binding.document else { continue };
        if App::open(instance.kind, document).await.is_ok() {
            world.problem(Rule::Revoked, format!("{} of {}", binding.id, instance.id));
        }
    }
}

async fn says_the_same(world: &World, instance: &Instance, id: &str, document: &Value) {
    let path = format!("{}/service_bindings/{id}", instance.path());
    match world.ask(&Method::GET, &path, None).await {
        Ok(reply)
            if reply.status == 200 && reply.json()["credentials"] == document["credentials"] => {}
        Ok(reply) => {
            let text = format!("{id} of {} says something else: {}", instance.id, reply.status);
            world.problem(Rule::Binding, text);
        }
        Err(error) => world.problem(Rule::Answer, format!("{path}: {error}")),
    }
}

fn compare(world: &World, instance: &Instance, binding: &Binding, found: &BTreeSet<u64>) {
    let lost: Vec<u64> = instance.state().confirmed.difference(found).copied().collect();
    if !lost.is_empty() {
        let text = format!(
            "{} confirmed writes of {} ({:?}), read through {}: {lost:?}",
            lost.len(),
            instance.id,
            instance.kind,
            binding.id,
        );
        world.problem(Rule::Lost, text);
    }
}

/// The service may be on its way up.
async fn read(instance: &Instance, document: &Value) -> Result<BTreeSet<u64>, Denied> {
    let end = Instant::now() + PATIENCE;
    loop {
        let read = async {
            let mut app = App::open(instance.kind, document).await?;
            app.prepare().await?;
            app.read().await
        };
        match read.await {
            Ok(found) => return Ok(found),
            Err(error) if Instant::now() > end => return Err(error),
            Err(_) => sleep(Duration::from_millis(100)).await,
        }
    }
}

/// Every instance that was ever asked for can be deleted, with one request.
async fn can_be_deleted(world: Arc<World>, instance: Arc<Instance>) {
    let ids = query(&instance, &plan(&world, &instance).await);
    let path = format!("{}?{ids}", instance.path());
    let reply = world.once(&Method::DELETE, &path, None, PATIENCE).await;
    if !reply.as_ref().is_ok_and(|reply| [200, 410].contains(&reply.status)) {
        let text = match reply {
            Ok(reply) => format!("{} {}", reply.status, String::from_utf8_lossy(&reply.bytes)),
            Err(error) => error,
        };
        world.problem(Rule::Undeletable, format!("{}: {text}", instance.id));
    }
}

/// No container, network, directory, port or row. What was deleted is removed in the background.
async fn nothing_is_left(stage: &Arc<Stage>, world: &Arc<World>) {
    let end = Instant::now() + Duration::from_mins(1);
    loop {
        let left = left(stage);
        if left.is_empty() {
            return;
        }
        if Instant::now() > end {
            for what in left {
                world.problem(Rule::LeftOver, what);
            }
            return;
        }
        sleep(Duration::from_millis(200)).await;
    }
}

fn left(stage: &Stage) -> Vec<String> {
    let mut left = Vec::new();
    for name in stage.labelled(&["ps", "-a"], "{{.Names}} {{.Status}}") {
        left.push(format!("container {name}"));
    }
    // One stays for the next instance.
    let networks = stage.labelled(&["network", "ls"], "{{.Name}}");
    if networks.len() > 1 {
        left.push(format!("networks {networks:?}"));
    }
    let root = stage.data.join("instances");
    let entries = |path: &std::path::Path| -> Vec<String> {
        let entries = fs::read_dir(path).into_iter().flatten().flatten();
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    };
    for name in entries(&root).iter().filter(|name| *name != ".trash") {
        left.push(format!("directory {name}"));
    }
    for name in entries(&root.join(".trash")) {
        left.push(format!("directory .trash/{name}"));
    }
    match rows(stage) {
        Ok(rows) => left.extend(rows),
        Err(error) => left.push(format!("the store cannot be read: {error}")),
    }
    left
}

fn rows(stage: &Stage) -> Result<Vec<String>, rusqlite::Error> {
    let store = rusqlite::Connection::open(stage.data.join("broker.db"))?;
    let mut left = Vec::new();
    for (what, rows) in [
        ("instances", "instances"),
        ("bindings", "bindings"),
        ("tenants", "tenants"),
        ("hosts", "hosts"),
        ("ports", "host_ports WHERE instance_id IS NOT NULL"),
        ("running operations", "operations WHERE state = 'in progress'"),
    ] {
        let sql = format!("SELECT count(*) FROM {rows}");
        let count: i64 = store.query_row(&sql, [], |row| row.get(0))?;
        if count > 0 {
            left.push(format!("{count} {what} in the store"));
        }
    }
    Ok(left)
}
