//! The catalog against a bare warp route with the same bytes, each in a process of its own.

use std::{
    io::{BufRead, BufReader, Read},
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result};
use bytes::Bytes;
use http::{HeaderValue, header::CONTENT_TYPE};
use hyper::server::conn::http1;
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use tokio::net::TcpListener;
use warp::Filter;

use crate::{
    load, osb,
    process::{Broker, cpu_time},
    report::{Bound, Report, Times, number},
};

const LEAST: f64 = 0.8;
/// Argument that turns this program into the bare server.
pub(crate) const BARE_WARP: &str = "--bare-warp";

/// How much is measured.
pub(crate) struct Rounds {
    pub(crate) rounds: usize,
    pub(crate) requests: usize,
}

pub(crate) fn measure(broker: &Broker, rounds: &Rounds, report: &mut Report) -> Result<()> {
    let body = broker.data().join("catalog.json");
    std::fs::write(&body, broker.connect()?.exchange(&osb::catalog())?.body)?;
    let bare = BareWarp::start(&body)?;
    let all = vec![osb::catalog(); rounds.requests];
    let sides = [(bare.address, bare.child.id()), (broker.address(), broker.pid()?)];
    let mut samples: [Vec<Duration>; 2] = Default::default();
    let mut cpu = [Duration::ZERO; 2];
    // The first round warms up.
    for round in 0..=rounds.rounds {
        for turn in 0..sides.len() {
            let which = (round + turn) % sides.len();
            let (address, pid) = sides[which];
            let before = cpu_time(pid)?;
            let measured = load::requests(address, &all, 200)?;
            if round > 0 {
                samples[which].push(measured.whole);
                cpu[which] += cpu_time(pid)?.saturating_sub(before);
            }
        }
    }
    let each = number(rounds.requests);
    let [bare, ours] = samples.map(|times| each / (Times::of(times).median() / 1000.0));
    let [bare_cpu, our_cpu] =
        cpu.map(|time| time.as_secs_f64() * 1e6 / each / number(rounds.rounds));
    report.add(
        format!("GET /v2/catalog per second, {} clients", load::CLIENTS),
        (ours / bare, "x bare warp"),
        Bound::AtLeast(LEAST),
        format!(
            "{ours:.0} to {bare:.0} /s, CPU {our_cpu:.1} to {bare_cpu:.1} µs each, {} rounds of {}",
            rounds.rounds, rounds.requests
        ),
    );
    Ok(())
}

/// This program once more, as a server.
struct BareWarp {
    child: Child,
    address: SocketAddr,
}

impl BareWarp {
    fn start(body: &Path) -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg(BARE_WARP).arg(body).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn()?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().context("no output")?).read_line(&mut line)?;
        match line.trim().parse() {
            Ok(address) => Ok(Self { child, address }),
            Err(error) => {
                drop((child.kill(), child.wait()));
                Err(error).context("the bare warp server does not start")
            }
        }
    }
}

impl Drop for BareWarp {
    fn drop(&mut self) {
        drop((self.child.kill(), self.child.wait()));
    }
}

/// Serves the file until standard input ends, that is until whoever started it has gone.
pub(crate) fn serve_bare(file: &Path) -> Result<()> {
    let body = Bytes::from(std::fs::read(file)?);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let listener = runtime.block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))?;
    crate::say(&listener.local_addr()?.to_string())?;
    runtime.spawn(accept(listener, body));
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}

async fn accept(listener: TcpListener, body: Bytes) -> std::io::Result<()> {
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let body = body.clone();
        let route = warp::path!("v2" / "catalog").and(warp::get()).map(move || {
            let mut response = http::Response::new(body.clone());
            let json = HeaderValue::from_static("application/json");
            response.headers_mut().insert(CONTENT_TYPE, json);
            response
        });
        let service = TowerToHyperService::new(warp::service(route));
        let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
        tokio::spawn(connection);
    }
}
