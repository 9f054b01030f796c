//! Provision and deprovision against the raw floor, in turns.
//!
//! The clock of a provision stops when redis has answered a PING on the published port. The broker
//! tells port and password only in a binding, so its clock stands still while the client binds.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::{
    floor::{Floor, Ticket},
    load::{self, CLIENTS},
    osb,
    process::Broker,
    redis,
    report::{Bound, Report, Times, number},
};

/// Between two polls of a client that does not wait for the reply.
const POLL: Duration = Duration::from_millis(2);
const MOST: Bound = Bound::AtMost(1.10);
const LEAST: Bound = Bound::AtLeast(0.95);

/// Who makes the instance.
#[derive(Clone, Copy, PartialEq)]
enum Side {
    Raw,
    /// The request waits for the end.
    Waiting,
    /// `accepts_incomplete`, and polling.
    Polling,
}

/// Times of one side.
#[derive(Default)]
struct Samples {
    provision: Vec<Duration>,
    deprovision: Vec<Duration>,
}

/// How much is measured.
pub(crate) struct Rounds {
    /// One client: instances per side.
    pub(crate) single: usize,
    /// Eight clients: blocks per side, and instances per block.
    pub(crate) blocks: usize,
    pub(crate) block: usize,
}

pub(crate) fn measure(
    floor: &Floor,
    broker: &Broker,
    rounds: &Rounds,
    report: &mut Report,
) -> Result<()> {
    check_floor(floor, broker)?;
    one_client(floor, broker, rounds.single, report)?;
    eight_clients(floor, broker, rounds, report)
}

fn check_floor(floor: &Floor, broker: &Broker) -> Result<()> {
    let (mut docker, mut connection) = (floor.connect()?, broker.connect()?);
    let ticket = floor.ticket();
    Floor::provision(&mut docker, &ticket)?;
    connection.exchange(&osb::provision("check", false))?.expect(201)?;
    floor.check_same_options(&ticket.name, &broker.container("check"))?;
    Floor::deprovision(&mut docker, &ticket)?;
    connection.exchange(&osb::deprovision("check", false))?.expect(200)?;
    Ok(())
}

fn one_client(floor: &Floor, broker: &Broker, rounds: usize, report: &mut Report) -> Result<()> {
    let order = [Side::Raw, Side::Waiting, Side::Polling];
    let mut samples: [Samples; 3] = Default::default();
    let mut late = 0;
    // The first round warms up.
    for round in 0..=rounds {
        for turn in 0..order.len() {
            let number = (round + turn) % order.len();
            let side = order[number];
            let (provision, deprovision) = if side == Side::Raw {
                raw(floor)?
            } else {
                let id = format!("one-{round}-{number}");
                let made = through_broker(broker, &id, side == Side::Polling);
                let (provision, deprovision, attempts) = made.with_context(|| id)?;
                late += usize::from(attempts > 1);
                (provision, deprovision)
            };
            if round > 0 {
                samples[number].provision.push(provision);
                samples[number].deprovision.push(deprovision);
            }
        }
    }
    for (name, of) in [
        ("Provision", (|samples| &samples.provision) as fn(&Samples) -> &Vec<Duration>),
        ("Deprovision", |samples| &samples.deprovision),
    ] {
        let [raw, waiting, polling] =
            samples.each_ref().map(|samples| Times::of(of(samples).iter().copied()));
        for (how, times) in [("client waits", waiting), ("client polls", polling)] {
            let detail = format!(
                "{:.0} to {:.0} ms, p90 {:.0} to {:.0}, max {:.0} to {:.0}, n = {}",
                times.median(),
                raw.median(),
                times.percentile(90),
                raw.percentile(90),
                times.max(),
                raw.max(),
                raw.len()
            );
            let value = (times.median() / raw.median(), "x raw");
            report.add(format!("{name}, median, {how}"), value, MOST, detail);
        }
    }
    report.add(
        "Redis not answering at once after `succeeded`",
        (number(late), "instances"),
        Bound::AtMost(0.0),
        format!("of {}", 2 * (rounds + 1)),
    );
    Ok(())
}

fn raw(floor: &Floor) -> Result<(Duration, Duration)> {
    let mut docker = floor.connect()?;
    let ticket = floor.ticket();
    let start = Instant::now();
    Floor::provision(&mut docker, &ticket)?;
    let provision = start.elapsed();
    let start = Instant::now();
    Floor::deprovision(&mut docker, &ticket)?;
    Ok((provision, start.elapsed()))
}

fn through_broker(
    broker: &Broker,
    id: &str,
    is_polling: bool,
) -> Result<(Duration, Duration, usize)> {
    let mut connection = broker.connect()?;
    let request = osb::provision(id, is_polling);
    let start = Instant::now();
    let reply = connection.exchange(&request)?;
    if is_polling {
        reply.expect(202)?;
        osb::poll(&mut connection, id, POLL)?;
    } else {
        reply.expect(201)?;
    }
    let mut provision = start.elapsed();
    let (port, password) = osb::login_of(&mut connection, id)?;
    let start = Instant::now();
    let attempts = redis::wait(port, &password)?;
    provision += start.elapsed();

    let request = osb::deprovision(id, is_polling);
    let start = Instant::now();
    let reply = connection.exchange(&request)?;
    if is_polling {
        reply.expect(202)?;
        osb::poll(&mut connection, id, POLL)?;
    } else {
        reply.expect(200)?;
    }
    Ok((provision, start.elapsed(), attempts))
}

fn eight_clients(
    floor: &Floor,
    broker: &Broker,
    rounds: &Rounds,
    report: &mut Report,
) -> Result<()> {
    let (mut raw, mut ours) = (Samples::default(), Samples::default());
    for block in 0..rounds.blocks {
        // ABBA, so that a drift of the machine's speed hits both alike.
        for turn in 0..2 {
            if (block + turn) % 2 == 0 {
                raw_block(floor, rounds.block, &mut raw)?;
            } else {
                broker_block(broker, block, rounds.block, &mut ours)?;
            }
        }
    }
    for (name, raw, ours) in [
        ("Provisions", raw.provision, ours.provision),
        ("Deprovisions", raw.deprovision, ours.deprovision),
    ] {
        let (raw, ours) = (Times::of(raw), Times::of(ours));
        let rate = |times: &Times| number(rounds.block) / (times.median() / 1000.0);
        report.add(
            format!("{name} per second, {CLIENTS} clients"),
            (rate(&ours) / rate(&raw), "x raw"),
            LEAST,
            format!(
                "{:.2} to {:.2} /s, {} blocks of {}",
                rate(&ours),
                rate(&raw),
                rounds.blocks,
                rounds.block
            ),
        );
    }
    Ok(())
}

fn raw_block(floor: &Floor, size: usize, samples: &mut Samples) -> Result<()> {
    let tickets: Vec<Ticket> = (0..size).map(|_| floor.ticket()).collect();
    let connect = || floor.connect();
    samples.provision.push(load::jobs(size, connect, |docker, number| {
        Floor::provision(docker, &tickets[number])
    })?);
    samples.deprovision.push(load::jobs(size, connect, |docker, number| {
        Floor::deprovision(docker, &tickets[number])
    })?);
    Ok(())
}

/// The broker's clock stops with the last reply; that each redis answers is checked right after.
fn broker_block(broker: &Broker, block: usize, size: usize, samples: &mut Samples) -> Result<()> {
    let ids: Vec<String> = (0..size).map(|number| format!("eight-{block}-{number}")).collect();
    let connect = || broker.connect();
    samples.provision.push(load::jobs(size, connect, |connection, number| {
        connection.exchange(&osb::provision(&ids[number], false))?.expect(201).map(drop)
    })?);
    let mut connection = broker.connect()?;
    for id in &ids {
        let (port, password) = osb::login_of(&mut connection, id)?;
        ensure!(redis::wait(port, &password)? == 1, "{id} succeeded but did not answer");
    }
    samples.deprovision.push(load::jobs(size, connect, |connection, number| {
        connection.exchange(&osb::deprovision(&ids[number], false))?.expect(200).map(drop)
    })?);
    Ok(())
}
