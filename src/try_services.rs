//! `docker-broker try`: the sanity test of service files, on a broker of its own that leaves
//! nothing behind.

use std::{
    io::Write,
    net::{SocketAddr, TcpListener},
    pin::pin,
    time::Duration,
};

use anyhow::{Context, bail, ensure};
use rand::Rng;
use tokio::{sync::oneshot, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use crate::{
    api_client::ApiClient,
    catalog::hex,
    config::{Configuration, EncryptionKey, PortRange},
    docker::Engine,
    sanity_test, serve, shutdown, wait,
};

/// How long the broker may take to be ready; it has no instances to bring back.
const READY: Duration = Duration::from_mins(1);
/// Host ports of the broker. It has one instance at a time, and ports that rest in between.
const PORTS: u16 = 100;
/// Where they are looked for: below those that the kernel gives out.
const FIRST_PORT: u16 = 20_000;
const RANGES: u16 = 120;

/// How to try.
#[derive(Debug)]
pub struct Options {
    /// Which plans, and how long one operation may take.
    pub test: sanity_test::Options,
    /// Host ports; `None`: a free range is looked for.
    pub host_ports: Option<PortRange>,
}

/// Starts a broker with the services of `configuration`, tests all their plans, and removes the
/// broker and whatever it made. Whether all passed.
///
/// # Errors
/// When the test cannot be made, or was interrupted; what was made is removed nevertheless.
pub async fn try_services(
    mut configuration: Configuration,
    options: &Options,
    out: &mut (impl Write + Send),
) -> anyhow::Result<bool> {
    ensure!(!configuration.catalog.services().is_empty(), "there is no service in these files");
    let data = tempfile::Builder::new()
        .prefix("docker-broker-try-")
        .tempdir()
        .context("cannot make a temporary directory")?;
    let settings = &mut configuration.settings;
    settings.name = format!("try-{}", random(4));
    settings.port = 0;
    data.path().clone_into(&mut settings.data_directory);
    settings.host_directory = data.path().join("instances");
    settings.login.password = Some(random(16));
    settings.encryption_keys = vec![EncryptionKey(random(16))];
    settings.host_ports = match options.host_ports {
        Some(range) => range,
        None => free_ports()?,
    };
    let engine = serve::engine(settings);
    engine.ping().await.context("services are tried on a Docker engine")?;
    let outcome = run(configuration, options, out).await;
    let cleaned = clean_up(&engine, data).await;
    match (outcome, cleaned) {
        (Ok(passed), Ok(())) => Ok(passed),
        (Ok(_), Err(left)) => Err(left),
        (Err(error), Ok(())) => Err(error),
        (Err(error), Err(left)) => bail!("{error:#}; and then: {left:#}"),
    }
}

/// The broker's life.
async fn run(
    mut configuration: Configuration,
    options: &Options,
    out: &mut (impl Write + Send),
) -> anyhow::Result<bool> {
    let stop = CancellationToken::new();
    let (tell, told) = oneshot::channel();
    let broker = {
        let (configuration, stop) = (configuration.clone(), stop.clone());
        let stopped = async move {
            stop.cancelled().await;
            Ok("the end of the test")
        };
        let listening = |address| {
            // Nobody waits for it any more when the test was interrupted.
            let _unheard = tell.send(address);
        };
        tokio::spawn(serve::serve_until(configuration, stopped, listening))
    };
    let tested = test(&mut configuration, options, told, out).await;
    stop.cancel();
    let ended = end_of(broker).await;
    // A broker that could not start says more than the test that did not find it.
    ended.and(tested)
}

async fn test(
    configuration: &mut Configuration,
    options: &Options,
    listening: oneshot::Receiver<SocketAddr>,
    out: &mut (impl Write + Send),
) -> anyhow::Result<bool> {
    let mut interrupted = pin!(shutdown::requested());
    let ready = async {
        let address = listening.await.context("the broker did not start")?;
        configuration.settings.port = address.port();
        wait::wait(&ApiClient::of(&configuration.settings), READY).await
    };
    tokio::select! {
        ready = ready => ready?,
        signal = &mut interrupted => bail!("interrupted by {}", signal?),
    }
    sanity_test::run(configuration, &options.test, out).await
}

async fn end_of(broker: JoinHandle<anyhow::Result<()>>) -> anyhow::Result<()> {
    broker.await.context("the broker broke down")?
}

/// Whatever a test that was broken off has left.
async fn clean_up(engine: &Engine, data: tempfile::TempDir) -> anyhow::Result<()> {
    engine.remove_everything().await.with_context(|| {
        format!(
            "containers or networks are left; find them by their label \
             io.docker-broker.owner={}",
            engine.owner()
        )
    })?;
    let path = data.path().to_owned();
    data.close().with_context(|| format!("cannot remove {}", path.display()))
}

/// Ports that nobody listens on now. Should somebody take one, the broker takes another.
fn free_ports() -> anyhow::Result<PortRange> {
    let start = rand::rng().random_range(0..RANGES);
    let ranges = (0..RANGES).map(|step| FIRST_PORT + (start + step) % RANGES * PORTS);
    let is_free = |port: u16| TcpListener::bind(("0.0.0.0", port)).is_ok();
    ranges
        .map(|first| PortRange { first, last: first + PORTS - 1 })
        .find(|range| (range.first..=range.last).all(is_free))
        .context("no range of 100 free ports was found from 20000 on; give one with --host-ports")
}

fn random(bytes: usize) -> String {
    hex(&(0..bytes).map(|_| rand::rng().random()).collect::<Vec<u8>>())
}
