//! One schedule per kind of fault: the fault comes in the middle of the clients' work, once.

use std::time::Duration;

use docker_broker::lifecycle::fault::Step;

use crate::{
    proxy::Manner,
    run,
    schedule::{Engine, Fault, Schedule, Trouble},
};

/// A second of work, the fault, and what comes after it.
async fn survived(name: &str, engine: Engine, trouble: Trouble, seconds: u64) {
    let lasts = Duration::from_secs(seconds);
    let fault = Fault { at: Duration::from_secs(1), lasts, trouble };
    check(&Schedule::with(name, engine, vec![vec![fault]])).await;
}

async fn check(schedule: &Schedule) {
    let daemon = run::daemon(schedule.engine, None).await;
    let (outcome, _daemon) = run::run(schedule, daemon).await;
    outcome.report();
    assert_eq!(outcome.problems, [""; 0]);
}

/// The disk fills up again and again, each time with room for a few writes more.
async fn whichever_write_fails(name: &str, trouble: impl Fn(u64) -> Trouble) {
    const ROOM: [u64; 14] = [0, 1, 2, 3, 4, 5, 6, 8, 10, 13, 16, 20, 28, 40];
    let lasts = Duration::from_millis(700);
    let mut at = Duration::from_millis(500);
    let mut faults = Vec::new();
    for blocks in ROOM {
        faults.push(Fault { at, lasts, trouble: trouble(blocks) });
        at += lasts + Duration::from_millis(300);
    }
    check(&Schedule::with(name, Engine::Machine, vec![faults])).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nothing_is_lost_whichever_write_of_the_store_finds_its_disk_full() {
    let name = "nothing_is_lost_whichever_write_of_the_store_finds_its_disk_full";
    whichever_write_fails(name, Trouble::StoreDiskFull).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nothing_is_lost_whichever_write_of_an_instance_finds_its_disk_full() {
    let name = "nothing_is_lost_whichever_write_of_an_instance_finds_its_disk_full";
    whichever_write_fails(name, Trouble::DataDiskFull).await;
}

macro_rules! survived {
    ($($test:ident: $engine:ident, $trouble:expr, $seconds:literal;)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
            async fn $test() {
                survived(stringify!($test), Engine::$engine, $trouble, $seconds).await;
            }
        )*
    };
}

survived! {
    nothing_is_lost_when_the_broker_is_killed: Machine, Trouble::KillBroker, 0;
    nothing_is_lost_when_the_broker_dies_in_an_update:
        Machine, Trouble::KillBrokerAt(Step::UpdateRenamed), 3;
    nothing_is_lost_when_the_broker_is_stopped: Machine, Trouble::StopBroker, 0;
    nothing_is_lost_when_dockerd_is_killed_under_eight_clients: Own, Trouble::KillDockerd, 1;
    nothing_is_lost_when_a_dockerd_with_live_restore_is_killed_under_eight_clients:
        OwnLiveRestore, Trouble::KillDockerd, 1;
    nothing_is_lost_when_dockerd_is_stopped_under_eight_clients: Own, Trouble::StopDockerd, 1;
    nothing_is_lost_when_dockerd_answers_500: Machine, Trouble::Socket(Manner::Refuse), 3;
    nothing_is_lost_when_dockerd_hangs: Machine, Trouble::Socket(Manner::Hang), 4;
    nothing_is_lost_when_dockerd_cuts_connections_before_it_answers:
        Machine, Trouble::Socket(Manner::CutRequest), 3;
    nothing_is_lost_when_dockerd_cuts_connections_in_its_answers:
        Machine, Trouble::Socket(Manner::CutAnswer), 3;
    nothing_is_lost_when_somebody_kills_a_container: Machine, Trouble::KillContainer, 0;
    nothing_is_lost_when_somebody_removes_a_container: Machine, Trouble::RemoveContainer, 0;
    nothing_is_lost_when_somebody_pauses_a_container: Machine, Trouble::PauseContainer, 0;
    nothing_is_lost_when_the_disk_of_the_store_is_full: Machine, Trouble::StoreDiskFull(0), 3;
    nothing_is_lost_when_the_disk_of_the_instances_is_full: Machine, Trouble::DataDiskFull(0), 3;
    nothing_is_lost_when_the_store_is_read_only_at_a_start: Machine, Trouble::StoreReadOnly, 2;
    nothing_is_lost_when_the_store_is_locked: Machine, Trouble::StoreLocked, 4;
    nothing_is_lost_when_the_store_is_locked_longer_than_the_broker_waits:
        Machine, Trouble::StoreLocked, 12;
    nothing_is_lost_when_the_clock_goes_a_year_forward: Machine, Trouble::Clock(400 * 24), 3;
    nothing_is_lost_when_the_clock_goes_two_days_back: Machine, Trouble::Clock(-48), 3;
}
