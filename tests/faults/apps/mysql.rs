//! The protocol of MySQL and MariaDB: a login with mysql_native_password, and text queries.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{Denied, Login, digest::sha1};

pub(crate) struct Mysql(TcpStream);

const PLUGIN: &[u8] = b"mysql_native_password\0";
/// Long password, with a database, protocol 4.1, secure connection, plugins.
const CAPABILITIES: u32 = 0x1 | 0x8 | 0x200 | 0x8000 | 0x8_0000;

fn wrong(what: &str) -> Denied {
    Denied::Away(format!("not understood: {what}"))
}

impl Mysql {
    pub(super) async fn open(login: &Login) -> Result<Self, Denied> {
        let mut mysql = Self(TcpStream::connect(&login.address).await?);
        let (_, hello) = mysql.receive().await?;
        let challenge = challenge(&hello).ok_or_else(|| wrong("the greeting"))?;
        let mut answer = CAPABILITIES.to_le_bytes().to_vec();
        answer.extend((1_u32 << 24).to_le_bytes());
        answer.push(45);
        answer.extend([0; 23]);
        answer.extend(login.username.as_bytes());
        answer.extend([0, 20]);
        answer.extend(scramble(&login.password, &challenge));
        answer.extend(login.dbname.as_bytes());
        answer.push(0);
        answer.extend(PLUGIN);
        mysql.send(1, &answer).await?;
        let (number, reply) = mysql.receive().await?;
        if reply.first() == Some(&0xfe) {
            let data = reply.strip_prefix(b"\xfe").and_then(|rest| rest.strip_prefix(PLUGIN));
            let data = data.ok_or_else(|| wrong("another way to log in"))?;
            let answer = scramble(&login.password, data.strip_suffix(&[0]).unwrap_or(data));
            mysql.send(number + 1, &answer).await?;
            mysql.receive().await?;
        }
        Ok(mysql)
    }

    /// First column of the rows.
    pub(super) async fn query(&mut self, sql: &str) -> Result<Vec<String>, Denied> {
        self.send(0, &[b"\x03", sql.as_bytes()].concat()).await?;
        let (_, head) = self.receive().await?;
        let mut rows = Vec::new();
        if head.first() == Some(&0) {
            return Ok(rows);
        }
        let mut ends = 0;
        while ends < 2 {
            let (_, body) = self.receive().await?;
            if body.first() == Some(&0xfe) && body.len() < 9 {
                ends += 1;
            } else if ends == 1 {
                let length = usize::from(*body.first().ok_or_else(|| wrong("a row"))?);
                let text = body.get(1..=length).ok_or_else(|| wrong("a row"))?;
                rows.push(String::from_utf8_lossy(text).into_owned());
            }
        }
        Ok(rows)
    }

    async fn send(&mut self, number: u8, body: &[u8]) -> Result<(), Denied> {
        let length = u32::try_from(body.len()).expect("a short packet").to_le_bytes();
        Ok(self.0.write_all(&[&length[..3], &[number], body].concat()).await?)
    }

    /// The next packet and its number; one that says an error is one.
    async fn receive(&mut self) -> Result<(u8, Vec<u8>), Denied> {
        let mut head = [0; 4];
        self.0.read_exact(&mut head).await?;
        let [one, two, three, number] = head;
        let length = u32::from_le_bytes([one, two, three, 0]);
        let mut body = vec![0; usize::try_from(length).expect("a length")];
        self.0.read_exact(&mut body).await?;
        let Some([0xff, low, high]) = body.first_chunk() else {
            return Ok((number, body));
        };
        let code = u16::from_le_bytes([*low, *high]);
        let text = format!("{code} {}", String::from_utf8_lossy(&body[3..]));
        // Access denied (to the database), account locked.
        let refused = [1044, 1045, 4151].contains(&code);
        Err(if refused { Denied::Refused(text) } else { Denied::Away(text) })
    }
}

/// The twenty bytes out of the server's greeting.
fn challenge(hello: &[u8]) -> Option<Vec<u8>> {
    let version = hello.iter().skip(1).position(|byte| *byte == 0)? + 2;
    let rest = hello.get(version + 4..)?;
    Some([rest.get(..8)?, rest.get(27..39)?].concat())
}

fn scramble(password: &str, challenge: &[u8]) -> Vec<u8> {
    let once = sha1(password.as_bytes());
    let mask = sha1(&[challenge, &sha1(&once)[..]].concat());
    once.iter().zip(mask).map(|(once, mask)| once ^ mask).collect()
}
