//! The accept loop: warp's routes as a service under hyper, with time limits that warp does not
//! have, TLS, and a graceful stop.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{Api, TlsSource, routes};

/// Longest time for the headers of a request, also of the next one on a kept connection.
const HEADERS: Duration = Duration::from_secs(15);
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Most that the head of a request may take.
const HEAD_BYTES: usize = 64 << 10;
/// Pause after a failed accept (too many open files), so that it does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A listener that cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}")]
pub struct ServeError {
    address: SocketAddr,
    #[source]
    source: io::Error,
}

/// An open port.
#[derive(Debug)]
pub struct BoundListener {
    listener: TcpListener,
    tls: Option<Arc<TlsSource>>,
}

impl BoundListener {
    /// Opens `address`; port 0 takes any free one.
    ///
    /// # Errors
    /// [`ServeError`] names the address.
    pub async fn bind(
        address: SocketAddr,
        tls: Option<Arc<TlsSource>>,
    ) -> Result<Self, ServeError> {
        let listener =
            TcpListener::bind(address).await.map_err(|source| ServeError { address, source })?;
        Ok(Self { listener, tls })
    }

    /// The address that was opened.
    ///
    /// # Errors
    /// When the system does not say.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// `http` or `https`.
    #[must_use]
    pub fn scheme(&self) -> &'static str {
        if self.tls.is_some() { "https" } else { "http" }
    }
}

/// Serves the API on its listeners.
#[derive(Debug)]
pub struct Server {
    api: Arc<Api>,
    listeners: Vec<BoundListener>,
}

impl Server {
    /// Does not accept anything yet.
    #[must_use]
    pub fn new(api: Api, listeners: Vec<BoundListener>) -> Self {
        Self { api: Arc::new(api), listeners }
    }

    /// Serves until `stop`, then lets requests end, at most for `grace`.
    pub async fn run(self, stop: CancellationToken, grace: Duration) {
        let mut loops = JoinSet::new();
        for listener in self.listeners {
            loops.spawn(accept(listener, Arc::clone(&self.api), stop.clone(), grace));
        }
        while loops.join_next().await.is_some() {}
    }
}

async fn accept(bound: BoundListener, api: Arc<Api>, stop: CancellationToken, grace: Duration) {
    let graceful = Arc::new(GracefulShutdown::new());
    let handshakes = tokio_util::task::TaskTracker::new();
    loop {
        let stream = tokio::select! {
            () = stop.cancelled() => break,
            accepted = bound.listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            },
        };
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "cannot set TCP_NODELAY");
        }
        let (api, graceful) = (Arc::clone(&api), Arc::clone(&graceful));
        match &bound.tls {
            None => serve(stream, api, &graceful),
            Some(tls) => {
                let acceptor = tls.acceptor();
                handshakes.spawn(async move {
                    match timeout(HANDSHAKE, acceptor.accept(stream)).await {
                        Ok(Ok(stream)) => serve(stream, api, &graceful),
                        Ok(Err(error)) => tracing::debug!(%error, "TLS handshake failed"),
                        Err(_) => tracing::debug!("TLS handshake took too long"),
                    }
                });
            }
        }
    }
    drop(bound);
    handshakes.close();
    let end = async {
        handshakes.wait().await;
        if let Some(graceful) = Arc::into_inner(graceful) {
            graceful.shutdown().await;
        }
    };
    if timeout(grace, end).await.is_err() {
        tracing::warn!("some requests were cut off by the stop");
    }
}

/// Serves one connection in a task of its own.
fn serve<S>(stream: S, api: Arc<Api>, graceful: &GracefulShutdown)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = TowerToHyperService::new(warp::service(routes(api)));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADERS)
        .max_buf_size(HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    let connection = graceful.watch(connection);
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a connection ended with an error");
        }
    });
}
