#![expect(clippy::unwrap_used, reason = "a test ends with what it did not find")]
#![expect(clippy::print_stdout, reason = "what happened is shown when a schedule fails")]
//! The fault suite: platforms and applications work with a broker while all that it stands on
//! fails, and afterwards nothing is lost, nothing is left over, and everything works.
//!
//! `ci/faults` runs many random schedules, the tests here a few. A schedule comes from its seed:
//! `ci/faults --seed SEED` runs it again.

mod apps;
mod clients;
mod dockerd;
mod faults;
mod fixed;
mod proxy;
mod run;
mod schedule;
mod services;
mod stage;
mod store;
#[expect(dead_code, unused_imports, reason = "the tests of the broker use more of it")]
#[path = "../broker/support/mod.rs"]
mod support;
mod verify;
mod world;

use std::env;

use schedule::{Engine, Schedule};

/// Runs the schedules of these seeds one after another.
async fn schedules(seeds: impl IntoIterator<Item = u64>) {
    let mut failed = Vec::new();
    let mut own = None;
    for seed in seeds {
        let schedule = Schedule::of(seed);
        let daemon = if schedule.engine == Engine::Machine {
            None
        } else {
            run::daemon(schedule.engine, own.take()).await
        };
        let (outcome, daemon) = run::run(&schedule, daemon).await;
        outcome.report();
        if outcome.problems.is_empty() {
            own = daemon.or(own);
        } else {
            println!("run it again: ci/faults --schedules 1 --seed {seed}");
            failed.push((seed, outcome.problems));
        }
    }
    assert!(failed.is_empty(), "schedules (by their seeds) have failed: {failed:#?}");
}

/// For `ci/faults`: the schedules whose seeds are in `FAULTS_SEEDS`.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
#[ignore = "ci/faults runs it"]
async fn the_schedules_that_were_asked_for_lose_nothing() {
    let seeds = env::var("FAULTS_SEEDS").expect("ci/faults says which");
    let seeds = seeds.split_whitespace().map(|seed| seed.parse().expect("a number"));
    schedules(seeds).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_few_random_schedules_lose_nothing() {
    schedules([1, 3, 7, 16]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_few_random_schedules_with_a_dockerd_that_dies_lose_nothing() {
    schedules([2, 10]).await;
}
