//! One schedule from its start to its result.

use std::{
    collections::BTreeMap,
    env, fs,
    io::Write,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use serde::Serialize;
use tokio::{task::JoinSet, time::sleep};

use crate::{
    clients, faults,
    schedule::{Engine, Schedule},
    services::Kind,
    stage::{Stage, daemon_json},
    support::Daemon,
    verify,
    world::{Rule, World},
};

/// A line of the result.
#[derive(Debug, Serialize)]
pub(crate) struct Outcome {
    /// The seed of a random schedule, or the name of a fixed one.
    name: String,
    engine: Engine,
    faults: BTreeMap<&'static str, usize>,
    /// Instances whose platform was told that they are there.
    instances: usize,
    bindings: usize,
    /// Writes that a service has confirmed.
    writes: usize,
    /// Instances and writes that were looked at after the faults.
    surviving_instances: usize,
    surviving_writes: usize,
    lost: usize,
    bindings_broken: usize,
    bindings_not_revoked: usize,
    unfinished: usize,
    undeletable: usize,
    left_over: usize,
    wrong_answers: usize,
    seconds: f64,
    pub(crate) problems: Vec<String>,
}

impl Outcome {
    /// Shows it, and writes it into the file for `ci/faults` if that asked for it.
    pub(crate) fn report(&self) {
        let line = serde_json::to_string(self).unwrap();
        println!("{line}");
        if let Ok(file) = env::var("FAULTS_RESULTS") {
            let file = fs::File::options().create(true).append(true).open(file);
            // One call, so that lines of several processes do not mix.
            file.unwrap().write_all(format!("{line}\n").as_bytes()).unwrap();
        }
    }
}

/// A dockerd that several schedules use one after another.
pub(crate) async fn daemon(engine: Engine, old: Option<Daemon>) -> Option<Daemon> {
    if engine == Engine::Machine {
        return None;
    }
    let mut daemon = if let Some(daemon) = old {
        daemon
    } else {
        let daemon = Daemon::start().await;
        daemon.load_image(Kind::Redis.image());
        daemon
    };
    daemon.configure(daemon_json(engine));
    daemon.stop();
    daemon.start_again().await;
    Some(daemon)
}

/// Runs it. The daemon comes back for the next one.
pub(crate) async fn run(schedule: &Schedule, daemon: Option<Daemon>) -> (Outcome, Option<Daemon>) {
    println!(
        "schedule {}: {:?}, {} clients",
        schedule.name,
        schedule.engine,
        schedule.clients.len()
    );
    let started = Instant::now();
    let (stage, world) = Stage::set(schedule, daemon).await;
    let stage = Arc::new(stage);
    let watch = tokio::spawn(Arc::clone(&stage).watch(Arc::clone(&world)));
    let mut clients = JoinSet::new();
    for operations in &schedule.clients {
        clients.spawn(clients::work(Arc::clone(&world), operations.clone()));
    }
    if schedule.warm {
        all_have_bindings(&world, schedule.clients.len(), Duration::from_secs(40)).await;
    }
    faults::run(&stage, &world, &schedule.faults).await;
    // What the faults have held up may yet come about.
    all_have_bindings(&world, schedule.clients.len(), Duration::from_secs(10)).await;
    // Something is under way when the clients go home.
    sleep(Duration::from_secs(1)).await;
    world.stop.store(true, Ordering::Relaxed);
    while let Some(ended) = clients.join_next().await {
        if let Err(error) = ended {
            world.problem(Rule::Answer, error.to_string());
        }
    }
    if schedule.restart {
        stage.broker.lock().await.kill();
    }
    let at_stake = at_stake(&world);
    println!("the faults are over after {:.1} s", started.elapsed().as_secs_f64());
    verify::all(&stage, &world).await;
    watch.abort();
    drop(watch.await);
    let problems = world.problems();
    let mut stage = Arc::into_inner(stage).expect("nobody else has it any more");
    if !problems.is_empty() {
        println!("log of the broker:\n{}", stage.broker.get_mut().whole_log());
        println!("left in Docker:\n{}", stage.in_docker());
    }
    let count = |rule: Rule| problems.iter().filter(|(broken, _)| *broken == rule).count();
    let mut faults = BTreeMap::new();
    for fault in schedule.faults.iter().flatten() {
        *faults.entry(fault.trouble.kind()).or_default() += 1;
    }
    let outcome = Outcome {
        name: schedule.name.clone(),
        engine: schedule.engine,
        faults,
        lost: count(Rule::Lost),
        bindings_broken: count(Rule::Binding),
        bindings_not_revoked: count(Rule::Revoked),
        unfinished: count(Rule::Unfinished),
        undeletable: count(Rule::Undeletable),
        left_over: count(Rule::LeftOver),
        wrong_answers: count(Rule::Answer),
        seconds: started.elapsed().as_secs_f64(),
        problems: problems.iter().map(|(rule, text)| format!("{rule:?}: {text}")).collect(),
        ..at_stake
    };
    let daemon = stage.daemon.take().map(tokio::sync::Mutex::into_inner);
    if let (Some(daemon), false) = (&daemon, problems.is_empty()) {
        println!("log of dockerd:\n{}", daemon.log());
    }
    drop(stage);
    (outcome, daemon)
}

/// Waits until every client has an instance with a binding, but not for ever.
async fn all_have_bindings(world: &World, clients: usize, longest: Duration) {
    let end = Instant::now() + longest;
    let bound = || world.instances().iter().filter(|one| !one.live().is_empty()).count();
    while bound() < clients && Instant::now() < end {
        sleep(Duration::from_millis(50)).await;
    }
}

/// What could be lost.
fn at_stake(world: &World) -> Outcome {
    let instances = world.instances();
    let there: Vec<_> = instances.iter().filter(|one| one.has_to_be_there()).collect();
    let writes = |one: &Arc<crate::world::Instance>| one.state().confirmed.len();
    Outcome {
        name: String::new(),
        engine: Engine::Machine,
        faults: BTreeMap::new(),
        instances: instances.iter().filter(|one| one.state().succeeded).count(),
        bindings: instances
            .iter()
            .map(|one| one.state().bindings.iter().filter(|b| b.document.is_some()).count())
            .sum(),
        writes: instances.iter().map(writes).sum(),
        surviving_instances: there.len(),
        surviving_writes: there.iter().map(|one| writes(one)).sum(),
        lost: 0,
        bindings_broken: 0,
        bindings_not_revoked: 0,
        unfinished: 0,
        undeletable: 0,
        left_over: 0,
        wrong_answers: 0,
        seconds: 0.0,
        problems: Vec::new(),
    }
}
