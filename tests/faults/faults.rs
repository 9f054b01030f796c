//! Faults, begun and lifted.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use docker_broker::lifecycle::fault::VARIABLE;
use tokio::{
    task::{JoinSet, block_in_place},
    time::{Instant, sleep, sleep_until},
};

use crate::{
    proxy::Manner,
    schedule::{Fault, Trouble},
    stage::{Disk, Stage},
    world::{Rule, World},
};

/// Lets all faults come and go. Afterwards none is left.
pub(crate) async fn run(stage: &Arc<Stage>, world: &Arc<World>, faults: &[Vec<Fault>]) {
    let start = Instant::now();
    let mut sources = JoinSet::new();
    for source in faults {
        let (stage, world, source) = (Arc::clone(stage), Arc::clone(world), source.clone());
        sources.spawn(async move {
            for fault in source {
                sleep_until(start + fault.at).await;
                one(&stage, &world, fault).await;
            }
        });
    }
    sources.join_all().await;
}

async fn one(stage: &Arc<Stage>, world: &Arc<World>, fault: Fault) {
    println!("{:?} for {:?}", fault.trouble, fault.lasts);
    match fault.trouble {
        Trouble::KillBroker => stage.broker.lock().await.kill(),
        Trouble::StopBroker => terminate(stage, world).await,
        Trouble::KillBrokerAt(step) => {
            {
                let mut broker = stage.broker.lock().await;
                broker.set_environment(VARIABLE, Some(&step.name()));
                broker.kill();
            }
            sleep(fault.lasts).await;
            stage.broker.lock().await.set_environment(VARIABLE, None);
            // If nothing came that far, it is still armed.
            stage.broker.lock().await.kill();
        }
        Trouble::KillDockerd | Trouble::StopDockerd => {
            let mut daemon = stage.daemon.as_ref().expect("a daemon of its own").lock().await;
            let stopped = block_in_place(|| {
                if fault.trouble == Trouble::KillDockerd {
                    daemon.kill();
                    return false;
                }
                // One that hangs is killed, as the job `docker` does.
                daemon.stop()
            });
            sleep(fault.lasts).await;
            // With live-restore a stop leaves the same behind.
            if stopped && daemon.has_ended_all() {
                daemon.start_again().await;
            } else {
                daemon.start_after_kill().await;
            }
        }
        Trouble::Socket(manner) => {
            let proxy = stage.proxy.as_ref().expect("a proxy for what goes through it");
            proxy.set(manner);
            sleep(fault.lasts).await;
            proxy.set(Manner::Pass);
        }
        Trouble::KillContainer | Trouble::RemoveContainer | Trouble::PauseContainer => {
            block_in_place(|| meddle(stage, fault.trouble));
        }
        Trouble::StoreDiskFull(blocks) => full(&stage.store_disk, blocks, fault.lasts).await,
        Trouble::DataDiskFull(blocks) => full(&stage.data_disk, blocks, fault.lasts).await,
        Trouble::StoreReadOnly => read_only(stage, fault.lasts).await,
        Trouble::StoreLocked => locked(stage, fault.lasts).await,
        Trouble::Clock(hours) => {
            stage.step_clock(hours);
            sleep(fault.lasts).await;
            stage.step_clock(0);
        }
    }
}

async fn full(disk: &Disk, blocks: u64, lasts: Duration) {
    disk.fill(blocks);
    sleep(lasts).await;
    disk.free().await;
}

async fn terminate(stage: &Stage, world: &World) {
    // Longer than its budget, and longer than any test run should make it wait.
    const LONGEST: Duration = Duration::from_secs(20);
    let mut broker = stage.broker.lock().await;
    if !broker.is_running() {
        return;
    }
    let (took, _) = broker.terminate().await;
    if took > LONGEST {
        world.problem(Rule::Answer, format!("the broker took {took:?} to stop"));
    }
}

/// Somebody else's `docker kill` and the like, on one of the containers.
fn meddle(stage: &Stage, trouble: Trouble) {
    let containers = stage.labelled(&["ps"], "{{.Names}}");
    let Some(name) = containers.first() else { return };
    let verb: &[&str] = match trouble {
        Trouble::KillContainer => &["kill"],
        Trouble::RemoveContainer => &["rm", "-f"],
        _ => &["pause"],
    };
    stage.docker(&[verb, &[name]].concat());
}

/// The broker has died, and finds its store read-only whenever it is started.
async fn read_only(stage: &Stage, lasts: Duration) {
    stage.held.store(true, Ordering::Relaxed);
    stage.broker.lock().await.kill();
    assert!(stage.store_disk.read_only(true), "nobody writes there any more");
    stage.held.store(false, Ordering::Relaxed);
    sleep(lasts).await;
    assert!(stage.store_disk.read_only(false));
}

/// A backup, say, that keeps the store's lock.
async fn locked(stage: &Stage, lasts: Duration) {
    let file = stage.data.join("broker.db");
    let locked = tokio::task::spawn_blocking(move || {
        let store = rusqlite::Connection::open(file).ok()?;
        store.busy_timeout(Duration::from_secs(2)).ok()?;
        store.execute_batch("BEGIN IMMEDIATE").ok()?;
        std::thread::sleep(lasts);
        store.execute_batch("ROLLBACK").ok()
    });
    if locked.await.ok().flatten().is_none() {
        println!("the store could not be locked at that moment");
    }
}
