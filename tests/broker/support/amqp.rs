//! As much of AMQP 0-9-1 as it takes to log in and to be thrown out.

use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// Class and method of the frames of a connection.
type Method = (u16, u16);
const START_OK: Method = (10, 11);
const TUNE: Method = (10, 30);
const TUNE_OK: Method = (10, 31);
const OPEN: Method = (10, 40);
const OPEN_OK: Method = (10, 41);
const CLOSE: Method = (10, 50);
const CLOSE_OK: Method = (10, 51);
const FRAME_END: u8 = 0xCE;

/// An open connection to a virtual host.
#[derive(Debug)]
pub(crate) struct Amqp(TcpStream);

impl Amqp {
    /// Logs in with the credentials of a binding and opens its virtual host; or why not.
    pub(crate) async fn connect(credentials: &Value) -> Result<Self, String> {
        let text = |key: &str| credentials[key].as_str().expect("a string");
        let address = format!("{}:{}", text("host"), text("port"));
        let stream = TcpStream::connect(address).await.map_err(|error| error.to_string())?;
        let mut server = Self(stream);
        server.write(b"AMQP\0\0\x09\x01").await?;
        server.read().await?;

        let response = format!("\0{}\0{}", text("username"), text("password"));
        let mut login = vec![0, 0, 0, 0]; // no properties
        short_text(&mut login, "PLAIN");
        login.extend(u32::try_from(response.len()).expect("it is short").to_be_bytes());
        login.extend(response.as_bytes());
        short_text(&mut login, "en_US");
        server.send(START_OK, &login).await?;
        let limits = server.expect(TUNE).await?;
        // The server's limits, and no heartbeats.
        server.send(TUNE_OK, &[&limits[..6], &[0, 0]].concat()).await?;

        let mut open = Vec::new();
        short_text(&mut open, text("dbname"));
        open.extend([0, 0]);
        server.send(OPEN, &open).await?;
        server.expect(OPEN_OK).await?;
        Ok(server)
    }

    /// Waits until the server closes the connection; its reason.
    pub(crate) async fn closed(mut self) -> String {
        // Its code (two bytes) and the length of the text come first.
        let close = self.expect(CLOSE).await.expect("the server says why");
        String::from_utf8_lossy(&close[3..3 + usize::from(close[2])]).into_owned()
    }

    /// Closes the connection, which takes one that is still open.
    pub(crate) async fn close(mut self) -> Result<(), String> {
        self.send(CLOSE, &[0, 200, 0, 0, 0, 0, 0]).await?;
        self.expect(CLOSE_OK).await.map(drop)
    }

    async fn write(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.0.write_all(bytes).await.map_err(|error| error.to_string())
    }

    async fn send(&mut self, (class, method): Method, arguments: &[u8]) -> Result<(), String> {
        let length = u32::try_from(arguments.len() + 4).expect("it is short");
        let mut frame = vec![1, 0, 0];
        frame.extend(length.to_be_bytes());
        frame.extend(class.to_be_bytes());
        frame.extend(method.to_be_bytes());
        frame.extend(arguments);
        frame.push(FRAME_END);
        self.write(&frame).await
    }

    /// The next method and its arguments.
    async fn read(&mut self) -> Result<(Method, Vec<u8>), String> {
        let hung_up = |error: std::io::Error| format!("the server has hung up: {error}");
        let mut head = [0; 7];
        self.0.read_exact(&mut head).await.map_err(hung_up)?;
        let length = u32::from_be_bytes([head[3], head[4], head[5], head[6]]);
        let mut payload = vec![0; usize::try_from(length).expect("a small frame") + 1];
        self.0.read_exact(&mut payload).await.map_err(hung_up)?;
        let number = |at: usize| u16::from_be_bytes([payload[at], payload[at + 1]]);
        let method = (number(0), number(2));
        Ok((method, payload.drain(4..).collect()))
    }

    /// The arguments of the next method, which has to be this one.
    async fn expect(&mut self, wanted: Method) -> Result<Vec<u8>, String> {
        let (method, arguments) = self.read().await?;
        if method == wanted {
            return Ok(arguments);
        }
        Err(format!("{method:?} instead of {wanted:?}: {}", String::from_utf8_lossy(&arguments)))
    }
}

fn short_text(frame: &mut Vec<u8>, text: &str) {
    frame.push(u8::try_from(text.len()).expect("it is short"));
    frame.extend(text.as_bytes());
}
