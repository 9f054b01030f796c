//! Requests that no HTTP client would send.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use super::{Client, PATIENCE};

/// A bare connection to a broker.
pub(crate) struct Connection(TcpStream);

impl Connection {
    pub(crate) async fn open(client: &Client) -> Self {
        Self(TcpStream::connect(&client.address).await.expect("the broker accepts connections"))
    }

    /// Sends bytes; the broker may have closed the connection meanwhile.
    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        drop(self.0.write_all(bytes.as_ref()).await);
    }

    /// Sends nothing more.
    pub(crate) async fn finish(&mut self) {
        drop(self.0.shutdown().await);
    }

    /// What the broker sends until it has sent `end`, or closes the connection.
    pub(crate) async fn read_until(&mut self, end: &str) -> String {
        let mut bytes = Vec::new();
        let mut buffer = [0; 4096];
        let read = async {
            while !String::from_utf8_lossy(&bytes).contains(end) {
                match self.0.read(&mut buffer).await {
                    Ok(0) | Err(_) => break,
                    Ok(count) => bytes.extend_from_slice(&buffer[..count]),
                }
            }
        };
        timeout(PATIENCE, read).await.expect("the broker answers or closes the connection");
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// What the broker sends until it closes the connection.
    pub(crate) async fn read_to_end(mut self) -> String {
        self.read_until("\u{0}no reply holds this").await
    }
}

impl Client {
    /// Request line and the headers that every request needs, without the empty line.
    pub(crate) fn head(&self, line: &str, more: &str) -> String {
        format!(
            "{line} HTTP/1.1\r\nHost: broker\r\nAuthorization: {}\r\n\
             X-Broker-API-Version: 2.17\r\n{more}",
            self.authorization()
        )
    }
}
