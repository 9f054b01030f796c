//! The protocol of redis, as far as it is needed here.

use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
};

use super::{Denied, Login};

pub(crate) struct Redis(BufReader<TcpStream>);

impl Redis {
    pub(super) async fn open(login: &Login) -> Result<Self, Denied> {
        let mut redis = Self(BufReader::new(TcpStream::connect(&login.address).await?));
        let answer = redis.ask(&format!("AUTH {} {}", login.username, login.password)).await?;
        match answer.as_str() {
            "+OK" => Ok(redis),
            refusal if refusal.starts_with("-WRONGPASS") => {
                Err(Denied::Refused(refusal.to_owned()))
            }
            other => Err(Denied::Away(other.to_owned())),
        }
    }

    /// A command that answers with a word or a number.
    pub(super) async fn run(&mut self, command: &str) -> Result<(), Denied> {
        let answer = self.ask(command).await?;
        if answer.starts_with(['+', ':']) { Ok(()) } else { Err(Denied::Away(answer)) }
    }

    pub(super) async fn members(&mut self, set: &str) -> Result<Vec<String>, Denied> {
        let head = self.ask(&format!("SMEMBERS {set}")).await?;
        let count = head.strip_prefix('*').and_then(|count| count.parse::<usize>().ok());
        let count = count.ok_or(Denied::Away(head))?;
        let mut members = Vec::with_capacity(count);
        for _ in 0..count {
            self.line().await?; // its length
            members.push(self.line().await?);
        }
        Ok(members)
    }

    async fn ask(&mut self, command: &str) -> Result<String, Denied> {
        self.0.write_all(format!("{command}\r\n").as_bytes()).await?;
        self.line().await
    }

    async fn line(&mut self) -> Result<String, Denied> {
        let mut text = String::new();
        if self.0.read_line(&mut text).await? == 0 {
            return Err(Denied::Away("the connection was closed".to_owned()));
        }
        Ok(text.trim_end().to_owned())
    }
}
