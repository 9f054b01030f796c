//! Whether a service answers: one strategy per kind of check.
//!
//! Checks go to the container's own address, not to the published port: docker-proxy accepts
//! connections there before the service does.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use http_body_util::Empty;
use hyper_util::rt::TokioIo;
use tokio::{
    net::TcpStream,
    time::{Instant, sleep, timeout, timeout_at},
};

use super::{ContainerFacts, DockerError, Engine};
use crate::{
    catalog::{ContainerPort, Exchange, Protocol, Readiness, ReadinessCheck},
    probe::{self, Trust},
};

/// Pause between attempts: short at first, because most services are up in a moment.
const FIRST_PAUSE: Duration = Duration::from_millis(2);
const LONGEST_PAUSE: Duration = Duration::from_millis(250);
const ATTEMPT: Duration = Duration::from_secs(5);
/// A connection on this host opens at once or not at all; one that was begun before the
/// container's interface was up would hang until the kernel repeats it, seconds later.
const CONNECT: Duration = Duration::from_millis(500);
/// How often the container itself is looked at while its service does not answer.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// A container that dockerd had to start this often will not come up by itself.
const CRASH_LOOP: i64 = 5;

/// Why a service is not ready.
#[derive(Debug, thiserror::Error)]
pub enum NotReady {
    /// It ends again and again, or has ended for good.
    #[error("its process ended with exit code {exit_code}{}", oom(*oom_killed))]
    Exited {
        /// Exit code of the last time.
        exit_code: i64,
        /// Killed for want of memory.
        oom_killed: bool,
    },
    /// It did not answer in time.
    #[error("it did not answer within {} s ({last})", limit.as_secs())]
    TimedOut {
        /// The time limit.
        limit: Duration,
        /// What the last attempt met.
        last: String,
    },
    /// It was removed meanwhile.
    #[error("its container was removed")]
    Gone,
    /// dockerd could not be asked.
    #[error(transparent)]
    Docker(#[from] DockerError),
}

fn oom(killed: bool) -> &'static str {
    if killed { " because it ran out of memory" } else { "" }
}

impl Engine {
    /// Returns when the service in the container answers.
    ///
    /// # Errors
    /// [`NotReady`] when it does not within the plan's time.
    pub async fn wait_ready(
        &self,
        name: &str,
        readiness: &Readiness,
        ports: &[ContainerPort],
    ) -> Result<(), NotReady> {
        let end = Instant::now() + readiness.timeout;
        let mut pause = FIRST_PAUSE;
        let mut facts = self.look(name, None).await?;
        // One that ran before may have been restarted at any time since it was made.
        let before = if facts.running { facts.restart_count } else { 0 };
        let mut looked = Instant::now();
        loop {
            let attempt = self.attempt(name, &facts, &readiness.check, ports);
            let last = match timeout_at(end, attempt).await {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(last)) => last,
                Err(_) => "no answer yet".to_owned(),
            };
            if Instant::now() + pause >= end {
                // That its process has ended says more than that it does not answer.
                self.look(name, Some(before)).await?;
                return Err(NotReady::TimedOut { limit: readiness.timeout, last });
            }
            sleep(pause).await;
            pause = (pause * 3 / 2).min(LONGEST_PAUSE);
            let by_dockerd = matches!(readiness.check, ReadinessCheck::HealthCheck);
            if by_dockerd || looked.elapsed() >= LOOK_EVERY || facts.address.is_none() {
                facts = self.look(name, Some(before)).await?;
                looked = Instant::now();
            }
        }
    }

    /// `before`: restarts that were there at the first look.
    async fn look(&self, name: &str, before: Option<i64>) -> Result<ContainerFacts, NotReady> {
        let facts = self.inspect(name).await?.ok_or(NotReady::Gone)?;
        let ended = !facts.running && !facts.restarting;
        let before = before.unwrap_or(if facts.running { facts.restart_count } else { 0 });
        if ended || facts.restart_count - before >= CRASH_LOOP {
            let (exit_code, oom_killed) = (facts.exit_code, facts.oom_killed);
            return Err(NotReady::Exited { exit_code, oom_killed });
        }
        Ok(facts)
    }

    /// One attempt; the error says what it met.
    async fn attempt(
        &self,
        name: &str,
        facts: &ContainerFacts,
        check: &ReadinessCheck,
        published: &[ContainerPort],
    ) -> Result<(), String> {
        let address = || facts.address.ok_or_else(|| "it has no address".to_owned());
        match check {
            ReadinessCheck::Tcp(ports) if !ports.is_empty() => {
                for port in ports {
                    connect(address()?, *port).await?;
                }
                Ok(())
            }
            ReadinessCheck::Tcp(_) => any_port(address()?, published).await,
            ReadinessCheck::Exchange(check) => {
                let answer = timeout(ATTEMPT, exchange(address()?, check)).await;
                answer.map_err(|_| format!("port {}: no answer", check.port))?
            }
            ReadinessCheck::Http { port, path } => get(address()?, *port, path).await,
            ReadinessCheck::Exec(command) => {
                let (code, _) = self
                    .exec(name, command, &[], ATTEMPT)
                    .await
                    .map_err(|error| error.to_string())?;
                if code == 0 { Ok(()) } else { Err(format!("the check exited with {code}")) }
            }
            ReadinessCheck::HealthCheck => match facts.healthy {
                Some(true) => Ok(()),
                Some(false) => Err("its health check does not pass".to_owned()),
                None => Err("its image has no health check".to_owned()),
            },
        }
    }
}

async fn connect(address: IpAddr, port: ContainerPort) -> Result<TcpStream, String> {
    match timeout(CONNECT, TcpStream::connect(SocketAddr::new(address, port.number))).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) => Err(format!("port {port}: {error}")),
        Err(_) => Err(format!("port {port}: no answer")),
    }
}

async fn exchange(address: IpAddr, check: &Exchange) -> Result<(), String> {
    let Exchange { port, send, expect, tls } = check;
    let (send, expect) = (send.as_bytes(), expect.as_bytes());
    let mut stream = connect(address, *port).await?;
    let answer = if *tls {
        // Whether its certificate is good for clients is not asked: it may be renewed later.
        let secured = probe::secure(stream, &address.to_string(), Trust::Anybody).await;
        let mut stream = secured.map_err(|error| format!("port {port}: {error}"))?;
        probe::exchange(&mut stream, send, expect).await
    } else {
        probe::exchange(&mut stream, send, expect).await
    };
    answer.map_err(|error| format!("port {port}: {error}"))
}

/// Without a named port one that answers is enough: images expose more than they listen on.
async fn any_port(address: IpAddr, published: &[ContainerPort]) -> Result<(), String> {
    let mut last = None;
    for port in published.iter().filter(|port| port.protocol == Protocol::Tcp) {
        match connect(address, *port).await {
            Ok(_) => return Ok(()),
            Err(error) => last = Some(error),
        }
    }
    // A service without TCP ports is ready when it runs.
    last.map_or(Ok(()), Err)
}

async fn get(address: IpAddr, port: ContainerPort, path: &str) -> Result<(), String> {
    let request = http::Request::get(path)
        .header(http::header::HOST, format!("{address}:{}", port.number))
        .body(Empty::<bytes::Bytes>::new())
        .map_err(|error| error.to_string())?;
    let exchange = async {
        let stream = connect(address, port).await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| error.to_string())?;
        let connection = tokio::spawn(connection);
        let answer = sender.send_request(request).await.map_err(|error| error.to_string());
        connection.abort();
        answer
    };
    let answer = timeout(ATTEMPT, exchange).await.map_err(|_| "no answer".to_owned())??;
    if answer.status().as_u16() < 400 { Ok(()) } else { Err(format!("{}", answer.status())) }
}
