//! A VM that is made anew: containers are gone, directories are there. The time from the start of
//! the broker until it is ready, against making and starting the same containers over dockerd's
//! socket, eight at a time.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::{
    floor::{Floor, Ticket},
    http::request,
    load, osb,
    process::Broker,
    redis,
    report::{Bound, Report, Times},
};

/// How much is measured.
pub(crate) struct Rounds {
    /// Recreations per side.
    pub(crate) rounds: usize,
    pub(crate) instances: usize,
}

pub(crate) fn measure(
    floor: &Floor,
    broker: &mut Broker,
    rounds: &Rounds,
    report: &mut Report,
) -> Result<()> {
    let count = rounds.instances;
    let tickets: Vec<Ticket> = (0..count).map(|_| floor.ticket()).collect();
    let ids: Vec<String> = (0..count).map(|number| format!("vm-{number}")).collect();
    let docker = || floor.connect();
    load::jobs(count, docker, |docker, number| Floor::provision(docker, &tickets[number]))?;
    load::jobs(
        count,
        || broker.connect(),
        |connection, number| {
            connection.exchange(&osb::provision(&ids[number], false))?.expect(201).map(drop)
        },
    )?;
    let mut connection = broker.connect()?;
    let logins = ids.iter().map(|id| osb::login_of(&mut connection, id));
    let logins = logins.collect::<Result<Vec<_>>>()?;
    let theirs: Vec<String> = ids.iter().map(|id| broker.container(id)).collect();
    let mine: Vec<String> = tickets.iter().map(|ticket| ticket.name.clone()).collect();
    let (mut raw, mut ours): (Vec<Duration>, Vec<Duration>) = Default::default();
    for round in 0..rounds.rounds {
        for turn in 0..2 {
            // A drift of the machine's speed hits both alike.
            if (round + turn) % 2 == 0 {
                remove(floor, &mine)?;
                raw.push(load::jobs(count, docker, |docker, number| {
                    Floor::provision(docker, &tickets[number])
                })?);
            } else {
                broker.stop();
                remove(floor, &theirs)?;
                let start = Instant::now();
                broker.launch_ready()?;
                ours.push(start.elapsed());
                for (port, password) in &logins {
                    ensure!(redis::wait(*port, password)? == 1, "ready, but a redis is not");
                }
            }
        }
    }
    let (raw, ours) = (Times::of(raw), Times::of(ours));
    report.add(
        format!("Recreate of a VM with {count} redis, until ready"),
        (ours.median() / raw.median(), "x raw"),
        Bound::AtMost(1.10),
        format!(
            "{:.1} to {:.1} s, {} rounds",
            ours.median() / 1000.0,
            raw.median() / 1000.0,
            raw.len()
        ),
    );
    Ok(())
}

fn remove(floor: &Floor, names: &[String]) -> Result<()> {
    load::jobs(
        names.len(),
        || floor.connect(),
        |docker, number| {
            let path = format!("/containers/{}?force=true&v=true", names[number]);
            docker.exchange(&request("DELETE", &path, &[], None))?.expect(204).map(drop)
        },
    )?;
    Ok(())
}
