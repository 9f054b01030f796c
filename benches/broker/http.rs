//! HTTP/1.1 over one kept connection, with next to nothing between the clock and the socket.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_mins(2);

trait Wire: Read + Write + Send {}
impl<T: Read + Write + Send> Wire for T {}

/// A reply.
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) body: Vec<u8>,
}

impl Reply {
    /// The body, `null` when there is none, if the status is this one.
    pub(crate) fn expect(&self, status: u16) -> Result<Value> {
        if self.status != status {
            bail!("{} instead of {status}: {}", self.status, String::from_utf8_lossy(&self.body));
        }
        if self.body.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&self.body).context("the body is not JSON")
    }
}

/// A connection that is kept.
pub(crate) struct Connection {
    wire: BufReader<Box<dyn Wire>>,
    line: String,
}

impl Connection {
    pub(crate) fn tcp(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Self::over(stream))
    }

    pub(crate) fn unix(path: &Path) -> Result<Self> {
        let stream = UnixStream::connect(path)
            .with_context(|| format!("cannot connect to {}", path.display()))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Self::over(stream))
    }

    fn over(wire: impl Wire + 'static) -> Self {
        Self { wire: BufReader::new(Box::new(wire)), line: String::new() }
    }

    /// Sends a whole request, as [`request`] makes it, and reads the reply.
    pub(crate) fn exchange(&mut self, request: &[u8]) -> Result<Reply> {
        self.wire.get_mut().write_all(request)?;
        let status = self.line()?.split(' ').nth(1).and_then(|code| code.parse().ok());
        let status = status.context("this is no HTTP")?;
        let (mut length, mut chunked) = (0, false);
        loop {
            let line = self.line()?;
            let Some((name, value)) = line.split_once(':') else { break };
            if name.eq_ignore_ascii_case("content-length") {
                length = value.trim().parse()?;
            } else if name.eq_ignore_ascii_case("transfer-encoding") {
                chunked = true;
            }
        }
        let mut body = Vec::new();
        if !chunked {
            self.read(length, &mut body)?;
            return Ok(Reply { status, body });
        }
        loop {
            let size = usize::from_str_radix(self.line()?, 16)?;
            self.read(size, &mut body)?;
            self.line()?;
            if size == 0 {
                return Ok(Reply { status, body });
            }
        }
    }

    fn line(&mut self) -> Result<&str> {
        self.line.clear();
        if self.wire.read_line(&mut self.line)? == 0 {
            bail!("the connection was closed");
        }
        Ok(self.line.trim_end())
    }

    fn read(&mut self, length: usize, body: &mut Vec<u8>) -> Result<()> {
        let start = body.len();
        body.resize(start + length, 0);
        Ok(self.wire.read_exact(&mut body[start..])?)
    }
}

/// A request as bytes, to be made before the clock starts.
pub(crate) fn request(
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: Option<&Value>,
) -> Vec<u8> {
    let body = body.map_or_else(String::new, Value::to_string);
    let mut head = format!("{method} {path} HTTP/1.1\r\nHost: bench\r\n");
    for (name, value) in headers {
        head.extend([name, ": ", value, "\r\n"]);
    }
    if method != "GET" {
        let length = body.len();
        head += "Content-Type: application/json\r\n";
        head.extend(["Content-Length: ", &length.to_string(), "\r\n"]);
    }
    format!("{head}\r\n{body}").into_bytes()
}
