//! A proxy on dockerd's socket that answers 500, hangs, or cuts connections, when told.

use std::path::{Path, PathBuf};

use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream},
    sync::watch,
};

/// What the proxy does with what comes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Manner {
    /// Hands on.
    Pass,
    /// Answers every request with 500; dockerd hears nothing of it.
    Refuse,
    /// Hands nothing on while it lasts, in either direction.
    Hang,
    /// Hands a request on, and cuts the connection before the answer.
    CutRequest,
    /// Cuts the connection in the middle of an answer.
    CutAnswer,
}

/// The proxy's socket. Connections end with the runtime.
#[derive(Debug)]
pub(crate) struct Proxy {
    directory: TempDir,
    manner: watch::Sender<Manner>,
}

impl Proxy {
    /// Listens in front of `upstream`.
    pub(crate) fn start(upstream: &Path) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(directory.path().join("docker.sock")).unwrap();
        let (manner, watched) = watch::channel(Manner::Pass);
        let upstream = upstream.to_owned();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(serve(client, upstream.clone(), watched.clone()));
            }
        });
        Self { directory, manner }
    }

    /// URL for `docker_url`.
    pub(crate) fn url(&self) -> String {
        format!("unix://{}", self.directory.path().join("docker.sock").display())
    }

    pub(crate) fn set(&self, manner: Manner) {
        self.manner.send_replace(manner);
    }
}

const REFUSAL: &str = "HTTP/1.1 500 Internal Server Error\r\ncontent-type: application/json\r\n\
    content-length: 33\r\nconnection: close\r\n\r\n{\"message\":\"a fault of the test\"}";

/// One connection, until one of both sides closes it for good or a fault does.
async fn serve(client: UnixStream, upstream: PathBuf, mut manner: watch::Receiver<Manner>) {
    // Nobody there: the client finds its connection closed.
    let Ok(server) = UnixStream::connect(upstream).await else { return };
    let ((mut from_client, mut to_client), (mut from_server, mut to_server)) =
        (client.into_split(), server.into_split());
    let (mut request, mut answer) = (vec![0; 64 << 10], vec![0; 64 << 10]);
    let mut client_speaks = true;
    loop {
        tokio::select! {
            read = from_client.read(&mut request), if client_speaks => {
                let Ok(length) = read else { return };
                if length == 0 {
                    client_speaks = false;
                    if to_server.shutdown().await.is_err() { return }
                    continue;
                }
                let now = until_it_moves(&mut manner).await;
                if now == Manner::Refuse && is_request(&request[..length]) {
                    drop(to_client.write_all(REFUSAL.as_bytes()).await);
                    return;
                }
                if to_server.write_all(&request[..length]).await.is_err() || now == Manner::CutRequest {
                    return;
                }
            }
            read = from_server.read(&mut answer) => {
                let length = read.unwrap_or(0);
                let now = until_it_moves(&mut manner).await;
                let handed_on = if now == Manner::CutAnswer { length / 2 } else { length };
                if to_client.write_all(&answer[..handed_on]).await.is_err()
                    || length == 0 || now == Manner::CutAnswer
                {
                    return;
                }
            }
        }
    }
}

async fn until_it_moves(manner: &mut watch::Receiver<Manner>) -> Manner {
    let moved = manner.wait_for(|manner| *manner != Manner::Hang).await;
    moved.map_or(Manner::Pass, |manner| *manner)
}

fn is_request(bytes: &[u8]) -> bool {
    ["GET ", "POST ", "PUT ", "DELETE ", "HEAD "]
        .iter()
        .any(|word| bytes.starts_with(word.as_bytes()))
}
