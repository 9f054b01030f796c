//! `docker-broker wait`: asks `/readyz` until it says ready.

use std::time::Duration;

use anyhow::{Context, bail};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use tokio::{
    net::TcpStream,
    time::{Instant, sleep, timeout},
};

const PAUSE: Duration = Duration::from_millis(100);
const ATTEMPT: Duration = Duration::from_secs(5);

/// Returns when the broker at `url` is ready.
///
/// # Errors
/// After `limit`, with what it said last.
pub async fn wait(url: &str, limit: Duration) -> anyhow::Result<()> {
    let uri: http::Uri = url.parse().with_context(|| format!("{url:?} is not a URL"))?;
    if uri.scheme_str() != Some("http") {
        bail!("{url:?} must begin with http://; the plain listener is always there");
    }
    let host = uri.host().with_context(|| format!("{url:?} has no host"))?.to_owned();
    let port = uri.port_u16().unwrap_or(80);
    let end = Instant::now() + limit;
    loop {
        let last = match timeout(ATTEMPT, ask(&host, port)).await {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(error)) => format!("{error:#}"),
            Err(_) => "it does not answer".to_owned(),
        };
        if Instant::now() + PAUSE >= end {
            bail!("the broker at {url} is not ready after {} s: {last}", limit.as_secs());
        }
        sleep(PAUSE).await;
    }
}

async fn ask(host: &str, port: u16) -> anyhow::Result<()> {
    let stream = TcpStream::connect((host, port)).await.context("cannot connect")?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let request = http::Request::get("/readyz")
        .header(http::header::HOST, format!("{host}:{port}"))
        .body(Empty::<Bytes>::new())?;
    let answer = sender.send_request(request).await?;
    let status = answer.status();
    let body = answer.into_body().collect().await?.to_bytes();
    connection.abort();
    if status.is_success() {
        return Ok(());
    }
    bail!("{}", String::from_utf8_lossy(&body))
}
