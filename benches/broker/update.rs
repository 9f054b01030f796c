//! What a client sees of a plan update: the time from the last good reply of a redis to the next
//! one, against a bare stop and start of the same container.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, sleep},
    time::{Duration, Instant},
};

use anyhow::{Result, anyhow};

use crate::{
    floor::Floor,
    http::Connection,
    osb,
    process::Broker,
    redis,
    report::{Bound, Report, Times},
};

const INSTANCE: &str = "updated";
const MOST: f64 = 1.2;
/// Between two questions of the client: what can be seen is no finer.
const PAUSE: Duration = Duration::from_millis(1);

/// How much is measured.
pub(crate) struct Rounds {
    /// Updates, and as many stops and starts.
    pub(crate) rounds: usize,
}

pub(crate) fn measure(
    floor: &Floor,
    broker: &Broker,
    rounds: &Rounds,
    report: &mut Report,
) -> Result<()> {
    let (mut docker, mut connection) = (floor.connect()?, broker.connect()?);
    let ticket = floor.ticket();
    Floor::provision(&mut docker, &ticket)?;
    connection.exchange(&osb::provision(INSTANCE, false))?.expect(201)?;
    let (port, password) = osb::login_of(&mut connection, INSTANCE)?;
    let mut samples: [Vec<Duration>; 2] = Default::default();
    // The first round warms up.
    for round in 0..=rounds.rounds {
        for side in [round % 2, (round + 1) % 2] {
            let gap = if side == 0 {
                let login = ticket.login();
                outage(login, || Floor::restart(&mut docker, &ticket))?
            } else {
                let plan = if round % 2 == 0 { osb::LARGER_ID } else { osb::PLAN_ID };
                outage((port, &password), || update(&mut connection, plan))?
            };
            if round > 0 {
                samples[side].push(gap);
            }
        }
    }
    Floor::deprovision(&mut docker, &ticket)?;
    let [raw, updated] = samples.map(Times::of);
    let detail = format!(
        "{:.0} to {:.0} ms, p90 {:.0} to {:.0}, max {:.0} to {:.0}, n = {}",
        updated.median(),
        raw.median(),
        updated.percentile(90),
        raw.percentile(90),
        updated.max(),
        raw.max(),
        raw.len()
    );
    let value = (updated.median() / raw.median(), "x raw");
    report.add("Outage of a plan update, median", value, Bound::AtMost(MOST), detail);
    Ok(())
}

fn update(connection: &mut Connection, plan: &str) -> Result<()> {
    connection.exchange(&osb::update(INSTANCE, plan))?.expect(200)?;
    Ok(())
}

/// The longest time without a good reply around what `change` does.
fn outage((port, password): (u16, &str), change: impl FnOnce() -> Result<()>) -> Result<Duration> {
    redis::wait(port, password)?;
    let (good, stop) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
    let client = {
        let (good, stop, password) = (Arc::clone(&good), Arc::clone(&stop), password.to_owned());
        thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                if redis::answers(port, &password) {
                    good.lock().unwrap_or_else(PoisonError::into_inner).push(Instant::now());
                }
                sleep(PAUSE);
            }
        })
    };
    let changed = change().and_then(|()| redis::wait(port, password).map(drop));
    // One more good reply ends the gap, if it has not ended.
    let seen = || good.lock().unwrap_or_else(PoisonError::into_inner).len();
    let before = seen();
    let end = Instant::now() + Duration::from_secs(10);
    while changed.is_ok() && seen() < before + 2 && Instant::now() < end {
        sleep(PAUSE);
    }
    stop.store(true, Ordering::Relaxed);
    client.join().map_err(|_| anyhow!("the client panicked"))?;
    changed?;
    let good = good.lock().unwrap_or_else(PoisonError::into_inner);
    let longest = good.windows(2).map(|pair| pair[1] - pair[0]).max();
    longest.ok_or_else(|| anyhow!("redis on port {port} did not answer twice"))
}
