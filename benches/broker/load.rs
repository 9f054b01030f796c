//! Clients side by side.

use std::{
    net::SocketAddr,
    sync::{
        Barrier,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, anyhow, ensure};

use crate::http::Connection;

/// Clients of every load.
pub(crate) const CLIENTS: usize = 8;

/// Does job 0 to `count` - 1, each client the next one with a connection of its own: the time
/// from the first beginning to the last end.
pub(crate) fn jobs(
    count: usize,
    connect: impl Fn() -> Result<Connection> + Sync,
    job: impl Fn(&mut Connection, usize) -> Result<()> + Sync,
) -> Result<Duration> {
    let next = AtomicUsize::new(0);
    let spans = clients(|_, start| {
        let mut connection = connect();
        start.wait();
        let begin = Instant::now();
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= count {
                return Ok((begin, Instant::now()));
            }
            // Taken apart here, so that a failed connection does not keep the others waiting.
            job(connection.as_mut().map_err(|error| anyhow!("{error:#}"))?, number)?;
        }
    })?;
    Ok(span(&spans))
}

/// What a load measured.
pub(crate) struct Measured {
    pub(crate) times: Vec<Duration>,
    pub(crate) whole: Duration,
}

/// Sends all requests, shared out among the clients, each on one kept connection. Every reply has
/// to have this status.
pub(crate) fn requests(address: SocketAddr, all: &[Vec<u8>], status: u16) -> Result<Measured> {
    let share = all.len().div_ceil(CLIENTS);
    let measured = clients(|client, start| {
        let mine = all.chunks(share).nth(client).unwrap_or_default();
        let connection = Connection::tcp(address);
        start.wait();
        let (mut connection, begin) = (connection?, Instant::now());
        let mut times = Vec::with_capacity(mine.len());
        for request in mine {
            let sent = Instant::now();
            let reply = connection.exchange(request)?;
            times.push(sent.elapsed());
            ensure!(
                reply.status == status,
                "{} instead of {status}: {}",
                reply.status,
                String::from_utf8_lossy(&reply.body)
            );
        }
        Ok((times, (begin, Instant::now())))
    })?;
    let (times, spans): (Vec<_>, Vec<_>) = measured.into_iter().unzip();
    Ok(Measured { times: times.concat(), whole: span(&spans) })
}

/// Runs all clients, which begin together at the barrier.
fn clients<T: Send>(client: impl Fn(usize, &Barrier) -> Result<T> + Sync) -> Result<Vec<T>> {
    let start = Barrier::new(CLIENTS);
    thread::scope(|scope| {
        let (client, start) = (&client, &start);
        let handles: Vec<_> =
            (0..CLIENTS).map(|number| scope.spawn(move || client(number, start))).collect();
        handles
            .into_iter()
            .map(|handle| handle.join().unwrap_or_else(|_| Err(anyhow!("a client panicked"))))
            .collect()
    })
}

fn span(spans: &[(Instant, Instant)]) -> Duration {
    let begin = spans.iter().map(|span| span.0).min();
    let end = spans.iter().map(|span| span.1).max();
    begin.zip(end).map_or(Duration::ZERO, |(begin, end)| end - begin)
}
