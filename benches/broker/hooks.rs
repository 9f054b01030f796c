//! Binds with a hook on PostgreSQL against the same statements by a bare `docker exec`, with few
//! bindings and with many.

use std::{
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use serde_json::json;

use crate::{
    http::Connection,
    osb,
    process::Broker,
    report::{Bound, Report, Times},
};

const INSTANCE: &str = "hooked";
/// What both sides run.
const BIND: &str = include_str!("bind.sh");
const MOST: f64 = 1.3;
/// "Flat" in numbers: the median with many bindings against the one with few.
const FLAT: f64 = 1.25;

/// How much is measured.
pub(crate) struct Rounds {
    /// Binds per side, with few and with many bindings.
    pub(crate) rounds: usize,
    /// Bindings in between.
    pub(crate) bindings: usize,
}

/// The plan: a JSON document is a YAML document.
pub(crate) fn services() -> String {
    let plan = json!({
        "id": osb::PLAN_ID, "name": "small", "description": "a plan",
        "container": {
            "image": "postgres", "tag": "17", "user": "999:999",
            "command": ["postgres", "-c", "shared_buffers=64MB"],
            "environment": ["PGDATA=/var/lib/postgresql/data"],
            "expose_ports": ["5432/tcp"],
            "volumes": [{"path": "/var/lib/postgresql/data", "owner": "999:999"}],
            "readiness": {
                "exec": ["/bin/sh", "-c",
                    "exec pg_isready -q -h 127.0.0.1 -U \"$POSTGRES_USER\" -d \"$POSTGRES_DB\""],
            },
            "hardening": {"cap_drop": ["ALL"]},
        },
        "credentials": {
            "username": {"key": "POSTGRES_USER"}, "password": {"key": "POSTGRES_PASSWORD"},
            "dbname": {"key": "POSTGRES_DB"},
        },
        "lifecycle": {"bind": BIND, "unbind": "true"},
    });
    let service = json!({
        "id": osb::SERVICE_ID, "name": "bench", "description": "postgres", "plans": [plan],
    });
    json!({ "services": [service] }).to_string()
}

pub(crate) fn measure(broker: &Broker, rounds: &Rounds, report: &mut Report) -> Result<()> {
    let mut connection = broker.connect()?;
    connection.exchange(&osb::provision(INSTANCE, false))?.expect(201)?;
    let container = broker.container(INSTANCE);
    let few = turns(&mut connection, &container, "few", rounds.rounds)?;
    compare("Bind with a hook on postgres, median".to_owned(), &few, report);
    for number in rounds.rounds + 1..rounds.bindings {
        bind(&mut connection, &format!("fill-{number}"))?;
    }
    let many = turns(&mut connection, &container, "many", rounds.rounds)?;
    compare(format!("The same, {} bindings", rounds.bindings), &many, report);
    let value = (many.1.median() / few.1.median(), "x with few");
    let detail = format!("{:.0} to {:.0} ms", many.1.median(), few.1.median());
    let name = "Bind with a hook, flat: median with many bindings";
    report.add(name, value, Bound::AtMost(FLAT), detail);
    Ok(())
}

/// Both sides in turns: times of the bare statements and of the binds.
fn turns(
    connection: &mut Connection,
    container: &str,
    when: &str,
    rounds: usize,
) -> Result<(Times, Times)> {
    let mut samples: [Vec<Duration>; 2] = Default::default();
    // The first round warms up.
    for round in 0..=rounds {
        let name = format!("{when}-{round}");
        for side in [round % 2, (round + 1) % 2] {
            let took = if side == 0 { exec(container, &name)? } else { bind(connection, &name)? };
            if round > 0 {
                samples[side].push(took);
            }
        }
    }
    let [bare, bound] = samples.map(Times::of);
    Ok((bare, bound))
}

fn compare(name: String, (bare, bound): &(Times, Times), report: &mut Report) {
    let detail = format!(
        "{:.0} to {:.0} ms, p90 {:.0} to {:.0}, n = {}",
        bound.median(),
        bare.median(),
        bound.percentile(90),
        bare.percentile(90),
        bare.len()
    );
    let value = (bound.median() / bare.median(), "x bare");
    report.add(name, value, Bound::AtMost(MOST), detail);
}

fn bind(connection: &mut Connection, name: &str) -> Result<Duration> {
    let request = osb::bind(INSTANCE, name);
    let start = Instant::now();
    let made = connection.exchange(&request)?.expect(201)?;
    let took = start.elapsed();
    ensure!(made["credentials"]["username"].is_string(), "the binding has no user");
    Ok(took)
}

/// The same statements without the broker.
fn exec(container: &str, name: &str) -> Result<Duration> {
    let user = format!("OSB_BINDING_USERNAME=bare-{name}");
    let mut command = Command::new("docker");
    command
        .args(["exec", "-e", &user, "-e", "OSB_BINDING_PASSWORD=bench", container])
        .args(["/bin/sh", "-c", BIND])
        .stdin(Stdio::null());
    let start = Instant::now();
    let output = command.output()?;
    let took = start.elapsed();
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "docker exec failed: {said}");
    Ok(took)
}
