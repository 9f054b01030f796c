//! The protocol of PostgreSQL: a login with SCRAM-SHA-256, and simple queries.

use base64::{Engine, prelude::BASE64_STANDARD};
use sha2::{Digest, Sha256};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{
    Denied, Login,
    digest::{hmac, pbkdf2},
};

pub(crate) struct Postgres(TcpStream);

fn wrong(what: &str) -> Denied {
    Denied::Away(format!("not understood: {what}"))
}

impl Postgres {
    pub(super) async fn open(login: &Login) -> Result<Self, Denied> {
        let mut postgres = Self(TcpStream::connect(&login.address).await?);
        let mut body = 196_608_u32.to_be_bytes().to_vec();
        for text in ["user", &login.username, "database", &login.dbname, ""] {
            body.extend(text.as_bytes());
            body.push(0);
        }
        let length = u32::try_from(body.len() + 4).expect("a short message");
        postgres.0.write_all(&[&length.to_be_bytes()[..], &body].concat()).await?;
        postgres.log_in(&login.password).await?;
        Ok(postgres)
    }

    async fn log_in(&mut self, password: &str) -> Result<(), Denied> {
        let bare = format!("n=,r={:016x}", rand::random::<u64>());
        loop {
            let (kind, body) = self.receive().await?;
            let step = body.first_chunk().map(|bytes| u32::from_be_bytes(*bytes));
            match (kind, step) {
                (b'R', Some(10)) => {
                    let first = format!("n,,{bare}");
                    let length = u32::try_from(first.len()).expect("a short message");
                    let parts =
                        [b"SCRAM-SHA-256\0", &length.to_be_bytes()[..], first.as_bytes()].concat();
                    self.send(b'p', &parts).await?;
                }
                (b'R', Some(11)) => {
                    let server = String::from_utf8_lossy(&body[4..]).into_owned();
                    let last = proof(password, &bare, &server).ok_or_else(|| wrong(&server))?;
                    self.send(b'p', last.as_bytes()).await?;
                }
                (b'Z', _) => return Ok(()),
                _ => {}
            }
        }
    }

    /// First column of the rows.
    pub(super) async fn query(&mut self, sql: &str) -> Result<Vec<String>, Denied> {
        self.send(b'Q', format!("{sql}\0").as_bytes()).await?;
        let mut rows = Vec::new();
        loop {
            let (kind, body) = self.receive().await?;
            match kind {
                b'D' => {
                    let column = body.get(6..).unwrap_or_default();
                    rows.push(String::from_utf8_lossy(column).into_owned());
                }
                b'Z' => return Ok(rows),
                _ => {}
            }
        }
    }

    async fn send(&mut self, kind: u8, body: &[u8]) -> Result<(), Denied> {
        let length = u32::try_from(body.len() + 4).expect("a short message");
        Ok(self.0.write_all(&[&[kind][..], &length.to_be_bytes(), body].concat()).await?)
    }

    /// The next message; one that says an error is one.
    async fn receive(&mut self) -> Result<(u8, Vec<u8>), Denied> {
        let kind = self.0.read_u8().await?;
        let length = usize::try_from(self.0.read_u32().await?).expect("a length");
        let mut body = vec![0; length.checked_sub(4).ok_or_else(|| wrong("a length"))?];
        self.0.read_exact(&mut body).await?;
        if kind != b'E' {
            return Ok((kind, body));
        }
        let text = String::from_utf8_lossy(&body).replace('\0', " ");
        // invalid_password, invalid_authorization_specification
        let refused = text.contains("C28P01") || text.contains("C28000");
        Err(if refused { Denied::Refused(text) } else { Denied::Away(text) })
    }
}

/// RFC 5802: the client's last word.
fn proof(password: &str, bare: &str, server: &str) -> Option<String> {
    let part =
        |key: char| server.split(',').find_map(|part| part.strip_prefix(key)?.strip_prefix('='));
    let salt = BASE64_STANDARD.decode(part('s')?).ok()?;
    let salted = pbkdf2(password.as_bytes(), &salt, part('i')?.parse().ok()?);
    let key = hmac(&salted, b"Client Key");
    let without = format!("c=biws,r={}", part('r')?);
    let message = format!("{bare},{server},{without}");
    let signature = hmac(&Sha256::digest(key), message.as_bytes());
    let proof: Vec<u8> = key.iter().zip(signature).map(|(key, byte)| key ^ byte).collect();
    Some(format!("{without},p={}", BASE64_STANDARD.encode(proof)))
}
