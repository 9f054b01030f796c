//! Whether a redis answers: one client for both sides.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, TcpStream},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

const PAUSE: Duration = Duration::from_millis(1);
const PATIENCE: Duration = Duration::from_mins(1);

/// Logs in and pings on the published port until the answer is PONG: how often it had to ask.
///
/// docker-proxy accepts connections before redis does, so only the answer counts.
pub(crate) fn wait(port: u16, password: &str) -> Result<usize> {
    let end = Instant::now() + PATIENCE;
    for attempts in 1.. {
        if answers(port, password) {
            return Ok(attempts);
        }
        if Instant::now() > end {
            break;
        }
        sleep(PAUSE);
    }
    bail!("redis on port {port} does not answer")
}

pub(crate) fn answers(port: u16, password: &str) -> bool {
    let ping = || -> std::io::Result<bool> {
        const WANTED: &[u8] = b"+OK\r\n+PONG\r\n";
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
        stream.set_nodelay(true)?;
        stream.write_all(format!("AUTH {password}\r\nPING\r\n").as_bytes())?;
        let mut answer = [0; WANTED.len()];
        stream.read_exact(&mut answer)?;
        Ok(answer == WANTED)
    };
    ping().unwrap_or(false)
}
